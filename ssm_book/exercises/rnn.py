"""Checks for the chapter on recurrent networks."""

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, reason
from ssm_core.rnn import orthogonal, rnn, with_spectral_radius


def check_forget_bias(forget_bias):
    """Check ``forget_bias(shortest, longest, N) -> (N,)`` of gates with half-lives between the two."""
    for shortest, longest, N in ((10, 1000, 3), (1, 64, 7), (5, 20_000, 2)):
        bias = forget_bias(shortest, longest, N)
        expect(bias is not None, "forget_bias returned None: did you forget to return the biases?")
        expect(
            np.shape(bias) == (N,),
            f"forget_bias returned an array of shape {np.shape(bias)}, expected {(N,)}.",
        )
        bias = np.asarray(bias, dtype=float)
        expect(
            np.all(np.isfinite(bias)),
            f"The biases for half-lives from {shortest} to {longest} are {bias.round(3)}; they should "
            "be finite for every half-life from 1 on. A half-life of one step takes a gate of one half.",
        )
        with np.errstate(divide="ignore"):
            got = np.log(2) / np.logaddexp(0, -bias)  # ln 2 / -ln(sigmoid)
        want = np.geomspace(shortest, longest, N)
        why = "Solve sigmoid(bias) ** half_life = 1/2 for each half-life."
        hints = (
            (
                want * np.log(2),
                "That is ln 2 times the half-life: you set the time constant, after which 1/e is "
                "left. The question is the half-life.",
            ),
            (want[::-1], "The shortest half-life comes first."),
            (
                np.linspace(shortest, longest, N),
                "The half-lives are spread evenly, so most are long. Neighbours should have the same "
                "ratio.",
            ),
        )
        for value, hint in hints:
            if np.allclose(got, value, rtol=0.01) and not np.allclose(value, want, rtol=0.05):
                why = hint
        ends = np.allclose(got[[0, -1]], want[[0, -1]], rtol=1e-9)
        if ends and N > 2 and np.allclose(np.diff(bias, 2), 0, atol=1e-9):
            why = (
                "The ends are right, but it is the biases that you spread evenly. "
                "Spread the half-lives so that neighbours have the same ratio."
            )
        wrong = int(np.argmax(np.abs(np.log(got / want))))
        expect(
            np.allclose(got, want, rtol=1e-9),
            f"Gate {wrong} of {N} has a half-life of {got[wrong]:.4g} steps, expected "
            f"{want[wrong]:.4g}. {why}",
        )
    passed("gates whose half-lives cover the range evenly, from lag to lag by the same factor")


def check_transient(transient):
    """Check ``transient(radius, peak) -> W`` of norm at most 2 whose powers grow before they decay."""
    for radius, peak in ((0.5, 10.0), (0.9, 100.0), (0.99, 3.0)):
        W = transient(radius, peak)
        expect(W is not None, "transient returned None: did you forget to return W?")
        W = np.asarray(W)
        expect(W.ndim == 2 and W.shape[0] == W.shape[1], f"W has shape {W.shape}, expected (N, N).")
        expect(np.all(np.isfinite(W)), "W is not finite everywhere.")
        largest = float(np.abs(np.linalg.eigvals(W)).max())
        why = (
            "The eigenvalues of a triangular matrix are its diagonal; what stands above it is free."
        )
        triangular = np.array_equal(W, np.triu(W)) or np.array_equal(W, np.tril(W))
        if abs(largest - radius) < 0.1 and not triangular:
            why = (
                "This can be rounding alone: eigenvalues of a matrix so far from normal are "
                "ill-conditioned. Those of a triangular matrix are exactly its diagonal."
            )
        expect(
            abs(largest - radius) < 1e-3 * radius,
            f"The spectral radius is computed as {largest:.4f}, expected {radius}. {why}",
        )
        norm = float(np.linalg.norm(W, 2))
        expect(
            norm <= 2 + 1e-9,
            f"The norm of W itself is {norm:.3g}, expected at most 2: no single step may more than "
            "double a vector. The growth has to come from many steps.",
        )
        norms, power = [], np.eye(len(W))
        for _ in range(500):
            power = power @ W
            norms.append(np.linalg.norm(power, 2))
        if np.allclose(W @ W.T, W.T @ W):
            why = (
                "W is normal (W W^T = W^T W), and for a normal matrix the norm of a power is "
                "the power of the spectral radius. It needs eigenvectors that are not orthogonal."
            )
        else:
            why = "What has arrived in the last unit only decays. Let a change pass through more units."
        expect(
            max(norms) >= peak,
            f"The largest norm of a power is {max(norms):.3g}, expected at least {peak:g}. {why}",
        )
    passed("the eigenvalues decay, and the powers grow first all the same")


def check_bptt(gradients):
    """Check ``gradients(u, W, U, b, c) -> (dW, dU, db)`` of the sum of c[k] · h[k] over all k."""
    rng = np.random.default_rng(1)
    for N, M, L in ((3, 1, 3), (1, 1, 1), (4, 2, 9)):  # the first tells all slips apart
        W = with_spectral_radius(rng.standard_normal((N, N)), 1.1)
        U, b = rng.standard_normal((N, M)), rng.standard_normal(N)
        u, c = rng.standard_normal((L, M)), rng.standard_normal((L, N))
        answer = gradients(*(value.copy() for value in (u, W, U, b, c)))
        expect(
            isinstance(answer, (tuple, list)) and len(answer) == 3,
            "gradients should return three arrays: dW, dU, db.",
        )
        hints = _wrong_gradients(u, W, U, b, c)
        for name, got, want in zip(("dW", "dU", "db"), answer, _sensitivities(u, W, U, b, c)):
            why = "Walk from the last step to the first and add up what each step contributes."
            for hint, wrong in hints:
                value = wrong[("dW", "dU", "db").index(name)]
                if (
                    got is not None
                    and np.shape(got) == value.shape
                    and np.allclose(got, value)
                    and not np.allclose(value, want)
                ):
                    why = hint
            expect_close(name, got, want, why)
    passed("the gradient of every weight, by backpropagation through time")


def check_trained(trained):
    """Check ``trained(lag, window) -> a``: one linear unit, its gradient cut after some steps."""
    for lag, window in ((20, 20), (20, 5), (12, 3), (6, 1)):
        a = trained(lag, window)
        expect(a is not None, "trained returned None: did you forget to return a?")
        expect(
            np.ndim(a) == 0, f"trained returned an array of shape {np.shape(a)}; expected a number."
        )
        a, want = float(a), np.sqrt(window / (window + 1))
        why = (
            "Go on until a stops moving, and check where the gradient flows: through the factor in "
            "front of h, and through the last `window` multiplications."
        )
        hints = (
            (
                np.sqrt(lag / (lag + 1)),
                "That is the best unit for the lag: your gradient flows back "
                "through all steps. Cut it when `window` steps are left.",
            ),
            (window / (window + 1), "That is the square of a; return a itself."),
            (
                np.sqrt((window + 1) / (window + 2)),
                "Your gradient flows through one step too many.",
            ),
            (np.sqrt((window - 1) / window), "Your gradient flows through one step too few."),
            (
                1.0,
                "a has run to 1. Without the factor that keeps the variance of the output at 1, the "
                "largest a always wins.",
            ),
            (
                0.0,
                "a has run to 0: no gradient flows through the multiplications. Cut once, when "
                "`window` steps are left, and not at every step.",
            ),
            (0.5, "a is still close to 0.5: more updates, or a larger rate."),
        )
        for value, hint in hints:
            if abs(a - value) < 5e-3 < abs(value - want):
                why = hint
                break
        expect(
            abs(a - want) < 5e-3,
            f"For a lag of {lag} and a window of {window} you return {a:.4f}, expected {want:.4f}. {why}",
        )
    passed("the unit that a truncated gradient finds, for four lags and windows")


def check_is_convolution(is_convolution):
    """Check ``is_convolution(system, L) -> bool`` on systems that are one and systems that are not."""
    rng = np.random.default_rng(2)
    W, U, c = 0.9 * orthogonal(4, rng), rng.standard_normal((4, 1)), rng.standard_normal(4)

    def recurrent(activation, b=0.0):
        return lambda u: rnn(u, W, U, np.full(4, b), activation) @ c

    cases = (
        (True, recurrent("identity"), "a linear recurrence from a zero state"),
        (True, lambda u: np.concatenate([np.zeros(2), u[:-2]]), "a delay of two samples"),
        (True, lambda u: np.zeros(len(u)), "a system that always says zero; its kernel is zero"),
        (
            False,
            recurrent("tanh"),
            "a tanh RNN, and a small input hides it; try large ones as well",
        ),
        (
            False,
            recurrent("relu"),
            "a ReLU RNN, which scales with every positive factor; add two signals",
        ),
        (
            False,
            lambda u: recurrent("identity")(np.clip(u, -1.5, 1.5)),
            "an amplifier that clips: linear up to an input of 1.5, so that an impulse of height 1 and "
            "small signals hide it; try large ones as well",
        ),
        (
            False,
            recurrent("identity", b=0.3),
            "a linear recurrence with a bias: nothing in, something out",
        ),
        (
            False,
            lambda u: np.arange(1, len(u) + 1) * u,
            "a gain that grows with k: linear, but an impulse that comes later is treated differently",
        ),
        (
            False,
            lambda u: u[::-1].copy(),
            "a signal played backwards: linear, but a shift of the input shifts the output back",
        ),
    )
    for want, system, what in cases:
        got = is_convolution(system, 12)
        expect(
            isinstance(got, (bool, np.bool_)), f"is_convolution returned {got!r}, expected a bool."
        )
        expect(bool(got) == want, f"You say {bool(got)}, expected {want}: this is {what}.")
    passed("convolutions and impostors told apart, nine of nine")


def check_scan(scan):
    """Check ``scan(A, b, combine) -> h``: all states of h_k = A_k h_{k-1} + b_k in few rounds."""
    rng = np.random.default_rng(3)
    for L in (1, 2, 7, 64, 100):
        A, b = 0.7 * rng.standard_normal((L, 3, 3)), rng.standard_normal((L, 3))
        rounds = 0

        def combine(first, second):
            nonlocal rounds
            rounds += 1
            expect(
                all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in (first, second)),
                "combine takes two pairs, (A1, b1) and (A2, b2).",
            )
            (A1, b1), (A2, b2) = first, second
            shapes = [np.shape(x) for x in (A1, b1, A2, b2)]
            n = shapes[0][:1]
            expect(
                shapes == [(*n, 3, 3), (*n, 3)] * 2,
                "combine takes stacks of equally many matrices (n, N, N) and vectors (n, N), the "
                "earlier and the later; you passed the shapes " + ", ".join(map(str, shapes)) + ".",
            )
            return A2 @ A1, (A2 @ b1[..., None])[..., 0] + b2

        got = scan(A.copy(), b.copy(), combine)
        want, h = np.empty((L, 3)), np.zeros(3)
        for k in range(L):
            want[k] = h = A[k] @ h + b[k]
        before = np.vstack([np.zeros(3), want[:-1]])
        why = reason(
            got,
            want,
            [(before, "These are the states before each step; h[k] has seen step k.")],
            "Matrices do not commute: combine(first, second) takes the "
            "earlier stretch first. And each state needs all steps up to its own, no more.",
        )
        expect_close("h", got, want, why)
        allowed = 2 * int(np.ceil(np.log2(L))) + 2
        expect(
            rounds <= allowed,
            f"{rounds} rounds for L = {L}, expected at most {allowed}. One "
            "call of combine may join many pairs of stretches at once; a loop over k may not.",
        )
        expect(
            L == 1 or rounds > 0,
            "combine was never called: use it for every composition, "
            "so that the rounds can be counted.",
        )
    passed("all states at once, in a number of rounds that grows as the logarithm of L")


def check_newton(newton):
    """Check ``newton(u, W, U, b, iterations) -> h``: a tanh RNN by repeated linear recurrences."""
    rng = np.random.default_rng(4)
    N, L = 6, 80
    W = with_spectral_radius(rng.standard_normal((N, N)), 0.9)
    U, b, u = rng.standard_normal((N, 1)), 0.1 * rng.standard_normal(N), rng.standard_normal(L)
    want = rnn(u, W, U, b)
    answers = [newton(u, W, U, b, iterations) for iterations in (1, 3, 7)]
    for h in answers:
        expect(h is not None, "newton returned None: did you forget to return the states?")
        expect(np.shape(h) == (L, N), f"h has shape {np.shape(h)}, expected {(L, N)}.")
        expect(
            np.all(np.isfinite(h)),
            "h is not finite. Each linear recurrence multiplies its "
            "state by J_k = diag(1 - f_k**2) W, which shrinks it here.",
        )
    first, third, last = (float(np.max(np.abs(h - want))) for h in answers)
    expect(
        first > 1e-6,
        "Exact after one iteration: that is the loop over k through the tanh. "
        "An iteration may only solve a linear recurrence.",
    )
    expect(
        last < 1e-9 or not np.allclose(answers[-1], _unshifted(u, W, U, b, 7)),
        "You linearize step k around the guess of h[k]; the step acts on h[k-1]. Shift the guess by "
        "one step, with zeros in front.",
    )
    expect(
        last < 1e-9,
        f"Still off by {last:.2g} after 7 iterations (and by {third:.2g} after 3). Newton's "
        "method squares the error each time. If yours falls by a constant factor, the Jacobian "
        "is missing or that of another point: each step is h_k = f_k + J_k (h_{k-1} - guess).",
    )
    passed("a nonlinear recurrence from a handful of linear ones")


def _unshifted(u, W, U, b, iterations):
    """Newton's method with the guess of h[k] where that of h[k-1] belongs."""
    guess = np.zeros((len(u), len(W)))
    for _ in range(iterations):
        f = np.tanh(guess @ W.T + u[:, None] @ U.T + b)
        h, state = np.empty_like(guess), np.zeros(len(W))
        for k in range(len(u)):
            h[k] = state = f[k] + (1 - f[k] ** 2) * (W @ (state - guess[k]))
        guess = h
    return guess


def _sensitivities(u, W, U, b, c):
    """The gradients of the sum of c[k] · h[k], from dh/dW, dh/dU and dh/db carried forward."""
    N, M = U.shape
    h = np.zeros(N)
    hW, hU, hb = np.zeros((N, N, N)), np.zeros((N, N, M)), np.zeros((N, N))
    total = np.zeros_like(W), np.zeros_like(U), np.zeros_like(b)
    for u_k, c_k in zip(u, c):
        hW, hU, hb = (np.tensordot(W, s, 1) for s in (hW, hU, hb))
        i = np.arange(N)
        hW[i, i] += h
        hU[i, i] += u_k
        hb[i, i] += 1
        h = np.tanh(W @ h + U @ u_k + b)
        slope = 1 - h**2
        hW, hU, hb = slope[:, None, None] * hW, slope[:, None, None] * hU, slope[:, None] * hb
        total = tuple(t + np.tensordot(c_k, s, 1) for t, s in zip(total, (hW, hU, hb)))
    return total


def _wrong_gradients(u, W, U, b, c):
    """What usual slips give, each with the hint that mends it."""
    h = rnn(u, W, U, b)
    before = np.vstack([np.zeros(len(W)), h[:-1]])

    last_only = np.vstack([np.zeros_like(c[:-1]), c[-1:]])

    def walk(back=W.T, states=before, slope=h, passed_on=1, c=c):
        dW, dU, db, delta = np.zeros_like(W), np.zeros_like(U), np.zeros_like(b), np.zeros(len(W))
        for k in reversed(range(len(u))):
            delta = passed_on * delta + c[k]
            a = delta if slope is None else delta * (1 - slope[k] ** 2)
            dW, dU, db = dW + np.outer(a, states[k]), dU + np.outer(a, u[k]), db + a
            delta = back @ a
        return dW, dU, db

    return (
        (
            "That is the gradient of the last output alone: c[k] @ h[k] counts for every k.",
            walk(c=last_only),
        ),
        (
            "Each step knows its own output only: h[k] also influences the loss through h[k+1], so "
            "hand delta on to the step before.",
            walk(passed_on=0),
        ),
        ("The step back goes through the transpose of W.", walk(back=W)),
        (
            "The weight W acts on the state before the step: h[k-1], and zero for k = 0.",
            walk(states=h),
        ),
        ("The slope of tanh, 1 - h[k]**2, is missing.", walk(slope=None)),
        (
            "You take the slope of tanh at h[k-1]; the tanh of step k returns h[k], so its slope there "
            "is 1 - h[k]**2.",
            walk(slope=before),
        ),
    )
