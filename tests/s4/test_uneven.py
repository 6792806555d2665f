"""S4D on signals whose samples come at uneven times."""

import numpy as np
import pytest
import torch

from ssm_core.lti import ContinuousSSM
from ssm_core.s4 import S4D, diagonal
from ssm_core.s4.diagonal import linear_recurrence

RULES = "zoh", "bilinear"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def signal(b=2, L=40, H=3, dtype=torch.float64):
    return torch.randn(b, L, H, dtype=dtype), 3 * torch.rand(b, L, dtype=dtype)


@pytest.mark.parametrize("L", [1, 2, 3, 8, 13])
def test_linear_recurrence_is_the_loop(L):
    a, b = torch.randn(2, L, 2, dtype=torch.complex128)
    x = torch.randn(2, dtype=torch.complex128)
    for start in (None, x):
        want, state = [], torch.zeros(2) if start is None else start
        for k in range(L):
            state = a[k] * state + b[k]
            want.append(state)
        torch.testing.assert_close(linear_recurrence(a, b, start), torch.stack(want))


@pytest.mark.parametrize("init", ["lin", "legs", "real"])
def test_the_hold_is_exact(init):
    """Against the continuous system, with each input held since the sample before."""
    layer, (u, dt) = S4D(3, 8, init).double(), signal()
    y, state = layer(u, dt=dt, return_state=True)
    system, n = layer._system(), layer.log_decay.shape[1]
    for h in range(3):
        Lambda, B = (x[h].detach().numpy() for x in (system.Lambda, system.B))
        C = system.C[0, h].detach().numpy()
        modes = ContinuousSSM(np.diag(Lambda), B, np.eye(n))
        for row in range(2):
            x = np.zeros(n)
            for k in range(u.shape[1]):
                held = np.full(2, u[row, k, h])
                span = (layer.log_dt[h].exp() * dt[row, k]).item()
                x = modes.simulate(held, [0.0, span], x)[-1]
                want = 2 * (C @ x).real + layer.D[h].item() * u[row, k, h].item()
                assert abs(y[row, k, h].item() - want) < 1e-11
            np.testing.assert_allclose(state[row, h].detach(), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("init", ["lin", "real"])
def test_an_even_step_is_the_convolution(rule, init):
    layer, (u, _) = S4D(3, 8, init, discretization=rule).double(), signal(L=57)
    before = layer(torch.randn_like(u), return_state=True)[1].detach()
    want = layer(u, before, return_state=True)
    got = layer(u, before, dt=torch.ones(2, 57, dtype=torch.float64), return_state=True)
    for x, right in zip(got, want):
        torch.testing.assert_close(x, right, rtol=0, atol=1e-12)
    gradients = []
    for y, x in (got, want):
        layer.zero_grad()
        (y.square().sum() + x.abs().square().sum()).backward()
        gradients.append([p.grad.clone() for p in layer.parameters()])
    for x, right in zip(*gradients):
        torch.testing.assert_close(x, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_gradients(rule, monkeypatch):
    monkeypatch.setattr(diagonal, "_PIECE", 1)  # pieces of 8 samples
    layer = S4D(1, 4, discretization=rule).double()
    u, dt = (x.requires_grad_() for x in signal(1, 70, 1))
    assert torch.autograd.gradcheck(
        lambda u, dt: layer(u, dt=dt)[:, 60:], (u, dt), fast_mode=True, atol=1e-6
    )
    names = [name for name, _ in layer.named_parameters()]

    def outputs(*values):
        return torch.func.functional_call(
            layer, dict(zip(names, values)), (u.detach(),), {"dt": dt.detach()}
        )[:, 60:]

    assert torch.autograd.gradcheck(outputs, tuple(layer.parameters()), fast_mode=True, atol=1e-6)


def test_pieces_steps_and_chunks_are_one_pass(monkeypatch):
    layer, (u, dt) = S4D(3, 8).double(), signal(L=150)
    want, last = layer(u, dt=dt, return_state=True)
    monkeypatch.setattr(diagonal, "_PIECE", 1)
    torch.testing.assert_close(layer(u, dt=dt), want)
    first, state = layer(u[:, :90], dt=dt[:, :90], return_state=True)
    rest, state = layer(u[:, 90:], state, dt=dt[:, 90:], return_state=True)
    torch.testing.assert_close(torch.cat([first, rest], 1), want)
    torch.testing.assert_close(state, last)
    state = layer.default_state(2)
    for k in range(20):
        y, state = layer.step(u[:, k], state, dt=dt[:, k])
        torch.testing.assert_close(y, want[:, k])


def test_an_interval_may_be_split():
    """Holding an input for 3 is holding it for 1 and then for 2."""
    layer = S4D(3, 8).double()
    u, two = torch.randn(1, 1, 3, dtype=torch.float64), torch.tensor([[1.0, 2.0]])
    once = layer(u, dt=torch.tensor([[3.0]]), return_state=True)[1]
    twice = layer(u.expand(1, 2, 3), dt=two, return_state=True)[1]
    torch.testing.assert_close(once, twice)


def test_a_step_of_zero_keeps_the_state():
    layer, (u, dt) = S4D(3, 8).double(), signal()
    state = layer(u, dt=dt, return_state=True)[1]
    after = layer(u[:, :1], state, dt=torch.zeros(2, 1), return_state=True)[1]
    torch.testing.assert_close(after, state)
    layer(u, dt=(0 * dt).requires_grad_()).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_packed_sequences():
    layer, (u, dt) = S4D(3, 8).double(), signal(1, 30)
    cu = torch.tensor([0, 11, 12, 30], dtype=torch.int32)
    y, states = layer(u, dt=dt, cu_seqlens=cu, return_state=True)
    for i, (start, end) in enumerate(zip(cu, cu[1:])):
        want, state = layer(u[:, start:end], dt=dt[:, start:end], return_state=True)
        torch.testing.assert_close(y[:, start:end], want)
        torch.testing.assert_close(states[i], state[0])


def test_lower_precision():
    layer, (u, dt) = S4D(3, 8), signal(dtype=torch.float32)
    exact = layer.double()(u.double(), dt=dt.double())
    got = layer.float()(u, dt=dt)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)
    half = layer.bfloat16()(u.bfloat16(), dt=dt)
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_function_transforms_and_compilation():
    layer, (u, dt) = S4D(3, 8).double(), signal()
    tangent = torch.func.jvp(lambda dt: layer(u, dt=dt), (dt,), (torch.ones_like(dt),))[1]
    step = 1e-6
    difference = (layer(u, dt=dt + step) - layer(u, dt=dt - step)) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-5, atol=1e-6)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(u, dt=dt), layer(u, dt=dt))


@pytest.mark.parametrize(
    "dt, error, message",
    [
        (torch.ones(2, 39), ValueError, r"dt has shape \(2, 39\), expected \(b, L\)"),
        (torch.ones(40), ValueError, "dt has shape"),
        (torch.ones(2, 40, dtype=torch.int64), TypeError, "dt has dtype int64"),
        (1.0, TypeError, "dt is a float"),
        (-torch.ones(2, 40), ValueError, r"dt holds -1 at index \(0, 0\), expected finite steps"),
        (torch.full((2, 40), torch.nan), ValueError, "dt holds nan"),
    ],
)
def test_bad_steps(dt, error, message):
    with pytest.raises(error, match=message):
        S4D(3, 8)(signal(dtype=torch.float32)[0], dt=dt)


def test_a_bidirectional_layer_takes_no_steps():
    u, dt = signal(dtype=torch.float32)
    with pytest.raises(ValueError, match="sees the future"):
        S4D(3, 8, bidirectional=True)(u, dt=dt)
    layer = S4D(3, 8)
    with pytest.raises(ValueError, match=r"dt has shape \(2, 1\)"):
        layer.step(u[:, 0], layer.default_state(2), dt=dt[:, :1])
