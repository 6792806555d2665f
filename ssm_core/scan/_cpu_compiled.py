"""The recurrence of ``ssm_core.scan.cpu`` compiled by Numba.

A task walks along time with WIDTH channels side by side, chunk by chunk. Within a chunk the states
n come one after another, and each inner loop runs over channels, which stand next to each other in
tiles (steps, WIDTH): so the compiler turns it into vector instructions whatever n is. Tiles stay in
the caches of one core.

Which task adds to which memory depends on the shapes alone, never on the number of threads, and no
two tasks write to the same place: the same arguments give the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from ssm_core._compiled import compiled
from ssm_core._threads import run_in_threads

WIDTH = 64
LEAST_WORK = 2**18  # samples times states that are worth a thread: some 0.1 ms of work
LANES = 8  # partial sums of dB and dC, at most; each is as large as B
# Products and sums may fuse. Nothing else of fastmath: NaN and infinity must stay what they are.
_FUSE = {"contract"}
_LOG2E = 1 / math.log(2)
_LN2 = math.log(2)


Segment = tuple[int, int, int, int, int]  # as ``ssm_core.scan.cpu`` cuts them


def forward(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, segments: list[Segment],
            size: int, state: Tensor, y: Tensor, saved: Tensor) -> None:
    """Fill y (b, d, L) and saved, and take state (rows, d, n) from the first step to the last."""
    d = len(A)
    groups = _groups(B, C)
    per_group = d // groups
    arrays = *_numpy(u, dt, A), *_split(B), *_split(C), *_numpy(state, y, saved)
    tasks = [(_forward, (*arrays, *segment, c0, min(c0 + WIDTH, end), group, size))
             for segment in segments
             for group in range(groups) for end in [(group + 1) * per_group]
             for c0 in range(group * per_group, end, WIDTH)]
    run_in_threads(tasks, _threads(u, A))


def backward(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, segments: list[Segment],
             size: int, saved: Tensor, dy: Tensor, dstate: Tensor) -> tuple[Tensor, ...]:
    """y, du, ddt, dA, dB, dC; dstate goes from the last step to the first."""
    (d, n), groups, rows = A.shape, _groups(B, C), len(dstate)
    per_group = d // groups
    lanes = max(1, min(LANES // max(1, len(u) * groups), -(-per_group // WIDTH)))
    y, du, ddt = (torch.empty_like(u) for _ in range(3))
    dA = A.new_zeros(rows, d, n)
    dB, dC = (M.new_zeros(lanes if M.ndim == 4 else rows, *M.shape) for M in (B, C))
    arrays = (*_numpy(u, dt, A), *_split(B), *_split(C),
              *_numpy(saved, dy, dstate, y, du, ddt, dA), *_split(dB), *_split(dC))
    tasks = [(_backward, (*arrays, *segment, lane, lanes, group * per_group,
                          (group + 1) * per_group, group, size))
             for segment in segments for group in range(groups) for lane in range(lanes)]
    run_in_threads(tasks, _threads(u, A))
    return y, du, ddt, dA.sum(0), dB.sum(0), dC.sum(0)


def _groups(B: Tensor, C: Tensor) -> int:
    return B.shape[1] if B.ndim == 4 else C.shape[1] if C.ndim == 4 else 1


def _threads(u: Tensor, A: Tensor) -> int:
    """How many threads to use: PyTorch's number, or fewer where each would have little to do."""
    return max(1, min(torch.get_num_threads(), u.numel() * A.shape[1] // LEAST_WORK))


def _split(M: Tensor) -> tuple[Any, Any]:
    """B or C, or partial sums of its gradient with an axis in front, as an array for what varies in
    time and one for what is constant, of which one is empty."""
    array, = _numpy(M)
    axes = M.ndim % 2  # of partial sums in front
    if M.ndim >= 4:
        return array, np.empty((0,) * (2 + axes), array.dtype)
    return np.empty((0,) * (4 + axes), array.dtype), array


def _numpy(*tensors: Tensor) -> list[Any]:
    return [x.numpy(force=True) for x in tensors]


# --- 2^x in vector instructions -----------------------------------------------------------------
#
# x = m + f with m the nearest integer: 2^f is its series in f, 2^m goes into the bits of the
# exponent. Adding 1.5 * 2^23 (2^52) rounds to an integer, which then stands in the lowest bits.
# The series is exactly 1 at f = 0: a decay of 1 loses nothing over a million steps. Below the range
# the result is 0, above it infinity, NaN stays NaN.

_SERIES32 = tuple(np.float32(_LN2**k / math.factorial(k)) for k in range(8))
_SERIES64 = tuple(_LN2**k / math.factorial(k) for k in range(14))
_ROUND32, _LOW32, _HIGH32 = np.float32(1.5 * 2**23), np.float32(-127), np.float32(128)
_ROUND64, _LOW64, _HIGH64 = 1.5 * 2**52, -1023.0, 1024.0


def _exp2(x):
    raise NotImplementedError("compiled code only")


@overload(_exp2, jit_options={"fastmath": _FUSE})
def _(x):
    return _exp2_single if x == types.float32 else _exp2_double


def _exp2_single(x):
    x = _HIGH32 if x > _HIGH32 else x  # noqa: FURB136 (NaN must pass, which min does not promise)
    x = _LOW32 if x < _LOW32 else x  # noqa: FURB136
    m = x + _ROUND32
    f = x - (m - _ROUND32)
    c = _SERIES32
    p = c[4] + f * (c[5] + f * (c[6] + f * c[7]))
    p = c[0] + f * (c[1] + f * (c[2] + f * (c[3] + f * p)))
    bits = (np.float32(m).view(np.int32) + np.int32(127)) << np.int32(23)
    return p * np.float32(np.int32(bits).view(np.float32))


def _exp2_double(x):
    x = _HIGH64 if x > _HIGH64 else x  # noqa: FURB136
    x = _LOW64 if x < _LOW64 else x  # noqa: FURB136
    m = x + _ROUND64
    f = x - (m - _ROUND64)
    c = _SERIES64
    p = c[9] + f * (c[10] + f * (c[11] + f * (c[12] + f * c[13])))
    p = c[4] + f * (c[5] + f * (c[6] + f * (c[7] + f * (c[8] + f * p))))
    p = c[0] + f * (c[1] + f * (c[2] + f * (c[3] + f * p)))
    bits = (np.float64(m).view(np.int64) + 1023) << 52
    return p * np.float64(np.int64(bits).view(np.float64))


# --- tiles --------------------------------------------------------------------------------------


@compiled(nogil=True)
def _tiles(count, size, dtype):
    """Tiles (size, WIDTH) of zeros, and a row more: at a distance of a power of two the same element
    of each would compete for the same lines of the cache (which took 1.7 times as long)."""
    return np.zeros((count, size + 1, WIDTH), dtype)


@compiled(nogil=True)
def _load(tile, x, c0, c1, t0, t1):
    """A tile (steps, WIDTH) of x (d, L); channels that are not there are 0."""
    for c in range(c1 - c0):
        for t in range(t1 - t0):
            tile[t, c] = x[c0 + c, t0 + t]
    tile[:, c1 - c0 :] = 0


@compiled(nogil=True)
def _store(x, tile, c0, c1, t0, t1):
    for c in range(c1 - c0):
        for t in range(t1 - t0):
            x[c0 + c, t0 + t] = tile[t, c]


@compiled(nogil=True)
def _columns(M, c0, c1):
    """Rows c0 to c1 of M (d, n) as columns (n, WIDTH), zeros beyond."""
    columns = np.zeros((M.shape[1], WIDTH), M.dtype)
    for c in range(c1 - c0):
        for k in range(M.shape[1]):
            columns[k, c] = M[c0 + c, k]
    return columns


@compiled(nogil=True)
def _of_channels(constant, n, c0, c1):
    """The factor of B or C that belongs to a channel: (n, WIDTH), ones where it varies in time."""
    if constant.size:
        return _columns(constant, c0, c1)
    return np.ones((n, WIDTH), constant.dtype)


@compiled(nogil=True)
def _of_time(varying, n, i, group, t0, t1):
    """The factor of B or C that belongs to a time: (n, steps), ones where it is constant."""
    if varying.size:
        return varying[i, group, :, t0:t1].copy()
    return np.ones((n, t1 - t0), varying.dtype)


# --- the recurrence -----------------------------------------------------------------------------


@compiled(nogil=True)
def _forward(u, dt, A, Bt, Bc, Ct, Cc, state, y, saved, i, row, start, stop, chunk, c0, c1, group,
             size):
    n = A.shape[1]
    rates = _columns(A, c0, c1) * A.dtype.type(_LOG2E)
    x = _columns(state[row], c0, c1)
    B_c, C_c = _of_channels(Bc, n, c0, c1), _of_channels(Cc, n, c0, c1)
    tiles = _tiles(3, size, A.dtype)
    steps, inputs, sums = tiles[0], tiles[1], tiles[2]
    for t0 in range(start, stop, size):
        t1 = min(t0 + size, stop)
        if saved.size:
            _store(saved[i, chunk + (t0 - start) // size], x, c0, c1, 0, n)
        _load(steps, dt[i], c0, c1, t0, t1)
        _load(inputs, u[i], c0, c1, t0, t1)
        inputs *= steps
        sums[:] = 0
        _advance(steps, inputs, rates, _of_time(Bt, n, i, group, t0, t1), B_c,
                 _of_time(Ct, n, i, group, t0, t1), C_c, x, sums)
        _store(y[i], sums, c0, c1, t0, t1)
    _store(state[row], x, c0, c1, 0, n)


@compiled(nogil=True, fastmath=_FUSE)
def _advance(steps, inputs, rates, B_t, B_c, C_t, C_c, x, sums):
    """Take x (n, WIDTH) through one chunk and add C x to sums (steps, WIDTH)."""
    n, T = B_t.shape
    for k in range(n):
        rate, state, B_k, C_k = rates[k], x[k], B_c[k], C_c[k]
        for t in range(T):
            b, c = B_t[k, t], C_t[k, t]
            for j in range(WIDTH):
                new = _exp2(steps[t, j] * rate[j]) * state[j] + inputs[t, j] * (b * B_k[j])
                state[j] = new
                sums[t, j] += c * C_k[j] * new


@compiled(nogil=True)
def _backward(u, dt, A, Bt, Bc, Ct, Cc, saved, dy, dstate, y, du, ddt, dA, dBt, dBc, dCt, dCc,
              i, row, start, stop, chunk, lane, lanes, first, end, group, size):
    """Every lanes-th block of channels of a group; their dB and dC add up in one lane."""
    n = A.shape[1]
    for c0 in range(first + lane * WIDTH, end, lanes * WIDTH):
        c1 = min(c0 + WIDTH, end)
        rates = _columns(A, c0, c1) * A.dtype.type(_LOG2E)
        B_c, C_c = _of_channels(Bc, n, c0, c1), _of_channels(Cc, n, c0, c1)
        dA_c, dB_c, dC_c = np.zeros_like(rates), np.zeros_like(rates), np.zeros_like(rates)
        carry = _columns(dstate[row], c0, c1)
        tiles = _tiles(9, size, A.dtype)
        inputs, samples, steps, out_grads = tiles[0], tiles[1], tiles[2], tiles[3]
        outputs, through_A, through_B = tiles[4], tiles[5], tiles[6]
        for t0 in range(start + (stop - start - 1) // size * size, start - 1, -size):
            t1 = min(t0 + size, stop)
            _load(steps, dt[i], c0, c1, t0, t1)
            _load(samples, u[i], c0, c1, t0, t1)
            _load(out_grads, dy[i], c0, c1, t0, t1)
            inputs[:] = samples * steps
            tiles[4:7] = 0
            B_t = _of_time(Bt, n, i, group, t0, t1)
            C_t = _of_time(Ct, n, i, group, t0, t1)
            dB_t, dC_t = np.empty_like(B_t), np.empty_like(C_t)
            before = _columns(saved[i, chunk + (t0 - start) // size], c0, c1)
            _retreat(steps, inputs, out_grads, rates, B_t, B_c, C_t, C_c, before, carry,
                     outputs, through_A, through_B, dA_c, dB_t, dB_c, dC_t, dC_c, tiles[7],
                     tiles[8])
            _store(y[i], outputs, c0, c1, t0, t1)
            _store(du[i], steps * through_B, c0, c1, t0, t1)
            through_A *= A.dtype.type(_LN2)  # rates are A / ln 2
            _store(ddt[i], through_A + samples * through_B, c0, c1, t0, t1)
            if dBt.size:
                dBt[lane, i, group, :, t0:t1] += dB_t
            if dCt.size:
                dCt[lane, i, group, :, t0:t1] += dC_t
        _store(dA[row], dA_c, c0, c1, 0, n)
        _store(dstate[row], carry, c0, c1, 0, n)
        if dBc.size:
            _store(dBc[row], dB_c, c0, c1, 0, n)
        if dCc.size:
            _store(dCc[row], dC_c, c0, c1, 0, n)


@compiled(nogil=True, fastmath=_FUSE)
def _retreat(steps, inputs, out_grads, rates, B_t, B_c, C_t, C_c, before, carry,
             outputs, through_A, through_B, dA_c, dB_t, dB_c, dC_t, dC_c, decays, olds):
    """One chunk forth for its states, then back; carry (n, WIDTH) is e^{dt A} g of the step after.

    through_A and through_B (steps, WIDTH) get the sums over n of rate p g and of B g. decays and
    olds are memory to work in.
    """
    n, T = B_t.shape
    to_B, to_C = np.empty(WIDTH, rates.dtype), np.empty(WIDTH, rates.dtype)
    for k in range(n):
        rate, state, g_next, B_k, C_k = rates[k], before[k], carry[k], B_c[k], C_c[k]
        dA_k, dB_k, dC_k = dA_c[k], dB_c[k], dC_c[k]
        for t in range(T):
            b, c = B_t[k, t], C_t[k, t]
            for j in range(WIDTH):
                decay = _exp2(steps[t, j] * rate[j])
                old = decay * state[j]
                new = old + inputs[t, j] * (b * B_k[j])
                decays[t, j], olds[t, j], state[j] = decay, old, new
                outputs[t, j] += c * C_k[j] * new
        for t in range(T - 1, -1, -1):
            b, c = B_t[k, t], C_t[k, t]
            for j in range(WIDTH):
                g = g_next[j] + out_grads[t, j] * (c * C_k[j])
                g_next[j] = decays[t, j] * g
                gp = g * olds[t, j]
                through_A[t, j] += gp * rate[j]
                through_B[t, j] += g * (b * B_k[j])
                dA_k[j] += gp * steps[t, j]
                to_B[j] = g * inputs[t, j]
                to_C[j] = out_grads[t, j] * (olds[t, j] + inputs[t, j] * (b * B_k[j]))
            for j in range(WIDTH):  # what a constant B or C gets; else these are not used
                dB_k[j] += to_B[j] * b
                dC_k[j] += to_C[j] * c
            dB_t[k, t], dC_t[k, t] = _total(to_B), _total(to_C)


@compiled(nogil=True, fastmath={"reassoc"})
def _total(x):
    """The sum of x (WIDTH,) in an order that is fixed when this is compiled."""
    total = x.dtype.type(0)
    for j in range(len(x)):
        total += x[j]
    return total
