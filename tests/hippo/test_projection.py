"""Online compression against the definition: the optimal coefficients, and the dense update."""

import numpy as np
import pytest
from scipy import special

from ssm_core.hippo import legs_update, project, reconstruct, transition


def optimal_legs(u, T, N):
    """Coefficients of the best polynomial on [0, T] under the uniform measure."""
    z, w = np.polynomial.legendre.leggauss(200)
    p = [np.sqrt(2 * n + 1) * special.eval_legendre(n, z) * w / 2 for n in range(N)]
    return np.array(p) @ u(T * (z + 1) / 2)


def midpoints(L, dt):
    return (np.arange(L) + 0.5) * dt


def signal(t):
    return np.sin(7 * t) + 0.3 * np.cos(20 * t)


def errors(method, lengths, N=8):
    return [
        np.abs(
            project(signal(midpoints(L, 1 / L)), "legs", N, 1 / L, method, every=L)[-1]
            - optimal_legs(signal, 1.0, N)
        ).max()
        for L in lengths
    ]


@pytest.mark.parametrize("method, order", [("euler", 1), ("bilinear", 2), ("backward_euler", 1)])
def test_legs_converges_to_the_optimal_projection(method, order):
    coarse, fine = errors(method, (800, 1600))
    assert np.log2(coarse / fine) > order - 0.15


def dense_legs(u, N, alpha):
    """The update as a linear system of size N in each step."""
    A, B = transition("legs", N)
    x = [np.eye(N)[0] * u[0]]
    for k in range(2, len(u) + 1):
        h = 1 / (k - alpha)
        right = x[-1] + (1 - alpha) * h * (A @ x[-1]) + h * B[:, 0] * u[k - 1]
        x.append(np.linalg.solve(np.eye(N) - alpha * h * A, right))
    return np.array(x)


@pytest.mark.parametrize("N", [1, 2, 5, 64])
@pytest.mark.parametrize("L", [1, 2, 3, 150])
@pytest.mark.parametrize("method, alpha", [("bilinear", 0.5), ("backward_euler", 1.0)])
def test_legs_equals_the_dense_solve(N, L, method, alpha):
    u = np.random.default_rng(0).standard_normal(L)
    np.testing.assert_allclose(
        project(u, "legs", N, 1.0, method), dense_legs(u, N, alpha), rtol=0, atol=1e-12
    )


def test_legs_equals_the_dense_solve_with_euler():
    u = np.random.default_rng(0).standard_normal(150)
    np.testing.assert_allclose(
        project(u, "legs", 5, 1.0, "euler"), dense_legs(u, 5, 0.0), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("method", ["euler", "bilinear", "backward_euler"])
def test_first_legs_coefficient_is_the_running_mean(method):
    u = np.random.default_rng(1).standard_normal(1000)
    mean = np.cumsum(u) / np.arange(1, 1001)
    np.testing.assert_allclose(project(u, "legs", 1, 1.0, method)[:, 0], mean, rtol=0, atol=1e-12)


def test_legs_keeps_a_constant_exactly():
    x = project(np.full(50, 3.0), "legs", 6, 0.1)
    np.testing.assert_allclose(x, np.tile([3.0, 0, 0, 0, 0, 0], (50, 1)), rtol=0, atol=1e-14)


def test_legs_has_no_time_scale():
    u = np.random.default_rng(2).standard_normal(100)
    np.testing.assert_array_equal(project(u, "legs", 8, 1e-3), project(u, "legs", 8, 10.0))


def test_numpy_and_numba_give_the_same_numbers(monkeypatch):
    pytest.importorskip("numba")
    u = np.random.default_rng(3).standard_normal(500)
    compiled = project(u, "legs", 32, 1.0, every=3)
    monkeypatch.setattr(legs_update, "_run", legs_update._run.py_func)
    monkeypatch.setattr(legs_update, "_advance", legs_update._advance_in_numpy)
    np.testing.assert_allclose(project(u, "legs", 32, 1.0, every=3), compiled, rtol=0, atol=1e-14)


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt", "fout", "chebt", "glagt"])
@pytest.mark.parametrize("every", [1, 3, 7, 100])
def test_every_keeps_a_subset(measure, every):
    u = np.random.default_rng(4).standard_normal(100)
    every_one = project(u, measure, 4, 0.01)
    np.testing.assert_array_equal(
        project(u, measure, 4, 0.01, every=every), every_one[every - 1 :: every]
    )


def test_legs_returns_the_whole_past():
    L = 4000
    u = signal(midpoints(L, 1 / L))
    x = project(u, "legs", 24, 1 / L)
    np.testing.assert_allclose(
        reconstruct(x[-1], "legs", midpoints(L, 1 / L)), u, rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("measure", ["legt", "chebt"])
def test_windows_return_the_last_theta(measure):
    # A start from rest rings on in the window; after six windows of a smooth signal it is gone.
    L, theta = 2000, 0.5
    u = signal(midpoints(6 * L, theta / L))
    x = project(u, measure, 24, theta / L, theta=theta)[-1]
    np.testing.assert_allclose(
        reconstruct(x, measure, midpoints(L, 1 / L)), u[-L:], rtol=0, atol=5e-3
    )


def test_fout_returns_a_periodic_signal():
    L = 2000
    u = np.sin(4 * np.pi * midpoints(20 * L, 1 / L))
    x = project(u, "fout", 8, 1 / L)[-1]
    np.testing.assert_allclose(
        reconstruct(x, "fout", midpoints(L, 1 / L)), u[-L:], rtol=0, atol=5e-3
    )


@pytest.mark.parametrize("measure", ["lagt", "glagt"])
def test_fading_memory_returns_a_bump(measure):
    dt, L, span = 0.01, 3000, 20.0
    bump = np.exp(-((midpoints(L, dt) / 2 - 12.0) ** 2))  # six units of time ago at the end
    x = project(bump, measure, 40, dt)[-1]
    ages = np.linspace(2, 10, 50)
    past = reconstruct(x, measure, 1 - ages / span, theta=span)
    np.testing.assert_allclose(past, np.exp(-((3 - ages / 2) ** 2)), rtol=0, atol=0.02)


def test_reconstruct_takes_one_state_many_and_a_number():
    x = np.random.default_rng(5).standard_normal((3, 4))
    t = np.linspace(0, 1, 5)
    many = reconstruct(x, "legs", t)
    assert many.shape == (3, 5)
    np.testing.assert_allclose(reconstruct(x[1], "legs", t), many[1], rtol=1e-14)
    np.testing.assert_allclose(reconstruct(x[1], "legs", 1.0), many[1, -1], rtol=1e-14)


def test_reconstruct_takes_states_of_several_channels():
    x = np.random.default_rng(6).standard_normal((5, 2, 4))
    past = reconstruct(x, "legs", [0.0, 0.5, 1.0])
    assert past.shape == (5, 2, 3)
    np.testing.assert_allclose(
        past[3, 1], reconstruct(x[3, 1], "legs", [0.0, 0.5, 1.0]), rtol=1e-13
    )


def test_rounding_at_the_ends_of_the_past_is_forgiven():
    x = [1.0, 2.0, 3.0]
    ends = reconstruct(x, "legs", [0.0, 1.0])
    np.testing.assert_array_equal(reconstruct(x, "legs", [-1e-16, 1 + 2.3e-16]), ends)


def test_coefficients_of_an_unstable_rule_are_an_error():
    u = np.random.default_rng(6).standard_normal(2000)
    with pytest.raises(OverflowError, match="the array of coefficients leaves the range"):
        project(u, "legs", 600, 1.0, "euler")
    with pytest.raises(OverflowError, match="the state leaves the range"):
        project(u, "legt", 64, 10.0, "euler")


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: project([1.0], "legt", 4, 1.0, "gbt"), ValueError, "method is 'gbt'"),
        (lambda: reconstruct([1.0], "glagt", 1.0, alpha=-0.5), ValueError, "t holds 1"),
        (lambda: reconstruct([1.0], "legs", 1 + 1e-9), ValueError, "t spans"),
        (lambda: reconstruct([1.0], "legs", [[0.5]]), ValueError, "t has shape"),
        (lambda: project([1.0, np.nan], "legs", 4, 1.0), ValueError, "u holds nan"),
        (lambda: project([1.0], "legs", 4, 0.0), ValueError, "dt"),
        (lambda: project([1.0], "legs", 4, -1.0), ValueError, "dt"),
        (lambda: project([1.0], "legs", 4, 1.0, "magic"), ValueError, "method.*bilinear"),
        (lambda: project([1.0], "legt", 4, 1.0, "magic"), ValueError, "method.*bilinear"),
        (lambda: project([1.0], "legs", 4, 1.0, every=0), ValueError, "every"),
        (lambda: project([1.0], "legs", 4, 1.0, theta=2.0), TypeError, "theta"),
        (lambda: project([1j], "legs", 4, 1.0), TypeError, "u is complex"),
        (lambda: reconstruct(1.0, "legs", [0.5]), ValueError, "coefficients has shape"),
        (lambda: reconstruct([1.0], "legs", [-0.1]), ValueError, "t spans"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
