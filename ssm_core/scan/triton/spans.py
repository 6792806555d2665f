"""Where time is cut into spans: the kernels that find the state, or its gradient, at each cut.

``sum_span`` finds what each span adds to the state after it, and ``carry_across_spans`` carries the
states over all spans. The backward pass does the same with time reversed.
"""

# ruff: noqa: RUF005, SIM102 - kernels have no starred tuples; the compiler decides the outer of two ifs

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core._triton import LOG2E, load, sigmoid, zeros
from ssm_core.scan.triton.lanes import (
    SIZES,
    columns_for_lanes,
    in_64_bits,
    load_channels,
    load_decays,
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
def load_inputs(p_signal, p_z, p_delta, o, here, ADJOINT: tl.constexpr, FULL: tl.constexpr):
    """The signal, z and Δ of eight steps, (BD, 8) each; the signal stands for z where none is needed."""
    b_signal, b_delta = load(p_signal + o, here, FULL), load(p_delta + o, here, FULL)
    b_z = b_signal
    if ADJOINT:
        if p_z is not None:
            b_z = load(p_z + o, here, FULL)
    return b_signal, b_z, b_delta


@triton.jit
def sums_to_the_edge(b_sum, dt, ADJOINT: tl.constexpr):
    """The sum of Δ over what lies between each of eight steps and the edge: eight columns (P,).

    Also b_sum (P,) with these steps added, for the next eight. The edge is the end of the span, where
    the step's own Δ does not count; for the adjoint it is the start, and the own Δ counts.
    """
    between = ()
    for j in tl.static_range(8):
        if ADJOINT:
            b_sum += dt[j]
            between = between + (b_sum,)
        else:
            between = (b_sum,) + between
            b_sum += dt[7 - j]
    return b_sum, between


@triton.jit
def which_matter(b_sum, b_A, block, N: tl.constexpr, M: tl.constexpr):
    """For each of M states whether any thread's decay over these steps is above 2^-100."""
    matter = ()
    for m in tl.static_range(M):
        here = block.known_x & (block.o_n + m < N)  # (P,)
        b_decay = tl.where(here, b_sum * b_A[m], float("-inf"))  # (P,)
        matter = matter + (tl.max(b_decay, axis=0) > -100,)
    return matter


@triton.jit
def any_of(flags):
    """Whether one of a tuple of flags is true."""
    some = flags[0]
    for m in tl.static_range(1, len(flags)):
        some = some | flags[m]
    return some


@triton.jit(do_not_specialize=SIZES)
def sum_span(p_signal, p_z, p_delta, p_A, p_weight, p_bias, p_added, p_sum, d, groups, L, spans,
             span, ADJOINT: tl.constexpr, SOFTPLUS: tl.constexpr, CONST: tl.constexpr,
             FULL: tl.constexpr, CHUNK: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
             G: tl.constexpr, BD: tl.constexpr):
    """What a span adds to the state after it or, as the adjoint, to the gradient before it.

    Either is a sum over the steps of the span: the signal (u, or the gradient of the output) times
    the weight (B, or C) times the decay between the step and that edge of the span. It is taken from
    the edge inwards, and for each state it ends where the decay has fallen below 2^-100 in all
    channels of the program, which for most states is soon. Into p_added (rows, spans, d, N), and the
    sum of Δ over those steps into p_sum (rows, spans, d).
    """
    P: tl.constexpr = BD * G
    L = in_64_bits(L, FULL)
    i_g, block, time = program_of_one_block(None, d, groups, L, spans, span, N, M, G, BD, CHUNK)
    steps = time.steps
    o_t = tl.arange(0, 8)[None, :]  # (1, 8)
    o_row = offset_of_rows(time, block, d, L) + o_t  # (BD, 8)
    o_w = offset_of_weights(time, i_g, block.o_n, groups, L, N)  # (P,)
    p_w = weight_pointers(p_weight, block.o_x if CONST else o_w, CONST, FULL)

    b_A = load_decays(p_A, block, N, M)  # M blocks (P,)
    b_bias = load_channels(p_bias, block, BD)  # (BD,)
    b_x = zeros(P, M)  # M blocks (P,)
    b_sum = tl.zeros([P], tl.float32)  # of Δ between here and the edge
    matter = ()
    for _ in tl.static_range(M):
        matter = matter + (steps > 0,)
    tiles = tl.cdiv(steps, 8)
    i = tiles * 0
    t = 0 if ADJOINT else (tiles - 1) * 8
    here = block.known[:, None] & (t + o_t >= 0) & (t + o_t < steps)  # (BD, 8)
    next_inputs = load_inputs(p_signal, p_z, p_delta, o_row + t, here, ADJOINT, FULL)
    next_w = load_weights(p_w, block.o_n, t, steps, L, N, M, CONST, FULL)
    while i < tiles:
        b_signal, b_z, b_delta = next_inputs  # (BD, 8) each
        b_w = next_w
        here = block.known[:, None] & (t + o_t < steps)  # (BD, 8)
        i += 1
        t = tl.minimum(i, tiles - 1) * 8 if ADJOINT else tl.maximum(tiles - 1 - i, 0) * 8
        here_next = block.known[:, None] & (t + o_t < steps)  # (BD, 8)
        next_inputs = load_inputs(p_signal, p_z, p_delta, o_row + t, here_next, ADJOINT, FULL)
        next_w = load_weights(p_w, block.o_n, t, steps, L, N, M, CONST, FULL)
        b_dt = step_sizes(b_delta, b_bias, here, SOFTPLUS, FULL)[0]  # (BD, 8)
        b_in = b_signal.to(tl.float32)  # (BD, 8)
        if not ADJOINT:
            b_in *= b_dt
        elif p_z is not None:
            b_z = b_z.to(tl.float32)
            b_in = b_in * b_z * sigmoid(b_z)
        dt, signal = columns_for_lanes(b_dt, G), columns_for_lanes(b_in, G)
        b_sum, between = sums_to_the_edge(b_sum, dt, ADJOINT)
        new_x = ()
        for m in tl.static_range(M):
            x = b_x[m]
            if matter[m]:
                w = weight_columns(b_w[m], P, p_weight.dtype.element_ty)
                for j in tl.static_range(8):
                    x += tl.exp2(between[j] * b_A[m]) * (signal[j] * w[j])
            new_x = new_x + (x,)
        b_x = new_x
        if i % (CHUNK // 8) == 0:
            matter = which_matter(b_sum, b_A, block, N, M)
            if not any_of(matter):
                i = tiles
    o_span = time.i_row * spans + time.i_span
    store_states(p_added + o_span * d * N, block, b_x, N, M)
    tl.store(p_sum + o_span * d + block.o_x // N, b_sum, mask=block.known_x & (block.o_n == 0))


@triton.jit(do_not_specialize=SIZES)
def carry_across_spans(p_first, p_x, p_sum, p_A, d, spans, N: tl.constexpr, REVERSE: tl.constexpr,
                       BLOCK: tl.constexpr):
    """Turn what each span adds (rows, spans, d, N) into what enters each span, in place (eq-chunk-carry)."""
    size = d * N
    blocks = tl.cdiv(size, BLOCK)
    i_row = (tl.program_id(0) // blocks).to(tl.int64)
    o = ((tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)  # (BLOCK,)
    known = o < size  # (BLOCK,)
    b_A = tl.load(p_A + o, mask=known, other=0.0) * LOG2E  # (BLOCK,)
    b_x = tl.zeros([BLOCK], tl.float32)
    if p_first is not None:
        b_x = tl.load(p_first + i_row * size + o, mask=known, other=0.0)
    for i in range(spans):
        o_span = i_row * spans + (spans - 1 - i if REVERSE else i)
        b_added = tl.load(p_x + o_span * size + o, mask=known, other=0.0)  # (BLOCK,)
        b_sum = tl.load(p_sum + o_span * d + o // N, mask=known, other=0.0)  # (BLOCK,)
        tl.store(p_x + o_span * size + o, b_x, mask=known)
        b_x = tl.exp2(b_A * b_sum) * b_x + b_added
