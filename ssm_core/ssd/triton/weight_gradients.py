"""The kernel that makes the gradients of B and C of each chunk, which heads of a group share."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core.ssd.triton.chunk_states import scales
from ssm_core.ssd.triton.chunks import (
    SIZES,
    add_product,
    at_chunk,
    chunk_of,
    load_state,
    load_tile,
    owned,
    product,
    store_tile,
)


@triton.jit(do_not_specialize=SIZES)
def weight_gradients(p_x, p_other, p_steps, p_states, p_dscores, p_dw, p_cu, p_owner, s_xb, s_xt,
                     s_wb, s_wt, h, groups, L, chunks, per_program, programs_per_group, b,
                     ADJOINT: tl.constexpr, UNIT: tl.constexpr, P: tl.constexpr,
                     BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, Q: tl.constexpr,
                     COMPUTE: tl.constexpr, PRECISION: tl.constexpr):
    """The share of a program in the gradient of B, into p_dw (programs of a group, b, L, groups, N).

    It comes from what B adds to the states, whose gradients after each chunk are p_states (chunks,
    h, P, N), and from p_dscores, the gradients of the products of B and C (p_other). As the adjoint it
    is the gradient of C: x is the gradient of the output before the gate, p_other is B, and the states
    are those before each chunk.
    """
    i_chunk, i_g, first, last = owned(h, groups, per_program, programs_per_group)
    i_b, start, steps = chunk_of(i_chunk, p_cu, p_owner, L, chunks, Q)
    p_x = at_chunk(p_x, i_b, s_xb, start, s_xt, UNIT)
    p_other = at_chunk(p_other, i_b, s_wb, start, s_wt, UNIT)
    o_q = tl.arange(0, Q)
    p_pairs = p_dscores + tl.program_id(0).to(tl.int64) * (Q * Q)
    b_pairs = tl.load(p_pairs + o_q[:, None] * Q + o_q[None, :])  # (Q, Q)
    if ADJOINT:
        b_pairs = tl.trans(b_pairs)
    b_other = load_tile(p_other + i_g * N, s_wt, steps, N, BN, Q, UNIT)  # (Q, BN)
    b_dw = product(b_pairs, b_other, COMPUTE, PRECISION)  # (Q, BN)
    for i_h in range(first, last):
        b_scale = scales(p_steps, i_chunk, i_h, h, ADJOINT, Q)
        for i_p in tl.static_range((P + BP - 1) // BP):
            o_h = i_h * P + i_p * BP
            b_x = load_tile(p_x + o_h, s_xt, steps, P - i_p * BP, BP, Q, UNIT)  # (Q, BP)
            b_state = load_state(p_states, i_chunk, i_h, i_p, h, P, BP, N, BN)  # (BP, BN)
            b_x = b_x.to(tl.float32) * b_scale[:, None]
            b_dw = add_product(b_dw, b_x, b_state, COMPUTE, PRECISION)
    i_share = (tl.program_id(0) % programs_per_group).to(tl.int64)
    p_dw += ((i_share * b + i_b) * L + start) * (groups * N) + i_g * N
    store_tile(p_dw, groups * N, steps, b_dw, N, BN, Q, 1)
