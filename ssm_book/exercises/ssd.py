"""Checks for the chapter on state space duality."""

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned

__all__ = [
    "check_best_chunk",
    "check_half_life",
    "check_learn_rate",
    "check_segment_sums",
    "check_ssd_gradient",
    "check_ssd_piece",
]


def _array(answer, name):
    """A returned array of numbers, or a plain word about what came instead."""
    try:
        return np.asarray(returned(answer, name), dtype=float)
    except (TypeError, ValueError):
        raise AssertionError(f"{name} does not return an array of numbers.") from None


def _scan(v, a, B, C, x=None):
    """The recurrence: outputs (L, p) and the last state (p, n)."""
    x = np.zeros((v.shape[1], B.shape[1])) if x is None else x
    y = np.empty(v.shape)
    for k in range(len(v)):
        x = np.exp(a[k]) * x + v[k][:, None] * B[k]
        y[k] = x @ C[k]
    return y, x


def check_half_life(half_life):
    """Check ``half_life(A_log, dt)``: how many steps it takes a state to fall to a half.

    Args:
        half_life (callable): takes the parameter A_log of a head, as checkpoints store it, and a step
            size, above 0; returns a number of steps, a float, which need not be whole.
    """
    for A_log, dt in ((1.0, 2.0), (np.log(16), 0.001), (np.log(16), 0.1), (-3.0, 0.5), (0.0, 0.1)):
        name = f"half_life({A_log:.3g}, {dt:g})"
        with np.errstate(all="ignore"):
            steps = _array(half_life(A_log, dt), "half_life")
        expect(steps.shape == (), f"{name} has shape {steps.shape}; expected one number.")
        want, rate = np.log(2) / (np.exp(A_log) * dt), np.exp(A_log)
        with np.errstate(all="ignore"):
            hints = (
                (-want, "A is negative: check the sign. Time does not run backwards."),
                (
                    np.log(2) / abs(A_log) / dt,
                    "You took A_log for A. It is the logarithm of −A: A = −exp(A_log).",
                ),
                (np.log(2) / A_log / dt, "You took A_log for A: A = −exp(A_log)."),
                (
                    np.log(2) / np.exp(A_log * dt),
                    "exp(Δ A_log) is not the rate. First A = −exp(A_log), then the decay exp(Δ A).",
                ),
                (
                    np.log(2) / -np.log(np.exp(-np.exp(-rate * dt))),
                    "That is one exponential too many: a step leaves exp(Δ A), not exp(−exp(Δ A)).",
                ),
                (1 / (rate * dt), "That is the time to 1/e, the time constant, not to a half."),
                (np.log(2) / rate, "That is a time. How many steps of Δ is it?"),
            )
        expect_close(
            name,
            steps,
            want,
            reason(steps, want, hints, "A step leaves exp(Δ A), A = −exp(A_log)."),
        )
    passed("how long a head remembers, from its stored parameter")


def check_segment_sums(segment_sums):
    """Check ``segment_sums(a)``: sums of a over segments, each added up by itself.

    Args:
        segment_sums (callable): takes logarithms of decays, float32 or float64 (L,); returns S (L, L)
            with S[k, j] = a[j + 1] + … + a[k] for k ≥ j, and −inf above the diagonal.
    """
    rng = np.random.default_rng(0)
    for a in (np.array([-1.0, -2.0, -3.0, -4.0]), -rng.uniform(0, 2, 9), np.array([-0.5])):
        L = len(a)
        S = _array(segment_sums(a.copy()), "segment_sums")
        expect(S.shape == (L, L), f"S has shape {S.shape}; expected {(L, L)}.")
        lower = np.tri(L, dtype=bool)
        want = np.array([[a[j + 1 : k + 1].sum() for j in range(L)] for k in range(L)])
        whole = np.array([[a[j : k + 1].sum() for j in range(L)] for k in range(L)])
        early = np.array([[a[j:k].sum() for j in range(L)] for k in range(L)])
        hints = (
            (
                whole[lower],
                "Yours has a[j] in it. Sample j is written at step j and not decayed there.",
            ),
            (early[lower], "That is a[j] + … + a[k − 1]. Which decays does sample j live through?"),
            (want.T[lower], "Rows are outputs k and columns inputs j: yours is transposed."),
        )
        expect_close(
            f"S for k ≥ j, L = {L},",
            S[lower],
            want[lower],
            reason(
                S[lower], want[lower], hints, "S[k, j] begins with a[j + 1] and ends with a[k]."
            ),
        )
        above = S[~lower]
        expect(
            bool(np.all(above == -np.inf)),
            "Above the diagonal S is not −inf, so exp(S) is not 0: an output would see later inputs.",
        )
    a = np.r_[np.full(300, -20.0), np.full(100, -0.0002)].astype(np.float32)
    with np.errstate(all="ignore"):
        S = np.asarray(segment_sums(a.copy()), dtype=float)
    last = S[-1, 299]
    expect(
        abs(last + 0.02) < 1e-4,
        f"In float32, after 300 steps of −20, the sum of 100 steps of −0.0002 is {last:.4g} "
        "with yours; expected −0.02. A difference of two cumulative sums loses what both have in "
        "common: add up each segment by itself.",
    )
    passed("sums over segments that keep their digits")


def check_best_chunk(best_chunk):
    """Check ``best_chunk(n, p, cost)``: the chunk size with the least weighted work.

    Args:
        best_chunk (callable): takes the states n, the channels p of a head, and how many times as
            much a multiplication outside matrix products costs; returns the chunk size Q, a float.
    """
    for n, p, cost in ((64, 64, 1), (128, 64, 1), (128, 64, 16), (16, 64, 4), (256, 32, 30)):
        name = f"best_chunk({n}, {p}, {cost})"
        Q = _array(best_chunk(n, p, cost), "best_chunk")
        expect(Q.shape == (), f"{name} has shape {Q.shape}; expected one number.")
        want = np.sqrt(cost * n * p / (n + p))
        hints = (
            (want**2, "That is the square of it: set the derivative with respect to Q to zero."),
            (
                np.sqrt(n * p / (n + p)),
                "Only the passing of states costs more: where does `cost` go?",
            ),
            (
                np.sqrt(n * p / (n + p) / cost),
                "`cost` is on the wrong side: the dearer the passing of states, the longer the chunks.",
            ),
            (
                np.sqrt((2 + cost) * n * p / (n + p)),
                "2 n p a step, for chunk states and outputs, does not depend on Q.",
            ),
            (
                np.sqrt(cost * n * p / p),
                "Inside a chunk there are two products: C Bᵀ takes n, too.",
            ),
            (
                np.sqrt(cost * n * p / n),
                "Inside a chunk there are two products: the second takes p.",
            ),
        )
        expect_close(
            name,
            Q,
            want,
            reason(Q, want, hints, "Which part grows with Q, which falls, which stays?"),
            rtol=1e-6,
        )
    passed("the chunk with the least work")


def check_ssd_piece(ssd_piece):
    """Check ``ssd_piece(v, a, B, C, x)``: one chunk with the state before it.

    Args:
        ssd_piece (callable): takes inputs v (L, p), already multiplied by their step sizes, logarithms
            of decays a (L,), B and C (L, n) and the state before the first step x (p, n); returns the
            outputs y (L, p) and the state after the last step (p, n).
    """
    rng = np.random.default_rng(1)
    for L, p, n in ((5, 2, 3), (8, 3, 1), (1, 2, 2)):
        v, B, C = (rng.standard_normal((L, k)) for k in (p, n, n))
        a, x = -rng.uniform(0.1, 1, L), rng.standard_normal((p, n))
        answer = returned(ssd_piece(*(m.copy() for m in (v, a, B, C, x))), "ssd_piece")
        expect(
            isinstance(answer, (tuple, list)) and len(answer) == 2,
            "ssd_piece should return two arrays, the outputs and the state.",
        )
        y, after = (_array(part, "ssd_piece") for part in answer)
        want, state = _scan(v, a, B, C, x)
        inside, alone = _scan(v, a, B, C)
        lead = np.exp(np.cumsum(a))[:, None]
        hints = (
            (inside, "The state before the piece is missing: what do the outputs read of it?"),
            (inside + C @ x.T, "The entering state fades: by step k it has decayed k + 1 times."),
            (
                inside + lead / np.exp(a)[:, None] * (C @ x.T),
                "The entering state has decayed once more: y[k] is read after the decay of step k.",
            ),
            (
                inside + lead[-1] * (C @ x.T),
                "Each output sees the entering state at its own step, not at the end of the piece.",
            ),
        )
        expect_close(f"y, L = {L},", y, want, reason(y, want, hints, "Inside: (exp(S) ∘ C Bᵀ) v."))
        total = np.exp(a.sum())
        hints = (
            (alone, "The state after the piece has lost what entered: it only fades."),
            (alone + x, "What entered has faded by exp(a.sum()) at the end."),
            (v.T @ B + total * x, "What the piece writes fades, too: by exp(a[j+1] + … + a[L-1])."),
            (
                (np.exp(np.cumsum(a[::-1])[::-1])[:, None] * v).T @ B + total * x,
                "One decay too many: sample j is written after the decay of its own step.",
            ),
            (state.T, "The state is (p, n): yours is transposed."),
        )
        expect_close(
            f"the state after, L = {L},",
            after,
            state,
            reason(after, state, hints, "What entered, faded, and what each sample wrote, faded."),
        )
    passed("a chunk that takes a state and hands one on")


def check_ssd_gradient(ssd_gradient):
    """Check ``ssd_gradient(scan, dy, a, B, C)``: the gradient by the layer itself.

    Args:
        ssd_gradient (callable): takes the function scan(v, a, B, C), which returns the outputs (L, p)
            of the recurrence x ← exp(a_k) x + v_k B_kᵀ, y_k = x C_k from zero, the gradient dy (L, p)
            with respect to the outputs, and a (L,), B and C (L, n); returns the gradient with respect
            to v, (L, p).
    """
    rng, calls = np.random.default_rng(2), []

    def scan(v, a, B, C):
        calls.append(len(v))
        return _scan(*(np.asarray(m, dtype=float) for m in (v, a, B, C)))[0]

    for L, p, n in ((6, 2, 3), (9, 1, 2), (1, 3, 2)):
        dy, B, C = (rng.standard_normal((L, k)) for k in (p, n, n))
        a = -rng.uniform(0.1, 1.5, L)
        got = _array(ssd_gradient(scan, dy.copy(), a.copy(), B.copy(), C.copy()), "ssd_gradient")
        S = np.array([[a[j + 1 : k + 1].sum() for j in range(L)] for k in range(L)])
        want = (np.tril(np.exp(S)) * (C @ B.T)).T @ dy
        back = slice(None, None, -1)
        shifted = np.r_[0.0, a[:0:-1]]
        hints = (
            (_scan(dy, a, C, B)[0], "Time has to run backwards: outputs that come later."),
            (
                _scan(dy[back], a[back], C[back], B[back])[0][back],
                "Nearly: the decays are one step off. Between k and k + 1 lies a[k + 1].",
            ),
            (
                _scan(dy[back], shifted, B[back], C[back])[0][back],
                "B and C change places: the gradient enters where the output was read.",
            ),
            (
                _scan(dy[back], shifted, C[back], B[back])[0],
                "The result is in the order of reversed time: turn it round again.",
            ),
        )
        expect_close(
            f"the gradient, L = {L}, p = {p}, n = {n},",
            got,
            want,
            reason(got, want, hints, "dv is the transposed matrix times dy."),
        )
    expect(bool(calls), "Right, but scan was not called: can the layer do it itself?")
    passed("a layer that is its own gradient, backwards")


def check_learn_rate(learn_rate):
    """Check ``learn_rate(v, delta, B, C, y)``: the decay rate of a head, from its outputs.

    Args:
        learn_rate (callable): takes inputs v (L, p), already multiplied by their step sizes, step sizes
            delta (L,), B and C (L, n) and the outputs y (L, p) of a head with an unknown rate A;
            returns A, a float below 0.
    """
    rng = np.random.default_rng(3)
    for A in (-1.0, -0.2, -6.0):
        L = 48
        v, B, C = (rng.standard_normal((L, k)) for k in (4, 8, 8))
        delta = rng.uniform(0.02, 0.3, L)
        y, _ = _scan(v, delta * A, B, C)
        with np.errstate(all="ignore"):
            got = _array(learn_rate(v, delta, B, C, y), "learn_rate")
        expect(got.shape == (), f"learn_rate returns shape {got.shape}; expected one number.")
        why = "More updates, or larger ones?"
        if not np.isfinite(got):
            why = "An update was too large: descend in log(−A), and divide by the size of the loss."
        elif np.isclose(got, -A, rtol=0.02):
            why = "The sign: A itself is below 0."
        elif np.isclose(got, np.log(-A), rtol=0.02, atol=1e-3):
            why = "That is log(−A), the parameter A_log; asked for is A."
        elif got > 0:
            why = "A positive rate makes the state grow."
        elif np.isclose(got, -1):
            why = "Has it moved from its start? Check the gradient with a small difference."
        expect(abs(got / A - 1) < 0.02, f"A is {got:.4g}, expected {A:g}. {why}")
    passed("a decay rate, learned from what a head puts out")
