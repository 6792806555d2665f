"""Networks of any layer: ragged batches, directions, tokens, states, the protocol of a layer."""

import pickle

import pytest
import torch
from torch import nn

import ssm_core.s4
from ssm_core.mamba import Mamba, Mamba2
from ssm_core.network import Block, SequenceModel
from ssm_core.network.layout import Layout, Packed, Padded
from ssm_core.s4 import S4, S4D

LAYERS = [S4, S4D, Mamba, Mamba2]
every_layer = pytest.mark.parametrize("ssm", LAYERS)
LENGTHS = [9, 1, 20, 13]
BOUNDS = torch.tensor([0, 9, 10, 30, 43], dtype=torch.int32)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network(ssm=S4D, **more):
    ssm_cfg = {"d_state": 4, **({"headdim": 4, "ngroups": 2} if ssm is Mamba2 else {})}
    options = {"d_model": 8, "n_layers": 2, "ssm_cfg": ssm_cfg, **more}
    return SequenceModel(3, 5, ssm=ssm, **options).double()


def ragged():
    """A padded batch with rubbish behind the ends, its steps, and the sequences themselves."""
    u, dt = torch.randn(4, 20, 3).double(), 2 * torch.rand(4, 20).double()
    singles = [(u[i : i + 1, :n].clone(), dt[i : i + 1, :n].clone()) for i, n in enumerate(LENGTHS)]
    for i, n in enumerate(LENGTHS):
        u[i, n:], dt[i, n:] = torch.nan, -7
    return u, dt, singles


@every_layer
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_a_ragged_batch_is_its_sequences_one_by_one(ssm, bidirectional, pool):
    model, (u, dt, singles) = network(ssm, bidirectional=bidirectional, pool=pool), ragged()
    uneven = ssm is S4D
    padded = model(u, lengths=LENGTHS, dt=dt if uneven else None)
    row, steps = (torch.cat(parts, dim=1) for parts in zip(*singles))
    packed = model(row, cu_seqlens=BOUNDS, dt=steps if uneven else None)
    for i, (sequence, steps) in enumerate(singles):
        want = model(sequence, dt=steps if uneven else None)[0]
        n = len(sequence[0])
        got = padded[i] if pool else padded[i, :n]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
        got = packed[i] if pool else packed[0, BOUNDS[i] : BOUNDS[i] + n]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)
        assert pool or (padded[i, n:] == 0).all()


def test_padding_has_no_gradient():
    model, (u, _, _) = network(Mamba, bidirectional=True), ragged()
    u.requires_grad_()
    model(u, lengths=torch.tensor(LENGTHS)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    for i, n in enumerate(LENGTHS):
        assert (u.grad[i, n:] == 0).all() and (u.grad[i, :n] != 0).any()


@pytest.mark.parametrize("layout", ["rows", "padded", "packed"])
def test_turning_twice_is_nothing(layout):
    x = torch.arange(43.0)[None] if layout == "packed" else torch.arange(80.0).reshape(4, 20)
    packing = ssm_core.s4.layer.as_packing(BOUNDS, 1, 43, "x", x.device)
    layout = {
        "rows": Layout(),
        "padded": Padded(torch.tensor(LENGTHS), 20),
        "packed": Packed(packing),
    }[layout]
    assert not torch.equal(layout.turned(x), x)
    assert torch.equal(layout.turned(layout.turned(x)), x)
    assert torch.equal(layout.turned_steps(layout.turned_steps(x)), x)


def test_a_sequence_and_its_times_turned_round():
    """The layer that reads from the end sees the intervals of the signal that runs backwards."""
    times = torch.tensor([[0.0, 1.0, 3.0, 7.0]])
    dt = times.diff(dim=1, prepend=times[:, :1] - 1)  # 1 1 2 4
    backwards = -times.flip(1)
    want = backwards.diff(dim=1, prepend=backwards[:, :1] - 1)
    assert torch.equal(Layout().turned_steps(dt), want)


@every_layer
def test_both_directions(ssm):
    """The last outputs see the first inputs and the other way round; one way they do not."""
    for bidirectional in (False, True):
        model = network(ssm, bidirectional=bidirectional)
        u = torch.randn(1, 15, 3, dtype=torch.float64, requires_grad=True)
        model(u)[0, 7].sum().backward()
        scale = u.grad.abs().max()
        assert (u.grad[0, 0] != 0).any()
        assert (u.grad[0, 14].abs().max() > 1e-10 * scale) == bidirectional


@every_layer
def test_pieces_and_steps(ssm):
    model, u = network(ssm).eval(), torch.randn(2, 30, 3, dtype=torch.float64)
    y, last = model(u, return_state=True)
    first, states = model(u[:, :11], return_state=True)
    copies = [x.clone() for x in flat(states)]
    rest, after = model(u[:, 11:], states, return_state=True)
    model(u[:, 11:], states)
    for x, kept in zip(flat(states), copies):
        assert torch.equal(x, kept)  # no call changes the states that it is given
    torch.testing.assert_close(torch.cat([first, rest], 1), y, rtol=0, atol=1e-8)
    for x, want in zip(flat(after), flat(last)):
        torch.testing.assert_close(x, want, rtol=0, atol=1e-8)
    for stepper in (model, model.stepper(), pickle.loads(pickle.dumps(model.stepper()))):
        state = stepper.default_state(2)
        for t in range(6):
            z, state = stepper.step(u[:, t], state)
            torch.testing.assert_close(z, y[:, t], rtol=0, atol=1e-8)


def flat(states):
    return [x for state in states for x in ([state] if isinstance(state, torch.Tensor) else state)]


@every_layer
def test_gradients_flow_through_states(ssm):
    model, u = network(ssm), torch.randn(1, 12, 3, dtype=torch.float64, requires_grad=True)
    model(u)[:, 8:].sum().backward()
    want, u.grad = u.grad, None
    _, states = model(u[:, :8], return_state=True)
    model(u[:, 8:], states).sum().backward()
    torch.testing.assert_close(u.grad, want, rtol=0, atol=1e-9)


@every_layer
def test_states_of_packed_sequences(ssm):
    model, (_, _, singles) = network(ssm), ragged()
    row = torch.cat([sequence for sequence, _ in singles], dim=1)
    _, states = model(row, cu_seqlens=BOUNDS, return_state=True)
    for i, (sequence, _) in enumerate(singles):
        _, want = model(sequence, return_state=True)
        for x, right in zip(flat(states), flat(want)):
            torch.testing.assert_close(x[i], right[0], rtol=0, atol=1e-8)


@every_layer
@pytest.mark.parametrize("pool", [False, True])
def test_states_of_padded_sequences(ssm, pool):
    model, (u, dt, singles) = network(ssm, pool=pool), ragged()
    dt = dt if ssm is S4D else None
    y, states = model(u, lengths=LENGTHS, dt=dt, return_state=True)
    torch.testing.assert_close(y, model(u, lengths=LENGTHS, dt=dt), rtol=0, atol=1e-8)
    _, states = model(u, states, lengths=LENGTHS, dt=dt, return_state=True)
    for i, (sequence, steps) in enumerate(singles):
        twice = torch.cat([sequence, sequence], dim=1)
        times = None if dt is None else torch.cat([steps, steps], dim=1)
        _, want = model(twice, dt=times, return_state=True)
        for x, right in zip(flat(states), flat(want)):
            torch.testing.assert_close(x[i], right[0], rtol=0, atol=1e-8)


def test_uneven_steps():
    model, (u, dt) = network(), (torch.randn(2, 9, 3).double(), torch.rand(2, 9).double())
    y = model(u, dt=dt)
    for stepper in (model, model.stepper(), pickle.loads(pickle.dumps(model.stepper()))):
        states = stepper.default_state(2)
        for t in range(9):
            z, states = stepper.step(u[:, t], states, dt=dt[:, t])
            torch.testing.assert_close(z, y[:, t])
    torch.testing.assert_close(model(u, dt=torch.ones(2, 9)), model(u))


def test_a_stepper_with_times_is_the_model_as_it_was():
    model, u, dt = network(dropout=0.5).train(), torch.randn(2, 9, 3).double(), torch.rand(2, 9)
    y, last = model.eval()(u, dt=dt.double(), return_state=True)
    stepper = model.train().stepper()
    for parameter in model.parameters():
        parameter.data.zero_()
    states = stepper.default_state(2)
    for t in range(9):
        z, states = stepper.step(u[:, t], states, dt[:, t])
        torch.testing.assert_close(z, y[:, t], rtol=0, atol=1e-6)
    assert not z.requires_grad
    for x, want in zip(states, last):
        torch.testing.assert_close(x, want, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        stepper.step(u[:, 0], states)[0], stepper.step(u[:, 0], states, torch.ones(2))[0]
    )


@pytest.mark.parametrize("ssm", [S4, Mamba])
def test_a_stepper_refuses_times_that_its_layers_do_not_take(ssm):
    stepper = network(ssm).stepper()
    with pytest.raises(ValueError, match=rf"{ssm.__name__}.forward takes no argument dt"):
        stepper.step(torch.zeros(2, 3).double(), stepper.default_state(2), torch.ones(2))


@pytest.mark.parametrize(
    "dt, message",
    [
        (torch.ones(3), r"dt has shape \(3,\)"),
        (torch.ones(2, 1), r"dt has shape \(2, 1\)"),
        (-torch.ones(2), "dt holds -1"),
    ],
)
def test_a_stepper_refuses_times_that_are_wrong(dt, message):
    stepper = network().stepper()
    with pytest.raises(ValueError, match=message):
        stepper.step(torch.zeros(2, 3).double(), stepper.default_state(2), dt)


@every_layer
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_tokens(ssm, dtype):
    model = SequenceModel(6, 6, d_model=32, n_layers=1, ssm=ssm, tokens=True).eval()
    tokens = torch.randint(6, (2, 10))
    y = model(tokens.to(dtype))
    assert y.shape == (2, 10, 6)
    hot = SequenceModel(6, 6, d_model=32, n_layers=1, ssm=ssm).eval()
    weights = model.state_dict()
    weights["encoder.weight"] = weights["encoder.weight"].T.clone()
    hot.load_state_dict({**weights, "encoder.bias": torch.zeros(32)})
    torch.testing.assert_close(hot(nn.functional.one_hot(tokens, 6).float()), y)
    stepper = model.stepper()
    z, _ = stepper.step(tokens[:, 0].to(dtype), stepper.default_state(2))
    torch.testing.assert_close(z, y[:, 0], rtol=1e-4, atol=1e-4)
    tokens[0, 7:] = -100
    torch.testing.assert_close(model(tokens, lengths=[7, 10])[0, :7], y[0, :7])


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(ssm, dtype):
    model = network(ssm, pool=True).float().to(dtype)
    y = model(torch.randn(4, 20, 3, dtype=dtype), lengths=LENGTHS)
    assert y.dtype == dtype and y.isfinite().all()


def test_names_of_before():
    for name in ("Block", "ModelStepper", "SequenceModel"):
        assert getattr(ssm_core.s4, name) is getattr(ssm_core.network, name)
    with pytest.raises(AttributeError, match="no attribute 'Sequence'"):
        _ = ssm_core.s4.Sequence


# --- what a layer must provide --------------------------------------------------------------------


class Average(nn.Module):
    """The least that a layer can be."""

    def __init__(self, d_model):
        super().__init__()
        self.d_model = d_model
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, u):
        return self.weight * u.cumsum(1) / torch.arange(1, u.shape[1] + 1)[:, None]


class Streaming(Average):
    """The same, sample after sample as well."""

    def forward(self, u, state=None, *, return_state=False):
        total, count = self.default_state(len(u)) if state is None else state
        sums = total[:, None] + u.cumsum(1)
        counts = count[:, None] + torch.arange(1, u.shape[1] + 1)
        y = self.weight * sums / counts[..., None]
        return (y, (sums[:, -1], counts[:, -1])) if return_state else y

    def default_state(self, batch_size):
        return torch.zeros(batch_size, self.d_model), torch.zeros(batch_size)


def test_a_layer_of_your_own():
    model = SequenceModel(3, 2, d_model=4, n_layers=1, ssm=Average)
    u = torch.randn(2, 9, 3)
    y = model(u)
    torch.testing.assert_close(model(u, lengths=[4, 9])[0, :4], y[0, :4])
    assert SequenceModel(3, 2, d_model=4, ssm=Average, bidirectional=True)(u).shape == (2, 9, 2)
    for call, name in (
        (lambda: model(u, return_state=True), "return_state"),
        (lambda: model(u[:1], cu_seqlens=torch.tensor([0, 9], dtype=torch.int32)), "cu_seqlens"),
        (lambda: model(u, dt=torch.ones(2, 9)), "dt"),
    ):
        with pytest.raises(ValueError, match=rf"Average.forward takes no argument {name}"):
            call()
    model = SequenceModel(3, 2, d_model=4, n_layers=2, ssm=Streaming)
    y, stepper = model(u), model.stepper()
    states = stepper.default_state(2)
    for t in range(9):
        z, states = stepper.step(u[:, t], states)
        torch.testing.assert_close(z, y[:, t])


class Tuple(Average):
    def forward(self, u):
        return super().forward(u), None


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: SequenceModel(1, 1, d_model=4, ssm=lambda d: nn.GRU(d, d)),
            TypeError,
            r"ssm is a GRU without d_model, expected a layer with d_model and forward\(u, state=None",
        ),
        (lambda: SequenceModel(1, 1, ssm="S4D"), TypeError, "ssm is a str"),
        (lambda: SequenceModel(1, 1, ssm=lambda d: "layer"), TypeError, "ssm makes a str"),
        (
            lambda: SequenceModel(1, 1, d_model=4, ssm=lambda d: S4D(8)),
            ValueError,
            "ssm makes a layer with d_model 8, expected 4",
        ),
        (lambda: SequenceModel(1, 1, ssm_cfg=[8]), TypeError, "ssm_cfg is a list"),
        (lambda: SequenceModel(1, 1, pool="yes"), TypeError, "pool is 'yes'"),
        (lambda: Block(4), TypeError, "ssm is a int"),
        (lambda: Block(S4D(4), reverse=S4D(6)), ValueError, "reverse.d_model is 6, expected 4"),
        (
            lambda: Block(Tuple(4))(torch.zeros(1, 5, 4)),
            TypeError,
            "Tuple returned a tuple, expected a tensor of shape",
        ),
        (lambda: call_on(lengths=[20, 20, 20]), ValueError, "lengths has shape"),
        (lambda: call_on(lengths=[20, 20, 20, 0]), ValueError, "lengths holds 0"),
        (lambda: call_on(lengths=[20, 20, 20, 21]), ValueError, "lengths holds 21"),
        (lambda: call_on(lengths=torch.ones(4)), TypeError, "lengths has dtype float32"),
        (lambda: call_on(lengths=20), TypeError, "lengths is a int"),
        (lambda: call_on(lengths=[9] * 4, cu_seqlens=BOUNDS), ValueError, "both given"),
        (lambda: call_on(cu_seqlens=BOUNDS), ValueError, "batch size 4"),
        (lambda: call_on(dt=torch.ones(4, 19)), ValueError, "dt has shape"),
        (
            lambda: call_on(dt=torch.ones(4, 20), ssm=Mamba),
            ValueError,
            "Mamba.forward takes no arg",
        ),
        (lambda: call_on(return_state=True, bidirectional=True), ValueError, "sees the future"),
        (lambda: network(bidirectional=True).stepper(), ValueError, "sees the future"),
        (
            lambda: network(pool=True)(
                torch.zeros(1, 4, 3).double(), cu_seqlens=torch.tensor([0, 4, 4]).int()
            ),
            ValueError,
            "cu_seqlens has an empty sequence",
        ),
        (
            lambda: network(Mamba, pool=True)(torch.zeros(1, 0, 3).double()),
            ValueError,
            "u has no samples",
        ),
        (
            lambda: network().step(torch.zeros(1, 3).double(), [], torch.ones(2)),
            ValueError,
            "dt has shape",
        ),
        (lambda: network().step([[0.0]], []), TypeError, "u is a list"),
        (lambda: tokens_of([[0, 6]]), ValueError, "u holds 6, expected tokens from 0 to 5"),
        (lambda: tokens_of([[-1, 0]]), ValueError, "u holds -1"),
        (lambda: tokens_of([[0.0]]), TypeError, "u has dtype float32, expected tokens"),
        (lambda: tokens_of([0]), ValueError, "u has shape"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def call_on(ssm=S4D, bidirectional=False, **options):
    u = torch.zeros(4, 20, 3, dtype=torch.float64)
    return network(ssm, bidirectional=bidirectional)(u, **options)


def tokens_of(values):
    return SequenceModel(6, 6, d_model=4, n_layers=1, tokens=True)(torch.tensor(values))


def test_compiles():
    for ssm in LAYERS:
        model, u = network(ssm, bidirectional=True, pool=True), ragged()[0].nan_to_num()
        lengths = torch.tensor(LENGTHS)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(u, lengths=lengths), model(u, lengths=lengths))


def test_exports_with_any_batch():
    model = SequenceModel(1, 3, d_model=8, n_layers=1, pool=True).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(4, 20, 1),), dynamic_shapes=({0: batch},))
    u = torch.randn(7, 20, 1)
    assert torch.allclose(program.module()(u), model(u), atol=1e-5)
