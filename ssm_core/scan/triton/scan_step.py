"""The kernel of one step, for inference."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core._triton import LOG2E, sigmoid, softplus


@triton.jit
def scan_step(p_state, p_x, p_dt, p_A, p_B, p_C, p_D, p_z, p_bias, p_slots, p_y, s_state, s_x, s_dt,
              s_B, s_C, s_z, d, groups, SOFTPLUS: tl.constexpr, A_IS_LOG: tl.constexpr,
              N: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):
    """Take one step with BD channels of one row of the batch (eq-selective-scan).

    The state (slots, d, N) has any strides, s_state. Rows of x, Δ, B, C and z may lie apart (``s_``
    is the distance of two), since they are slices of what a projection gives. All loads stand before
    the first use of one: a step is mostly waiting, and so they wait together.
    """
    blocks = tl.cdiv(d, BD)
    i_b = (tl.program_id(0) // blocks).to(tl.int64)
    o_d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)  # (BD,)
    known = o_d < d  # (BD,)
    o_n = tl.arange(0, BN)  # (BN,), N rounded up to a power of two
    here = known[:, None] & (o_n < N)[None, :]  # (BD, BN)
    slot = i_b
    if p_slots is not None:
        slot = tl.load(p_slots + i_b).to(tl.int64)
    used = o_d * 0 + slot >= 0  # (BD,); a negative slot is padding
    o_x = (slot * s_state[0] + o_d.to(tl.int64)[:, None] * s_state[1]
           + o_n.to(tl.int64)[None, :] * s_state[2])  # (BD, BN)
    b_state = tl.load(p_state + o_x, mask=here & used[:, None], other=0.0).to(tl.float32)
    o_w = (o_d // (d // groups))[:, None] * N + o_n[None, :]  # (BD, BN)
    b_B = tl.load(p_B + i_b * s_B + o_w, mask=here, other=0.0).to(tl.float32)
    b_C = tl.load(p_C + i_b * s_C + o_w, mask=here, other=0.0).to(tl.float32)
    b_A = tl.load(p_A + o_d[:, None] * N + o_n[None, :], mask=here, other=0.0)
    b_x = tl.load(p_x + i_b * s_x + o_d, mask=known, other=0.0).to(tl.float32)  # (BD,)
    b_dt = tl.load(p_dt + i_b * s_dt + o_d, mask=known, other=0.0).to(tl.float32)  # (BD,)
    b_bias, b_D = tl.zeros([BD], tl.float32), tl.zeros([BD], tl.float32)
    if p_bias is not None:
        b_bias = tl.load(p_bias + o_d, mask=known, other=0.0)
    if p_D is not None:
        b_D = tl.load(p_D + o_d, mask=known, other=0.0)
    if p_z is not None:
        b_z = tl.load(p_z + i_b * s_z + o_d, mask=known, other=0.0).to(tl.float32)
    b_dt += b_bias
    if SOFTPLUS:
        b_dt = softplus(b_dt)
    if A_IS_LOG:
        b_A = tl.where(here, -tl.exp2(b_A * LOG2E), 0.0)
    b_state = tl.exp2(b_dt[:, None] * (b_A * LOG2E)) * b_state + (b_dt * b_x)[:, None] * b_B
    b_y = tl.sum(b_state * b_C, axis=1) + b_D * b_x  # (BD,)
    if p_z is not None:
        b_y *= b_z * sigmoid(b_z)
    b_y = tl.where(used, b_y, 0.0)
    tl.store(p_state + o_x, b_state.to(p_state.dtype.element_ty), mask=here & used[:, None])
    tl.store(p_y + i_b * d + o_d, b_y.to(p_y.dtype.element_ty), mask=known)
