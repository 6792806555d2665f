"""The checks of the chapter on duality accept every right answer and explain the usual wrong ones."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.signal import fftconvolve, lfilter

from ssm_book.exercises import (
    check_convolve,
    check_crossing,
    check_learn_pole,
    check_read_off,
    check_realize,
    check_stream,
    check_window_for,
)


def by_fft(u, K):
    n = len(u) + len(K) - 1
    return np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(K, n), n)[: len(u)]


def by_filter(u, K):
    return lfilter(K, [1.0], u)


def window_by_bisection(c, decays, error):
    def enough(W):
        return np.sum(c * decays**W / (1 - decays)) <= error

    low, high = -1, 2**30
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def window_by_newton(c, decays, error):
    """Newton's rule on the logarithm of the tail, which is convex; then round up."""
    W = 0.0
    for _ in range(200):
        terms = c * decays**W / (1 - decays)
        W -= np.log(terms.sum() / error) * terms.sum() / np.sum(terms * np.log(decays))
        W = max(W, 0.0)
    return int(np.ceil(W - 1e-9))


def first_missing_term(c, decays, error):
    return max(int(np.ceil(np.log(error / c.sum()) / np.log(decays.max()))), 0)


def slowest_mode_alone(c, decays, error):
    i = np.argmax(decays)
    W = np.log(error * (1 - decays[i]) / c[i]) / np.log(decays[i])
    return max(int(np.ceil(W)), 0)


def crossing_of(factor, rest=lambda percent: 100 - percent):
    return lambda d, percent: -(-factor * d * percent // rest(percent))


def least_squares_pole(u, y, W, scaled=True, unit_sum=False, circle=False):
    """The best pole by a search in one dimension, without a gradient."""

    def loss(rho):
        K = (1 - rho if scaled else 1) * rho ** np.arange(W)
        if unit_sum:
            K = K / K.sum()
        if circle:
            output = np.fft.irfft(np.fft.rfft(u) * np.fft.rfft(K, len(u)), len(u))
        else:
            output = lfilter(K, [1.0], u)
        return np.mean((output - y) ** 2)

    grid = np.linspace(0.01, 0.9999, 300)
    i = int(np.argmin([loss(rho) for rho in grid]))
    bounds = grid[max(i - 1, 0)], grid[min(i + 1, 299)]
    return minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x


def pole_by_training(u, y, W, unit_sum=False, circle=False, updates=200):
    """What readers write: Adam on the logit of the pole, which can end before a flat minimum."""
    u, y, n = torch.tensor(u), torch.tensor(y), len(u) + (0 if circle else W)
    logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logit], lr=0.2)
    for _ in range(updates):
        optimizer.zero_grad()
        rho = torch.sigmoid(logit)
        K = (1 - rho) * rho ** torch.arange(W)
        if unit_sum:
            K = K / K.sum()
        output = torch.fft.irfft(torch.fft.rfft(u, n) * torch.fft.rfft(K, n), n)[: len(u)]
        torch.mean((output - y) ** 2).backward()
        optimizer.step()
    return torch.sigmoid(logit).item()


def pole_by_regression(u, y, W):
    """y_k - u_k = rho (y_{k-1} - u_k), which needs no convolution and does not bear noise."""
    return np.linalg.lstsq((y[:-1] - u[1:])[:, None], (y - u)[1:], rcond=None)[0][0]


def read_off(y):
    a = y[2] / y[1]
    return a, y[1] / a, y[0] - y[1] / a


def read_off_by_powers(y):
    a = np.sqrt(y[3] / y[1]) * np.sign(y[2] * y[1])
    return np.array([a, y[2] / a**2, y[0] - y[2] / a**2])


def convolve_by_loop(u, K):
    return [sum(K[j] * u[k - j] for j in range(min(k + 1, len(K)))) for k in range(len(u))]


def stream_by_index(lam, B, C, u, x):
    y = np.empty(len(u))
    for k in range(len(u)):
        x = lam * x + B * u[k]
        y[k] = (C @ x).real
    return y, x


def stream_by_loop(lam, B, C, u, x):
    y = []
    for u_k in u:
        x = lam * x + B * u_k
        y.append((C @ x).real)
    return np.array(y), x


def stream_by_table(lam, B, C, u, x, own=True, old=1, state=True, reverse=True):
    table = lam[:, None] ** np.arange(len(u))
    y = np.convolve(u, ((C * B) @ table).real)[: len(u)]
    if own:
        y = y + ((C * lam**old * x) @ table).real
    after = B * (table @ (u[::-1] if reverse else u))
    return y, after + lam ** len(u) * x * state


def hankel(K):
    i = np.arange(len(K) // 2)
    return K[np.add.outer(i, i)]


def realize_by_observability(K, N):
    U, S, Vt = np.linalg.svd(hankel(K))
    rows, columns = U[:, :N] * np.sqrt(S[:N]), np.sqrt(S[:N])[:, None] * Vt[:N]
    return np.linalg.lstsq(rows[:-1], rows[1:], rcond=None)[0], columns[:, :1], rows[:1]


def realize_by_companion(K, N):
    """Prony: a recurrence for K itself, as a companion matrix; C reads the first of N values."""
    rows = np.array([K[i : i + N] for i in range(len(K) - N)])
    A = np.eye(N, k=1)
    A[-1] = np.linalg.lstsq(rows, K[N:], rcond=None)[0]
    return A, K[:N, None], np.eye(1, N)


RIGHT = [
    (check_read_off, read_off),
    (check_read_off, read_off_by_powers),
    (check_convolve, by_fft),
    (check_convolve, lambda u, K: fftconvolve(u, K)[: len(u)]),
    (check_window_for, window_by_bisection),
    (check_window_for, window_by_newton),
    (check_crossing, crossing_of(12)),
    (check_crossing, lambda d, percent: math.ceil(Fraction(12 * d * percent, 100 - percent))),
    (check_crossing, lambda d, percent: float(crossing_of(12)(d, percent))),
    (check_learn_pole, least_squares_pole),
    (check_learn_pole, pole_by_training),
    (check_stream, stream_by_table),
    (check_realize, realize_by_observability),
    (check_realize, realize_by_companion),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, accepts):
    accepts(check, answer)


def on_the_circle(u, K):
    return np.fft.irfft(np.fft.rfft(u) * np.fft.rfft(K, len(u)), len(u)) if len(u) > 1 else u * K


def on_a_circle_of_twice_the_signal(u, K):
    n = 2 * len(u)
    return np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(K, n), n)[: len(u)]


def without_n_on_the_way_back(u, K):
    n = len(u) + len(K) - 1
    return np.fft.irfft(np.fft.rfft(u, n) * np.fft.rfft(K, n))[: len(u)]


def realize_one_step_late(K, N):
    A, B, C = realize_by_companion(K, N)
    return A, np.linalg.solve(A, B), C  # K_0 = C A^-1 B


def realize_changed(change):
    return lambda K, N: change(*realize_by_observability(K, N))


def realize_without_singular_values(K, N):
    U, _, Vt = np.linalg.svd(hankel(K))
    A = np.linalg.lstsq(U[:-1, :N], U[1:, :N], rcond=None)[0]
    return A, Vt[:N, :1], U[:1, :N]


WRONG = [
    (check_read_off, lambda y: (y[1] / y[0], y[0], 0.0), "to which d adds nothing"),
    (check_read_off, lambda y: (y[2] / y[1], y[0], read_off(y)[2]), "not c b"),
    (check_read_off, lambda y: (y[2] / y[1], y[1], y[0] - y[1]), "divide it by a"),
    (check_read_off, lambda y: (*read_off(y)[:2], y[0]), "not d"),
    (check_read_off, lambda y: (y[1] / y[2], *read_off(y)[1:]), "1 / a"),
    (check_read_off, lambda y: (0.0, 0.0, 0.0), "The outputs are"),
    (check_read_off, lambda y: (*read_off(y), 1.0), "three numbers"),
    (check_read_off, lambda y: ([1.0], 2.0, 3.0), "numbers in arrays of one shape"),
    (check_read_off, lambda y: None, "did you forget to return"),
    (check_convolve, by_filter, "added up directly"),
    (check_convolve, lambda u, K: np.convolve(u, K)[: len(u)], "added up directly"),
    (check_convolve, convolve_by_loop, "added up directly"),
    (check_convolve, on_the_circle, "wrapped round"),
    (check_convolve, on_a_circle_of_twice_the_signal, "wrapped round"),
    (check_convolve, np.convolve, "Keep the first L:"),
    (check_convolve, lambda u, K: by_fft(u, K) + 0j, "complex"),
    (check_convolve, lambda u, K: by_fft(u, K[::-1]), "y_k is the sum"),
    (check_convolve, without_n_on_the_way_back, "pass n to irfft"),
    (check_convolve, lambda u, K: [[1.0], [1.0, 2.0]], "numbers in arrays of one shape"),
    (check_convolve, lambda u, K: "y", "numbers in arrays"),
    (check_window_for, first_missing_term, "the whole tail adds up"),
    (check_window_for, slowest_mode_alone, "slowest mode alone"),
    (check_window_for, lambda *a: window_by_bisection(*a) - 1, "one term too short"),
    (check_window_for, lambda *a: np.nan, "whole number"),
    (check_window_for, lambda *a: np.inf, "whole number"),
    (check_window_for, lambda *a: [1, 2], "whole number"),
    (check_window_for, lambda *a: 1j, "whole number"),
    (check_crossing, crossing_of(6), "half of the sequence"),
    (check_crossing, crossing_of(24), "sums up values"),
    (check_crossing, crossing_of(4), "feed-forward network is missing"),
    (check_crossing, crossing_of(8), "projections of attention are missing"),
    (check_crossing, crossing_of(11), "four projections"),
    (check_crossing, crossing_of(12, lambda percent: 100), "not Q / P"),
    (check_crossing, lambda d, percent: 12 * d * percent // (100 - percent), "round up, not down"),
    (check_crossing, lambda d, p: math.ceil(12 * d * (p / 100) / (1 - p / 100)), "floats"),
    (check_crossing, lambda d, p: crossing_of(12)(d, p) + 1, "one"),
    (check_crossing, crossing_of(13), "longer than needed"),
    (check_crossing, crossing_of(10), "too short"),
    (check_crossing, lambda d, percent: 12 * d * percent / (100 - percent), "whole number"),
    (check_crossing, lambda d, percent: None, "did you forget to return"),
    (check_learn_pole, lambda *a: 1 - least_squares_pole(*a), "weight of the newest sample"),
    (check_learn_pole, lambda *a: least_squares_pole(*a, scaled=False), "factor 1 - rho"),
    (check_learn_pole, lambda *a: least_squares_pole(*a, unit_sum=True), "sum of 1"),
    (check_learn_pole, lambda *a: least_squares_pole(*a, circle=True), "wrapped round"),
    (check_learn_pole, lambda *a: pole_by_training(*a, unit_sum=True), "sum of 1"),
    (check_learn_pole, lambda *a: pole_by_training(*a, circle=True), "wrapped round"),
    (check_learn_pole, lambda *a: pole_by_training(*a, updates=20), "more updates"),
    (check_learn_pole, lambda u, y, W: least_squares_pole(u, y, len(u)), "Cut yours"),
    (check_learn_pole, pole_by_regression, "one before"),
    (check_learn_pole, lambda *a: 0.8, "more updates"),
    (check_learn_pole, lambda *a: np.nan, "between 0 and 1"),
    (check_learn_pole, lambda *a: 1.2, "between 0 and 1"),
    (check_learn_pole, lambda *a: np.array([0.9]), "one number"),
    (check_learn_pole, lambda *a: None, "did you forget to return"),
    (check_window_for, lambda *a: window_by_bisection(*a) + 1, "more than needed"),
    (check_window_for, lambda *a: window_by_bisection(*a) + 0.5, "whole number"),
    (check_stream, lambda *a: stream_by_table(*a, own=False), "missing in the outputs"),
    (check_stream, lambda *a: stream_by_table(*a, old=0), "its power is j"),
    (check_stream, lambda *a: stream_by_table(*a, state=False), "missing in the new one"),
    (check_stream, lambda *a: stream_by_table(*a, reverse=False), "must be reversed"),
    (check_stream, stream_by_loop, "loop over time"),
    (check_stream, stream_by_index, "loop over time"),
    (check_stream, lambda *a: stream_by_table(*a)[0], "two things"),
    (check_stream, lambda *a: 1.0, "two things"),
    (check_realize, lambda K, N: realize_by_companion(K, N + 1), "A has shape"),
    (check_realize, lambda K, N: realize_by_observability(K[1:], N), "one step early"),
    (check_realize, realize_one_step_late, "C B should be"),
    (check_realize, realize_without_singular_values, "give back H"),
    (check_realize, realize_changed(lambda A, B, C: (A.T, B, C)), "transposed"),
    (check_realize, realize_changed(lambda A, B, C: (np.linalg.inv(A), B, C)), "one step back"),
    (check_realize, realize_changed(lambda A, B, C: (0 * A, B, C)), "look at A"),
    (check_realize, realize_changed(lambda A, B, C: (np.nan * A, B, C)), "not finite"),
    (check_realize, lambda K, N: 1.0, "three arrays"),
    (check_realize, lambda K, N: None, "did you forget to return"),
]


@pytest.mark.parametrize("check, answer, words", WRONG)
def test_wrong_answers_are_explained(check, answer, words, explains):
    explains(check, answer, words)
