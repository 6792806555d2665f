"""Checks for the chapter on HiPPO."""

import tracemalloc

import numpy as np
from scipy.special import eval_legendre

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned
from ssm_core.hippo import project, transition
from ssm_core.lti import ContinuousSSM

__all__ = [
    "check_backward_step",
    "check_delay_row",
    "check_error_bar",
    "check_laguerre_response",
    "check_learn_row",
    "check_recall",
    "check_window_memory",
]


def check_error_bar(error_bar):
    """Check ``error_bar(u, N)``: after each sample, the error that LegS should have.

    Args:
        error_bar (callable): takes a signal (L,) and the number of coefficients; returns (L,).
    """
    signals = (
        ("a short signal", np.array([3.0, -1.0, 4.0, 4.0, -9.5]), 1),
        ("a noisy signal", np.random.default_rng(3).standard_normal(40), 6),
        ("a noisy signal with mean 2", 2 + np.random.default_rng(4).standard_normal(60), 4),
        ("a constant signal", np.full(20, 2.0), 3),
    )
    for name, u, N in signals:
        states = project(u, "legs", N, dt=1.0)
        seen = np.arange(1, len(u) + 1)
        recalled = np.sum(states**2, axis=1)
        square = np.cumsum(u**2) / seen - recalled
        want = np.sqrt(np.maximum(square, 0))
        kept = u.copy()
        bar = np.asarray(returned(error_bar(u, N), "error_bar"), dtype=float)
        expect(np.array_equal(u, kept), "error_bar changes u: work on a copy.")
        expect(
            bar.shape == u.shape,
            f"error_bar returns the shape {bar.shape}; expected {u.shape}, one error after each "
            "sample.",
        )
        expect(
            not np.any(np.isnan(bar)),
            "Some of the errors are NaN: where rounding or the step makes the square negative, "
            "the error bar is 0.",
        )
        weights = 2 * np.arange(N) + 1
        hints = (
            (np.maximum(square, 0), "That is the mean square error; its root is missing."),
            (
                np.sqrt(np.maximum(np.cumsum(u**2) - recalled, 0)),
                "The energy is the mean of u² so far, not its sum: the measure is 1/t.",
            ),
            (
                np.sqrt(np.maximum(np.mean(u**2) - recalled, 0)),
                "The mean of u² must be the one so far, a number for each sample; yours already "
                "contains the samples that are still to come.",
            ),
            (
                np.sqrt(np.maximum(np.cumsum(u**2) / seen - states[:, 0] ** 2, 0)),
                "That is the standard deviation of the past. Subtract the squares of all N "
                "coefficients, not of the first only.",
            ),
            (
                np.sqrt(np.maximum(np.cumsum(u**2) / seen - states**2 @ weights, 0)),
                "The functions are orthonormal already, so the squares have no factor 2n + 1.",
            ),
            (
                np.sqrt(np.cumsum(u**2) / seen),
                "That is the energy of the signal; the sum of the squared coefficients comes off.",
            ),
        )
        why = "The square of the error is the mean of u² so far minus the sum of the x_n²."
        # A square that is zero but for rounding has a root of 1e-8.
        expect_close(
            f"the error bar of {name}", bar, want, reason(bar, want, hints, why), atol=1e-6
        )
    passed("a memory that knows its error, as far as the step allows")


def check_delay_row(delay_row):
    """Check ``delay_row(N, fraction) -> C`` (N,): C x(t) is about u(t - fraction theta) for legt.

    Args:
        delay_row (callable): takes the number of coefficients and a fraction in [0, 1].
    """
    for N, fraction in ((1, 0.5), (4, 0.0), (5, 1.0), (12, 0.3)):
        n = np.arange(N)
        row = np.asarray(returned(delay_row(N, fraction), "delay_row"), dtype=float)
        expect(
            row.shape != (1, N),
            f"delay_row({N}, {fraction}) has shape {(1, N)}; expected {(N,)}: ask basis for one "
            "number, not for a list of one.",
        )
        want = np.sqrt(2 * n + 1) * eval_legendre(n, 1 - 2 * fraction)
        hints = (
            (
                np.sqrt(2 * n + 1) * eval_legendre(n, 2 * fraction - 1),
                "That is the row for a delay of (1 - fraction) theta: 1 is now and 0 is theta ago.",
            ),
            (
                want / np.sqrt(2 * n + 1),
                "The basis is sqrt(2n + 1) P_n(1 - 2 s / theta): the factor sqrt(2n + 1) is missing.",
            ),
        )
        expect_close(
            f"delay_row({N}, {fraction})",
            row,
            want,
            reason(row, want, hints, "Entry n is p_n at the age fraction * theta."),
        )
    passed("a delay line of N numbers, with a tap wherever you like")


def check_laguerre_response(laguerre_response):
    """Check ``laguerre_response(n, w)``: how the sine of frequency w reaches coefficient n of lagt.

    Args:
        laguerre_response (callable): takes an order n >= 0 and float64 (K,), returns complex (K,).
    """
    w = np.array([0.0, 0.1, 0.5, 2.0, 30.0])
    A, B = transition("lagt", 7)
    truth = ContinuousSSM(A, B, np.eye(7), np.zeros((7, 1))).frequency_response(w)
    for n in (0, 1, 2, 6):
        got = np.asarray(returned(laguerre_response(n, w.copy()), "laguerre_response"))
        want = truth[:, n, 0]
        hints = (
            (
                want.conj(),
                "That is the complex conjugate: the derivative of exp(i w t) brings down +i w.",
            ),
            (
                want * (-1.0) ** n,
                "A stage is (i w - 1/2) / (i w + 1/2), and yours has the opposite sign. The right "
                "stage changes the sign of a constant; yours leaves it alone.",
            ),
            (
                ((1j * w - 0.5) / (1j * w + 0.5)) ** n,
                "The stages are right; the low-pass filter 1 / (i w + 1/2) in front is missing.",
            ),
            (
                1 / (1j * w + 0.5) ** (n + 1),
                "A stage does not damp: row n minus row n - 1 contains "
                "the derivative of x_{n-1} too.",
            ),
        )
        expect_close(
            f"laguerre_response({n}, w)",
            got,
            want,
            reason(
                got,
                want,
                hints,
                "H_n / H_{n-1} = (i w - 1/2) / (i w + 1/2), and H_0 = 1 / (i w + 1/2).",
            ),
        )
    passed("one low-pass filter and a chain of equal all-passes")


def check_learn_row(learn_row):
    """Check ``learn_row(states, past, ridge) -> c`` (N,): least squares with a penalty.

    Args:
        learn_row (callable): takes states (M, N), past (M,) and ridge > 0, returns float64 (N,).
    """
    rng = np.random.default_rng(11)
    for M, N, ridge in ((5, 2, 0.3), (200, 4, 1e-3), (60, 6, 0.05)):
        states = rng.standard_normal((M, N)) @ np.diag(np.linspace(1, 3, N))
        past = states @ rng.standard_normal(N) + rng.standard_normal(M)
        got = np.asarray(returned(learn_row(states.copy(), past.copy(), ridge), "learn_row"))
        want = _ridge(states, past, M * ridge)
        hints = (
            (
                _ridge(states, past, 0.0),
                "That is least squares without the penalty: ridge is missing.",
            ),
            (
                _ridge(states, past, ridge),
                "The loss is a mean over the M rows and the penalty is not: in the normal equations "
                "of the sum, ridge has the factor M.",
            ),
            (
                np.linalg.solve(states.T @ states - M * ridge * np.eye(N), states.T @ past),
                "ridge has the wrong sign: its gradient 2 ridge c stands on the same side as "
                "X.T X c, so it is added to the diagonal.",
            ),
            (
                _ridge(states, past, M * ridge**2),
                "ridge multiplies the squared norm as it is; do not square it.",
            ),
            (
                _ridge(states, past, M * ridge / 2),
                "Both terms of the gradient have the factor 2; it cancels in both.",
            ),
            (
                states.T @ past / M,
                "That is the correlation of each number with the past; the numbers are correlated "
                "with each other, so a system has to be solved.",
            ),
        )
        why = "The gradient is zero where (X.T X / M + ridge I) c = X.T y / M."
        expect_close("learn_row(states, past, ridge)", got, want, reason(got, want, hints, why))
    passed("no other row has a smaller loss")


def check_recall(recall):
    """Check ``recall(x, ages)``: the past in a LegS state that was run without 1/t.

    Args:
        recall (callable): takes x (N,) and ages (K,) >= 0, returns float64 (K,).
    """
    N, ages = 6, np.array([0.0, 0.1, 0.7, 2.0, 8.0])
    z, w = np.polynomial.legendre.leggauss(60)
    z, w = (z + 1) / 2, w / 2
    n = np.arange(N)
    p = np.sqrt(2 * n + 1) * eval_legendre(n, 2 * z[:, None] - 1)
    for powers in ([1.0], [0.0, 2.0], [0.5, 0.0, -3.0, 1.0]):
        u = np.polynomial.Polynomial(powers)  # a signal that is a polynomial in exp(-age)
        x = p.T @ (w * u(z))
        got = np.asarray(returned(recall(x.copy(), ages.copy()), "recall"), dtype=float)
        hints = (
            (
                u(1 - np.exp(-ages)),
                "The two ends are exchanged: age 0 is exp(-0) = 1, which is now "
                "in reconstruct too.",
            ),
            (
                u(np.clip(1 - ages / ages.max(), 0, 1)),
                "That is LegS with 1/t, stretched evenly over the ages; without 1/t the state is a "
                "polynomial in exp(-age).",
            ),
            (
                u(np.exp(-ages)) * np.exp(-ages),
                "exp(-age) belongs to the measure, and is in the coefficients already.",
            ),
        )
        expect_close(
            "recall(x, ages)",
            got,
            u(np.exp(-ages)),
            reason(
                got,
                u(np.exp(-ages)),
                hints,
                "u(t - s) is the sum of x_n p_n(z) with "
                "p_n(z) = sqrt(2n + 1) P_n(2z - 1) at z = exp(-s).",
            ),
        )
    passed("the past on a logarithmic clock")


def check_backward_step(backward_step):
    """Check ``backward_step(u, x, k)``: one backward Euler step of LegS in O(N) operations.

    Args:
        backward_step (callable): takes the new sample, x (N,) and the sample's number k >= 2;
            returns (N,).
    """
    rng = np.random.default_rng(7)
    for N, k in ((1, 2), (3, 2), (8, 5), (40, 1000)):
        A, B = transition("legs", N)
        x, u = rng.standard_normal(N), float(rng.standard_normal())
        root = np.sqrt(2 * np.arange(N) + 1)
        want = np.linalg.solve((k - 1) * np.eye(N) - A, (k - 1) * x + B[:, 0] * u)
        hints = (
            (
                np.linalg.solve(k * np.eye(N) - A, k * x + B[:, 0] * u),
                "1/t is frozen at the beginning of the step, t = k - 1, so that the first coefficient "
                "is the mean.",
            ),
            (x + (A @ x + B[:, 0] * u) / k, "That is Euler's step: A must act on the new state."),
            (
                np.linalg.solve(
                    (k - 0.5) * np.eye(N) - A / 2, (k - 0.5) * x + A @ x / 2 + B[:, 0] * u
                ),
                "That is the bilinear step; here alpha is 1.",
            ),
            (
                want / np.sqrt(2 * np.arange(N) + 1),
                "Those are the scaled v_n: multiply them by sqrt(2n + 1).",
            ),
            (
                _residual_step(u, x, k, "old"),
                "The residual is made of the old coefficients; in backward Euler each row takes "
                "the new values of the rows above it.",
            ),
            (
                _residual_step(u, x / root, k, "unscaled") * root,
                "The residual subtracts (2n + 1) v_n = sqrt(2n + 1) x_n, and in your step a factor "
                "sqrt(2n + 1) is missing.",
            ),
            (
                _residual_step(u, x / root, k, "one") * root,
                "The residual is reduced by v_n, but what coefficient n says about the present is "
                "x_n p_n(1) = (2n + 1) v_n.",
            ),
            (
                _residual_step(u, x, k, "no root"),
                "x_n has been used for v_n = x_n / sqrt(2n + 1): a factor sqrt(2n + 1) is missing.",
            ),
            (
                _residual_step(u, x, k, "one"),
                "x_n has been used for v_n = x_n / sqrt(2n + 1): a factor sqrt(2n + 1) is missing.",
            ),
        )
        given = x.copy()
        got = np.asarray(returned(backward_step(u, given, k), "backward_step"), dtype=float)
        expect_close(
            f"backward_step for N = {N}, k = {k}",
            got,
            want,
            reason(got, want, hints, "((k - 1) I - A) x_new = (k - 1) x + B u."),
        )
        expect(
            np.array_equal(given, x),
            "The numbers are right, but the step has overwritten x: put them into a new array.",
        )
    N = 600
    most = _most_memory(lambda: backward_step(1.0, np.ones(N), 900))
    expect(
        most < N * N,
        f"The numbers are right, but for N = {N} the step takes {most / N / 8:.0f} numbers of memory "
        "for each coefficient: it makes a matrix, which costs O(N²) operations.",
    )
    passed("a triangular solve that is one running sum")


def check_window_memory(window_memory):
    """Check ``window_memory(weight, N) -> (A, B)`` for any weight on a window of length one.

    Args:
        window_memory (callable): takes weight (a function of the fraction z of the window, 1 now)
            and N; returns float64 (N, N) and (N, 1).
    """
    weights = (
        ("a constant weight", lambda z: 0 * z + 3.0),
        ("the weight exp(2 z)", lambda z: np.exp(2 * z)),
        ("the weight 1 + 4 (1 - z)²", lambda z: 1 + 4 * (1 - z) ** 2),
    )
    for name, weight in weights:
        for N in (2, 1, 5):  # for N = 1, half of A is LegT
            answer = returned(window_memory(weight, N), "window_memory")
            expect(len(answer) == 2, "window_memory should return two arrays, A and B.")
            A, B = (np.asarray(part, dtype=float) for part in answer)
            expect(A.shape == (N, N), f"A has shape {A.shape}; expected {(N, N)}.")
            expect(B.shape == (N, 1), f"B has shape {B.shape}; expected {(N, 1)}.")
            want_A, want_B = _by_interpolation(weight, N)
            pair = np.hstack([A, B])
            want = np.hstack([want_A, want_B])
            if np.allclose(A, transition("legt", N)[0]):
                why = (
                    "That is LegT, which takes the oldest value of the window from the "
                    "reconstruction. Here the coefficient of degree N is missing, and the newest "
                    "sample supplies it."
                )
            elif np.allclose(A, -want_A):
                why = "The sign is the opposite: z grows towards now, so d/dt u is +du/dz."
            elif np.allclose(A, 2 * want_A):
                why = "A is twice too large: the window has length 1 in z, and 2 only in v."
            elif np.allclose(A, want_A / 2):
                why = (
                    "A is half of what it should be: on [-1, 1] the variable is v = 2 z - 1, so a "
                    "derivative with respect to z is twice the one with respect to v."
                )
            elif np.allclose(np.abs(pair), np.abs(want)):
                why = (
                    "The sizes are right and some signs are not: the leading coefficients of the "
                    "polynomials should be positive, but a QR decomposition may flip them."
                )
            elif np.allclose(pair, np.hstack(_by_interpolation(weight, N, backwards=True))):
                why = "The weight is the wrong way round: z = 1 is now and z = 0 the oldest moment."
            elif np.allclose(pair, np.hstack(_by_interpolation(lambda z: 0 * z + 1, N))):
                why = (
                    "These are the matrices of a constant weight: the weight belongs to the inner "
                    "products that make the polynomials orthonormal, and to those of D."
                )
            else:
                why = (
                    "The coefficients of every polynomial of degree up to N must satisfy "
                    "x' = A x + B u, in the basis that is orthonormal for this weight."
                )
            expect_close(f"A for {name}, N = {N},", A, want_A, why, rtol=1e-6, atol=1e-6)
            expect_close(f"B for {name}, N = {N},", B, want_B, why, rtol=1e-6, atol=1e-6)
    passed("a memory for a measure of your own")


# --- independent truths and hints ----------------------------------------------------------------


def _ridge(states, past, penalty):
    """Least squares with a penalty, as plain least squares with N rows more."""
    N = states.shape[1]
    rows = np.vstack([states, np.sqrt(penalty) * np.eye(N)])
    return np.linalg.lstsq(rows, np.append(past, np.zeros(N)), rcond=None)[0]


def _residual_step(u, x, k, slip):
    """Backward Euler in one pass with one of the usual slips."""
    new, r = np.empty(len(x)), u
    for n, old in enumerate(x):
        root = np.sqrt(2 * n + 1)
        if slip == "old":  # the residual is made of the old coefficients
            new[n] = ((k - 1) * old + root * r) / (k + n)
            r = r - root * old
        elif slip == "no root":  # the coefficients x_n in the equation of the v_n
            new[n] = ((k - 1) * old + r) / (k + n)
            r = r - (2 * n + 1) * new[n]
        elif slip == "one":  # no root anywhere
            new[n] = ((k - 1) * old + r) / (k + n)
            r = r - new[n]
        else:  # "unscaled": the residual without the factor 2n + 1
            new[n] = ((k - 1) * old + r) / (k + n)
            r = r - root * new[n]
    return new


def _most_memory(call):
    """Bytes that Python and NumPy hold at once during a call, beyond those before it."""
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not already:
            tracemalloc.stop()


def _by_interpolation(weight, N, backwards=False):
    """(A, B) as the only matrices that serve N + 1 independent polynomial signals."""
    r, w = np.polynomial.legendre.leggauss(200)
    r = (r + 1) / 2
    w = w * weight(1 - r if backwards else r)
    w /= w.sum()
    p = []
    for n in range(N):  # Gram and Schmidt, twice for the sake of rounding
        f = eval_legendre(n, 2 * r - 1)
        for _ in range(2):
            f = f - sum((np.sum(w * f * g) * g for g in p), np.zeros_like(r))
        p.append(f / np.sqrt(np.sum(w * f**2)))
    signals = [np.polynomial.Chebyshev.basis(k, domain=[0, 1]) for k in range(N + 1)]
    states = np.array([[np.sum(w * f * u(r)) for f in p] + [u(1.0)] for u in signals])
    changes = np.array([[np.sum(w * f * u.deriv()(r)) for f in p] for u in signals])
    system = np.linalg.solve(states, changes).T
    return system[:, :N], system[:, N:]
