"""Both kinds of system against closed forms, SciPy and each other."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import signal
from scipy.integrate import quad_vec
from scipy.linalg import expm

import ssm_core._flow
import ssm_core.lti
from ssm_core.convolution import causal_convolution, kernel_from_ssm
from ssm_core.discretize import METHODS, discretize
from ssm_core.lti import ContinuousSSM, DiscreteSSM

SPRING = ContinuousSSM([[0.0, 1.0], [-40.0, -5.0]], [[0.0], [1.0]], [[1.0, 0.0]], [[0.0]])
LEAKY = ContinuousSSM([[-1.0]], [[1.0]], [[1.0]], [[0.0]])


def spring_impulse(t):
    """Closed form of the damped spring's impulse response."""
    w = np.sqrt(40 - 2.5**2)
    return np.exp(-2.5 * t) * np.sin(w * t) / w


def random_continuous(seed, N=4, M=2, P=3):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, N)) - 3 * np.eye(N)
    return ContinuousSSM(
        A, rng.normal(size=(N, M)), rng.normal(size=(P, N)), rng.normal(size=(P, M))
    )


def random_discrete(seed, N=4, M=2, P=3):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, N))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    return DiscreteSSM(
        A, rng.normal(size=(N, M)), rng.normal(size=(P, N)), rng.normal(size=(P, M)), 0.1
    )


# the continuous system


def test_impulse_response_of_the_spring():
    t = np.linspace(0, 3, 61)
    assert_allclose(SPRING.impulse_response(t)[:, 0, 0], spring_impulse(t), rtol=0, atol=1e-14)


def test_impulse_response_of_one_time_and_before_zero():
    h = LEAKY.impulse_response(0.5)
    assert h.shape == (1, 1) and h.item() == pytest.approx(np.exp(-0.5), rel=1e-15)
    assert_array_equal(LEAKY.impulse_response([-1.0, -1e-9]), np.zeros((2, 1, 1)))
    system = random_continuous(0)
    assert system.impulse_response(0.3).shape == (3, 2)
    h = system.impulse_response([0.0, 0.3])
    assert_allclose(h[0], system.C @ system.B, rtol=1e-14)
    assert_allclose(h[1], system.C @ expm(0.3 * system.A) @ system.B, rtol=1e-14)


def test_frequency_response_is_the_transform_of_the_impulse_response():
    system = random_continuous(1)
    w = np.array([-2.0, 0.0, 0.7, 10.0])
    want = quad_vec(
        lambda t: expm(system.A * t) * np.exp(-1j * w[:, None, None] * t),
        0,
        60,
        epsabs=1e-11,
        limit=2000,
    )[0]
    assert_allclose(
        system.frequency_response(w), system.C @ want @ system.B + system.D, rtol=0, atol=1e-9
    )


def test_frequency_response_of_the_spring():
    w = np.logspace(-1, 3, 50)
    want = 1 / (40 - w**2 + 5j * w)
    assert_allclose(SPRING.frequency_response(w)[:, 0, 0], want, rtol=1e-13)
    assert SPRING.frequency_response(1.0).shape == (1, 1)


def test_resonance_without_friction_has_no_response():
    integrator = ContinuousSSM([[0.0]], [[1.0]], [[1.0]], [[0.0]])
    with pytest.raises(ValueError, match="w holds a frequency"):
        integrator.frequency_response([1.0, 0.0])
    swing = ContinuousSSM([[0.0, 1.0], [-40.0, 0.0]], [0.0, 1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="w holds a frequency"):  # up to rounding
        swing.frequency_response(np.sqrt(40.0))


def test_poles():
    assert_allclose(
        np.sort_complex(SPRING.poles),
        [-2.5 - 1j * np.sqrt(33.75), -2.5 + 1j * np.sqrt(33.75)],
        rtol=1e-14,
    )
    assert LEAKY.poles.dtype == np.complex128


def test_simulate_constant_and_ramp_in_closed_form():
    t = np.array([0.0, 0.1, 0.15, 1.0, 4.0])
    assert_allclose(LEAKY.simulate(np.ones(5), t), 1 - np.exp(-t), rtol=1e-13)
    assert_allclose(LEAKY.simulate(t, t), t - 1 + np.exp(-t), rtol=1e-12, atol=1e-16)
    assert_allclose(LEAKY.simulate(np.zeros(5), t, x0=[2.0]), 2 * np.exp(-t), rtol=1e-13)


@pytest.mark.parametrize("t", [np.linspace(0, 5, 400), np.linspace(-7.3, 11.1, 400)])
def test_simulate_agrees_with_lsim_on_an_even_grid(t):
    system = random_continuous(2)
    u = np.random.default_rng(0).normal(size=(400, 2))
    x0 = [1.0, -1.0, 0.5, 0.0]
    matrices = system.A, system.B, system.C, system.D
    want = signal.lsim(matrices, u, np.linspace(0, t[-1] - t[0], 400), x0)[1]
    assert_allclose(system.simulate(u, t, x0), want, rtol=0, atol=1e-11)


def test_simulate_on_an_uneven_grid_is_that_of_a_finer_one():
    rng = np.random.default_rng(3)
    system = random_continuous(3)
    fine = np.arange(301) / 100
    coarse = np.sort(np.append(rng.choice(np.arange(1, 300), 20, replace=False), [0, 300]))
    u = rng.normal(size=(len(coarse), 2))
    lines = np.stack([np.interp(fine, fine[coarse], u[:, i]) for i in range(2)], axis=1)
    assert_allclose(
        system.simulate(u, fine[coarse]), system.simulate(lines, fine)[coarse], rtol=0, atol=1e-12
    )


def test_even_steps_need_one_exponential(monkeypatch):
    calls = []
    inner = ssm_core.lti.exponential_integrals
    monkeypatch.setattr(
        ssm_core.lti, "exponential_integrals", lambda *args: calls.append(args) or inner(*args)
    )
    t = np.linspace(3.0, 7.7, 1001)
    SPRING.simulate(np.ones(1001), t)
    assert len(calls) <= 2


@pytest.mark.parametrize("rate", [1.0, 1e9, 1e18])
def test_simulate_on_a_logarithmic_grid(rate):
    """Steps far below the rounding of the last time are steps nevertheless."""
    t = np.r_[0, np.logspace(-20, 0, 41)]
    fast = ContinuousSSM(-rate, rate, 1.0)
    assert_allclose(fast.simulate(np.ones(42), t), -np.expm1(-rate * t), rtol=1e-12)


def uneven(L, seed=0, mean=1e-2):
    return np.cumsum(np.random.default_rng(seed).exponential(mean, L))


@pytest.mark.parametrize("scale", [1.0, 1e12])
def test_many_different_steps_are_those_of_an_exponential_each(monkeypatch, scale):
    """MIMO with a singular A, its rates at any scale, against one exponential for each step."""
    system = random_continuous(4)
    A = system.A.copy()
    A[:, 0] = 0
    system = ContinuousSSM(scale * A, 1e9 * system.B, system.C, system.D)
    t, u = uneven(400) / scale, np.random.default_rng(1).normal(size=(400, 2))
    x0 = [1.0, -1.0, 0.5, 0.0]
    have = system.simulate(u, t, x0)
    monkeypatch.setattr(ssm_core.lti, "_MANY_STEPS", 10**6)
    want = system.simulate(u, t, x0)
    assert_allclose(have, want, rtol=0, atol=1e-12 * np.abs(want).max())


def test_many_different_steps_in_closed_form():
    t = uneven(5000)
    t -= t[0]
    assert_allclose(LEAKY.simulate(t, t), t - 1 + np.exp(-t), rtol=1e-12, atol=1e-16)
    integrator = ContinuousSSM(0.0, 1.0, 1.0)
    assert_allclose(integrator.simulate(t, t), t**2 / 2, rtol=1e-12)
    a = -0.2 + 4j
    modes = ContinuousSSM(a, 1.0, 1.0)
    assert_allclose(modes.simulate(0 * t + 1, t), np.expm1(a * t) / a, rtol=1e-11, atol=1e-16)


def test_many_different_steps_of_a_matrix_without_eigenvectors():
    """A Jordan block: its eigenvectors do not span the space."""
    A = -0.5 * np.eye(6) - np.eye(6, k=-1)
    system = ContinuousSSM(A, np.eye(6)[:, :1], np.eye(6))
    t = uneven(3000)
    t -= t[0]
    n = np.arange(6)
    want = (-t[:, None]) ** n * np.exp(-t[:, None] / 2) / np.cumprod(np.maximum(n, 1))
    assert_allclose(system.simulate(0 * t, t, np.eye(6)[0]), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [1.0, 1e9, 1e18])
def test_many_different_steps_of_a_stiff_system(rate):
    """A fast mode does not cost a slow one its digits; steps over twenty decades."""
    t = np.r_[0, np.logspace(-20, 0, 2001)]
    system = ContinuousSSM(np.diag([-rate, -1.0]), [rate, 1.0], np.eye(2))
    want = np.stack([-np.expm1(-rate * t), -np.expm1(-t)], axis=1)
    assert_allclose(system.simulate(np.ones(2002), t), want, rtol=1e-11)


def test_many_different_steps_need_few_exponentials(monkeypatch):
    calls = []
    inner = ssm_core._flow.exponential
    monkeypatch.setattr(
        ssm_core._flow, "exponential", lambda *args: calls.append(args) or inner(*args)
    )
    SPRING.simulate(np.ones(5000), uneven(5000))
    assert 0 < len(calls) <= 100


def test_simulate_a_function():
    t = np.linspace(0, 5, 30)
    want = (np.cos(3 * t) + 3 * np.sin(3 * t) - np.exp(-t)) / 10  # x' = -x + cos 3t
    assert_allclose(LEAKY.simulate(lambda s: np.cos(3 * s), t), want, rtol=0, atol=1e-9)
    y = random_continuous(4).simulate(lambda s: [np.sin(s), 1.0], t)
    dense = np.linspace(0, 5, 29 * 200 + 1)
    lines = random_continuous(4).simulate(np.stack([np.sin(dense), 0 * dense + 1], 1), dense)
    assert_allclose(y, lines[::200], rtol=0, atol=1e-6)


def test_simulate_a_function_with_a_short_pulse_between_grid_points():
    t = np.linspace(0, 1000, 1001)
    y = LEAKY.simulate(lambda s: 1.0 if 500 <= s < 501 else 0.0, t)
    assert y[501] == pytest.approx(1 - np.exp(-1), abs=1e-9)


def test_simulate_complex_modes():
    a = -0.2 + 4j
    system = ContinuousSSM([[a]], [[1.0]], [[1.0]], [[0.0]])
    t = np.linspace(0, 2, 21)
    assert_allclose(system.simulate(np.ones(21), t), np.expm1(a * t) / a, rtol=1e-12, atol=1e-16)
    assert_allclose(system.simulate(lambda s: 1.0, t), np.expm1(a * t) / a, rtol=0, atol=1e-9)


def test_shapes_follow_the_input():
    t = np.linspace(0, 1, 5)
    assert LEAKY.simulate(np.ones(5), t).shape == (5,)
    assert LEAKY.simulate(np.ones((5, 1)), t).shape == (5, 1)
    assert LEAKY.simulate([1.0], [0.0]).shape == (1,)
    assert LEAKY.simulate(lambda s: 1.0, [0.0]).shape == (1,)
    assert LEAKY.simulate(lambda s: [1.0], t).shape == (5, 1)
    assert random_continuous(0, M=1).simulate(np.ones(5), t).shape == (5, 3)
    assert random_continuous(0).simulate(np.ones((5, 2)), t).shape == (5, 3)


def test_two_systems_side_by_side_are_one_of_higher_order():
    """One shared state: outputs are linear combinations of it."""
    t = np.linspace(0, 2, 50)
    both = ContinuousSSM(np.diag([-1.0, -3.0]), [[1.0], [1.0]], np.eye(2), np.zeros((2, 1)))
    y = both.simulate(np.sin(t), t)
    mixed = ContinuousSSM(both.A, both.B, [[2.0, -1.0]], [[0.0]]).simulate(np.sin(t), t)
    assert_allclose(mixed, 2 * y[:, 0] - y[:, 1], rtol=0, atol=1e-15)


# the discrete system


@pytest.mark.parametrize("L", [1, 2, 63, 500])
@pytest.mark.parametrize("N, M, P", [(1, 1, 1), (4, 1, 1), (3, 2, 1), (3, 1, 2), (5, 2, 3)])
def test_step_recurrence_and_convolution_agree(N, M, P, L):
    system = random_discrete(N + M, N, M, P)
    u = np.random.default_rng(L).normal(size=(L, M))
    y, x = system.recurrence(u)
    assert y.shape == (L, P) and x.shape == (L, N)
    state = np.zeros(N)
    for k in range(L):
        out, state = system.step(u[k], state)
        assert_allclose(out, y[k], rtol=0, atol=1e-13)
        assert_allclose(state, x[k], rtol=0, atol=1e-13)
    assert_allclose(system.convolve(u), y, rtol=0, atol=1e-12 * np.abs(y).max())


def test_time_convention_in_numbers():
    """x_k = A x_{k-1} + B u_k, y_k = C x_k + D u_k: the new state is read, not the last."""
    system = DiscreteSSM([[0.5]], [[2.0]], [[3.0]], [[10.0]], 1.0)
    y, x = system.recurrence([1.0, 0.0], x0=[4.0])
    assert_array_equal(x, [[0.5 * 4 + 2], [0.5 * 4]])
    assert_array_equal(y, [3 * 4 + 10, 3 * 2])
    assert system.step(1.0, [4.0])[0] == 22
    assert_array_equal(system.kernel(3)[:, 0, 0], [3 * 2 + 10, 3 * 0.5 * 2, 3 * 0.25 * 2])


def test_kernel_is_the_response_to_an_impulse():
    for system in (random_discrete(0, 4, 1, 1), random_discrete(1, 3, 2, 3)):
        K = system.kernel(40)
        assert K.shape == (40, system.P, system.M)
        for m in range(system.M):
            impulse = np.zeros((40, system.M))
            impulse[0, m] = 1
            assert_allclose(K[:, :, m], system.recurrence(impulse)[0], rtol=0, atol=1e-13)
        without = kernel_from_ssm(system.A, system.B, system.C, 40)
        assert_allclose(K[0] - without[0], system.D, rtol=0, atol=1e-14)
        assert_array_equal(K[1:], without[1:])


def test_relation_to_dlsim():
    system = random_discrete(2)
    A, B, C, D = system.A, system.B, system.C, system.D
    u = np.random.default_rng(5).normal(size=(50, 2))
    y, x = system.recurrence(u)
    # SciPy reads the output before the update: C A and C B + D make up for it
    _, theirs, states = signal.dlsim((A, B, C @ A, C @ B + D, 0.1), u)
    assert_allclose(y, theirs, rtol=0, atol=1e-13)
    assert_allclose(x[:-1], states[1:], rtol=0, atol=1e-13)
    # without D, the same four matrices one sample later
    _, theirs, _ = signal.dlsim((A, B, C, 0 * D, 0.1), np.vstack([u, [[0, 0]]]))
    assert_allclose(
        DiscreteSSM(A, B, C, 0 * D, 0.1).recurrence(u)[0], theirs[1:], rtol=0, atol=1e-13
    )


def test_frequency_response_is_the_transform_of_the_kernel():
    system = random_discrete(5)
    w = np.array([-3.0, 0.0, 0.7, 10.0, np.pi / 0.1])
    phases = np.exp(-1j * np.outer(w, 0.1 * np.arange(2000)))  # (5, lags)
    want = np.einsum("kj,jpm->kpm", phases, system.kernel(2000))
    assert_allclose(system.frequency_response(w), want, rtol=0, atol=1e-11)
    assert system.frequency_response(0.7).shape == (3, 2)


def test_frequency_response_is_scipys_in_radians_per_sample():
    system = random_discrete(6, M=1, P=1)
    w = np.array([0.0, 0.3, 2.0, 3.0])
    want = signal.dfreqresp(system.to_scipy(), w)[1]
    assert_allclose(system.frequency_response(w / 0.1)[:, 0, 0], want, rtol=1e-11)


def test_frequency_response_of_a_prewarped_system_is_the_continuous_one():
    four = SPRING.A, SPRING.B, SPRING.C, SPRING.D
    warped = discretize(*four, 0.1, "bilinear", prewarp_frequency=6.0)
    have = DiscreteSSM.from_scipy(*warped, 0.1).frequency_response(6.0)
    assert_allclose(have, SPRING.frequency_response(6.0), rtol=1e-12)


def test_a_discrete_resonance_has_no_response():
    turn = DiscreteSSM([[0.0, -1.0], [1.0, 0.0]], [1.0, 0.0], [1.0, 0.0], dt=0.5)
    with pytest.raises(ValueError, match=r"w holds a frequency at which exp\(iw dt\)"):
        turn.frequency_response([1.0, np.pi])  # a quarter turn in each sample
    assert np.isfinite(turn.frequency_response(1.0)).all()


def test_impulse_is_scipys_rule():
    system = ContinuousSSM(SPRING.A, SPRING.B, SPRING.C)
    u = np.random.default_rng(15).normal(size=30)
    four = discretize(system.A, system.B, system.C, 0.0, 0.1, "impulse")
    want = signal.dlsim((*four, 0.1), u)[1][:, 0]
    assert_allclose(system.discretize(0.1, "impulse").recurrence(u)[0], want, rtol=0, atol=1e-14)
    weights = system.discretize(0.1, "dirac").recurrence(0.1 * u)[0]
    assert_allclose(weights, want, rtol=0, atol=1e-14)
    assert SPRING.discretize(0.1, "tustin") == SPRING.discretize(0.1, "bilinear")


def test_recurrence_in_parts():
    system = random_discrete(3)
    u = np.random.default_rng(6).normal(size=(30, 2))
    y, x = system.recurrence(u)
    y1, x1 = system.recurrence(u[:11])
    y2, x2 = system.recurrence(u[11:], x0=x1[-1])
    assert_allclose(np.vstack([y1, y2]), y, rtol=0, atol=1e-13)
    assert_allclose(np.vstack([x1, x2]), x, rtol=0, atol=1e-13)


def test_shapes_of_one_input_and_one_output():
    system = random_discrete(4, 3, 1, 1)
    u = np.random.default_rng(7).normal(size=20)
    assert system.recurrence(u)[0].shape == system.convolve(u).shape == (20,)
    assert system.recurrence(u[:, None])[0].shape == system.convolve(u[:, None]).shape == (20, 1)
    assert_allclose(
        system.convolve(u), causal_convolution(u, system.kernel(20)[:, 0, 0]), rtol=0, atol=1e-14
    )
    assert np.shape(system.step(1.0, np.zeros(3))[0]) == ()
    assert np.shape(system.step([1.0], np.zeros(3))[0]) == (1,)


def test_complex_diagonal_system():
    a = np.array([0.9 * np.exp(0.4j), 0.8 * np.exp(-1j)])
    system = DiscreteSSM(np.diag(a), np.ones((2, 1)), np.array([[1.0, 1j]]), [[0.5]], 1.0)
    u = np.random.default_rng(8).normal(size=100)
    y, _ = system.recurrence(u)
    assert y.dtype == np.complex128
    assert_allclose(system.convolve(u), y, rtol=0, atol=1e-13)


def test_long_sequence_agrees_to_rounding():
    """HiPPO-LegS, N = 64, L = 4096: the three computations against each other."""
    n = np.arange(64)
    A = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1.0)
    C = np.random.default_rng(9).normal(size=(1, 64))
    legs = ContinuousSSM(A, np.sqrt(2 * n + 1.0)[:, None], C, [[0.0]])
    system = legs.discretize(1e-3, "bilinear")
    u = np.random.default_rng(10).normal(size=4096)
    y, _ = system.recurrence(u)
    assert np.abs(system.convolve(u) - y).max() < 1e-12 * np.abs(y).max()


# from the one to the other


def test_discretize_keeps_c_and_d():
    for method in set(METHODS) - {"foh"}:
        alpha = 0.3 if method == "gbt" else None
        system = random_continuous(5)
        matrices = system.A, system.B, system.C, system.D
        Ab, Bb, _, _ = discretize(*matrices, 0.1, method, alpha)
        have = system.discretize(0.1, method, alpha)
        for x, y in zip((have.A, have.B, have.C, have.D), (Ab, Bb, system.C, system.D)):
            assert_array_equal(x, y)
        assert have.dt == 0.1


def test_zoh_is_exact_for_an_input_held_over_each_step():
    """u_k acts from t_{k-1} to t_k and y_k is the output at t_k, where it still acts."""
    system, dt = random_continuous(6), 0.25
    u = np.random.default_rng(11).normal(size=(12, 2))
    x0 = np.array([1.0, 0.0, -1.0, 2.0])
    y, x = system.discretize(dt, "zoh").recurrence(u, x0)
    state = x0
    for k in range(12):
        states = ContinuousSSM(system.A, system.B, np.eye(4), np.zeros((4, 2)))
        state = states.simulate(np.stack([u[k], u[k]]), [k * dt, (k + 1) * dt], state)[-1]
        assert_allclose(x[k], state, rtol=0, atol=1e-13)
        assert_allclose(y[k], system.C @ state + system.D @ u[k], rtol=0, atol=1e-13)


def test_foh_is_exact_for_straight_lines():
    system, dt = random_continuous(7), 0.25
    u = np.random.default_rng(12).normal(size=(13, 2))
    x0 = np.array([1.0, 0.0, -1.0, 2.0])
    want = system.simulate(u, dt * np.arange(13), x0)
    y, x = system.discretize(dt, "foh").recurrence(u[1:], np.append(x0, u[0]))
    assert_allclose(y, want[1:], rtol=0, atol=1e-12)
    assert_array_equal(x[:, 4:], u[1:])


def test_foh_is_scipys_system():
    """Same output as SciPy's foh with its four matrices in its own time convention."""
    dt, u = 0.1, np.random.default_rng(13).normal(size=40)
    u[0] = 0
    Ab, Bb, Cb, Db = discretize(SPRING.A, SPRING.B, SPRING.C, SPRING.D, dt, "foh")
    _, want, _ = signal.dlsim((Ab, Bb, Cb, Db, dt), u)
    assert_allclose(SPRING.discretize(dt, "foh").recurrence(u)[0], want[:, 0], rtol=0, atol=1e-14)


def test_foh_of_a_stiff_system():
    stiff = ContinuousSSM([[-1e6, 0.0], [0.0, -1.0]], [[1e6], [1.0]], [[1.0, 1.0]], [[0.0]])
    u = np.sin(np.arange(50.0))
    have = stiff.discretize(1.0, "foh").recurrence(u)[0]
    assert_allclose(have, stiff.simulate(u, np.arange(50.0)), rtol=0, atol=1e-12)


def test_dirac_gives_samples_of_the_impulse_response():
    dt = 0.05
    K = SPRING.discretize(dt, "dirac").kernel(100)[:, 0, 0]
    assert_allclose(K, spring_impulse(dt * np.arange(100)), rtol=0, atol=1e-14)


def output_error(method, alpha, sample, L):
    """Error of y over 2 units of time on a smooth input, sampled in one of four ways."""
    dt = 2 / L
    end = dt * np.arange(1, L + 1)

    def u(t):
        return np.cos(3 * t)

    taken = {
        "end": u(end),
        "middle": u(end - dt / 2),
        "mean": (u(end) + u(end - dt)) / 2,
        "weight": dt * u(end),
    }[sample]
    system = SPRING.discretize(dt, method, alpha)
    x0 = np.append([0.0, 0.0], u(0.0)) if method == "foh" else None
    y, _ = system.recurrence(taken, x0)
    # the exact response to cos 3t: the stationary part, and what is left of the initial state
    G = np.linalg.solve(3j * np.eye(2) - SPRING.A, SPRING.B)[:, 0]
    exact = [(G[0] * np.exp(3j * t) - (expm(SPRING.A * t) @ G)[0]).real for t in end[:: L // 8]]
    return np.abs(y[:: L // 8] - exact).max()


@pytest.mark.parametrize(
    "method, alpha, sample, order",
    [
        *[(method, None, "end", 1) for method in ("euler", "backward_euler", "bilinear", "zoh")],
        ("gbt", 0.3, "end", 1),
        ("foh", None, "end", 2),
        ("dirac", None, "weight", 1),
        *[(method, None, "middle", 1) for method in ("euler", "backward_euler")],
        *[
            (method, None, sample, 2)
            for method in ("bilinear", "zoh")
            for sample in ("middle", "mean")
        ],
        ("gbt", 0.3, "middle", 1),
        ("gbt", 0.5, "middle", 2),
    ],
)
def test_order_of_convergence(method, alpha, sample, order):
    errors = np.array([output_error(method, alpha, sample, L) for L in (512, 1024, 2048)])
    assert_allclose(np.log2(errors[:-1] / errors[1:]), order, rtol=0, atol=0.1)


@pytest.mark.parametrize("method, order", [("euler", 1), ("backward_euler", 1), ("bilinear", 2)])
def test_order_of_convergence_on_a_held_input(method, order):
    """A step input: zoh is exact, the others have the order of the rule itself."""
    errors = []
    for L in (256, 512, 1024):
        exact = SPRING.discretize(1 / L, "zoh").recurrence(np.ones(L))[0]
        errors.append(
            np.abs(SPRING.discretize(1 / L, method).recurrence(np.ones(L))[0] - exact).max()
        )
    errors = np.array(errors)
    assert_allclose(np.log2(errors[:-1] / errors[1:]), order, rtol=0, atol=0.1)


def test_a_system_that_grows_keeps_its_first_samples():
    """FFT would bury them under the rounding of the last, 2^200."""
    system = DiscreteSSM(2.0, 1.0, 1.0, dt=1.0)
    impulse = np.eye(1, 200)[0]
    assert_array_equal(system.convolve(impulse), 2.0 ** np.arange(200))
    assert system.convolve(impulse[:, None]).shape == (200, 1)


def test_steady_state_gain_survives_every_hold():
    """A constant input ends where the continuous system ends, whatever the rule and the step."""
    want = SPRING.frequency_response(0.0).real.item()
    for method in ("backward_euler", "bilinear", "zoh", "foh"):
        for dt in (0.01, 1.0):
            y, _ = SPRING.discretize(dt, method).recurrence(np.ones(3000))
            assert y[-1] == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("dt", [1e-8, 10.0])
def test_extreme_steps(dt):
    for method in METHODS:
        alpha = 0.6 if method == "gbt" else None
        system = SPRING.discretize(dt, method, alpha)
        u = np.random.default_rng(14).normal(size=32)
        y, _ = system.recurrence(u)
        assert np.abs(system.convolve(u) - y).max() <= 1e-12 * np.abs(y).max()


# what both share


def test_systems_are_immutable():
    A = np.array([[-1.0]])
    system = ContinuousSSM(A, [[1.0]], [[1.0]], [[0.0]])
    A[:] = 5
    assert system.A[0, 0] == -1
    with pytest.raises(ValueError, match="read-only"):
        system.A[0, 0] = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        system.A = A
    with pytest.raises(dataclasses.FrozenInstanceError):
        system.discretize(0.1).dt = 1.0


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        lambda system: pickle.loads(pickle.dumps(system)),
        lambda system: dataclasses.replace(system),
    ],
)
@pytest.mark.parametrize("system", [SPRING, SPRING.discretize(0.1)])
def test_copies_stay_frozen_and_are_equal(copied, system):
    other = copied(system)
    assert other == system and hash(other) == hash(system) and len({other, system}) == 1
    assert not np.shares_memory(other.A, system.A)
    with pytest.raises(ValueError, match="read-only"):
        other.A[0, 0] = 2


def test_equality_is_that_of_the_matrices():
    assert SPRING != LEAKY and LEAKY != LEAKY.discretize(1.0)
    assert DiscreteSSM(1, 1, 1, dt=1) != DiscreteSSM(1, 1, 1, dt=2)
    same = ContinuousSSM(-1 + 0j, 1.0, 1.0, -0.0)
    assert same == LEAKY and hash(same) == hash(LEAKY)


def test_dt_is_required():
    with pytest.raises(TypeError, match="dt is None, expected a real number"):
        DiscreteSSM(1.0, 1.0, 1.0, 0.1)  # 0.1 is D


def test_arguments_are_left_alone():
    system = random_discrete(0)
    x, u = np.ones(4), np.ones((3, 2))
    system.step(u[0], x)
    system.recurrence(u, x)
    assert (x == 1).all() and (u == 1).all()


def test_repr_is_short():
    assert repr(SPRING) == "ContinuousSSM(N=2, M=1, P=1)"
    assert repr(SPRING.discretize(0.01)) == "DiscreteSSM(N=2, M=1, P=1, dt=0.01)"


def test_input_that_is_not_contiguous():
    system = random_discrete(0)
    u = np.arange(24.0).reshape(2, 12)[:, ::2].T
    assert_allclose(system.recurrence(u)[0], system.recurrence(u.copy())[0], rtol=0, atol=1e-12)


# bad input

DISCRETE = {"A": [[0.5]], "B": [[1.0]], "C": [[1.0]], "D": [[0.0]], "dt": 0.1}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"A": [[1.0, 2.0]]}, "A has shape"),
        ({"B": [[1.0], [1.0]]}, r"B has shape \(2, 1\), expected \(1, M\)"),
        ({"C": [[1.0, 1.0]]}, "C has shape"),
        ({"D": [0.0, 0.0]}, r"D has shape \(2,\), expected \(1, 1\)"),
        ({"D": [[np.nan]]}, "D holds nan"),
        ({"dt": 0}, "dt is 0"),
        ({"dt": np.inf}, "dt is inf"),
    ],
)
def test_bad_matrices(change, words):
    arguments = {**DISCRETE, **change}
    with pytest.raises(ValueError, match=words):
        DiscreteSSM(**arguments)
    del arguments["dt"]
    if "dt" not in change:
        with pytest.raises(ValueError, match=words):
            ContinuousSSM(**arguments)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda s: s.step(1.0, [1.0, 2.0]), r"x has shape \(2,\), expected \(1,\)"),
        (lambda s: s.step(1.0, 1.0), r"x has shape \(\)"),
        (lambda s: s.step([1.0, 2.0], [1.0]), r"u has shape \(2,\), expected \(1,\)"),
        (lambda s: s.step(np.nan, [1.0]), "u holds nan"),
        (lambda s: s.recurrence(1.0), r"u has shape \(\), expected \(L, 1\) or \(L,\)"),
        (lambda s: s.recurrence([]), r"u has shape \(0,\)"),
        (lambda s: s.recurrence(np.ones((4, 2))), r"u has shape \(4, 2\)"),
        (lambda s: s.recurrence([1.0, np.nan]), "u holds nan at index"),
        (lambda s: s.recurrence([1.0], x0=[0.0, 0.0]), "x0 has shape"),
        (lambda s: s.convolve(np.ones((1, 4, 1))), "u has shape"),
        (lambda s: s.kernel(0), "L is 0"),
    ],
)
def test_bad_arguments_of_a_discrete_system(call, words):
    with pytest.raises(ValueError, match=words):
        call(DiscreteSSM(**DISCRETE))


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda s: s.simulate([1.0, 1.0], [0.0]),
            r"u has shape \(2,\), expected \(1, 1\) or \(1,\)",
        ),
        (lambda s: s.simulate([1.0, 1.0], [0.0, 0.0]), r"both hold 0, .* keep = np\.append\("),
        (lambda s: s.simulate([1.0, 1.0], [1.0, 0.0]), r"t does not increase.* np\.argsort\("),
        (lambda s: s.simulate([1.0], 0.0), "t has shape"),
        (lambda s: s.simulate([1.0], [np.nan]), "t holds nan"),
        (lambda s: s.simulate([1.0, np.inf], [0.0, 1.0]), "u holds inf"),
        (lambda s: s.simulate([1.0], [0.0], x0=[1.0, 2.0]), "x0 has shape"),
        (lambda s: s.simulate(lambda t: [1.0, 2.0], [0.0, 1.0]), "u has shape"),
        (lambda s: s.simulate(lambda t: np.nan, [0.0, 1.0]), "u holds nan"),
        (lambda s: s.impulse_response([[0.0]]), "t has shape"),
        (lambda s: s.impulse_response(np.inf), "t holds inf"),
        (lambda s: s.frequency_response([]), "w has shape"),
        (lambda s: s.frequency_response(np.nan), "w holds nan"),
        (lambda s: s.discretize(0.0), "dt is 0"),
        (lambda s: s.discretize(0.0, "foh"), "dt is 0"),
        (lambda s: s.discretize(0.1, "nope"), "method is 'nope'"),
        (lambda s: s.discretize(0.1, "gbt"), "alpha is None"),
        (lambda s: s.discretize(0.1, "foh", 0.5), "alpha is 0.5"),
    ],
)
def test_bad_arguments_of_a_continuous_system(call, words):
    with pytest.raises(ValueError, match=words):
        call(LEAKY)


def test_the_advice_on_tied_times_works():
    t, u = np.array([0.0, 0.0, 1.0, 2.0, 2.0]), np.arange(5.0)
    keep = np.append(np.diff(t) > 0, True)
    assert_array_equal(LEAKY.simulate(u[keep], t[keep]), LEAKY.simulate([1.0, 2, 4], [0, 1, 2]))


def test_bad_types():
    with pytest.raises(TypeError, match="w is complex"):
        LEAKY.frequency_response(1j)
    with pytest.raises(TypeError, match="A has dtype"):
        ContinuousSSM("A", [[1.0]], [[1.0]], [[0.0]])
    with pytest.raises(TypeError, match="L is 2.5"):
        DiscreteSSM(**DISCRETE).kernel(2.5)


def test_what_grows_without_bound_is_an_error():
    system = DiscreteSSM([[2.0]], [[1.0]], [[1.0]], [[0.0]], 1.0)
    with pytest.raises(OverflowError, match="the state leaves the range"):
        system.recurrence(np.ones(2000))
    with pytest.raises(OverflowError, match="the state"):
        system.convolve(np.ones(2000))
    with pytest.raises(OverflowError, match="the kernel"):
        system.kernel(2000)
    growing = ContinuousSSM([[1.0]], [[1.0]], [[1.0]], [[0.0]])
    with pytest.raises(OverflowError, match="the exponential of A"):
        growing.impulse_response(1000.0)
    with pytest.raises(OverflowError, match="the exponential of A dt"):
        growing.simulate([1.0, 1.0], [0.0, 1000.0])
    with pytest.raises(RuntimeError, match="the integrator stopped"):
        growing.simulate(lambda t: 1.0, [0.0, 1000.0])
    with pytest.raises(OverflowError, match="a step between times leaves .* t spans too much"):
        LEAKY.simulate([1.0, 1.0], [-1.7e308, 1.7e308])
