"""Checks for the chapter on the selective scan."""

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned

__all__ = [
    "check_chunk_starts",
    "check_combine",
    "check_exclusive_scan",
    "check_scan_gradient",
    "check_step_floors",
]


def check_combine(combine):
    """Check ``combine(first, second)``: two steps x -> a x + b as one, the first acting first.

    Args:
        combine (callable): takes two pairs (a, b) of float64 (n,); returns such a pair.
    """
    rng = np.random.default_rng(0)
    for n in (1, 5):
        (a1, b1), (a2, b2) = first, second = rng.standard_normal((2, 2, n))
        answer = returned(combine((a1.copy(), b1.copy()), (a2.copy(), b2.copy())), "combine")
        expect(len(answer) == 2, "combine should return two things, a and b of the joint step.")
        a, b = answer
        expect_close(
            "a of the joint step",
            a,
            second[0] * first[0],
            "Apply both steps to x: what is x multiplied by in the end?",
        )
        hints = (
            (
                a1 * b2 + b1,
                "That is the second step acting first. The earlier one is the first argument.",
            ),
            (
                b1 + b2,
                "What the first step adds passes through the second one, which shrinks it too.",
            ),
        )
        want = a2 * b1 + b2
        expect_close(
            "b of the joint step", b, want, reason(b, want, hints, "Apply both steps to x = 0.")
        )
    passed("two steps are one, and their order matters")


def check_exclusive_scan(exclusive):
    """Check ``exclusive(a, b, combine)``: what acts before each of L steps, with little work.

    Args:
        exclusive (callable): takes a and b, float64 (L,) with L a power of two, and a function
            that combines stacks of pairs; returns a and b of the steps before each, (L,) each.
    """
    rng = np.random.default_rng(1)
    for L in (1, 2, 8, 256):
        a, b = rng.uniform(0.5, 1.0, L), rng.standard_normal(L)
        calls, pairs = 0, 0

        def combine(first, second):
            nonlocal calls, pairs
            (a1, b1), (a2, b2) = first, second
            calls, pairs = calls + 1, pairs + np.size(a1)
            return a2 * a1, a2 * b1 + b2

        answer = returned(exclusive(a.copy(), b.copy(), combine), "exclusive")
        expect(len(answer) == 2, "exclusive should return two arrays, a and b.")
        want_a, want_b = np.ones(L), np.zeros(L)
        for k in range(1, L):
            want_a[k] = a[k - 1] * want_a[k - 1]
            want_b[k] = a[k - 1] * want_b[k - 1] + b[k - 1]
        got = np.asarray(answer[1])
        hints = (
            (
                a * want_b + b,
                "Yours are the states after each step. Before step 0 nothing has "
                "acted: the identity, a = 1 and b = 0, comes first.",
            ),
        )
        why = reason(
            got,
            want_b,
            hints,
            "On the way down a left child inherits what comes before its parent. Before "
            "the right child comes that, and then the left child's own steps, in this "
            "order: combine(before, left).",
        )
        expect_close(f"b for L = {L}", got, want_b, why)
        expect_close(f"a for L = {L}", answer[0], want_a, why)
        expect(
            L == 1 or calls > 0,
            "combine was never called: use it for every composition, so "
            "that the work can be counted.",
        )
        expect(
            L < 256 or pairs <= 3 * L,
            f"{pairs} pairs were combined for L = {L}, expected at "
            f"most {3 * L}. Doubling the reach of every entry takes L log2(L) of them; fold "
            "neighbours into half as many on the way up instead.",
        )
        allowed = 2 * int(np.log2(L)) + 2
        expect(
            calls <= allowed,
            f"combine was called {calls} times for L = {L}, expected at most "
            f"{allowed}: one call joins all pairs of a level.",
        )
    passed("every prefix, with two combinations a step")


def check_chunk_starts(chunk_starts):
    """Check ``chunk_starts(delta, A, added, T, exp)``: the states with which the chunks begin.

    Args:
        chunk_starts (callable): takes delta (L,), A (n,), added (L, n), the chunk length T, which
            divides L, and a function exp that counts; returns float64 (L // T, n).
    """
    rng = np.random.default_rng(2)
    for n, T, chunks in ((1, 1, 1), (3, 5, 4), (2, 16, 8)):
        L = T * chunks
        delta, A = rng.uniform(0.01, 0.3, L), -rng.uniform(0.5, 3.0, n)
        added = rng.standard_normal((L, n))
        calls, elements = 0, 0

        def exp(x):
            nonlocal calls, elements
            calls, elements = calls + 1, elements + np.size(x)
            return np.exp(x)

        states = np.zeros((L + 1, n))
        for k in range(L):
            states[k + 1] = np.exp(delta[k] * A) * states[k] + added[k]
        want = states[:-1:T]
        alone = np.zeros((chunks, n))
        for i in range(1, chunks):
            for k in range((i - 1) * T, i * T):
                alone[i] = np.exp(delta[k] * A) * alone[i] + added[k]
        got = returned(chunk_starts(delta.copy(), A.copy(), added.copy(), T, exp), "chunk_starts")
        hints = (
            (
                states[T::T],
                "Those are the states at the ends of the chunks. The first chunk begins with zero.",
            ),
            (
                alone,
                "Each chunk has forgotten all but the one before it: the carry takes the old "
                "start along, faded by the whole chunk.",
            ),
        )
        why = reason(
            got,
            want,
            hints,
            "start of the next chunk = exp(A · sum of its steps) · start + its end from zero.",
        )
        expect_close(f"the starts for n = {n}, T = {T}, {chunks} chunks", got, want, why)
        expect(
            calls > 0,
            "exp was never called: use it for every exponential, so that they can be counted.",
        )
        most = (L + chunks) * n
        expect(
            elements <= most,
            f"{elements} exponentials for L = {L}, n = {n}, expected at most "
            f"{most}: one for each step, and one for each chunk.",
        )
        allowed = T + chunks + 1
        expect(
            calls <= allowed,
            f"exp was called {calls} times, expected at most {allowed}: the "
            "chunks walk side by side, so that one call serves all of them.",
        )
    passed("chunks side by side, joined by a carry")


def check_scan_gradient(scan_gradient):
    """Check ``scan_gradient(a, x, dx, scan)``: the gradient of a scan by one more scan.

    Args:
        scan_gradient (callable): takes a, the states x and the gradient dx by each state, float64
            (L,), and a function scan(a, b) that returns all states; returns da and db (L,).
    """
    rng, made = np.random.default_rng(3), []
    for L in (1, 2, 40):
        a, b, dx = rng.uniform(-1.0, 1.0, L), rng.standard_normal(L), rng.standard_normal(L)
        calls = 0

        def scan(a, b):
            nonlocal calls
            calls += 1
            state, states = 0.0, np.empty(len(b))
            for k in range(len(b)):
                states[k] = state = a[k] * state + b[k]
            return states

        x, calls = scan(a, b), 0
        answer = returned(scan_gradient(a.copy(), x.copy(), dx.copy(), scan), "scan_gradient")
        made.append(calls)
        expect(len(answer) == 2, "scan_gradient should return two arrays, da and db.")
        reach = np.eye(L)  # reach[j, k] is the derivative of x_j by b_k
        for j in range(1, L):
            reach[j, :j] = a[j] * reach[j - 1, :j]
        g = dx @ reach
        before = np.r_[0.0, x[:-1]]
        got_a, got_b = (np.asarray(part) for part in answer)
        unshifted = scan(a[::-1], dx[::-1])[::-1]
        hints = (
            (
                scan(a, dx),
                "The gradient comes from later states: reverse time, scan, and reverse it again.",
            ),
            (unshifted, "The way from x_{k+1} back to x_k leads through a_{k+1}: shift a by one."),
            (dx, "A state acts on the loss through all later states too."),
        )
        expect_close(
            f"db for L = {L}",
            got_b,
            g,
            reason(
                got_b, g, hints, "db_k is the gradient by x_k itself: g_k = dx_k + a_{k+1} g_{k+1}."
            ),
        )
        expect_close(
            f"da for L = {L}",
            got_a,
            g * before,
            reason(
                got_a,
                g * before,
                ((g * x, "a_k multiplies the state before step k, not the one after it."),),
                "da_k = g_k x_{k-1}, and x_{-1} = 0.",
            ),
        )
    expect(made == [1, 1, 1], f"scan was called {max(made)} times, expected once.")
    passed("the gradient of a scan is a scan, run backwards")


def check_step_floors(step_floors):
    """Check ``step_floors(b, d, n, copy, exps)``: the least time of one step of inference.

    Args:
        step_floors (callable): takes three integers, bytes per second and exponentials per second;
            returns two floats, seconds for memory and for the exponentials.
    """
    for b, d, n in ((64, 5120, 16), (1, 5120, 16), (8, 64, 128)):
        copy, exps = 3.0e12, 3.7e12
        per_copy, per_exps = copy / 1e6, exps / 1e6  # a microsecond
        answer = returned(step_floors(b, d, n, copy, exps), "step_floors")
        expect(len(answer) == 2, "step_floors should return two numbers.")
        state, rest = 8 * b * d * n, 8 * b * d + 4 * b * n + 8 * d
        want = (state + rest + 4 * d * n) / per_copy
        got = 1e6 * float(answer[0])
        hints = (
            ((state / 2 + rest + 4 * d * n) / per_copy, "The state is read and written."),
            ((state + rest) / per_copy, "A is read as well: d times n numbers of four bytes."),
            (
                (state + rest + 4 * b * d * n) / per_copy,
                "A is the same for every row of the batch and comes from memory once.",
            ),
        )
        expect_close(
            f"the memory floor in μs for b = {b}, d = {d}, n = {n}",
            got,
            want,
            reason(got, want, hints, "Add up the bytes of every tensor, once for each way."),
            rtol=1e-6,
            atol=0,
        )
        got, want = 1e6 * float(answer[1]), b * d * (n + 4) / per_exps
        hints = ((b * d * n / per_exps, "Softplus and the gate take two each, for every channel."),)
        expect_close(
            f"the exponentials' floor in μs for b = {b}, d = {d}, n = {n}",
            got,
            want,
            reason(got, want, hints, "One for each state, and four for each channel."),
            rtol=1e-6,
            atol=0,
        )
    passed("one step waits for memory, not for exponentials")
