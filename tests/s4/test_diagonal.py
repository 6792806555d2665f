"""Diagonal systems against NumPy, matrices and closed forms."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from ssm_core.lti import ContinuousSSM
from ssm_core.s4 import Diagonal, dplr, s4d_modes
from ssm_core.s4.diagonal import _expm1_over

INITS = ("lin", "inv", "legs", "real")


def system(init, method, N=6, dt=0.05, seed=0):
    """The same random system twice: as Diagonal, and as real matrices with a block for each mode."""
    rng = np.random.default_rng(seed)
    modes = s4d_modes(init, N) + 0j
    n = len(modes)
    B, C = rng.normal(size=(2, n)) + 1j * rng.normal(size=(2, n))
    fast = Diagonal(
        torch.tensor(modes[None]),
        torch.tensor(B[None]),
        torch.tensor(C[None, None]),
        torch.tensor([dt], dtype=torch.float64),
        method,
    )
    A = np.kron(np.diag(modes.real), np.eye(2)) + np.kron(np.diag(modes.imag), [[0, -1], [1, 0]])
    column = np.stack([B.real, B.imag], -1).reshape(-1, 1)
    row = 2 * np.stack([C.real, -C.imag], -1).reshape(1, -1)
    return fast, ContinuousSSM(A, column, row, [[0.0]]).discretize(dt, method)


def as_modes(x):
    return x[0::2] + 1j * x[1::2]


def test_modes():
    np.testing.assert_allclose(
        s4d_modes("lin", 6), [-0.5, -0.5 + np.pi * 1j, -0.5 + 2 * np.pi * 1j]
    )
    np.testing.assert_allclose(s4d_modes("inv", 4), -0.5 + 1j * 4 / np.pi * np.array([3, 1 / 3]))
    np.testing.assert_allclose(s4d_modes("real", 3), [-1, -2, -3])
    np.testing.assert_array_equal(s4d_modes("legs", 8), dplr("legs", 8)[0][:4])


def test_the_fastest_modes_of_inv_approach_those_of_legs():
    def error(N):
        return np.abs(s4d_modes("inv", N).imag[:3] / s4d_modes("legs", N).imag[-1:-4:-1] - 1)

    assert (error(256) < 0.02).all()
    assert (error(256) < error(64) / 3).all()


@pytest.mark.parametrize(
    "init, N, error, message",
    [
        ("linear", 4, ValueError, "init"),
        ("lin", 5, ValueError, "even"),
        ("real", 0, ValueError, "N is 0"),
        ("lin", 4.5, TypeError, "N"),
    ],
)
def test_bad_modes(init, N, error, message):
    with pytest.raises(error, match=message):
        s4d_modes(init, N)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("L", [1, 2, 5, 16, 200])
def test_kernel_and_states(init, method, L):
    fast, dense = system(init, method)
    want = [(dense.C @ np.linalg.matrix_power(dense.A, j) @ dense.B).item() for j in range(L)]
    np.testing.assert_allclose(fast.kernel(L)[0, 0], want, rtol=0, atol=1e-12 * np.abs(want).max())

    rng = np.random.default_rng(1)
    u, x0 = rng.normal(size=L), rng.normal(size=len(dense.A))
    y, _ = dense.recurrence(u, x0)
    x = x0
    for sample in u:
        x = dense.A @ x + dense.B[:, 0] * sample
    start = torch.tensor(as_modes(x0))[None, None]
    signal = torch.tensor(u)[None, None]
    state = fast.last_state(signal, start)[0, 0]
    np.testing.assert_allclose(state, as_modes(x), rtol=0, atol=1e-12 * np.abs(x).max())
    from_zero = np.convolve(u, want)[:L]
    np.testing.assert_allclose(
        fast.response(start, L)[0, 0, 0].numpy() + from_zero,
        y,
        rtol=0,
        atol=1e-12 * np.abs(y).max(),
    )
    for sample in signal[0, 0]:
        seen, start = fast.step(sample.expand(1, 1), start)
    np.testing.assert_allclose(start[0, 0], as_modes(x), rtol=0, atol=1e-12 * np.abs(x).max())
    np.testing.assert_allclose(seen[0, 0, 0], y[-1], rtol=0, atol=1e-12 * np.abs(y).max())


@pytest.mark.parametrize("dt", [1e-9, 1e-4, 10.0])
def test_hold_at_extreme_steps(dt):
    """B of the update is (e^x - 1)/lambda; for small x that is dt (1 + x/2 + …)."""
    fast, _ = system("lin", "zoh", dt=dt)
    x = fast.Lambda * dt
    series = dt * sum(x**k / np.prod(np.arange(1.0, k + 2)) for k in range(12))
    exact = series if dt < 1e-3 else (torch.exp(x) - 1) / fast.Lambda
    _, state = fast.step(torch.ones(1, dtype=torch.float64), torch.zeros_like(x))
    got = state / fast.B
    torch.testing.assert_close(got, exact, rtol=1e-14, atol=0)


def test_phases_at_a_million_steps():
    """A single undamped mode turns by 0.1 pi a step: its kernel repeats every 20 samples."""
    modes = torch.tensor([[1j * np.pi]], dtype=torch.complex128)
    one = torch.ones(1, 1, dtype=torch.complex128)
    K = Diagonal(modes, one, one[None], torch.tensor([0.1], dtype=torch.float64), "zoh").kernel(
        2**20
    )
    torch.testing.assert_close(K[0, 0, -20 - 16 : -16], K[0, 0, :20], rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_gradients(method):
    fast, _ = system("lin", method, N=4)
    given = [x.detach().requires_grad_() for x in (fast.Lambda, fast.B, fast.C, fast.dt)]
    signal = torch.randn(2, 1, 6, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 1, 2, dtype=torch.complex128, requires_grad=True)

    def everything(signal, state, *parameters):
        moved = Diagonal(*parameters, method)
        return moved.kernel(6), moved.last_state(signal, state), moved.response(state, 6)

    assert torch.autograd.gradcheck(everything, (signal, state, *given))


def diagonal(Lambda, dt, method, B=1.0, C=1.0):
    """One system with one mode."""
    number = [torch.tensor([[x]], dtype=torch.complex128) for x in (Lambda, B, C)]
    return Diagonal(
        number[0], number[1], number[2][None], torch.tensor([dt], dtype=torch.float64), method
    )


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_an_integrator(method):
    """Lambda = 0: B is dt for both rules, nothing decays, and the gradient is that of the limit."""
    Lambda = torch.zeros(1, 1, dtype=torch.complex128, requires_grad=True)
    one, dt = torch.ones(1, 1, dtype=torch.complex128), torch.tensor([0.25], dtype=torch.float64)
    system = Diagonal(Lambda, one, one[None], dt, method)
    K = system.kernel(9)
    assert torch.equal(K, torch.full_like(K, 0.5))
    u = torch.arange(1.0, 8.0, dtype=torch.float64).reshape(1, 1, 7)
    assert system.last_state(u).item() == 0.25 * 28
    assert torch.equal(system.response(one[None], 4), torch.full((1, 1, 1, 4), 2.0).double())
    (gradient,) = torch.autograd.grad(K[0, 0, 2], Lambda)
    # K_2 = 2 Re(integral of e^(Lambda t) over step 2): the derivative is dt² times 2 (2 + 1/2).
    torch.testing.assert_close(gradient.real.item(), 2 * 2.5 * 0.25**2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-16, 1e-9, 0.00999, 0.0101, 1.0])
@pytest.mark.parametrize("direction", [-1, 1j, -0.6 + 0.8j])
def test_hold_near_zero(size, direction):
    """(e^x - 1)/x and its derivative, against their power series."""
    x = torch.tensor(size * direction, dtype=torch.complex128, requires_grad=True)
    y = _expm1_over(x)
    terms = [x.item() ** k / math.factorial(k + 1) for k in range(30)]
    slopes = [k * x.item() ** (k - 1) / math.factorial(k + 1) for k in range(1, 30)]
    (slope,) = torch.autograd.grad(y.real, x)  # the conjugate of the derivative
    assert abs(y.item() - sum(terms)) < 1e-15
    assert abs(slope.item().conjugate() - sum(slopes)) < 1e-13


def test_bilinear_forgets_everything_in_one_step():
    """At Lambda dt = -2 the decay of a step is 0: its power 0 is 1, and all others are 0."""
    system = diagonal(-2.0, 1.0, "bilinear")
    K = system.kernel(5)[0, 0]  # B of the update is 1/2
    torch.testing.assert_close(K, torch.tensor([1.0, 0, 0, 0, 0]).double(), rtol=0, atol=1e-15)
    u = torch.tensor([[[3.0, 4.0, 5.0]]]).double()
    torch.testing.assert_close(system.last_state(u).item(), 2.5 + 0j, rtol=0, atol=1e-15)
    y, _ = system.step(u[0, :, 0], torch.ones(1, 1, dtype=torch.complex128))
    torch.testing.assert_close(y.item(), 3.0, rtol=0, atol=1e-15)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_follows_tensors_that_change(method):
    """Nothing is computed beforehand: what is written into a tensor later counts."""
    fast, _ = system("lin", method)
    fast.Lambda.mul_(2)
    new = Diagonal(fast.Lambda.clone(), fast.B, fast.C, fast.dt, method)
    assert torch.equal(fast.kernel(9), new.kernel(9))


def test_repr_fits_a_line():
    assert repr(diagonal(-1, 0.1, "zoh")) == "Diagonal(H=1, n=1, outputs=1, method='zoh')"
    assert repr(diagonal(-1, 0.1, "zoh").discretize()) == "Recurrence(H=1, n=1, outputs=1, rank=0)"


GOOD = {
    "Lambda": torch.full((2, 3), -1 + 1j, dtype=torch.complex128),
    "B": torch.ones(2, 3, dtype=torch.complex128),
    "C": torch.ones(1, 2, 3, dtype=torch.complex128),
    "dt": torch.ones(2, dtype=torch.float64),
    "method": "zoh",
}


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"method": "euler"}, ValueError, "method is 'euler', expected one of: zoh, bilinear"),
        ({"method": None}, TypeError, "method is None"),
        ({"Lambda": -1.0}, TypeError, "Lambda is a float"),
        ({"Lambda": GOOD["Lambda"].real}, TypeError, "Lambda has dtype float64"),
        ({"Lambda": GOOD["Lambda"][0]}, ValueError, r"Lambda has shape \(3,\)"),
        ({"Lambda": GOOD["Lambda"][:, :0]}, ValueError, r"Lambda has shape \(2, 0\)"),
        (
            {"B": GOOD["B"].to(torch.complex64)},
            TypeError,
            "B has dtype complex64, expected complex128",
        ),
        ({"B": GOOD["B"][:1]}, ValueError, r"B has shape \(1, 3\)"),
        ({"B": GOOD["B"].numpy()}, TypeError, "B is a ndarray"),
        ({"C": GOOD["C"][0]}, ValueError, r"C has shape \(2, 3\)"),
        ({"C": GOOD["C"].to("meta")}, ValueError, "C is on meta"),
        ({"dt": 0.1}, TypeError, "dt is a float"),
        ({"dt": GOOD["dt"].float()}, TypeError, "dt has dtype float32, expected float64"),
        ({"dt": GOOD["dt"][:1]}, ValueError, r"dt has shape \(1,\)"),
    ],
)
def test_bad_systems(changed, error, message):
    with pytest.raises(error, match=message):
        Diagonal(**GOOD | changed)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda s: s.kernel(0), ValueError, "L is 0"),
        (lambda s: s.kernel(2.5), TypeError, "L is 2.5"),
        (lambda s: s.step(torch.ones(2), torch.ones(2, 3)), TypeError, "u has dtype float32"),
        (
            lambda s: s.step(torch.ones(3).double(), 1j * GOOD["B"]),
            ValueError,
            r"u has shape \(3,\)",
        ),
        (lambda s: s.step(torch.ones(4, 2).double(), GOOD["B"]), ValueError, "leading axes of u"),
        (lambda s: s.step(GOOD["dt"], GOOD["B"].real), TypeError, "x has dtype float64"),
        (lambda s: s.last_state(torch.ones(2, 5).double()), ValueError, r"u has shape \(2, 5\)"),
        (lambda s: s.last_state(torch.ones(1, 2, 0).double()), ValueError, "L is 0"),
        (
            lambda s: s.last_state(torch.ones(4, 2, 5).double(), GOOD["B"][None]),
            ValueError,
            "x has shape",
        ),
        (lambda s: s.response(GOOD["B"], 5), ValueError, "x has shape"),
        (lambda s: s.response(GOOD["B"][None], 0), ValueError, "L is 0"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(Diagonal(**GOOD))


@pytest.mark.parametrize(
    "change", [lambda s: setattr(s, "method", "euler"), lambda s: setattr(s, "B", None)]
)
def test_a_system_cannot_be_changed(change):
    with pytest.raises(dataclasses.FrozenInstanceError):
        change(Diagonal(**GOOD))
