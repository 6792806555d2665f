"""Checks for the chapter on continuous state space models."""

import numpy as np
from scipy.linalg import block_diag, expm
from scipy.optimize import least_squares

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned
from ssm_core.lti import ContinuousSSM


def check_ringing(spring_from_ringing):
    """Check ``spring_from_ringing(period, ratio, mass) -> (stiffness, friction)``."""
    for k, b, m in ((40.0, 5.0, 1.0), (40.0, 5.0, 3.0), (7.0, 0.2, 0.5), (1.0, 1.9, 1.0)):
        pole = np.linalg.eigvals([[0, 1], [-k / m, -b / m]])[0]
        omega, sigma = abs(pole.imag), -pole.real
        period = 2 * np.pi / omega
        answer = spring_from_ringing(period, np.exp(-sigma * period), m)
        got = _two_numbers(answer, "spring_from_ringing")

        def spring(sigma, omega, m=m):
            return [m * (sigma**2 + omega**2), 2 * m * sigma]

        hints = (
            ([b, k], "You return the friction first; the stiffness comes first."),
            ([k / m, b / m], "That is the answer for a mass of 1: multiply by the mass."),
            (
                [m * omega**2, b],
                "stiffness = mass * omega² holds without friction; friction slows the swing, so "
                "the rate of decay squared belongs in the stiffness as well.",
            ),
            (
                spring(sigma, 1 / period),
                "The imaginary part of the eigenvalue counts radians: 2 pi / period.",
            ),
            ([k, b / 2], "The amplitude decays at the rate friction / (2 mass)."),
            (
                spring(sigma, omega / 2),
                "From maximum to maximum the phase advances by 2 pi; pi is half a period, from a "
                "maximum to a minimum.",
            ),
            (
                spring(2 * sigma, omega),
                "The ratio compares two maxima, which are a whole period apart; you let it decay "
                "in half a period.",
            ),
            (
                spring(sigma / 2, omega / 2),
                "You take `period` for half a period: maxima are a whole period apart.",
            ),
            (
                spring(2 * sigma, 2 * omega),
                "You halve the period: from one maximum to the next is a whole period.",
            ),
        )
        why = "The eigenvalues have the sum -friction / mass and the product stiffness / mass."
        expect_close("(stiffness, friction)", got, [k, b], reason(got, [k, b], hints, why))
    passed("the stiffness and the friction, from the ringing alone")


def check_settle(best_friction):
    """Check ``best_friction(stiffness, mass, tolerance) -> friction``: shortest settling time."""
    for k, m, tolerance in ((40.0, 1.0, 0.02), (40.0, 3.0, 0.1), (7.0, 0.5, 0.3), (2.0, 2.0, 1e-3)):
        answer = returned(best_friction(k, m, tolerance), "best_friction")
        expect(
            np.size(answer) == 1 and np.isrealobj(answer),
            "best_friction should return one real number, the friction.",
        )
        got = float(np.ravel(answer)[0])
        expect(np.isfinite(got), f"best_friction returns {got}.")
        critical = 2 * np.sqrt(k * m)
        want = critical * _damping(tolerance)
        call = f"best_friction({k:g}, {m:g}, {tolerance:g}) is {got:.4g}."
        for wrong, why in (
            (
                critical,
                "That is the critical friction, the fastest without any overshoot; an overshoot "
                "within the tolerance does no harm.",
            ),
            (
                critical * _damping(tolerance, periods=1.0),
                "The first overshoot comes half a period after the release, not a whole one.",
            ),
            (want / 2, "The rate of decay is friction / (2 mass): the factor 2 is missing."),
            (want / m, "Rate of decay times 2 is friction / mass: multiply by the mass."),
        ):
            if abs(got / wrong - 1) < 0.002 < abs(wrong / want - 1):
                expect(False, f"{call} {why}")
        expect(
            got > 0.01 * critical,
            f"{call} With so little friction the mass is soon within the tolerance, and leaves it "
            "again: count the last moment outside.",
        )
        if abs(got / want - 1) > 0.01:
            mine, best = (_settling_time(k, m, tolerance, b) for b in (got, want * 1.0001))
            other = np.ravel(returned(best_friction(k, m, tolerance / 5), "best_friction"))
            why = (
                " You return the same friction for every tolerance, but a smaller tolerance leaves "
                "room for a smaller overshoot only."
                if other.size == 1 and abs(other[0] / got - 1) < 1e-9
                else ""
            )
            expect(
                False,
                f"{call} The mass settles after {mine:.3g} s then; {best:.3g} s can be had.{why}",
            )
    passed("no friction brings the mass to rest sooner")


def check_learn_spring(learn_spring):
    """Check ``learn_spring(t, u, y) -> (stiffness, friction)``: the least squared error.

    The recordings begin in motion, so the state at the start is to be fitted as well.
    """
    rng = np.random.default_rng(2)
    t = np.linspace(0.6, 4.6, 201)
    for k, b, x0 in ((40.0, 5.0, (0.2, 1.0)), (12.0, 18.0, (-0.2, 2.0))):
        u = 4 * np.sin(np.pi * np.clip((t - 1.3) / 0.3, 0, 1)) - 2.0 * ((t > 2.6) & (t < 3.1))
        y = _response(k, b, t, u, x0) + 1e-3 * rng.standard_normal(len(t))
        got = _two_numbers(
            _solved(
                lambda u=u, y=y: learn_spring(t.copy(), u.copy(), y.copy()),
                "learn_spring",
                "Do all guesses keep the stiffness and the friction between 0.5 and 200, say?",
            ),
            "learn_spring",
        )
        expect(np.all(np.isfinite(got)), f"learn_spring returns {got}.")

        def misses(kb, u=u, y=y):
            """Errors of the positions with the best state at the start."""
            rest = y - _response(*kb, t, u)
            free = np.stack([_response(*kb, t, 0 * u, e) for e in np.eye(2)], axis=1)
            return rest - free @ np.linalg.lstsq(free, rest, rcond=None)[0]

        def from_state(state, u=u, y=y, k=k, b=b):
            """The best fit of somebody who takes this state for that at the start."""
            fit = least_squares(
                lambda kb: _response(*kb, t, u, state) - y, [k, b], bounds=(0.5, 200)
            )
            return fit.x

        def from_first_position(u=u, y=y, k=k, b=b):
            """The best fit of somebody who takes y[0] for the true position at the start."""
            fit = least_squares(
                lambda kbv: _response(*kbv[:2], t, u, [y[0], kbv[2]]) - y,
                [k, b, 0.0],
                bounds=([0.5, 0.5, -np.inf], [200, 200, np.inf]),
                x_scale=[k, b, 1.0],
            )
            return fit.x[:2]

        best = least_squares(misses, [k, b], x_scale=[k, b]).x
        why = ""
        if np.allclose(got, best[::-1], rtol=0.01):
            why = "You return the friction first; the stiffness comes first."
        elif np.allclose(got, -best, rtol=0.01):
            why = "These are the entries of A; the stiffness and the friction are minus those."
        elif (got < 0.1).any() or (got > 1000).any():
            why = "The stiffness and the friction lie between 1 and 100."
        elif np.sum(misses(got) ** 2) > 1.001 * np.sum(misses(best) ** 2):
            why = (
                "Some other pair fits better: minimize the sum of (simulate(u, t, x0) - y)² over "
                "both parameters and the state x0 at the start, for a mass of 1."
            )
            if np.allclose(got, from_state([0, 0]), rtol=0.01):
                why = (
                    "That is the best fit of a mass at rest; the recording begins in the middle "
                    "of a swing, so fit the position and the velocity at t[0] as well."
                )
            elif np.allclose(got, from_state([y[0], 0]), rtol=0.01):
                why = (
                    "You take the first position for the state at the start. The mass is moving "
                    "there: fit its velocity as well."
                )
            elif np.allclose(got, from_first_position(), rtol=3e-4):
                why = (
                    "You take y[0] for the position at the start. It is a measurement with noise "
                    "like the others: fit the position at t[0] too, beside the velocity."
                )
            elif np.isclose(got[0], best[0], rtol=0.01) and not np.isclose(
                got[1], best[1], rtol=0.01
            ):
                why = "The stiffness is right and the friction is not: are both of them fitted?"
        expect(not why, f"({got[0]:.4g}, {got[1]:.4g}) is not the best fit. {why}")
    passed("no other spring fits the recordings better")


def check_circuit(circuit):
    """Check ``circuit(resistance, inductance, capacitance)``: voltages at inductor and capacitor.

    The truth is the ratio of complex impedances. Any choice of the state is right.
    """
    w = np.array([0.01, 0.3, 1.0, 3.0, 20.0, 1e4])
    for R, L, K in ((1.0, 1.0, 1.0), (5.0, 1.0, 1 / 40), (2.0, 0.5, 0.1), (0.1, 3.0, 0.7)):
        system = _system(circuit(R, L, K), "circuit")
        expect(
            system.M == 1 and system.P == 2,
            "One voltage goes in and two come out: B is "
            f"(N, 1) and C is (2, N); yours are {system.B.shape} and {system.C.shape}.",
        )
        at_coil, at_capacitor = system.frequency_response(w)[:, :, 0].T
        coil, resistor, capacitor = 1j * w * L, R, 1 / (1j * w * K)
        ring = coil + resistor + capacitor
        default = (
            "At each moment the three voltages add up to u: R i + L i' + q / C = u, with "
            "q' = i. Take q and i as the state."
        )
        why = default
        if np.allclose(at_coil, -coil / ring):
            why = "That is minus the voltage."
        elif np.allclose(at_coil, capacitor / ring) and np.allclose(at_capacitor, coil / ring):
            why = "Your rows are in the other order: the inductor comes first."
        elif np.allclose(at_coil, resistor / ring):
            why = "That is the voltage at the resistor."
        elif np.allclose(at_coil, capacitor / ring):
            why = "That is the voltage at the capacitor."
        elif np.allclose(at_coil, 2 - coil / ring):
            why = (
                "D is right and C has the wrong sign: the voltage at the inductor is u minus the "
                "other two."
            )
        elif np.allclose(at_coil, coil / ring - 1):
            why = (
                "D is missing: the voltage at the inductor is u minus the other two, and u is the "
                "input of this very moment."
            )
        elif np.allclose(at_coil, 1 / ring):
            why = "That is the current; the voltage at the inductor is inductance times i'."
        elif np.allclose(at_coil, 1j * w / ring):
            why = "That is i', the slope of the current; multiply it by the inductance."
        expect_close("The voltage at the inductor for sines", at_coil, coil / ring, why)
        why = default
        if np.allclose(at_capacitor, -capacitor / ring):
            why = "That is minus the voltage."
        elif np.allclose(at_capacitor, capacitor / ring + 1):
            why = (
                "A direct term too many: the charge cannot jump, so the voltage at the capacitor "
                "does not jump with u."
            )
        elif np.allclose(at_capacitor, capacitor * K / ring):
            why = "That is the charge; divide it by the capacitance."
        expect_close("The voltage at the capacitor for sines", at_capacitor, capacitor / ring, why)
    passed("the voltages at the inductor and the capacitor, for every frequency")


def check_exponential(exponential):
    """Check ``exponential(A)`` against SciPy, for large, defective and non-normal matrices.

    All of them have well-conditioned exponentials: a change of their entries by rounding changes
    the exponential by less than 1e-12 of its norm.
    """
    spring = np.array([[0.0, 1.0], [-40.0, -5.0]])
    critical = np.array([[0.0, 1.0], [-36.0, -12.0]])
    random = np.random.default_rng(3).standard_normal((6, 6))
    cases = (
        (
            np.zeros((2, 2)),
            "The exponential of the zero matrix is I. (Its norm is 0, of which there is no "
            "logarithm.)",
        ),
        (
            np.array([[-2.0]]),
            "The exponential of a matrix of one number is that of the number: here e^-2.",
        ),
        (0.3 * spring, "Check the terms: number j is A^j / j!."),
        (random, "Check the terms: number j is A^j / j!."),
        (
            0.5 * critical,
            "This matrix has one eigenvector only, so V cannot be inverted: do not go "
            "through the eigenvalues.",
        ),
        (
            np.diag([1.0, 1.0, 1.0], k=1),
            "This matrix is nilpotent and has one eigenvector only: do "
            "not go through the eigenvalues.",
        ),
        (
            6.0 * spring,
            "Here the terms of the series are huge and cancel. Halve the matrix until "
            "its norm is below 1, and square the result as often.",
        ),
        (
            np.array([[0.0, 1000.0], [-1000.0, 0.0]]),
            "This is a rotation by 1000 radians. Halve the "
            "matrix until its norm is below 1, and square the result as often.",
        ),
        (
            np.array([[-500.0, 500.0], [0.0, -1.0]]),
            "One mode is gone at once, the other is not. "
            "Halve the matrix until its norm is below 1, and square the result as often.",
        ),
    )
    for A, why in cases:
        with np.errstate(all="ignore"):
            got = _solved(lambda A=A: exponential(A.copy()), f"exponential of\n{A}\n", why)
            elementwise = (
                got is not None and A.any() and A.size > 1 and np.array_equal(got, np.exp(A))
            )
        want = expm(A)
        size = np.linalg.norm(want, 2)
        expect(got is not None, f"exponential of\n{A}\n is None: did you forget to return it?")
        got = np.asarray(got)
        if elementwise:
            why = "np.exp takes the exponential of each entry; the matrix needs products."
        elif A.any() and _overscaled(exponential):
            why = (
                "You halve the matrix too often: I + A / 2^j loses the digits of A, and each "
                "squaring doubles the rounding error. Halve until the norm is about one half."
            )
        name = f"exponential of\n{A}\n, as a share of its norm,"
        expect_close(name, got / size, want / size, why, rtol=0, atol=1e-8)
    passed("the exponential, also where the series and the eigenvectors fail")


def check_observer(observer_gain):
    """Check ``observer_gain(A, C, poles) -> H (N, 1)``: eigenvalues of A - H C."""
    rng = np.random.default_rng(4)
    spring, ruler = np.array([[0.0, 1.0], [-40.0, -5.0]]), np.array([[1.0, 0.0]])
    cases = (
        (np.array([[2.0]]), np.array([[0.5]]), [-1.0]),
        (spring, ruler, [-15.0, -16.0]),
        (spring, np.array([[0.3, 1.0]]), [-10.0 + 5.0j, -10.0 - 5.0j]),
        (
            rng.standard_normal((3, 3)),
            rng.standard_normal((1, 3)),
            [-2.0, -3.0 + 1.0j, -3.0 - 1.0j],
        ),
    )
    for A, C, poles in cases:
        N = len(A)
        H = _solved(
            lambda A=A, C=C, poles=poles: observer_gain(A.copy(), C.copy(), list(poles)),
            "observer_gain",
            "The rows C, CA, ..., CA^(N-1) are independent here; the matrix to solve with is theirs.",
        )
        expect(H is not None, "observer_gain returned None: did you forget to return H?")
        H = np.asarray(H)
        expect(
            H.shape == (N, 1),
            f"H has shape {H.shape}, expected a column ({N}, 1): it turns "
            "one number, the error of the output, into a correction of the state.",
        )
        expect(np.all(np.isfinite(H)), "H is not finite.")
        want, got = np.poly(poles), np.poly(A - H @ C)
        scale = np.abs(want).max()
        rows = np.vstack([C @ np.linalg.matrix_power(A, j) for j in range(N)])
        first, last = np.linalg.solve(rows, np.eye(N)[:, [0, -1]]).T[:, :, None]
        powers = [np.linalg.matrix_power(A, j) for j in range(N + 1)]  # lowest first
        reversed_chi = sum(a * power for a, power in zip(want.real, powers))
        chi = sum(a * power for a, power in zip(want.real[::-1], powers))
        if N > 1 and np.allclose(H, reversed_chi @ last):
            why = (
                "You take the coefficients in the wrong order: np.poly has the one of the "
                "highest power first."
            )
        elif N > 1 and np.allclose(H, chi @ first):
            why = (
                "Your w has C w = 1; it should have C A^(N-1) w = 1 and zeros before: solve for "
                "the last unit vector, not for the first."
            )
        elif np.allclose(np.poly(A + H @ C), want, atol=1e-6 * scale):
            why = "The sign is the other way round: A + H C has the eigenvalues asked for."
        else:
            why = (
                "Compare the coefficients of det(z I - A + H C) with those of the polynomial "
                "that has the roots asked for."
            )
        found = np.linalg.eigvals(A - H @ C).round(3)
        expect(
            np.allclose(got, want, rtol=0, atol=1e-7 * scale),
            f"A - H C has the eigenvalues {found}, expected {np.array(poles)}. {why}",
        )
    passed("the observer forgets its errors at the rates that were asked for")


def check_minimal(minimal):
    """Check ``minimal(A, B, C) -> (A, B, C)``: the smallest system with the same response."""
    rng = np.random.default_rng(5)
    springs = np.array([[100.0, -60.0], [-60.0, 100.0]])
    pair = np.block([[np.zeros((2, 2)), np.eye(2)], [-springs, -np.eye(2)]])
    one = np.array([[0.0, 1.0], [-40.0, -5.0]])
    push_left, push_both = np.eye(4)[:, 2:3], np.array([[0.0], [0.0], [1.0], [1.0]])
    see_left, see_mean = np.eye(4)[:1], np.array([[0.5, 0.5, 0.0, 0.0]])
    cases = (
        (
            "two masses, one pushed and seen",
            pair,
            push_left,
            see_left,
            4,
            "Everything is reachable and visible here: nothing may go.",
        ),
        (
            "two masses, both pushed",
            pair,
            push_both,
            see_left,
            2,
            "The input cannot reach the mode in which they swing against each other.",
        ),
        (
            "two masses, their mean seen",
            pair,
            push_left,
            see_mean,
            2,
            "The output cannot see the mode in which they swing against each other: reachable is not "
            "enough, it must be visible as well.",
        ),
        (
            "two masses, both pushed, their mean seen",
            pair,
            push_both,
            see_mean,
            2,
            "One mode can neither be reached nor seen.",
        ),
        (
            "a mode that explodes unreached",
            np.diag([-1.0, 3.0]),
            np.array([[1.0], [0.0]]),
            np.array([[1.0, 1.0]]),
            1,
            "The mode with the eigenvalue 3 is never excited.",
        ),
        (
            "two copies of one spring",
            block_diag(one, one),
            np.array([[0.0], [1.0], [0.0], [1.0]]),
            np.array([[1.0, 0.0, 2.0, 0.0]]),
            2,
            "Both copies always do the same, so one is enough.",
        ),
        (
            "eight decays, from 1 to 1000 per second",
            -np.diag(np.logspace(0, 3, 8)),
            np.ones((8, 1)),
            np.ones((1, 8)),
            8,
            "Nothing may go here. In the powers A^j B the fast modes drown the slow ones, so the "
            "singular values do not show the dimension: make each new column orthogonal to those "
            "before you multiply by A again.",
        ),
    )
    t = np.linspace(0, 2, 21)
    for name, A, B, C, size, why in cases:
        T = np.linalg.qr(rng.standard_normal((len(A), len(A))))[0]  # hide the structure
        answer = _solved(
            lambda A=T @ A @ T.T, B=T @ B, C=C @ T.T: minimal(A, B, C),
            f"minimal for {name}",
            "Where something is unreachable or invisible, the matrices of B, AB, ... and of "
            "C, CA, ... have no inverse: use orthonormal bases.",
        )
        expect(
            isinstance(answer, (tuple, list)) and len(answer) == 3,
            "minimal should return three matrices: A, B, C.",
        )
        system = _system((*answer, np.zeros((1, 1))), "minimal")
        want = np.array([(C @ expm(A * s) @ B).item() for s in t])
        expect_close(
            f"The impulse response of {name}",
            system.impulse_response(t)[:, 0, 0],
            want,
            why if size == 8 else "What you leave out must have no influence on C exp(At) B.",
            rtol=0,
            atol=1e-7 * np.abs(want).max(),
        )
        expect(
            system.N == size,
            f"For {name} your system has {system.N} states, expected {size}. {why}",
        )
    passed("the smallest systems, and their responses are the same")


def _system(answer, name):
    """The answer as a system, or an explanation why it is none."""
    expect(
        isinstance(answer, (tuple, list)) and len(answer) == 4,
        f"{name} should return four matrices: A, B, C, D.",
    )
    try:
        return ContinuousSSM(*answer)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"The matrices from {name} are no system: {error}.") from None


def _overscaled(exponential):
    """Whether rounding loses a small number in its exponential: it was halved too often."""
    try:
        got = np.asarray(exponential(np.array([[1e-6]])), dtype=float)
    except (ArithmeticError, TypeError, ValueError):
        return False
    return got.shape == (1, 1) and 2e-9 < abs(got.item() - np.exp(1e-6)) < 1e-3


def _solved(answer, name, why):
    """What ``answer()`` returns, or ``why`` where NumPy cannot compute what it is asked to."""
    try:
        return answer()
    except (ArithmeticError, ValueError) as error:  # LinAlgError is a ValueError
        raise AssertionError(f'{name} stops with "{error}". {why}') from None


def _two_numbers(answer, name):
    """The answer as two real numbers, or an explanation why it is not."""
    returned(answer, name)
    try:
        got = np.array(answer, dtype=float)
    except (TypeError, ValueError):
        got = None
    expect(
        got is not None and got.shape == (2,),
        f"{name} should return two numbers: the stiffness and the friction.",
    )
    return got


def _response(k, b, t, u, x0=None):
    """Positions of a mass of 1 under samples of a force."""
    return ContinuousSSM([[0, 1], [-k, -b]], [[0], [1]], [[1, 0]]).simulate(u, t, x0)


def _damping(tolerance, periods=0.5):
    """Friction, as a share of the critical one, after which ``tolerance`` is left in that time."""
    decay = -np.log(tolerance)
    return decay / np.hypot(2 * np.pi * periods, decay)


def _settling_time(k, m, tolerance, b):
    """The last moment at which a mass released at 1 is farther than ``tolerance`` from 0."""
    slow, fast = np.roots([m, b, k]).astype(complex) * [1, 1 + 1e-9]  # apart, where critical
    t = np.linspace(0, 20 / np.abs(slow.real), 40_001)
    p = ((fast * np.exp(slow * t) - slow * np.exp(fast * t)) / (fast - slow)).real
    return t[np.flatnonzero(np.abs(p) > tolerance)[-1]]
