r"""Causal convolution by FFT, and the kernel that a state space model convolves with.

The output of a linear time invariant recurrence is a convolution of its input with one kernel
:math:`K_j = \bar C \bar A^j \bar B`. The kernel costs about :math:`\sqrt L` steps of the recurrence
and one matrix product, the convolution O(L log L).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from ssm_core._checks import (
    Array,
    as_array,
    as_int,
    as_state_space,
    finite_result,
    without_warnings,
)

__all__ = ["causal_convolution", "kernel_from_ssm"]


@without_warnings
def causal_convolution(u: ArrayLike, K: ArrayLike) -> Array:
    r"""Convolve signals with kernels so that no output sees a later input.

    .. math:: y_k = \sum_{j=0}^{k} K_j \, u_{k-j}

    Computed by FFT in O(L log L). Both are padded with zeros to at least L + L_K - 1 samples: a
    product of spectra is a convolution on a circle, and without the padding the end of the signal
    wraps round into its beginning.

    Args:
        u (float64 or complex128): signals (..., L), time last.
        K (float64 or complex128): kernels (..., L_K), time last; samples past the first L cannot
            reach the output. Leading axes of ``u`` and ``K`` broadcast as in NumPy: u (H, L) with
            K (L_K,) sends all signals through one kernel, with K (H, L_K) each through its own.

    Returns:
        y (..., L), float64 if both arguments are real, else complex128. Each sample is right to a
        few roundings of the largest one: FFT spreads its rounding error evenly over the signal.

    Raises:
        ValueError: an argument without samples, leading axes that do not broadcast, masked
            entries, NaN or infinity.
        TypeError: arguments that are not numbers.
        OverflowError: the spectra leave the range of float64.

    Equations eq-causal-convolution, eq-rnn-convolution. Source: Oppenheim and Schafer,
    *Discrete-Time Signal Processing* (3rd ed.), section 8.7; Gu, Goel and Ré, "Efficiently Modeling
    Long Sequences with Structured State Spaces" (2022), section 2.4.

    Example:
        >>> from ssm_core.convolution import causal_convolution
        >>> y = causal_convolution([1.0, 0.0, 2.0], [1.0, 0.5, 0.25])
        >>> print(y.round(12))
        [1.   0.5  2.25]
    """
    u = as_array(u, "u", (..., "L"))  # (..., L)
    K = as_array(K, "K", (..., "L_K"))  # (..., L_K)
    try:
        np.broadcast_shapes(u.shape[:-1], K.shape[:-1])
    except ValueError:
        raise ValueError(
            f"K has leading axes {K.shape[:-1]}, expected axes that broadcast with those of u, "
            f"{u.shape[:-1]}"
        ) from None
    L = u.shape[-1]
    K = K[..., :L]
    padded = fft.next_fast_len(L + K.shape[-1] - 1, real=True)
    if np.iscomplexobj(u) or np.iscomplexobj(K):
        y = fft.ifft(fft.fft(u, padded) * fft.fft(K, padded))[..., :L]
    else:
        y = fft.irfft(fft.rfft(u, padded) * fft.rfft(K, padded), padded)[..., :L]
    return finite_result(y, "the convolution", "its spectra are too large")


@without_warnings
def kernel_from_ssm(A: ArrayLike, B: ArrayLike, C: ArrayLike, L: int) -> Array:
    r"""The convolution kernel of the recurrence x_k = A x_{k-1} + B u_k, y_k = C x_k.

    .. math:: K_j = C A^j B, \qquad j = 0, \dots, L - 1

    Small steps and giant steps: with :math:`m = \lceil \sqrt L \, \rceil` and j = g m + i it is
    :math:`K_j = (C A^{g m}) (A^i B)`. So m small steps of A from B, m giant steps of
    :math:`A^m` from C and one matrix product give all L samples: O(√L N² + L N) work after the
    O(N³ log L) of :math:`A^m`, where L steps one by one take O(L N²).

    Args:
        A (float64 or complex128): state matrix of the discrete system (N, N); a scalar if N = 1.
        B (float64 or complex128): input matrix of the discrete system (N, M); (N,) for one input.
        C (float64 or complex128): output matrix (P, N); (N,) for one output.
        L (int): length of the kernel, at least 1.

    Returns:
        K (L, P, M), also for P = M = 1. There is no D in it.

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity, L below 1.
        TypeError: arguments that are not numbers, L not an integer.
        OverflowError: A is unstable and a power of it leaves the range of float64.

    Equation eq-kernel. Source: Gu, Goel and Ré (2022), equation (5).

    Example:
        A running mean with forgetting factor 1/2:

        >>> from ssm_core.convolution import kernel_from_ssm
        >>> print(kernel_from_ssm(0.5, 0.5, 1.0, 4)[:, 0, 0])
        [0.5    0.25   0.125  0.0625]
    """
    A, B, C, _ = as_state_space(A, B, C, None)  # (N, N), (N, M), (P, N)
    L = as_int(L, "L")
    m = math.isqrt(L - 1) + 1  # smallest m with m * m >= L
    small = _powers(A, B, m)  # (m, N, M): A^i B
    giant = _powers(np.linalg.matrix_power(A, m).T, C.T, -(-L // m))  # (g, N, P): (C A^gm)^T
    K = np.einsum("gnp,inm->gipm", giant, small, optimize=True)  # (g, m, P, M)
    K = K.reshape(-1, len(C), B.shape[1])[:L]  # (L, P, M)
    return finite_result(K, "the kernel C A^j B")


def _powers(A: Array, B: Array, count: int) -> Array:
    """B, A B, ..., A^(count-1) B as (count, N, M)."""
    out = np.empty((count, *B.shape), dtype=np.result_type(A, B))
    out[0] = B
    for i in range(1, count):
        out[i] = A @ out[i - 1]
    return out
