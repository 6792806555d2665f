"""The kernel that sums up each chunk: what it adds to the state after it, or to a gradient before it."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core.ssd.triton.chunks import (
    SIZES,
    at_chunk,
    chunk_of,
    from_start,
    load_steps,
    load_tile,
    owned,
    product,
    state_block,
    to_end,
)


@triton.jit
def scales(p_steps, i_chunk, i_h, h, ADJOINT: tl.constexpr, Q: tl.constexpr):
    """What x of each step is worth at the end of the chunk, or as the adjoint at its start, (Q,)."""
    b_dt, b_high, b_low = load_steps(p_steps, i_chunk, i_h, h, Q)
    if ADJOINT:
        return from_start(b_high)
    else:
        return to_end(p_steps, b_high, b_low, i_chunk, i_h, h, Q) * b_dt


@triton.jit(do_not_specialize=SIZES)
def chunk_states(p_x, p_w, p_steps, p_added, p_cu, p_owner, s_xb, s_xt, s_wb, s_wt, h, groups, L,
                 chunks, per_program, programs_per_group, ADJOINT: tl.constexpr,
                 UNIT: tl.constexpr, P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr,
                 BN: tl.constexpr, Q: tl.constexpr, COMPUTE: tl.constexpr,
                 PRECISION: tl.constexpr):
    """Into p_added (chunks, h, P, N), the state that a chunk leaves behind if none enters it.

    That is a sum over its steps of x times B (p_w) times Δ and the decay to its end. As the adjoint,
    x is the gradient of the output before the gate, w is C, and the decay is that from the start: the
    gradient of the entering state, but for what passes through the chunk.
    """
    i_chunk, i_g, first, last = owned(h, groups, per_program, programs_per_group)
    i_b, start, steps = chunk_of(i_chunk, p_cu, p_owner, L, chunks, Q)
    p_x = at_chunk(p_x, i_b, s_xb, start, s_xt, UNIT)
    p_w = at_chunk(p_w, i_b, s_wb, start, s_wt, UNIT)
    b_w = load_tile(p_w + i_g * N, s_wt, steps, N, BN, Q, UNIT)  # (Q, BN)
    for i_h in range(first, last):
        b_scale = scales(p_steps, i_chunk, i_h, h, ADJOINT, Q)
        for i_p in tl.static_range((P + BP - 1) // BP):
            o_h = i_h * P + i_p * BP
            b_x = load_tile(p_x + o_h, s_xt, steps, P - i_p * BP, BP, Q, UNIT)  # (Q, BP)
            b_x = b_x.to(tl.float32) * b_scale[:, None]
            b_added = product(tl.trans(b_x), b_w, COMPUTE, PRECISION)  # (BP, BN)
            p_state, o, known = state_block(p_added, i_chunk, i_h, i_p, h, P, BP, N, BN)
            tl.store(p_state + o, b_added.to(p_added.dtype.element_ty), mask=known)
