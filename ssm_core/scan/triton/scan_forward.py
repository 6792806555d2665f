"""The forward kernel: each thread walks along time with its states in registers."""

# ruff: noqa: RUF005, SIM102 - kernels have no starred tuples; the compiler decides the outer of two ifs

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core._triton import join_eight, sigmoid, store, zeros
from ssm_core.scan.triton.lanes import (
    SIZES,
    columns_for_lanes,
    in_64_bits,
    load_channels,
    load_decays,
    load_signals,
    load_states,
    load_weights,
    offset_of_rows,
    offset_of_weights,
    program_of_one_block,
    step_sizes,
    store_states,
    weight_columns,
    weight_pointers,
)


@triton.jit
def advance(p, b_x, b_A, dt, dt_u, b_B, b_C, P: tl.constexpr, M: tl.constexpr):
    """Take eight steps with M states of each thread (eq-selective-scan).

    Returns the new states, M blocks (P,), and each thread's share of y, eight columns (P,). Decays
    are powers of two, since b_A is A log2(e).
    """
    y = zeros(P, 8)
    new_x = ()
    for m in tl.static_range(M):
        B = weight_columns(b_B[m], P, p.B.dtype.element_ty)
        C = weight_columns(b_C[m], P, p.C.dtype.element_ty)
        x = b_x[m]
        new_y = ()
        for j in tl.static_range(8):
            x = tl.exp2(dt[j] * b_A[m]) * x + dt_u[j] * B[j]
            new_y = new_y + (y[j] + C[j] * x,)
        y = new_y
        new_x = new_x + (x,)
    return new_x, y


@triton.jit(do_not_specialize=SIZES)
def scan_forward(p, p_start, p_out, p_last, p_saved, p_cu, d, groups, L, spans, span,
                 SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr, C_CONST: tl.constexpr,
                 FULL: tl.constexpr, CHUNK: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
                 G: tl.constexpr, BD: tl.constexpr):
    """Scan one block of channels over one span of time (eq-selective-scan).

    ``p`` are the Inputs. p_start (rows, spans, d, N) is the state before each span, p_out (b, d, L)
    the output, p_last (rows, d, N) the last state, p_saved (chunks, d, N) the state before each
    chunk, p_cu (rows + 1,) the boundaries of packed sequences.
    """
    P: tl.constexpr = BD * G
    L = in_64_bits(L, FULL)
    i_g, block, time = program_of_one_block(p_cu, d, groups, L, spans, span, N, M, G, BD, CHUNK)
    steps = time.steps
    o_t = tl.arange(0, 8)[None, :]  # (1, 8)
    o_row = offset_of_rows(time, block, d, L) + o_t  # (BD, 8)
    o_w = offset_of_weights(time, i_g, block.o_n, groups, L, N)  # (P,)
    p_B = weight_pointers(p.B, block.o_x if B_CONST else o_w, B_CONST, FULL)
    p_C = weight_pointers(p.C, block.o_x if C_CONST else o_w, C_CONST, FULL)

    b_A = load_decays(p.A, block, N, M)  # M blocks (P,)
    b_bias = load_channels(p.bias, block, BD)  # (BD,)
    b_D = load_channels(p.D, block, BD)  # (BD,)
    b_x = zeros(P, M)  # M blocks (P,)
    if p_start is not None:
        o_span = (time.i_row * spans + time.i_span) * d * N
        b_x = load_states(p_start + o_span, block, N, M)

    # What the next eight steps need is on its way while these are taken. B and C are, if they come as
    # words; otherwise that would take too many registers.
    here = block.known[:, None] & (o_t < steps)  # (BD, 8)
    next_signals = load_signals(p, o_row, 0, here, FULL)
    if FULL:
        next_B = load_weights(p_B, block.o_n, 0, steps, L, N, M, B_CONST, FULL)
        next_C = load_weights(p_C, block.o_n, 0, steps, L, N, M, C_CONST, FULL)
    # Two tiles a turn save moving what was loaded ahead; with more states compiling takes too long.
    UNROLL: tl.constexpr = 2 if FULL and M <= 8 else 1
    for t in tl.range(0, steps, 8, loop_unroll_factor=UNROLL):
        if p_saved is not None:
            if t % CHUNK == 0:
                store_states(p_saved + (time.i_chunk + t // CHUNK) * d * N, block, b_x, N, M)
        here = block.known[:, None] & (t + o_t < steps)  # (BD, 8)
        b_u, b_delta, b_z = next_signals  # (BD, 8) each
        b_u, b_z = b_u.to(tl.float32), b_z.to(tl.float32)
        b_dt = step_sizes(b_delta, b_bias, here, SOFTPLUS, FULL)[0]  # (BD, 8)
        dt, dt_u = columns_for_lanes(b_dt, G), columns_for_lanes(b_dt * b_u, G)
        t_next = tl.minimum(t + 8, (steps - 1) // 8 * 8)
        here_next = block.known[:, None] & (t_next + o_t < steps)  # (BD, 8)
        if FULL:
            b_B, b_C = next_B, next_C
            next_B = load_weights(p_B, block.o_n, t_next, steps, L, N, M, B_CONST, FULL)
            next_C = load_weights(p_C, block.o_n, t_next, steps, L, N, M, C_CONST, FULL)
        else:
            b_B = load_weights(p_B, block.o_n, t, steps, L, N, M, B_CONST, FULL)
            b_C = load_weights(p_C, block.o_n, t, steps, L, N, M, C_CONST, FULL)
        next_signals = load_signals(p, o_row, t_next, here_next, FULL)
        b_x, y = advance(p, b_x, b_A, dt, dt_u, b_B, b_C, P, M)
        b_y = tl.sum(tl.reshape(join_eight(y), [BD, G, 8]), axis=1)  # (BD, 8)
        if p.D is not None:
            b_y += b_D[:, None] * b_u
        if p.z is not None:
            b_y *= b_z * sigmoid(b_z)
        store(p_out + o_row + t, b_y, here, FULL)

    if time.i_span == spans - 1:
        store_states(p_last + time.i_row * d * N, block, b_x, N, M)
