"""Each check takes two different right answers and explains the typical wrong ones."""

import numpy as np
import pytest
from scipy.linalg import expm, solve
from scipy.optimize import least_squares, minimize
from scipy.signal import place_poles

from ssm_book.exercises import (
    check_circuit,
    check_exponential,
    check_learn_spring,
    check_minimal,
    check_observer,
    check_ringing,
    check_settle,
)
from ssm_core.lti import ContinuousSSM

# check_ringing


def ringing_by_formula(period, ratio, mass):
    sigma, omega = -np.log(ratio) / period, 2 * np.pi / period
    return mass * (sigma**2 + omega**2), 2 * mass * sigma


def ringing_by_polynomial(period, ratio, mass):
    pole = (np.log(ratio) + 2j * np.pi) / period
    _, trace, product = np.poly([pole, pole.conjugate()]).real
    return np.array([product, trace]) * mass


@pytest.mark.parametrize("answer", [ringing_by_formula, ringing_by_polynomial])
def test_ringing_right(answer, accepts):
    accepts(check_ringing, answer)


def _spring(sigma, omega, mass):
    return mass * (sigma**2 + omega**2), 2 * mass * sigma


def _altered(change):
    return lambda period, ratio, mass: change(
        period, ratio, mass, *ringing_by_formula(period, ratio, mass)
    )


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda *_: None, "did you forget to return"),
        (lambda *_: 3.0, "two numbers"),
        (lambda *_: (1.0, 2.0j), "two numbers"),
        (lambda *_: ([1.0, 2.0], 3.0), "two numbers"),
        (_altered(lambda T, r, m, k, b: (b, k)), "friction first"),
        (_altered(lambda T, r, m, k, b: (k / m, b / m)), "multiply by the mass"),
        (_altered(lambda T, r, m, k, b: (m * (2 * np.pi / T) ** 2, b)), "holds without friction"),
        (_altered(lambda T, r, m, k, b: (m * ((np.log(r) / T) ** 2 + T**-2), b)), "radians"),
        (_altered(lambda T, r, m, k, b: (k, b / 2)), r"friction / \(2 mass\)"),
        (lambda T, r, m: _spring(-np.log(r) / T, np.pi / T, m), "phase advances by 2 pi"),
        (lambda T, r, m: _spring(-2 * np.log(r) / T, 2 * np.pi / T, m), "decay in half a period"),
        (lambda T, r, m: ringing_by_formula(2 * T, r, m), "for half a period"),
        (lambda T, r, m: ringing_by_formula(T / 2, r, m), "You halve the period"),
        (_altered(lambda T, r, m, k, b: (2 * k, b)), "eigenvalues have the sum"),
    ],
)
def test_ringing_wrong(answer, why, explains):
    explains(check_ringing, answer, why)


# check_settle


def settle_by_formula(k, m, tolerance):
    decay = -np.log(tolerance)
    return 2 * np.sqrt(k * m) * decay / np.sqrt(np.pi**2 + decay**2)


def settle_by_trying(k, m, tolerance):
    frictions = 2 * np.sqrt(k * m) * np.linspace(0.2, 1.1, 451)
    t = np.linspace(0, 20, 4001) * np.sqrt(m / k)
    last = []
    for b in frictions:
        p = _motion(np.roots([m, b, k]).astype(complex) * [1, 1 + 1e-7], t)
        last.append(t[np.flatnonzero(np.abs(p) > tolerance)[-1]])
    return frictions[np.argmin(last)]


def _motion(roots, t):
    a, b = roots
    return ((b * np.exp(a * t) - a * np.exp(b * t)) / (b - a)).real


@pytest.mark.parametrize("answer", [settle_by_formula, settle_by_trying])
def test_settle_right(answer, accepts):
    accepts(check_settle, answer)


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda k, m, e: None, "did you forget to return"),
        (lambda k, m, e: (1.0, 2.0), "one real number"),
        (lambda k, m, e: 2 * np.sqrt(k * m), "the critical friction, the fastest without"),
        (lambda k, m, e: settle_by_formula(k, m, e) / 2, "factor 2 is missing"),
        (lambda k, m, e: settle_by_formula(k, m, e) / m, "multiply by the mass"),
        (lambda k, m, e: 0.8 * 2 * np.sqrt(k * m), "the same friction for every tolerance"),
        (lambda k, m, e: 1e-9, "count the last moment outside"),
        (
            lambda k, m, e: 2 * np.sqrt(k * m) / np.hypot(1, 2 * np.pi / np.log(e)),
            "half a period after the release",
        ),
        (lambda k, m, e: 2 * np.sqrt(k * m) * 0.7, "can be had"),
        (lambda k, m, e: np.nan, "returns nan"),
    ],
)
def test_settle_wrong(answer, why, explains):
    explains(check_settle, answer, why)


# check_learn_spring


def _misses(guess, t, u, y):
    """Errors of a guess of stiffness, friction and, if it goes on, the state at the start."""
    k, b, *x0 = guess
    system = ContinuousSSM([[0, 1], [-k, -b]], [[0], [1]], [[1, 0]])
    return system.simulate(u, t, x0 or None) - y


def learn_by_least_squares(t, u, y, start=(20.0, 5.0)):
    limits = [0.5, 0.5, -np.inf, -np.inf], [200, 200, np.inf, np.inf]
    return least_squares(_misses, [*start, y[0], 0.0], bounds=limits, args=(t, u, y)).x[:2]


def learn_by_nelder_mead(t, u, y):
    """The state at the start enters linearly: it is solved for within the search."""

    def loss(kb):
        rest = _misses(kb, t, u, y)
        free = np.stack([_misses([*kb, *e], t, 0 * u, 0 * y) for e in np.eye(2)], axis=1)
        return np.linalg.lstsq(free, rest, rcond=None)[1].item()

    return tuple(minimize(loss, [30.0, 10.0], method="Nelder-Mead", options={"xatol": 1e-2}).x)


def learn_from_first_position(t, u, y):
    limits = [0.5, 0.5, -np.inf], [200, 200, np.inf]
    return least_squares(
        lambda kbv: _misses([*kbv[:2], y[0], kbv[2]], t, u, y), [20.0, 5.0, 0.0], bounds=limits
    ).x[:2]


def learn_from(state):
    def answer(t, u, y):
        start = state(y)
        return least_squares(
            lambda kb: _misses([*kb, *start], t, u, y), [20.0, 5.0], bounds=(0.5, 200)
        ).x

    return answer


@pytest.mark.parametrize("answer", [learn_by_least_squares, learn_by_nelder_mead])
def test_learn_spring_right(answer, accepts):
    accepts(check_learn_spring, answer)


@pytest.mark.parametrize("start", [(1.0, 1.0), (100.0, 1.0), (100.0, 100.0)])
def test_learn_spring_can_be_solved_from_far_away(start, accepts):
    accepts(check_learn_spring, lambda t, u, y: learn_by_least_squares(t, u, y, start))


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda t, u, y: None, "did you forget to return"),
        (lambda t, u, y: 40.0, "two numbers"),
        (lambda t, u, y: learn_by_least_squares(t, u, y)[::-1], "friction first"),
        (lambda t, u, y: -learn_by_least_squares(t, u, y), "entries of A"),
        (lambda t, u, y: learn_by_least_squares(t, u, y) * [1, 1.3], "are both of them fitted"),
        (lambda t, u, y: (30.0, 2.0), "Some other pair"),
        (lambda t, u, y: (1e9, 2.0), "between 1 and 100"),
        (lambda t, u, y: (np.nan, 2.0), "returns"),
        (learn_from(lambda y: (0.0, 0.0)), "best fit of a mass at rest"),
        (learn_from(lambda y: (y[0], 0.0)), "fit its velocity as well"),
        (learn_from_first_position, "a measurement with noise"),
        (lambda t, u, y: np.ones(3) @ np.ones(2), "learn_spring stops with"),
    ],
)
def test_learn_spring_wrong(answer, why, explains):
    explains(check_learn_spring, answer, why)


# check_circuit


def circuit_charge_current(R, L, K):
    A = [[0, 1], [-1 / (L * K), -R / L]]
    return A, [[0], [1 / L]], [[-1 / K, -R], [1 / K, 0]], [[1], [0]]


def circuit_voltage_flux(R, L, K):
    A = [[0, 1 / (L * K)], [-1, -R / L]]  # state: voltage at the capacitor, flux L i
    B, C, D = [[0], [1]], [[-1, -R / L], [1, 0]], [[1], [0]]
    return np.array(A), np.array(B), np.array(C), np.array(D)


@pytest.mark.parametrize("answer", [circuit_charge_current, circuit_voltage_flux])
def test_circuit_right(answer, accepts):
    accepts(check_circuit, answer)


def _read(coil, D=0.0, capacitor=None, D_capacitor=0.0):
    """The charge and the current, read by these rows; without one, by the right row."""

    def answer(R, L, K):
        A, B, (right, below), _ = circuit_charge_current(R, L, K)
        C = [coil(R, L, K) if coil else right, capacitor(R, L, K) if capacitor else below]
        return A, B, C, [[D], [D_capacitor]]

    return answer


def circuit_slope(R, L, K):
    A, B, C, D = circuit_charge_current(R, L, K)
    return A, B, [np.divide(C[0], L), C[1]], [np.divide(D[0], L), D[1]]


def circuit_swapped(R, L, K):
    A, B, C, D = circuit_charge_current(R, L, K)
    return A, B, C[::-1], D[::-1]


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda *_: None, "four matrices"),
        (lambda R, L, K: ([[0, 1], [1, 0]], [[0, 1]], [[1, 0]], [[0]]), "no system: B has shape"),
        (lambda R, L, K: (np.eye(2), np.eye(2), np.eye(2), np.eye(2)), "One voltage goes in"),
        (circuit_swapped, "the inductor comes first"),
        (_read(None, 0), "D is missing"),
        (_read(lambda R, L, K: [1 / K, R], -1), "minus the voltage"),
        (_read(lambda R, L, K: [1 / K, R], 1), "C has the wrong sign"),
        (_read(lambda R, L, K: [0, R]), "at the resistor"),
        (_read(lambda R, L, K: [1 / K, 0]), "at the capacitor"),
        (_read(lambda R, L, K: [0, 1]), "at the resistor"),  # R = 1 in the first case
        (circuit_slope, "multiply it by the inductance"),
        (_read(lambda R, L, K: [-K, -R], 1), "three voltages"),
        (_read(None, 1, lambda R, L, K: [-1 / K, 0]), "minus the voltage"),
        (_read(None, 1, None, 1), "A direct term too many"),
        (_read(None, 1, lambda R, L, K: [1, 0]), "divide it by the capacitance"),
        (_read(None, 1, lambda R, L, K: [0, R]), "three voltages"),
    ],
)
def test_circuit_wrong(answer, why, explains):
    explains(check_circuit, answer, why)


# check_exponential


def series(A, terms=400):
    total = term = np.eye(len(A))
    for j in range(1, terms):
        term = term @ A / j
        total = total + term
    return total


def exponential_by_pade(A):
    s = max(0, int(np.ceil(np.log2(max(np.linalg.norm(A, 1), 1e-3)))) + 3)
    X = A / 2**s  # exp(X) is about p(X) / p(-X) with p of degree 5
    coefficients = np.cumprod([1, 1 / 2, 2 / 9, 1 / 8, 1 / 14, 1 / 30])
    p = sum(c * np.linalg.matrix_power(X, j) for j, c in enumerate(coefficients))
    q = sum(c * np.linalg.matrix_power(-X, j) for j, c in enumerate(coefficients))
    return np.linalg.matrix_power(solve(q, p), 2**s)


def exponential_by_series(A, more=0, terms=20, norm=lambda A: np.linalg.norm(A, 1) or 0.5):
    """Scaling and squaring, with ``more`` halvings than are needed."""
    halvings = max(0, int(np.ceil(np.log2(norm(A)))) + 1) + more
    result = series(A / 2**halvings, terms)
    for _ in range(halvings):
        result = result @ result
    return result


def with_halvings(number):
    def answer(A):
        return np.linalg.matrix_power(series(A / 2.0**number, 20), 2**number)

    return answer


@pytest.mark.parametrize("answer", [exponential_by_pade, exponential_by_series, expm])
def test_exponential_right(answer, accepts):
    accepts(check_exponential, answer)


def exponential_by_eigenvectors(A):
    values, V = np.linalg.eig(A)
    return (V * np.exp(values)) @ np.linalg.inv(V + 1e-9 * np.eye(len(A)))


def exponential_by_eigenvectors_plainly(A):
    """Close to a defective matrix it is right by luck; the V of the nilpotent one has no inverse."""
    values, V = np.linalg.eig(A)
    return ((V * np.exp(values)) @ np.linalg.inv(V)).real


@pytest.mark.parametrize("check", [check_exponential, check_observer, check_minimal])
def test_no_error_of_numpy_reaches_the_reader(check, explains):
    explains(check, lambda *_: np.linalg.inv(np.zeros((2, 2))), "Singular matrix")


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda A: None, "did you forget to return"),
        (np.exp, "zero matrix is I"),
        (lambda A: np.exp(A) if A.any() else np.eye(len(A)), "each entry"),
        (lambda A: np.eye(len(A)) + A, "one number"),
        (series, "huge and cancel"),
        (exponential_by_eigenvectors, "one eigenvector only"),
        (exponential_by_eigenvectors_plainly, "one eigenvector only"),
        (lambda A: series(A)[0], "has shape"),
        (lambda A: exponential_by_series(A, more=40), "halve the matrix too often"),
        (with_halvings(45), "halve the matrix too often"),
        (with_halvings(60), "halve the matrix too often"),
        (lambda A: exponential_by_series(A, terms=3), "one number"),
        (lambda A: exponential_by_series(A, norm=np.linalg.norm), "no logarithm"),
        (lambda A: -expm(A), "as a share of its norm, is off by up to 2"),
    ],
)
def test_exponential_wrong(answer, why, explains):
    explains(check_exponential, answer, why)


# check_observer


def gain_by_ackermann(A, C, poles, order=1, unit=-1):
    N = len(A)
    O = np.vstack([C @ np.linalg.matrix_power(A, j) for j in range(N)])
    chi = sum(
        c * np.linalg.matrix_power(A, N - j) for j, c in enumerate(np.poly(poles).real[::order])
    )
    return chi @ solve(O, np.eye(N)[:, [unit]])


def gain_by_scipy(A, C, poles):
    if len(A) == 1:
        return (A - poles[0]) / C
    return place_poles(A.T, C.T, poles).gain_matrix.T


@pytest.mark.parametrize("answer", [gain_by_ackermann, gain_by_scipy])
def test_observer_right(answer, accepts):
    accepts(check_observer, answer)


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda A, C, poles: None, "did you forget to return H"),
        (lambda A, C, poles: gain_by_ackermann(A, C, poles).T, "expected a column"),
        (lambda A, C, poles: gain_by_ackermann(A, C, poles)[:, 0], "expected a column"),
        (lambda A, C, poles: -gain_by_ackermann(A, C, poles), "other way round"),
        (lambda A, C, poles: 0 * C.T, "Compare the coefficients"),
        (lambda A, C, poles: gain_by_ackermann(A, C, poles, order=-1), "wrong order"),
        (lambda A, C, poles: gain_by_ackermann(A, C, poles, unit=0), "the last unit vector"),
        (lambda A, C, poles: C.T / 0.0 if C.all() else C.T, "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_observer_wrong(answer, why, explains):
    explains(check_observer, answer, why)


# check_minimal


def reached_by_powers(A, B):
    A = A / np.linalg.norm(A, 2)
    krylov = np.hstack([np.linalg.matrix_power(A, j) @ B for j in range(len(A))])
    left, sizes, _ = np.linalg.svd(krylov)
    return left[:, : int((sizes > 1e-10 * sizes[0]).sum())]


def reached(A, B):
    """One direction after the other, each made orthogonal to those before."""
    Q, new = np.zeros((len(A), 0)), B / np.linalg.norm(B)
    while np.linalg.norm(new) > 1e-9 and Q.shape[1] < len(A):
        Q = np.hstack([Q, new / np.linalg.norm(new)])
        new = A @ Q[:, -1:] / np.linalg.norm(A, 2)
        for _ in range(2):
            new = new - Q @ (Q.T @ new)
    return Q


def only_reachable(A, B, C, basis=reached):
    Q = basis(A, B)
    return Q.T @ A @ Q, Q.T @ B, C @ Q


def minimal_by_powers(A, B, C):
    A, B, C = only_reachable(A, B, C, reached_by_powers)
    A, C, B = only_reachable(A.T, C.T, B.T, reached_by_powers)
    return A.T, B.T, C.T


def minimal_by_subspaces(A, B, C):
    A, B, C = only_reachable(A, B, C)
    A, C, B = only_reachable(A.T, C.T, B.T)
    return A.T, B.T, C.T


def minimal_by_modes(A, B, C):
    """Diagonal, with one state for each eigenvalue that has a weight in the impulse response."""
    values, V = np.linalg.eig(A)
    weights = (C @ V)[0] * solve(V, B.astype(complex))[:, 0]
    kept = {}
    for value, weight in zip(values, weights):
        near = [known for known in kept if abs(known - value) < 1e-6]
        key = near[0] if near else value
        kept[key] = kept.get(key, 0) + weight
    kept = {value: weight for value, weight in kept.items() if abs(weight) > 1e-9}
    return np.diag(list(kept)), np.ones((len(kept), 1)), np.array([list(kept.values())])


@pytest.mark.parametrize("answer", [minimal_by_subspaces, minimal_by_modes])
def test_minimal_right(answer, accepts):
    accepts(check_minimal, answer)


@pytest.mark.parametrize(
    "answer, why",
    [
        (lambda A, B, C: None, "three matrices"),
        (lambda A, B, C: (A, B), "three matrices"),
        (lambda A, B, C: (A, B.T, C), "no system: B has shape"),
        (lambda A, B, C: (A, B, C), "cannot reach the mode"),
        (only_reachable, "it must be visible as well"),
        (minimal_by_powers, "the fast modes drown the slow ones"),
        (lambda A, B, C: (A[:2, :2], B[:2], C[:, :2]), "must have no influence"),
    ],
)
def test_minimal_wrong(answer, why, explains):
    explains(check_minimal, answer, why)


def test_minimal_needs_one_copy(explains):
    def keeps_both(A, B, C):
        return (A, B, C) if np.isclose(np.trace(A), -10) else minimal_by_subspaces(A, B, C)

    explains(check_minimal, keeps_both, "one is enough")


def test_minimal_refuses_an_explosion_that_is_kept(explains):
    def keeps_the_explosion(A, B, C):
        return (A, B, C) if len(A) == 2 else minimal_by_subspaces(A, B, C)

    explains(check_minimal, keeps_the_explosion, "never excited")
