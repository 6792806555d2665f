"""Online compression: keep the coefficients of a signal current as its samples come in."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ssm_core._checks import (
    RealArray,
    as_array,
    as_choice,
    as_int,
    as_positive,
    finite_result,
    without_warnings,
)
from ssm_core.discretize import METHODS
from ssm_core.hippo.legs_update import legs_wavefront
from ssm_core.hippo.measures import basis, transition
from ssm_core.lti import ContinuousSSM

# The weight alpha of the new state in each rule of the family (I - alpha h A) x_new = ...
_LEGS_RULES = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}
_RULES = tuple(method for method in METHODS if method != "gbt")


@without_warnings
def project(
    u: ArrayLike,
    measure: str,
    N: int,
    dt: float,
    method: str = "bilinear",
    every: int = 1,
    *,
    theta: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> RealArray:
    r"""Compress a signal online: the N coefficients after each sample.

    Sample k stands for the signal between :math:`t_{k-1}` and :math:`t_k`, with
    :math:`t_k = k\,dt`. For ``legs`` the system is time-varying and each step costs O(N); it
    freezes 1/t at :math:`t_k - a\,dt`, where a is 0, 1/2, 1 for ``euler``, ``bilinear``,
    ``backward_euler``. With this choice the first coefficient is the exact running mean. The other
    measures are time-invariant: they are discretized once, and a step costs O(N²).

    Args:
        u (float64): signal (L,).
        measure (str): ``legs``, ``legt``, ``lagt``, ``glagt``, ``fout`` or ``chebt``.
        N (int): number of coefficients, at least 1; even for ``fout``.
        dt (float): time between samples, above 0, in the units of theta. ``legs`` has no time
            scale of its own: its coefficients do not depend on ``dt``.
        method (str): for ``legs`` ``euler``, ``bilinear`` or ``backward_euler``, otherwise any
            method of :func:`ssm_core.discretize.discretize` but ``gbt``. The default,
            ``bilinear``, is of second order; Euler's error is visible on smooth signals.
        every (int): keep only the coefficients after each ``every``-th sample, to save memory;
            1 by default.
        theta, alpha, beta (float): arguments of the measure, as in
            :func:`ssm_core.hippo.transition`.

    Returns:
        float64 (L // every, N): row i holds the coefficients after sample (i + 1) ``every``.

    Raises:
        ValueError: wrong shape, masked entries, NaN or infinity, an unknown measure or method, a
            value out of range.
        TypeError: an argument that the measure does not take, or a signal that is not real.
        OverflowError: the rule is unstable for this N or ``dt``, and the coefficients leave the
            range of float64.

    Equations eq-projection, eq-hippo-ode; for ``legs`` eq-legs-projection, eq-legs-update and
    eq-legs-residual. Source: Gu et al., "HiPPO: Recurrent Memory with Optimal Polynomial
    Projections" (2020), section 2.4 and appendix E (the O(N) step).

    Example:
        >>> from ssm_core.hippo import project
        >>> print(project([1.0, 2.0, 3.0], "legs", N=2, dt=1.0)[:, 0])
        [1.  1.5 2. ]
    """
    u = as_array(u, "u", ("L",), real=True)
    N = as_int(N, "N")
    dt = as_positive(dt, "dt")
    every = as_int(every, "every")
    A, B = transition(measure, N, theta=theta, alpha=alpha, beta=beta)
    method = as_choice(method, "method", _LEGS_RULES if measure == "legs" else _RULES)
    if measure == "legs":
        return legs_wavefront(u, _LEGS_RULES[method], N, every)
    _, x = ContinuousSSM(A, B, np.zeros((1, N))).discretize(dt, method).recurrence(u)
    return x[every - 1 :: every, :N]  # foh appends its last input to the state


@without_warnings
def reconstruct(
    coefficients: ArrayLike,
    measure: str,
    t: ArrayLike,
    *,
    theta: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> RealArray:
    """The past that the coefficients remember, at chosen moments.

    Args:
        coefficients (float64): one state (N,), or K states (K, N).
        measure (str): ``legs``, ``legt``, ``lagt``, ``glagt``, ``fout`` or ``chebt``.
        t (float64): fractions of the past (T,), or one fraction, in [0, 1] up to rounding: 0 the
            oldest moment, 1 now. For ``legs`` after k samples, the middle of sample j = 0 … k - 1
            lies at (j + 1/2) / k of the past.
        theta (float): length of the past, above 0, in units of time; 1 by default; not for
            ``legs``.
        alpha, beta (float): for ``glagt`` only, as in :func:`ssm_core.hippo.transition`.

    Returns:
        float64 (T,) or (K, T); without the last axis if t is one number.

    Raises:
        ValueError: wrong shape, masked entries, NaN or infinity, an unknown measure, t outside
            [0, 1], or t = 1 for ``glagt`` with alpha < 0, whose functions are infinite there.
        TypeError: an argument that the measure does not take, or complex numbers.
        OverflowError: the result leaves the range of float64.

    Equation eq-reconstruction. Source: Gu et al., "HiPPO: Recurrent Memory with Optimal Polynomial
    Projections" (2020), section 2.2.

    Example:
        >>> from ssm_core.hippo import reconstruct
        >>> print(reconstruct([5.0, 0.0], "legs", [0.0, 0.5, 1.0]))
        [5. 5. 5.]
    """
    coefficients = as_array(coefficients, "coefficients", (..., "N"), real=True)
    if coefficients.ndim > 2:
        raise ValueError(f"coefficients has shape {coefficients.shape}, expected (N,) or (K, N)")
    N = coefficients.shape[-1]
    functions = basis(measure, N, t, theta=theta, alpha=alpha, beta=beta)  # (T, N) or (N,)
    return finite_result(coefficients @ functions.T, "the past", "coefficients are too large")
