"""Who owns what in the kernels of the scan, and how each thread finds and loads its share.

A program owns a ``Block`` of BD channels over a ``Span`` of time. A thread owns one channel and M of
its N states, keeps them in registers, and walks along time eight steps at a time; G neighbouring
threads, its lanes, share a channel. So blocks in registers that belong to threads are (P,) or
(P, steps) with P = BD G, and those that belong to channels are (BD,) or (BD, steps).

Pointers and blocks travel in NamedTuples, which Triton 3.3 and later take. Sizes do not, since Triton
would compile a kernel anew for a size of 1 or a multiple of 16; nor do constants, since before Triton
3.9 a kernel cannot read a constexpr NamedTuple by the names of its fields.
"""

# ruff: noqa: RUF005 - kernels have no starred tuples

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ssm_core._triton import LOG2E, columns, four_columns, load, softplus

SIZES = ("d", "groups", "L", "spans", "span", "slots", "batch")  # not compiled anew for a 1 or a 16


class Inputs(NamedTuple):
    """Pointers to the arguments of a scan; None where there is no such argument."""

    u: object  # (b, d, L)
    delta: object  # (b, d, L)
    A: object  # (d, N)
    B: object  # (b, groups, N, L), or (d, N) where it is constant in time
    C: object  # as B
    D: object  # (d,)
    z: object  # (b, d, L)
    bias: object  # (d,)


class Span(NamedTuple):
    """The steps of a program: all of a packed sequence, or one span of a row of the batch."""

    i_row: object  # packed sequence, or row of the batch
    i_span: object  # span of the row
    i_b: object  # row of u
    start: object  # first step within the row of u
    steps: object  # how many steps
    i_chunk: object  # which of all saved states the first chunk has


class Block(NamedTuple):
    """The channels of a program, and the states of each of its threads."""

    o_d: object  # (BD,) channels
    known: object  # (BD,) whether there is such a channel
    o_x: object  # (P,) the first state of each thread in (d, N)
    o_n: object  # (P,) the same in N
    known_x: object  # (P,) whether there is such a channel


@triton.jit
def in_64_bits(L, FULL: tl.constexpr):
    """L in 64 bits; where all tiles are full, in a form whose multiple of 8 the compiler can see."""
    L = L.to(tl.int64)
    if FULL:
        L = L // 8 * 8
    return L


@triton.jit
def span_of(i_time, p_cu, L, spans, span, CHUNK: tl.constexpr):
    """The i-th of all spans of all rows."""
    i_row, i_span = i_time // spans, i_time % spans
    if p_cu is not None:
        begin = tl.load(p_cu + i_row).to(tl.int64)
        end = tl.load(p_cu + i_row + 1).to(tl.int64)
        return Span(i_row, i_span, i_row * 0, begin, (end - begin).to(tl.int32),
                    begin // CHUNK + i_row)
    span = span // CHUNK * CHUNK  # so that the compiler can see that it is a multiple
    start = i_span * span
    steps = tl.minimum(span, L - start).to(tl.int32)
    return Span(i_row, i_span, i_row, start, steps, i_row * tl.cdiv(L, CHUNK) + start // CHUNK)


@triton.jit
def block_of(i_block, i_g, per_group, N: tl.constexpr, M: tl.constexpr, G: tl.constexpr,
             BD: tl.constexpr):
    """The i-th block of channels of a group."""
    o_c = i_block * BD + tl.arange(0, BD)  # (BD,) channels within the group
    o_p = tl.arange(0, BD * G)  # (P,) threads
    o_pc = i_block * BD + o_p // G  # (P,) the channel of each thread within the group
    o_n = o_p % G * M
    return Block((i_g * per_group + o_c).to(tl.int64), o_c < per_group,
                 (i_g * per_group + o_pc).to(tl.int64) * N + o_n, o_n, o_pc < per_group)


@triton.jit
def program_of_one_block(p_cu, d, groups, L, spans, span, N: tl.constexpr, M: tl.constexpr,
                         G: tl.constexpr, BD: tl.constexpr, CHUNK: tl.constexpr):
    """What a program owns that takes one block over one span: the group, the block and the span."""
    per_group = d // groups
    blocks = tl.cdiv(per_group, BD)
    i_block = tl.program_id(0) % (blocks * groups)
    i_time = (tl.program_id(0) // (blocks * groups)).to(tl.int64)
    i_g = i_block // blocks
    return (i_g, block_of(i_block % blocks, i_g, per_group, N, M, G, BD),
            span_of(i_time, p_cu, L, spans, span, CHUNK))


@triton.jit
def offset_of_rows(time, block, d, L):
    """Where the first step of a span stands in u, for each channel, (BD, 1)."""
    return (time.i_b * d + block.o_d)[:, None] * L + time.start


@triton.jit
def offset_of_weights(time, i_g, o_n, groups, L, N: tl.constexpr):
    """Where the first step of a span stands in B or C, for the first state of each thread, (P,)."""
    return ((time.i_b * groups + i_g) * N + o_n.to(tl.int64)) * L + time.start


# --- what belongs to channels --------------------------------------------------------------------


@triton.jit
def load_channels(p, block, BD: tl.constexpr):
    """One number for each channel, (BD,); zeros where there is no such argument."""
    numbers = tl.zeros([BD], tl.float32)
    if p is not None:
        numbers = tl.load(p + block.o_d, mask=block.known, other=0.0)
    return numbers


@triton.jit
def load_signals(p, o_row, t, here, FULL: tl.constexpr):
    """u, Δ and z from step t on, each (BD, 8); u stands for z where there is none."""
    b_u = load(p.u + o_row + t, here, FULL)
    b_delta = load(p.delta + o_row + t, here, FULL)
    b_z = b_u
    if p.z is not None:
        b_z = load(p.z + o_row + t, here, FULL)
    return b_u, b_delta, b_z


@triton.jit
def step_sizes(b_delta, b_bias, here, SOFTPLUS: tl.constexpr, FULL: tl.constexpr):
    """Δ as the recurrence takes it and as it was before softplus, (BD, steps) each.

    A step that is not there gets Δ = 0, which leaves the state as it is.
    """
    b_raw = b_delta.to(tl.float32) + b_bias[:, None]
    b_dt = softplus(b_raw) if SOFTPLUS else b_raw
    if not FULL:
        b_dt = tl.where(here, b_dt, 0.0)
    return b_dt, b_raw


@triton.jit
def columns_for_lanes(block, G: tl.constexpr):
    """The columns of (BD, 8), each for the G lanes that share a channel: eight blocks (P,)."""
    wide = tl.broadcast_to(block[:, None, :], [block.shape[0], G, 8])
    return columns(tl.reshape(wide, [block.shape[0] * G, 8]))


# --- what belongs to states ----------------------------------------------------------------------


@triton.jit
def load_states(p, block, N: tl.constexpr, M: tl.constexpr):
    """M states of each thread from (d, N): a tuple of M blocks (P,)."""
    states = ()
    for m in tl.static_range(M):
        here = block.known_x & (block.o_n + m < N)
        states = states + (tl.load(p + block.o_x + m, mask=here, other=0.0),)
    return states


@triton.jit
def store_states(p, block, states, N: tl.constexpr, M: tl.constexpr):
    """M states of each thread into (d, N)."""
    for m in tl.static_range(M):
        tl.store(p + block.o_x + m, states[m], mask=block.known_x & (block.o_n + m < N))


@triton.jit
def load_decays(p_A, block, N: tl.constexpr, M: tl.constexpr):
    """A log2(e) for M states of each thread, so that a decay is 2^(Δ A log2(e))."""
    b_A = load_states(p_A, block, N, M)
    scaled = ()
    for m in tl.static_range(M):
        scaled = scaled + (b_A[m] * LOG2E,)
    return scaled


# --- B and C, which belong to states and may change from step to step ----------------------------


@triton.jit
def weight_pointers(p_weight, o, CONST: tl.constexpr, FULL: tl.constexpr):
    """Where each thread's first state finds its B or C: (P, 1), (P, 4) or (P, 8).

    A load takes 16 bytes at most. Two steps of 16 bits come as one word, which halves the registers
    that wait for them.
    """
    if CONST:
        return p_weight + o[:, None]
    elif p_weight.dtype.element_ty == tl.float32:
        return p_weight + (o[:, None] + tl.arange(0, 4)[None, :])
    elif FULL:
        return (p_weight.to(tl.pointer_type(tl.int32))
                + (o[:, None] // 2 + tl.arange(0, 4)[None, :]))
    else:
        return p_weight + (o[:, None] + tl.arange(0, 8)[None, :])


@triton.jit
def load_weights(p, o_n, t, steps, L, N: tl.constexpr, M: tl.constexpr, CONST: tl.constexpr,
                 FULL: tl.constexpr):
    """B or C of eight steps from step t on: a tuple for M states, as ``weight_columns`` reads it."""
    weights = ()
    for m in tl.static_range(M):
        known = (o_n + m < N)[:, None]  # (P, 1)
        if CONST:
            weights = weights + ((tl.load(p + m, mask=known, other=0.0),),)
        elif p.dtype.element_ty == tl.int32:
            weights = weights + ((tl.load(p + ((m * L + t) >> 1)),),)
        elif p.dtype.element_ty == tl.float32:
            o_t = t + tl.arange(0, 4)[None, :]
            p_m = p + (m * L + t)
            weights = weights + ((load(p_m, known & (o_t < steps), FULL),
                                  load(p_m + 4, known & (o_t + 4 < steps), FULL)),)
        else:
            o_t = t + tl.arange(0, 8)[None, :]
            weights = weights + ((load(p + (m * L + t), known & (o_t < steps), FULL),),)
    return weights


@triton.jit
def weight_columns(weight, P: tl.constexpr, dtype: tl.constexpr):
    """One state's share of ``load_weights`` in float32: eight columns (P,). dtype is that of B or C."""
    if len(weight) == 2:
        return four_columns(weight[0]) + four_columns(weight[1])
    elif weight[0].dtype != tl.int32:
        return columns(tl.broadcast_to(weight[0].to(tl.float32), [P, 8]))
    elif dtype == tl.bfloat16:
        c0, c2, c4, c6 = four_columns((weight[0] << 16).to(tl.float32, bitcast=True))
        c1, c3, c5, c7 = four_columns((weight[0] & -65536).to(tl.float32, bitcast=True))
        return c0, c1, c2, c3, c4, c5, c6, c7
    else:
        low, high = weight[0].to(tl.int16), (weight[0] >> 16).to(tl.int16)  # (P, 4) each
        c0, c2, c4, c6 = four_columns(low.to(dtype, bitcast=True).to(tl.float32))
        c1, c3, c5, c7 = four_columns(high.to(dtype, bitcast=True).to(tl.float32))
        return c0, c1, c2, c3, c4, c5, c6, c7
