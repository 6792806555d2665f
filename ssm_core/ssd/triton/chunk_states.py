"""The kernel that sums up each chunk: what it adds to the state after it, or to a gradient before it."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core._triton import sigmoid
from ssm_core.ssd.triton.chunks import (
    SIZES,
    at_chunk,
    chunk_of,
    from_start,
    load_tile,
    owned,
    product,
    state_block,
    steps_of_chunk,
    to_end,
)


@triton.jit
def scales(p_dt, s_dt, p_bias, p_A, steps, i_h, dt_min, dt_max, ADJOINT: tl.constexpr,
           SOFTPLUS: tl.constexpr, Q: tl.constexpr):
    """What x of each step is worth at the end of the chunk, or as the adjoint at its start, (Q,).

    Also the sum of Δ A over the chunk.
    """
    b_dt, _, b_a, b_next = steps_of_chunk(p_dt, s_dt, p_bias, p_A, steps, i_h, dt_min, dt_max,
                                          SOFTPLUS, Q)
    if ADJOINT:
        b_scale = from_start(b_a)
    else:
        b_scale = to_end(b_next) * b_dt
    return b_scale, tl.sum(b_a, axis=0)


@triton.jit
def scaled_signal(p_x, s_xt, p_z, s_zt, o_h, steps, b_scale, W: tl.constexpr, BP: tl.constexpr,
                  Q: tl.constexpr, ALIGNED: tl.constexpr):
    """x times the scale of its step, (Q, BP), and times silu(z) where there is a z."""
    b_x = load_tile(p_x + o_h, s_xt, steps, W, BP, Q, ALIGNED).to(tl.float32) * b_scale[:, None]
    if p_z is not None:
        b_z = load_tile(p_z + o_h, s_zt, steps, W, BP, Q, ALIGNED).to(tl.float32)
        b_x *= b_z * sigmoid(b_z)
    return b_x


@triton.jit(do_not_specialize=SIZES)
def chunk_states(p_x, p_z, p_dt, p_A, p_w, p_bias, p_added, p_sums, p_cu, p_owner, dt_min, dt_max,
                 s_xb, s_xt, s_zb, s_zt, s_db, s_dt, s_wb, s_wt, h, groups, L, chunks, per_program,
                 programs_per_group, ADJOINT: tl.constexpr, SOFTPLUS: tl.constexpr,
                 ALIGNED: tl.constexpr, P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr,
                 BN: tl.constexpr, Q: tl.constexpr, COMPUTE: tl.constexpr,
                 PRECISION: tl.constexpr):
    """Into p_added (chunks, h, P, N), the state that a chunk leaves behind if none enters it.

    That is a sum over its steps of x times B times Δ and the decay to its end, and the sums of Δ A
    go into p_sums (chunks, h). As the adjoint, x is the gradient of the output, w is C, and the decay
    is that from the start: the gradient of the entering state, but for what passes through the chunk.
    """
    i_chunk, i_g, first, last = owned(h, groups, per_program, programs_per_group)
    i_b, start, steps = chunk_of(i_chunk, p_cu, p_owner, L, chunks, Q)
    p_x = at_chunk(p_x, i_b, s_xb, start, s_xt, ALIGNED)
    p_dt = at_chunk(p_dt, i_b, s_db, start, s_dt, False)
    p_w = at_chunk(p_w, i_b, s_wb, start, s_wt, ALIGNED)
    if p_z is not None:
        p_z = at_chunk(p_z, i_b, s_zb, start, s_zt, ALIGNED)
    b_w = load_tile(p_w + i_g * N, s_wt, steps, N, BN, Q, ALIGNED)  # (Q, BN)
    for i_h in range(first, last):
        b_scale, b_sum = scales(p_dt, s_dt, p_bias, p_A, steps, i_h, dt_min, dt_max, ADJOINT,
                                SOFTPLUS, Q)
        if not ADJOINT:
            tl.store(p_sums + i_chunk * h + i_h, b_sum)
        for i_p in tl.static_range((P + BP - 1) // BP):
            b_x = scaled_signal(p_x, s_xt, p_z, s_zt, i_h * P + i_p * BP, steps, b_scale,
                                P - i_p * BP, BP, Q, ALIGNED)
            b_added = product(tl.trans(b_x), b_w, COMPUTE, PRECISION)  # (BP, BN)
            p_state, o, known = state_block(p_added, i_chunk, i_h, i_p, h, P, BP, N, BN)
            tl.store(p_state + o, b_added.to(p_added.dtype.element_ty), mask=known)
