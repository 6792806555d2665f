"""One token through Mamba and Mamba-2 blocks, compiled by Numba.

PyTorch spends a token of a small model on the calls of some thirty operations a block, which take
longer than the arithmetic. Here a block is one call. Whatever is derived from a parameter, such as
A = −exp(A_log), is computed in the step itself, so that nothing can be out of date.

Importing this module without Numba is an ImportError.
"""

from __future__ import annotations

import math

import numpy as np

from ssm_core._compiled import compiled
from ssm_core.scan._cpu_step import advance, silu, softplus

__all__ = ["step_head", "step_mamba", "step_mamba2"]

_SUMS = {"contract", "reassoc"}  # sums in any order, in vector instructions; NaN stays NaN


@compiled(nogil=True)
def step_mamba(
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
    rms_epsilon,
    out_weight,
    out_bias,
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
def step_mamba2(
    stream,
    norm_weight,
    epsilon,
    in_weight,
    in_bias,
    conv_weight,
    conv_bias,
    dt_bias,
    dt_min,
    dt_max,
    A_log,
    D,
    gated_weight,
    gated_epsilon,
    group_size,
    before_gate,
    out_weight,
    out_bias,
    conv_state,
    ssm_state,
):
    """The same for a Mamba-2 block whose state space model has all inner channels.

    ``gated_weight`` is that of the norm inside the block, and empty where there is none.
    """
    b, d_model = stream.shape
    _, h, p, n = ssm_state.shape
    d, channels = h * p, len(conv_weight)
    groups = (channels - d) // (2 * n)
    normed, y = np.empty((b, d_model), stream.dtype), np.empty((b, d), stream.dtype)
    projected = np.empty((b, len(in_weight)), stream.dtype)
    x, out = np.empty(channels, stream.dtype), np.empty_like(stream)
    for i in range(b):
        _normalize(stream[i], norm_weight, epsilon, normed[i])
    _multiply(in_weight, in_bias, normed, projected)
    for i in range(b):
        z, dt = projected[i, :d], projected[i, d + channels :]
        _convolve(projected[i, d : d + channels], conv_weight, conv_bias, conv_state[i], x)
        selection = x[d:].reshape(2, groups, n)
        for k in range(h):
            step = softplus(dt[k] + dt_bias[k])
            dt[k] = min(max(step, dt_min), dt_max)
        _advance_heads(ssm_state[i], x, dt, A_log, selection[0], selection[1], D, y[i])
        _gate(y[i], z, gated_weight, gated_epsilon, group_size, before_gate)
    _multiply(out_weight, out_bias, y, out)
    stream += out


@compiled(nogil=True, fastmath=_SUMS)
def _advance_heads(state, x, steps, A_log, B, C, D, y):
    """One row: states (h, p, n) in place, output y (h p,), with one decay a head; B and C are (g, n),
    D has a weight for each head or for each channel."""
    h, p, n = state.shape
    per_group = h // len(B)
    for i in range(h):
        group, decay = i // per_group, x.dtype.type(math.exp(-steps[i] * math.exp(A_log[i])))
        for j in range(p):
            c = i * p + j
            value, total = steps[i] * x[c], x.dtype.type(0)
            for k in range(n):
                new = decay * state[i, j, k] + value * B[group, k]
                state[i, j, k] = new
                total += C[group, k] * new
            y[c] = total + (D[i] if len(D) == h else D[c]) * x[c]


@compiled(nogil=True, fastmath=_SUMS)
def _gate(y, z, weight, epsilon, group_size, before_gate):
    """y times silu(z), and the norm of each group of channels, before that or after it."""
    if not before_gate:
        for c in range(len(y)):
            y[c] *= silu(z[c])
    if len(weight):
        for start in range(0, len(y), group_size):
            group = y[start : start + group_size]
            _normalize(group, weight[start : start + group_size], epsilon, group)
    if before_gate:
        for c in range(len(y)):
            y[c] *= silu(z[c])


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
