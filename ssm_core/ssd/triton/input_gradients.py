"""The kernel that makes the gradients of x and of step sizes, as far as they weigh the input."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core.ssd.triton.chunk_outputs import direct_weights
from ssm_core.ssd.triton.chunks import (
    SIZES,
    add_product,
    at_chunk,
    chunk_of,
    decays,
    load_state,
    load_steps,
    load_tile,
    owned,
    product,
    store_tile,
    to_end,
)


@triton.jit(do_not_specialize=SIZES)
def input_gradients(p_dy, p_x, p_B, p_C, p_D, p_steps, p_entering, p_leaving, p_dx, p_dsteps,
                    p_written, p_kept, p_cu, p_owner, s_xb, s_xt, s_Bb, s_Bt, s_Cb, s_Ct, h, groups,
                    L, chunks, per_program, programs_per_group, PER_CHANNEL: tl.constexpr,
                    UNIT: tl.constexpr, P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr,
                    BN: tl.constexpr, Q: tl.constexpr, COMPUTE: tl.constexpr,
                    PRECISION: tl.constexpr):
    """The gradients of x, and of Δ where it multiplies x; p_dy is that of the output before the gate.

    p_entering and p_leaving (chunks, h, P, N) are the states before, and the gradients of the states
    after each chunk. The gradient of Δ goes into p_dsteps (chunks, h, Q). For ``pair_gradients``,
    products of gradients with what they are gradients of: of what each step adds to the state, into
    p_written (chunks, h, Q), and of what is kept of the entering state, into p_kept (chunks, h).
    Blocks of pairs stand as (j, i): that is how they multiply dy.
    """
    i_chunk, i_g, first, last = owned(h, groups, per_program, programs_per_group)
    i_b, start, steps = chunk_of(i_chunk, p_cu, p_owner, L, chunks, Q)
    p_x = at_chunk(p_x, i_b, s_xb, start, s_xt, UNIT)
    p_B = at_chunk(p_B, i_b, s_Bb, start, s_Bt, UNIT)
    p_C = at_chunk(p_C, i_b, s_Cb, start, s_Ct, UNIT)
    p_dy += (i_b * L + start) * (h * P)
    p_dx += (i_b * L + start) * (h * P)
    o_q = tl.arange(0, Q)
    b_B = load_tile(p_B + i_g * N, s_Bt, steps, N, BN, Q, UNIT)  # (Q, BN)
    b_C = load_tile(p_C + i_g * N, s_Ct, steps, N, BN, Q, UNIT)  # (Q, BN)
    b_scores = product(b_B, tl.trans(b_C), COMPUTE, PRECISION)  # (Q, Q)
    for i_h in range(first, last):
        b_dt, b_high, b_low = load_steps(p_steps, i_chunk, i_h, h, Q)
        b_weights = b_scores * decays(b_high, b_low, True, Q)  # (Q, Q)
        b_to_end = to_end(p_steps, b_high, b_low, i_chunk, i_h, h, Q)
        b_written, b_dsteps = tl.zeros([Q], tl.float32), tl.zeros([Q], tl.float32)
        b_kept = 0.0
        for i_p in tl.static_range((P + BP - 1) // BP):
            o_h = i_h * P + i_p * BP
            b_state = load_state(p_entering, i_chunk, i_h, i_p, h, P, BP, N, BN)  # (BP, BN)
            b_dstate = load_state(p_leaving, i_chunk, i_h, i_p, h, P, BP, N, BN)  # (BP, BN)
            b_kept += tl.sum(b_state.to(tl.float32) * b_dstate.to(tl.float32))
            b_du = product(b_B, tl.trans(b_dstate), COMPUTE, PRECISION) * b_to_end[:, None]
            b_x = load_tile(p_x + o_h, s_xt, steps, P - i_p * BP, BP, Q, UNIT).to(tl.float32)
            b_dy = load_tile(p_dy + o_h, h * P, steps, P - i_p * BP, BP, Q, 1)  # (Q, BP)
            b_written += tl.sum(b_du * b_x, axis=1)
            b_du = add_product(b_du, b_weights, b_dy, COMPUTE, PRECISION)  # (Q, BP)
            b_dsteps += tl.sum(b_du * b_x, axis=1)
            b_dx = b_du * b_dt[:, None]
            if p_D is not None:
                b_D = direct_weights(p_D, i_h, i_p, PER_CHANNEL, P, BP)
                b_dx += b_D[None, :] * b_dy.to(tl.float32)
            store_tile(p_dx + o_h, h * P, steps, b_dx, P - i_p * BP, BP, Q, 1)
        i_head = i_chunk * h + i_h
        tl.store(p_dsteps + i_head * Q + o_q, b_dsteps)
        tl.store(p_written + i_head * Q + o_q, b_written * b_dt)
        tl.store(p_kept + i_head, b_kept)
