"""Checks for the chapter on discretization."""

import numpy as np
from scipy.linalg import expm
from scipy.signal import dlsim

from ssm_book.exercises._report import expect, expect_close, passed
from ssm_core.discretize import discretize
from ssm_core.lti import DiscreteSSM

__all__ = [
    "check_exponential_trapezoid",
    "check_half_steps",
    "check_largest_euler_step",
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
            hint = (
                "2/|Re λ| is right for real eigenvalues only: where does Δλ leave the disc "
                "|1 + z| < 1 if λ has an imaginary part?"
                if real_part_only
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
    expect_close(
        "phi(z)",
        phi(z.copy()),
        (np.exp(z) - 1) / z,
        "The definition is (exp(z) - 1) / z, element by element.",
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
            result = prewarped(A.copy(), B.copy(), C.copy(), D.copy(), dt, w0)
            expect(result is not None, "prewarped returned None: did you forget to return it?")
            target = continuous(A, B, C, D, w0)
            got = discrete(*result, dt, w0)
            plain = discrete(*discretize(A, B, C, D, dt, "bilinear"), dt, w0)
            expect(
                not np.allclose(got, plain),
                f"At ω = {w0} this is the plain bilinear rule: its "
                "response there is the continuous one at (2/Δ) tan(ωΔ/2). Choose a step for "
                "the matrices that moves this frequency back to ω.",
            )
            expect_close(
                f"the response at ω = {w0}",
                got,
                target,
                "The matrices take a step of (2/ω) tan(ωΔ/2) where the clock takes Δ; "
                "the inverse of that factor warps twice as much.",
            )
            expect_close(
                "the response at ω = 0",
                discrete(*result, dt, 0.0),
                continuous(A, B, C, D, 0.0),
                "Frequency 0 is not moved by the bilinear rule, and must stay in place: "
                "a change of the step changes A and B together, and not C or D alone.",
            )
            poles = np.linalg.eigvals(np.asarray(result[0]))
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
