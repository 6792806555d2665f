"""Diagonal systems against NumPy, matrices and closed forms."""

import numpy as np
import pytest
import torch

from ssm_core.lti import ContinuousSSM
from ssm_core.s4 import Diagonal, dplr, s4d_modes

INITS = ("lin", "inv", "legs", "real")


def system(init, method, N=6, dt=0.05, seed=0):
    """The same random system twice: as Diagonal, and as real matrices with a block for each mode."""
    rng = np.random.default_rng(seed)
    modes = s4d_modes(init, N) + 0j
    n = len(modes)
    B, C = rng.normal(size=(2, n)) + 1j * rng.normal(size=(2, n))
    fast = Diagonal(torch.tensor(modes[None]), torch.tensor(B[None]), torch.tensor(C[None, None]),
                    torch.tensor([dt], dtype=torch.float64), method)
    A = np.kron(np.diag(modes.real), np.eye(2)) + np.kron(np.diag(modes.imag), [[0, -1], [1, 0]])
    column = np.stack([B.real, B.imag], -1).reshape(-1, 1)
    row = 2 * np.stack([C.real, -C.imag], -1).reshape(1, -1)
    return fast, ContinuousSSM(A, column, row, [[0.0]]).discretize(dt, method)


def as_modes(x):
    return x[0::2] + 1j * x[1::2]


def test_modes():
    np.testing.assert_allclose(s4d_modes("lin", 6), [-0.5, -0.5 + np.pi * 1j, -0.5 + 2 * np.pi * 1j])
    np.testing.assert_allclose(s4d_modes("inv", 4), -0.5 + 1j * 4 / np.pi * np.array([3, 1 / 3]))
    np.testing.assert_allclose(s4d_modes("real", 3), [-1, -2, -3])
    np.testing.assert_array_equal(s4d_modes("legs", 8), dplr("legs", 8)[0][:4])


def test_the_fastest_modes_of_inv_approach_those_of_legs():
    def error(N):
        return np.abs(s4d_modes("inv", N).imag[:3] / s4d_modes("legs", N).imag[-1:-4:-1] - 1)

    assert (error(256) < 0.02).all()
    assert (error(256) < error(64) / 3).all()


@pytest.mark.parametrize("init, N, error, message", [
    ("linear", 4, ValueError, "init"), ("lin", 5, ValueError, "even"),
    ("real", 0, ValueError, "N is 0"), ("lin", 4.5, TypeError, "N")])
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
    np.testing.assert_allclose(fast.response(start, L)[0, 0, 0].numpy() + from_zero, y, rtol=0,
                               atol=1e-12 * np.abs(y).max())
    for sample in signal[0, 0]:
        start = fast.step(start, sample[None])
    np.testing.assert_allclose(start[0, 0], as_modes(x), rtol=0, atol=1e-12 * np.abs(x).max())
    np.testing.assert_allclose(fast.output(start)[0, 0, 0], y[-1],
                               rtol=0, atol=1e-12 * np.abs(y).max())


@pytest.mark.parametrize("dt", [1e-9, 1e-4, 10.0])
def test_hold_at_extreme_steps(dt):
    """B of the update is (e^x - 1)/lambda; for small x that is dt (1 + x/2 + …)."""
    fast, _ = system("lin", "zoh", dt=dt)
    x = fast.Lambda * dt
    series = dt * sum(x**k / np.prod(np.arange(1.0, k + 2)) for k in range(12))
    exact = series if dt < 1e-3 else (torch.exp(x) - 1) / fast.Lambda
    got = fast.step(torch.zeros_like(x), torch.ones(1, dtype=torch.float64)) / fast.B
    torch.testing.assert_close(got, exact, rtol=1e-14, atol=0)


def test_phases_at_a_million_steps():
    """A single undamped mode turns by 0.1 pi a step: its kernel repeats every 20 samples."""
    modes = torch.tensor([[1j * np.pi]], dtype=torch.complex128)
    one = torch.ones(1, 1, dtype=torch.complex128)
    K = Diagonal(modes, one, one[None], torch.tensor([0.1], dtype=torch.float64), "zoh").kernel(2**20)
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
