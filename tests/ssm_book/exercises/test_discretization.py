"""The checks of the chapter on discretization accept right answers and explain wrong ones."""

import numpy as np
import pytest
from scipy.linalg import expm, logm

from ssm_book.exercises import (
    check_best_factor,
    check_exponential_trapezoid,
    check_half_steps,
    check_largest_euler_step,
    check_learn_system,
    check_move_weights,
    check_phi,
    check_prewarped,
    check_to_scipy,
)
from ssm_core.discretize import discretize
from ssm_core.lti import ContinuousSSM


def nothing(*_):
    return None


# ---------------------------------------------------------------- the largest step of Euler


def step_by_formula(A):
    eigenvalues = np.linalg.eigvals(A)
    return np.min(-2 * eigenvalues.real / np.abs(eigenvalues) ** 2)


def step_by_bisection(A):
    low, high = 0.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        radius = np.abs(np.linalg.eigvals(np.eye(len(A)) + middle * A)).max()
        low, high = (middle, high) if radius < 1 else (low, middle)
    return low


def step_of_the_first_eigenvalue(A):
    first = np.linalg.eigvals(A)[0]
    return -2 * first.real / abs(first) ** 2


def step_of_every_eigenvalue(A):
    eigenvalues = np.linalg.eigvals(A)
    return -2 * eigenvalues.real / np.abs(eigenvalues) ** 2


@pytest.mark.parametrize("answer", [step_by_formula, step_by_bisection])
def test_largest_euler_step_accepts(answer, accepts):
    accepts(check_largest_euler_step, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda A: 2 / np.abs(np.linalg.eigvals(A).real).max(), "imaginary part"),
        (lambda A: 2 / np.abs(np.linalg.eigvals(A)).max(), "along another ray"),
        (lambda A: 1 / np.abs(np.linalg.eigvals(A)).max(), "own limit"),
        (step_of_the_first_eigenvalue, "smallest one counts"),
        (step_of_every_eigenvalue, "2 numbers"),
        (nothing, "forget to return"),
    ],
)
def test_largest_euler_step_explains(answer, message, explains):
    explains(check_largest_euler_step, answer, message)


# ---------------------------------------------------------------- (exp(z) - 1) / z


def phi_by_expm1(z):
    zero = z == 0
    return np.where(zero, 1.0, np.expm1(z) / np.where(zero, 1.0, z))


def phi_by_block_exponential(z):
    return np.array([expm(np.array([[v, 1.0], [0.0, 0.0]]))[0, 1] for v in z])


def phi_naive(z):
    return (np.exp(z) - 1) / z


def phi_naive_but_zero(z):
    return np.where(z == 0, 1.0, (np.exp(z) - 1) / np.where(z == 0, 1.0, z))


def phi_short_series(z):
    series = 1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5)))
    return np.where(np.abs(z) < 0.1, series, phi_naive_but_zero(z))


def phi_series_everywhere(terms):
    def phi(z):
        value = np.ones_like(z)
        for n in range(terms, 1, -1):
            value = 1 + z / n * value
        return value

    return phi


@pytest.mark.parametrize("answer", [phi_by_expm1, phi_by_block_exponential])
def test_phi_accepts(answer, accepts):
    accepts(check_phi, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (phi_naive, "limit is 1"),
        (phi_naive_but_zero, "rounded to 16 digits"),
        (phi_short_series, "series is cut off"),
        (phi_series_everywhere(3), "series is cut off"),
        (phi_series_everywhere(12), "series is cut off"),
        (np.expm1, "definition"),
        (lambda z: (np.exp(z) - 1) / z**2, "definition"),
        (lambda z: 1.0, "shape"),
        (nothing, "forget to return"),
    ],
)
def test_phi_explains(answer, message, explains):
    explains(check_phi, answer, message)


# ---------------------------------------------------------------- one factor for all steps


def factor_by_means(a, steps):
    z = np.outer(a, steps)
    return (np.expm1(z) / z * steps**2).sum(1) / (steps**2).sum()


def factor_by_covariance(a, steps):
    """E[M T] and E[M²] as fixed points of one step of their own recurrences."""
    z = np.outer(a, steps)
    decay = np.exp(2 * z).mean(1)
    cross = (np.expm1(z) / a[:, None] * steps).mean(1) / (1 - decay)
    return cross / ((steps**2).mean() / (1 - decay))


def phi_of(a, steps):
    return phi_by_expm1(np.outer(a, steps))


@pytest.mark.parametrize("answer", [factor_by_means, factor_by_covariance])
def test_best_factor_accepts(answer, accepts):
    accepts(check_best_factor, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda a, steps: phi_of(a, steps).mean(1), "counts all steps alike"),
        (lambda a, steps: phi_of(a, steps) @ steps / steps.sum(), "weights are Δ"),
        (lambda a, steps: phi_of(a, steps[:, None].mean(0))[:, 0], "mean step"),
        (lambda a, steps: 1 / factor_by_means(a, steps), "inverse"),
        (
            lambda a, steps: phi_of(a, steps) @ steps**2 / (phi_of(a, steps) ** 2 @ steps**2),
            "other way round",
        ),
        (lambda a, steps: 1 / (1 / phi_of(a, steps)).mean(1), "harmonic mean"),
        (lambda a, steps: np.ones(len(a)), "Least squares"),
        (lambda a, steps: 0.5, "shape"),
        (nothing, "forget to return"),
    ],
)
def test_best_factor_explains(answer, message, explains):
    explains(check_best_factor, answer, message)


def test_the_factor_of_a_long_run_agrees():
    rng = np.random.default_rng(0)
    drawn, L = np.array([0.01, 0.03, 0.1]), 200_000
    steps, u = rng.choice(drawn, L), rng.standard_normal(L)
    a = np.array([-16.0])
    mamba_x, true_x, cross, square = 0.0, 0.0, 0.0, 0.0
    for dt, v in zip(steps, u, strict=True):
        decay = np.exp(-16 * dt)
        mamba_x, true_x = decay * mamba_x + dt * v, decay * true_x + (1 - decay) / 16 * v
        cross, square = cross + mamba_x * true_x, square + mamba_x**2
    assert np.isclose(cross / square, factor_by_means(a, drawn)[0], rtol=0.02)


# ---------------------------------------------------------------- two half steps


def halves_by_solving(A, B, dt):
    half, unit = dt / 2 * A, np.eye(len(A))
    return np.linalg.solve(unit - half, unit + half), np.linalg.solve(unit - half, dt * B)


def halves_by_stepping(A, B, dt):
    """Column by column: push unit states and unit inputs through both halves."""
    N, M = B.shape
    x, u = np.hstack([np.eye(N), np.zeros((N, M))]), np.hstack([np.zeros((M, N)), np.eye(M)])
    x = x + dt / 2 * (A @ x + B @ u)
    x = np.linalg.inv(np.eye(N) - dt / 2 * A) @ (x + dt / 2 * B @ u)
    return x[:, :N], x[:, N:]


def halves_with_a_sign_swapped(A, B, dt):
    return halves_by_solving(-A, B, dt)


def halves_with_one_push(A, B, dt):
    Ab, Bb = halves_by_solving(A, B, dt)
    return Ab, Bb / 2


@pytest.mark.parametrize("answer", [halves_by_solving, halves_by_stepping])
def test_half_steps_accepts(answer, accepts):
    accepts(check_half_steps, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (halves_with_a_sign_swapped, "backwards in time"),
        (halves_with_one_push, "Both halves add"),
        (lambda A, B, dt: (np.eye(len(A)) + dt * A, dt * B), "second solves"),
        (lambda A, B, dt: halves_by_solving(A, B, dt)[0], "two matrices"),
        (nothing, "forget to return"),
    ],
)
def test_half_steps_explains(answer, message, explains):
    explains(check_half_steps, answer, message)


# ---------------------------------------------------------------- from update first to output first


def scipy_by_insertion(A, B, C, D):
    return A, B, C @ A, C @ B + D


def scipy_by_a_longer_state(A, B, C, D):
    """Keep the last input in the state and apply it at the beginning of the next step."""
    N, M = B.shape
    A_out = np.block([[A, B], [np.zeros((M, N + M))]])
    B_out = np.vstack([np.zeros((N, M)), np.eye(M)])
    return A_out, B_out, C @ A @ A_out[:N], C @ B + D


@pytest.mark.parametrize("answer", [scipy_by_insertion, scipy_by_a_longer_state])
def test_to_scipy_accepts(answer, accepts):
    accepts(check_to_scipy, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda A, B, C, D: (A, B, C, D), "one sample late"),
        (lambda A, B, C, D: (A, B, C @ A, D), "missing from D"),
        (lambda A, B, C, D: (A, B, C, C @ B + D), "old state"),
        (lambda A, B, C, D: (C @ A, C @ B + D), "four matrices"),
        (lambda A, B, C, D: (A, B, (C @ A).T, C @ B + D), "C has shape"),
        (nothing, "forget to return"),
    ],
)
def test_to_scipy_explains(answer, message, explains):
    explains(check_to_scipy, answer, message)


# ---------------------------------------------------------------- prewarping


def warp(dt, w0):
    return np.tan(w0 * dt / 2) / (w0 * dt / 2)


def prewarped_by_step(A, B, C, D, dt, w0):
    return discretize(A, B, C, D, dt * warp(dt, w0), "bilinear")


def prewarped_by_system(A, B, C, D, dt, w0):
    c = warp(dt, w0)
    return discretize(c * A, c * B, C, D, dt, "gbt", alpha=0.5)


def prewarped_by_gain(A, B, C, D, dt, w0):
    """Leaves the poles where they are and corrects modulus and phase at w0 in C and D."""
    Ab, Bb, Cb, Db = discretize(A, B, C, D, dt, "bilinear")
    got = Cb @ np.linalg.solve(np.exp(1j * w0 * dt) * np.eye(len(A)) - Ab, Bb) + Db
    want = C @ np.linalg.solve(1j * w0 * np.eye(len(A)) - A, B) + D
    return Ab, Bb, Cb * (want / got), Db * (want / got)


def prewarped_in_part(power_A, power_B):
    """Scales A and B by different powers of the right factor."""

    def prewarped(A, B, C, D, dt, w0):
        c = warp(dt, w0)
        return discretize(c**power_A * A, c**power_B * B, C, D, dt, "bilinear")

    return prewarped


@pytest.mark.parametrize("answer", [prewarped_by_step, prewarped_by_system])
def test_prewarped_accepts(answer, accepts):
    accepts(check_prewarped, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda A, B, C, D, dt, w0: discretize(A, B, C, D, dt, "bilinear"), "plain bilinear"),
        (
            lambda A, B, C, D, dt, w0: discretize(A, B, C, D, dt / warp(dt, w0), "bilinear"),
            "warps twice",
        ),
        (prewarped_by_gain, "must stay in place"),
        (prewarped_in_part(1, 0), "A and B together"),
        (prewarped_in_part(0, 1), "A and B together"),
        (prewarped_in_part(-1, 0), "A and B together"),
        (prewarped_in_part(1, -1), "A and B together"),
        (lambda A, B, C, D, dt, w0: prewarped_by_step(A, B, C, D, dt, w0)[:2], "four matrices"),
        (
            lambda A, B, C, D, dt, w0: (*prewarped_by_step(A, B, C, D, dt, w0)[:3], 0.0),
            "Db has shape",
        ),
        (
            lambda A, B, C, D, dt, w0: discretize(A, B, C, D, dt * warp(dt, w0) ** 2, "bilinear"),
            "step Δ' of their own",
        ),
        (nothing, "forget to return"),
    ],
)
def test_prewarped_explains(answer, message, explains):
    explains(check_prewarped, answer, message)


# ---------------------------------------------------------------- the exponential trapezoid


def trapezoid_step_by_step(a, b, u, dt):
    x, last, out = np.zeros(len(a)), 0.0, np.empty((len(u), len(a)))
    for k in range(len(u)):
        x = np.exp(dt[k] * a) * (x + dt[k] / 2 * b * last) + dt[k] / 2 * b * u[k]
        out[k], last = x, u[k]
    return out


def trapezoid_as_blows(a, b, u, dt):
    """Mamba's recurrence with the mean of both steps as weight, less the half not yet due."""
    after = np.append(dt[1:], 0.0)
    x, out = np.zeros(len(a)), np.empty((len(u), len(a)))
    for k in range(len(u)):
        x = np.exp(dt[k] * a) * x + (dt[k] + after[k]) / 2 * b * u[k]
        out[k] = x - after[k] / 2 * b * u[k]
    return out


def mamba(a, b, u, dt):
    x, out = np.zeros(len(a)), np.empty((len(u), len(a)))
    for k in range(len(u)):
        x = out[k] = np.exp(dt[k] * a) * x + dt[k] * b * u[k]
    return out


def mamba_on_means(a, b, u, dt):
    return mamba(a, b, (u + np.append(0.0, u[:-1])) / 2, dt)


def trapezoid_with_the_last_step(a, b, u, dt):
    """Right for even steps: each half is weighted with the step in which the sample came."""
    x, last, out = np.zeros(len(a)), np.zeros(len(a)), np.empty((len(u), len(a)))
    for k in range(len(u)):
        new = dt[k] / 2 * b * u[k]
        x = np.exp(dt[k] * a) * (x + last) + new
        out[k], last = x, new
    return out


def held_exactly(a, b, u, dt):
    system, x, out = ContinuousSSM(np.diag(a), b[:, None], b[None, :], [[0]]), np.zeros(len(a)), []
    for k in range(len(u)):
        _, x = system.discretize(dt[k], "zoh").step(u[k], x)
        out.append(x)
    return np.array(out)


@pytest.mark.parametrize("answer", [trapezoid_step_by_step, trapezoid_as_blows])
def test_exponential_trapezoid_accepts(answer, accepts):
    accepts(check_exponential_trapezoid, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (mamba, "Mamba's rule"),
        (mamba_on_means, "has not aged"),
        (trapezoid_with_the_last_step, "own Δ_k"),
        (held_exactly, "weight Δ/2"),
        (lambda a, b, u, dt: trapezoid_step_by_step(a, b, u, dt).T, "expected \\(L, N\\)"),
        (nothing, "forget to return"),
    ],
)
def test_exponential_trapezoid_explains(answer, message, explains):
    explains(check_exponential_trapezoid, answer, message)


# ---------------------------------------------------------------- a system learned from its samples


def fitted(x):
    return np.linalg.lstsq(x[:-1], x[1:], rcond=None)[0].T


def solved(Ab, dt, rule):
    unit = np.eye(len(Ab))
    if rule == "euler":
        return (Ab - unit) / dt
    if rule == "backward_euler":
        return (unit - np.linalg.inv(Ab)) / dt
    if rule == "bilinear":
        return 2 / dt * (Ab - unit) @ np.linalg.inv(Ab + unit)
    return logm(Ab) / dt


def learn_by_solving(x, dt, rule):
    return solved(fitted(x), dt, rule)


def learn_by_newton(x, dt, rule):
    """Looks for the A whose update is the fitted one, by Gauss and Newton from the linear answer."""
    if rule == "zoh":
        return np.real(logm(fitted(x)).astype(complex)) / dt
    N, Ab = x.shape[1], fitted(x)

    def update(A):
        B = np.zeros((N, 1))
        return discretize(A, B, np.eye(N), B, dt, rule)[0]

    A = (Ab - np.eye(N)) / dt
    for _ in range(30):
        J = np.empty((N * N, N * N))
        for i in range(N * N):
            d = np.zeros(N * N)
            d[i] = 1e-6
            J[:, i] = (update(A + d.reshape(N, N)) - update(A - d.reshape(N, N))).ravel() / 2e-6
        A = A + np.linalg.solve(J, (Ab - update(A)).ravel()).reshape(N, N)
    return A


@pytest.mark.parametrize("answer", [learn_by_solving, learn_by_newton])
def test_learn_system_accepts(answer, accepts):
    accepts(check_learn_system, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, dt, rule: solved(fitted(x).T, dt, rule), "transpose"),
        (lambda x, dt, rule: fitted(x), "matrix of the update"),
        (lambda x, dt, rule: solved(fitted(x), 1.0, rule), "divide by the step"),
        (lambda x, dt, rule: solved(fitted(x), dt, "zoh").real, "belongs to the hold"),
        (lambda x, dt, rule: solved(fitted(x), dt, "euler"), "under the rule 'euler'"),
        (lambda x, dt, rule: solved(fitted(x), dt, rule)[0], "has shape"),
        (lambda x, dt, rule: np.full((x.shape[1],) * 2, np.nan), "not finite"),
        (nothing, "forget to return"),
    ],
)
def test_learn_system_explains(answer, message, explains):
    explains(check_learn_system, answer, message)


# ---------------------------------------------------------------- the same update by another rule


ALPHA = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}


def moved(a, b, dt, rule):
    Ab = np.exp(dt * a)
    if rule == "zoh":
        return a, b * dt * a / (Ab - 1)
    a_new = (Ab - 1) / (dt * (1 - ALPHA[rule] + ALPHA[rule] * Ab))
    return a_new, b * (1 - ALPHA[rule] * dt * a_new)


def moved_by_bisection(a, b, dt, rule):
    """The new a by bisection, the new b because every rule is linear in b."""
    new = np.array(a)
    if rule != "zoh":
        for n in range(len(a)):
            target = np.exp(dt * a[n])
            alpha = ALPHA[rule]
            low, high = -1e4, 0.0  # the rule rises with a
            for _ in range(200):
                middle = (low + high) / 2
                value = (1 + (1 - alpha) * dt * middle) / (1 - alpha * dt * middle)
                low, high = (middle, high) if value < target else (low, middle)
            new[n] = (low + high) / 2
    unit = [discretize(v, 1.0, 1.0, 0.0, dt, rule)[1].item() for v in new]
    return new, dt * b / np.array(unit)


@pytest.mark.parametrize("answer", [moved, moved_by_bisection])
def test_move_weights_accepts(answer, accepts):
    accepts(check_move_weights, answer)


def only(rule, wrong):
    """The right answer but for one rule."""
    return lambda a, b, dt, name: wrong(a, b, dt) if name == rule else moved(a, b, dt, name)


def with_b(rule, wrong):
    """The right a, and for one rule a wrong b."""

    def answer(a, b, dt, name):
        a_new, b_new = moved(a, b, dt, name)
        return a_new, wrong(a, b, dt, a_new) if name == rule else b_new

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda a, b, dt, rule: (a, b), "old b. This rule makes φ"),
        (only("euler", lambda a, b, dt: (a, b)), "right for the hold only"),
        (only("euler", lambda a, b, dt: (np.exp(dt * a), b)), "the target"),
        (only("euler", lambda a, b, dt: (np.exp(dt * a) - 1, b)), "divide by the step"),
        (only("bilinear", lambda a, b, dt: moved(a, b, dt, "euler")), "under the rule 'euler'"),
        (only("euler", lambda a, b, dt: (2 * a, b)), "has to make e"),
        (with_b("euler", lambda a, b, dt, new: dt * b), "the target, Δb"),
        (with_b("bilinear", lambda a, b, dt, new: b), "old b. This rule makes Δb"),
        (with_b("backward_euler", lambda a, b, dt, new: b / (1 - dt * new)), "inverse"),
        (with_b("bilinear", lambda a, b, dt, new: b * (1 - dt / 2 * a)), "contains the new a"),
        (with_b("zoh", lambda a, b, dt, new: 3 * b), "has to make Δb"),
        (lambda a, b, dt, rule: a, "two arrays"),
        (lambda a, b, dt, rule: (a[:2], b), "shape"),
        (lambda a, b, dt, rule: (a * np.nan, b), "not finite"),
        (nothing, "forget to return"),
    ],
)
def test_move_weights_explains(answer, message, explains):
    explains(check_move_weights, answer, message)
