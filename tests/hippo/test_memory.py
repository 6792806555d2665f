"""Memories fed one sample at a time, in blocks and at uneven times, against their definition."""

import io

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special
from scipy.linalg import expm

from ssm_core.hippo import Memory, legs_update, project, reconstruct, transition
from ssm_core.lti import ContinuousSSM

MEASURES = ("legs", "legt", "lagt", "glagt", "fout", "chebt")
RULES = ("euler", "backward_euler", "bilinear", "zoh", "foh", "dirac")
CASES = [(m, r) for m in MEASURES for r in RULES if (m, r) != ("legs", "dirac")]


def uneven(L, seed=0, mean=0.01):
    """Times whose steps spread over four decades."""
    steps = mean * 10 ** np.random.default_rng(seed).uniform(-3, 1, L)
    return 5.0 + np.cumsum(steps)


def noise(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def legs_by_quadrature(t, left, right, N):
    """Best polynomial under the uniform measure on [t_0, t_K], for lines from left to right."""
    z, w = np.polynomial.legendre.leggauss(N + 2)  # exact on each piece
    t = t - t[0]
    x = np.zeros(N)
    for a, b, u0, u1 in zip(t[:-1], t[1:], left, right):
        s = (z + 1) / 2
        where = (a + (b - a) * s) / t[-1]
        p = np.sqrt(2 * np.arange(N) + 1) * special.eval_legendre(
            np.arange(N), 2 * where[:, None] - 1
        )
        x += (w / 2 * (u0 + (u1 - u0) * s)) @ p * (b - a) / t[-1]
    return x


@pytest.mark.parametrize("N", [1, 2, 7, 40])
@pytest.mark.parametrize("L", [2, 3, 200])
def test_legs_is_the_best_polynomial_of_a_held_input(N, L):
    t, u = uneven(L), noise(L)
    x = project(u, "legs", N, method="zoh", t=t)
    assert_allclose(x[-1], legs_by_quadrature(t, u[1:], u[1:], N), rtol=0, atol=1e-12)


@pytest.mark.parametrize("N", [1, 2, 7, 40])
@pytest.mark.parametrize("L", [2, 3, 200])
def test_legs_is_the_best_polynomial_of_straight_lines(N, L):
    t, u = uneven(L), noise(L)
    x = project(u, "legs", N, method="foh", t=t)
    assert_allclose(x[-1], legs_by_quadrature(t, u[:-1], u[1:], N), rtol=0, atol=1e-12)


def test_legs_stays_exact_when_steps_are_tiny_beside_the_past():
    t = np.r_[np.linspace(0, 1e6, 50), 1e6 + np.cumsum(np.full(50, 1e-3))]
    u = noise(100)
    x = project(u, "legs", 8, method="foh", t=t)
    assert_allclose(x[-1], legs_by_quadrature(t, u[:-1], u[1:], 8), rtol=0, atol=1e-11)


def test_a_start_before_the_first_time_gives_the_first_sample_a_length():
    t, u = uneven(50), noise(50)
    held = legs_by_quadrature(np.r_[4.0, t], u, u, 6)
    assert_allclose(
        project(u, "legs", 6, method="zoh", t=t, start=4.0)[-1], held, rtol=0, atol=1e-12
    )
    lines = legs_by_quadrature(np.r_[4.0, t], np.r_[u[0], u[:-1]], u, 6)
    assert_allclose(
        project(u, "legs", 6, method="foh", t=t, start=4.0)[-1], lines, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("method", ["euler", "bilinear", "backward_euler", "zoh"])
def test_first_legs_coefficient_is_the_mean_over_uneven_steps(method):
    t, u = uneven(300), noise(300)
    want = np.cumsum(np.diff(t) * u[1:]) / (t[1:] - t[0])
    have = project(u, "legs", 1, method=method, t=t)[:, 0]
    assert_allclose(have, np.r_[u[0], want], rtol=0, atol=1e-11)


@pytest.mark.parametrize("method, alpha", [("bilinear", 0.5), ("backward_euler", 1.0)])
@pytest.mark.parametrize("L", [3, 20, 200])
def test_fast_uneven_legs_equals_the_dense_solve(method, alpha, L):
    N, t, u = 16, uneven(L), noise(L)
    A, B = transition("legs", N)
    x = np.eye(N)[0] * u[1]
    for k in range(2, L):
        h = (t[k] - t[k - 1]) / (t[k] - t[0] - alpha * (t[k] - t[k - 1]))
        right = x + (1 - alpha) * h * (A @ x) + h * B[:, 0] * u[k]
        x = np.linalg.solve(np.eye(N) - alpha * h * A, right)
    assert_allclose(project(u, "legs", N, method=method, t=t)[-1], x, rtol=0, atol=1e-11)


@pytest.mark.parametrize("measure", [m for m in MEASURES if m != "legs"])
def test_uneven_lines_are_those_of_simulate(measure):
    N, t, u = 12, uneven(80), noise(80)
    A, B = transition(measure, N)
    want = ContinuousSSM(A, B, np.eye(N)).simulate(u[:, None], t)
    have = project(u, measure, N, method="foh", t=t)
    assert_allclose(have, want, rtol=0, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("measure", [m for m in MEASURES if m != "legs"])
@pytest.mark.parametrize("method", [rule for rule in RULES if rule != "foh"])
def test_uneven_steps_in_their_definition(measure, method):
    N, t, u = 10, uneven(60, mean=0.003), noise(60)
    A, B = transition(measure, N)
    x = B[:, 0] * u[0] if method == "dirac" else np.zeros(N)
    for k in range(1, 60):
        h = t[k] - t[k - 1]
        if method in ("zoh", "dirac"):
            E = expm(np.block([[A * h, B * h], [np.zeros((1, N + 1))]]))
            held = u[k] if method == "zoh" else 0.0
            x = E[:N, :N] @ x + E[:N, N] * held + (method == "dirac") * B[:, 0] * u[k]
        else:
            a = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}[method]
            right = x + (1 - a) * h * (A @ x) + h * B[:, 0] * u[k]
            x = np.linalg.solve(np.eye(N) - a * h * A, right)
    have = project(u, measure, N, method=method, t=t)[-1]
    assert_allclose(have, x, rtol=0, atol=1e-11 * max(1, np.abs(x).max()))


@pytest.mark.parametrize("measure, method", CASES)
def test_even_times_are_a_dt(measure, method):
    u, dt = noise(60), 0.002
    have = project(u, measure, 8, method=method, t=dt * np.arange(1, 61), start=0.0)
    want = project(u, measure, 8, dt, method)
    assert_allclose(have, want, rtol=0, atol=1e-10 * np.abs(want).max())


@pytest.mark.parametrize("measure, method", CASES)
@pytest.mark.parametrize("timed", [False, True])
def test_samples_blocks_and_the_whole_signal_agree(measure, method, timed):
    u, t = noise(40), uneven(40, mean=1e-3) if timed else None
    dt = None if timed else 0.002
    whole = project(u, measure, 8, dt, method, t=t)
    one, blocks = Memory(measure, 8, dt, method), Memory(measure, 8, dt, method)
    singles = [one.update(u[k], *(() if t is None else (t[k],))) for k in range(40)]
    pieces = [
        blocks.update(u[part], *(() if t is None else (t[part],)))
        for part in (slice(0, 1), slice(1, 3), slice(3, 30), slice(30, 40))
    ]
    scale = np.abs(whole).max()
    assert_allclose(np.array(singles), whole, rtol=0, atol=1e-12 * scale)
    assert_allclose(np.concatenate(pieces), whole, rtol=0, atol=1e-12 * scale)
    assert_array_equal(one.coefficients, singles[-1])
    assert one.time == pytest.approx(t[-1] if timed else 0.08, rel=1e-15)


@pytest.mark.parametrize("measure, method", CASES)
@pytest.mark.parametrize("timed", [False, True])
def test_channels_are_separate_memories(measure, method, timed):
    u, t = noise(30, 3), uneven(30, mean=1e-3) if timed else None
    dt = None if timed else 0.002
    x = project(u, measure, 6, dt, method, t=t)
    assert x.shape == (30, 3, 6)
    for i in range(3):
        want = project(u[:, i], measure, 6, dt, method, t=t)
        assert_allclose(x[:, i], want, rtol=0, atol=1e-12 * np.abs(x).max())
    few = project(u, measure, 6, dt, method, every=7, t=t)
    assert_array_equal(few, x[6::7])
    memory = Memory(measure, 6, dt, method, channels=3)
    assert memory.update(u[0], None if t is None else t[0]).shape == (3, 6)
    assert memory.coefficients.shape == (3, 6)


@pytest.mark.parametrize("measure, method", CASES)
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 2, 20])
def test_a_saved_memory_goes_on_to_the_same_numbers(measure, method, timed, cut):
    u, t = noise(40, 2), uneven(40, mean=1e-3)
    make = lambda: Memory(measure, 8, None if timed else 0.002, method, channels=2)
    times = lambda part: (t[part],) if timed else ()
    first, file = make(), io.BytesIO()
    if cut:
        first.update(u[:cut], *times(slice(0, cut)))
    np.savez(file, **first.state)
    file.seek(0)
    second = make()
    second.state = np.load(file)
    want = first.update(u[cut:], *times(slice(cut, 40)))
    assert_array_equal(second.update(u[cut:], *times(slice(cut, 40))), want)
    assert second.time == first.time


@pytest.mark.parametrize("measure, method", CASES)
def test_arrays_that_a_memory_gives_away_are_copies(measure, method):
    memory, u = Memory(measure, 4, 0.01, method), np.array([1.0, 2.0])
    x, last = memory.update(u), memory.update(3.0)
    before, saved = memory.coefficients, memory.state
    for array in (u, x, last, saved["x"], saved["last"], saved["span"], memory.coefficients):
        array[...] = 9
    assert_array_equal(memory.coefficients, before)
    assert memory.time == pytest.approx(0.03) and memory.state["last"] == 3


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt"])
@pytest.mark.parametrize(
    "signal", [lambda t: np.sin(7 * t) + np.cos(17 * t), lambda t: np.sin(2 * t + t * t / 8)]
)
def test_straight_lines_are_the_best_rule_for_a_smooth_signal_at_uneven_times(measure, signal):
    t = uneven(2000, mean=0.003)
    fine = np.unique(np.concatenate([t, np.linspace(t[0], t[-1], 10 * len(t))]))
    want = project(signal(fine), measure, 16, method="foh", t=fine)[-1]
    wrong = {
        method: np.linalg.norm(project(signal(t), measure, 16, method=method, t=t)[-1] - want)
        for method in ("bilinear", "zoh", "foh")
    }
    assert wrong["foh"] < 0.3 * min(wrong["bilinear"], wrong["zoh"])


def test_uneven_samples_of_a_smooth_signal_converge_with_the_second_order():
    def error(L):
        steps = np.random.default_rng(2).uniform(0.2, 1.8, L)
        t = np.r_[0, np.cumsum(steps)] / steps.sum()
        x = project(np.sin(7 * t), "legs", 8, method="foh", t=t)[-1]
        fine = np.linspace(0, 1, 20001)
        want = legs_by_quadrature(fine, np.sin(7 * fine[:-1]), np.sin(7 * fine[1:]), 8)
        return np.abs(x - want).max()

    assert np.log2(error(400) / error(800)) > 1.6


def test_uneven_times_matter():
    """Heartbeats that speed up: taken for evenly spaced they are another signal."""
    t = np.linspace(0, 1, 2000) ** 2
    u = np.sin(12 * t)
    right = Memory("legs", 32, method="foh")
    right.update(u, t)
    even = Memory("legs", 32, method="foh")
    even.update(u)
    moments = np.linspace(0.01, 0.99, 99)
    assert np.abs(right.reconstruct(moments) - np.sin(12 * moments)).max() < 1e-4
    assert np.abs(even.reconstruct(moments) - np.sin(12 * moments)).max() > 0.5


def test_reconstruct_is_the_function():
    u = noise(50, 2)
    for memory, theta in (
        (Memory("legt", 8, 0.1, theta=2.0, channels=2), 2.0),
        (Memory("legs", 8, channels=2), None),
    ):
        memory.update(u)
        t = np.linspace(0, 1, 5)
        want = reconstruct(memory.coefficients, memory.measure, t, theta=theta)
        assert_array_equal(memory.reconstruct(t), want)
        assert want.shape == (2, 5)
    fading = Memory("lagt", 8, 0.1)
    fading.update(u[:, 0])
    assert_array_equal(
        fading.reconstruct(0.5, theta=3.0), reconstruct(fading.coefficients, "lagt", 0.5, theta=3.0)
    )


def test_scipys_names_of_rules():
    u = noise(10)
    assert_array_equal(project(u, "legs", 4, 1.0, "tustin"), project(u, "legs", 4, 1.0))
    assert_array_equal(
        project(u, "legt", 4, 0.1, "backward_diff"), project(u, "legt", 4, 0.1, "backward_euler")
    )


def test_few_samples_without_numba(monkeypatch):
    pytest.importorskip("numba")
    u = noise(7)
    compiled = project(u, "legs", 32, 1.0)
    monkeypatch.setattr(legs_update, "_run_in_order", legs_update._run_in_order.py_func)
    assert_allclose(project(u, "legs", 32, 1.0), compiled, rtol=0, atol=1e-14)


def after(*samples, **arguments):
    memory = Memory("legs", 4, **arguments)
    for u, t in samples:
        memory.update(u, t)
    return memory


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Memory("legs", 4, 1.0, "dirac"), "method is 'dirac'"),
        (lambda: Memory("legt", 4, 0.0), "dt is 0"),
        (lambda: Memory("legs", 4, 1.0, start=0.0), "start is 0.0, expected None"),
        (lambda: Memory("legs", 4, channels=0), "channels is 0"),
        (lambda: Memory("legt", 4).update(1.0), "t is None, expected times"),
        (lambda: Memory("legt", 4, 0.1).update(1.0, 0.1), "t was given, expected None"),
        (lambda: after().update([1.0, 2.0], [1.0]), r"t has shape \(1,\), expected \(2,\)"),
        (lambda: after().update([1.0, 2.0], [1.0, 1.0]), r"both hold 1.*keep = np\.append"),
        (lambda: after().update([1.0, 2.0], [1.0, 0.0]), r"t does not increase.*np\.argsort"),
        (lambda: after((1.0, 3.0)).update(1.0, 3.0), "t begins at 3, expected times after 3"),
        (lambda: after((1.0, 0.0), start=0.0).update(1.0, 0.0), "t begins at 0, expected times"),
        (lambda: after(start=1.0).update(1.0, 0.5), "t begins at 0.5, expected times after 1"),
        (lambda: after().update([1.0, np.nan]), "u holds nan"),
        (lambda: after().update([[1.0]]), r"u has shape \(1, 1\), expected \(L,\)"),
        (lambda: after(channels=2).update(1.0), r"u has shape \(\), expected \(L, 2\)"),
        (lambda: after(channels=2).update([1.0]), r"u has shape \(1, 1\), expected \(L, 2\)"),
        (lambda: setattr(after(), "state", {}), "state has no 'x'"),
        (lambda: setattr(after(), "state", Memory("legs", 5).state), r"state\['x'\] has shape"),
        (lambda: project([1.0], "legs", 4), "neither dt nor t was given"),
        (lambda: project([1.0], "legs", 4, 1.0, t=[1.0]), "dt and t were both given"),
        (lambda: project(np.ones((1, 1, 1)), "legs", 4, 1.0), r"u has shape \(1, 1, 1\)"),
        (lambda: project([], "legs", 4, 1.0), r"u has shape \(0,\)"),
        (lambda: Memory("legt", 4, 0.1, theta=1.0).reconstruct(1.0, theta=2.0), "theta is 2.0"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_error_leaves_the_memory_as_it_was():
    memory = Memory("legt", 64, 10.0, "euler")
    memory.update([1.0, 2.0])
    before = memory.state
    with pytest.raises(ValueError, match="u holds nan"):
        memory.update([1.0, np.nan])
    with pytest.raises(OverflowError, match="the state leaves the range"):
        memory.update(np.ones(2000))
    for name, array in memory.state.items():
        assert_array_equal(array, before[name])
