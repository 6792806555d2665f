"""The kernel of what goes through pairs of steps: the gradients of decays and of products of B and C."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core.ssd.triton.chunks import (
    SIZES,
    add_product,
    at_chunk,
    chunk_of,
    decays,
    load_steps,
    load_tile,
    owned,
    product,
)


@triton.jit
def summed_over_pairs(b_pairs, b_read, b_written, Q: tl.constexpr, COMPUTE: tl.constexpr,
                      PRECISION: tl.constexpr):
    """For each step k the sum over all decays that it takes part in, (Q,).

    A pair (j, i) decays through the steps j < k <= i. The entering state stands before all j, and is
    read at i; the leaving state stands after all i, and is written at j. All are sums, not differences
    of sums: first over i >= k, by a product with ones, then over j < k.
    """
    o_r, o_c = tl.arange(0, Q)[:, None], tl.arange(0, Q)[None, :]
    ones = tl.where(o_r >= o_c, 1.0, 0.0)
    b_later = product(b_pairs, ones, COMPUTE, PRECISION)  # (Q, Q): over i >= k
    b_through = tl.sum(tl.where(o_r < o_c, b_later + b_written[:, None], 0.0), axis=0)
    return b_through + tl.cumsum(b_read, axis=0, reverse=True)


@triton.jit(do_not_specialize=SIZES)
def pair_gradients(p_dy, p_x, p_A, p_B, p_C, p_steps, p_read, p_written, p_kept, p_dsteps, p_dA,
                   p_dscores, p_cu, p_owner, s_xb, s_xt, s_Bb, s_Bt, s_Cb, s_Ct, h, groups, L, chunks,
                   per_program, programs_per_group, UNIT: tl.constexpr, P: tl.constexpr,
                   BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, Q: tl.constexpr,
                   COMPUTE: tl.constexpr, PRECISION: tl.constexpr):
    """Adds the gradient of Δ through decays to p_dsteps (chunks, h, Q); shares of that of A into p_dA
    (chunks, h); the gradients of the products B_j · C_i, summed over the heads of a program, into
    p_dscores (programs, Q, Q), for ``weight_gradients``.

    p_dy is the gradient of the output before the gate; p_read is from ``output_gradients``, p_written
    and p_kept are from ``input_gradients``. Blocks of pairs stand as (j, i).
    """
    i_chunk, i_g, first, last = owned(h, groups, per_program, programs_per_group)
    i_b, start, steps = chunk_of(i_chunk, p_cu, p_owner, L, chunks, Q)
    p_x = at_chunk(p_x, i_b, s_xb, start, s_xt, UNIT)
    p_B = at_chunk(p_B, i_b, s_Bb, start, s_Bt, UNIT)
    p_C = at_chunk(p_C, i_b, s_Cb, start, s_Ct, UNIT)
    p_dy += (i_b * L + start) * (h * P)
    o_q = tl.arange(0, Q)
    b_B = load_tile(p_B + i_g * N, s_Bt, steps, N, BN, Q, UNIT)  # (Q, BN)
    b_C = load_tile(p_C + i_g * N, s_Ct, steps, N, BN, Q, UNIT)  # (Q, BN)
    b_scores = product(b_B, tl.trans(b_C), COMPUTE, PRECISION)  # (Q, Q)
    b_dscores = tl.zeros([Q, Q], tl.float32)
    for i_h in range(first, last):
        b_dpairs = tl.zeros([Q, Q], tl.float32)
        for i_p in tl.static_range((P + BP - 1) // BP):
            o_h = i_h * P + i_p * BP
            b_x = load_tile(p_x + o_h, s_xt, steps, P - i_p * BP, BP, Q, UNIT)  # (Q, BP)
            b_dy = load_tile(p_dy + o_h, h * P, steps, P - i_p * BP, BP, Q, 1)  # (Q, BP)
            b_dpairs = add_product(b_dpairs, b_x, tl.trans(b_dy), COMPUTE, PRECISION)
        b_dt, b_high, b_low = load_steps(p_steps, i_chunk, i_h, h, Q)
        b_dpairs *= decays(b_high, b_low, True, Q) * b_dt[:, None]
        b_dscores += b_dpairs
        i_head = i_chunk * h + i_h
        b_read = tl.load(p_read + i_head * Q + o_q)
        b_written = tl.load(p_written + i_head * Q + o_q)
        b_da = summed_over_pairs(b_dpairs * b_scores, b_read, b_written, Q, COMPUTE, PRECISION)
        b_across = tl.exp2(tl.load(p_steps + i_head * (3 * Q) + 2 * Q - 1))
        b_da = tl.where(o_q < steps, b_da + b_across * tl.load(p_kept + i_head), 0.0)
        tl.store(p_dA + i_head, tl.sum(b_da * b_dt, axis=0))
        p_step = p_dsteps + i_head * Q + o_q
        tl.store(p_step, tl.load(p_step) + b_da * tl.load(p_A + i_h).to(tl.float32))
    p_pairs = p_dscores + tl.program_id(0).to(tl.int64) * (Q * Q)
    tl.store(p_pairs + o_q[:, None] * Q + o_q[None, :], b_dscores)
