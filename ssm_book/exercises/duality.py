"""Checks for the chapter on duality."""

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, returned

__all__ = [
    "check_convolve",
    "check_crossing",
    "check_first_four",
    "check_learn_pole",
    "check_realize",
    "check_stream",
    "check_window_for",
]


def check_first_four(first_four):
    """Check ``first_four(a, b, c, d)``: the first four outputs of a system of size one.

    Args:
        first_four (callable): takes four floats, returns float64 (4,).
    """
    for a, b, c, d in ((0.5, 1.0, 2.0, 1.0), (-0.3, 2.0, 0.7, 0.0), (0.9, -1.0, 1.0, -4.0)):
        x, want = 0.0, []
        for u in (1.0, 0.0, 0.0, 0.0):
            x = a * x + b * u
            want.append(c * x + d * u)
        got = _numbers(first_four(a, b, c, d), "first_four")
        one_late = np.array([d, c * b, c * a * b, c * a**2 * b])
        if _same(got, one_late):
            why = "Your outputs come one step late: x_0 contains u_0 already, so y_0 = c b + d."
        elif _same(got, np.array(want) - np.array([d, 0, 0, 0])):
            why = "d acts on the first input too: it is added to the first output."
        elif _same(got, np.array(want) + d * np.array([0, 1, 1, 1])):
            why = "d passes on the present input only, and that is zero after the first step."
        else:
            why = "Follow the one through the recurrence by hand."
        expect_close(f"first_four({a}, {b}, {c}, {d})", got, np.array(want), why)
    passed("a kernel is what a single one becomes")


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
                "zeros to at least L + M - 1."
            )
        else:
            why = "y_k is the sum of K_j u_{k-j} over j = 0 ... k."
        expect_close(f"convolve for lengths {L} and {M}", got, want, why, atol=1e-9)
    passed("no output sees a later input")


def check_crossing(crossing):
    """Check ``crossing(d, share)``: the length at which attention makes up a share of the work.

    Args:
        crossing (callable): takes the width d (int) and a share (0, 1); returns an int.
    """
    for d, share in ((2560, 0.1), (768, 0.9), (64, 0.5), (100, 1 / 3)):
        L = _whole_number(crossing(d, share), "crossing")
        odds = share / (1 - share)
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
        if _about(L, 12 * d * share):
            why = "Q / (P + Q) is the share, not Q / P."
        for factor, hint in slips:
            if _about(L, factor * d * odds):
                why = hint
        exact = 12 * d * odds
        expect(
            L >= exact * (1 - 1e-12),
            f"For d = {d}, share = {share:.3g} your L = {L:,} is too short. {why}",
        )
        expect(
            L - 1 < exact * (1 + 1e-12),
            f"For d = {d}, share = {share:.3g} your L = {L:,} is longer than needed. {why}",
        )
    passed("the length at which attention itself becomes the expensive part")


def check_learn_pole(learn_pole):
    """Check ``learn_pole(u, y, W)``: the pole of an average, trained with a kernel of W terms.

    Args:
        learn_pole (callable): takes float64 u (L,) and y (L,) and an int; returns a float in (0, 1).
    """
    for seed, (rho, W) in enumerate(((0.9, 200), (0.5, 20), (0.98, 30))):
        u = np.random.default_rng(seed).standard_normal(5000)
        y, last = np.empty(len(u)), 0.0
        for k, u_k in enumerate(u):
            last = y[k] = rho * last + (1 - rho) * u_k
        got = _numbers(learn_pole(u.copy(), y.copy(), W), "learn_pole")
        expect(got.ndim == 0, f"learn_pole should return one number; yours has shape {got.shape}.")
        expect(
            not np.iscomplexobj(got) and bool(0 < got < 1),
            f"The pole of an average lies between 0 and 1; yours is {got}.",
        )
        got = float(got)
        if abs(got - (1 - rho)) < 0.05 * (1 - rho) and rho != 0.5:
            why = "That is the weight of the newest sample; the pole is 1 minus it."
        elif got < 0.5 * rho:
            why = "Does the kernel have the factor 1 - rho? And does it begin with j = 0?"
        else:
            why = (
                "Has the loss stopped falling? If not, take more updates or a larger learning rate."
            )
        expect(
            abs(got - rho) < 0.15 * (1 - rho),
            f"For a pole of {rho} and W = {W} yours is {got:.4f}. {why}",
        )
    passed("the pole, also where the kernel is shorter than the memory")


def check_window_for(window_for):
    """Check ``window_for(c, decays, error)``: the shortest window that is good enough.

    Args:
        window_for (callable): takes c (N,) > 0, decays (N,) in (0, 1) and a float; returns an int.
    """
    cases = (
        (np.array([1.0]), np.array([0.5]), 0.3),
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
        if W == max(largest_term, 0):
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
    for N, L in ((1, 1), (3, 2), (4, 50)):
        lam = np.exp(-rng.random(N) + 1j * rng.standard_normal(N))
        B, C, x = (rng.standard_normal(N) + 1j * rng.standard_normal(N) for _ in range(3))
        u = rng.standard_normal(L)
        y, state = np.empty(L), x.copy()
        for k in range(L):
            state = lam * state + B * u[k]
            y[k] = (C @ state).real
        answer = returned(stream(lam.copy(), B.copy(), C.copy(), u.copy(), x.copy()), "stream")
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
        x, got = B, []
        for _ in j:
            got.append((C @ x).item())
            x = A @ x
        why = (
            "Your kernel comes one step early: K_0 = C B, so the Hankel matrix begins with K_0."
            if np.allclose(got[:-1], K[1:], atol=1e-6)
            else "The rows of O are C A^i, the columns of R are A^j B, and O without its first row is "
            "(O without its last row) A."
        )
        expect_close(
            f"the kernel of your system of size {N}", np.array(got), K, why, rtol=1e-6, atol=1e-7
        )
    passed("a system with that kernel; in which coordinates is up to you")


def _same(got, wrong):
    return np.shape(got) == np.shape(wrong) and np.allclose(got, wrong)


def _about(L, exact):
    """Whether L is a number rounded to a whole one, either way."""
    return abs(L - exact) <= 1


def _numbers(answer, name):
    """The answer as an array of numbers, or a sentence about it."""
    answer = returned(answer, name)
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
