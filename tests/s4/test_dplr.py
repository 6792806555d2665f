"""Diagonal plus low rank: the decomposition, kernels and steps against NumPy and SciPy."""

import numpy as np
import pytest
import torch

from ssm_core.hippo import transition
from ssm_core.lti import ContinuousSSM
from ssm_core.s4 import DPLR, dplr

MEASURES = ("legs", "legt", "lagt", "glagt", "fout")


def system(measure, N, dt=0.03, seed=0):
    """The same random system twice: as DPLR on half the modes, and as matrices; and its V."""
    A, B = transition(measure, N)
    Lambda, P, b, V = dplr(measure, N)
    C = np.random.default_rng(seed).normal(size=(2, N))
    half = N // 2
    columns = P.reshape(N, -1)[:half].T
    fast = DPLR(torch.tensor(Lambda[None, :half]), torch.tensor(columns[None].copy()),
                torch.tensor(b[None, :half]), torch.tensor((C @ V)[:, None, :half]),
                torch.tensor([dt], dtype=torch.float64))
    dense = ContinuousSSM(A, B, C, np.zeros((2, 1))).discretize(dt, "bilinear")
    return fast, dense, V[:, :half]


def assert_close(x, y, tolerance):
    x, y = np.asarray(x), np.asarray(y)
    assert x.shape == y.shape
    assert np.abs(x - y).max() <= tolerance * np.abs(y).max()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("N", [1, 2, 3, 5, 16, 64, 256])
def test_form_gives_the_matrix_back(measure, N):
    if measure == "fout" and N % 2:
        pytest.skip("fout takes even N")
    A, B = transition(measure, N)
    Lambda, P, b, V = dplr(measure, N)
    columns = P.reshape(N, -1)
    low_rank = columns @ columns.conj().T
    assert P.shape == ((N, 2) if measure == "legt" else (N,))
    assert_close(V @ (np.diag(Lambda) - low_rank) @ V.conj().T, A, 1e-11)
    assert_close(V @ b, B[:, 0], 1e-11)
    assert_close(V.conj().T @ V, np.eye(N), 1e-11)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("N", [2, 8, 64])
def test_modes_are_in_conjugate_pairs_with_real_input_weights(measure, N):
    Lambda, P, b, V = dplr(measure, N)
    for modes in (Lambda, P, b, V.T):
        assert_close(modes[N // 2 :], modes[: N // 2].conj(), 1e-12)
    assert (Lambda[: N // 2].imag >= 0).all()
    assert (Lambda.real <= 0).all()
    assert not b.imag.any()
    assert (b.real >= 0).all()


def test_odd_size_ends_with_a_real_mode():
    Lambda, _, _, V = dplr("legs", 5)
    assert Lambda[-1] == -0.5
    assert np.abs((V[:, -1] * np.exp(-1j * np.angle(V[0, -1]))).imag).max() < 1e-14


@pytest.mark.parametrize("measure, arguments", [
    ("legt", {"theta": 7.0}), ("fout", {"theta": 0.2}), ("glagt", {"beta": 0.3})])
def test_arguments_of_the_measure(measure, arguments):
    Lambda, P, _, V = dplr(measure, 6, **arguments)
    columns = P.reshape(6, -1)
    form = V @ (np.diag(Lambda) - columns @ columns.conj().T) @ V.conj().T
    assert_close(form, transition(measure, 6, **arguments)[0], 1e-12)


@pytest.mark.parametrize("measure, N, arguments, message", [
    ("chebt", 4, {}, "measure"), ("fourier", 4, {}, "measure"), ("legs", 0, {}, "N is 0"),
    ("fout", 5, {}, "even"), ("glagt", 4, {"alpha": 0.3}, "alpha is 0.3")])
def test_bad_input(measure, N, arguments, message):
    with pytest.raises(ValueError, match=message):
        dplr(measure, N, **arguments)


def test_chebt_is_not_normal_plus_low_rank():
    """A + A^T = -2 (c I + P P^T) would have one eigenvalue N - r times, and none above it."""
    A, _ = transition("chebt", 16)
    values = np.linalg.eigvalsh(A + A.T)
    assert np.unique(values.round(6)).size == 16


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("N, L", [(2, 1), (8, 2), (8, 7), (16, 100), (64, 1000)])
def test_kernel_is_that_of_the_matrices(measure, N, L):
    fast, dense, _ = system(measure, N)
    want = np.stack([(dense.C[o] @ np.linalg.matrix_power(dense.A, j) @ dense.B)[0]
                     for o in range(2) for j in range(L)]).reshape(2, L)
    assert_close(fast.kernel(L)[:, 0], want, 1e-9)


@pytest.mark.parametrize("dt", [1e-6, 1e-3, 1.0, 1e3])
def test_kernel_at_extreme_steps(dt):
    fast, dense, _ = system("legs", 16, dt)
    want = [(dense.C @ np.linalg.matrix_power(dense.A, j) @ dense.B)[:, 0] for j in range(64)]
    assert_close(fast.kernel(64)[:, 0].T, want, 1e-9)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("L", [1, 2, 3, 16, 77])
def test_states_at_both_ends(measure, L):
    fast, dense, V = system(measure, 8)
    rng = np.random.default_rng(1)
    u, x0 = rng.normal(size=L), rng.normal(size=8)
    y, _ = dense.recurrence(u, x0)
    x = x0
    for sample in u:
        x = dense.A @ x + dense.B[:, 0] * sample
    start = torch.tensor(x0 @ V.conj())[None, None]
    signal = torch.tensor(u)[None, None]
    assert_close(fast.last_state(signal, start)[0, 0], x @ V.conj(), 1e-12)
    from_zero = np.stack([np.convolve(u, K)[:L] for K in fast.kernel(L)[:, 0].numpy()])
    assert_close(fast.response(start, L)[:, 0, 0].numpy() + from_zero, y.T, 1e-9)


@pytest.mark.parametrize("measure", MEASURES)
def test_step_is_that_of_the_matrices(measure):
    fast, dense, V = system(measure, 8)
    x0 = np.random.default_rng(2).normal(size=8)
    x = fast.step(torch.tensor(x0 @ V.conj())[None], torch.tensor([0.7], dtype=torch.float64))
    want = dense.A @ x0 + 0.7 * dense.B[:, 0]
    assert_close(x[0], want @ V.conj(), 1e-12)
    assert_close(fast.output(x)[:, 0], dense.C @ want, 1e-12)


@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_gradient_of_the_kernel(measure):
    fast, _, _ = system(measure, 4)
    parameters = [x.detach().requires_grad_() for x in (fast.Lambda, fast.P, fast.B, fast.C, fast.dt)]
    # Lambda off the imaginary axis, where finite differences do not leave the stable half.
    assert torch.autograd.gradcheck(
        lambda Lambda, *rest: DPLR(Lambda - 0.1, *rest).kernel(5), parameters, atol=1e-5)


@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_gradient_through_the_states(measure):
    fast, _, _ = system(measure, 4)
    parameters = [x.detach().requires_grad_() for x in (fast.Lambda, fast.P, fast.B, fast.C, fast.dt)]
    signal = torch.randn(2, 1, 6, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 1, 2, dtype=torch.complex128, requires_grad=True)

    def both(signal, state, *parameters):
        moved = DPLR(*parameters)
        return moved.last_state(signal, state), moved.response(state, 6)

    assert torch.autograd.gradcheck(both, (signal, state, *parameters), atol=1e-5)
