"""The HiPPO measures: which past counts how much, and the A and B that remember it.

A measure says how much each moment of the past counts. Projecting the past onto N orthonormal
functions under that measure gives N coefficients x, and differentiating the projection gives an
ODE for them, x'(t) = A x(t) + B u(t). Each section below holds one measure: its pair (A, B), and
its basis, the functions that turn coefficients back into a signal.

========  ==============================  ===================================  ==================
name      the past it weighs              basis                                the ODE is exact
========  ==============================  ===================================  ==================
legs      all of it, evenly               Legendre, stretched over [0, t]      for every signal
legt      the last theta, evenly          Legendre on the window               for degree < N
lagt      all of it, fading               Laguerre times exp(-s/2)             for every signal
glagt     all of it, fading (two knobs)   generalised Laguerre                 for every signal
fout      the last theta, evenly          Fourier on the window                for theta-periodic
chebt     the last theta, ends weigh      Chebyshev on the window              for degree <= N
          more
========  ==============================  ===================================  ==================

``s`` is the age of a sample, the time since it came in.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ssm_core._checks import (
    RealArray,
    as_array,
    as_choice,
    as_int,
    as_positive,
    as_real,
    finite_result,
    without_warnings,
)

_ROUNDING = 1e-12  # how far outside [0, 1] a fraction may lie that was meant to be 0 or 1


@without_warnings
def transition(
    measure: str,
    N: int,
    *,
    theta: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> tuple[RealArray, RealArray]:
    r"""The HiPPO pair (A, B) of a measure: the ODE that keeps the optimal coefficients current.

    The state obeys :math:`x'(t) = A x(t) + B u(t)`; for ``legs`` it is
    :math:`x'(t) = \frac{1}{t}\,(A x(t) + B u(t))`, since there the window grows with time. (S4
    uses the ``legs`` matrices without the :math:`1/t`: a different, exponentially fading memory.)

    All bases are orthonormal under their measure, which is normalised to total mass one; ``lagt``
    and ``glagt`` are tilted as in the HiPPO paper's code, so that their coefficients are
    :math:`\int_0^\infty u(t-s)\,h_n(s)\,ds` with :math:`h_n(s)=L_n(s)\,e^{-s/2}` for ``lagt`` and
    :math:`h_n(s) \propto L_n^{(\alpha)}(s)\,e^{-(1+\beta)s/2}` for ``glagt``.

    Args:
        measure (str): ``legs``, ``legt``, ``lagt``, ``glagt``, ``fout`` or ``chebt``.
        N (int): number of coefficients, at least 1; even for ``fout``.
        theta (float): for ``legt``, ``fout``, ``chebt``: length of the window, above 0, in units of
            time; 1 by default.
        alpha (float): for ``glagt``: order of the Laguerre polynomials, -1 < alpha < 1; 0 by
            default.
        beta (float): for ``glagt``: tilt, above 0; 0.01 by default.

    Returns:
        ``(A, B)`` float64, shapes (N, N) and (N, 1), per unit of time.

    Raises:
        ValueError: an unknown measure, N or an argument out of range, odd N for ``fout``.
        TypeError: an argument that the measure does not take.
        OverflowError: theta is so small that 1 / theta leaves the range of float64.

    Equations eq-hippo-ode, eq-legs, eq-legt, eq-lagt, eq-glagt, eq-fout, eq-chebt. Source: Gu et
    al., "HiPPO: Recurrent Memory with Optimal Polynomial Projections" (2020), section 2.3 and
    appendix D; ``fout`` as in Gu et al., "How to Train Your HiPPO" (2022), section 4. ``chebt`` is
    derived in the book: an untilted projection, closed by the newest sample.

    Example:
        >>> from ssm_core.hippo import transition
        >>> A, B = transition("legs", 3)
        >>> print(A.round(3))
        [[-1.     0.     0.   ]
         [-1.732 -2.     0.   ]
         [-2.236 -3.873 -3.   ]]
    """
    as_choice(measure, "measure", _TRANSITIONS)
    N = as_int(N, "N")
    measure_args = _measure_arguments(measure, N, _ARGUMENTS[measure], theta, alpha, beta)
    A, B = _TRANSITIONS[measure](N, **measure_args)
    why = "theta or beta is too small"
    return finite_result(A, "A", why), finite_result(B, "B", why)


@without_warnings
def basis(
    measure: str,
    N: int,
    t: ArrayLike,
    *,
    theta: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> RealArray:
    r"""The functions that turn coefficients back into the past: u(t) is about basis(…, t) @ x.

    Args:
        measure (str): ``legs``, ``legt``, ``lagt``, ``glagt``, ``fout`` or ``chebt``.
        N (int): number of functions, at least 1; even for ``fout``.
        t (float64): fractions of the past (K,), or one fraction, in [0, 1] up to rounding: 0 the
            oldest moment, 1 now. The past is [0, now] for ``legs`` and the last theta otherwise.
        theta (float): length of that past, above 0, in units of time; 1 by default; not for
            ``legs``. Windows look the same for every theta, ``lagt`` and ``glagt`` do not.
        alpha, beta (float): for ``glagt`` only, as in :func:`transition`.

    Returns:
        float64 (K, N); (N,) if t is one number.

    Raises:
        ValueError: as :func:`transition`; t outside [0, 1], or t = 1 for ``glagt`` with alpha < 0,
            whose functions are infinite there.
        TypeError: as :func:`transition`.
        OverflowError: a function leaves the range of float64.

    Equation eq-reconstruction. Source: as :func:`transition`.

    Example:
        >>> from ssm_core.hippo import basis
        >>> print(basis("legs", 3, [0.0, 1.0]).round(3))
        [[ 1.    -1.732  2.236]
         [ 1.     1.732  2.236]]
    """
    as_choice(measure, "measure", _BASES)
    N = as_int(N, "N")
    t = as_array(t, "t", real=True)
    one = t.ndim == 0
    t = as_array(t.reshape(1) if one else t, "t", ("K",), real=True)
    if t.min() < -_ROUNDING or t.max() > 1 + _ROUNDING:
        raise ValueError(f"t spans {t.min():g} to {t.max():g}, expected fractions within [0, 1]")
    t = np.clip(t, 0, 1)
    # A fading memory has no oldest moment: theta says how far back t = 0 lies.
    spans = () if measure == "legs" else ("theta",)
    measure_args = _measure_arguments(
        measure, N, {*_ARGUMENTS[measure], *spans}, theta, alpha, beta
    )
    if measure_args.get("alpha", 0) < 0 and t.max() == 1:
        raise ValueError(
            f"t holds 1, expected t < 1: with alpha {alpha:g} the functions of 'glagt' "
            "are infinite at the newest moment"
        )
    functions = _BASES[measure](N, t, **measure_args)
    functions = finite_result(functions, "the basis", "theta or N is too large")
    return functions[0] if one else functions


def _measure_arguments(
    measure: str,
    N: int,
    known: Collection[str],
    theta: float | None,
    alpha: float | None,
    beta: float | None,
) -> dict[str, float]:
    """The arguments that were given, checked; refused if the measure does not take them."""
    given: dict[str, Any] = {"theta": theta, "alpha": alpha, "beta": beta}
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(given) - set(known)):
        takes = ", ".join(sorted(known)) or "no further arguments"
        raise TypeError(f"{unknown[0]} is not an argument of {measure!r}, which takes {takes}")
    checked = {
        name: (as_real if name == "alpha" else as_positive)(value, name)
        for name, value in given.items()
    }
    if not -1 < checked.get("alpha", 0) < 1:
        raise ValueError(f"alpha is {alpha:g}, expected -1 < alpha < 1")
    if measure == "fout" and N % 2:
        raise ValueError(f"N is {N}, expected an even number for measure 'fout'")
    return checked


# --- legs: all of the past, evenly --------------------------------------------------------------


def _legs(N: int) -> tuple[RealArray, RealArray]:
    n = np.arange(N)
    scale = np.sqrt(2 * n + 1)
    A = np.tril(-np.outer(scale, scale), -1) - np.diag(n + 1.0)
    return A, scale[:, None]


def _legendre_basis(N: int, t: RealArray, **_: float) -> RealArray:
    """Orthonormal Legendre polynomials on [0, 1]: sqrt(2n + 1) P_n(2t - 1)."""
    n = np.arange(N)
    return np.sqrt(2 * n + 1) * special.eval_legendre(n, 2 * t[:, None] - 1)


# --- legt: the last theta, evenly ---------------------------------------------------------------


def _legt(N: int, theta: float = 1.0) -> tuple[RealArray, RealArray]:
    n = np.arange(N)
    scale = np.sqrt(2 * n + 1)
    # Above the diagonal stands the estimate of u(t - theta), read off the coefficients themselves.
    sign = np.where(n[:, None] >= n, 1.0, (-1.0) ** (n[:, None] - n))
    return -np.outer(scale, scale) * sign / theta, scale[:, None] / theta


# --- lagt, glagt: all of the past, fading -------------------------------------------------------


def _lagt(N: int) -> tuple[RealArray, RealArray]:
    return np.eye(N) / 2 - np.tril(np.ones((N, N))), np.ones((N, 1))


def _lagt_basis(N: int, t: RealArray, theta: float = 1.0) -> RealArray:
    s = theta * (1 - t)[:, None]
    return special.eval_laguerre(np.arange(N), s) * np.exp(-s / 2)


def _laguerre_norms(N: int, alpha: float) -> RealArray:
    """Norms of L_n^(alpha) under s^alpha exp(-s): sqrt(Gamma(n + alpha + 1) / n!)."""
    n = np.arange(N)
    return np.exp((special.gammaln(n + alpha + 1) - special.gammaln(n + 1)) / 2)


def _tilt_norm(alpha: float, beta: float) -> float:
    """Norm of the tilt: the square root of the integral of s^-alpha exp(-beta s)."""
    return np.exp((special.gammaln(1 - alpha) + (alpha - 1) * np.log(beta)) / 2)


def _glagt(N: int, alpha: float = 0.0, beta: float = 0.01) -> tuple[RealArray, RealArray]:
    n = np.arange(N)
    norms = _laguerre_norms(N, alpha)
    A = -np.eye(N) * (1 + beta) / 2 - np.tril(np.ones((N, N)), -1)
    newest = special.binom(n + alpha, n)  # L_n^(alpha)(0)
    return A * norms / norms[:, None], (newest / norms / _tilt_norm(alpha, beta))[:, None]


def _glagt_basis(
    N: int, t: RealArray, theta: float = 1.0, alpha: float = 0.0, beta: float = 0.01
) -> RealArray:
    s = theta * (1 - t)[:, None]
    tilt = s**alpha * np.exp(-(1 - beta) * s / 2)
    polynomials = special.eval_genlaguerre(np.arange(N), alpha, s)
    return polynomials * tilt * _tilt_norm(alpha, beta) / _laguerre_norms(N, alpha)


# --- fout: the last theta, in waves -------------------------------------------------------------


def _fout(N: int, theta: float = 1.0) -> tuple[RealArray, RealArray]:
    cosines = np.arange(N) % 2 == 0
    newest = np.where(cosines, np.sqrt(2), 0.0)  # the basis at the newest instant
    newest[0] = 1.0
    # Each pair (cos, sin) of frequency f turns at 2 pi f. The sine of frequency zero vanishes: it
    # keeps the pairs aligned, and makes A singular.
    turn = np.kron(np.diag(2 * np.pi * np.arange(N // 2)), [[0.0, -1.0], [1.0, 0.0]])
    # A Fourier series gives the mean of both sides of the jump between now and theta ago:
    # u(t - theta) = 2 * (series at the jump) - u(t). Hence both factors 2.
    A = turn - 2 * np.outer(newest, newest)
    return A / theta, 2 * newest[:, None] / theta


def _fout_basis(N: int, t: RealArray, **_: float) -> RealArray:
    angle = 2 * np.pi * np.arange(N // 2) * (1 - t)[:, None]  # from the newest instant backwards
    waves = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=-1).reshape(len(t), N)
    waves[:, 0] = 1.0
    return waves


# --- chebt: the last theta, both ends weigh more ------------------------------------------------


def _chebt(N: int, theta: float = 1.0) -> tuple[RealArray, RealArray]:
    k = np.arange(N + 1)
    newest = np.where(k == 0, 1.0, np.sqrt(2))  # the basis at the newest instant
    # Derivatives: p_k' = sum of 2k p_n over n < k with k - n odd; p_0 has another norm.
    gap = k - k[:, None]
    derivative = np.where((gap > 0) & (gap % 2 == 1), 2.0 * k, 0.0)
    derivative[0] /= np.sqrt(2)
    # The coefficient of degree N is what the newest sample leaves over: u - sum_k<N p_k(now) x_k.
    last = derivative[:N, N] / newest[N]
    A = derivative[:N, :N] - np.outer(last, newest[:N])
    return 2 * A / theta, 2 * last[:, None] / theta  # dz/dt = 2 / theta on [-1, 1]


def _chebt_basis(N: int, t: RealArray, **_: float) -> RealArray:
    polynomials = np.sqrt(2) * special.eval_chebyt(np.arange(N), 2 * t[:, None] - 1)
    polynomials[:, 0] = 1.0
    return polynomials


_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "legs": (),
    "legt": ("theta",),
    "lagt": (),
    "glagt": ("alpha", "beta"),
    "fout": ("theta",),
    "chebt": ("theta",),
}
_TRANSITIONS: dict[str, Any] = {
    "legs": _legs,
    "legt": _legt,
    "lagt": _lagt,
    "glagt": _glagt,
    "fout": _fout,
    "chebt": _chebt,
}
_BASES: dict[str, Any] = {
    "legs": _legendre_basis,
    "legt": _legendre_basis,
    "lagt": _lagt_basis,
    "glagt": _glagt_basis,
    "fout": _fout_basis,
    "chebt": _chebt_basis,
}
