r"""Discretization: from x' = Ax + Bu to a sequence update, one function for every rule.

A rule turns the continuous system ``(A, B, C, D)`` of eq-ssm into the matrices
``(Ab, Bb, Cb, Db)`` of eq-discrete-ssm for samples ``dt`` apart. Time, B and ``dt`` share one
unit. No rule divides by A, so A may be singular and ``dt`` as small as you like.

==================  =====================  ====================================================
rule                equation               what it takes the input to be
==================  =====================  ====================================================
``euler``           eq-euler               the sample at the start of the step
``backward_euler``  eq-backward-euler      the sample at the end of the step
``bilinear``        eq-bilinear            the mean of both (Tustin, the trapezoid rule)
``gbt``             eq-gbt                 (1 - alpha) of the first and alpha of the second
``zoh``             eq-zoh                 held at one value over the step
``foh``             eq-foh                 a straight line from sample to sample
``dirac``           eq-dirac               an impulse at each sample, nothing in between
==================  =====================  ====================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import expm

from ssm_core._checks import (
    as_array,
    as_choice,
    as_positive,
    as_real,
    as_state_space,
    finite_result,
)

__all__ = ["METHODS", "discretize", "exponential_integrals"]

METHODS = ("euler", "backward_euler", "bilinear", "gbt", "zoh", "foh", "dirac")

_ALPHA = {"euler": 0.0, "backward_euler": 1.0, "bilinear": 0.5}  # members of the family gbt
_ALIASES = {"backward_diff": "backward_euler"}  # SciPy's name


def discretize(A, B, C, D, dt: float, method: str = "zoh", alpha: float | None = None):
    r"""Turn a continuous state space model into a discrete one, by the rule ``method``.

    The result has the meaning it has in ``scipy.signal.cont2discrete``: with samples
    :math:`u_k = u(k\,dt)`,

    .. math:: x_{k+1} = \bar A x_k + \bar B u_k, \qquad y_k = \bar C x_k + \bar D u_k

    approximates the continuous output, :math:`y_k \approx y(k\,dt)`. The rules
    ``backward_euler``, ``bilinear``, ``gbt`` and ``foh`` need the input at the end of a step too.
    They fold it into the state: the state is then no sample of x(t), and ``Cb``, ``Db`` differ
    from ``C``, ``D``. For the update x_k = Ab x_{k-1} + Bb u_k that S4 and Mamba write, see
    :meth:`ssm_core.lti.ContinuousSSM.discretize`.

    Args:
        A (float64 or complex128): state matrix (N, N), per unit of time.
        B (float64 or complex128): input matrix (N, M), per unit of time.
        C (float64 or complex128): output matrix (P, N).
        D (float64 or complex128): direct term (P, M).
        dt (float): step between samples, above 0, in the unit of time of A.
        method (str): ``euler``, ``backward_euler`` (or ``backward_diff``), ``bilinear``, ``gbt``,
            ``zoh``, ``foh`` or ``dirac``.
        alpha (float): for ``gbt`` only, from 0 (Euler) over 1/2 (bilinear) to 1 (backward Euler).

    Returns:
        ``(Ab, Bb, Cb, Db)`` in the shapes of A, B, C, D. ``dirac`` takes ``u_k`` for the weight of
        an impulse and leaves B and D as they are (SciPy's ``impulse`` sets Bb = dt Ab B, which
        is the same impulse one step later and scaled by dt).

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, ``dt`` not above 0, an unknown
            ``method``, ``alpha`` missing for ``gbt`` or given for another rule, or a step at
            which an implicit rule has no solution (I - alpha dt A singular).
        TypeError: arguments that are no numbers.
        OverflowError: A is unstable and one step leaves the range of float64.

    Equations eq-euler, eq-backward-euler, eq-bilinear, eq-gbt, eq-zoh, eq-foh, eq-dirac,
    eq-output-first. Sources: Franklin, Powell and Workman, *Digital Control of Dynamic Systems*
    (3rd ed.), sections 6.1 and 6.3; Zhang, Chen and Chen, "Digital redesign via the generalised
    bilinear transformation" (2009) for ``gbt``; Van Loan, "Computing integrals involving the matrix
    exponential" (1978) for ``zoh``, ``foh``.

    Example:
        A = -1 and dt = 1 give (1 - 1/2) / (1 + 1/2) = 1/3 by the bilinear rule:

        >>> Ab, Bb, Cb, Db = discretize([[-1.0]], [[1.0]], [[1.0]], [[0.0]], 1.0, "bilinear")
        >>> print(f"{Ab[0, 0]:.6f} {Bb[0, 0]:.6f}")
        0.333333 0.666667
    """
    A, B, C, D = as_state_space(A, B, C, D)
    dt = as_positive(dt, "dt")
    if isinstance(method, str):
        method = _ALIASES.get(method, method)
    method = as_choice(method, "method", METHODS)
    if method == "gbt" and alpha is None:
        raise ValueError("alpha is None, expected a number from 0 to 1 with method 'gbt'")
    if method != "gbt" and alpha is not None:
        raise ValueError(f"alpha is {alpha!r}, expected None: only method 'gbt' takes alpha")
    if method == "zoh":
        Ab, Bb, _ = exponential_integrals(A, B, dt)
        return Ab, Bb, C.copy(), D.copy()
    if method == "foh":
        return _first_order_hold(A, B, C, D, dt)
    if method == "dirac":
        return _exponential(A * dt), B.copy(), C.copy(), D.copy()
    alpha = _ALPHA[method] if method in _ALPHA else as_real(alpha, "alpha", low=0, high=1)
    return _generalized_bilinear(A, B, C, D, dt, alpha)


def exponential_integrals(A, B, dt: float):
    r"""The matrix exponential over one step and the two integrals that the holds are made of.

    .. math::

        \Phi = e^{A\,dt}, \qquad
        \Gamma = \int_0^{dt} e^{A(dt - s)} B \, ds, \qquad
        \Gamma_1 = \int_0^{dt} e^{A(dt - s)} B \, \frac{s}{dt} \, ds

    A constant input adds :math:`\Gamma u` to the state over the step, an input that rises in a
    straight line from :math:`u_0` to :math:`u_1` adds
    :math:`(\Gamma - \Gamma_1) u_0 + \Gamma_1 u_1`. All three are blocks of one exponential,

    .. math::

        \exp \begin{pmatrix} A\,dt & B\,dt & 0 \\ 0 & 0 & I \\ 0 & 0 & 0 \end{pmatrix}
        = \begin{pmatrix} \Phi & \Gamma & \Gamma_1 \\ 0 & I & I \\ 0 & 0 & I \end{pmatrix},

    so nothing is divided by A and a singular A needs no special case.

    Args:
        A (float64 or complex128): state matrix (N, N), per unit of time.
        B (float64 or complex128): input matrix (N, M), per unit of time.
        dt (float): step, above 0, in the unit of time of A.

    Returns:
        ``(Phi, Gamma, Gamma1)`` with shapes (N, N), (N, M), (N, M).

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, ``dt`` not above 0.
        TypeError: arguments that are no numbers.
        OverflowError: A is unstable and one step leaves the range of float64.

    Equations eq-augmented, eq-variation-of-constants, eq-zoh, eq-foh. Source: Van Loan, "Computing
    integrals involving the matrix exponential" (1978).

    Example:
        An integrator (A = 0) gains dt from a constant input and dt/2 from a ramp:

        >>> Phi, Gamma, Gamma1 = exponential_integrals([[0.0]], [[1.0]], 0.5)
        >>> print(Phi[0, 0], Gamma[0, 0], Gamma1[0, 0])
        1.0 0.5 0.25
    """
    A = as_array(A, "A", ("N", "N"))  # (N, N)
    B = as_array(B, "B", (len(A), "M"))  # (N, M)
    dt = as_positive(dt, "dt")
    N, M = B.shape
    scale = _power_of_two(np.abs(B).max() * dt)  # a large B must not cost expm its digits
    E = np.zeros((N + 2 * M, N + 2 * M), dtype=np.result_type(A, B))
    E[:N, :N] = A * dt
    E[:N, N : N + M] = B * (dt / scale)
    E[N : N + M, N + M :] = np.eye(M)
    E = _exponential(E)
    return E[:N, :N], E[:N, N : N + M] * scale, E[:N, N + M :] * scale


def _exponential(E):
    """exp(E), or an error where that leaves the range of float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return finite_result(expm(E), "the exponential of A dt")


def _first_order_hold(A, B, C, D, dt: float):
    """The triangle hold: the state x_k - Gamma1 u_k needs only the sample at the step's start."""
    Phi, Gamma, Gamma1 = exponential_integrals(A, B, dt)
    return Phi, Gamma - Gamma1 + Phi @ Gamma1, C.copy(), D + C @ Gamma1


def _generalized_bilinear(A, B, C, D, dt: float, alpha: float):
    """Euler's step with A x + B u taken (1 - alpha) at its start and alpha at its end."""
    N = len(A)
    implicit = np.eye(N) - alpha * dt * A  # (N, N)
    explicit = np.eye(N) + (1 - alpha) * dt * A  # (N, N)
    try:
        AB = np.linalg.solve(implicit, np.hstack([explicit, dt * B]))  # (N, N + M)
        Cb = np.linalg.solve(implicit.T, C.T).T  # (P, N)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"dt is {dt:g}, expected a step at which I - alpha dt A is invertible: "
            f"{1 / (alpha * dt):g} is an eigenvalue of A, and the rule has no solution there"
        ) from None
    Ab, Bb = AB[:, :N], AB[:, N:]
    return Ab, Bb, Cb, D + alpha * (C @ Bb)


def _power_of_two(x: Any) -> float:
    """The power of two at or just above x, 1 for x = 0: scaling by it is free of rounding."""
    return float(2.0 ** np.ceil(np.log2(x))) if x > 0 else 1.0
