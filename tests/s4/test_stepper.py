"""A step uses the parameters that are there, whoever wrote them; a stepper is a snapshot."""

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ssm_core.optim import parameter_groups
from ssm_core.s4 import S4, S4D, SequenceModel, _stepping

LAYERS = {
    "S4": lambda: S4(3, 8),
    "S4D": lambda: S4D(3, 8),
    "legt": lambda: S4(3, 8, "legt"),
    "real": lambda: S4D(3, 5, "real", discretization="bilinear"),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def train(layer, optimizer):
    u = torch.randn(2, 30, 3)
    for _ in range(3):
        optimizer.zero_grad()
        layer(u).square().sum().backward()
        optimizer.step()


def adamw(**options):
    return lambda layer: train(layer, torch.optim.AdamW(layer.parameters(), lr=0.05, **options))


def ema(layer):
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    adamw()(layer)
    average.update_parameters(layer)
    average.update_parameters(layer)
    for p, q in zip(layer.parameters(), average.module.parameters()):
        p.data = q.data


def other(layer):
    """The parameters of another layer of the same kind."""
    return {name: p + 0.1 * torch.randn_like(p) for name, p in layer.state_dict().items()}


def by_inference_mode(layer):
    with torch.inference_mode():
        for p in layer.parameters():
            p.mul_(1.1)


def by_no_grad(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1)


def by_data(layer):
    for p in layer.parameters():
        p.data.mul_(1.1)


def by_other_data(layer):
    for p in layer.parameters():
        p.data = p.data * 1.1


def by_vector(layer):
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(1.1 * vector.detach(), layer.parameters())


def by_new_parameters(layer):
    for name, p in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(1.1 * p.detach()))


def by_numpy(layer):
    for p in layer.parameters():
        p.detach().numpy()[...] *= 1.1


WRITERS = {
    "AdamW fused": adamw(fused=True),
    "AdamW foreach": adamw(foreach=True),
    "AdamW loop": adamw(foreach=False),
    "groups": lambda layer: train(
        layer, torch.optim.AdamW(parameter_groups(layer, 0.05, memory_lr=0.05))
    ),
    "SGD": lambda layer: train(layer, torch.optim.SGD(layer.parameters(), lr=1e-3)),
    "data in place": by_data,
    "new data": by_other_data,
    "vector": by_vector,
    "new parameters": by_new_parameters,
    "numpy": by_numpy,
    "no_grad": by_no_grad,
    "inference_mode": by_inference_mode,
    "EMA": ema,
    "state_dict": lambda layer: layer.load_state_dict(other(layer)),
    "assign": lambda layer: layer.load_state_dict(other(layer), assign=True),
    "double": lambda layer: (layer.double(), by_data(layer), layer.float()),
    "reset": lambda layer: layer.reset_parameters(),
}


def assert_step_is_forward(layer, u=None):
    """By steps of the layer, and by those of a new stepper."""
    u = torch.randn(2, 12, 3) if u is None else u
    with torch.no_grad():
        y, last = layer(u, return_state=True)
        for stepper in (layer, layer.stepper()):
            state, outputs = stepper.default_state(2), []
            for sample in u.unbind(1):
                out, state = stepper.step(sample, state)
                outputs.append(out)
            error = (torch.stack(outputs, 1) - y).abs().max() / y.abs().max()
            assert error < 1e-5
            assert (state - last).abs().max() < 1e-5 * last.abs().max()
    return y


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@every_layer
def test_step_follows_every_writer(make, write):
    layer, u = make(), torch.randn(2, 12, 3)
    before = assert_step_is_forward(layer, u)  # whatever a step could keep, it has kept now
    write(layer)
    after = assert_step_is_forward(layer, u)
    assert (after - before).abs().max() > 1e-4 * before.abs().max()


@every_layer
def test_functional_call(make):
    layer = make()
    assert_step_is_forward(layer)
    new, u = other(layer), torch.randn(2, 3)

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, u, state):
            return self.layer.step(u, state)

    state = layer.default_state(2)
    got, _ = torch.func.functional_call(
        Step(), {f"layer.{name}": p for name, p in new.items()}, (u, state)
    )
    want = torch.func.functional_call(layer, new, (u[:, None],))[:, 0]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got, layer.step(u, state)[0], rtol=1e-3)


@every_layer
def test_a_stepper_is_a_snapshot(make):
    """Also of a float64 layer, whose parameters need no conversion that would copy them."""
    for layer in (make(), make().double()):
        u = torch.randn(2, 3, dtype=layer.D.dtype)
        stepper, state = layer.stepper(), layer.default_state(2)
        before = stepper.step(u, state)[0].clone()
        by_data(layer)
        assert torch.equal(stepper.step(u, state)[0], before)
        assert not torch.equal(layer.step(u, state)[0], before)
        assert not before.requires_grad


def test_a_stepper_cannot_be_changed():
    stepper = S4(3, 8).stepper()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stepper.D = None
    with pytest.raises(dataclasses.FrozenInstanceError):
        stepper.recurrence.decay = None


@every_layer
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: x.to("cpu")],
    ids=["copy", "deepcopy", "pickle", "to"],
)
def test_copies_of_steppers_and_layers(make, copied):
    layer, u = make(), torch.randn(2, 3)
    stepper, state = layer.stepper(), layer.default_state(2)
    want, after = stepper.step(u, state)
    for same in (copied(stepper), copied(layer)):
        y, x = same.step(u, state)
        torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(x, after, rtol=1e-6, atol=1e-6)


def test_a_step_leaves_nothing_in_the_layer():
    layer = S4(3, 8)
    before = len(pickle.dumps(layer)), set(vars(layer))
    layer.step(torch.randn(2, 3), layer.default_state(2))
    layer(torch.randn(2, 9, 3)), layer.kernel(9), layer.stepper()
    assert (len(pickle.dumps(layer)), set(vars(layer))) == before


def test_a_stepper_on_another_device():
    stepper = S4(3, 8).stepper()
    moved = stepper.to("meta")
    assert repr(moved) == "Stepper(d_model=3, n=4, device='meta')"
    y, state = moved.step(torch.empty(2, 3, device="meta"), moved.default_state(2))
    assert y.shape == (2, 3) and state.shape == (2, 3, 4) and state.is_meta
    assert stepper.D.device.type == "cpu"
    with pytest.raises(ValueError, match="u is on cpu"):
        moved.step(torch.zeros(2, 3), moved.default_state(2))


@every_layer
def test_compiles(make):
    layer, u = make(), torch.randn(2, 3)
    stepper, state = layer.stepper(), layer.default_state(2)
    for step in (stepper.step, layer.step):
        compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
        for got, want in zip(compiled(u, state), step(u, state)):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@every_layer
def test_gradients_of_a_step(make):
    """Those of the parameters, as of a sequence of one sample; a stepper has those of u and state."""
    layer, u = make().double(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    state = torch.randn_like(layer.default_state(2)).requires_grad_()
    given = [u, state, *layer.parameters()]

    def total(y, state):
        return y.square().sum() + state.abs().square().sum()

    y, after = layer(u[:, None], state, return_state=True)
    want = torch.autograd.grad(total(y, after), given)
    for got, right in zip(torch.autograd.grad(total(*layer.step(u, state)), given), want):
        torch.testing.assert_close(got, right, rtol=1e-7, atol=1e-7)
    got = torch.autograd.grad(total(*layer.stepper().step(u, state)), [u, state])
    for x, right in zip(got, want):
        torch.testing.assert_close(x, right, rtol=1e-7, atol=1e-7)


@every_layer
def test_made_or_run_in_inference_mode(make):
    with torch.inference_mode():
        inside = make()
        assert_step_is_forward(inside)
    with torch.no_grad():
        assert_step_is_forward(inside)
    outside = make()
    with torch.inference_mode():
        assert_step_is_forward(outside)
        stepper = outside.stepper()
    stepper.step(torch.randn(2, 3), stepper.default_state(2))
    outside(torch.randn(2, 12, 3)).sum().backward()
    assert outside.log_dt.grad is not None


def test_a_network_follows_its_parameters():
    model = SequenceModel(2, 2, d_model=3, n_layers=2, ssm=lambda d: S4(d, 8)).eval()
    u = torch.randn(2, 9, 2)

    def stepped(stepper):
        states, ys = stepper.default_state(2), []
        for sample in u.unbind(1):
            y, states = stepper.step(sample, states)
            ys.append(y)
        return torch.stack(ys, 1)

    snapshot, before = model.stepper(), model(u)
    torch.testing.assert_close(stepped(model), before, rtol=1e-4, atol=1e-4)
    by_data(model)
    torch.testing.assert_close(stepped(model), model(u), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stepped(snapshot), before, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, model(u), rtol=1e-2)
    buffer = io.BytesIO()
    torch.save(snapshot, buffer)
    buffer.seek(0)
    torch.testing.assert_close(
        stepped(torch.load(buffer, weights_only=False)), before, rtol=1e-4, atol=1e-4
    )


def test_a_stepper_of_a_network_does_not_drop():
    model = SequenceModel(1, 1, d_model=4, n_layers=1, ssm=lambda d: S4D(d, 8), dropout=0.9)
    stepper, u = model.stepper(), torch.randn(2, 1)
    first, second = (stepper.step(u, stepper.default_state(2))[0] for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad
    assert model.training  # the model itself is as it was


# ------------------------------------------------------------------- the compiled step and PyTorch's


@pytest.fixture(params=["compiled", "torch"])
def implementation(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(_stepping, "kernels", lambda: None)
    else:
        pytest.importorskip("numba")
    return request.param


def run(stepper, u, states):
    """Outputs and last states of a network, sample by sample."""
    ys = []
    for sample in u.unbind(1):
        y, states = stepper.step(sample, states)
        ys.append(y)
    return torch.stack(ys, 1), states


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("b", [1, 3])
def test_a_network_steps_as_it_convolves(make, dtype, b, implementation):
    model = SequenceModel(2, 5, d_model=3, n_layers=3, ssm=lambda d: make()).to(dtype).eval()
    u, tolerance = torch.randn(b, 20, 2, dtype=dtype), 1e-10 if dtype == torch.float64 else 1e-5
    stepper = model.stepper()
    assert (stepper._network is not None) == (implementation == "compiled")
    with torch.no_grad():
        _, states = model(u[:, :8], return_state=True)
        want, after = model(u[:, 8:], states, return_state=True)
        kept = [state.clone() for state in states]
        got, last = run(stepper, u[:, 8:], states)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    for state, end, before, same in zip(last, after, states, kept):
        torch.testing.assert_close(state, end, rtol=tolerance, atol=tolerance)
        assert torch.equal(before, same)  # a step leaves the state that it was given
    assert got.dtype == dtype and last[0].dtype == states[0].dtype


@every_layer
def test_a_layer_steps_as_it_convolves(make, implementation):
    layer = make()
    u = torch.randn(3, 20, 3)
    with torch.no_grad():
        stepper, want = layer.stepper(), layer(u)
        assert (stepper.systems is not None) == (implementation == "compiled")
        for step in (stepper.step, layer.step):
            got, state = [], layer.default_state(3)
            for sample in u.unbind(1):
                y, state = step(sample, state)
                got.append(y)
            torch.testing.assert_close(torch.stack(got, 1), want, rtol=1e-5, atol=1e-5)


def test_networks_that_are_not_plain_step_in_pytorch():
    u = torch.randn(2, 9, 1)

    def network(layer=lambda d: S4D(d, 8), n_layers=2):
        return SequenceModel(1, 1, d_model=4, n_layers=n_layers, ssm=layer).eval()

    sizes = iter((8, 12))
    mixed = network(lambda d: S4D(d, next(sizes)))
    hooked = network()
    hooked.blocks[1].mix[2].register_forward_hook(lambda module, inputs, y: 2 * y)
    assert network(n_layers=1).stepper()._network is not None
    for model in (mixed, hooked, network().bfloat16()):
        stepper = model.stepper()
        assert stepper._network is None
        with torch.no_grad():
            dtype = next(model.parameters()).dtype
            y, _ = run(stepper, u.to(dtype), stepper.default_state(2))
            tolerance = 1e-4 if dtype == torch.float32 else 0.1
            torch.testing.assert_close(y, model(u.to(dtype)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_sample_that_would_stay_in_the_state_is_refused(bad, implementation):
    model = SequenceModel(2, 1, d_model=3, n_layers=2, ssm=lambda d: S4D(d, 8)).eval()
    layer, u = S4D(3, 8), torch.tensor([[1.0, 2.0, 3.0], [bad, 0.0, 1.0]])
    with torch.no_grad():
        for step in (layer.step, layer.stepper().step):
            with pytest.raises(
                ValueError, match="u holds NaN or infinity, expected finite numbers"
            ):
                step(u, layer.default_state(2))
        for step in (model.step, model.stepper().step):
            with pytest.raises(
                ValueError, match="u holds NaN or infinity, expected finite numbers"
            ):
                step(u[:, :2], model.default_state(2))
    large = torch.full((1, 3), 3e38)  # finite, though its sum is not
    assert layer.step(large, layer.default_state(1))[0].shape == (1, 3)


def test_a_stepper_of_a_network_has_gradients_of_its_input():
    model = SequenceModel(1, 1, d_model=3, n_layers=2, ssm=lambda d: S4(d, 8)).double().eval()
    stepper, u = model.stepper(), torch.randn(2, 1, dtype=torch.float64, requires_grad=True)
    states = model.default_state(2)
    got = torch.autograd.grad(stepper.step(u, states)[0].sum(), u)[0]
    want = torch.autograd.grad(model(u[:, None])[:, 0].sum(), u)[0]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u, states: (u[:, :1], states), r"u has shape \(2, 1\), expected \(b, d_input\)"),
        (lambda u, states: (u, states[:1]), "states has length 1, expected one state per block, 2"),
        (lambda u, states: (u[:1], states), r"state has shape \(2, 3, 4\)"),
        (lambda u, states: (u, [states[0], states[1].real]), "state has dtype float32"),
    ],
)
def test_a_stepper_names_what_does_not_fit(change, message, implementation):
    model = SequenceModel(2, 1, d_model=3, n_layers=2, ssm=lambda d: S4D(d, 8))
    stepper = model.stepper()
    with torch.no_grad(), pytest.raises((ValueError, TypeError), match=message):
        stepper.step(*change(torch.randn(2, 2), stepper.default_state(2)))
