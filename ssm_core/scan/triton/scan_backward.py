"""The backward kernel: chunk by chunk from the end, some blocks of channels together.

Four things happen to a chunk, each a function here. ``prepare`` takes each sample by itself.
``replay`` runs forward through the chunk once more and keeps the state before each eight steps.
``retreat`` goes back through it, eight steps at a time for all blocks, so that the gradients of B and
C are summed over channels in registers. ``finish`` takes each sample by itself again.
"""

# ruff: noqa: FURB136, RUF005, SIM102 - kernels have no starred tuples, and before Triton 3.4 no constant
# min; the compiler decides the outer of two ifs

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ssm_core._triton import LN2, LOG2E, load, sigmoid, store, zeros
from ssm_core.scan.triton.lanes import (
    SIZES,
    block_of,
    in_64_bits,
    load_channels,
    load_decays,
    load_states,
    load_weights,
    offset_of_rows,
    offset_of_weights,
    span_of,
    step_sizes,
    store_states,
    weight_columns,
    weight_pointers,
)
from ssm_core.scan.triton.workspace import (
    add_shares,
    keep,
    keep_sums,
    load_kept,
    load_steps,
    places_of,
    samples_of,
    store_shares,
    workspace_of,
)


class Gradients(NamedTuple):
    """Pointers to the gradients; None where there is no such argument."""

    u: object  # (b, d, L)
    delta: object  # (b, d, L)
    A: object  # (rows, spans, d, N)
    B: object  # (slots, b, groups, N, L), or as A where B is constant in time
    C: object  # as B
    D: object  # (rows, spans, d)
    z: object  # (b, d, L)
    bias: object  # (rows, spans, d)
    start: object  # (rows, d, N)


@triton.jit
def begin_block(p, p_grad, p_carry, block, work, places, o_span, B_CONST: tl.constexpr,
          C_CONST: tl.constexpr, N: tl.constexpr, M: tl.constexpr, G: tl.constexpr,
          BD: tl.constexpr):
    """Set up what gathers over the chunks of one block."""
    nothing = zeros(BD * G, M)  # M blocks (P,)
    carry = nothing
    if p_carry is not None:
        carry = load_states(p_carry + o_span * N, block, N, M)
    keep(work.decays, places, load_decays(p.A, block, N, M), M)
    keep(work.carry, places, carry, M)
    keep(work.dA, places, nothing, M)
    if B_CONST:
        keep(work.dB, places, nothing, M)
    if C_CONST:
        keep(work.dC, places, nothing, M)
    if p_grad.bias is not None:
        tl.store(p_grad.bias + o_span + block.o_d, tl.zeros([BD], tl.float32), mask=block.known)
    if p_grad.D is not None:
        tl.store(p_grad.D + o_span + block.o_d, tl.zeros([BD], tl.float32), mask=block.known)


@triton.jit
def load_gradients(p_dout, p_z, o, here):
    """The gradient of y before the gate, z, and the gradient of the output, (BD, steps) each."""
    b_dout = load(p_dout + o, here, False).to(tl.float32)
    b_z = b_dout
    b_dy = b_dout
    if p_z is not None:
        b_z = load(p_z + o, here, False).to(tl.float32)
        b_dy = b_dout * b_z * sigmoid(b_z)
    return b_dy, b_z, b_dout


@triton.jit
def prepare(p, p_dout, block, work, o_row, first, end, SOFTPLUS: tl.constexpr,
            PIECE: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr):
    """Δ, Δu and dy of the steps from first to end of one block, each sample by itself."""
    o_t = tl.arange(0, PIECE)[None, :]  # (1, PIECE)
    o_tile = o_t // 8 * (BD * 8) + tl.arange(0, BD)[:, None] * 8 + o_t % 8  # (BD, PIECE)
    b_bias = load_channels(p.bias, block, BD)  # (BD,)
    for t in range(first, end, PIECE):
        here = block.known[:, None] & (t + o_t < end)  # (BD, PIECE)
        o = o_row + t + o_t  # (BD, PIECE)
        b_u = load(p.u + o, here, False).to(tl.float32)
        b_delta = load(p.delta + o, here, False)
        b_dt = step_sizes(b_delta, b_bias, here, SOFTPLUS, False)[0]
        b_dy = load_gradients(p_dout, p.z, o, here)[0]
        p_dt, p_dt_u, p_dy = samples_of(work, (t - first) * BD, CHUNK, BD)
        tl.store(p_dt + o_tile, b_dt)
        tl.store(p_dt_u + o_tile, b_dt * b_u)
        tl.store(p_dy + o_tile, b_dy)


@triton.jit
def replay(p, p_saved, p_B, block, work, places, first, end, tiles, L, B_CONST: tl.constexpr,
           FULL: tl.constexpr, CHUNK: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
           G: tl.constexpr, BD: tl.constexpr):
    """Run one block forward through the chunk, and keep the state before each eight steps."""
    P: tl.constexpr = BD * G
    if B_CONST:
        p_B = weight_pointers(p.B, tl.where(block.known_x, block.o_x, 0), True, FULL)
    b_A = load_kept(work.decays, places, M)  # M blocks (P,)
    b_x = load_states(p_saved, block, N, M)  # M blocks (P,)
    keep(work.states, places, b_x, M)
    for i_tile in range(1, tiles):
        t = first + i_tile * 8 - 8
        p_dt, p_dt_u, _ = samples_of(work, (i_tile - 1) * (BD * 8), CHUNK, BD)
        dt, dt_u = load_steps(p_dt, places), load_steps(p_dt_u, places)
        b_B = load_weights(p_B, block.o_n, t, end, L, N, M, B_CONST, FULL)
        new_x = ()
        for m in tl.static_range(M):
            B = weight_columns(b_B[m], P, p.B.dtype.element_ty)
            x = b_x[m]
            for j in tl.static_range(8):
                x = tl.exp2(dt[j] * b_A[m]) * x + dt_u[j] * B[j]
            new_x = new_x + (x,)
        b_x = new_x
        keep(work.states + i_tile * (P * M), places, b_x, M)


@triton.jit
def retreat_one_state(x, A, carry, dA, dt, dt_u, dy, B, C, y, gB, gAp, dB, dC):
    """One state of each thread through eight steps and back (eq-selective-scan-gradients).

    x (P,) is the state before these steps, A (P,) times log2(e), carry (P,) the gradient that comes
    from the steps after these. dt, dt_u, dy, B, C are eight columns (P,). To y, gB = Σ g B,
    gAp = Σ g A p, dB and dC, eight columns (P,), and to dA (P,) this state is added.
    """
    decay, old, states, new_y = (), (), (), ()
    for j in tl.static_range(8):
        decay = decay + (tl.exp2(dt[j] * A),)
        old = old + (decay[j] * x,)  # p, what is left of the state before
        x = old[j] + dt_u[j] * B[j]
        states = states + (x,)
        new_y = new_y + (y[j] + C[j] * x,)
    new_dB, new_dC, new_gB, new_gAp = (), (), (), ()
    for j in tl.static_range(7, -1, -1):
        g = C[j] * dy[j] + carry  # the gradient of the state after step j
        carry = decay[j] * g
        g_old = g * old[j]
        dA += g_old * dt[j]
        new_dB = (dB[j] + g * dt_u[j],) + new_dB
        new_dC = (dC[j] + states[j] * dy[j],) + new_dC
        new_gB = (gB[j] + g * B[j],) + new_gB
        new_gAp = (gAp[j] + g_old * A,) + new_gAp
    return carry, dA, new_y, new_gB, new_gAp, new_dB, new_dC


@triton.jit
def load_constant_weights(p_weight, block, N: tl.constexpr, M: tl.constexpr, FULL: tl.constexpr):
    """B or C of one block, where it is constant in time, as ``load_weights`` gives it."""
    p = weight_pointers(p_weight, tl.where(block.known_x, block.o_x, 0), True, FULL)  # (P, 1)
    return load_weights(p, block.o_n, 0, 0, 0, N, M, True, FULL)


@triton.jit
def eight_of(c, m: tl.constexpr):
    """The m-th eight of a tuple of columns; before Triton 3.4 functions return no deeper tuples."""
    return (c[8 * m], c[8 * m + 1], c[8 * m + 2], c[8 * m + 3], c[8 * m + 4], c[8 * m + 5],
            c[8 * m + 6], c[8 * m + 7])


@triton.jit
def add_steps(total, c):
    """Eight columns (P,) added to total (P,), one after the other."""
    for j in tl.static_range(8):
        total += c[j]
    return total


@triton.jit
def retreat(p, block, work, places, i_tile, b_B, b_C, dB, dC, B_CONST: tl.constexpr,
            C_CONST: tl.constexpr, FULL: tl.constexpr, CHUNK: tl.constexpr, N: tl.constexpr,
            M: tl.constexpr, G: tl.constexpr, BD: tl.constexpr):
    """Take one block back through eight steps.

    b_B and b_C are the weights of these steps (not read where they are constant in time). Returned
    are dB and dC, eight columns (P,) for each of M states, with this block added, except for a
    constant, whose gradient gathers in the workspace.
    """
    P: tl.constexpr = BD * G
    if B_CONST:
        b_B = load_constant_weights(p.B, block, N, M, FULL)
        sum_dB = load_kept(work.dB, places, M)
    if C_CONST:
        b_C = load_constant_weights(p.C, block, N, M, FULL)
        sum_dC = load_kept(work.dC, places, M)
    b_A, b_carry = load_kept(work.decays, places, M), load_kept(work.carry, places, M)
    b_dA = load_kept(work.dA, places, M)
    b_x = load_kept(work.states + i_tile * (P * M), places, M)
    p_dt, p_dt_u, p_dy = samples_of(work, i_tile * (BD * 8), CHUNK, BD)
    dt, dt_u, dy = load_steps(p_dt, places), load_steps(p_dt_u, places), load_steps(p_dy, places)
    y, gB, gAp = zeros(P, 8), zeros(P, 8), zeros(P, 8)
    new_carry, new_dA, new_dB, new_dC, new_sum_dB, new_sum_dC = (), (), (), (), (), ()
    for m in tl.static_range(M):
        B = weight_columns(b_B[m], P, p.B.dtype.element_ty)
        C = weight_columns(b_C[m], P, p.C.dtype.element_ty)
        carry, dA, y, gB, gAp, dB_m, dC_m = retreat_one_state(
            b_x[m], b_A[m], b_carry[m], b_dA[m], dt, dt_u, dy, B, C, y, gB, gAp, eight_of(dB, m),
            eight_of(dC, m))
        new_carry, new_dA = new_carry + (carry,), new_dA + (dA,)
        new_dB, new_dC = new_dB + dB_m, new_dC + dC_m
        if B_CONST:
            new_sum_dB = new_sum_dB + (add_steps(sum_dB[m], dB_m),)
        if C_CONST:
            new_sum_dC = new_sum_dC + (add_steps(sum_dC[m], dC_m),)
    keep(work.carry, places, new_carry, M)
    keep(work.dA, places, new_dA, M)
    if B_CONST:
        keep(work.dB, places, new_sum_dB, M)
    else:
        dB = new_dB
    if C_CONST:
        keep(work.dC, places, new_sum_dC, M)
    else:
        dC = new_dC
    keep_sums(p_dt, places, gAp, G, BD)
    if p.z is not None:
        keep_sums(p_dt_u, places, y, G, BD)
    keep_sums(p_dy, places, gB, G, BD)
    return dB, dC


@triton.jit
def add_in_memory(p, b, here):
    """Add a block to what is in memory."""
    tl.store(p, tl.load(p, mask=here, other=0.0) + b, mask=here)


@triton.jit
def finish(p, p_grad, p_dout, block, work, o_row, o_span, first, end, SOFTPLUS: tl.constexpr,
           PIECE: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr):
    """The gradients of u, Δ, z, D and bias at the steps from first to end, each sample by itself."""
    o_t = tl.arange(0, PIECE)[None, :]  # (1, PIECE)
    o_tile = o_t // 8 * (BD * 8) + tl.arange(0, BD)[:, None] * 8 + o_t % 8  # (BD, PIECE)
    b_bias, b_D = load_channels(p.bias, block, BD), load_channels(p.D, block, BD)  # (BD,) each
    for t in range(first, end, PIECE):
        here = block.known[:, None] & (t + o_t < end)  # (BD, PIECE)
        o = o_row + t + o_t  # (BD, PIECE)
        b_u = load(p.u + o, here, False).to(tl.float32)
        b_delta = load(p.delta + o, here, False)
        b_dt, b_raw = step_sizes(b_delta, b_bias, here, SOFTPLUS, False)
        b_dy, b_z, b_dout = load_gradients(p_dout, p.z, o, here)
        p_gAp, p_y, p_gB = samples_of(work, (t - first) * BD, CHUNK, BD)
        b_gAp = tl.load(p_gAp + o_tile, mask=here, other=0.0)
        b_gB = tl.load(p_gB + o_tile, mask=here, other=0.0)
        b_ddelta = b_u * b_gB + LN2 * b_gAp
        if SOFTPLUS:
            b_ddelta *= tl.exp2((b_raw - b_dt) * LOG2E)  # the derivative of softplus
            b_ddelta = tl.where(here, b_ddelta, 0.0)
        b_du = b_dt * b_gB + b_D[:, None] * b_dy
        store(p_grad.u + o, b_du, here, False)
        store(p_grad.delta + o, b_ddelta, here, False)
        if p_grad.bias is not None:
            add_in_memory(p_grad.bias + o_span + block.o_d, tl.sum(b_ddelta, axis=1), block.known)
        if p_grad.D is not None:
            add_in_memory(p_grad.D + o_span + block.o_d, tl.sum(b_dy * b_u, axis=1), block.known)
        if p.z is not None:
            b_y = tl.load(p_y + o_tile, mask=here, other=0.0)
            b_y += b_D[:, None] * b_u
            b_s = sigmoid(b_z)
            store(p_grad.z + o, b_dout * b_y * b_s * (1 + b_z * (1 - b_s)), here, False)


@triton.jit
def end_block(p_grad, block, work, places, i_row, i_span, o_span, d, B_CONST: tl.constexpr,
        C_CONST: tl.constexpr, N: tl.constexpr, M: tl.constexpr):
    """Store what has gathered over the chunks of one block."""
    store_states(p_grad.A + o_span * N, block, load_kept(work.dA, places, M), N, M)
    if B_CONST:
        store_states(p_grad.B + o_span * N, block, load_kept(work.dB, places, M), N, M)
    if C_CONST:
        store_states(p_grad.C + o_span * N, block, load_kept(work.dC, places, M), N, M)
    if p_grad.start is not None:
        if i_span == 0:
            b_carry = load_kept(work.carry, places, M)
            store_states(p_grad.start + i_row * d * N, block, b_carry, N, M)


@triton.jit(do_not_specialize=SIZES)
def scan_backward(p, p_grad, p_dout, p_carry, p_saved, p_work, p_cu, d, groups, L, spans, span,
                  slots, batch, SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr,
                  C_CONST: tl.constexpr, FULL: tl.constexpr, CHUNK: tl.constexpr, N: tl.constexpr,
                  M: tl.constexpr, G: tl.constexpr, BD: tl.constexpr, WORK: tl.constexpr,
                  HALVINGS: tl.constexpr):
    """Some blocks of channels over one span of time, backwards (eq-selective-scan-backward).

    ``p`` are the Inputs, ``p_grad`` the Gradients. p_dout (b, d, L) is the gradient of the output,
    p_carry (rows, spans, d, N) the gradient that comes from the span after, p_saved (chunks, d, N)
    the state before each chunk. A program takes every slots-th block of a group. Its workspace has
    WORK numbers for each, and the shares of dB and dC behind them.
    """
    P: tl.constexpr = BD * G
    WARPS: tl.constexpr = BD // (32 // G if G < 32 else 1)  # with different channels
    PIECE: tl.constexpr = 16 * G if 16 * G < CHUNK else CHUNK  # steps: 16 samples for a thread
    SOME: tl.constexpr = 4 * P // CHUNK if 4 * P > CHUNK else 1  # rows of (N, CHUNK) at once
    ROWS: tl.constexpr = SOME if SOME < G * M else G * M
    SHARE: tl.constexpr = WARPS * G * M * CHUNK
    AT_C: tl.constexpr = 0 if B_CONST else SHARE  # shares of dC stand behind those of dB
    L = in_64_bits(L, FULL)
    per_group = d // groups
    blocks = tl.cdiv(per_group, BD)
    i_slot = (tl.program_id(0) % (slots * groups)) % slots
    i_g = (tl.program_id(0) % (slots * groups)) // slots
    i_time = (tl.program_id(0) // (slots * groups)).to(tl.int64)
    time = span_of(i_time, p_cu, L, spans, span, CHUNK)
    chunks = tl.cdiv(time.steps, CHUNK)
    o_span = (time.i_row * spans + time.i_span) * d
    size = tl.cdiv(blocks, slots) * WORK
    p_work += tl.program_id(0).to(tl.int64) * (size + ((not B_CONST) + (not C_CONST)) * SHARE)
    p_shares = p_work + size
    places = places_of(M, G, BD)
    o_n = tl.arange(0, P) % G * M  # (P,)
    o_w = offset_of_weights(time, i_g, o_n, groups, L, N)  # (P,)
    o_slot = ((i_slot * batch + time.i_b) * groups + i_g) * N * L + time.start  # in dB and dC
    p_B = weight_pointers(p.B, o_w, B_CONST, FULL)  # replaced block by block where B is constant
    p_C = weight_pointers(p.C, o_w, C_CONST, FULL)

    p_block = p_work
    for i_block in range(i_slot, blocks, slots):
        block = block_of(i_block, i_g, per_group, N, M, G, BD)
        work = workspace_of(p_block, WORK, B_CONST, C_CONST, CHUNK, M, G, BD)
        begin_block(p, p_grad, p_carry, block, work, places, o_span, B_CONST, C_CONST, N, M, G, BD)
        p_block += WORK

    for i in range(chunks):
        i_chunk = chunks - 1 - i
        first = i_chunk * CHUNK
        last = tl.minimum(first + CHUNK, time.steps)
        tiles = tl.cdiv(last - first, 8)

        p_block = p_work
        for i_block in range(i_slot, blocks, slots):
            block = block_of(i_block, i_g, per_group, N, M, G, BD)
            work = workspace_of(p_block, WORK, B_CONST, C_CONST, CHUNK, M, G, BD)
            o_row = offset_of_rows(time, block, d, L)
            prepare(p, p_dout, block, work, o_row, first, last, SOFTPLUS, PIECE, CHUNK,
                    BD)
            p_block += WORK
        tl.debug_barrier()

        p_block = p_work
        for i_block in range(i_slot, blocks, slots):
            block = block_of(i_block, i_g, per_group, N, M, G, BD)
            work = workspace_of(p_block, WORK, B_CONST, C_CONST, CHUNK, M, G, BD)
            replay(p, p_saved + (time.i_chunk + chunks - 1 - i) * d * N, p_B, block, work, places, first,
                   last, tiles, L, B_CONST, FULL, CHUNK, N, M, G, BD)
            p_block += WORK

        for i_back in range(tiles):
            i_tile = tiles - 1 - i_back
            t = first + i_tile * 8
            b_B, b_C = (), ()
            if not B_CONST:
                b_B = load_weights(p_B, o_n, t, last, L, N, M, False, FULL)
            if not C_CONST:
                b_C = load_weights(p_C, o_n, t, last, L, N, M, False, FULL)
            dB, dC = zeros(P, 8 * M), zeros(P, 8 * M)
            p_block = p_work
            for i_block in range(i_slot, blocks, slots):
                block = block_of(i_block, i_g, per_group, N, M, G, BD)
                work = workspace_of(p_block, WORK, B_CONST, C_CONST, CHUNK, M, G, BD)
                dB, dC = retreat(p, block, work, places, i_tile, b_B, b_C, dB, dC, B_CONST, C_CONST,
                                 FULL, CHUNK, N, M, G, BD)
                p_block += WORK
            p_tile = p_shares + i_tile * 8
            if not B_CONST:
                store_shares(p_tile, dB, o_n, M, G, BD, WARPS, HALVINGS, CHUNK)
            if not C_CONST:
                store_shares(p_tile + AT_C, dC, o_n, M, G, BD, WARPS, HALVINGS, CHUNK)
        tl.debug_barrier()
        if not B_CONST:
            add_shares(p_shares, p_grad.B + o_slot + first, last - first, L, N, G * M, ROWS, WARPS,
                       CHUNK)
        if not C_CONST:
            add_shares(p_shares + AT_C, p_grad.C + o_slot + first, last - first, L, N, G * M, ROWS,
                       WARPS, CHUNK)

        p_block = p_work
        for i_block in range(i_slot, blocks, slots):
            block = block_of(i_block, i_g, per_group, N, M, G, BD)
            work = workspace_of(p_block, WORK, B_CONST, C_CONST, CHUNK, M, G, BD)
            o_row = offset_of_rows(time, block, d, L)
            finish(p, p_grad, p_dout, block, work, o_row, o_span, first, last, SOFTPLUS, PIECE, CHUNK,
                    BD)
            p_block += WORK
        tl.debug_barrier()

    p_block = p_work
    for i_block in range(i_slot, blocks, slots):
        block = block_of(i_block, i_g, per_group, N, M, G, BD)
        work = workspace_of(p_block, WORK, B_CONST, C_CONST, CHUNK, M, G, BD)
        end_block(p_grad, block, work, places, time.i_row, time.i_span, o_span, d, B_CONST, C_CONST, N, M)
        p_block += WORK
