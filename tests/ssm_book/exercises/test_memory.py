"""The checks of the chapter on memory accept every right answer and explain the usual wrong ones."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from ssm_book.exercises import (
    check_average,
    check_gain,
    check_learn_weight,
    check_merge,
    check_numbers_needed,
    check_part_mean,
    check_shortest_window,
    check_weight,
)
from ssm_core.hippo import basis


def average_by_recurrence(prices, times, tau):
    y = [prices[0]]
    for price, step in zip(prices[1:], np.diff(times)):
        y.append(price + np.exp(-step / tau) * (y[-1] - price))
    return np.array(y)


def average_by_weights(prices, times, tau):
    """Every price with its own weight at every later time, without a recurrence."""
    own = np.r_[1.0, 1 - np.exp(-np.diff(times) / tau)]
    faded = np.exp(-np.maximum(times[:, None] - times, 0) / tau)
    return np.tril(faded * own) @ prices


def average_with(weights):
    """The recurrence with other weights of the newest price."""

    def average(prices, times, tau):
        y = [prices[0]]
        for price, weight in zip(prices[1:], weights(np.diff(times), tau)):
            y.append(y[-1] + weight * (price - y[-1]))
        return np.array(y)

    return average


def window_by_counting(alpha, low, high, error):
    W = 0
    while (1 - alpha) ** W * (high - low) / 2 > error:
        W += 1
    return W


def window_by_logarithm(alpha, low, high, error, spread=0.5, guard=True):
    W = int(np.ceil(np.log(error / (spread * (high - low))) / np.log(1 - alpha)))
    return max(0, W) if guard else W


def part_mean_by_gauss(N, start, stop):
    z, w = np.polynomial.legendre.leggauss(N)
    return w / 2 @ basis("legs", N, start + (stop - start) * (z + 1) / 2)


def part_mean_by_integration(N, start, stop):
    row = []
    for n in range(N):
        p = np.sqrt(2 * n + 1) * np.polynomial.Legendre.basis(n, domain=[0, 1])
        row.append((p.integ()(stop) - p.integ()(start)) / (stop - start))
    return np.array([row])  # a row of C: (1, N)


def gain_by_formula(drift, noise):
    q = (drift / noise) ** 2
    return (np.sqrt(q**2 + 4 * q) - q) / 2


def gain_by_iteration(drift, noise):
    V = 0.0
    for _ in range(5000):
        M = V + drift**2
        V = M * noise**2 / (M + noise**2)
    return M / (M + noise**2)


def forecast_error(alpha, u, start=None, ahead=1):
    y, state = [], u[0] if start is None else start
    for value in u:
        state += alpha * (value - state)
        y.append(state)
    return np.mean((u[ahead:] - np.array(y)[:-ahead]) ** 2)


def weight_by_scipy(u, **options):
    def error(alpha):
        return forecast_error(alpha, u, **options)

    return minimize_scalar(error, bounds=(1e-3, 1), method="bounded").x


def weight_by_grid(u):
    grid = np.linspace(0.001, 1, 1000)
    return grid[np.argmin([forecast_error(alpha, u) for alpha in grid])]


def needed_by_qr(u, error):
    t = (np.arange(len(u)) + 0.5) / len(u)
    Q = np.linalg.qr(basis("legs", 128, t))[0]
    x = Q.T @ u
    for N in range(1, 129):
        if np.sqrt(np.mean((Q[:, :N] @ x[:N] - u) ** 2)) <= error * u.std():
            return N
    return 129


def needed_by_least_squares(u, error):
    z = np.linspace(-1, 1, len(u))
    for degree in range(128):
        fit = np.polynomial.Legendre.fit(z, u, degree)(z)
        if np.sqrt(np.mean((fit - u) ** 2)) <= error * u.std():
            return degree + 1
    return 129


def merge_without_lengths(first, second, share):
    whole = merge_by_gauss(first, 0 * second, share) / share
    return whole + merge_by_gauss(0 * first, second, share) / (1 - share)


def merge_by_gauss(first, second, share, share_of_second=None):
    N = len(first)
    z, w = np.polynomial.legendre.leggauss(N)
    t, w = (z + 1) / 2, w / 2
    own = basis("legs", N, t)
    early, late = basis("legs", N, share * t), basis("legs", N, share + (1 - share) * t)
    rest = 1 - share if share_of_second is None else share_of_second
    return share * early.T @ (w * (own @ first)) + rest * late.T @ (w * (own @ second))


def merge_by_matrices(first, second, share):
    """Two matrices of inner products, by far more nodes than are needed."""
    N = len(first)
    z, w = np.polynomial.legendre.leggauss(3 * N + 40)
    t, w = (z + 1) / 2, w / 2
    total = np.zeros(N)
    for part, begin, length in ((first, 0.0, share), (second, share, 1 - share)):
        inner = basis("legs", N, begin + length * t).T @ (w[:, None] * basis("legs", N, t))
        total += length * inner @ part
    return total


RIGHT = [
    (check_weight, lambda half_life, dt: 1 - 0.5 ** (dt / half_life)),
    (check_weight, lambda half_life, dt: -np.expm1(-np.log(2) * dt / half_life)),
    (check_average, average_by_recurrence),
    (check_average, average_by_weights),
    (check_shortest_window, window_by_counting),
    (check_shortest_window, window_by_logarithm),
    (check_part_mean, part_mean_by_gauss),
    (check_part_mean, part_mean_by_integration),
    (check_gain, gain_by_formula),
    (check_gain, gain_by_iteration),
    (check_numbers_needed, needed_by_qr),
    (check_numbers_needed, needed_by_least_squares),
    (check_learn_weight, weight_by_scipy),
    (check_learn_weight, weight_by_grid),
    (check_merge, merge_by_gauss),
    (check_merge, merge_by_matrices),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, accepts):
    accepts(check, answer)


WRONG = [
    (check_weight, lambda half_life, dt: 1 - np.exp(-dt / half_life), "for the time constant"),
    (check_weight, lambda half_life, dt: 2 / (half_life / dt + 1), "for the span"),
    (check_weight, lambda half_life, dt: 1 - 0.5 ** (1 / half_life), "half-life is a time"),
    (check_weight, lambda half_life, dt: 0.5 ** (dt / half_life), "That is 1 - alpha"),
    (check_weight, lambda half_life, dt: np.log(2) * dt / half_life, "Euler's approximation"),
    (check_weight, lambda half_life, dt: None, "did you forget to return"),
    (
        check_average,
        average_with(lambda steps, tau: np.full(len(steps), 1 - np.exp(-1 / tau))),
        "All steps get the same weight",
    ),
    (
        check_average,
        average_with(lambda steps, tau: np.full(len(steps), 0.1)),
        "distance to the new price",
    ),
    (
        check_average,
        average_with(lambda steps, tau: 1 - np.exp(-np.r_[steps[1:], steps[-1:]] / tau)),
        "gap after it",
    ),
    (
        check_average,
        lambda prices, times, tau: average_by_recurrence(np.r_[0.0, prices[1:]], times, tau),
        "starts at zero",
    ),
    (check_average, average_with(lambda steps, tau: steps / tau), "Euler's rule"),
    (check_average, average_with(lambda steps, tau: np.exp(-steps / tau)), "weight of the old"),
    (
        check_average,
        average_with(lambda steps, tau: 1 - np.exp(-np.mean(steps) / tau) + 0 * steps),
        "All steps get the same weight",
    ),
    (check_average, lambda *a: average_by_recurrence(*a)[1:], "has shape"),
    (check_average, lambda *a: None, "did you forget to return"),
    (check_shortest_window, lambda *a: window_by_logarithm(*a, spread=1), "wrong by half of it"),
    (
        check_shortest_window,
        lambda *a: window_by_counting(*a) - 1,
        "two histories that agree|whole",
    ),
    (check_shortest_window, lambda *a: window_by_counting(*a) + 1, "is enough as well"),
    (check_shortest_window, lambda *a: window_by_counting(*a) + 0.5, "a whole number"),
    (check_part_mean, lambda N, a, b: (b - a) * part_mean_by_gauss(N, a, b), "the integral"),
    (check_part_mean, lambda N, a, b: part_mean_by_gauss(N, 1 - b, 1 - a), "runs backwards"),
    (check_part_mean, lambda N, a, b: basis("legs", N, [(a + b) / 2])[0], "in the middle"),
    (
        check_part_mean,
        lambda N, a, b: part_mean_by_gauss(N, (a + 1) / 2, (b + 1) / 2),
        "P_n lives on",
    ),
    (
        check_part_mean,
        lambda N, a, b: part_mean_by_gauss(N, a, b) / np.sqrt(2 * np.arange(N) + 1),
        "factor is missing",
    ),
    (check_part_mean, lambda N, a, b: None, "did you forget to return"),
    (
        check_gain,
        lambda drift, noise: gain_by_formula(np.sqrt(drift), np.sqrt(noise)),
        "square them",
    ),
    (check_gain, lambda drift, noise: gain_by_formula(noise, drift), "changed places"),
    (check_gain, lambda drift, noise: drift**2 / (drift**2 + noise**2), "known exactly"),
    (check_gain, lambda drift, noise: 1 - gain_by_formula(drift, noise), "weight of the old"),
    (check_gain, lambda drift, noise: (drift / noise) ** 2, "solve for alpha"),
    (check_gain, lambda drift, noise: 2 * gain_by_formula(drift, noise), "twice too large"),
    (check_shortest_window, lambda *a: window_by_logarithm(*a, guard=False), "whole number"),
    (check_numbers_needed, lambda u, error: needed_by_qr(u, error) - 1, "counts coefficients"),
    (check_numbers_needed, lambda u, error: needed_by_qr(u, error / u.std()), "divide by"),
    (check_numbers_needed, lambda u, error: needed_by_qr(u, error**0.5), "take its root"),
    (check_numbers_needed, lambda u, error: 40, "is asked for"),
    (check_numbers_needed, lambda u, error: 2.5, "a whole number"),
    (check_numbers_needed, lambda u, error: None, "did you forget to return"),
    (check_learn_weight, lambda u: weight_by_scipy(u, start=0.0), "starts at zero"),
    (check_learn_weight, lambda u: weight_by_scipy(u, ahead=2), "two samples ahead"),
    (check_learn_weight, lambda u: 1 - weight_by_scipy(u), "weight of the past"),
    (check_learn_weight, lambda u: 1.0, "contains u"),
    (check_learn_weight, lambda u: 1.5, "at most 1"),
    (check_learn_weight, lambda u: 0.3, "Minimize"),
    (check_learn_weight, lambda u: None, "did you forget to return"),
    (check_merge, merge_without_lengths, "length of its part"),
    (check_merge, lambda a, b, share: share * a + (1 - share) * b, "averages the two"),
    (check_merge, lambda a, b, share: merge_by_gauss(b, a, share), "changed places"),
    (check_merge, lambda a, b, share: merge_by_gauss(a, b, 1 - share), "first part makes up"),
    (check_merge, lambda a, b, share: merge_by_gauss(a, b, share, 1.0), "that part's own"),
    (check_merge, lambda a, b, share: None, "did you forget to return"),
]


@pytest.mark.parametrize("check, answer, words", WRONG)
def test_wrong_answers_are_explained(check, answer, words, explains):
    explains(check, answer, words)
