"""Checks for the chapter on duality."""

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, returned

__all__ = [
    "check_convolve",
    "check_first_four",
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
        got = np.asarray(returned(first_four(a, b, c, d), "first_four"), dtype=float)
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
        got = np.asarray(returned(convolve(u.copy(), K.copy()), "convolve"))
        expect(not np.iscomplexobj(got), "The result is complex; use irfft, or take the real part.")
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
    )
    for c, decays, error in cases:

        def tail(W, c=c, decays=decays):
            return float(np.sum(c * decays ** float(W) / (1 - decays)))

        W = returned(window_for(c.copy(), decays.copy(), error), "window_for")
        expect(
            np.ndim(W) == 0 and W == int(W) and W >= 0,
            f"window_for should return a whole number, 0 or more; yours is {W!r}.",
        )
        W = int(W)
        largest_term = (
            int(np.ceil(np.log(error / c.sum()) / np.log(decays.max()))) if c.sum() else 0
        )
        where = f"For c = {c}, decays = {decays}, error = {error:g} your W = {W}"
        hint = (
            " Bounding the first missing term is not enough: the whole tail adds up."
            if W == max(largest_term, 0)
            else ""
        )
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
        expect(len(answer) == 2, "stream should return two things: the outputs and the state.")
        got, after = (np.asarray(part) for part in answer)
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
        expect(len(answer) == 3, "realize should return three arrays, A, B and C.")
        A, B, C = (np.asarray(part) for part in answer)
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
