"""The checks of the chapter on HiPPO accept every right answer and explain the usual wrong ones."""

import numpy as np
import pytest
from scipy.linalg import solve_triangular

from ssm_book.exercises import (
    check_backward_step,
    check_delay_row,
    check_error_bar,
    check_laguerre_response,
    check_learn_row,
    check_recall,
    check_window_memory,
)
from ssm_core.hippo import basis, project, reconstruct, transition


def legendre(N, v):
    """sqrt(2n + 1) P_n(v) by the three-term recurrence, (len(v), N)."""
    v = np.atleast_1d(v)
    rows = [np.ones_like(v), v]
    for n in range(1, N):
        rows.append(((2 * n + 1) * v * rows[n] - n * rows[n - 1]) / (n + 1))
    return np.sqrt(2 * np.arange(N) + 1) * np.array(rows[:N]).T


def error_bar_by_cumsum(u, N):
    energy = np.cumsum(u**2) / np.arange(1, len(u) + 1)
    return np.sqrt(np.maximum(energy - np.sum(project(u, "legs", N, 1.0) ** 2, axis=1), 0))


def error_bar_by_a_loop(u, N):
    bar, energy = [], 0.0
    for k, (sample, x) in enumerate(zip(u, project(u, "legs", N, 1.0)), start=1):
        energy += (sample**2 - energy) / k
        bar.append(np.sqrt(max(energy - x @ x, 0)))
    return bar


def bar_from(energy, weigh=lambda x: np.sum(x**2, axis=1)):
    """An error bar with another energy, or another weight of the coefficients."""
    return lambda u, N: np.sqrt(np.maximum(energy(u) - weigh(project(u, "legs", N, 1.0)), 0))


def mean_so_far(u):
    return np.cumsum(u**2) / np.arange(1, len(u) + 1)


def bar_with_nan(u, N):
    square = mean_so_far(u) - np.sum(project(u, "legs", N, 1.0) ** 2, axis=1)
    return np.where(square > 0, np.sqrt(np.abs(square)), np.nan)


def backward_step_by_a_solve(u, x, k):
    A, B = transition("legs", len(x))
    return solve_triangular((k - 1) * np.eye(len(x)) - A, (k - 1) * x + B[:, 0] * u, lower=True)


def backward_step_in_one_pass(u, x, k):
    new = []
    for n, old in enumerate(x):
        root = np.sqrt(2 * n + 1)
        v = ((k - 1) * old / root + u) / (k + n)
        u = u - (2 * n + 1) * v
        new.append(root * v)
    return np.array(new)


def learn_row_by_normal_equations(states, past, ridge):
    M, N = states.shape
    return np.linalg.solve(states.T @ states + M * ridge * np.eye(N), states.T @ past)


def learn_row_by_descent(states, past, ridge):
    """Gradient descent until nothing moves."""
    M, N = states.shape
    H = states.T @ states / M + ridge * np.eye(N)
    c = np.zeros(N)
    for _ in range(20_000):
        c = c - (H @ c - states.T @ past / M) / np.linalg.norm(H, 2)
    return c


def backward_step_by_a_sum(u, x, k):
    v = np.empty(len(x))
    odd = 2 * np.arange(len(x)) + 1
    for n in range(len(x)):
        v[n] = ((k - 1) * x[n] / np.sqrt(odd[n]) + u - odd[:n] @ v[:n]) / (k + n)
    return np.sqrt(odd) * v


def laguerre_response_by_a_solve(n, w):
    A, B = transition("lagt", n + 1)
    return np.array([np.linalg.solve(1j * f * np.eye(n + 1) - A, B)[n, 0] for f in w])


def window_memory_by_fit(weight, N):
    """Monomials, orthonormalised by a Cholesky factor of their moments; derivatives by matrix."""
    v, w = np.polynomial.legendre.leggauss(100)
    r, w = (v + 1) / 2, w * weight((v + 1) / 2)
    w = w / w.sum()
    powers = np.vander(r, N + 1, increasing=True)
    C = np.linalg.inv(np.linalg.cholesky(powers.T @ (w[:, None] * powers)))  # row n: p_n
    shift = np.diag(np.arange(1.0, N + 1), 1)  # d/dr of a row of coefficients, by shift.T
    D = (C @ shift.T @ np.linalg.inv(C)).T  # p_k' = sum of D[n, k] p_n
    now = C.sum(axis=1)
    last = D[:N, N] / now[N]
    return D[:N, :N] - np.outer(last, now[:N]), last[:, None]


def window_memory_by_qr(weight, N):
    v, w = np.polynomial.legendre.leggauss(300)
    root = np.sqrt(w * weight((v + 1) / 2) / np.sum(w * weight((v + 1) / 2)))
    V = np.polynomial.legendre.legvander(v, N)
    R = np.linalg.qr(root[:, None] * V, mode="r")
    own = np.linalg.inv(R * np.sign(np.diag(R))[:, None])
    d = np.polynomial.legendre.legval(v, np.polynomial.legendre.legder(own)).T
    D = 2 * (root[:, None] * (V @ own)).T @ (root[:, None] * d)
    now = own.sum(axis=0)
    last = D[:N, N] / now[N]
    return D[:N, :N] - np.outer(last, now[:N]), last[:, None]


RIGHT = [
    (check_error_bar, error_bar_by_cumsum),
    (check_error_bar, error_bar_by_a_loop),
    (check_delay_row, lambda N, f: basis("legt", N, [1 - f])[0]),
    (check_delay_row, lambda N, f: legendre(N, 1 - 2 * f)[0]),
    (check_laguerre_response, lambda n, w: (1j * w - 0.5) ** n / (1j * w + 0.5) ** (n + 1)),
    (check_laguerre_response, laguerre_response_by_a_solve),
    (check_learn_row, learn_row_by_normal_equations),
    (check_learn_row, learn_row_by_descent),
    (check_recall, lambda x, ages: reconstruct(x, "legs", np.exp(-ages))),
    (check_recall, lambda x, ages: legendre(len(x), 2 * np.exp(-ages) - 1) @ x),
    (check_backward_step, backward_step_in_one_pass),
    (check_backward_step, backward_step_by_a_sum),
    (check_window_memory, window_memory_by_qr),
    (check_window_memory, window_memory_by_fit),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, accepts):
    accepts(check, answer)


def negated(weight, N):
    A, B = window_memory_by_qr(weight, N)
    return -A, -B


def doubled(weight, N):
    A, B = window_memory_by_qr(weight, N)
    return 2 * A, 2 * B


def halved(weight, N):
    A, B = window_memory_by_qr(weight, N)
    return A / 2, B / 2


def with_flipped_polynomials(weight, N):
    A, B = window_memory_by_qr(weight, N)
    flips = (-1.0) ** np.arange(1, N + 1)
    return flips[:, None] * A * flips, flips[:, None] * B


def reversed_weight(weight, N):
    return window_memory_by_qr(lambda z: weight(1 - z), N)


def without_weight(weight, N):
    return window_memory_by_qr(lambda z: 1 + 0 * z, N)


def step_that_subtracts_v(u, x, k):
    new = np.empty(len(x))
    for n, old in enumerate(x):
        root = np.sqrt(2 * n + 1)
        v = ((k - 1) * old / root + u) / (k + n)
        new[n] = root * v
        u = u - v
    return new


def euler_step(u, x, k):
    A, B = transition("legs", len(x))
    return x + (A @ x + B[:, 0] * u) / k


def bilinear_step(u, x, k):
    A, B = transition("legs", len(x))
    right = (k - 0.5) * x + A @ x / 2 + B[:, 0] * u
    return np.linalg.solve((k - 0.5) * np.eye(len(x)) - A / 2, right)


def late_clock(u, x, k):
    A, B = transition("legs", len(x))
    return np.linalg.solve(k * np.eye(len(x)) - A, k * x + B[:, 0] * u)


def scaled_step(u, x, k):
    return backward_step_by_a_sum(u, x, k) / np.sqrt(2 * np.arange(len(x)) + 1)


def residual_of_old_values(u, x, k):
    new = np.empty(len(x))
    for n, old in enumerate(x):
        new[n] = ((k - 1) * old + np.sqrt(2 * n + 1) * u) / (k + n)
        u = u - np.sqrt(2 * n + 1) * old
    return new


def step_without_the_roots(u, x, k):
    new = np.empty(len(x))
    for n, old in enumerate(x):
        new[n] = ((k - 1) * old + u) / (k + n)
        u = u - new[n]
    return new


def step_with_x_for_v(u, x, k):
    new = np.empty(len(x))
    for n, old in enumerate(x):
        new[n] = ((k - 1) * old + u) / (k + n)
        u = u - (2 * n + 1) * new[n]
    return new


def step_in_place(u, x, k):
    for n in range(len(x)):
        root = np.sqrt(2 * n + 1)
        x[n] = ((k - 1) * x[n] + root * u) / (k + n)
        u = u - root * x[n]
    return x.copy()


def stretched(x, ages):
    return reconstruct(x, "legs", 1 - ages / ages.max())


WRONG = [
    (check_error_bar, lambda u, N: error_bar_by_cumsum(u, N) ** 2, "root is missing"),
    (check_error_bar, bar_from(lambda u: np.cumsum(u**2)), "not its sum"),
    (check_error_bar, bar_from(lambda u: np.mean(u**2)), "still to come"),
    (check_error_bar, bar_from(mean_so_far, lambda x: x[:, 0] ** 2), "not of the first only"),
    (
        check_error_bar,
        bar_from(mean_so_far, lambda x: x**2 @ (2 * np.arange(x.shape[1]) + 1)),
        "no factor 2n",
    ),
    (check_error_bar, bar_from(mean_so_far, lambda x: 0), "comes off"),
    (check_error_bar, bar_with_nan, "is 0"),
    (check_error_bar, lambda u, N: np.ones(len(u)), "minus the sum"),
    (check_error_bar, lambda u, N: error_bar_by_cumsum(u, N)[-1], "one error after each"),
    (check_error_bar, lambda u, N: None, "did you forget to return"),
    (check_delay_row, lambda N, f: basis("legt", N, [f])[0], "1 is now and 0 is theta ago"),
    (
        check_delay_row,
        lambda N, f: legendre(N, 1 - 2 * f)[0] / np.sqrt(2 * np.arange(N) + 1),
        "the factor sqrt",
    ),
    (check_delay_row, lambda N, f: basis("legt", N, [1 - f]), "not for a list of one"),
    (check_delay_row, lambda N, f: None, "did you forget to return"),
    (check_delay_row, lambda N, f: np.ones(N + 1), "has shape"),
    (
        check_laguerre_response,
        lambda n, w: (-1j * w - 0.5) ** n / (-1j * w + 0.5) ** (n + 1),
        "complex conjugate",
    ),
    (
        check_laguerre_response,
        lambda n, w: (0.5 - 1j * w) ** n / (1j * w + 0.5) ** (n + 1),
        "opposite sign",
    ),
    (check_laguerre_response, lambda n, w: ((1j * w - 0.5) / (1j * w + 0.5)) ** n, "low-pass"),
    (check_laguerre_response, lambda n, w: 1 / (1j * w + 0.5) ** (n + 1), "does not damp"),
    (check_recall, lambda x, ages: reconstruct(x, "legs", 1 - np.exp(-ages)), "exchanged"),
    (check_recall, stretched, "with 1/t"),
    (
        check_recall,
        lambda x, ages: np.exp(-ages) * reconstruct(x, "legs", np.exp(-ages)),
        "belongs to the measure",
    ),
    (
        check_learn_row,
        lambda X, y, ridge: learn_row_by_normal_equations(X, y, 0.0),
        "ridge is missing",
    ),
    (
        check_learn_row,
        lambda X, y, ridge: learn_row_by_normal_equations(X, y, ridge / len(X)),
        "has the factor M",
    ),
    (
        check_learn_row,
        lambda X, y, ridge: learn_row_by_normal_equations(X, y, ridge**2),
        "do not square",
    ),
    (
        check_learn_row,
        lambda X, y, ridge: learn_row_by_normal_equations(X, y, ridge / 2),
        "cancels in both",
    ),
    (
        check_learn_row,
        lambda X, y, ridge: learn_row_by_normal_equations(X, y, -ridge),
        "wrong sign",
    ),
    (check_learn_row, lambda X, y, ridge: X.T @ y / len(X), "a system has to be solved"),
    (check_learn_row, lambda X, y, ridge: np.ones(X.shape[1]), "gradient is zero"),
    (check_learn_row, lambda X, y, ridge: X @ np.ones(X.shape[1]), "has shape"),
    (check_learn_row, lambda X, y, ridge: None, "did you forget to return"),
    (check_backward_step, backward_step_by_a_solve, "makes a matrix"),
    (check_backward_step, euler_step, "Euler's step"),
    (check_backward_step, bilinear_step, "bilinear step"),
    (check_backward_step, late_clock, "frozen at the beginning"),
    (check_backward_step, scaled_step, "multiply them by"),
    (check_window_memory, negated, "sign is the opposite"),
    (check_window_memory, doubled, "twice too large"),
    (check_window_memory, halved, "half of what it should be"),
    (check_window_memory, with_flipped_polynomials, "some signs are not"),
    (check_window_memory, reversed_weight, "wrong way round"),
    (check_window_memory, without_weight, "a constant weight"),
    (check_backward_step, step_that_subtracts_v, "reduced by v_n"),
    (check_backward_step, residual_of_old_values, "made of the old"),
    (check_backward_step, step_without_the_roots, "sqrt.2n . 1. is missing"),
    (check_backward_step, step_with_x_for_v, "sqrt.2n . 1. is missing"),
    (check_backward_step, step_in_place, "overwritten x"),
    (check_window_memory, lambda weight, N: transition("legt", N), "That is LegT"),
    (
        check_window_memory,
        lambda weight, N: window_memory_by_qr(weight, N + 1)[:1] * 2,
        "A has shape",
    ),
    (
        check_window_memory,
        lambda weight, N: (window_memory_by_qr(weight, N)[0], np.ones(N)),
        "B has shape",
    ),
    (
        check_window_memory,
        lambda weight, N: window_memory_by_qr(lambda z: 1 + z, N),
        "must satisfy",
    ),
    (check_window_memory, lambda weight, N: (np.eye(N + 1), np.ones(N)), "A has shape"),
    (check_window_memory, lambda weight, N: None, "did you forget to return"),
]


@pytest.mark.parametrize("check, answer, words", WRONG)
def test_wrong_answers_are_explained(check, answer, words, explains):
    explains(check, answer, words)
