"""The kernel that makes the outputs of each chunk, from the state that enters it."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core._triton import sigmoid
from ssm_core.ssd.triton.chunks import (
    SIZES,
    add_product,
    at_chunk,
    chunk_of,
    decays,
    from_start,
    load_state,
    load_steps,
    load_tile,
    owned,
    product,
    store_tile,
)


@triton.jit
def direct_weights(p_D, i_h, i_p, PER_CHANNEL: tl.constexpr, P: tl.constexpr, BP: tl.constexpr):
    """D of a block of channels of a head, (BP,)."""
    o_p = i_p * BP + tl.arange(0, BP)
    if PER_CHANNEL:
        return tl.load(p_D + i_h * P + o_p, mask=o_p < P, other=0.0)
    else:
        return tl.load(p_D + i_h + o_p * 0)


@triton.jit(do_not_specialize=SIZES)
def chunk_outputs(p_x, p_z, p_B, p_C, p_D, p_steps, p_entering, p_y, p_cu, p_owner, s_xb, s_xt,
                  s_zb, s_zt, s_Bb, s_Bt, s_Cb, s_Ct, h, groups, L, chunks, per_program,
                  programs_per_group, PER_CHANNEL: tl.constexpr, UNIT: tl.constexpr,
                  P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
                  Q: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr):
    """y (b, L, h, P) from x, and the states (chunks, h, P, N) that enter the chunks."""
    i_chunk, i_g, first, last = owned(h, groups, per_program, programs_per_group)
    i_b, start, steps = chunk_of(i_chunk, p_cu, p_owner, L, chunks, Q)
    p_x = at_chunk(p_x, i_b, s_xb, start, s_xt, UNIT)
    p_B = at_chunk(p_B, i_b, s_Bb, start, s_Bt, UNIT)
    p_C = at_chunk(p_C, i_b, s_Cb, start, s_Ct, UNIT)
    if p_z is not None:
        p_z = at_chunk(p_z, i_b, s_zb, start, s_zt, UNIT)
    p_y += (i_b * L + start) * (h * P)
    b_B = load_tile(p_B + i_g * N, s_Bt, steps, N, BN, Q, UNIT)  # (Q, BN)
    b_C = load_tile(p_C + i_g * N, s_Ct, steps, N, BN, Q, UNIT)  # (Q, BN)
    b_scores = product(b_C, tl.trans(b_B), COMPUTE, PRECISION)  # (Q, Q)
    for i_h in range(first, last):
        b_dt, b_high, b_low = load_steps(p_steps, i_chunk, i_h, h, Q)
        b_pairs = b_scores * decays(b_high, b_low, False, Q) * b_dt[None, :]  # (Q, Q)
        b_from_start = from_start(b_high)
        for i_p in tl.static_range((P + BP - 1) // BP):
            o_h = i_h * P + i_p * BP
            b_x = load_tile(p_x + o_h, s_xt, steps, P - i_p * BP, BP, Q, UNIT)  # (Q, BP)
            b_state = load_state(p_entering, i_chunk, i_h, i_p, h, P, BP, N, BN)  # (BP, BN)
            b_y = product(b_C, tl.trans(b_state), COMPUTE, PRECISION) * b_from_start[:, None]
            b_y = add_product(b_y, b_pairs, b_x, COMPUTE, PRECISION)
            if p_D is not None:
                b_D = direct_weights(p_D, i_h, i_p, PER_CHANNEL, P, BP)
                b_y += b_D[None, :] * b_x.to(tl.float32)
            if p_z is not None:
                b_z = load_tile(p_z + o_h, s_zt, steps, P - i_p * BP, BP, Q, UNIT).to(tl.float32)
                b_y *= b_z * sigmoid(b_z)
            store_tile(p_y + o_h, h * P, steps, b_y, P - i_p * BP, BP, Q, 1)
