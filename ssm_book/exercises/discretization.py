"""Checks for the chapter on discretization."""

import numpy as np
from scipy.linalg import expm
from scipy.signal import dlsim

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned
from ssm_core.discretize import discretize
from ssm_core.lti import DiscreteSSM

__all__ = [
    "check_best_factor",
    "check_exponential_trapezoid",
    "check_half_steps",
    "check_largest_euler_step",
    "check_learn_system",
    "check_move_weights",
    "check_phi",
    "check_prewarped",
    "check_to_scipy",
]


def check_largest_euler_step(largest_euler_step):
    """Check ``largest_euler_step(A)``: the step at which Euler's rule stops being stable.

    Args:
        largest_euler_step (callable): takes A (N, N), all eigenvalues in the left half plane.
    """
    spring = np.array([[0.0, 1.0], [-40.0, -5.0]])
    pair = np.diag([-1.0, -50.0])
    swing = np.array([[-0.1, 3.0], [-3.0, -0.1]])  # eigenvalues -0.1 ± 3i
    mixed = np.zeros((4, 4))
    mixed[:2, :2], mixed[2:, 2:] = swing, pair
    for A in (pair, spring, swing, mixed):
        eigenvalues = np.linalg.eigvals(A)
        limit = np.min(-2 * eigenvalues.real / np.abs(eigenvalues) ** 2)
        step = largest_euler_step(A.copy())
        expect(step is not None, "largest_euler_step returned None: did you forget to return it?")
        expect(
            np.size(step) == 1,
            f"largest_euler_step returned {np.size(step)} numbers. Every "
            "eigenvalue has its own limit; the step has to keep all of them.",
        )
        step = float(np.real(np.squeeze(step)))
        if not np.isclose(step, limit, rtol=1e-6):
            radius = np.max(np.abs(np.linalg.eigvals(np.eye(len(A)) + step * A)))
            real_part_only = np.isclose(step, np.min(2 / np.abs(eigenvalues.real)))
            modulus_only = np.isclose(step, np.min(2 / np.abs(eigenvalues)))
            hint = (
                "2/|Re λ| is right for real eigenvalues only: where does Δλ leave the disc "
                "|1 + z| < 1 if λ has an imaginary part?"
                if real_part_only
                else "2/|λ| is right for real eigenvalues only: it is as far as the disc "
                "|1 + z| < 1 reaches along the real axis, and Δλ moves along another ray."
                if modulus_only
                else "Every eigenvalue has its own limit, and the smallest one counts: "
                "|1 + Δλ| = 1 for a Δ above 0."
            )
            raise AssertionError(
                f"With eigenvalues {np.round(eigenvalues, 3)} your step is {step:.6g}; there the "
                f"largest eigenvalue of I + ΔA has modulus {radius:.6g} instead of 1. {hint}"
            )
    passed("largest_euler_step is on the edge of the disc, with imaginary parts too")


def check_phi(phi):
    """Check ``phi(z)`` = (exp(z) - 1) / z for real z, to full accuracy and at 0.

    Args:
        phi (callable): takes an array float64 (K,) and returns one.
    """
    z = np.array([-30.0, -1.6, -0.3, 0.5, 2.0])
    with np.errstate(all="ignore"):
        got = returned(phi(z.copy()), "phi")
        near = np.array([1e-3, -1e-3, 2e-3])
        at_near = np.asarray(phi(near.copy()), dtype=float)
    truncated = (
        np.shape(got) == z.shape
        and at_near.shape == near.shape
        and np.allclose(at_near, np.expm1(near) / near, rtol=1e-5)
    )
    expect_close(
        "phi(z)",
        got,
        (np.exp(z) - 1) / z,
        "Near 0 the values are right: a series is cut off too early, or used too far from 0. "
        "NumPy's function for exp(z) - 1 is accurate everywhere."
        if truncated
        else "The definition is (exp(z) - 1) / z, element by element.",
        rtol=1e-12,
    )
    with np.errstate(all="ignore"):
        at_zero = np.asarray(phi(np.array([0.0, 1.0])))
    expect(
        np.isfinite(at_zero[0]),
        "phi(0) is not a finite number. The quotient is 0/0 there; its "
        "limit is 1, which the program has to be told.",
    )
    expect_close("phi(0)", at_zero[0], 1.0, "The limit of (exp(z) - 1) / z at 0 is 1.", rtol=1e-15)
    tiny = np.array([-1e-15, -1e-12, -1e-8, -1e-4, 1e-10, 1e-5, 1e-3])
    truth = 1 + tiny / 2 * (1 + tiny / 3 * (1 + tiny / 4 * (1 + tiny / 5)))
    got = np.asarray(phi(tiny.copy()))
    expect_close(
        "phi(z) for small z",
        got,
        truth,
        "exp(z) is rounded to 16 digits before 1 is "
        "subtracted, and the digits that are left are those of the rounding. NumPy has a "
        "function for exp(z) - 1 without that loss; a series does it too.",
        rtol=4e-15,
        atol=0,
    )
    between = -np.geomspace(1e-6, 10, 200)
    expect_close(
        "phi(z) for z from -1e-6 to -10",
        phi(between.copy()),
        np.expm1(between) / between,
        "A series is cut off too early, or used too far from 0.",
        rtol=1e-13,
    )
    passed("phi keeps its digits for every z, zero included")


def check_best_factor(best_factor):
    """Check ``best_factor(a, steps)``: the constant that brings Mamba's states closest to the hold's.

    Args:
        best_factor (callable): takes a (N,), negative, and the equally likely steps (L,), and
            returns one factor per mode (N,).
    """

    def phi(z):
        return np.expm1(z) / z

    a = np.array([-1.0, -5.0, -16.0])
    for steps in (np.array([0.001, 0.1]), np.geomspace(0.001, 0.1, 7), np.array([0.02, 0.02, 0.5])):
        z = np.outer(a, steps)
        wanted = (phi(z) * steps**2).sum(1) / (steps**2).sum()
        got = returned(best_factor(a.copy(), steps.copy()), "best_factor")
        hints = [
            (
                phi(z).mean(1),
                "This is the mean of φ(aΔ), which counts all steps alike. A long step lets more of "
                "the input into the state than a short one.",
            ),
            (
                (phi(z) * steps).sum(1) / steps.sum(),
                "The weights are Δ here. An error is squared before it is averaged, and so is Δ.",
            ),
            (phi(a * steps.mean()), "This is φ at the mean step: right if all steps are equal."),
            (
                1 / (1 / phi(z)).mean(1),
                "This is the harmonic mean of φ(aΔ), which counts all steps alike.",
            ),
            (
                1 / wanted,
                "This is the inverse: Mamba's state is too large, so the factor is below 1.",
            ),
            (
                (phi(z) * steps**2).sum(1) / (phi(z) ** 2 * steps**2).sum(1),
                "This factor takes the hold's state to Mamba's; the other way round is wanted.",
            ),
        ]
        expect_close(
            f"the factor for the steps {steps.round(4).tolist()}",
            got,
            wanted,
            reason(
                got,
                wanted,
                hints,
                "Least squares gives E[M T] / E[M²] for Mamba's state M and the true T; both are "
                "sums over the inputs, and the decay since an input is the same in both.",
            ),
        )
    passed("best_factor: long steps count by their squares")


def check_half_steps(half_steps):
    """Check ``half_steps(A, B, dt)``: half a step of Euler, then half a step of backward Euler.

    Args:
        half_steps (callable): takes A (N, N), B (N, M) and dt, returns (Ab, Bb).
    """
    systems = [
        (np.array([[-1.0]]), np.array([[1.0]]), 1.0),
        (np.array([[0.0, 1.0], [-40.0, -5.0]]), np.array([[0.0], [1.0]]), 0.15),
        (np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 2.0], [1.0, 0.0]]), 0.3),
    ]
    for A, B, dt in systems:
        result = half_steps(A.copy(), B.copy(), dt)
        expect(result is not None, "half_steps returned None: did you forget to return (Ab, Bb)?")
        expect(
            isinstance(result, (tuple, list)) and len(result) == 2,
            "half_steps should return two matrices: Ab and Bb.",
        )
        Ab, Bb = result
        N = len(A)
        wanted, wanted_B, _, _ = discretize(A, B, np.eye(N), np.zeros_like(B), dt, "bilinear")
        swapped = np.linalg.solve(np.eye(N) + dt / 2 * A, np.eye(N) - dt / 2 * A)
        if np.shape(Ab) == swapped.shape and np.allclose(Ab, swapped):
            raise AssertionError(
                f"Ab belongs to the step backwards in time: for A = {A.tolist()}, dt = {dt:g} it "
                "has the inverse of the right eigenvalues. Euler's half step is I + dt/2 A; the "
                "inverse is of I - dt/2 A."
            )
        expect_close(
            "Ab",
            Ab,
            wanted,
            "The first half multiplies by I + dt/2 A, the second "
            "solves (I - dt/2 A) x_new = x_old + dt/2 B u.",
        )
        expect_close(
            "Bb",
            Bb,
            wanted_B,
            "Both halves add dt/2 B u: the first before the matrix "
            "of the second half acts, the second inside it.",
        )
    passed("two half steps, explicit and implicit, are one bilinear step")


def check_to_scipy(to_scipy):
    """Check ``to_scipy(A, B, C, D)``: the matrices that make ``dlsim`` agree with ``DiscreteSSM``.

    Args:
        to_scipy (callable): takes the matrices of x_k = A x_{k-1} + B u_k, y_k = C x_k + D u_k and
            returns those of x_{k+1} = A x_k + B u_k, y_k = C x_k + D u_k with the same output.
    """
    rng = np.random.default_rng(7)
    u = rng.standard_normal((12, 2))
    cases = {"D = 0": np.zeros((1, 2)), "D ≠ 0": np.array([[0.5, -1.0]])}
    for name, D in cases.items():
        A, B, C = 0.4 * rng.standard_normal((3, 3)), rng.standard_normal((3, 2)), np.ones((1, 3))
        A[:, 0] = 0  # singular: no answer may divide by A
        result = to_scipy(A.copy(), B.copy(), C.copy(), D.copy())
        expect(
            result is not None, "to_scipy returned None: did you forget to return four matrices?"
        )
        expect(len(result) == 4, "to_scipy should return four matrices: A, B, C and D.")
        mine = [np.atleast_2d(np.asarray(matrix, dtype=float)) for matrix in result]
        size = len(mine[0])  # a longer state is allowed
        for letter, matrix, shape in zip(
            "ABCD", mine, ((size, size), (size, 2), (1, size), (1, 2)), strict=True
        ):
            expect(
                matrix.shape == shape,
                f"{letter} has shape {matrix.shape}; with a state of size {size}, two inputs and "
                f"one output it should be {shape}.",
            )
        wanted, _ = DiscreteSSM(A, B, C, D, dt=1.0).recurrence(u)
        _, got, _ = dlsim((*mine, 1.0), u)
        got = np.reshape(got, wanted.shape)
        if np.allclose(got[1:], (wanted - u @ D.T)[:-1] + (u @ D.T)[1:]):
            raise AssertionError(
                f"{name}: the output comes one sample late. dlsim reads y_k before u_k enters the "
                "state; write the new state C (A x + B u) out in terms of the old one."
            )
        missing = C @ B
        if np.allclose(got, wanted - u @ missing.T):
            raise AssertionError(
                f"{name}: C is right, but what u_k does to y_k at once is missing from D: "
                "C (A x + B u) + D u has two terms in u."
            )
        expect_close(
            f"the output of dlsim, {name}",
            got,
            wanted,
            "The old state x_{k-1} of one convention is the state x_k of the other.",
        )
    passed("to_scipy: one system, two conventions, the same output")


def check_prewarped(prewarped):
    """Check ``prewarped(A, B, C, D, dt, w0)``: a bilinear rule that is exact at one frequency.

    Args:
        prewarped (callable): returns (Ab, Bb, Cb, Db) in the meaning of
            :func:`ssm_core.discretize.discretize`, with the continuous response at ``w0``.
    """

    def continuous(A, B, C, D, w):
        return C @ np.linalg.solve(1j * w * np.eye(len(A)) - A, B) + D

    def discrete(Ab, Bb, Cb, Db, dt, w):
        return Cb @ np.linalg.solve(np.exp(1j * w * dt) * np.eye(len(Ab)) - Ab, Bb) + Db

    A, B = np.array([[0.0, 1.0], [-40.0, -5.0]]), np.array([[0.0], [1.0]])
    for C, D in ((np.array([[1.0, 0.0]]), np.zeros((1, 1))), (np.array([[0.5, 1.0]]), np.eye(1))):
        for dt, w0 in ((0.25, 5.2), (0.1, 20.0)):
            warp = np.tan(w0 * dt / 2) / (w0 * dt / 2)
            result = returned(
                prewarped(A.copy(), B.copy(), C.copy(), D.copy(), dt, w0), "prewarped"
            )
            expect(
                isinstance(result, (tuple, list)) and len(result) == 4,
                "prewarped should return four matrices: Ab, Bb, Cb and Db.",
            )
            result = tuple(np.asarray(matrix) for matrix in result)
            for name, matrix, wanted in zip(("Ab", "Bb", "Cb", "Db"), result, (A, B, C, D)):
                expect(
                    matrix.shape == wanted.shape,
                    f"{name} has shape {matrix.shape}; expected {wanted.shape}.",
                )
                expect(np.all(np.isfinite(matrix)), f"{name} is not finite everywhere.")
            at_rest = discrete(*result, dt, 0.0)
            halves = [
                discrete(*discretize(c * A, d * B, C, D, dt, "bilinear"), dt, 0.0)
                for c in (warp, 1 / warp)
                for d in (1.0, c * c)
            ] + [
                discrete(*discretize(A, c * B, C, D, dt, "bilinear"), dt, 0.0)
                for c in (warp, 1 / warp)
            ]
            expect_close(
                "the response at ω = 0",
                at_rest,
                continuous(A, B, C, D, 0.0),
                reason(
                    at_rest,
                    continuous(A, B, C, D, 0.0),
                    [
                        (
                            wrong,
                            "A and B together: one of them has been scaled without the other. "
                            "Another step multiplies both, and then frequency 0 stays in place.",
                        )
                        for wrong in halves
                    ],
                    "Frequency 0 is not moved by the bilinear rule, and must stay in place: "
                    "a change of the step changes A and B together, and not C or D alone.",
                ),
            )
            target = continuous(A, B, C, D, w0)
            got = discrete(*result, dt, w0)
            plain = discrete(*discretize(A, B, C, D, dt, "bilinear"), dt, w0)
            inverse = discrete(*discretize(A, B, C, D, dt / warp, "bilinear"), dt, w0)
            expect_close(
                f"the response at ω = {w0}",
                got,
                target,
                reason(
                    got,
                    target,
                    [
                        (
                            plain,
                            f"At ω = {w0} this is the plain bilinear rule: its response there is "
                            "the continuous one at (2/Δ) tan(ωΔ/2). Choose a step for the matrices "
                            "that moves this frequency back to ω.",
                        ),
                        (
                            inverse,
                            "The matrices take a step of (2/ω) tan(ωΔ/2) where the clock takes Δ; "
                            "the inverse of that factor warps twice as much.",
                        ),
                    ],
                    "The matrices need a step Δ' of their own, with (2/Δ') tan(ωΔ/2) = ω.",
                ),
            )
            poles = np.linalg.eigvals(result[0])
            expect(np.max(np.abs(poles)) < 1, "The rule is not stable any more.")
    passed("prewarped: exact at the frequency you chose, and at zero")


def check_exponential_trapezoid(exponential_trapezoid):
    """Check ``exponential_trapezoid(a, b, u, dt)``: the second-order rule for a diagonal A.

    Args:
        exponential_trapezoid (callable): takes a (N,), b (N,), u (L,) and the steps dt (L,), and
            returns the states (L, N), from rest and with no input before the first sample.
    """

    def call(a, b, u, dt):
        x = exponential_trapezoid(a.copy(), b.copy(), u.copy(), dt.copy())
        expect(x is not None, "exponential_trapezoid returned None: did you forget to return it?")
        x = np.asarray(x)
        expect(
            x.shape == (len(u), len(a)),
            f"The states have shape {x.shape}; expected (L, N) = {(len(u), len(a))}.",
        )
        return x

    a, b = np.array([-1.0, -4.0, -16.0]), np.array([1.0, -2.0, 0.5])
    impulse = np.zeros(4)
    impulse[0] = 1.0
    dt = np.full(4, 0.1)
    x = call(a, b, impulse, dt)
    expect(
        not np.allclose(x[0], dt[0] * b),
        "The response to the first sample is Δ b: that is "
        "Mamba's rule. The new sample has weight Δ/2 here, the one before it the other half.",
    )
    expect_close(
        "the state after the first sample",
        x[0],
        0.05 * b,
        "The new sample enters with weight Δ/2, and before it there was none.",
    )
    expect(
        not np.allclose(x[1], np.exp(0.1 * a) * x[0] + 0.05 * b),
        "The old sample has not aged: it entered a step ago, so it is multiplied by exp(Δ a) "
        "as the state is.",
    )
    columns = [expm(np.diag(a) * 0.1 * k) @ b for k in range(4)]  # trapezoid weights by hand
    expect_close(
        "the response to one impulse",
        x,
        0.1 * np.array([columns[0] / 2, *columns[1:]]),
        "An impulse at sample 0 is half inside the first step and half inside the second.",
    )

    rng = np.random.default_rng(3)
    dt = rng.uniform(0.01, 0.3, 30)
    u = rng.standard_normal(30)
    weights = np.zeros((30, 3))
    for k in range(30):
        age = np.cumsum(np.append(0.0, dt[k:0:-1]))[:, None]  # of samples k, k-1, …, 0
        width = np.array([dt[j] if j == k else dt[j] + dt[j + 1] for j in range(k, -1, -1)]) / 2
        weights[k] = (np.exp(age * a) * (width * u[k::-1])[:, None]).sum(0) * b
    expect_close(
        "the states with uneven steps",
        call(a, b, u, dt),
        weights,
        "Both halves of step k are multiplied by that step's own Δ_k.",
    )

    errors = []
    for L in (100, 200):  # x' = -x + sin t from rest is (sin t - cos t + exp(-t)) / 2
        t = 2.0 * np.arange(1, L + 1) / L
        x = call(np.array([-1.0]), np.array([1.0]), np.sin(t), np.full(L, 2.0 / L))[:, 0]
        errors.append(np.abs(x - (np.sin(t) - np.cos(t) + np.exp(-t)) / 2).max())
    ratio = errors[0] / errors[1]
    expect(3.7 < ratio < 4.3, f"Half the step leaves 1/{ratio:.2f} of the error; expected 1/4.")
    passed("exponential_trapezoid is of second order, with uneven steps too")


def check_learn_system(learn_system):
    """Check ``learn_system(x, dt, rule)``: the A that a rule turns into the update of a free motion.

    Args:
        learn_system (callable): takes states x (L, N), the step dt and the name of a rule (``euler``,
            ``backward_euler``, ``bilinear`` or ``zoh``) and returns A (N, N).
    """
    spring = np.array([[0.0, 1.0], [-40.0, -5.0]])
    three = np.array([[-1.0, 2.0, 0.0], [-2.0, -1.0, 0.5], [0.0, 0.0, -3.0]])
    for A, x0, dt in ((spring, [1.0, 0.0], 0.15), (three, [1.0, 0.5, -1.0], 0.2)):
        N = len(A)
        I, Ab = np.eye(N), expm(A * dt)
        x = [np.array(x0)]
        for _ in range(11):
            x.append(Ab @ x[-1])
        x = np.array(x)
        inverses = {
            "euler": lambda M, I=I, dt=dt: (M - I) / dt,
            "backward_euler": lambda M, I=I, dt=dt: (I - np.linalg.inv(M)) / dt,
            "bilinear": lambda M, I=I, dt=dt: 2 / dt * (M - I) @ np.linalg.inv(M + I),
            "zoh": lambda M, A=A, Ab=Ab: A if np.array_equal(M, Ab) else A.T,
        }
        for rule, solve in inverses.items():
            got = np.asarray(returned(learn_system(x.copy(), dt, rule), "learn_system"))
            expect(got.shape == (N, N), f"A has shape {got.shape}; expected {(N, N)}.")
            if np.iscomplexobj(got) and np.abs(got.imag).max() < 1e-8 * np.abs(got).max():
                got = got.real  # the logarithm of a real matrix may come as complex numbers
            wanted = solve(Ab)
            hints = [
                (
                    solve(Ab.T),
                    "This is the transpose. The states are the rows of x, and the formula "
                    "x_k = Ab x_{k-1} has columns: least squares returns the transpose of Ab.",
                ),
                (Ab, "This is Ab, the matrix of the update; solve the rule for A."),
                (wanted * dt, "This is ΔA: divide by the step."),
            ]
            if rule != "zoh":
                hints.append(
                    (
                        A,
                        "This is the true A, which belongs to the hold. Another rule needs another "
                        "A to arrive at the same Ab.",
                    )
                )
                hints += [
                    (other(Ab), f"This A gives the right Ab under the rule {name!r}.")
                    for name, other in inverses.items()
                    if name != rule
                ]
            expect_close(
                f"A for the rule {rule!r}",
                got,
                wanted,
                reason(got, wanted, hints, "Write the rule as an equation for A, given Ab."),
                rtol=1e-6,
                atol=1e-6,
            )
    passed("learn_system: each rule needs its own A for the same samples")


def check_move_weights(move_weights):
    """Check ``move_weights(a, b, dt, rule)``: weights for ``rule`` with the update of Mamba's rule.

    Args:
        move_weights (callable): takes a (N,), negative, b (N,), the step dt and the name of a rule
            (``euler``, ``backward_euler``, ``bilinear`` or ``zoh``) and returns the new a and b.
    """
    a, b = np.array([-1.0, -4.0, -16.0]), np.array([1.0, -2.0, 0.5])
    for dt in (0.1, 0.02):
        Ab = np.exp(dt * a)
        middle = 2 / dt * (Ab - 1) / (Ab + 1)
        answers = {
            "zoh": (a, b * dt * a / np.expm1(dt * a)),
            "euler": ((Ab - 1) / dt, b),
            "backward_euler": ((1 - 1 / Ab) / dt, b / Ab),
            "bilinear": (middle, b * (1 - dt / 2 * middle)),
        }
        for rule, (wanted_a, wanted_b) in answers.items():
            result = move_weights(a.copy(), b.copy(), dt, rule)
            expect(result is not None, "move_weights returned None: did you forget to return it?")
            expect(
                isinstance(result, (tuple, list)) and len(result) == 2,
                "move_weights should return two arrays: the new a and the new b.",
            )
            got_a, got_b = (returned(part, "move_weights") for part in result)
            hints = [
                (Ab, "This is the target, e^(Δa). Solve the formula of the rule for its a."),
                (wanted_a * dt, "This is Δ times the new a: divide by the step."),
            ]
            if rule != "zoh":
                hints.append(
                    (a, "This is the old a, right for the hold only: this rule has no e^(Δa).")
                )
            hints += [
                (other_a, f"This a gives the right update under the rule {other!r}.")
                for other, (other_a, _) in answers.items()
                if other not in (rule, "zoh")
            ]
            expect_close(
                f"a for the rule {rule!r}",
                got_a,
                wanted_a,
                reason(got_a, wanted_a, hints, "The rule has to make e^(Δa) of the new a."),
            )
            hints = [(dt * b, "This is the target, Δb. Solve the formula of the rule for its b.")]
            if rule != "euler":
                old = {
                    "zoh": "φ(Δa) Δb",
                    "backward_euler": "Δb / (1 - Δa)",
                    "bilinear": "Δb / (1 - Δa/2)",
                }[rule]
                hints += [
                    (b, f"This is the old b. This rule makes {old} of it, and the target is Δb."),
                    (b * b / wanted_b, "This is b times the inverse of the factor."),
                ]
            if rule in ("backward_euler", "bilinear"):
                alpha = 1.0 if rule == "backward_euler" else 0.5
                hints.append(
                    (
                        b * (1 - alpha * dt * a),
                        "The denominator 1 - αΔa of this rule contains the new a, not the old one.",
                    )
                )
            expect_close(
                f"b for the rule {rule!r}",
                got_b,
                wanted_b,
                reason(got_b, wanted_b, hints, "The rule has to make Δb of the new b."),
            )
    passed("move_weights: the same update by four other rules")
