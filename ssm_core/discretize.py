r"""Discretization: from x' = Ax + Bu to a sequence update, one function for every rule.

A rule turns the continuous system ``(A, B, C, D)`` of eq-ssm into the matrices
``(Ab, Bb, Cb, Db)`` of eq-discrete-ssm for samples ``dt`` apart. Time, B and ``dt`` share one
unit. No rule divides by A, so A may be singular and ``dt`` arbitrarily small.

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

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import expm, schur

from ssm_core._checks import (
    Array,
    as_choice,
    as_dynamics,
    as_positive,
    as_real,
    as_square,
    as_state_space,
    finite_result,
    without_warnings,
)

__all__ = ["METHODS", "discretize", "exponential", "exponential_integrals"]

METHODS = ("euler", "backward_euler", "bilinear", "gbt", "zoh", "foh", "dirac")

_ALPHA = {"euler": 0.0, "backward_euler": 1.0, "bilinear": 0.5}  # members of the family gbt
_TOO_LARGE = "dt, or an entry of A or B, is too large"
_SCIPY_NAMES = {"forward_diff": "euler", "backward_diff": "backward_euler", "tustin": "bilinear"}


@without_warnings
def discretize(
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None,
    dt: float,
    method: str = "zoh",
    alpha: float | None = None,
    *,
    prewarp_frequency: float | None = None,
) -> tuple[Array, Array, Array, Array]:
    r"""Turn a continuous state space model into a discrete one, by the rule ``method``.

    The result has the meaning it has in ``scipy.signal.cont2discrete``: with samples
    :math:`u_k = u(k\,dt)`,

    .. math:: x_{k+1} = \bar A x_k + \bar B u_k, \qquad y_k = \bar C x_k + \bar D u_k

    approximates the continuous output, :math:`y_k \approx y(k\,dt)`. The rules
    ``backward_euler``, ``bilinear``, ``gbt`` and ``foh`` need the input at the end of a step too.
    They fold it into the state: the state is then not a sample of x(t), ``Db`` differs from ``D``,
    and so does ``Cb`` from ``C`` or, for ``foh``, ``Bb`` from Gamma.

    .. warning::
        These matrices read the output first, as SciPy and python-control do.
        :class:`ssm_core.lti.DiscreteSSM` updates first, x_k = Ab x_{k-1} + Bb u_k, as S4 and Mamba
        do, so ``DiscreteSSM(Ab, Bb, Cb, Db, dt)`` is another system. Use
        ``DiscreteSSM.from_scipy(Ab, Bb, Cb, Db, dt)``, which has the same output, or
        :meth:`ssm_core.lti.ContinuousSSM.discretize`, which makes matrices for that update.

    Args:
        A (float64 or complex128): state matrix (N, N), per unit of time; a scalar if N = 1.
        B (float64 or complex128): input matrix (N, M), per unit of time; (N,) for one input.
        C (float64 or complex128): output matrix (P, N); (N,) for one output.
        D (float64 or complex128): direct term (P, M); None stands for zeros.
        dt (float): step between samples, above 0, in the unit of time of A.
        method (str): ``euler``, ``backward_euler``, ``bilinear``, ``gbt``, ``zoh``, ``foh`` or
            ``dirac``; SciPy's names ``forward_diff``, ``backward_diff``, ``tustin`` for the first
            three, and its ``impulse``, which is not ``dirac``.
        alpha (float): for ``gbt`` only, from 0 (Euler) over 1/2 (bilinear) to 1 (backward Euler).
        prewarp_frequency (float): for ``bilinear`` only, above 0 and below pi / dt, in radians per
            unit of time: the frequency at which the discrete response shall equal the continuous
            one. The rule is then taken with the step 2 tan(w dt / 2) / w (eq-warping).

    Returns:
        ``(Ab, Bb, Cb, Db)`` with shapes (N, N), (N, M), (P, N), (P, M). ``dirac`` takes ``u_k`` for
        the weight of an impulse that x_{k+1} is the first to contain, undamped: Bb = B, Db = D.
        ``impulse`` takes ``dt u_k`` for the weight of an impulse at t_k, so that x_{k+1} contains it
        after one step and y_k at once: Bb = dt Ab B, Db = D + dt C B. SciPy has it for D = 0 only.

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity, ``dt`` not above 0, an
            unknown ``method``, ``alpha`` missing for ``gbt`` or given for another rule, a step at
            which an implicit rule has no solution (I - alpha dt A singular), or a
            ``prewarp_frequency`` out of range or for another rule.
        TypeError: arguments that are not numbers.
        OverflowError: A is unstable and one step leaves the range of float64.

    Equations eq-euler, eq-backward-euler, eq-bilinear, eq-gbt, eq-zoh, eq-foh, eq-dirac,
    eq-output-first. Sources: Franklin, Powell and Workman, *Digital Control of Dynamic Systems*
    (3rd ed.), sections 6.1 and 6.3; Zhang, Chen and Chen, "Digital redesign via the generalised
    bilinear transformation" (2009) for ``gbt``; Van Loan, "Computing integrals involving the matrix
    exponential" (1978) for ``zoh``, ``foh``.

    Example:
        A = -1 and dt = 1 give (1 - 1/2) / (1 + 1/2) = 1/3 by the bilinear rule:

        >>> from ssm_core.discretize import discretize
        >>> Ab, Bb, Cb, Db = discretize(-1.0, 1.0, 1.0, 0.0, 1.0, "bilinear")
        >>> print(f"{Ab[0, 0]:.6f} {Bb[0, 0]:.6f}")
        0.333333 0.666667
    """
    A, B, C, D = as_state_space(A, B, C, D)
    dt = as_positive(dt, "dt")
    method = as_choice(canonical_name(method), "method", (*METHODS, "impulse"))
    if method == "gbt" and alpha is None:
        raise ValueError("alpha is None, expected a number from 0 to 1 with method 'gbt'")
    if method != "gbt" and alpha is not None:
        raise ValueError(f"alpha is {alpha!r}, expected None: only method 'gbt' takes alpha")
    if prewarp_frequency is not None and method != "bilinear":
        raise ValueError(
            f"prewarp_frequency is {prewarp_frequency!r}, expected None: only method 'bilinear' "
            "takes prewarp_frequency"
        )
    if method == "zoh":
        Ab, Bb, _ = exponential_integrals(A, B, dt)
        Cb, Db = C.copy(), D.copy()
    elif method == "foh":
        Ab, Bb, Cb, Db = _first_order_hold(A, B, C, D, dt)
    elif method == "dirac":
        Ab, Bb, Cb, Db = exponential(_over_one_step(A, dt)), B.copy(), C.copy(), D.copy()
    elif method == "impulse":
        Ab = exponential(_over_one_step(A, dt))
        Bb, Cb, Db = dt * (Ab @ B), C.copy(), D + dt * (C @ B)
    else:
        alpha = _ALPHA[method] if method in _ALPHA else as_real(alpha, "alpha", low=0, high=1)
        if prewarp_frequency is not None:
            dt = _warped_step(dt, prewarp_frequency)
        Ab, Bb, Cb, Db = _generalized_bilinear(A, B, C, D, dt, alpha)
    for name, matrix in {"Ab": Ab, "Bb": Bb, "Cb": Cb, "Db": Db}.items():
        finite_result(matrix, name, _TOO_LARGE)
    return Ab, Bb, Cb, Db


def canonical_name(method: Any) -> Any:
    """A rule by the name it has here, where SciPy has another; anything else as it is."""
    return _SCIPY_NAMES.get(method, method) if isinstance(method, str) else method


def _warped_step(dt: float, frequency: Any) -> float:
    """The step with which the bilinear rule is right at this frequency, for samples dt apart."""
    w = as_positive(frequency, "prewarp_frequency")
    if w * dt >= math.pi:
        raise ValueError(
            f"prewarp_frequency is {w:g}, expected a frequency below pi / dt = {math.pi / dt:g}"
        )
    return 2 * math.tan(w * dt / 2) / w


@without_warnings
def exponential_integrals(A: ArrayLike, B: ArrayLike, dt: float) -> tuple[Array, Array, Array]:
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

    so nothing is divided by A and a singular A needs no special case. The slow modes of a stiff A
    keep their digits, as in :func:`exponential`.

    Args:
        A (float64 or complex128): state matrix (N, N), per unit of time; a scalar if N = 1.
        B (float64 or complex128): input matrix (N, M), per unit of time; (N,) for one input.
        dt (float): step, above 0, in the unit of time of A.

    Returns:
        ``(Phi, Gamma, Gamma1)`` with shapes (N, N), (N, M), (N, M).

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity, ``dt`` not above 0.
        TypeError: arguments that are not numbers.
        OverflowError: A is unstable and one step leaves the range of float64.

    Equations eq-augmented, eq-augmented-twice, eq-variation-of-constants, eq-zoh, eq-foh. Source:
    Van Loan, "Computing integrals involving the matrix exponential" (1978).

    Example:
        An integrator (A = 0) gains dt from a constant input and dt/2 from a ramp:

        >>> from ssm_core.discretize import exponential_integrals
        >>> Phi, Gamma, Gamma1 = exponential_integrals(0.0, 1.0, 0.5)
        >>> print(Phi[0, 0], Gamma[0, 0], Gamma1[0, 0])
        1.0 0.5 0.25
    """
    A, B = as_dynamics(A, B)  # (N, N), (N, M)
    dt = as_positive(dt, "dt")
    Phi, Gamma, Gamma1 = _flow(_over_one_step(A, dt), B)
    finite_result(Phi, "the exponential of A dt")
    Gamma = finite_result(Gamma * dt, "Gamma", _TOO_LARGE)
    Gamma1 = finite_result(Gamma1 * dt, "Gamma1", _TOO_LARGE)
    return Phi, Gamma, Gamma1


def _flow(A: Array, B: Array) -> tuple[Array, Array, Array]:
    """Phi, Gamma, Gamma1 over one unit of time."""
    if _is_triangular(A):
        return _doubled(A, B)
    if np.linalg.norm(A, 1) < 1000:  # squaring costs less than three digits
        return _blocks(A, B)
    T, Q = schur(A, output="complex")
    Phi, Gamma, Gamma1 = _doubled(T, Q.conj().T @ B)
    Phi, Gamma, Gamma1 = Q @ Phi @ Q.conj().T, Q @ Gamma, Q @ Gamma1
    if np.iscomplexobj(A) or np.iscomplexobj(B):
        return Phi, Gamma, Gamma1
    return Phi.real, Gamma.real, Gamma1.real


def _doubled(A: Array, B: Array) -> tuple[Array, Array, Array]:
    """The same for a triangular A, from a step so short that A is small, doubled again and again.

    Each doubling replaces the diagonal of Phi by its exact value. Without that, the rounding of a
    slow mode would double as often as a fast one demands.
    """
    doublings = max(0, math.frexp(np.abs(A).max())[1] + len(A).bit_length() - 1)
    diagonal = np.diag(A)
    Phi, Gamma, Gamma1 = _blocks(A * 0.5**doublings, B)
    for left in range(doublings - 1, -1, -1):
        # Both integrals are divided by the length of the step, which doubles.
        Gamma1 = (Phi @ Gamma1 + Gamma1 + Gamma) / 4
        Gamma = (Phi @ Gamma + Gamma) / 2
        Phi = Phi @ Phi
        np.fill_diagonal(Phi, np.exp(diagonal * 0.5**left))
    return Phi, Gamma, Gamma1


def _blocks(A: Array, B: Array) -> tuple[Array, Array, Array]:
    """The same as blocks of one exponential, eq-augmented."""
    N, M = B.shape
    scale = _power_of_two(np.abs(B).max(initial=0))  # a large B must not cost expm its digits
    E = np.zeros((N + 2 * M, N + 2 * M), dtype=np.result_type(A, B))
    E[:N, :N] = A
    E[:N, N : N + M] = B / scale
    E[N : N + M, N + M :] = np.eye(M)
    E = expm(E)
    return E[:N, :N], E[:N, N : N + M] * scale, E[:N, N + M :] * scale


@without_warnings
def exponential(A: ArrayLike) -> Array:
    r"""The matrix exponential :math:`e^A`, also of stiff matrices.

    Scaling and squaring halves A until it is small and squares the exponential back. A fast mode
    makes A large, and then a slow mode is rounded once for each squaring, and that error grows with
    each squaring that follows. In a *triangular* matrix the exact exponentials of the eigenvalues
    stand on the diagonal and can be put back each time, so a large A that is not triangular is
    taken to its Schur form first.

    Args:
        A (float64 or complex128): matrix (N, N); a scalar if N = 1.

    Returns:
        e^A (N, N). If A is far from normal and its entries are rounded, the eigenvalues move by a
        rounding of the norm of A, and no method can undo that.

    Raises:
        ValueError: A is not square, or holds masked entries, NaN or infinity.
        TypeError: A does not hold numbers.
        OverflowError: the exponential leaves the range of float64.

    Source: Al-Mohy and Higham, "A new scaling and squaring algorithm for the matrix exponential"
    (2009), section 2, for triangular matrices.

    Example:
        >>> from ssm_core.discretize import exponential
        >>> print(exponential([[0.0, 1.0], [0.0, 0.0]]))
        [[1. 1.]
         [0. 1.]]
    """
    A = as_square(A, "A")  # (N, N)
    return finite_result(_flow(A, np.zeros((len(A), 0)))[0], "the exponential of A dt")


def _is_triangular(A: Array) -> bool:
    """Whether all entries on one side of the diagonal are zero."""
    return not (np.triu(A, 1).any() and np.tril(A, -1).any())


def _over_one_step(X: Array, dt: float) -> Array:
    """X dt, or an error where that leaves the range of float64."""
    return finite_result(X * dt, "A dt", _TOO_LARGE)


def _first_order_hold(
    A: Array, B: Array, C: Array, D: Array, dt: float
) -> tuple[Array, Array, Array, Array]:
    """The triangle hold: the state x_k - Gamma1 u_k needs only the sample at the step's start."""
    Phi, Gamma, Gamma1 = exponential_integrals(A, B, dt)
    return Phi, Gamma - Gamma1 + Phi @ Gamma1, C.copy(), D + C @ Gamma1


def _generalized_bilinear(
    A: Array, B: Array, C: Array, D: Array, dt: float, alpha: float
) -> tuple[Array, Array, Array, Array]:
    """Euler's step with A x + B u taken (1 - alpha) at its start and alpha at its end."""
    N = len(A)
    A = _over_one_step(A, dt)
    implicit = np.eye(N) - alpha * A  # (N, N)
    explicit = np.eye(N) + (1 - alpha) * A  # (N, N)
    pivots = 1 - alpha * np.linalg.eigvals(A)  # 0 up to rounding: there is no solution
    try:
        if np.abs(pivots).min() <= 8 * N * np.finfo(float).eps:
            raise np.linalg.LinAlgError
        AB = np.linalg.solve(implicit, np.hstack([explicit, dt * B]))  # (N, N + M)
        Cb = np.linalg.solve(implicit.T, C.T).T  # (P, N)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"dt is {dt:g}, expected a step at which I - alpha dt A is invertible: "
            f"{1 / (alpha * dt):g} is an eigenvalue of A, and the rule has no solution there"
        ) from None
    Ab, Bb = AB[:, :N], AB[:, N:]
    return Ab, Bb, Cb, D + alpha * (C @ Bb)


def _power_of_two(x: float) -> float:
    """The power of two next to x, 1 for x = 0: scaling by it is free of rounding."""
    return float(2.0 ** np.clip(np.ceil(np.log2(x)), -1000, 1000)) if x > 0 else 1.0
