"""The kernel that carries states from chunk to chunk, and their gradients back."""

# ruff: noqa: RUF005 - kernels have no starred tuples

from __future__ import annotations

import triton
import triton.language as tl

from ssm_core.ssd.triton.chunks import SIZES

AHEAD = tl.constexpr(8)  # chunks whose loads are under way together


@triton.jit(do_not_specialize=SIZES)
def pass_states(p_added, p_steps, p_first, p_carried, p_last, p_cu, h, chunks, SIZE: tl.constexpr,
                BLOCK: tl.constexpr, Q: tl.constexpr, REVERSE: tl.constexpr):
    """The state before each chunk, into p_carried, and after the last, into p_last (rows, h, SIZE).

    REVERSE goes from the last chunk to the first, with the gradient after each chunk and before the
    first. p_first (rows, h, SIZE) is what it begins with, or None for zeros; p_added and p_carried are
    (chunks of all rows, h, SIZE), p_steps (chunks of all rows, h, 3, Q), by ``make_steps``.
    """
    blocks: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    o = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    known = o < SIZE
    i_h = tl.program_id(0) // blocks % h
    i_row = (tl.program_id(0) // (blocks * h)).to(tl.int64)
    o_row = (i_row * h + i_h) * SIZE + o
    if p_cu is not None:
        begin = tl.load(p_cu + i_row).to(tl.int64)
        count = tl.cdiv(tl.load(p_cu + i_row + 1).to(tl.int64) - begin, Q)
        i_first = begin // Q + i_row
    else:
        count = chunks.to(tl.int64)
        i_first = i_row * count
    b_state = tl.zeros([BLOCK], tl.float32)
    if p_first is not None:
        b_state += tl.load(p_first + o_row, mask=known, other=0.0)
    for i in range(0, count, AHEAD):
        sums, added = (), ()
        for k in tl.static_range(AHEAD):
            i_chunk = i_first + (count - 1 - i - k if REVERSE else i + k)
            p_sum = p_steps + (i_chunk * h + i_h) * (3 * Q) + 2 * Q - 1  # over the whole chunk
            sums = sums + (tl.load(p_sum, mask=i + k < count, other=0.0),)
            o_chunk = (i_chunk * h + i_h) * SIZE + o
            here = known & (o * 0 + (i + k) < count)
            added = added + (tl.load(p_added + o_chunk, mask=here, other=0.0),)
        for k in tl.static_range(AHEAD):
            i_chunk = i_first + (count - 1 - i - k if REVERSE else i + k)
            here = known & (o * 0 + (i + k) < count)
            tl.store(p_carried + (i_chunk * h + i_h) * SIZE + o,
                     b_state.to(p_carried.dtype.element_ty), mask=here)
            b_state = tl.exp2(sums[k]) * b_state + added[k].to(tl.float32)
    tl.store(p_last + o_row, b_state, mask=known)
