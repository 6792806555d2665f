"""The layers S4 and S4D, and a network of them."""

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from ssm_core.optim import parameter_groups
from ssm_core.s4 import S4, S4D, Block, SequenceModel, dplr

LAYERS = {
    **{
        f"S4 {m}": lambda m=m, **more: S4(3, 16, m, **more)
        for m in ("legs", "legt", "lagt", "glagt", "fout")
    },
    **{
        f"S4D {i} {r}": lambda i=i, r=r, **more: S4D(3, 16, i, discretization=r, **more)
        for i in ("lin", "inv", "legs", "real")
        for r in ("zoh", "bilinear")
    },
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
one_of_each = pytest.mark.parametrize(
    "make", [LAYERS["S4 legs"], LAYERS["S4D lin zoh"]], ids=["S4", "S4D"]
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def stepped(layer, u, state=None):
    """The outputs and the last state of one step after another."""
    stepper = layer.stepper()
    state = stepper.default_state(len(u)) if state is None else state
    ys = []
    for sample in u.unbind(1):
        y, state = stepper.step(sample, state)
        ys.append(y)
    return torch.stack(ys, dim=1), state


def relative(x, y):
    return ((x - y).abs().max() / y.abs().max()).item()


@every_layer
def test_convolution_is_recurrence_in_float64(make):
    layer = make().double()
    u = torch.randn(2, 100, 3, dtype=torch.float64)
    y, state = layer(u, return_state=True)
    z, last = stepped(layer, u)
    assert relative(z, y) < 1e-9
    assert relative(last, state) < 1e-12


@every_layer
def test_convolution_is_recurrence_in_float32(make):
    """Rounding a state errs at random, so 4096 steps lose little more than one digit."""
    layer = make()
    u = torch.randn(1, 4096, 3)
    y, state = layer(u, return_state=True)
    z, last = stepped(layer, u)
    assert relative(z, y) < 2e-6
    assert relative(last, state) < 4e-6


def test_starts_as_the_hippo_matrix():
    layer = S4(1, 8).double()
    Lambda, P, B = (torch.as_tensor(x) for x in dplr("legs", 8)[:3])
    system = layer._system()
    torch.testing.assert_close(system.Lambda[0], Lambda[:4], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(system.P[0, 0], P[:4], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(system.B[0], B[:4], rtol=1e-6, atol=1e-6)


@one_of_each
@pytest.mark.parametrize("cuts", [(1,), (40,), (7, 8, 99)])
def test_a_signal_in_pieces(make, cuts):
    layer = make().double()
    u = torch.randn(2, 100, 3, dtype=torch.float64)
    whole, last = layer(u, return_state=True)
    pieces, state = [], None
    for piece in torch.tensor_split(u, cuts, dim=1):
        y, state = layer(piece, state, return_state=True)
        pieces.append(y)
    assert relative(torch.cat(pieces, dim=1), whole) < 1e-9
    assert relative(state, last) < 1e-12
    z, _ = stepped(layer, u[:, 90:], layer(u[:, :90], return_state=True)[1])
    assert relative(z, whole[:, 90:]) < 1e-9


@one_of_each
def test_output_is_the_convolution_with_the_kernel(make):
    layer = make().double()
    u = torch.randn(1, 50, 3, dtype=torch.float64)
    K = layer.kernel(50)
    assert K.shape == (3, 50)
    y = layer(u)
    for h in range(3):
        want = np.convolve(u[0, :, h], K[h].detach())[:50] + layer.D[h].item() * u[0, :, h].numpy()
        np.testing.assert_allclose(
            y[0, :, h].detach(), want, rtol=0, atol=1e-12 * np.abs(want).max()
        )


@one_of_each
def test_bidirectional(make):
    layer = make(bidirectional=True).double()
    u = torch.randn(1, 20, 3, dtype=torch.float64)
    past, future = layer.kernel(20).detach().numpy()
    y = layer(u)
    for h in range(3):
        signal = u[0, :, h].numpy()
        want = [
            layer.D[h].item() * signal[t]
            + sum(past[h, j] * signal[t - j] for j in range(t + 1))
            + sum(future[h, j] * signal[t + j] for j in range(1, 20 - t))
            for t in range(20)
        ]
        np.testing.assert_allclose(
            y[0, :, h].detach(), want, rtol=0, atol=1e-12 * np.abs(want).max()
        )
    with pytest.raises(ValueError, match="sees the future"):
        layer.step(u[:, 0], layer.default_state(1))
    with pytest.raises(ValueError, match="sees the future"):
        layer(u, layer.default_state(1))
    with pytest.raises(ValueError, match="sees the future"):
        layer(u, return_state=True)
    with pytest.raises(ValueError, match="sees the future"):
        layer.stepper()


@one_of_each
def test_no_output_sees_a_later_input(make):
    layer = make()
    u = torch.randn(1, 64, 3, requires_grad=True)
    layer(u)[0, 30].sum().backward()
    assert not u.grad[0, 31:].abs().max() > 1e-5 * u.grad.abs().max()


@one_of_each
def test_every_parameter_learns(make):
    layer = make()
    y, state = layer(torch.randn(2, 30, 3), return_state=True)
    (y.square().sum() + state.abs().square().sum()).backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_gradient_through_the_state_alone():
    """Truncated backpropagation: what happens before hands its gradient over with the state."""
    layer = S4D(3, 8).double()
    u = torch.randn(1, 40, 3, dtype=torch.float64, requires_grad=True)
    layer(u)[:, 25:].sum().backward()
    whole, u.grad = u.grad, None
    _, state = layer(u[:, :25], return_state=True)
    layer(u[:, 25:], state).sum().backward()
    torch.testing.assert_close(u.grad, whole, rtol=1e-10, atol=1e-12)


@one_of_each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(make, dtype):
    layer = make()
    u = torch.randn(2, 300, 3)
    exact = layer(u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(u.to(dtype))
    assert y.dtype == dtype
    assert relative(y.float(), exact) < 1e-2
    assert relative(layer(u.to(dtype)).float(), exact) < 1e-2


@one_of_each
def test_compiles_without_a_graph_break(make):
    layer = make()
    u = torch.randn(2, 30, 3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for got, want in zip(compiled(u, return_state=True), layer(u, return_state=True)):
        torch.testing.assert_close(got, want)
    compiled(u).sum().backward()
    assert layer.log_dt.grad.abs().max() > 0


@one_of_each
@pytest.mark.parametrize("more", [{}, {"bidirectional": True}], ids=["", "bidirectional"])
def test_compiled_gradients(make, more):
    """Also that no complex tensor would have to be copied: Inductor cannot do that on a GPU."""
    layer, u = make(**more), torch.randn(2, 30, 3)
    layer(u).square().sum().backward()
    want = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    backend = aot_autograd(fw_compiler=_no_copy_of_complex_numbers)
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    compiled(u).square().sum().backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(p.grad, want[name], msg=name)


def _no_copy_of_complex_numbers(graph, _):
    """Operators of ours and the world outside get complex tensors in the layout they expect."""
    for node in graph.graph.nodes:
        if node.op == "output" or "ssm_core" in str(node.target):
            for x in (given.meta["val"] for given in node.all_input_nodes):
                if isinstance(x, torch.Tensor) and x.is_complex():
                    assert x.stride() == torch.empty(x.shape, device="meta").stride(), node
    return make_boxed_func(graph)


@one_of_each
def test_no_part_of_size_states_times_length_is_kept(make):
    layer = make()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        layer(torch.randn(1, 10_000, 3))
    assert max(kept) < 2 * 3 * 10_000 * 2  # spectra and signals; states times length is 240,000 x 3


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: S4(4, 7), ValueError, "d_state is 7"),
        (lambda: S4(0), ValueError, "d_model is 0"),
        (lambda: S4(4, 8, "chebt"), ValueError, "measure"),
        (lambda: S4D(4, 8, "line"), ValueError, "init"),
        (lambda: S4D(4, 8, discretization="foh"), ValueError, "discretization"),
        (lambda: S4D(4, 8, dt_min=0.0), ValueError, "dt_min"),
        (lambda: S4D(4, 8, dt_min=0.1, dt_max=0.01), ValueError, "at most dt_max"),
        (lambda: S4D(4, 8, bidirectional="no"), TypeError, "bidirectional"),
        (lambda: S4D(4)(torch.zeros(2, 5, 3)), ValueError, r"u has shape \(2, 5, 3\)"),
        (lambda: S4D(4)(torch.zeros(2, 0, 4)), ValueError, r"u has shape \(2, 0, 4\)"),
        (lambda: S4D(4)(torch.zeros(2, 5, 4, dtype=torch.int64)), TypeError, "u has dtype int64"),
        (
            lambda: S4D(4, 8)(torch.zeros(2, 5, 4), torch.zeros(2, 4, 8)),
            TypeError,
            "state has dtype float32",
        ),
        (
            lambda: S4D(4, 8)(torch.zeros(2, 5, 4), S4D(4, 6).default_state(2)),
            ValueError,
            "state has",
        ),
        (lambda: S4D(4, 8).step(torch.zeros(2, 5, 4), None), ValueError, "u has shape"),
        (lambda: S4D(4, 8).step(torch.zeros(2, 4), None), TypeError, "state is None"),
        (lambda: S4D(4, 8).kernel(0), ValueError, "L is 0"),
        (lambda: S4D(4, 8).kernel(1.5), TypeError, "L is 1.5"),
        (lambda: S4D(4, 8).default_state(0), ValueError, "batch_size is 0"),
        (
            lambda: S4D(4, 8)(torch.zeros(2, 5, 4, dtype=torch.complex64)),
            TypeError,
            "u has dtype complex64",
        ),
        (lambda: S4D(4, 8)(torch.zeros(2, 5, 4, device="meta")), ValueError, "u is on meta"),
        (
            lambda: S4D(4, 8)(torch.zeros(2, 5, 4), S4D(4, 8, device="meta").default_state(2)),
            ValueError,
            "state is on meta",
        ),
        (lambda: S4D(4, 8)([[0.0] * 4]), TypeError, "u is a list"),
        (lambda: S4D(4, 8).stepper().step(torch.zeros(2, 4), None), TypeError, "state is None"),
        (lambda: S4D(4, 8).stepper().step(torch.zeros(4), None), ValueError, "u has shape"),
        (lambda: S4(4, 8, dtype=torch.int32), TypeError, "dtype is int32"),
        (lambda: S4(4, 8, dtype="float32"), TypeError, "dtype is 'float32'"),
        (lambda: S4(4, 8, 3), TypeError, "measure is 3"),
        (lambda: S4D(4, 2.0), TypeError, "d_state is 2.0"),
        (
            lambda: SequenceModel(2, 1, d_model=4, n_layers=2)(torch.zeros(1, 5, 3)),
            ValueError,
            "u has shape",
        ),
        (
            lambda: SequenceModel(2, 1, d_model=4, n_layers=2)(torch.zeros(1, 5, 2), [None]),
            ValueError,
            "states has length 1, expected one state per block, 2",
        ),
        (
            lambda: SequenceModel(2, 1, d_model=4, n_layers=2).step(torch.zeros(1, 2), []),
            ValueError,
            "states has length 0",
        ),
        (
            lambda: SequenceModel(2, 1, d_model=4, n_layers=2).step(
                torch.zeros(1, 2), torch.zeros(2)
            ),
            TypeError,
            "states is a Tensor",
        ),
        (lambda: SequenceModel(1, 1, d_model=4, pool=True).stepper(), ValueError, "pools"),
        (lambda: SequenceModel(1, 1, dropout=2.0), ValueError, "dropout"),
        (
            lambda: SequenceModel(1, 1, d_model=4, pool=True).step(torch.zeros(1, 1), []),
            ValueError,
            "pools",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("ssm", [lambda d: S4(d, 8), lambda d: S4D(d, 8)], ids=["S4", "S4D"])
def test_network_steps_as_it_trains(ssm):
    model = SequenceModel(2, 5, d_model=6, n_layers=3, ssm=ssm).double().eval()
    u = torch.randn(2, 40, 2, dtype=torch.float64)
    y, states = model(u, return_state=True)
    assert y.shape == (2, 40, 5)
    for stepper in (model, model.stepper()):
        after = stepper.default_state(2)
        for t in range(40):
            z, after = stepper.step(u[:, t], after)
            assert relative(z, y[:, t]) < 1e-8
    for x, want in zip(after, states):
        assert relative(x, want) < 1e-8
    first, states = model(u[:, :15], return_state=True)
    rest = model(u[:, 15:], states)
    assert relative(torch.cat([first, rest], dim=1), y) < 1e-8


def test_dropout_takes_channels_for_whole_sequences():
    """The residual branch of a block, seen through an SSM and a mix that change nothing."""
    block = Block(S4D(50, 4), dropout=0.25)
    block.norm = block.mix[0] = block.mix[2] = block.mix[3] = torch.nn.Identity()
    block.ssm.forward = lambda u: u
    u = torch.ones(400, 7, 50)
    kept = block(u) - u
    assert torch.equal(kept, kept[:, :1].expand_as(kept))  # the same at each sample
    values, counts = kept[:, 0].unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0, 1 / 0.75**2]))
    assert abs(counts[1] / 20_000 - 0.75**2) < 6 * (0.25 / 20_000) ** 0.5  # six deviations
    assert torch.equal(block.eval()(u), 2 * u)


def test_network_classifies():
    """Which of two frequencies a noisy wave has: learned in a few steps, better than by chance."""
    model = SequenceModel(1, 2, d_model=16, n_layers=2, ssm=lambda d: S4D(d, 16), pool=True)
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=0.01))
    t = torch.arange(64.0)

    def batch(size):
        label = torch.randint(2, (size,))
        wave = torch.sin((0.5 + 0.2 * label)[:, None] * t + 6.3 * torch.rand(size, 1))
        return (wave + 0.5 * torch.randn(size, 64))[..., None], label

    for _ in range(25):
        u, label = batch(64)
        loss = torch.nn.functional.cross_entropy(model(u), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    u, label = batch(500)
    assert (model.eval()(u).argmax(-1) == label).float().mean() > 0.95
