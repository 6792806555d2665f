"""One token through Mamba blocks, compiled by Numba.

PyTorch spends a token of a small model on the calls of some thirty operations a block, which take
longer than the arithmetic. Here a block is one call. Whatever is derived from a parameter, such as
A = −exp(A_log), is computed in the step itself, so that nothing can be out of date.

Importing this module without Numba is an ImportError.
"""

from __future__ import annotations

import math

import numpy as np

from ssm_core._compiled import compiled
from ssm_core.scan._cpu_step import advance, silu

__all__ = ["step_block", "step_head"]

_SUMS = {"contract", "reassoc"}  # sums in any order, in vector instructions; NaN stays NaN


@compiled(nogil=True)
def step_block(
    stream,
    norm_weight,
    epsilon,
    in_weight,
    in_bias,
    conv_weight,
    conv_bias,
    x_weight,
    dt_weight,
    dt_bias,
    A_log,
    D,
    out_weight,
    out_bias,
    rms_epsilon,
    conv_state,
    ssm_state,
):
    """Norm, block and residual sum: stream (b, d_model) and both states change in place.

    Weights are those of the modules; biases that are not there are empty, and a ``rms_epsilon``
    below 0 leaves Δ, B and C as they are.
    """
    b, d_model = stream.shape
    d, n = A_log.shape
    rank = dt_weight.shape[1]
    normed = np.empty((b, d_model), stream.dtype)
    xz, y = np.empty((b, 2 * d), stream.dtype), np.empty((b, d), stream.dtype)
    x, dt = np.empty((b, d), stream.dtype), np.empty((b, d), stream.dtype)
    selection, out = np.empty((b, rank + 2 * n), stream.dtype), np.empty_like(stream)
    nothing = dt_bias[:0]
    for i in range(b):
        _normalize(stream[i], norm_weight, epsilon, normed[i])
    _multiply(in_weight, in_bias, normed, xz)
    for i in range(b):
        _convolve(xz[i, :d], conv_weight, conv_bias, conv_state[i], x[i])
    _multiply(x_weight, nothing, x, selection)
    if rms_epsilon >= 0:
        for i in range(b):
            _divide_by_rms(selection[i, :rank], rms_epsilon)
            _divide_by_rms(selection[i, rank : rank + n], rms_epsilon)
            _divide_by_rms(selection[i, rank + n :], rms_epsilon)
    _multiply(dt_weight, nothing, selection[:, :rank], dt)
    for i in range(b):
        B, C = selection[i : i + 1, rank : rank + n], selection[i : i + 1, rank + n :]
        advance(ssm_state[i], x[i], dt[i], A_log, True, B, C, D, xz[i, d:], dt_bias, True, y[i])
    _multiply(out_weight, out_bias, y, out)
    stream += out


@compiled(nogil=True)
def step_head(stream, norm_weight, epsilon, weight, logits):
    """Last norm and head: stream (b, d_model) to logits (b, vocabulary)."""
    normed = np.empty_like(stream)
    for i in range(len(stream)):
        _normalize(stream[i], norm_weight, epsilon, normed[i])
    _multiply(weight, norm_weight[:0], normed, logits)


@compiled(nogil=True, fastmath=_SUMS)
def _multiply(weight, bias, x, y):
    """y (b, out) = x (b, in) weightᵀ + bias; each row of the weight is read once for all of x."""
    for o in range(len(weight)):
        first = bias[o] if len(bias) else x.dtype.type(0)
        for i in range(len(x)):
            total = first
            for j in range(weight.shape[1]):
                total += weight[o, j] * x[i, j]
            y[i, o] = total


@compiled(nogil=True, fastmath=_SUMS)
def _mean_square(x):
    total = x.dtype.type(0)
    for j in range(len(x)):
        total += x[j] * x[j]
    return total / x.dtype.type(len(x))


@compiled(nogil=True, fastmath=_SUMS)
def _normalize(x, weight, epsilon, y):
    """RMSNorm of x, into y."""
    scale = x.dtype.type(1 / math.sqrt(_mean_square(x) + epsilon))
    for j in range(len(x)):
        y[j] = x[j] * scale * weight[j]


@compiled(nogil=True, fastmath=_SUMS)
def _divide_by_rms(x, epsilon):
    scale = x.dtype.type(1 / math.sqrt(_mean_square(x) + epsilon))
    for j in range(len(x)):
        x[j] *= scale


@compiled(nogil=True, fastmath=_SUMS)
def _convolve(x, weight, bias, window, y):
    """Move the last samples (d, k) on by one, and SiLU of their convolution, into y (d,)."""
    d, k = weight.shape
    for c in range(d):
        total = bias[c] if len(bias) else x.dtype.type(0)
        for j in range(k - 1):
            window[c, j] = window[c, j + 1]
            total += weight[c, j] * window[c, j]
        window[c, k - 1] = x[c]
        y[c] = total + weight[c, k - 1] * x[c]
    for c in range(d):
        y[c] = silu(y[c])
