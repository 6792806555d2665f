"""Systems of SciPy and python-control as matrices, and the two time conventions of discrete ones.

SciPy and python-control read the output before the update (output first),

    x_{k+1} = A x_k + B u_k,   y_k = C x_k + D u_k,

and this library after it (update first), s_k = A s_{k-1} + B u_k, y_k = C s_k + D u_k. With
s_{k-1} = x_k both run the same update, and only the outputs have to be translated. Python-control
is not imported: its systems are known by their attributes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ssm_core._checks import Array, as_positive, as_state_space, finite_result

__all__ = ["matrices_of", "output_first", "sample_time", "update_first"]

_AMPLIFICATION = 100.0  # how far a changed C may raise the rounding error of the output
_ROUNDING = 1e-13


def output_first(A: Array, B: Array, C: Array, D: Array) -> tuple[Array, Array, Array, Array]:
    """Four matrices for SciPy's loop, from four for ours: y_k = C (A x_k + B u_k) + D u_k."""
    why = "the entries of the matrices are too large"
    return A, B, finite_result(C @ A, "C A", why), finite_result(C @ B + D, "C B + D", why)


def update_first(A: Array, B: Array, C: Array, D: Array) -> tuple[Array, Array, Array, Array]:
    """Four matrices for our loop, from four for SciPy's, with the same output from every start.

    Our state s_k is SciPy's x_{k+1}. If C = C' A, it shows the output C x_k = C' (s_k - B u_k). An
    output for which there is no such C', because A is singular, or only one so large that rounding
    would show, is carried along as one more entry of the state: s_k = (x_{k+1}, C x_k).
    """
    N, M = B.shape
    C1 = np.linalg.lstsq(A.T, C.T, rcond=None)[0].T  # (P, N)
    size = np.linalg.norm(C, axis=1)  # (P,)
    solved = np.linalg.norm(C1 @ A - C, axis=1) <= _ROUNDING * size
    small = np.linalg.norm(C1, axis=1) * np.linalg.norm(A, 2) <= _AMPLIFICATION * size
    late = np.flatnonzero(~(solved & small))  # outputs that the new state does not show
    K = len(late)
    A1 = np.block([[A, np.zeros((N, K))], [C[late], np.zeros((K, K))]])
    B1 = np.vstack([B, np.zeros((K, M))])
    C1[late] = 0
    D1 = D - C1 @ B
    shown = np.zeros((len(C), K))
    shown[late, np.arange(K)] = 1
    return A1, B1, np.hstack([C1, shown]), D1


def sample_time(dt: Any) -> float:
    """The step of a discrete system from elsewhere, which may be unspecified there."""
    if dt is None or dt is True:
        raise ValueError(
            f"the system has dt = {dt}, an unspecified step, expected a number above 0: give its "
            "matrices and the step, from_scipy(A, B, C, D, dt)"
        )
    return as_positive(dt, "dt")


def matrices_of(system: tuple[Any, ...]) -> tuple[Array, Array, Array, Array, Any]:
    """(A, B, C, D, dt) of a system in any form; dt is 0 if it is continuous, else as it came.

    Args:
        system: the arguments of ``from_scipy`` or ``from_control``: one object, or the numbers
            that describe a system, of which a step is the last where the system is discrete.
    """
    from scipy import signal

    if len(system) == 1 and isinstance(system[0], (tuple, list)):
        system = tuple(system[0])
    if len(system) == 1:
        (one,) = system
        if hasattr(one, "ninputs") and hasattr(one, "den"):  # python-control's transfer function
            matrices = _transfer_matrix(one)
        elif hasattr(one, "to_ss"):
            one = _proper(one.to_ss)
            matrices = one.A, one.B, one.C, one.D
        elif all(hasattr(one, name) for name in "ABCD"):
            matrices = one.A, one.B, one.C, one.D
        else:
            raise TypeError(
                f"system is a {type(one).__name__}, expected a linear system with the matrices A, "
                "B, C, D, or a transfer function"
            )
        return *_with_state(*matrices), _step_of(one)
    discrete = len(system) in (3, 5)
    *numbers, dt = system if discrete else (*system, 0)
    if len(numbers) == 2:
        matrices = _proper(lambda: signal.tf2ss(*numbers))
    elif len(numbers) == 4:
        matrices = tuple(numbers)
    else:
        raise ValueError(
            f"system has {len(system)} parts, expected one object, (num, den) or (A, B, C, D), "
            "and the step dt after them if it is discrete"
        )
    return *_with_state(*matrices), dt


def _step_of(system: Any) -> Any:
    """dt of an object of SciPy, where None means continuous, or of python-control, where 0 does."""
    dt = getattr(system, "dt", None)
    return 0 if dt is None and not hasattr(system, "ninputs") else dt


def _with_state(A: Any, B: Any, C: Any, D: Any) -> tuple[Array, Array, Array, Array]:
    """The matrices, checked; a mere gain, which has no state, gets one that stays at zero."""
    if np.size(A) == 0:
        D = np.atleast_2d(D)
        A, B, C = np.zeros((1, 1)), np.zeros((1, D.shape[1])), np.zeros((D.shape[0], 1))
    return as_state_space(A, B, C, D)


def _transfer_matrix(system: Any) -> tuple[Array, Array, Array, Array]:
    """Matrices of python-control's transfer functions, one for each pair of output and input.

    The outputs of one input share its states where their denominators are equal.
    """
    from scipy import signal
    from scipy.linalg import block_diag

    P, M = system.noutputs, system.ninputs
    parts = []
    for j in range(M):
        num = [np.atleast_1d(system.num[i][j]) for i in range(P)]
        den = [np.atleast_1d(system.den[i][j]) for i in range(P)]
        for i in range(P):
            if any(np.array_equal(den[i], d) for d in den[:i]):
                continue
            rows = [k for k in range(P) if np.array_equal(den[k], den[i])]
            longest = max(len(num[k]) for k in rows)
            padded = np.stack([np.pad(num[k], (longest - len(num[k]), 0)) for k in rows])
            a, b, c, d = _proper(lambda p=padded, q=den[i]: signal.tf2ss(p, q))
            parts.append((a, b, c, d, rows, j))
    A = block_diag(*(part[0] for part in parts))
    B, C, D = np.zeros((len(A), M)), np.zeros((P, len(A))), np.zeros((P, M))
    first = 0
    for a, b, c, d, rows, j in parts:
        states = slice(first, first + len(a))
        B[states, j], C[rows, states], D[rows, j] = b[:, 0], c, d[:, 0]
        first += len(a)
    return A, B, C, D


def _proper(convert: Any) -> Any:
    """A conversion to matrices, which exist only for proper transfer functions."""
    try:
        return convert()
    except ValueError as error:
        raise ValueError(
            f"the transfer function has no matrices ({error}), expected a numerator of at most "
            "the degree of the denominator"
        ) from None
