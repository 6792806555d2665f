"""Checks for the chapter on S4."""

import contextlib
import functools
import tracemalloc

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned
from ssm_core.hippo import transition

__all__ = [
    "check_circle",
    "check_low_rank_legt",
    "check_modes_to_kernel",
    "check_start",
    "check_transfer",
    "check_wrong_length",
]


def check_wrong_length(wrong_length):
    """Check ``wrong_length(K, L, M)``: what an inverse FFT at M roots makes of a C tilde for L roots.

    Args:
        wrong_length (callable): takes the kernel float64 (T,) until it has died out, with
            T >= L + M, and both lengths; returns float64 (M,).
    """
    rng = np.random.default_rng(0)
    for N, L, M in ((1, 6, 6), (3, 12, 6), (3, 5, 10), (4, 9, 4), (2, 7, 11)):
        A = rng.standard_normal((N, N))
        A *= 0.7 / np.abs(np.linalg.eigvals(A)).max()
        B, C = rng.standard_normal(N), rng.standard_normal(N)
        K = np.array([C @ np.linalg.matrix_power(A, j) @ B for j in range(200)])
        case = f"wrong_length for L = {L}, M = {M}"
        got = returned(wrong_length(K.copy(), L, M), "wrong_length")
        expect(got is not ..., "wrong_length returns ...: replace the dots by your answer.")
        got = np.asarray(got, dtype=float)
        expect(got.shape == (M,), f"{case} has shape {got.shape}; M = {M} roots give {(M,)}.")
        tilde = C - C @ np.linalg.matrix_power(A, L)
        z = np.exp(-2j * np.pi * np.arange(M) / M)
        want = np.fft.ifft([tilde @ np.linalg.solve(np.eye(N) - x * A, B) for x in z]).real
        late = np.r_[K[L:], np.zeros(L)]

        def folded(x, M=M):
            return np.pad(x, (0, -len(x) % M)).reshape(-1, M).sum(axis=0)

        hints = (
            (K[:M], "That is the kernel of C; the row here is C tilde."),
            (
                (K - late)[:M],
                "That is what a recurrence with C tilde returns. But M roots cannot tell "
                "z^j from z^(j + M).",
            ),
            (folded(K), "That folds the kernel of C; the row here is C tilde."),
            (folded(K + late), "C tilde is C minus C A^L: look at the sign."),
        )
        why = (
            "What is the kernel of C tilde, sample by sample? And which of its samples have the "
            "same powers of z at all M roots?"
        )
        expect_close(case, got, want, reason(got, want, hints, why))
    passed("what C tilde becomes at another length")


def check_low_rank_legt(low_rank_legt):
    """Check ``low_rank_legt(N, theta) -> P`` (N, 2) with A + A^T = -2 P P^T for LegT.

    Args:
        low_rank_legt (callable): takes the number of coefficients and the length of the window.
    """
    for N, theta in ((2, 1.0), (5, 1.0), (12, 3.0)):
        P = np.asarray(returned(low_rank_legt(N, theta), "low_rank_legt"), dtype=float)
        expect(P.shape == (N, 2), f"P has shape {P.shape}; expected {(N, 2)}.")
        A, _ = transition("legt", N, theta=theta)
        want, got = -(A + A.T) / 2, P @ P.T
        n = np.arange(N)
        one_column = np.sqrt(np.outer(2 * n + 1, 2 * n + 1)) / theta
        hints = (
            (2 * want, "P is too large by the square root of 2: the sum is -2 P P^T, not -P P^T."),
            (want * theta, "Everything in A is divided by theta, so P by its root."),
            (want / theta, "P is divided by theta, and should be divided by its root."),
            (
                one_column,
                "Orders of different parity must not meet: their entries cancel in the sum.",
            ),
        )
        expect_close(
            f"P P^T for N = {N}, theta = {theta}",
            got,
            want,
            reason(got, want, hints, "P P^T should be -(A + A^T) / 2."),
        )
    passed("even orders and odd orders, one column each")


def check_transfer(transfer):
    """Check ``transfer(Lambda, P, B, C, s)``: C (s - Lambda + P P*)^-1 B, with r columns in P.

    Neither a solver nor a matrix of the size of the state is allowed: solvers are watched while the
    answer runs, and the memory for a large state is measured. Systems of r equations may be solved.

    Args:
        transfer (callable): takes complex128 (N,), (N, r), (N,), (N,) and points (F,); returns (F,).
    """
    rng = np.random.default_rng(1)

    def draw(*shape):
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    def answer(Lambda, P, B, C, s):
        try:
            with _no_solver(P.shape[1]) as used:
                got = returned(transfer(Lambda, P, B, C, s), "transfer")
        except ValueError as error:
            if "broadcast" not in str(error) and "mismatch" not in str(error):
                raise
            raise AssertionError(
                f"NumPy says: {error}. Here Lambda, B and C are {Lambda.shape}, P is {P.shape} and s is "
                f"{s.shape}. Every point meets every eigenvalue: s[:, None] - Lambda is a table with a "
                "row for each point."
            ) from None
        expect(
            not used,
            f"transfer calls numpy.linalg.{used[0] if used else ''} for a matrix larger than r x r. "
            "Only the r numbers P* x have to be solved for.",
        )
        expect(got is not ..., "transfer returns ...: replace the dots by your answer.")
        return np.asarray(got)

    for N, F, r in ((4, 5, 1), (5, 3, 2), (30, 40, 2), (7, 7, 1), (6, 6, 3)):
        P, B, C = draw(N, r), draw(N), draw(N)
        Lambda, s = draw(N) - 3, draw(F) + 3
        R = 1 / (s[:, None] - Lambda)
        CB, CP, PB = R @ (C * B), (R * C) @ P, (R * B) @ P.conj()
        PP = np.einsum("fn,nk,nl->fkl", R, P.conj(), P)

        def joined(sign, inner, CB=CB, CP=CP, PB=PB):
            """C R B plus or minus the rest, with this r x r matrix at each point."""
            return CB + sign * (CP * np.linalg.solve(inner, PB[..., None])[..., 0]).sum(axis=1)

        def solved(A, column, row, points=s):
            return np.array([row @ np.linalg.solve(x * np.eye(len(A)) - A, column) for x in points])

        one, dense = np.eye(r), np.diag(Lambda) - P @ P.conj().T
        got = answer(Lambda, P, B, C, s)
        want = solved(dense, B, C)
        hints = (
            (CB, "That is the diagonal part alone."),
            (solved(dense, B, C.conj()), "C is a row already: it is not conjugated."),
            (solved(np.diag(Lambda) - P @ P.T, B, C), "P* is the conjugate of P, transposed."),
            (
                joined(1, one - PP),
                "That is Lambda + P P*: look at the sign of P q in (s - Lambda) x = B - P q.",
            ),
            (joined(1, one + PP), "Look at the sign of P q in x = R (B - P q)."),
            (joined(-1, one - PP), "Look at the sign in the equation for q."),
            (
                CB - (CP * PB / (1 + np.einsum("fkk->fk", PP))).sum(axis=1),
                "The r numbers in q = P* x are not independent: each of their equations has all of them.",
            ),
        )
        expect_close(
            f"transfer for N = {N} and {r} columns",
            got,
            want,
            reason(got, want, hints, "Which r equations does q = P* x satisfy?"),
        )
    N = 1000
    P, B, C = draw(N, 2), draw(N), draw(N)
    tracemalloc.start()
    try:
        answer(draw(N) - 3, P, B, C, draw(2) + 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    expect(
        peak < 8e6,
        f"For N = {N} and two points transfer takes {peak / 1e6:.0f} MB, as a matrix of size N x N "
        "does. The sums need vectors only.",
    )
    passed("an inverse of any size from a few sums")


@contextlib.contextmanager
def _no_solver(allowed):
    """While it is open, calls of NumPy's solvers for more unknowns than ``allowed`` are noted in the
    list that it gives."""
    used = []

    def watched(name, function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            if np.shape(args[0])[-1:] > (allowed,):
                used.append(name)
            return function(*args, **kwargs)

        return call

    names = "solve", "inv", "pinv", "lstsq", "eig", "tensorsolve", "tensorinv"
    functions = {name: getattr(np.linalg, name) for name in names}
    try:
        for name, function in functions.items():
            setattr(np.linalg, name, watched(name, function))
        yield used
    finally:
        for name, function in functions.items():
            setattr(np.linalg, name, function)


def check_start(start):
    """Check ``start(N, fastest)``: eigenvalues from which a delay of one unit can be read out.

    Args:
        start (callable): takes an even N and the largest frequency of the signal, in radians per unit
            of time; returns complex128 (N / 2,), one eigenvalue of each conjugate pair.
    """
    worst = 0.0
    for N, fastest in ((64, 79.0), (32, 31.0), (128, 126.0)):
        modes = returned(start(N, fastest), "start")
        expect(modes is not ..., "start returns ...: replace the dots by your answer.")
        modes = np.asarray(modes)
        case = f"start({N}, {fastest:g})"
        expect(
            modes.shape == (N // 2,),
            f"{case} has shape {modes.shape}; expected {(N // 2,)}, one of each conjugate pair.",
        )
        expect(np.all(np.isfinite(modes)), f"{case} is not finite everywhere.")
        expect(
            np.all(modes.real < 0),
            f"{case} has a real part of {modes.real.max():.3g}; a mode that does not fade never "
            "forgets what came before the delay.",
        )
        error = _read_out_error(modes, fastest)
        worst = max(worst, error)
        reach, decay = np.abs(modes.imag).max(initial=0), -np.median(modes.real)
        if np.abs(modes.imag).max() == 0:
            why = "None of the modes turns, so none can tell a sample from its neighbours."
        elif reach < 0.95 * fastest / (2 * np.pi) * 1.5:
            why = (
                f"The fastest mode turns with {reach:.3g} radians per unit of time, and the signal "
                f"has frequencies up to {fastest:g}. Do the frequencies lack a factor of 2 pi?"
            )
        elif reach < 0.95 * fastest:
            why = (
                f"The fastest mode turns with {reach:.3g} radians per unit of time, and the signal "
                f"has frequencies up to {fastest:g}."
            )
        elif decay > 5:
            why = (
                f"A typical mode fades to e^-{decay:.3g} within the delay. Rows that make up for this "
                "need very large entries, and the check excludes them."
            )
        elif decay < 1.2 * fastest / N:
            gap = np.median(np.diff(np.sort(modes.imag)))
            why = (
                f"A typical mode answers frequencies within {decay:.2g} of its own, and neighbours "
                f"are about {gap:.3g} apart. What lies between them is lost."
            )
        else:
            why = "Space the frequencies evenly, up to a little beyond the signal's."
        expect(error < 0.01, f"{case} has the error {error:.3f}, expected below 0.01. {why}")
    unit = 10.0 ** np.floor(np.log10(worst))
    worst = np.ceil(worst / unit) * unit
    passed(f"a delay of one unit of time, with an error of at most {worst:.0e}")


def _read_out_error(modes, fastest):
    """Mean of |G(iw) - exp(-iw)|^2 up to the fastest w, for the best C that is not excessively large."""
    w = np.linspace(0, fastest, 400)[:, None]
    one, other = 1 / (1j * w - modes), 1 / (1j * w - np.conj(modes))
    columns = np.hstack([one + other, 1j * (one - other)])  # for real and imaginary parts of C
    columns = np.vstack([columns.real, columns.imag])
    columns /= np.maximum(np.linalg.norm(columns, axis=0), 1e-12)
    target = np.exp(-1j * w[:, 0])
    target = np.r_[target.real, target.imag]
    C = np.linalg.lstsq(columns, target, rcond=1e-3)[0]
    return float(2 * np.mean((columns @ C - target) ** 2))


def check_circle(circle):
    """Check ``circle(L, tolerance, eps) -> (M, radius)``: fewest points, best radius.

    Args:
        circle (callable): takes the length of the kernel, the error allowed, and the precision.
    """
    for L, tolerance, eps in (
        (100, 1e-10, 2.2e-16),
        (1000, 1e-4, 1.2e-7),
        (64, 1e-3, 2.2e-16),
        (500, 1e-13, 2.2e-16),
    ):
        answer = returned(circle(L, tolerance, eps), "circle")
        expect(len(answer) == 2, "circle should return two things, M and the radius.")
        M, radius = answer
        case = f"circle({L}, {tolerance:g}, {eps:g})"
        expect(M == int(M), f"{case} has M = {M}; a number of points is whole.")
        expect(
            M >= L,
            f"{case} has M = {M}; with fewer than L points samples of the kernel itself coincide.",
        )
        expect(
            0 < radius < 1,
            f"{case} has the radius {radius}; the circle lies inside the unit circle.",
        )

        def worst(M, L=L, eps=eps):  # on a fine grid of log r, with the best between its points
            x = np.linspace(np.log(eps) / L, 0, 200_001)[:-1]
            return np.exp(np.min(np.maximum(M * x, np.log(eps) - L * x)))

        best = worst(M)
        expect(
            best <= tolerance * (1 + 1e-4),
            f"{case} has M = {M}: with so few points even the best radius leaves an error of "
            f"{best:.5g}. If your formula gives a fraction, round it up.",
        )
        folding, rounding = radius**M, eps * radius**-L
        reached = max(folding, rounding)
        larger = (
            f"folding, radius^M = {folding:.2g}, is the larger of the two errors, the other is "
            f"{rounding:.2g}: a smaller circle folds less."
            if folding >= rounding
            else f"amplified rounding, eps radius^-L = {rounding:.2g}, is the larger of the two "
            f"errors, the other is {folding:.2g}: a larger circle amplifies less."
        )
        expect(reached <= tolerance * (1 + 1e-6), f"{case} misses the tolerance: {larger}")
        expect(
            M == L or worst(M - 1) > tolerance * (1 - 1e-4),
            f"{case} has M = {M}, and fewer points would do.",
        )
        expect(
            reached <= 1.001 * best,
            f"{case} keeps the tolerance, but the larger error could be smaller: {larger}",
        )
    passed("the circle that balances folding and rounding")


def check_modes_to_kernel(modes_to_kernel):
    """Check ``modes_to_kernel(weights, log_decay, L)`` for short kernels and for a million samples.

    Args:
        modes_to_kernel (callable): takes complex128 (N,) twice and the length; returns float64 (L,).
    """
    rng = np.random.default_rng(2)
    for N, L in ((1, 1), (4, 10), (16, 1000)):
        weights, log_decay = _random_modes(rng, N)
        table = weights[:, None] * np.exp(log_decay[:, None] * np.arange(L))
        got = np.asarray(returned(modes_to_kernel(weights, log_decay, L), "modes_to_kernel"))
        want = 2 * table.sum(axis=0).real
        hints = (
            (want / 2, "The factor 2 is missing: each mode stands for its conjugate, too."),
            (2 * np.abs(table.sum(axis=0)), "That is the modulus; take the real part."),
            (
                2 * (table * np.exp(log_decay)[:, None]).sum(axis=0).real,
                "The first sample has j = 0, and all its powers are 1.",
            ),
        )
        expect_close(
            f"the kernel of {N} modes, L = {L},",
            got,
            want,
            reason(got, want, hints, "Sample j is twice the real part of the sum of w e^(j l)."),
        )
    N, L = 32, 1_000_000
    weights, log_decay = _random_modes(rng, N)
    tracemalloc.start()
    try:
        got = np.asarray(modes_to_kernel(weights, log_decay, L))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    expect(got.shape == (L,), f"The long kernel has shape {got.shape}; expected {(L,)}.")
    some = np.array([0, 1, 999, 1000, 1001, 123_456, L - 1])
    want = 2 * (weights[:, None] * np.exp(log_decay[:, None] * some)).sum(axis=0).real
    expect_close(
        "samples of the long kernel",
        got[some],
        want,
        "Powers of powers lose digits; multiply exponents.",
        rtol=0,
        atol=1e-8,
    )
    expect(
        peak < 50e6,
        f"A million samples took {peak / 1e6:.0f} MB; with the index written as two digits, 25 are "
        "enough.",
    )
    N, L = 16, 100_000
    weights, log_decay = _random_modes(rng, N)
    with _counting(log_decay) as (log_decay, counted):
        modes_to_kernel(weights, log_decay, L)
    expect(
        sum(counted) < N * L / 4,
        f"For {N} modes and {L:,} samples you compute {sum(counted):,} exponentials or powers. How "
        "many different ones are there, once the index is written as two digits?",
    )
    passed("a million samples from two small tables")


def _random_modes(rng, N):
    """Weights and logarithms of decays that last for the longest kernel here."""
    weights = (rng.standard_normal(N) + 1j * rng.standard_normal(N)) / N
    return weights, -rng.uniform(1e-6, 1e-5, N) + 1j * rng.uniform(0, np.pi, N)


POWERS = np.exp, np.exp2, np.expm1, np.power, np.float_power, np.cos, np.sin


class _Watched(np.ndarray):
    """An array that notes the sizes of all exponentials and powers that are made of it."""

    def __array_finalize__(self, parent):
        self.counted = getattr(parent, "counted", None)

    def __getitem__(self, index):  # one entry is watched as well
        return self.__array_wrap__(np.asarray(np.asarray(self)[index]))

    def __array_wrap__(self, array, context=None, return_scalar=False):
        watched = np.asarray(array).view(_Watched)
        watched.counted = self.counted
        return watched

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        def plain(x):
            return np.asarray(x) if isinstance(x, _Watched) else x

        if out is not None:
            kwargs["out"] = tuple(plain(x) for x in out)
        result = getattr(ufunc, method)(*(plain(x) for x in inputs), **kwargs)
        if ufunc in POWERS or method == "accumulate":
            self.counted.append(np.size(result))
        if out is not None:
            return out[0]
        return (
            self.__array_wrap__(result) if isinstance(result, np.ndarray | np.generic) else result
        )


@contextlib.contextmanager
def _counting(array):
    """The array, watched, and a list of the sizes of exponentials and powers computed while it is open,
    also of arrays that NumPy's functions have made plain again."""
    counted = []
    watched = array.view(_Watched)
    watched.counted = counted

    def noting(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            if not any(isinstance(x, _Watched) for x in args):
                counted.append(np.size(result))
            return result

        return call

    names = ("exp", "exp2", "expm1", "power", "cos", "sin", "cumprod")
    functions = {name: getattr(np, name) for name in names}
    try:
        for name, function in functions.items():
            setattr(np, name, noting(function))
        yield watched, counted
    finally:
        for name, function in functions.items():
            setattr(np, name, function)
