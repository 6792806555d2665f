"""Each (A, B) against its definition: optimal coefficients, by quadrature, satisfy the ODE."""

import numpy as np
import pytest
from scipy import special

from ssm_core.hippo import basis, transition

THETA = 1.7
GLAGT = {"alpha": 0.4, "beta": 0.3}


def gauss(start, stop, pieces=1, order=80):
    """Nodes and weights of composite Gauss-Legendre quadrature on [start, stop]."""
    z, w = np.polynomial.legendre.leggauss(order)
    edges = np.linspace(start, stop, pieces + 1)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (z + 1)).ravel(), (half * w).ravel()


def legendre_rows(N, z):
    """sqrt(2n + 1) P_n(z), row n."""
    return np.array([np.sqrt(2 * n + 1) * special.legendre(n)(z) for n in range(N)])


def fading_window():
    """Ages 0 to 150: past them, the fading kernels used here are below rounding."""
    return gauss(0.0, 150.0, pieces=60)


def kernels(measure, N):
    """Ages s (K,) and k_n(s) times quadrature weight (N, K): x_n(t) = sum of u(t - s) k_n(s)."""
    if measure == "legt":
        s, w = gauss(0.0, THETA)
        return s, legendre_rows(N, 1 - 2 * s / THETA) * w / THETA
    if measure == "chebt":
        z, w = special.roots_chebyt(80)
        rows = np.array([special.chebyt(n)(z) * (np.sqrt(2) if n else 1.0) for n in range(N)])
        return (1 - z) * THETA / 2, rows * w / np.pi
    if measure == "fout":
        s, w = gauss(0.0, THETA)
        rows = []
        for n in range(N):
            wave = np.sin if n % 2 else np.cos
            rows.append((np.sqrt(2) if n else 1.0) * wave(2 * np.pi * (n // 2) * s / THETA))
        return s, np.array(rows) * w / THETA
    s, w = fading_window()
    if measure == "lagt":
        return s, np.array([special.laguerre(n)(s) * np.exp(-s / 2) for n in range(N)]) * w
    alpha, beta = GLAGT["alpha"], GLAGT["beta"]
    tilt_norm = np.sqrt(special.gamma(1 - alpha) * beta ** (alpha - 1))
    rows = []
    for n in range(N):
        norm = np.sqrt(special.gamma(n + alpha + 1) / special.factorial(n))
        rows.append(special.genlaguerre(n, alpha)(s) * np.exp(-(1 + beta) * s / 2) / norm)
    return s, np.array(rows) * w / tilt_norm


def arguments(measure):
    return {"glagt": GLAGT, "lagt": {}, "legs": {}}.get(measure, {"theta": THETA})


def residual(measure, N, u, du, t):
    """Largest |x' - (A x + B u)| for the optimal coefficients x of u at time t."""
    A, B = transition(measure, N, **arguments(measure))
    s, k = kernels(measure, N)
    x, dx = k @ u(t - s), k @ du(t - s)
    return np.abs(dx - (A @ x + B[:, 0] * u(t))).max()


def smooth(t):
    return np.sin(2 * t) + 0.5 * np.cos(0.7 * t)


def smooth_derivative(t):
    return 2 * np.cos(2 * t) - 0.35 * np.sin(0.7 * t)


@pytest.mark.parametrize("N", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("t", [0.3, 2.0, 11.0])
def test_legs_holds_for_every_signal(N, t):
    A, B = transition("legs", N)
    z, w = gauss(0.0, 1.0)
    p = legendre_rows(N, 2 * z - 1) * w
    x, dx = p @ smooth(t * z), p @ (z * smooth_derivative(t * z))
    np.testing.assert_allclose(dx, (A @ x + B[:, 0] * smooth(t)) / t, rtol=0, atol=1e-11 * N**2)


@pytest.mark.parametrize("measure", ["lagt", "glagt"])
@pytest.mark.parametrize("N", [1, 2, 3, 8, 20])
def test_laguerre_holds_for_every_signal(measure, N):
    assert residual(measure, N, smooth, smooth_derivative, t=2.0) < 1e-11 * N**2


@pytest.mark.parametrize("measure, degree", [("legt", -1), ("chebt", 0)])
@pytest.mark.parametrize("N", [1, 2, 3, 8, 20])
def test_windows_hold_for_polynomials(measure, degree, N):
    # Chebyshev polynomials keep the check well conditioned; any basis of the degree would do.
    for n in range(N + degree + 1):
        u = np.polynomial.Chebyshev.basis(n, domain=[0, 3])
        assert residual(measure, N, u, u.deriv(), t=2.0) < 1e-11 * N**4


@pytest.mark.parametrize("phase", [0.0, 1.0])
@pytest.mark.parametrize("frequency", [0, 1, 2, 9])
def test_fout_holds_for_periodic_signals(frequency, phase):
    w = 2 * np.pi * frequency / THETA

    def u(t):
        return np.cos(w * t + phase)

    def du(t):
        return -w * np.sin(w * t + phase)

    assert residual("fout", 20, u, du, t=2.0) < 1e-9


@pytest.mark.parametrize("measure", ["legt", "chebt"])
def test_windows_hold_ever_better_for_smooth_signals(measure):
    errors = [residual(measure, N, smooth, smooth_derivative, t=2.0) for N in (4, 8, 12)]
    assert errors[1] < 1e-3 * errors[0] and errors[2] < 1e-3 * errors[1]


def test_fout_estimates_the_oldest_sample_ever_better():
    # The jump between now and theta ago costs accuracy: the estimate improves, like 1 / N.
    s, k = kernels("fout", 64)
    x = k @ smooth(2.0 - s)
    errors = []
    for N in (8, 16, 32, 64):
        series = basis("fout", N, [1.0]) @ x[:N]
        errors.append(abs(2 * series[0] - smooth(2.0) - smooth(2.0 - THETA)))
    ratios = np.array(errors[1:]) / errors[:-1]
    assert np.all(ratios < 0.6)


@pytest.mark.parametrize("measure", ["legt", "lagt", "glagt", "fout", "chebt"])
def test_basis_inverts_the_projection(measure):
    # Projecting basis function j must give the j-th unit vector, nothing else.
    N = 8
    s, k = kernels(measure, N)
    span = {"lagt": 150.0, "glagt": 150.0}.get(measure, THETA)
    extra = arguments(measure) | {"theta": span}
    gram = k @ basis(measure, N, 1 - s / span, **extra)
    expected = np.eye(N)
    if measure == "fout":
        expected[1, 1] = 0.0  # the sine of frequency zero
    # s**0.4 has a kink at age 0, where Gauss-Legendre converges slowly.
    np.testing.assert_allclose(gram, expected, rtol=0, atol=1e-4 if measure == "glagt" else 1e-11)


def test_basis_at_one_moment_is_a_row():
    for measure in ("legs", "legt", "lagt", "chebt"):
        row = basis(measure, 5, 0.3)
        assert row.shape == (5,)
        assert np.array_equal(row, basis(measure, 5, [0.3])[0])
    with pytest.raises(ValueError, match="t spans"):
        basis("legs", 5, 1.5)


def test_legs_basis_is_orthonormal():
    z, w = gauss(0.0, 1.0)
    p = basis("legs", 20, z)
    np.testing.assert_allclose((p.T * w) @ p, np.eye(20), rtol=0, atol=1e-12)


@pytest.mark.parametrize("measure", ["legt", "lagt", "glagt", "fout", "chebt", "legs"])
@pytest.mark.parametrize("N", [2, 16, 64])
def test_no_memory_grows(measure, N):
    A, _ = transition(measure, N)
    assert np.linalg.eigvals(A).real.max() < 1e-9


def test_theta_is_the_unit_of_time():
    for measure in ("legt", "fout", "chebt"):
        A, B = transition(measure, 6)
        A3, B3 = transition(measure, 6, theta=3.0)
        np.testing.assert_allclose(A3, A / 3, rtol=1e-15)
        np.testing.assert_allclose(B3, B / 3, rtol=1e-15)


def test_fout_is_singular():
    A, _ = transition("fout", 8)
    assert np.linalg.matrix_rank(A) == 7


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt", "glagt", "fout", "chebt"])
def test_shapes_and_dtype(measure):
    A, B = transition(measure, 6)
    assert A.shape == (6, 6) and B.shape == (6, 1)
    assert A.dtype == B.dtype == np.float64


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: transition("legz", 4), ValueError, "measure.*legs"),
        (lambda: transition("legs", 0), ValueError, "N"),
        (lambda: transition("legs", 2.5), TypeError, "N"),
        (lambda: transition("fout", 5), ValueError, "even"),
        (lambda: transition("legt", 4, theta=0.0), ValueError, "theta"),
        (lambda: transition("legt", 4, theta=np.nan), ValueError, "theta"),
        (lambda: transition("legs", 4, theta=1.0), TypeError, "theta.*legs"),
        (lambda: transition("glagt", 4, alpha=1.0), ValueError, "alpha"),
        (lambda: transition("glagt", 4, beta=-1.0), ValueError, "beta"),
        (lambda: basis("legs", 4, [1.1]), ValueError, "t spans"),
        (lambda: basis("legs", 4, [[0.5]]), ValueError, "t has shape"),
        (lambda: basis("legs", 4, [0.5], theta=2.0), TypeError, "theta"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
