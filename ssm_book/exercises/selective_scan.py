"""Checks for the chapter on the selective scan."""

from unittest import mock

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned

__all__ = [
    "check_chunk_starts",
    "check_combine",
    "check_exclusive_scan",
    "check_learn_decays",
    "check_scan_gradient",
    "check_step_floors",
]


def check_combine(combine):
    """Check ``combine(first, second)``: two steps x -> max(x + a, b) as one, the first acting first.

    Args:
        combine (callable): takes two pairs (a, b) of float64 (n,); returns such a pair.
    """
    rng = np.random.default_rng(0)
    for n in (5, 1):
        (a1, b1), (a2, b2) = rng.standard_normal((2, 2, n))
        a, b = _pair(_run(combine, (a1.copy(), b1.copy()), (a2.copy(), b2.copy())), "combine")
        want = a1 + a2
        hints = (
            (a1 * a2, "That is for steps x -> a x + b. Here a step adds a, so two steps add both."),
        )
        expect_close(
            "a of the joint step",
            a,
            want,
            reason(
                a, want, hints, "Let x be very large, so that it wins both times: what is added?"
            ),
        )
        want = np.maximum(b1 + a2, b2)
        hints = (
            (
                np.maximum(b2 + a1, b1),
                "That is the second step acting first. The earlier one is the first argument.",
            ),
            (
                np.maximum(b1, b2),
                "What the first step leaves passes through the second one, which adds to it.",
            ),
            (b1 + a2 + b2, "The second step takes the larger of the two, not their sum."),
            (a2 * b1 + b2, "That is for steps x -> a x + b. Here the second one takes a maximum."),
        )
        expect_close(
            "b of the joint step",
            b,
            want,
            reason(b, want, hints, "Let x be very small, so that it never wins: what is left?"),
        )
    passed("a queue can be scanned: its steps compose")


def check_exclusive_scan(exclusive):
    """Check ``exclusive(a, b, combine)``: what acts before each of L steps, with little work.

    Args:
        exclusive (callable): takes a and b, float64 (L,), and a function that combines stacks of
            pairs; returns a and b of the steps before each, (L,) each.
    """
    rng = np.random.default_rng(1)
    for L in (1, 2, 8, 256, 3, 5, 100, 257):  # powers of two first
        a, b = rng.uniform(0.5, 1.0, L), rng.standard_normal(L)
        calls, pairs = 0, 0

        def combine(first, second, L=L):
            nonlocal calls, pairs
            (a1, b1), (a2, b2) = first, second
            expect(
                np.shape(a1) == np.shape(b1) == np.shape(a2) == np.shape(b2),
                f"For L = {L}, combine was called with {np.size(a1)} and {np.size(a2)} pairs. Where "
                "a level has an odd number of steps, the last one has no partner: give it the "
                "identity, a = 1 and b = 0.",
            )
            calls, pairs = calls + 1, pairs + np.size(a1)
            return a2 * a1, a2 * b1 + b2

        answer = _pair(_run(exclusive, a.copy(), b.copy(), combine), "exclusive")
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
            f"most {3 * L}. "
            + (
                "Doubling the reach of every entry takes L log2(L) of them; fold neighbours into "
                "half as many on the way up instead."
                if L == 256
                else "Padding to a power of two nearly doubles the work here: pad each level by "
                "one at most."
            ),
        )
        allowed = 2 * int(np.ceil(np.log2(L))) + 2
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
        got = returned(
            _run(chunk_starts, delta.copy(), A.copy(), added.copy(), T, exp), "chunk_starts"
        )
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
    for L in (40, 2, 1):  # the long one first: short ones cannot tell all mistakes apart
        a, b, dx = rng.uniform(-1.0, 1.0, L), rng.standard_normal(L), rng.standard_normal(L)
        calls = 0

        def scan(a, b, L=L):
            nonlocal calls
            calls += 1
            a, b = np.asarray(a), np.asarray(b)
            expect(
                a.shape == b.shape == (L,),
                f"scan was called with decays of shape {a.shape} and inputs of shape {b.shape}; "
                f"both should have L = {L} elements. A decay that acts on the zero state at the "
                "start may have any value, but it has to be there.",
            )
            state, states = 0.0, np.empty(L)
            for k in range(L):
                states[k] = state = a[k] * state + b[k]
            return states

        x, calls = scan(a, b), 0
        answer = _pair(_run(scan_gradient, a.copy(), x.copy(), dx.copy(), scan), "scan_gradient")
        made.append(calls)
        reach = np.eye(L)  # reach[j, k] is the derivative of x_j by b_k
        for j in range(1, L):
            reach[j, :j] = a[j] * reach[j - 1, :j]
        g = dx @ reach
        before = np.r_[0.0, x[:-1]]
        got_a, got_b = (np.asarray(part) for part in answer)

        def reversed_scan(decays, dx=dx):
            return scan(decays[::-1], dx[::-1])[::-1]

        hints = (
            (
                scan(a, dx),
                "The gradient comes from later states: reverse time, scan, and reverse it again.",
            ),
            (g[::-1], "Reversed time came out again: turn the result of the scan around as well."),
            (
                reversed_scan(a),
                "The way from x_{k+1} back to x_k leads through a_{k+1}: shift a by one.",
            ),
            (
                reversed_scan(np.r_[0.0, a[:-1]]),
                "The decays are shifted the wrong way: g_k = dx_k + a_{k+1} g_{k+1} needs the decay "
                "of the step after k, and yours is that of the step before.",
            ),
            (
                reversed_scan(np.roll(a, 1)),
                "The decays are shifted the wrong way: g_k = dx_k + a_{k+1} g_{k+1} needs the decay "
                "of the step after k, and yours is that of the step before.",
            ),
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
        hints = (
            (g * x, "a_k multiplies the state before step k, not the one after it."),
            (
                g * np.r_[x[1:], 0.0],
                "a_k multiplies the state before step k; yours is shifted the other way.",
            ),
            (before, "That is the derivative of x_k by a_k; the chain rule multiplies it by g_k."),
        )
        expect_close(
            f"da for L = {L}",
            got_a,
            g * before,
            reason(got_a, g * before, hints, "da_k = g_k x_{k-1}, and x_{-1} = 0."),
        )
    expect(set(made) == {1}, f"scan was called {max(made)} times, expected once.")
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
        answer = _pair(_run(step_floors, b, d, n, copy, exps), "step_floors")
        state, vectors, signals, weights = 8 * b * d * n, 8 * d, 8 * b * d, 4 * b * n
        moved = state + 4 * d * n + vectors + signals + weights
        want, got = moved / per_copy, 1e6 * float(answer[0])
        hints = (
            (moved - state / 2, "The state is read and written."),
            (moved - 4 * d * n, "A is read as well: d times n elements of four bytes."),
            (
                moved - 4 * d * n + 4 * b * d * n,
                "A is the same for every row of the batch and comes from memory once.",
            ),
            (
                moved - 4 * d,
                "D and the bias of the steps are two vectors (d,) with four bytes per element: one "
                "is missing, or both count half.",
            ),
            (moved - vectors, "D and the bias of the steps are missing: two vectors (d,)."),
            (
                moved - 2 * b * d,
                "Four tensors (b, d) cross to memory: u, Δ and z are read, y is written.",
            ),
            (moved - weights, "B and C are read as well, two bytes per element."),
            (moved - weights / 2, "B and C are two tensors (b, n); one is missing."),
            (moved + signals + weights, "u, Δ, z, y, B and C have two bytes per element."),
        )
        hints = tuple((wrong / per_copy, hint) for wrong, hint in hints)
        expect_close(
            f"the memory floor in μs for b = {b}, d = {d}, n = {n}",
            got,
            want,
            reason(got, want, hints, "Add up the bytes of every tensor, once for each way."),
            rtol=1e-6,
            atol=0,
        )
        got, want = 1e6 * float(answer[1]), b * d * (n + 3) / per_exps
        hints = (
            (
                b * d * n / per_exps,
                "Softplus and the gate take three more for every channel of a row.",
            ),
        )
        expect_close(
            f"the exponentials' floor in μs for b = {b}, d = {d}, n = {n}",
            got,
            want,
            reason(got, want, hints, "One for each state, and three for each channel of a row."),
            rtol=1e-6,
            atol=0,
        )
    passed("one step waits for memory, not for exponentials")


def check_learn_decays(learn_decays):
    """Check ``learn_decays(u, delta, B, C, y)``: the decay rates of a channel, from its output.

    Args:
        learn_decays (callable): takes float32 tensors u, delta and y (1, 1, L), B and C (1, n, L);
            returns A, a tensor (n,).
    """
    asked = [(rates, *_learned(learn_decays, rates)) for rates in _CHANNELS]
    largest = max(each for *_, each in asked)
    for rates, got, _ in asked:
        n, want = len(rates), -np.array(rates)
        expect(
            got.shape in ((n,), (1, n)),
            f"A has shape {got.shape}; expected ({n},), one rate for each state.",
        )
        got = got.reshape(n)
        expect(
            bool(np.all(np.isfinite(got))),
            "A is not finite: with a positive element the state grows without bound. "
            "Train log(-A), so that no update can make A positive.",
        )
        close = {"rtol": 0.03, "atol": 0.0}
        expect(
            not np.allclose(got, -want, **close),
            "These are the rates without their sign: A is negative.",
        )
        expect(
            not np.allclose(got, np.log(-want), rtol=0.03, atol=0.03),
            "These are log(-A), what you trained; return A itself.",
        )
        expect(
            bool(np.all(got < 0)),
            f"A has a positive element, {got.max():.3g}: such a state grows. Train log(-A).",
        )
        expect(
            largest <= 0,
            f"On the way, A had a positive element, {largest:.3g}: such a state grows, and in a "
            "longer sequence it would overflow. Train log(-A): no update makes A positive.",
        )
        expect(
            not np.array_equal(asked[0][1], asked[1][1]) and (n == 1 or np.ptp(got) > 1e-6),
            "A is the same for different decays: does the loss reach what you train, and does the "
            "optimizer take steps?",
        )
        expect_close(
            f"A for n = {n}",
            got,
            want,
            "The training stopped too early: take more updates, or a larger learning rate.",
            **close,
        )
    passed("the decays were learned through the scan")


_CHANNELS = ((0.7,), (2.0,), (0.5, 4.0, 1.5), (0.02,))


def _learned(learn_decays, rates):
    """The answer for one channel, and the largest element of A that a scan was given on the way."""
    import torch

    from ssm_core import scan

    random = torch.Generator().manual_seed(len(rates))
    n, L, largest = len(rates), 128, -np.inf
    u, B, C = (torch.randn(1, m, L, generator=random) for m in (1, n, n))
    delta = 0.05 + 0.3 * torch.rand(1, 1, L, generator=random)
    y = scan.selective_scan_ref(u, delta, -torch.tensor([rates]), B, C)

    def look(check):
        def checked(u, delta, A, *rest):
            nonlocal largest
            largest = max(largest, float(torch.as_tensor(A).detach().max()))
            return check(u, delta, A, *rest)

        return checked

    with (
        mock.patch.object(scan, "check_scan", look(scan.check_scan)),
        mock.patch.object(scan.reference, "check_scan", look(scan.reference.check_scan)),
    ):
        answer = returned(_run(learn_decays, u, delta, B, C, y), "learn_decays")
    if isinstance(answer, torch.Tensor):
        answer = answer.detach().cpu().numpy()
    return np.array(answer, dtype=float), largest


def _pair(answer, name):
    """The two things that an answer consists of."""
    returned(answer, name)
    expect(
        isinstance(answer, (tuple, list, np.ndarray)) and len(answer) == 2,
        f"{name} should return two things, but returned {type(answer).__name__}"
        + (f" of length {len(answer)}." if hasattr(answer, "__len__") else "."),
    )
    return answer


def _run(function, *arguments):
    """What the function returns, or an explanation where arrays do not fit together in it."""
    try:
        return function(*arguments)
    except (ValueError, IndexError, RuntimeError) as error:
        shapes = ", ".join(
            str(tuple(np.shape(x))) for x in arguments if hasattr(x, "shape") or np.ndim(x)
        )
        with_shapes = f" with arrays of shape {shapes}" if shapes else ""
        raise AssertionError(
            f"{function.__name__}, called{with_shapes}, stops with: {error}. Print the shapes of "
            "what it joins; an array that is shifted by one still has all its elements."
        ) from error
