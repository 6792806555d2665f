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
    fast = DPLR(
        torch.tensor(Lambda[None, :half]),
        torch.tensor(columns[None].copy()),
        torch.tensor(b[None, :half]),
        torch.tensor((C @ V)[:, None, :half]),
        torch.tensor([dt], dtype=torch.float64),
    )
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


@pytest.mark.parametrize(
    "measure, arguments",
    [("legt", {"theta": 7.0}), ("fout", {"theta": 0.2}), ("glagt", {"beta": 0.3})],
)
def test_arguments_of_the_measure(measure, arguments):
    Lambda, P, _, V = dplr(measure, 6, **arguments)
    columns = P.reshape(6, -1)
    form = V @ (np.diag(Lambda) - columns @ columns.conj().T) @ V.conj().T
    assert_close(form, transition(measure, 6, **arguments)[0], 1e-12)


@pytest.mark.parametrize(
    "measure, N, arguments, message",
    [
        ("chebt", 4, {}, "measure"),
        ("fourier", 4, {}, "measure"),
        ("legs", 0, {}, "N is 0"),
        ("fout", 5, {}, "even"),
        ("glagt", 4, {"alpha": 0.3}, "alpha is 0.3"),
    ],
)
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
    want = np.stack(
        [
            (dense.C[o] @ np.linalg.matrix_power(dense.A, j) @ dense.B)[0]
            for o in range(2)
            for j in range(L)
        ]
    ).reshape(2, L)
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
    y, x = fast.step(torch.tensor([0.7], dtype=torch.float64), torch.tensor(x0 @ V.conj())[None])
    want = dense.A @ x0 + 0.7 * dense.B[:, 0]
    assert_close(x[0], want @ V.conj(), 1e-12)
    assert_close(y[:, 0], dense.C @ want, 1e-12)


@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_gradient_of_the_kernel(measure):
    fast, _, _ = system(measure, 4)
    parameters = [
        x.detach().requires_grad_() for x in (fast.Lambda, fast.P, fast.B, fast.C, fast.dt)
    ]
    # Lambda off the imaginary axis, where finite differences do not leave the stable half.
    assert torch.autograd.gradcheck(
        lambda Lambda, *rest: DPLR(Lambda - 0.1, *rest).kernel(5), parameters, atol=1e-5
    )


@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_gradient_through_the_states(measure):
    fast, _, _ = system(measure, 4)
    parameters = [
        x.detach().requires_grad_() for x in (fast.Lambda, fast.P, fast.B, fast.C, fast.dt)
    ]
    signal = torch.randn(2, 1, 6, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, 1, 2, dtype=torch.complex128, requires_grad=True)

    def both(signal, state, *parameters):
        moved = DPLR(*parameters)
        return moved.last_state(signal, state), moved.response(state, 6)

    assert torch.autograd.gradcheck(both, (signal, state, *parameters), atol=1e-5)


@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_modes_that_neither_turn_nor_decay(measure):
    """Lambda = 0 is allowed: with P it is A = -P P*, without it an integrator."""
    fast, _, _ = system(measure, 4)
    zero = DPLR(0 * fast.Lambda, fast.P, fast.B, fast.C, fast.dt)
    dense = dense_step(zero)
    x = torch.zeros(4, dtype=torch.float64)
    seen = []
    for u in (1.0, *[0.0] * 8):
        x = dense[0] @ x + dense[1] * u
        seen.append(dense[2] @ x)
    torch.testing.assert_close(zero.kernel(9)[:, 0].T, torch.stack(seen), rtol=0, atol=1e-9)
    integrator = DPLR(0 * fast.Lambda, 0 * fast.P, fast.B, fast.C, fast.dt)
    want = 2 * fast.dt * (fast.C * fast.B).sum(-1).real
    torch.testing.assert_close(
        integrator.kernel(9), want[..., None].expand(2, 1, 9), rtol=1e-9, atol=1e-9
    )


def dense_step(fast):
    """The bilinear step of the only channel as real matrices on (Re x, Im x), from the definition."""
    P, Lambda, B, C, dt = fast.P[0], fast.Lambda[0], fast.B[0], fast.C[:, 0], fast.dt[0]
    n = len(Lambda)

    def A(x):  # Lambda x - P 2 Re(P* x): the real part counts the conjugate modes
        return Lambda * x - (P.mT @ (2 * (P.conj() @ x).real + 0j))

    def real(x):
        return torch.cat([x.real, x.imag])

    units = torch.eye(n, dtype=torch.complex128)
    matrix = torch.stack([real(A(x)) for x in (*units, *(1j * units))], dim=1)
    left = torch.linalg.inv(torch.eye(2 * n).double() - dt / 2 * matrix)
    step = left @ (torch.eye(2 * n).double() + dt / 2 * matrix)
    return step, left @ real(B) * dt, 2 * torch.cat([C.real, -C.imag], dim=1)


def test_follows_tensors_that_change():
    """Nothing is computed beforehand: what is written into a tensor later counts."""
    fast, _, _ = system("legs", 4)
    u, x = torch.ones(1, dtype=torch.float64), torch.zeros_like(fast.B)
    before, _ = fast.step(u, x)
    fast.P.mul_(2)
    new = DPLR(fast.Lambda, fast.P.clone(), fast.B, fast.C, fast.dt)
    assert torch.equal(fast.step(u, x)[0], new.step(u, x)[0])
    assert not torch.equal(fast.step(u, x)[0], before)


def test_repr_fits_a_line():
    fast, _, _ = system("legt", 8)
    assert repr(fast) == "DPLR(H=1, n=4, outputs=2, rank=2)"
    assert repr(fast.discretize()) == "Recurrence(H=1, n=4, outputs=2, rank=2)"


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda s: {"P": s.P[0]}, ValueError, r"P has shape \(1, 2\)"),
        (lambda s: {"P": s.P[..., :1]}, ValueError, r"P has shape \(1, 1, 1\)"),
        (lambda s: {"P": s.P.real}, TypeError, "P has dtype float64"),
        (lambda s: {"P": None}, TypeError, "P is None"),
        (lambda s: {"P": s.P.to("meta")}, ValueError, "P is on meta"),
        (lambda s: {"Lambda": s.Lambda.numpy()}, TypeError, "Lambda is a ndarray"),
        (lambda s: {"B": s.B[0]}, ValueError, r"B has shape \(2,\)"),
        (lambda s: {"C": s.C[:, 0]}, ValueError, r"C has shape \(2, 2\)"),
        (lambda s: {"dt": 0.1}, TypeError, "dt is a float"),
        (lambda s: {"dt": s.dt[None]}, ValueError, r"dt has shape \(1, 1\)"),
    ],
)
def test_bad_systems(change, error, message):
    fast, _, _ = system("legs", 4)
    fields = {name: getattr(fast, name) for name in ("Lambda", "P", "B", "C", "dt")}
    with pytest.raises(error, match=message):
        DPLR(**fields | change(fast))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda s: s.kernel(0), ValueError, "L is 0"),
        (lambda s: s.kernel("9"), TypeError, "L is '9'"),
        (lambda s: s.step(torch.ones(2).double(), s.B), ValueError, r"u has shape \(2,\)"),
        (lambda s: s.step(torch.ones(3, 1).double(), s.B), ValueError, "leading axes of u"),
        (lambda s: s.last_state(torch.ones(1, 1, 5)), TypeError, "u has dtype float32"),
        (lambda s: s.last_state(torch.ones(1, 1, 0).double()), ValueError, "L is 0"),
        (
            lambda s: s.last_state(torch.ones(3, 1, 5).double(), s.B[None]),
            ValueError,
            "x has shape",
        ),
        (lambda s: s.response(s.B[None], -1), ValueError, "L is -1"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(system("legs", 4)[0])
