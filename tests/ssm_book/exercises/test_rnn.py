"""Each check takes two different right answers and explains the typical wrong ones."""

import numpy as np
import pytest
from scipy.optimize import brentq

from ssm_book.exercises import (
    check_bptt,
    check_forget_bias,
    check_is_convolution,
    check_newton,
    check_scan,
    check_trained,
    check_transient,
)
from ssm_core.convolution import causal_convolution
from ssm_core.rnn import orthogonal, rnn, rnn_jacobians

# check_forget_bias


def bias_by_formula(shortest, longest, N):
    p = 2 ** (-1 / np.geomspace(shortest, longest, N))
    return np.log(p / (1 - p))


def bias_by_search(shortest, longest, N):
    ratio = (longest / shortest) ** (1 / (N - 1))
    return [
        brentq(
            lambda b, life=shortest * ratio**n: life * np.log1p(np.exp(-b)) - np.log(2),
            -1,
            20,
            xtol=1e-14,
        )
        for n in range(N)
    ]


@pytest.mark.parametrize("answer", [bias_by_formula, bias_by_search])
def test_forget_bias_right(answer, accepts):
    accepts(check_forget_bias, answer)


def bias_of_the_time_constant(shortest, longest, N):
    p = np.exp(-1 / np.geomspace(shortest, longest, N))
    return np.log(p / (1 - p))


def bias_of_even_half_lives(shortest, longest, N):
    p = 2 ** (-1 / np.linspace(shortest, longest, N))
    return np.log(p / (1 - p))


def even_biases(shortest, longest, N):
    return np.linspace(*bias_by_formula(shortest, longest, 2), N)


@pytest.mark.parametrize(
    "answer, why",
    [
        (bias_of_the_time_constant, "set the time constant"),
        (bias_of_even_half_lives, "same ratio"),
        (even_biases, "the biases that you spread evenly"),
        (lambda *args: bias_by_formula(*args)[::-1], "shortest half-life comes first"),
        (lambda shortest, longest, N: np.zeros(N), "Solve sigmoid"),
        (lambda shortest, longest, N: np.full(N, 800.0), "half-life of"),
        (lambda shortest, longest, N: np.full(N, -800.0), "half-life of"),
        (lambda *args: None, "forget to return"),
        (lambda shortest, longest, N: np.zeros(N + 1), "array of shape"),
        (lambda *args: 1.0, "array of shape"),
        (
            lambda shortest, longest, N: (
                np.full(N, -np.inf) if shortest == 1 else bias_by_formula(shortest, longest, N)
            ),
            "half-life of one step",
        ),
    ],
)
def test_forget_bias_wrong(answer, why, explains):
    explains(check_forget_bias, answer, why)


# check_transient


def transient_by_chain(radius, peak):
    N = 4 + int(2 * np.log2(peak))
    return radius * np.eye(N) + (2 - radius) * np.eye(N, k=1)


def transient_backwards(radius, peak):
    """Lower triangular, with eigenvalues that differ."""
    return np.diag(radius * np.linspace(1, 0.5, 20)) + (2 - radius) * np.eye(20, k=-1)


def transient_turned(radius, peak):
    """Right in exact arithmetic: the chain in other coordinates."""
    turn = orthogonal(len(transient_by_chain(radius, peak)), 0)
    return 0.999 * turn @ transient_by_chain(radius / 0.999, peak) @ turn.T


@pytest.mark.parametrize("answer", [transient_by_chain, transient_backwards])
def test_transient_right(answer, accepts):
    accepts(check_transient, answer)


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda radius, peak: radius * np.eye(2), "W is normal"),
        (lambda radius, peak: np.diag([peak, radius]), "spectral radius is"),
        (transient_turned, "rounding alone"),
        (lambda radius, peak: [[radius, peak], [0.0, radius]], "more than double"),
        (lambda radius, peak: [[radius, 1.0], [0.0, radius]], "more units"),
        (lambda radius, peak: [radius, peak], "shape"),
        (lambda radius, peak: [[np.nan, 1.0], [0.0, 1.0]], "not finite"),
        (lambda radius, peak: None, "forget to return"),
    ],
)
def test_transient_wrong(answer, why, explains):
    explains(check_transient, answer, why)


# check_bptt


def walk(u, W, U, b, c, *, back=None, states=None, slope=lambda h: 1 - h**2, last=False, on=True):
    h = rnn(u, W, U, b)
    states = np.vstack([np.zeros(len(W)), h[:-1]]) if states is None else states(h)
    dW, dU, db, delta = np.zeros_like(W), np.zeros_like(U), np.zeros_like(b), np.zeros(len(W))
    for k in reversed(range(len(u))):
        if not last or k == len(u) - 1:
            delta = delta + c[k]
        a = slope(h[k]) * delta
        dW, dU, db = dW + np.outer(a, states[k]), dU + np.outer(a, u[k]), db + a
        delta = on * ((W.T if back is None else back(W)) @ a)
    return dW, dU, db


def by_products_of_jacobians(u, W, U, b, c):
    h = rnn(u, W, U, b)
    J, L = rnn_jacobians(W, h), len(h)
    inputs = np.column_stack([np.vstack([np.zeros(len(W)), h[:-1]]), u, np.ones(L)])
    total = 0
    for end in range(L):
        for k in range(end + 1):
            row = c[end]
            for j in range(end, k, -1):
                row = row @ J[j]
            total = total + np.outer(row * (1 - h[k] ** 2), inputs[k])
    return [total[:, : len(W)], total[:, len(W) : -1], total[:, -1]]


@pytest.mark.parametrize("answer", [walk, by_products_of_jacobians])
def test_bptt_right(answer, accepts):
    accepts(check_bptt, answer)


@pytest.mark.parametrize(
    "options, why",
    [
        ({"last": True}, "last output alone"),
        ({"on": False}, "hand delta on"),
        ({"back": lambda W: W}, "transpose"),
        ({"states": lambda h: h}, "state before the step"),
        ({"slope": np.ones_like}, "slope of tanh"),
    ],
)
def test_bptt_wrong(options, why, explains):
    explains(check_bptt, lambda *args: walk(*args, **options), why)


def test_bptt_slope_of_the_step_before(explains):
    def slope_before(u, W, U, b, c):
        h = rnn(u, W, U, b)
        slopes = iter(1 - np.vstack([np.zeros(len(W)), h[:-1]])[::-1] ** 2)
        return walk(u, W, U, b, c, slope=lambda _: next(slopes))

    explains(check_bptt, slope_before, "slope of tanh at h")


def test_bptt_needs_three(explains):
    explains(check_bptt, lambda u, W, U, b, c: W, "three arrays")


def test_bptt_may_change_its_arguments(accepts):
    def in_place(u, W, U, b, c):
        answer = walk(u.copy(), W.copy(), U.copy(), b.copy(), c.copy())
        for value in (u, W, U, b, c):
            value[:] = 0
        return answer

    accepts(check_bptt, in_place)


# check_trained


def trained_by_formula(lag, window):
    return np.sqrt(window / (window + 1))


def trained_by_ascent(lag, window, *, factor=True, seen=None):
    a = 0.5
    for _ in range(20_000):
        # the gradient of the logarithm, through the last steps alone
        slope = (window if seen is None else seen(lag, window)) / a
        a += 1e-4 * (slope - factor * a / (1 - a**2))
        a = min(max(a, 1e-3), 1 - 1e-3)
    return a


@pytest.mark.parametrize("answer", [trained_by_formula, trained_by_ascent])
def test_trained_right(answer, accepts):
    accepts(check_trained, answer)


@pytest.mark.parametrize(
    "answer, why",
    [
        (
            lambda lag, window: trained_by_ascent(lag, window, seen=lambda lag, window: lag),
            "all steps",
        ),
        (lambda lag, window: trained_by_formula(lag, window) ** 2, "square of a"),
        (lambda lag, window: trained_by_formula(lag, window + 1), "too many"),
        (
            lambda lag, window: trained_by_formula(lag, window if window == lag else window - 1),
            "too few",
        ),
        (lambda lag, window: trained_by_ascent(lag, window, factor=False), "run to 1"),
        (lambda lag, window: 1e-3, "run to 0"),
        (lambda lag, window: 0.5, "more updates"),
        (lambda lag, window: 0.3, "stops moving"),
        (lambda lag, window: np.ones(3), "array of shape"),
        (lambda lag, window: None, "forget to return"),
    ],
)
def test_trained_wrong(answer, why, explains):
    explains(check_trained, answer, why)


# check_is_convolution


def by_kernel(system, L):
    K = system(np.eye(1, L)[0])
    u = 5 * np.random.default_rng(0).standard_normal(L)
    return bool(np.allclose(system(u), causal_convolution(u, K), rtol=0, atol=1e-8))


def by_properties(system, L):
    rng = np.random.default_rng(1)
    u, v = 3 * rng.standard_normal((2, L))
    late = np.concatenate([[0.0], u[:-1]])
    linear = np.allclose(system(2 * u - 3 * v), 2 * system(u) - 3 * system(v))
    return linear and np.allclose(system(late), np.concatenate([[0.0], system(u)[:-1]]))


@pytest.mark.parametrize("answer", [by_kernel, by_properties])
def test_is_convolution_right(answer, accepts):
    accepts(check_is_convolution, answer)


def small_signals_only(system, L):
    u = 1e-9 * np.random.default_rng(0).standard_normal(L)
    return bool(np.allclose(system(u), causal_convolution(u, system(np.eye(1, L)[0]))))


def impulse_and_a_small_signal(system, L):
    u = 1e-3 * np.random.default_rng(0).standard_normal(L)
    convolved = causal_convolution(u, system(np.eye(1, L)[0]))
    return bool(np.allclose(system(u), convolved, rtol=0, atol=1e-10))


def scaling_only(system, L):
    u = np.random.default_rng(0).standard_normal(L)
    return bool(np.allclose(system(2 * u), 2 * system(u)))


def linearity_only(system, L):
    u, v = np.random.default_rng(0).standard_normal((2, L))
    return bool(np.allclose(system(u - v), system(u) - system(v)))


@pytest.mark.parametrize(
    "answer, why",
    [
        (small_signals_only, "large ones as well"),
        (impulse_and_a_small_signal, "an amplifier that clips"),
        (scaling_only, "add two signals"),
        (linearity_only, "gain that grows with k"),
        (lambda system, L: False, "linear recurrence from a zero state"),
        (lambda system, L: 1.0, "expected a bool"),
    ],
)
def test_is_convolution_wrong(answer, why, explains):
    explains(check_is_convolution, answer, why)


# check_scan


def by_doubling(A, b, combine):
    d = 1
    while d < len(A):
        A_new, b_new = combine((A[:-d], b[:-d]), (A[d:], b[d:]))
        A, b = np.concatenate([A[:d], A_new]), np.concatenate([b[:d], b_new])
        d *= 2
    return b


def by_tree(A, b, combine):
    def scan(A, b):
        L = len(A)
        if L == 1:
            return A, b
        even = 2 * (L // 2)
        pairs = combine((A[0:even:2], b[0:even:2]), (A[1:even:2], b[1:even:2]))
        out_A, out_b = np.empty_like(A), np.empty_like(b)
        out_A[1:even:2], out_b[1:even:2] = scan(*pairs)
        out_A[0], out_b[0] = A[0], b[0]
        if L > 2:
            n = len(A[2::2])
            out_A[2::2], out_b[2::2] = combine(
                (out_A[1::2][:n], out_b[1::2][:n]), (A[2::2], b[2::2])
            )
        return out_A, out_b

    return scan(A, b)[1]


@pytest.mark.parametrize("answer", [by_doubling, by_tree])
def test_scan_right(answer, accepts):
    accepts(check_scan, answer)


def one_by_one(A, b, combine):
    state, out = (A[:1], b[:1]), [b[0]]
    for k in range(1, len(A)):
        state = combine(state, (A[k : k + 1], b[k : k + 1]))
        out.append(state[1][0])
    return np.stack(out)


def without_combine(A, b, combine):
    out, h = [], np.zeros(b.shape[1])
    for A_k, b_k in zip(A, b):
        h = A_k @ h + b_k
        out.append(h)
    return np.stack(out)


@pytest.mark.parametrize(
    "answer, why",
    [
        (one_by_one, "rounds for L = "),
        (without_combine, "never called"),
        (lambda A, b, combine: by_doubling(A, b, lambda x, y: combine(y, x)), "do not commute"),
        (
            lambda A, b, combine: np.vstack([np.zeros(3), by_doubling(A, b, combine)[:-1]]),
            "states before each step",
        ),
        (lambda A, b, combine: combine((A, b), (A[:-1], b[:-1]))[1], "equally many"),
        (lambda A, b, combine: combine(A, b), "two pairs"),
        (lambda A, b, combine: None, "forget to return"),
    ],
)
def test_scan_wrong(answer, why, explains):
    explains(check_scan, answer, why)


# check_newton


def newton(u, W, U, b, iterations, *, start=0.0, jacobian=lambda f, W: (1 - f**2)[:, :, None] * W):
    h = np.full((len(u), len(W)), start)
    for _ in range(iterations):
        guess = np.vstack([np.zeros(len(W)), h[:-1]])
        f = np.tanh(guess @ W.T + np.reshape(u, (len(u), -1)) @ U.T + b)
        J, new, state = jacobian(f, W), [], np.zeros(len(W))
        for k in range(len(u)):
            state = f[k] + J[k] @ (state - guess[k])
            new.append(state)
        h = np.stack(new)
    return h


def newton_as_one_large_system(u, W, U, b, iterations):
    (N, L), h = (len(W), len(u)), None
    h = np.tanh(np.reshape(u, (L, -1)) @ U.T + b)  # another guess
    for _ in range(iterations):
        guess = np.vstack([np.zeros(N), h[:-1]])
        f = np.tanh(guess @ W.T + np.reshape(u, (L, -1)) @ U.T + b)
        big = np.eye(L * N)
        for k in range(1, L):
            big[k * N : (k + 1) * N, (k - 1) * N : k * N] = -(1 - f[k] ** 2)[:, None] * W
        h = h + np.linalg.solve(big, (f - h).ravel()).reshape(L, N)
    return h


def unshifted(u, W, U, b, iterations):
    h = np.zeros((len(u), len(W)))
    for _ in range(iterations):
        f = np.tanh(h @ W.T + np.reshape(u, (len(u), -1)) @ U.T + b)
        J, new, state = (1 - f**2)[:, :, None] * W, [], np.zeros(len(W))
        for k in range(len(u)):
            state = f[k] + J[k] @ (state - h[k])
            new.append(state)
        h = np.stack(new)
    return h


@pytest.mark.parametrize("answer", [newton, newton_as_one_large_system])
def test_newton_right(answer, accepts):
    accepts(check_newton, answer)


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda u, W, U, b, iterations: rnn(u, W, U, b), "loop over k through the tanh"),
        (
            lambda *args: newton(*args, jacobian=lambda f, W: np.zeros((len(f), *W.shape))),
            "squares the error",
        ),
        (
            lambda *args: newton(
                *args, jacobian=lambda f, W: np.broadcast_to(W, (len(f), *W.shape))
            ),
            "squares the error",
        ),
        (lambda *args: unshifted(*args), "Shift the guess"),
        (lambda *args: newton(*args)[-1], "shape"),
        (lambda *args: newton(*args) * np.nan, "not finite"),
        (lambda *args: None, "forget to return"),
    ],
)
def test_newton_wrong(answer, why, explains):
    explains(check_newton, answer, why)
