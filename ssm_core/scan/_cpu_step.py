"""One step of the selective scan, compiled by Numba.

The states of a channel stand side by side, so vector instructions run over them.
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
from ssm_core.scan._cpu_compiled import _exp2

__all__ = ["advance", "silu", "softplus", "state_update"]

_SUMS = {"contract", "reassoc"}  # sums in any order; NaN and infinity stay what they are
_LOG2E = 1 / math.log(2)


def state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    A_is_log: bool,
) -> Tensor:
    """One step in place; all tensors are of one dtype, float32 or float64."""
    # Copies, because numpy() would fix the size of a parameter's storage, and FSDP resizes it.
    A = A.detach().clone()
    D, dt_bias = (M if M is None else M.detach().clone() for M in (D, dt_bias))
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    nothing = x.new_empty(0)
    moved = state.detach().contiguous()
    _rows(
        moved.numpy(),
        *_arrays(x, dt, A),
        A_is_log,
        *_arrays(
            B,
            C,
            nothing if D is None else D,
            x.new_empty(len(x), 0) if z is None else z,
            nothing if dt_bias is None else dt_bias,
        ),
        dt_softplus,
        y.numpy(),
    )
    if not state.is_contiguous():
        state.copy_(moved)
    return y


def _arrays(*tensors: Tensor) -> list[Any]:
    return [x.detach().contiguous().numpy() for x in tensors]


@compiled(nogil=True)
def _rows(state, x, dt, A, A_is_log, B, C, D, z, dt_bias, dt_softplus, y):
    for i in range(len(x)):
        advance(state[i], x[i], dt[i], A, A_is_log, B[i], C[i], D, z[i], dt_bias, dt_softplus, y[i])


@compiled(nogil=True)
def advance(state, x, dt, A, A_is_log, B, C, D, z, dt_bias, dt_softplus, y):
    """One row: state (d, n) in place, output y (d,); B and C are (g, n). D, z and dt_bias may be
    empty."""
    d = len(x)
    steps, decays = np.empty_like(y), np.empty_like(state)
    for c in range(d):
        step = dt[c] + dt_bias[c] if len(dt_bias) else dt[c]
        steps[c] = softplus(step) if dt_softplus else step
    _decay(steps, A, A_is_log, decays)
    _update(state, decays, steps, x, B, C, y)
    if len(D):
        for c in range(d):
            y[c] += D[c] * x[c]
    if len(z):
        for c in range(d):
            y[c] *= silu(z[c])


@compiled(nogil=True, fastmath={"contract"})
def _decay(steps, A, A_is_log, decays):
    """e^{dt A} of all states (d, n): in one row, where exponentials come in vector instructions."""
    d, n = A.shape
    log2e = A.dtype.type(_LOG2E)
    row = decays.reshape(d * n)
    for c in range(d):
        for j in range(n):
            decays[c, j] = A[c, j] * log2e
    if A_is_log:
        for k in range(d * n):
            row[k] = -_exp2(row[k]) * log2e
    for c in range(d):
        for j in range(n):
            decays[c, j] *= steps[c]
    for k in range(d * n):
        row[k] = _exp2(row[k])


@compiled(nogil=True, fastmath=_SUMS)
def _update(state, decays, steps, x, B, C, y):
    """The states (d, n) in place, and y = C x. No views of rows: each would count its references."""
    d, n = state.shape
    per_group = d // len(B)
    for c in range(d):
        group, value, total = c // per_group, steps[c] * x[c], state.dtype.type(0)
        for j in range(n):
            new = decays[c, j] * state[c, j] + value * B[group, j]
            state[c, j] = new
            total += C[group, j] * new
        y[c] = total


@compiled(nogil=True)
def softplus(x):
    """log(1 + exp(x)); from 40 on that is x to the last bit."""
    return x if x > 40 else math.log1p(math.exp(x))


def silu(x):
    """x / (1 + e^-x)."""
    raise NotImplementedError("compiled code only")


@overload(silu, jit_options={"fastmath": {"contract"}})
def _(x):
    kind = np.float32 if x == types.float32 else np.float64
    log2e, one = kind(_LOG2E), kind(1)

    def compute(x):
        return x / (one + _exp2(-x * log2e))

    return compute
