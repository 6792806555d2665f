"""The kernel that makes the gradients of x, z and dt, and of what each head has one of."""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core._triton import sigmoid, softplus
from ssm_core.ssd.triton.chunk_outputs import direct_weights
from ssm_core.ssd.triton.chunks import (
    SIZES,
    add_product,
    at_chunk,
    chunk_of,
    decays_within,
    from_start,
    load_state,
    load_tile,
    owned,
    product,
    steps_of_chunk,
    store_tile,
    to_end,
)


@triton.jit
def summed_over_pairs(b_pairs, b_read, b_written, Q: tl.constexpr, COMPUTE: tl.constexpr,
                      PRECISION: tl.constexpr):
    """For each step k the sum over all decays that it takes part in, (Q,).

    A pair (i, j) decays through the steps j < k <= i. The entering state stands before all j, and is
    read at i; the leaving state stands after all i, and is written at j. Sums again, for the reason
    given in ``decays_within``: first over i >= k, by a product with ones, then over j < k.
    """
    o_i, o_j = tl.arange(0, Q)[:, None], tl.arange(0, Q)[None, :]
    ones = tl.where(o_i <= o_j, 1.0, 0.0)
    b_later = product(ones, b_pairs, COMPUTE, PRECISION)  # (Q, Q): over i >= k
    b_through = tl.sum(tl.where(o_j < o_i, b_later + b_written[None, :], 0.0), axis=1)
    return b_through + tl.cumsum(b_read, axis=0, reverse=True)


@triton.jit(do_not_specialize=SIZES)
def chunk_gradients(p_dy, p_x, p_z, p_dt, p_A, p_B, p_C, p_D, p_bias, p_entering, p_leaving, p_dx,
                    p_dz, p_ddt, p_dA, p_dscores, p_dD, p_dbias, p_cu, p_owner, dt_min, dt_max,
                    s_xb, s_xt, s_zb, s_zt, s_db, s_dt, s_Bb, s_Bt, s_Cb, s_Ct, h, groups, L,
                    chunks, per_program, programs_per_group, PER_CHANNEL: tl.constexpr,
                    SOFTPLUS: tl.constexpr, ALIGNED: tl.constexpr, P: tl.constexpr,
                    BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, Q: tl.constexpr,
                    COMPUTE: tl.constexpr, PRECISION: tl.constexpr):
    """The gradients of x, z and dt, and shares of the others.

    p_entering and p_leaving (chunks, h, P, N) are the states before, and the gradients of the states
    after each chunk. Shares are added up afterwards, in a fixed order: of A and the bias (chunks, h),
    of D (chunks, h, P). The gradients of the products of B and C, summed over the heads of a program,
    (programs, Q, Q), are for ``weight_gradients``.
    """
    i_chunk, i_g, first, last = owned(h, groups, per_program, programs_per_group)
    i_b, start, steps = chunk_of(i_chunk, p_cu, p_owner, L, chunks, Q)
    p_x = at_chunk(p_x, i_b, s_xb, start, s_xt, ALIGNED)
    p_dt = at_chunk(p_dt, i_b, s_db, start, s_dt, False)
    p_B = at_chunk(p_B, i_b, s_Bb, start, s_Bt, ALIGNED)
    p_C = at_chunk(p_C, i_b, s_Cb, start, s_Ct, ALIGNED)
    p_dy += (i_b * L + start) * (h * P)
    p_dx += (i_b * L + start) * (h * P)
    if p_z is not None:
        p_z = at_chunk(p_z, i_b, s_zb, start, s_zt, ALIGNED)
        p_dz += (i_b * L + start) * (h * P)
    p_ddt += (i_b * L + start) * h
    o_q = tl.arange(0, Q)
    here = o_q < steps
    EVEN: tl.constexpr = P % 8 == 0
    b_B = load_tile(p_B + i_g * N, s_Bt, steps, N, BN, Q, ALIGNED)  # (Q, BN)
    b_C = load_tile(p_C + i_g * N, s_Ct, steps, N, BN, Q, ALIGNED)  # (Q, BN)
    b_scores = product(b_C, tl.trans(b_B), COMPUTE, PRECISION)  # (Q, Q)
    b_dscores = tl.zeros([Q, Q], tl.float32)
    for i_h in range(first, last):
        b_dt, b_raw, b_a, b_next = steps_of_chunk(p_dt, s_dt, p_bias, p_A, steps, i_h, dt_min,
                                                  dt_max, SOFTPLUS, Q)
        b_decays = decays_within(b_a, Q)  # (Q, Q)
        b_weights = b_scores * b_decays  # (Q, Q)
        b_from_start, b_to_end = from_start(b_a), to_end(b_next)  # (Q,)
        b_across = tl.exp2(tl.sum(b_a, axis=0))
        b_dpairs = tl.zeros([Q, Q], tl.float32)
        b_read, b_written = tl.zeros([Q], tl.float32), tl.zeros([Q], tl.float32)
        b_ddt = tl.zeros([Q], tl.float32)
        b_kept = 0.0
        for i_p in tl.static_range((P + BP - 1) // BP):
            o_h = i_h * P + i_p * BP
            b_x = load_tile(p_x + o_h, s_xt, steps, P - i_p * BP, BP, Q, ALIGNED)  # (Q, BP)
            b_dy = load_tile(p_dy + o_h, h * P, steps, P - i_p * BP, BP, Q, EVEN)  # (Q, BP)
            b_dy = b_dy.to(tl.float32)
            b_state = load_state(p_entering, i_chunk, i_h, i_p, h, P, BP, N, BN)  # (BP, BN)
            b_dstate = load_state(p_leaving, i_chunk, i_h, i_p, h, P, BP, N, BN)  # (BP, BN)
            b_D = tl.zeros([BP], tl.float32)
            if p_D is not None:
                b_D += direct_weights(p_D, i_h, i_p, PER_CHANNEL, P, BP)
            b_y = product(b_C, tl.trans(b_state), COMPUTE, PRECISION) * b_from_start[:, None]
            b_state_y = b_y
            if p_z is not None:
                b_y = add_product(b_y, b_weights * b_dt[None, :], b_x, COMPUTE, PRECISION)
                b_y += b_D[None, :] * b_x.to(tl.float32)
                b_z = load_tile(p_z + o_h, s_zt, steps, P - i_p * BP, BP, Q, ALIGNED).to(tl.float32)
                b_s = sigmoid(b_z)
                b_dz = b_dy * b_y * b_s * (1 + b_z * (1 - b_s))
                store_tile(p_dz + o_h, h * P, steps, b_dz, P - i_p * BP, BP, Q, EVEN)
                b_dy *= b_z * b_s
            # through pairs of steps, through the entering state, through the leaving state
            b_dpairs = add_product(b_dpairs, b_dy, tl.trans(b_x), COMPUTE, PRECISION)
            b_read += tl.sum(b_dy * b_state_y, axis=1)
            b_through = product(b_B, tl.trans(b_dstate), COMPUTE, PRECISION) * b_to_end[:, None]
            b_du = add_product(b_through, tl.trans(b_weights), b_dy, COMPUTE, PRECISION)  # (Q, BP)
            b_x = b_x.to(tl.float32)
            b_written += tl.sum(b_through * b_x, axis=1) * b_dt
            b_kept += tl.sum(b_state.to(tl.float32) * b_dstate.to(tl.float32))
            b_ddt += tl.sum(b_du * b_x, axis=1)
            b_dx = b_du * b_dt[:, None] + b_D[None, :] * b_dy
            store_tile(p_dx + o_h, h * P, steps, b_dx, P - i_p * BP, BP, Q, EVEN)
            if p_D is not None:
                o_p = i_p * BP + tl.arange(0, BP)
                tl.store(p_dD + (i_chunk * h + i_h) * P + o_p, tl.sum(b_dy * b_x, axis=0),
                         mask=o_p < P)
        b_dpairs *= b_decays * b_dt[None, :]
        b_dscores += b_dpairs
        b_da = summed_over_pairs(b_dpairs * b_scores, b_read, b_written, Q, COMPUTE, PRECISION)
        b_da = tl.where(here, b_da + b_across * b_kept, 0.0)
        b_ddt += b_da * tl.load(p_A + i_h).to(tl.float32)
        tl.store(p_dA + i_chunk * h + i_h, tl.sum(b_da * b_dt, axis=0))
        b_unlimited = b_raw
        if SOFTPLUS:
            b_unlimited = softplus(b_raw)
            b_ddt *= sigmoid(b_raw)
        inside = (b_unlimited >= dt_min) & (b_unlimited <= dt_max) & here
        b_ddt = tl.where(inside, b_ddt, 0.0)
        tl.store(p_ddt + o_q * h + i_h, b_ddt.to(p_ddt.dtype.element_ty), mask=here)
        if p_dbias is not None:
            tl.store(p_dbias + i_chunk * h + i_h, tl.sum(b_ddt, axis=0))
    p_pairs = p_dscores + tl.program_id(0).to(tl.int64) * (Q * Q)
    tl.store(p_pairs + o_q[:, None] * Q + o_q[None, :], b_dscores)
