"""Parameters of any dtype, by whatever way they got it, are widened where they are used."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ssm_core.s4 import S4, S4D, SequenceModel, convolution
from ssm_core.s4 import layer as layer_module

LAYERS = {
    "S4": lambda **more: S4(3, 8, **more),
    "S4D": lambda **more: S4D(3, 8, **more),
    "real": lambda **more: S4D(3, 5, "real", **more),
    "bidirectional": lambda **more: S4(3, 8, "legt", bidirectional=True, **more),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def relative(x, y):
    return ((x.double() - y.double()).abs().max() / y.double().abs().max()).item()


def rounded(layer, dtype):
    """The same layer with parameters in float64 that hold numbers of another dtype."""
    layer = copy.deepcopy(layer).double()
    for p in layer.parameters():
        p.data = p.data.to(dtype).double()
    return layer


def by_module(layer, dtype):
    return layer.to(dtype)


def by_data(layer, dtype):
    for p in layer.parameters():
        p.data = p.data.to(dtype)
    return layer


def by_assign(layer, dtype):
    layer.load_state_dict(
        {name: p.to(dtype) for name, p in layer.state_dict().items()}, assign=True
    )
    return layer


def by_new_parameters(layer, dtype):
    for name, p in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(p.detach().to(dtype)))
    return layer


@pytest.mark.parametrize("door", [by_module, by_data, by_assign, by_new_parameters])
@every_dtype
@every_layer
def test_parameters_through_every_door(make, dtype, door):
    layer = make()
    exact = rounded(layer, dtype)
    layer = door(layer, dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    u = torch.randn(2, 40, 3, dtype=torch.float64)
    want = exact(u)
    for signal in (torch.float32, torch.float64):  # widened, they are those of float64
        y = layer(u.to(signal))
        assert y.dtype == signal
        assert relative(y, want) < (1e-9 if signal == torch.float64 else 1e-5)
    y = layer(u.to(dtype))
    assert y.dtype == dtype and relative(y, want) < 2e-2
    assert layer.kernel(10).dtype == torch.promote_types(dtype, torch.float32)
    y.float().sum().backward()
    for p in layer.parameters():
        assert p.grad.dtype == dtype and p.grad.isfinite().all()


@every_dtype
@every_layer
def test_steps(make, dtype):
    layer = make().to(dtype)
    if layer.bidirectional:
        return
    u = torch.randn(2, 20, 3, dtype=dtype)
    with torch.no_grad():
        want, last = layer(u.double(), return_state=True)
        for stepper in (layer, layer.stepper()):
            state, ys = stepper.default_state(2), []
            for sample in u.unbind(1):
                y, state = stepper.step(sample, state)
                ys.append(y)
            assert y.dtype == dtype
            assert state.dtype == torch.promote_types(dtype, torch.complex64)
            assert relative(torch.stack(ys, 1), want) < 1e-2
            torch.testing.assert_close(state, last.to(state.dtype), rtol=1e-4, atol=1e-4)


@every_dtype
@every_layer
def test_functional_call(make, dtype):
    layer, u = make(), torch.randn(2, 40, 3)
    want = rounded(layer, dtype)(u)
    got = torch.func.functional_call(
        layer, {name: p.to(dtype) for name, p in layer.named_parameters()}, (u,)
    )
    assert got.dtype == torch.float32
    assert relative(got, want) < 1e-5


@every_layer
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16], ids=str)
def test_autocast(make, parameters):
    """It changes nothing inside a layer, and casts what surrounds it."""
    layer, u = make().to(parameters), torch.randn(2, 40, 3)
    want, kernel = layer(u), layer.kernel(9)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(u), want)
        assert torch.equal(layer.kernel(9), kernel)
        if not layer.bidirectional:
            state = torch.randn_like(layer.default_state(2))
            inside = layer.step(u[:, 0], state), layer.stepper().step(u[:, 0], state)
    if not layer.bidirectional:
        for y, x in inside:
            assert torch.equal(y, layer.step(u[:, 0], state)[0]) and x.dtype == torch.complex64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("ssm", [lambda d: S4(d, 8), lambda d: S4D(d, 8)], ids=["S4", "S4D"])
def test_a_network_in_half_precision(ssm, dtype):
    model = SequenceModel(2, 3, d_model=4, n_layers=2, ssm=ssm, pool=True)
    u = torch.randn(2, 30, 2)
    want = model(u)
    with torch.autocast("cpu", dtype):
        assert relative(model(u), want) < 3e-2
    model.to(dtype)
    y = model(u.to(dtype))
    assert y.dtype == dtype and relative(y, want) < 0.1
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_layer
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_default_dtype(make, default):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        layer = make()
        y = layer(torch.randn(2, 9, 3))
        narrow = layer(torch.randn(2, 9, 3, dtype=torch.float32))
    finally:
        torch.set_default_dtype(before)
    assert {p.dtype for p in layer.parameters()} == {default}
    assert y.dtype == default and narrow.dtype == torch.float32


@every_dtype
@every_layer
def test_dtype_argument(make, dtype):
    layer = make(dtype=dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    start = make(dtype=torch.float64)
    for name in layer.memory:  # rounded once, from float64
        p = getattr(layer, name, None)
        if p is not None and name != "log_dt":
            assert torch.equal(p, getattr(start, name).to(dtype))
    model = SequenceModel(1, 1, d_model=3, n_layers=1, ssm=lambda d: make(), dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}


@every_layer
def test_meta_device(make):
    """Build without memory, shard or move, and fill: by reset_parameters or by a state_dict."""
    layer = make(device="meta")
    assert layer(torch.empty(2, 5, 3, device="meta")).shape == (2, 5, 3)
    assert layer.kernel(5).is_meta
    with torch.device("meta"):
        assert all(p.is_meta for p in make().parameters())
    filled = layer.to_empty(device="cpu")
    torch.manual_seed(1)
    filled.reset_parameters()
    torch.manual_seed(1)
    new = make()
    for name, p in filled.named_parameters():
        assert torch.equal(p, new.get_parameter(name)), name
    loaded = make(device="meta")
    loaded.load_state_dict(new.state_dict(), assign=True)
    u = torch.randn(2, 5, 3)
    assert torch.equal(loaded(u), new(u))
    model = SequenceModel(1, 1, d_model=3, n_layers=2, ssm=lambda d: make(), device="meta")
    assert all(p.is_meta for p in model.parameters())
    assert model(torch.empty(2, 5, 1, device="meta")).shape == (2, 5, 1)


@every_layer
def test_a_device_without_float64(make, monkeypatch):
    """On Apple's GPUs all is float32; here the CPU plays one."""
    layer, u = make(), torch.randn(2, 200, 3)
    want = layer(u.double())
    for module in (layer_module, convolution):
        monkeypatch.setattr(module, "widest_float", lambda device: torch.float32)
    seen = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            seen.update(x.dtype for x in tree_leaves(out) if isinstance(x, torch.Tensor))
            return out

    with Watch(), torch.no_grad():
        y = layer(u)
        if not layer.bidirectional:
            stepper = layer.stepper()
            z, _ = stepper.step(u[:, 0], stepper.default_state(2))
    assert not seen & {torch.float64, torch.complex128}, seen
    assert relative(y, want) < 1e-3
    if not layer.bidirectional:
        torch.testing.assert_close(z, y[:, 0], rtol=1e-3, atol=1e-3)
    layer(u).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
