"""Checks for the chapter on duality."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.signal import lfilter

from ssm_book.exercises._report import expect, expect_close, passed, returned

__all__ = [
    "check_convolve",
    "check_crossing",
    "check_learn_pole",
    "check_read_off",
    "check_realize",
    "check_stream",
    "check_window_for",
]


def check_read_off(read_off):
    """Check ``read_off(y) -> (a, cb, d)``: a system of size one from its answer to 1, 0, 0, 0.

    Args:
        read_off (callable): takes float64 (4,), returns a, the product c b, and d.
    """
    for a, b, c, d in ((0.5, 1.0, 2.0, 1.0), (-0.3, 2.0, 0.7, 0.0), (0.9, -1.0, 1.0, -4.0)):
        kernel = c * b * a ** np.arange(4)
        want = np.array([a, c * b, d])
        got = _numbers(read_off(kernel + d * np.array([1.0, 0, 0, 0])), "read_off")
        expect(
            got.shape == (3,),
            f"read_off should return three numbers, a, c b and d; yours has shape {got.shape}.",
        )
        hints = (
            (
                [kernel[1] / (c * b + d), c * b + d, 0.0],
                "The first output is c b + d: find a from outputs to which d adds nothing.",
            ),
            ([a, c * b + d, d], "The first output is c b + d, not c b."),
            ([a, c * a * b, c * b + d - c * a * b], "The second output is c a b: divide it by a."),
            ([a, c * b, c * b + d], "The first output is c b + d, not d."),
            ([1 / a, c * b, d], "That is 1 / a: each output is a times the one before."),
        )
        why = "The outputs are c b + d, c a b, c a^2 b and c a^3 b."
        for wrong, hint in hints:
            if _same(got, np.array(wrong)) and not _same(want, np.array(wrong)):
                why = hint
        expect_close(f"read_off for a = {a}, c b = {c * b:g}, d = {d}", got, want, why)
    passed("a, c b and d; b and c alone cannot be told apart")


def check_convolve(convolve):
    """Check ``convolve(u, K)``: the causal convolution of a signal with a kernel of any length.

    Args:
        convolve (callable): takes float64 (L,) and (M,), returns float64 (L,).
    """
    rng = np.random.default_rng(3)
    for L, M in ((8, 8), (16, 16), (9, 3), (5, 12), (100, 64), (1, 1)):
        u, K = rng.standard_normal(L), rng.standard_normal(M)
        want = np.convolve(u, K)[:L]
        got = _numbers(convolve(u.copy(), K.copy()), "convolve")
        expect(not np.iscomplexobj(got), "The result is complex; use irfft, or take the real part.")
        untold = [
            np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(K, n))[:L]
            for n in range(L + M - 1, L + M + 8)
            if n > 1
        ]  # large enough circles, but the way back assumes an even one
        expect(
            _same(got, want) or not any(_same(got, even) for even in untold),
            "irfft cannot tell from the spectrum whether n was even or odd, and assumes an even "
            "number of samples: pass n to irfft, too.",
        )
        expect(
            got.shape == (L,),
            f"The result has {got.size} samples for {L} inputs. Keep the "
            "first L: what follows is the kernel running out.",
        )
        circles = [
            np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(K, n), n)[:L] for n in range(L, L + M - 1)
        ]  # all that are too small
        if not _same(got, want) and any(_same(got, circle) for circle in circles):
            why = (
                "The end of the signal has wrapped round into its beginning: pad both with "
                "zeros to at least the sum of both lengths minus one."
            )
        else:
            why = "y_k is the sum of K_j u_{k-j} over j = 0 ... k."
        expect_close(f"convolve for lengths {L} and {M}", got, want, why, atol=1e-9)
    u, K = (rng.integers(-(10**6), 10**6, 500).astype(float) for _ in range(2))
    expect(
        not np.array_equal(convolve(u.copy(), K.copy()), np.convolve(u, K)[:500]),
        "Right, but added up directly, in about L^2 / 2 steps: products of whole numbers came out "
        "without any rounding, as no FFT computes them. Use np.fft.rfft and np.fft.irfft.",
    )
    passed("no output sees a later input")


def check_crossing(crossing):
    """Check ``crossing(d, percent)``: the length at which attention makes up a part of the work.

    Args:
        crossing (callable): takes the width d (int) and a percentage (int, 1 to 99); returns an int.
    """
    for d, percent in ((2560, 10), (768, 90), (64, 50), (100, 33), (2560, 90)):
        L = _whole_number(crossing(d, percent), "crossing")
        whole, left = divmod(12 * d * percent, 100 - percent)
        right = whole + (left > 0)
        odds = percent / (100 - percent)
        slips = (
            (
                6,
                "In training a token looks back over half of the sequence on average, not all of it.",
            ),
            (
                24,
                "Attention compares and then sums up values: both cost a multiplication per number.",
            ),
            (4, "The feed-forward network is missing: its two matrices take 8 d^2."),
            (8, "The four projections of attention are missing: they take 4 d^2."),
            (11, "There are four projections: queries, keys, values and the output."),
        )
        why = "Attention takes L d per token and the matrices take as many as they have entries."
        if _about(L, 12 * d * percent / 100):
            why = "The share is Q / (P + Q), not Q / P."
        for factor, hint in slips:
            if _about(L, factor * d * odds):
                why = hint
        if L == right - 1:
            why = "It is one too short: round up, not down."
        elif L == right + 1 and not left:
            why = (
                f"{right:,} reaches it exactly; a quotient of floats came out a little too large, "
                "and rounding up added one. Divide whole numbers: -(-p // q) rounds up."
            )
        elif L == right + 1:
            why = "It is one too long: round up, and add nothing."
        where = f"For d = {d} and {percent} % your L = {L:,} is"
        expect(L >= right, f"{where} too short. {why}")
        expect(L <= right, f"{where} longer than needed. {why}")
    passed("the length at which attention itself becomes the expensive part")


def check_learn_pole(learn_pole):
    """Check ``learn_pole(u, y, W)``: the pole of an average, trained with a kernel of W terms.

    The outputs carry noise, and some inputs change slowly, so that the best kernel of W terms has
    another pole than the average.

    Args:
        learn_pole (callable): takes float64 u (L,) and y (L,) and an int; returns a float in (0, 1).
    """
    # pole, terms, samples, and the inputs: white noise, or a random walk that has moved away from 0
    cases = ((0.9, 200, 5000, False), (0.5, 20, 5000, False), (0.98, 30, 5000, False))
    # on the short walk, a kernel without padding has a pole that no other mistake has
    cases += ((0.95, 20, 200, True), (0.99, 50, 1000, True))
    for seed, (rho, W, L, walk) in zip((0, 1, 2, 4, 3), cases, strict=True):
        rng = np.random.default_rng(seed)
        u = rng.standard_normal(L)
        if walk:
            u = np.cumsum(u + 0.2)
        y = lfilter([1 - rho], [1, -rho], u)
        y = y + 0.2 * y.std() * rng.standard_normal(L)
        got = _numbers(learn_pole(u.copy(), y.copy(), W), "learn_pole")
        expect(got.ndim == 0, f"learn_pole should return one number; yours has shape {got.shape}.")
        expect(
            not np.iscomplexobj(got) and bool(0 < got < 1),
            f"The pole of an average lies between 0 and 1; yours is {got}.",
        )
        got, best = float(got), _best_pole(u, y, W)
        near = 0.05 * (1 - best)

        def close(pole, got=got, near=near):
            return abs(got - pole) < near

        if close(1 - best) and seed == 0:  # whoever mixes them up does so everywhere
            why = "That is the weight of the newest sample; the pole is 1 minus it."
        elif _in_the_valley_of(got, _best_pole(u, y, W, "unit sum"), best):
            why = (
                "Your kernel is scaled to a sum of 1. Leave it as it is, (1 - rho) rho^j: its W terms "
                "sum up to 1 - rho^W."
            )
        elif close(_best_pole(u, y, W, "circle")):
            why = "The end of the signal has wrapped round into its beginning: pad with zeros."
        elif close(_best_pole(u, y, W, "no factor")):
            why = "Does the kernel have the factor 1 - rho? And does it begin with j = 0?"
        elif close(_best_pole(u, y, L)):
            why = f"That is the best kernel without an end. Cut yours after W = {W} terms."
        elif close(_by_regression(u, y)):
            why = (
                "You have fitted each output to the one before. The outputs are noisy, which shifts "
                "that; fit the outputs of a convolution with W terms."
            )
        else:
            why = (
                "Has the loss stopped falling? If not, take more updates or a larger learning rate."
            )
        kind = "a random walk" if walk else "white noise"
        expect(
            close(best),
            f"With {kind}, a pole of {rho} and W = {W}, the kernel of W terms with the least mean "
            f"square has the pole {best:.4f}; yours is {got:.4f}. {why}",
        )
    passed("the pole of the best kernel of W terms, whether or not it is that of the average")


def check_window_for(window_for):
    """Check ``window_for(c, decays, error)``: the shortest window that is good enough.

    Args:
        window_for (callable): takes c (N,) > 0, decays (N,) in (0, 1) and a float; returns an int.
    """
    cases = (
        (np.array([1.0]), np.array([0.9]), 0.3),  # the first missing term alone would need 12
        (np.array([0.1, 2.0]), np.array([0.99, 0.5]), 1e-3),
        (np.array([1.0, 1.0, 0.5]), np.array([0.9, 0.999, 0.2]), 1e-6),
        (np.array([1e-6]), np.array([1 - 1e-6]), 1e-4),
        (np.array([0.1]), np.array([0.5]), 1.0),
        # the slowest mode alone would need 22, both together need 27
        (np.array([1.0, 5.0]), np.array([0.9, 0.85]), 1.0),
    )
    for c, decays, error in cases:

        def tail(W, c=c, decays=decays):
            return float(np.sum(c * decays ** float(W) / (1 - decays)))

        W = _whole_number(window_for(c.copy(), decays.copy(), error), "window_for")
        largest_term = int(np.ceil(np.log(error / c.sum()) / np.log(decays.max())))
        slowest = np.argmax(decays)
        rest = error * (1 - decays[slowest]) / c[slowest]
        slowest_alone = int(np.ceil(np.log(rest) / np.log(decays[slowest])))
        where = f"For c = {c}, decays = {decays}, error = {error:g} your W = {W}"
        hint = ""
        if tail(W) > error >= tail(W + 1):
            hint = " It is one term too short: with W terms, j = W is the first that is missing."
        elif W == max(largest_term, 0):
            hint = " Bounding the first missing term is not enough: the whole tail adds up."
        elif W == max(slowest_alone, 0):
            hint = " The slowest mode alone is not the tail: the other modes add to it."
        expect(tail(W) <= error * (1 + 1e-9), f"{where} leaves {tail(W):.3g}: too much.{hint}")
        expect(
            W == 0 or tail(W - 1) > error * (1 - 1e-9),
            f"{where} is more than needed: {W - 1} leaves {tail(W - 1):.3g}.",
        )
    passed("the shortest window for any error")


def check_stream(stream):
    """Check ``stream(lam, B, C, u, x)``: one chunk of a diagonal system, with the state carried.

    Args:
        stream (callable): takes lam, B, C (N,) complex, u (L,) float64 and x (N,) complex; returns
            y (L,) real and the new x (N,).
    """
    rng = np.random.default_rng(4)
    slowly = False
    for N, L in ((1, 1), (3, 2), (4, 50)):
        lam = np.exp(-rng.random(N) + 1j * rng.standard_normal(N))
        B, C, x = (rng.standard_normal(N) + 1j * rng.standard_normal(N) for _ in range(3))
        u = rng.standard_normal(L)
        y, state = np.empty(L), x.copy()
        for k in range(L):
            state = lam * state + B * u[k]
            y[k] = (C @ state).real
        watched = _Watched.of(u)
        answer = returned(stream(lam.copy(), B.copy(), C.copy(), watched, x.copy()), "stream")
        slowly |= watched.taken[0] >= L > 2
        expect(
            isinstance(answer, tuple | list) and len(answer) == 2,
            "stream should return two things: the outputs and the state.",
        )
        got, after = (_numbers(part, "stream") for part in answer)
        powers = lam[:, None] ** np.arange(L)
        from_zero = y - ((C * lam * x) @ powers).real
        if _same(got, from_zero):
            why = "The old state is missing in the outputs: add C Λ^(j+1) x to output number j."
        elif _same(got, from_zero + ((C * x) @ powers).real):
            why = "The old state takes one step before the first output: its power is j + 1."
        else:
            why = "y = (what the chunk's own inputs cause) + (what the old state still causes)."
        expect_close(f"y for N = {N}, L = {L}", got, y, why, atol=1e-9)
        if _same(after, state - lam**L * x):
            why = "The old state is missing in the new one: it has faded to Λ^L x."
        elif _same(after, B * (powers @ u) + lam**L * x):
            why = "The newest input has faded least: u must be reversed in the sum for the state."
        else:
            why = "x after the chunk is Λ^L x + the sum of Λ^j B u_(L-1-j)."
        expect_close(f"x for N = {N}, L = {L}", after, state, why, atol=1e-9)
    expect(
        not slowly,
        "Right, but it takes the inputs one by one, in a loop over time. A table of powers "
        "λ_n^j, (N, L), gives all outputs of the chunk at once.",
    )
    passed("a stream, chunk by chunk, with nothing lost in between")


def check_realize(realize):
    """Check ``realize(K, N) -> (A, B, C)``: a system of size N from its kernel.

    Args:
        realize (callable): takes K (L,) and N, returns A (N, N), B (N, 1) and C (1, N).
    """
    j = np.arange(60)
    kernels = (
        (1, 3.0 * 0.8**j),
        (2, 0.9**j * np.sin(0.5 * j + 1.0)),
        (3, 0.5**j - 2 * (-0.7) ** j + 0.95**j),
        (4, 0.97**j * np.cos(0.3 * j) + 0.9**j * np.sin(1.1 * j)),
    )
    for N, K in kernels:
        answer = returned(realize(K.copy(), N), "realize")
        expect(
            isinstance(answer, tuple | list) and len(answer) == 3,
            "realize should return three arrays, A, B and C.",
        )
        A, B, C = (_numbers(part, "realize") for part in answer)
        for name, part, shape in (("A", A, (N, N)), ("B", B, (N, 1)), ("C", C, (1, N))):
            expect(part.shape == shape, f"{name} has shape {part.shape}; expected {shape}.")
        got = _kernel_of(A, B, C, len(j))
        right_start = np.allclose(got[0], K[0], rtol=1e-6)
        if np.allclose(got[:-1], K[1:], atol=1e-6):
            why = (
                "Your kernel comes one step early: K_0 = C B, so the Hankel matrix begins with K_0."
            )
        elif not right_start:
            why = (
                f"C B should be K_0 = {K[0]:.3g}; yours is {got[0]:.3g}. Does the tall matrix times "
                "the wide one give back H, and do C and B come from where they meet in H[0, 0]?"
            )
        elif np.allclose(_kernel_of(A.T, B, C, len(j)), K, atol=1e-6):
            why = "B and C are right, and A is transposed."
        elif _invertible(A) and np.allclose(
            _kernel_of(np.linalg.inv(A), B, C, len(j)), K, atol=1e-6
        ):
            why = "B and C are right, and A goes one step back: it should lead from a row to the next."
        else:
            why = "K_0 is right, so look at A: one step must turn each row C A^i into the next."
        expect_close(f"the kernel of your system of size {N}", got, K, why, rtol=1e-6, atol=1e-7)
    passed("a system with that kernel; in which coordinates is up to you")


def _kernel_of(A, B, C, L):
    """The first L entries C A^j B; an unstable system overflows in silence."""
    x, kernel = B, np.empty(L, np.result_type(A, B, C))
    with np.errstate(all="ignore"):
        for k in range(L):
            kernel[k] = (C @ x).item()
            x = A @ x
    return kernel


def _invertible(A):
    return np.all(np.isfinite(A)) and np.linalg.cond(A) < 1e12


class _Watched(np.ndarray):
    """An array that counts how often a single entry is taken out of it."""

    @classmethod
    def of(cls, values):
        array = np.array(values).view(cls)
        array.taken = [0]
        return array

    def __array_finalize__(self, source):
        self.taken = getattr(source, "taken", [0])

    def __getitem__(self, index):
        if isinstance(index, int | np.integer):
            self.taken[0] += 1
        return super().__getitem__(index)

    def __iter__(self):
        self.taken[0] += len(self)
        return iter(np.asarray(self))


def _best_pole(u, y, W, kind="as it is"):
    """The pole whose kernel of W terms has the least mean square, by a grid and a search."""

    def loss(rho):
        K = (1 if kind == "no factor" else 1 - rho) * rho ** np.arange(W)
        if kind == "unit sum":
            K = K / K.sum()
        n = len(u) if kind == "circle" else len(u) + W
        output = np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(K, n), n)[: len(u)]
        return np.mean((output - y) ** 2)

    grid = 1 - np.geomspace(0.999, 1e-4, 60)
    best = int(np.argmin([loss(rho) for rho in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x)


def _in_the_valley_of(got, wrong, best):
    """Whether got is near a wrong pole whose loss is flat, so that training ends before it."""
    got, wrong, best = (np.log(pole / (1 - pole)) for pole in (got, wrong, best))
    return bool(wrong - 0.4 < got < wrong + 0.4 and abs(got - wrong) < abs(got - best))


def _by_regression(u, y):
    """The pole by least squares of y_k - u_k against y_{k-1} - u_k, without any kernel."""
    return float(np.linalg.lstsq((y[:-1] - u[1:])[:, None], (y - u)[1:], rcond=None)[0][0])


def _same(got, wrong):
    return np.shape(got) == np.shape(wrong) and np.allclose(got, wrong)


def _about(L, exact):
    """Whether L is a number rounded to a whole one, either way."""
    return abs(L - exact) <= 1


def _numbers(answer, name):
    """The answer as an array of numbers, or a sentence about it."""
    answer = returned(answer, name)
    expect(answer is not ..., f"{name} returns ...: replace the dots by your answer.")
    try:
        got = np.asarray(answer)
    except ValueError:  # rows of different lengths
        got = np.asarray(None)
    expect(
        got.dtype.kind in "biufc",
        f"{name} should return numbers in arrays of one shape; yours is a {type(answer).__name__} "
        "of something else.",
    )
    return got


def _whole_number(answer, name):
    """The answer as an int of 0 or more, or a sentence about it."""
    got = _numbers(answer, name)
    expect(
        got.ndim == 0
        and not np.iscomplexobj(got)
        and bool(np.isfinite(got))
        and got == np.floor(got)
        and got >= 0,
        f"{name} should return a whole number, 0 or more; yours is {answer!r}.",
    )
    return int(got)
