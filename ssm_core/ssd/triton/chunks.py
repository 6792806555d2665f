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
def at_chunk(p, i_b, s_b, start, s_t, UNIT: tl.constexpr):
    """Where the first step of a chunk stands. Strides are in units of UNIT elements: a product with a
    constant is how the compiler learns that rows begin at 16 bytes."""
    return p + (i_b * s_b + start * s_t) * UNIT


@triton.jit
def tile_of(s_t, steps, W: tl.constexpr, BW: tl.constexpr, Q: tl.constexpr, UNIT: tl.constexpr):
    """Offsets of BW columns of the steps of a chunk, (Q, BW) in 32 bits, and which of them are there;
    W columns are left."""
    o_q, o_w = tl.arange(0, Q)[:, None], tl.arange(0, BW)[None, :]
    here = o_q < steps
    if W < BW:
        here = here & (o_w < W)
    return o_q * s_t * UNIT + o_w, here


@triton.jit
def load_tile(p, s_t, steps, W: tl.constexpr, BW: tl.constexpr, Q: tl.constexpr,
              UNIT: tl.constexpr):
    """BW columns from p on of each step of a chunk, (Q, BW), with zeros where there is none."""
    o, here = tile_of(s_t, steps, W, BW, Q, UNIT)
    return tl.load(p + o, mask=here, other=0.0)


@triton.jit
def store_tile(p, s_t, steps, block, W: tl.constexpr, BW: tl.constexpr, Q: tl.constexpr,
               UNIT: tl.constexpr):
    """The counterpart of ``load_tile``."""
    o, here = tile_of(s_t, steps, W, BW, Q, UNIT)
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
def load_steps(p_steps, i_chunk, i_h, h, Q: tl.constexpr):
    """What ``make_steps`` left of a chunk and head: Δ, and the sums of Δ A from the start of the chunk
    to each step, its own included, as high and low parts; (Q,) each."""
    p = p_steps + (i_chunk * h + i_h) * (3 * Q) + tl.arange(0, Q)
    return tl.load(p), tl.load(p + Q), tl.load(p + 2 * Q)


@triton.jit
def from_start(b_high):
    """The decay from the start of the chunk to each step, its own included, (Q,)."""
    return tl.exp2(b_high)


@triton.jit
def to_end(p_steps, b_high, b_low, i_chunk, i_h, h, Q: tl.constexpr):
    """The decay from each step, its own not included, to the end of the chunk, (Q,)."""
    p_last = p_steps + (i_chunk * h + i_h) * (3 * Q) + Q - 1
    return tl.exp2((tl.load(p_last + Q) - b_high) + (tl.load(p_last + 2 * Q) - b_low))


@triton.jit
def decays(b_high, b_low, TRANSPOSED: tl.constexpr, Q: tl.constexpr):
    """The decay from step j to step i at (i, j), or at (j, i) if transposed; zero for j > i.

    The difference of two sums from the start has nearly twice the digits of float32, so that nothing
    is lost by what the two sums have in common.
    """
    o_r, o_c = tl.arange(0, Q)[:, None], tl.arange(0, Q)[None, :]
    b_sums = (b_high[:, None] - b_high[None, :]) + (b_low[:, None] - b_low[None, :])
    if TRANSPOSED:
        return tl.where(o_r <= o_c, tl.exp2(-b_sums), 0.0)
    else:
        return tl.where(o_r >= o_c, tl.exp2(b_sums), 0.0)


@triton.jit
def product(a, b, COMPUTE: tl.constexpr, PRECISION: tl.constexpr):
    """The matrix product of two blocks in float32, of factors that are rounded to COMPUTE."""
    return tl.dot(a.to(COMPUTE), b.to(COMPUTE), input_precision=PRECISION)


@triton.jit
def add_product(total, a, b, COMPUTE: tl.constexpr, PRECISION: tl.constexpr):
    """total + a b, where tensor cores add."""
    return tl.dot(a.to(COMPUTE), b.to(COMPUTE), total, input_precision=PRECISION)
