"""What the kernels of SSD share: who owns what, the decays of a chunk, loads and products.

A program owns one chunk of Q steps and some heads of one group, one head after the other: what
belongs to the group (B, C and their products) is made once for all of them. Decays are powers of 2,
so all sums of Δ A are in units of log(2).

``p_`` is a pointer, ``b_`` a block in registers, ``o_`` an offset, ``s_`` a stride, ``i_`` an index.
Rows of memory are (h, p) or (g, n) in one piece; batch and time may have any stride.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core._triton import LOG2E, softplus

# Sizes that a kernel is not compiled anew for when they are 1 or a multiple of 16.
SIZES = ("h", "groups", "L", "chunks", "per_program", "programs_per_group", "s_xb", "s_xt", "s_zb",
         "s_zt", "s_db", "s_dt", "s_Bb", "s_Bt", "s_Cb", "s_Ct", "s_wb", "s_wt", "dt_min", "dt_max",
         "b")


@triton.jit
def owned(h, groups, per_program, programs_per_group):
    """The chunk, the group and the heads of a program: i_chunk, i_g, the first head and one past the
    last."""
    i_chunk = (tl.program_id(0) // (groups * programs_per_group)).to(tl.int64)
    i_rest = tl.program_id(0) % (groups * programs_per_group)
    i_g = i_rest // programs_per_group
    heads = h // groups
    first = i_rest % programs_per_group * per_program
    last = tl.minimum(first + per_program, heads)
    return i_chunk, i_g, i_g * heads + first, i_g * heads + last


@triton.jit
def chunk_of(i_chunk, p_cu, p_owner, L, chunks, Q: tl.constexpr):
    """The row of the batch, the first step, and how many steps there are, for the i-th of all chunks.

    Packed sequence i has the chunks from cu_seqlens[i] // Q + i on, some of which may be empty.
    """
    if p_cu is not None:
        i_row = tl.load(p_owner + i_chunk).to(tl.int64)
        begin = tl.load(p_cu + i_row).to(tl.int64)
        end = tl.load(p_cu + i_row + 1).to(tl.int64)
        start = begin + (i_chunk - begin // Q - i_row) * Q
        return i_row * 0, start, tl.minimum(end - start, Q).to(tl.int32)
    start = i_chunk % chunks * Q
    return i_chunk // chunks, start, tl.minimum(L - start, Q).to(tl.int32)


@triton.jit
def at_chunk(p, i_b, s_b, start, s_t, ALIGNED: tl.constexpr):
    """Where the first step of a chunk stands; ALIGNED says that all rows begin at 16 bytes."""
    if ALIGNED:
        s_b = tl.multiple_of(s_b, 8)
        s_t = tl.multiple_of(s_t, 8)
    return p + (i_b * s_b + start * s_t)


@triton.jit
def tile_of(s_t, steps, W: tl.constexpr, BW: tl.constexpr, Q: tl.constexpr, ALIGNED: tl.constexpr):
    """Offsets of BW columns of the steps of a chunk, (Q, BW) in 32 bits, and which of them are there;
    W columns are left."""
    if ALIGNED:
        s_t = tl.multiple_of(s_t, 8)
    o_q, o_w = tl.arange(0, Q)[:, None], tl.arange(0, BW)[None, :]
    here = o_q < steps
    if W < BW:
        here = here & (o_w < W)
    return o_q * s_t + o_w, here


@triton.jit
def load_tile(p, s_t, steps, W: tl.constexpr, BW: tl.constexpr, Q: tl.constexpr,
              ALIGNED: tl.constexpr):
    """BW columns from p on of each step of a chunk, (Q, BW), with zeros where there is none."""
    o, here = tile_of(s_t, steps, W, BW, Q, ALIGNED)
    return tl.load(p + o, mask=here, other=0.0)


@triton.jit
def store_tile(p, s_t, steps, block, W: tl.constexpr, BW: tl.constexpr, Q: tl.constexpr,
               ALIGNED: tl.constexpr):
    """The counterpart of ``load_tile``."""
    o, here = tile_of(s_t, steps, W, BW, Q, ALIGNED)
    tl.store(p + o, block.to(p.dtype.element_ty), mask=here)


@triton.jit
def state_block(p, i_chunk, i_h, i_p, h, P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr,
                BN: tl.constexpr):
    """A block (BP, BN) of the state of a chunk and head in (chunks, h, P, N): where it begins,
    offsets, and what is there."""
    o_p, o_n = i_p * BP + tl.arange(0, BP)[:, None], tl.arange(0, BN)[None, :]
    return p + (i_chunk * h + i_h) * (P * N), o_p * N + o_n, (o_p < P) & (o_n < N)


@triton.jit
def load_state(p, i_chunk, i_h, i_p, h, P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr,
               BN: tl.constexpr):
    """A block (BP, BN) of the state of a chunk and head."""
    p, o, here = state_block(p, i_chunk, i_h, i_p, h, P, BP, N, BN)
    if P % BP == 0 and N == BN:
        return tl.load(p + o)
    else:
        return tl.load(p + o, mask=here, other=0.0)


@triton.jit
def raw_steps(p_dt, p_bias, o, here, i_h):
    """dt with its bias, before softplus and limits, (Q,)."""
    b_raw = tl.load(p_dt + o, mask=here, other=0.0).to(tl.float32)
    if p_bias is not None:
        b_raw += tl.load(p_bias + i_h)
    return b_raw


@triton.jit
def step_sizes(b_raw, here, dt_min, dt_max, SOFTPLUS: tl.constexpr):
    """Δ, (Q,); a step that is not there gets 0, which leaves the state as it is."""
    b_dt = softplus(b_raw) if SOFTPLUS else b_raw
    b_dt = tl.maximum(b_dt, dt_min, propagate_nan=tl.PropagateNan.ALL)
    b_dt = tl.minimum(b_dt, dt_max, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(here, b_dt, 0.0)


@triton.jit
def steps_of_chunk(p_dt, s_dt, p_bias, p_A, steps, i_h, dt_min, dt_max, SOFTPLUS: tl.constexpr,
                   Q: tl.constexpr):
    """For a chunk and head: Δ, Δ before softplus, Δ A, and Δ A of the step after each; (Q,) each.

    p_dt is where the first step of the chunk stands. The step after the last of a chunk counts 0:
    sums to the end of a chunk are sums of these.
    """
    A = tl.load(p_A + i_h).to(tl.float32) * LOG2E
    o_q = tl.arange(0, Q)
    b_raw = raw_steps(p_dt + i_h, p_bias, o_q * s_dt, o_q < steps, i_h)
    b_dt = step_sizes(b_raw, o_q < steps, dt_min, dt_max, SOFTPLUS)
    b_next = raw_steps(p_dt + i_h, p_bias, (o_q + 1) * s_dt, o_q + 1 < steps, i_h)
    b_next = step_sizes(b_next, o_q + 1 < steps, dt_min, dt_max, SOFTPLUS)
    return b_dt, b_raw, b_dt * A, b_next * A


@triton.jit
def from_start(b_a):
    """The decay from the start of the chunk to each step, its own included, (Q,)."""
    return tl.exp2(tl.cumsum(b_a, axis=0))


@triton.jit
def to_end(b_next):
    """The decay from each step, its own not included, to the end of the chunk, (Q,)."""
    return tl.exp2(tl.cumsum(b_next, axis=0, reverse=True))


@triton.jit
def decays_within(b_a, Q: tl.constexpr):
    """The decay from step j to step i, (Q, Q), zero for j > i.

    Each exponent is a sum of its own, down a column: differences of sums from the start would lose
    what those have in common.
    """
    o_i, o_j = tl.arange(0, Q)[:, None], tl.arange(0, Q)[None, :]
    b_sums = tl.cumsum(tl.where(o_i > o_j, b_a[:, None], 0.0), axis=0)
    return tl.where(o_i >= o_j, tl.exp2(b_sums), 0.0)


@triton.jit
def product(a, b, COMPUTE: tl.constexpr, PRECISION: tl.constexpr):
    """The matrix product of two blocks in float32, of factors that are rounded to COMPUTE."""
    return tl.dot(a.to(COMPUTE), b.to(COMPUTE), input_precision=PRECISION)


@triton.jit
def add_product(total, a, b, COMPUTE: tl.constexpr, PRECISION: tl.constexpr):
    """total + a b, where tensor cores add."""
    return tl.dot(a.to(COMPUTE), b.to(COMPUTE), total, input_precision=PRECISION)
