"""One sample through S4 and S4D, compiled by Numba: a layer, and a whole network of them.

PyTorch spends a step of a small network on the calls of some thirty operations, which take longer
than the arithmetic. Here a step is one call. The state is read and written in its own dtype, and
the recurrence in between is computed in float64, as PyTorch's path does.

Importing this module without Numba is an ImportError.
"""

from __future__ import annotations

import math

import numpy as np

from ssm_core._compiled import compiled

__all__ = ["step_layer", "step_network"]

_SUMS = {"contract", "reassoc"}  # sums in any order, in vector instructions; NaN stays NaN


@compiled(nogil=True, fastmath=_SUMS)
def _advance(u, modes, left, right, D, before, after, y):
    """One sample u (H,) of H channels, to y (H,) and the states after it.

    modes (H, 6, n) are the real and imaginary parts of decay, B and 2 C; left and right (H, r, 2, n)
    those of the low-rank part; before and after (H, 2 n) the states as pairs. No views of rows: each
    would count its references.
    """
    H, n = modes.shape[0], modes.shape[2]
    real, imag = np.empty(n), np.empty(n)
    for h in range(H):
        sample = np.float64(u[h])
        for j in range(n):
            a, b = np.float64(before[h, 2 * j]), np.float64(before[h, 2 * j + 1])
            real[j] = modes[h, 0, j] * a - modes[h, 1, j] * b + modes[h, 2, j] * sample
            imag[j] = modes[h, 0, j] * b + modes[h, 1, j] * a + modes[h, 3, j] * sample
        for r in range(left.shape[1]):
            seen = 0.0
            for j in range(n):
                seen += right[h, r, 0, j] * before[h, 2 * j]
                seen -= right[h, r, 1, j] * before[h, 2 * j + 1]
            for j in range(n):
                real[j] -= left[h, r, 0, j] * (2 * seen)
                imag[j] -= left[h, r, 1, j] * (2 * seen)
        total = D[h] * sample
        for j in range(n):
            total += modes[h, 4, j] * real[j] - modes[h, 5, j] * imag[j]
            after[h, 2 * j], after[h, 2 * j + 1] = real[j], imag[j]
        y[h] = total


@compiled(nogil=True)
def step_layer(u, before, modes, left, right, D, after, y):
    """Samples u (b, H) and states before (b, H, 2 n) to y (b, H) and the states after.

    Returns:
        whether all samples are finite; otherwise nothing is computed.
    """
    if not np.isfinite(u).all():
        return False
    for i in range(u.shape[0]):
        _advance(u[i], modes, left, right, D, before[i], after[i], y[i])
    return True


@compiled(nogil=True)
def step_network(u, before, systems, blocks, ends, after, y):
    """Samples u (b, d_input) and states (blocks, b, H, 2 n) to y (b, d_output) and states after.

    Args:
        systems: modes, left, right and D of the layers, as ``step_layer`` takes them, stacked
        blocks:  of each block weight, bias and epsilon of the norm, weight and bias of the mixing
        ends:    weight and bias of encoder, last norm (and epsilon) and decoder

    Returns:
        whether all samples are finite; otherwise nothing is computed.
    """
    if not np.isfinite(u).all():
        return False
    modes, left, right, D = systems
    norm_weight, norm_bias, epsilon, mix_weight, mix_bias = blocks
    encode_weight, encode_bias, last_weight, last_bias, last_epsilon, decode_weight, decode_bias = (
        ends
    )
    H = D.shape[1]
    x, normed = np.empty(H, u.dtype), np.empty(H, u.dtype)
    out, mixed = np.empty(H, u.dtype), np.empty(2 * H, u.dtype)
    for i in range(u.shape[0]):
        _multiply(encode_weight, encode_bias, u[i], x)
        for k in range(len(D)):
            _normalize(x, norm_weight[k], norm_bias[k], epsilon[k], normed)
            _advance(normed, modes[k], left[k], right[k], D[k], before[k, i], after[k, i], out)
            for h in range(H):
                out[h] = _gelu(out[h])
            _multiply(mix_weight[k], mix_bias[k], out, mixed)
            for h in range(H):
                x[h] += mixed[h] * _sigmoid(mixed[H + h])
        _normalize(x, last_weight, last_bias, last_epsilon, normed)
        _multiply(decode_weight, decode_bias, normed, y[i])
    return True


@compiled(nogil=True, fastmath=_SUMS)
def _multiply(weight, bias, x, y):
    """y = weight x + bias."""
    for i in range(len(weight)):
        total = bias[i]
        for j in range(len(x)):
            total += weight[i, j] * x[j]
        y[i] = total


@compiled(nogil=True, fastmath=_SUMS)
def _normalize(x, weight, bias, epsilon, y):
    """LayerNorm of x, into y."""
    H = x.dtype.type(len(x))
    mean = x.dtype.type(0)
    for h in range(len(x)):
        mean += x[h]
    mean /= H
    square = x.dtype.type(0)
    for h in range(len(x)):
        square += (x[h] - mean) * (x[h] - mean)
    scale = x.dtype.type(1 / math.sqrt(square / H + epsilon))
    for h in range(len(x)):
        y[h] = (x[h] - mean) * scale * weight[h] + bias[h]


@compiled(nogil=True)
def _gelu(x):
    return 0.5 * x * (1 + math.erf(x * math.sqrt(0.5)))


@compiled(nogil=True)
def _sigmoid(x):
    return 1 / (1 + math.exp(-x))
