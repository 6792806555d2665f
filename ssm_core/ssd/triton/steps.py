"""The kernels of step sizes: Δ and the sums of Δ A of each chunk, and the gradient of dt.

All other kernels read Δ and the sums, and never see dt, its bias, softplus or limits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core._triton import LOG2E, sigmoid, softplus
from ssm_core.ssd.triton.chunks import SIZES, chunk_of

# Of Δ A, in powers of two. A smaller decay is 0 in float32 as well, and sums stay small: what passes
# beside a step that forgets everything keeps its digits.
LEAST = tl.constexpr(-256.0)


@triton.jit
def place(p_cu, p_owner, h, L, chunks, Q: tl.constexpr, BH: tl.constexpr):
    """The chunk and heads of a program: i_chunk, heads (BH,), the row i_b and first step of the chunk,
    and which of its steps (Q, BH) are there."""
    blocks = tl.cdiv(h, BH)
    i_chunk = (tl.program_id(0) // blocks).to(tl.int64)
    o_h = tl.program_id(0) % blocks * BH + tl.arange(0, BH)
    i_b, start, steps = chunk_of(i_chunk, p_cu, p_owner, L, chunks, Q)
    here = (tl.arange(0, Q)[:, None] < steps) & (o_h < h)[None, :]
    return i_chunk, o_h, i_b, start, here


@triton.jit
def raw_steps(p_dt, p_bias, s_dt, o_h, h, here, Q: tl.constexpr):
    """dt with its bias, before softplus and limits, (Q, BH)."""
    o = tl.arange(0, Q)[:, None] * s_dt + o_h[None, :]
    b_raw = tl.load(p_dt + o, mask=here, other=0.0).to(tl.float32)
    if p_bias is not None:
        b_raw += tl.load(p_bias + o_h, mask=o_h < h, other=0.0)[None, :]
    return b_raw


@triton.jit(do_not_specialize=SIZES)
def make_steps(p_dt, p_A, p_bias, p_steps, p_cu, p_owner, dt_min, dt_max, s_db, s_dt, h, L, chunks,
               SOFTPLUS: tl.constexpr, Q: tl.constexpr, BH: tl.constexpr):
    """Δ, and the sums of Δ A / log(2) from the start of each chunk, into p_steps (chunks, h, 3, Q).

    A step that is not there gets Δ = 0, which leaves the state as it is. Sums are taken in float64 and
    kept as two numbers in float32, since differences of them are wanted: what two sums from the start
    have in common may be much more than what they differ by.
    """
    i_chunk, o_h, i_b, start, here = place(p_cu, p_owner, h, L, chunks, Q, BH)
    known = o_h < h
    b_dt = raw_steps(p_dt + (i_b * s_db + start * s_dt), p_bias, s_dt, o_h, h, here, Q)
    if SOFTPLUS:
        b_dt = softplus(b_dt)
    b_dt = tl.maximum(b_dt, dt_min, propagate_nan=tl.PropagateNan.ALL)
    b_dt = tl.minimum(b_dt, dt_max, propagate_nan=tl.PropagateNan.ALL)
    b_dt = tl.where(here, b_dt, 0.0)
    b_A = tl.load(p_A + o_h, mask=known, other=0.0).to(tl.float32) * LOG2E
    b_a = tl.maximum(b_dt * b_A[None, :], LEAST, propagate_nan=tl.PropagateNan.ALL)
    b_sums = tl.cumsum(b_a.to(tl.float64), axis=0)  # (Q, BH)
    b_high = b_sums.to(tl.float32)
    b_low = (b_sums - b_high.to(tl.float64)).to(tl.float32)
    p = p_steps + (i_chunk * h + o_h[None, :]) * (3 * Q) + tl.arange(0, Q)[:, None]
    stored = tl.broadcast_to(known[None, :], [Q, BH])  # also steps that are not there
    tl.store(p, b_dt, mask=stored)
    tl.store(p + Q, b_high, mask=stored)
    tl.store(p + 2 * Q, b_low, mask=stored)


@triton.jit(do_not_specialize=SIZES)
def step_gradients(p_dsteps, p_dt, p_bias, p_ddt, p_dbias, p_cu, p_owner, dt_min, dt_max, s_db, s_dt,
                   h, L, chunks, SOFTPLUS: tl.constexpr, Q: tl.constexpr, BH: tl.constexpr):
    """The gradient of dt (b, L, h) from that of Δ (chunks, h, Q), and shares (chunks, h) of the bias's."""
    i_chunk, o_h, i_b, start, here = place(p_cu, p_owner, h, L, chunks, Q, BH)
    o_q = tl.arange(0, Q)[:, None]
    b_raw = raw_steps(p_dt + (i_b * s_db + start * s_dt), p_bias, s_dt, o_h, h, here, Q)
    p = p_dsteps + (i_chunk * h + o_h[None, :]) * Q + o_q
    b_ddt = tl.load(p, mask=here, other=0.0)
    b_dt = b_raw
    if SOFTPLUS:
        b_dt = softplus(b_raw)
        b_ddt *= sigmoid(b_raw)
    b_ddt = tl.where((b_dt >= dt_min) & (b_dt <= dt_max) & here, b_ddt, 0.0)
    p_ddt += (i_b * L + start) * h
    tl.store(p_ddt + o_q * h + o_h[None, :], b_ddt.to(p_ddt.dtype.element_ty), mask=here)
    if p_dbias is not None:
        tl.store(p_dbias + i_chunk * h + o_h, tl.sum(b_ddt, axis=0), mask=o_h < h)
