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
def _advance(u, modes, left, right, before, after, moved):
    """One channel, one sample: the output without D.

    modes (6, n) are the real and imaginary parts of decay, B and 2 C; left and right (r, 2, n)
    those of the low-rank part; before and after (2 n,) the states as pairs; moved (2, n) is memory
    to work in.
    """
    n = modes.shape[1]
    for j in range(n):
        x, y = np.float64(before[2 * j]), np.float64(before[2 * j + 1])
        moved[0, j] = modes[0, j] * x - modes[1, j] * y + modes[2, j] * u
        moved[1, j] = modes[0, j] * y + modes[1, j] * x + modes[3, j] * u
    for r in range(len(left)):
        seen = 0.0
        for j in range(n):
            seen += right[r, 0, j] * before[2 * j] - right[r, 1, j] * before[2 * j + 1]
        seen *= 2.0
        for j in range(n):
            moved[0, j] -= left[r, 0, j] * seen
            moved[1, j] -= left[r, 1, j] * seen
    total = 0.0
    for j in range(n):
        total += modes[4, j] * moved[0, j] - modes[5, j] * moved[1, j]
        after[2 * j], after[2 * j + 1] = moved[0, j], moved[1, j]
    return total


@compiled(nogil=True)
def step_layer(u, before, modes, left, right, D, after, y):
    """Samples u (b, H) and states before (b, H, 2 n) to y (b, H) and the states after.

    Returns:
        whether all samples are finite; otherwise nothing is computed.
    """
    if not np.isfinite(u).all():
        return False
    moved = np.empty((2, modes.shape[2]))
    for i in range(u.shape[0]):
        for h in range(u.shape[1]):
            out = _advance(
                np.float64(u[i, h]), modes[h], left[h], right[h], before[i, h], after[i, h], moved
            )
            y[i, h] = out + D[h] * u[i, h]
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
    H, n = D.shape[1], modes.shape[3]
    x, normed = np.empty(H, u.dtype), np.empty(H, u.dtype)
    mixed, moved = np.empty(2 * H, u.dtype), np.empty((2, n))
    for i in range(u.shape[0]):
        _multiply(encode_weight, encode_bias, u[i], x)
        for k in range(len(D)):
            _normalize(x, norm_weight[k], norm_bias[k], epsilon[k], normed)
            for h in range(H):
                out = _advance(
                    np.float64(normed[h]),
                    modes[k, h],
                    left[k, h],
                    right[k, h],
                    before[k, i, h],
                    after[k, i, h],
                    moved,
                )
                normed[h] = _gelu(out + D[k, h] * normed[h])
            _multiply(mix_weight[k], mix_bias[k], normed, mixed)
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
