"""Every rule against SciPy, closed forms in many digits, and its order of convergence."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad_vec
from scipy.linalg import expm
from scipy.signal import cont2discrete

from ssm_core.discretize import METHODS, discretize, exponential, exponential_integrals

STEPS = [1e-8, 1e-5, 1e-3, 0.1, 1.0, 10.0]
SCIPY_NAME = {
    "euler": "euler",
    "backward_euler": "backward_diff",
    "bilinear": "bilinear",
    "gbt": "gbt",
    "zoh": "zoh",
    "foh": "foh",
}


def system(seed, N=5, M=2, P=3):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, N)) - 2 * np.eye(N)
    return A, rng.normal(size=(N, M)), rng.normal(size=(P, N)), rng.normal(size=(P, M))


def assert_close(have, want, tolerance=1e-12):
    """Largest difference against the largest entry."""
    assert have.shape == want.shape and have.dtype == want.dtype
    assert np.abs(have - want).max() <= tolerance * max(np.abs(want).max(), 1e-300)


@pytest.mark.parametrize("dt", STEPS)
@pytest.mark.parametrize("method", SCIPY_NAME)
def test_agrees_with_scipy(method, dt):
    alpha = 0.3 if method == "gbt" else None
    singular = system(3)
    singular[0][:, 0] = 0
    for A, B, C, D in (system(0), system(1, N=1, M=1, P=1), system(2, N=12, M=1), singular):
        have = discretize(A, B, C, D, dt, method, alpha)
        want = cont2discrete((A, B, C, D), dt, SCIPY_NAME[method], alpha)[:4]
        if len(A) == 1 and method == "zoh" and abs(want[0] / np.exp(A * dt) - 1) > 1e-14:
            continue  # SciPy 1.10 loses digits of a scalar; its closed form is tested below
        for x, y in zip(have, want):
            assert_close(x, y)


@pytest.mark.parametrize("dt", STEPS)
def test_dirac_is_scipys_impulse_one_step_earlier(dt):
    A, B, C, D = system(0)
    Ab, Bb, Cb, Db = discretize(A, B, C, D, dt, "dirac")
    theirs = cont2discrete((A, B, C, 0 * D), dt, "impulse")  # SciPy wants D = 0 here
    assert_array_equal(Bb, B)
    assert_array_equal(Cb, C)
    assert_array_equal(Db, D)
    assert_close(Ab, theirs[0])
    assert_close(dt * Ab @ Bb, theirs[1])


def holds_in_50_digits(a, dt):
    """e^z, (e^z - 1) / a and (e^z - 1 - z) / (a z) for z = a dt: zoh and foh of a scalar."""
    with localcontext() as context:
        context.prec = 50
        a, dt = Decimal(a), Decimal(dt)
        z = a * dt
        if a == 0:
            return 1.0, float(dt), float(dt / 2)
        return float(z.exp()), float((z.exp() - 1) / a), float((z.exp() - 1 - z) / (a * z))


@pytest.mark.parametrize("a", [0.0, 1e-12, -1e-8, -1.0, 0.7, -30.0])
@pytest.mark.parametrize("dt", STEPS)
def test_scalar_closed_forms_to_the_last_digits(a, dt):
    Phi, Gamma, Gamma1 = holds_in_50_digits(a, dt)
    b, c, d = 3.0, 0.5, -1.0
    args = [[a]], [[b]], [[c]], [[d]], dt
    want = {
        "zoh": (Phi, b * Gamma, c, d),
        "foh": (Phi, b * (Gamma - Gamma1 + Phi * Gamma1), c, d + c * b * Gamma1),
        "dirac": (Phi, b, c, d),
        "euler": (1 + a * dt, b * dt, c, d),
        "backward_euler": (
            1 / (1 - a * dt),
            b * dt / (1 - a * dt),
            c / (1 - a * dt),
            d + c * b * dt / (1 - a * dt),
        ),
        "bilinear": (
            (1 + a * dt / 2) / (1 - a * dt / 2),
            b * dt / (1 - a * dt / 2),
            c / (1 - a * dt / 2),
            d + c * b * dt / 2 / (1 - a * dt / 2),
        ),
    }
    for method, values in want.items():
        have = [x.item() for x in discretize(*args, method)]
        assert_allclose(have, values, rtol=1e-12, atol=0, err_msg=method)


def test_bilinear_of_a_unit_decay_is_one_third():
    Ab = discretize([[-1.0]], [[1.0]], [[1.0]], [[0.0]], 1.0, "bilinear")[0]
    assert Ab.item() == pytest.approx(1 / 3, rel=1e-15)


@pytest.mark.parametrize("dt", STEPS)
def test_nilpotent_double_integrator(dt):
    A, B = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0], [1.0]])
    Phi, Gamma, Gamma1 = exponential_integrals(A, B, dt)
    assert_allclose(Phi, [[1, dt], [0, 1]], rtol=1e-14)
    assert_allclose(Gamma, [[dt**2 / 2], [dt]], rtol=1e-14)
    assert_allclose(Gamma1, [[dt**2 / 6], [dt / 2]], rtol=1e-14)


def test_singular_a_of_rotation_and_constant():
    """The shape of FouT's A: a zero eigenvalue beside oscillations."""
    A, B = np.diag([0.0, 0.0, 0.0]), np.array([[1.0], [0.0], [2.0]])
    A[1, 2], A[2, 1] = -3.0, 3.0
    Phi, Gamma, _ = exponential_integrals(A, B, 0.4)
    s, c = np.sin(1.2), np.cos(1.2)
    assert_allclose(Phi, [[1, 0, 0], [0, c, -s], [0, s, c]], rtol=0, atol=1e-15)
    assert_allclose(Gamma.ravel(), [0.4, 2 * (c - 1) / 3, 2 * s / 3], rtol=1e-14)


def test_integrals_are_those_of_the_definition():
    A, B, _, _ = system(7)
    dt = 0.8
    Phi, Gamma, Gamma1 = exponential_integrals(A, B, dt)
    assert_close(Phi, expm(A * dt))
    assert_close(Gamma, quad_vec(lambda s: expm(A * (dt - s)) @ B, 0, dt, epsrel=1e-13)[0])
    ramp = quad_vec(lambda s: expm(A * (dt - s)) @ B * (s / dt), 0, dt, epsrel=1e-13)[0]
    assert_close(Gamma1, ramp)


@pytest.mark.parametrize("fast", [1e3, 1e6, 1e9, 1e12, 1e15])
def test_a_fast_mode_costs_a_slow_one_no_digits(fast):
    """Closed forms; squaring back from a step of 1 / fast would round the slow mode log2(fast) times."""
    slow = np.array([np.exp(-1.0), 1 - np.exp(-1.0), np.exp(-1.0)])  # of x' = -x + u over 1 second
    chain = np.array([[-1.0, 0.0], [fast, -fast]])  # the second state follows the first
    for A, order in ((chain, [0, 1]), (chain[::-1, ::-1], [1, 0]), (np.diag([-1.0, -fast]), [0])):
        integrals = exponential_integrals(A, np.eye(2)[:, [order[0]]], 1.0)
        assert_allclose(
            [x[order[0], 0 if x.shape[1] == 1 else order[0]] for x in integrals], slow, rtol=1e-14
        )
        if len(order) == 2:  # it lags by 1 / fast
            assert_allclose(
                integrals[0][order[1], order[0]], np.exp(-1.0) / (1 - 1 / fast), rtol=1e-14
            )
    turning = np.zeros((3, 3))
    turning[0, 0], turning[1:, 1:] = -fast, [[-0.1, 2.0], [-2.0, -0.1]]
    Phi = exponential(turning)
    turn = np.exp(-0.1) * np.array([[np.cos(2), np.sin(2)], [-np.sin(2), np.cos(2)]])
    tolerance = 1e-13 if fast <= 1e3 else 1e-14
    assert_allclose(Phi[1:, 1:], turn, rtol=0, atol=tolerance)
    assert_allclose(
        exponential_integrals(turning, np.ones((3, 1)), 1.0)[0], Phi, rtol=0, atol=tolerance
    )


def test_a_stiff_matrix_that_is_full_and_complex():
    """A unitary change of coordinates: the slow modes keep what rounding A itself leaves them."""
    rng = np.random.default_rng(1)
    Q = np.linalg.qr(rng.normal(size=(3, 3)) + 1j * rng.normal(size=(3, 3)))[0]
    a = np.array([-1e6, -1.0 + 2j, -0.5])
    Phi, Gamma, _ = exponential_integrals(Q @ np.diag(a) @ Q.conj().T, Q, 1.0)
    assert_allclose(Phi, Q @ np.diag(np.exp(a)) @ Q.conj().T, rtol=0, atol=1e-9)
    assert_allclose(Gamma, Q @ np.diag(np.expm1(a) / a), rtol=0, atol=1e-9)


def test_a_step_without_a_solution_is_refused_also_where_rounding_hides_it():
    T = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    A = T @ np.diag([20.0, -1.0, -2.0, -3.0]) @ T.T
    with pytest.raises(ValueError, match="20 is an eigenvalue of A"):
        discretize(A, np.ones(4), np.ones(4), None, 0.1, "bilinear")
    discretize(A, np.ones(4), np.ones(4), None, 0.1001, "bilinear")


@pytest.mark.parametrize("name, value", [("A", 1e200), ("B", 1e200)])
def test_entries_times_dt_that_overflow_are_an_error(name, value):
    arguments = {"A": [[1.0]], "B": [[1.0]], "C": [[1.0]], "D": None, "dt": 1e200, name: [[value]]}
    with pytest.raises(OverflowError, match="leaves the range of float64"):
        discretize(**arguments)


def test_a_large_b_costs_no_digits():
    A, B, _, _ = system(4)
    for small, large in zip(
        exponential_integrals(A, B, 0.1), exponential_integrals(A, 2.0**60 * B, 0.1)
    ):
        scale = 2.0**60 if large.shape == B.shape else 1.0
        assert_allclose(large, scale * small, rtol=1e-14)


def test_complex_diagonal():
    a, dt = np.array([-0.5 + 3j, -0.1 - 20j]), 0.05
    Ab, Bb, _, Db = discretize(np.diag(a), np.ones((2, 1)), np.ones((1, 2)), [[0.0]], dt)
    assert_allclose(np.diag(Ab), np.exp(a * dt), rtol=1e-14)
    assert_allclose(Bb[:, 0], np.expm1(a * dt) / a, rtol=1e-13)
    assert Ab.dtype == np.complex128 and Db.dtype == np.float64


def test_gbt_contains_its_three_members():
    args = (*system(5), 0.2)
    for alpha, method in ((0, "euler"), (0.5, "bilinear"), (1, "backward_euler")):
        for x, y in zip(discretize(*args, "gbt", alpha), discretize(*args, method)):
            assert_array_equal(x, y)
    for x, y in zip(discretize(*args, "backward_diff"), discretize(*args, "backward_euler")):
        assert_array_equal(x, y)


def output_error(method, L, alpha=None):
    """Error at the end of one unit of time, in SciPy's convention, for x' = -2x + cos 3t."""
    dt = 1 / L
    a, b, c, d = -2.0, 1.0, 1.5, 0.5
    matrices = discretize([[a]], [[b]], [[c]], [[d]], dt, method, alpha)
    Ab, Bb, Cb, Db = (x.item() for x in matrices)
    u = np.cos(3 * dt * np.arange(L + 1))
    # both ends of a step enter rules that fold u into the state: start from the state for x(0) = 0
    weight = {
        "foh": exponential_integrals([[a]], [[b]], dt)[2].item(),
        "bilinear": dt / 2 * b,
        "backward_euler": dt * b,
        "gbt": (alpha or 0) * dt * b,
    }
    x = -weight.get(method, 0.0) * u[0]
    if method == "dirac":  # an impulse at each sample; x is the state before it
        x, Bb, Cb, Db = 0.0, dt * Ab * b, c, d
    for k in range(L):
        x = Ab * x + Bb * u[k]
    y = Cb * x + Db * u[L]
    exact = (2 * np.cos(3) + 3 * np.sin(3) - 2 * np.exp(-2)) / 13
    return abs(y - (c * exact + d * np.cos(3)))


@pytest.mark.parametrize(
    "method, alpha, order",
    [
        ("euler", None, 1),
        ("backward_euler", None, 1),
        ("bilinear", None, 2),
        ("gbt", 0.3, 1),
        ("gbt", 0.5, 2),
        ("zoh", None, 1),
        ("foh", None, 2),
        ("dirac", None, 1),
    ],
)
def test_order_of_convergence_on_samples_of_a_smooth_input(method, alpha, order):
    errors = [output_error(method, L, alpha) for L in (256, 512, 1024)]
    measured = np.log2(np.array(errors[:-1]) / errors[1:])
    assert_allclose(measured, order, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    "theirs, ours",
    [("tustin", "bilinear"), ("forward_diff", "euler"), ("backward_diff", "backward_euler")],
)
def test_scipys_names(theirs, ours):
    matrices = system(3)
    for have, want in zip(discretize(*matrices, 0.1, theirs), discretize(*matrices, 0.1, ours)):
        assert_array_equal(have, want)
    for have, want in zip(discretize(*matrices, 0.1, theirs), cont2discrete(matrices, 0.1, theirs)):
        assert_allclose(have, want, rtol=0, atol=1e-14)


def test_impulse_is_scipys():
    A, B, C, D = system(3)
    want = cont2discrete((A, B, C, 0 * D), 0.1, "impulse")
    for x, y in zip(discretize(A, B, C, 0 * D, 0.1, "impulse"), want):
        assert_allclose(x, y, rtol=0, atol=1e-14)
    assert_allclose(discretize(A, B, C, D, 0.1, "impulse")[3], want[3] + D, rtol=0, atol=1e-14)


@pytest.mark.parametrize("frequency", [1e-3, 1.0, 5.0, 31.4])
def test_prewarping_is_right_at_its_frequency(frequency):
    A, B, C, D = system(3)
    A = A.copy()
    A[:, 0] = 0  # singular
    Ab, Bb, Cb, Db = discretize(A, B, C, D, 0.1, "bilinear", prewarp_frequency=frequency)
    z = np.exp(0.1j * frequency)
    have = Cb @ np.linalg.solve(z * np.eye(len(A)) - Ab, Bb) + Db
    want = C @ np.linalg.solve(1j * frequency * np.eye(len(A)) - A, B) + D
    assert_allclose(have, want, rtol=1e-11)


def test_arguments_are_left_alone_and_results_are_own_memory():
    A, B, C, D = (np.asfortranarray(x) for x in system(6))
    before = [x.copy() for x in (A, B, C, D)]
    for method in METHODS:
        out = discretize(A, B, C, D, 0.1, method, 0.4 if method == "gbt" else None)
        for x in out:
            x += 1
        for x, y in zip((A, B, C, D), before):
            assert_array_equal(x, y)


def test_accepts_lists_integers_and_views_that_are_not_contiguous():
    A, B, C, D = system(8, N=3)
    wide = np.zeros((6, 6))
    wide[::2, ::2] = A
    for x, y in zip(discretize(wide[::2, ::2], B, C, D, 0.1), discretize(A, B, C, D, 0.1)):
        assert_array_equal(x, y)
    Ab, Bb, Cb, Db = discretize([[0, 1], [0, 0]], [[0], [1]], [[1, 0]], [[0]], 1)
    assert Ab.dtype == Bb.dtype == Cb.dtype == Db.dtype == np.float64
    assert_array_equal(Ab, [[1, 1], [0, 1]])


GOOD = {"A": [[-1.0]], "B": [[1.0]], "C": [[1.0]], "D": [[0.0]], "dt": 0.1}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"A": [[1.0, 2.0]]}, r"A has shape \(1, 2\), expected \(N, N\)"),
        ({"A": [-1.0, -1.0]}, r"A has shape \(2,\), expected \(N, N\)"),
        ({"A": np.zeros((0, 0))}, r"A has shape \(0, 0\)"),
        ({"B": [[1.0], [1.0]]}, r"B has shape \(2, 1\), expected \(1, M\)"),
        ({"C": [[1.0, 1.0]]}, r"C has shape \(1, 2\), expected \(P, 1\)"),
        ({"D": [0.0, 0.0]}, r"D has shape \(2,\), expected \(1, 1\)"),
        ({"D": [[0.0, 0.0]]}, r"D has shape \(1, 2\), expected \(1, 1\)"),
        ({"A": [[np.nan]]}, r"A holds nan at index \(0, 0\)"),
        ({"B": [[np.inf]]}, r"B holds inf"),
        ({"A": [[1.0], [1.0, 2.0]]}, "A is not a rectangular array"),
        ({"dt": 0.0}, "dt is 0, expected a number above 0"),
        ({"dt": -0.1}, "dt is -0.1"),
        ({"dt": np.nan}, "dt is nan"),
        ({"dt": np.inf}, "dt is inf"),
        ({"method": "trapezoid"}, "method is 'trapezoid', expected one of: euler"),
        ({"method": "zoh", "prewarp_frequency": 1.0}, "prewarp_frequency is 1.0, expected None"),
        ({"method": "bilinear", "prewarp_frequency": 40.0}, "expected a frequency below pi / dt"),
        ({"method": "bilinear", "prewarp_frequency": 0.0}, "prewarp_frequency is 0"),
        ({"method": "gbt"}, "alpha is None"),
        ({"method": "gbt", "alpha": 1.5}, "alpha is 1.5, expected a finite number from 0 to 1"),
        ({"method": "gbt", "alpha": np.nan}, "alpha is nan"),
        ({"method": "zoh", "alpha": 0.5}, "alpha is 0.5, expected None"),
        ({"method": "backward_euler", "A": [[10.0]]}, "10 is an eigenvalue of A"),
    ],
)
def test_bad_values(change, words):
    with pytest.raises(ValueError, match=words):
        discretize(**{**GOOD, **change})


@pytest.mark.parametrize(
    "change, words",
    [
        ({"A": [["x"]]}, "A has dtype"),
        ({"B": None}, "B has dtype object"),
        ({"dt": "1"}, "dt is '1', expected a real number"),
        ({"dt": None}, "dt is None"),
        ({"dt": True}, "dt is True"),
        ({"dt": 1j}, "dt is 1j"),
        ({"dt": [0.1, 0.2]}, "dt is "),
        ({"method": 3}, "method is 3"),
    ],
)
def test_bad_types(change, words):
    with pytest.raises(TypeError, match=words):
        discretize(**{**GOOD, **change})


def test_bad_integrals():
    with pytest.raises(ValueError, match="A has shape"):
        exponential_integrals([[1.0, 2.0]], [[1.0]], 0.1)
    with pytest.raises(ValueError, match="B has shape"):
        exponential_integrals([[1.0]], [[1.0], [2.0]], 0.1)
    with pytest.raises(ValueError, match="dt is 0"):
        exponential_integrals([[1.0]], [[1.0]], 0)


@pytest.mark.parametrize("method", ["zoh", "foh", "dirac"])
def test_a_step_that_overflows_is_an_error(method):
    with pytest.raises(OverflowError, match="the exponential of A dt"):
        discretize([[1.0]], [[1.0]], [[1.0]], [[0.0]], 1000.0, method)
