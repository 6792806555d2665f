"""What a program of the backward kernel puts aside, and how its threads find it again.

The workspace is smaller than the second-level cache of large GPUs, but part of what is written to it
goes on to main memory all the same (benchmarks/NOTES.md). Its sizes are in
``ssm_core.scan.triton.plan.Workspace``.
"""

# ruff: noqa: RUF005 - kernels have no starred tuples

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ssm_core._triton import four_columns, join_four


class Workspace(NamedTuple):
    """Pointers to the pieces of one block of channels."""

    samples: object  # (3, tiles, BD, 8): what a warp reads for eight steps lies side by side
    states: object  # (tiles, P, M) before each eight steps
    decays: object  # (P, M) A log2(e)
    carry: object  # (P, M) the gradient of the state that is carried to the step before
    dA: object  # (P, M) summed over the steps so far
    dB: object  # (P, M) likewise, where B is constant in time
    dC: object  # (P, M) likewise, where C is constant in time


class Places(NamedTuple):
    """Where a thread finds its share of a piece."""

    o_lane: object  # (P,) its M states
    o_steps: object  # (P, 4) the first four of eight steps of its channel
    first: object  # (P, 1) whether it is the first lane of its channel


@triton.jit
def workspace_of(p, SIZE: tl.constexpr, B_CONST: tl.constexpr, C_CONST: tl.constexpr,
                 CHUNK: tl.constexpr, M: tl.constexpr, G: tl.constexpr, BD: tl.constexpr):
    """The pieces of a block, one behind the other, from p on."""
    SAMPLES: tl.constexpr = BD * CHUNK
    STATES: tl.constexpr = BD * G * M
    AT_DECAYS: tl.constexpr = 3 * SAMPLES + CHUNK // 8 * STATES
    AT_DB: tl.constexpr = AT_DECAYS + 3 * STATES
    AT_DC: tl.constexpr = AT_DB + (STATES if B_CONST else 0)
    tl.static_assert(AT_DC + (STATES if C_CONST else 0) == SIZE)
    return Workspace(p, p + 3 * SAMPLES, p + AT_DECAYS, p + (AT_DECAYS + STATES),
                     p + (AT_DECAYS + 2 * STATES), p + AT_DB, p + AT_DC)


@triton.jit
def samples_of(work, o, CHUNK: tl.constexpr, BD: tl.constexpr):
    """Pointers to three numbers a sample, o behind the first sample of the chunk.

    They are Δ, Δu and dy, until ``retreat`` leaves three sums over the states in their places: Σ g A p,
    y and Σ g B. It reads what is there before it writes a sum.
    """
    p = work.samples + o
    return p, p + BD * CHUNK, p + 2 * BD * CHUNK


@triton.jit
def places_of(M: tl.constexpr, G: tl.constexpr, BD: tl.constexpr):
    """Where the P = BD G threads of a program find their shares."""
    o_p = tl.arange(0, BD * G)  # (P,)
    return Places(o_p * M, (o_p // G)[:, None] * 8 + tl.arange(0, 4)[None, :],
                  (o_p % G * M == 0)[:, None])


@triton.jit
def load_kept(p, places, M: tl.constexpr):
    """M numbers of each thread, which lie side by side: a tuple of M blocks (P,)."""
    if M == 1:
        return (tl.load(p + places.o_lane),)
    elif M == 2:
        return tl.split(tl.load(p + (places.o_lane[:, None] + tl.arange(0, 2)[None, :])))
    else:
        return four_columns(tl.load(p + (places.o_lane[:, None] + tl.arange(0, 4)[None, :])))


@triton.jit
def keep(p, places, blocks, M: tl.constexpr):
    """Put aside a tuple of M blocks (P,)."""
    if M == 1:
        tl.store(p + places.o_lane, blocks[0])
    elif M == 2:
        o = places.o_lane[:, None] + tl.arange(0, 2)[None, :]  # (P, 2)
        tl.store(p + o, tl.join(blocks[0], blocks[1]))
    else:
        o = places.o_lane[:, None] + tl.arange(0, 4)[None, :]  # (P, 4)
        tl.store(p + o, join_four(blocks[0], blocks[1], blocks[2], blocks[3]))


@triton.jit
def load_steps(p, places):
    """Eight steps of each channel for all of its lanes: eight columns (P,)."""
    o = places.o_steps
    return four_columns(tl.load(p + o)) + four_columns(tl.load(p + o + 4))


@triton.jit
def keep_sums(p, places, c, G: tl.constexpr, BD: tl.constexpr):
    """Put aside eight columns (P,), each summed over the lanes of a channel."""
    o = places.o_steps
    low, high = join_four(c[0], c[1], c[2], c[3]), join_four(c[4], c[5], c[6], c[7])  # (P, 4) each
    tl.store(p + o, sum_to_all(low, BD, G, 1), mask=places.first)
    tl.store(p + o + 4, sum_to_all(high, BD, G, 1), mask=places.first)


@triton.jit
def sum_to_all(block, OUTER: tl.constexpr, SUMMED: tl.constexpr, INNER: tl.constexpr):
    """(P, 4) summed over the middle of P = (OUTER, SUMMED, INNER); each thread gets its sum, (P, 4)."""
    total = tl.sum(tl.reshape(block, [OUTER, SUMMED, INNER * 4]), axis=1)  # (OUTER, INNER 4)
    wide = tl.broadcast_to(total[:, None, :], [OUTER, SUMMED, INNER * 4])
    return tl.reshape(wide, [OUTER * SUMMED * INNER, 4])


@triton.jit
def store_shares(p, weights, o_n, M: tl.constexpr, G: tl.constexpr, BD: tl.constexpr,
                 WARPS: tl.constexpr, HALVINGS: tl.constexpr, CHUNK: tl.constexpr):
    """Eight columns (P,) for each of M states, summed over a warp's channels, to (WARPS, G M, CHUNK).

    Two lanes that add two blocks need not both have both sums: each goes on with one of them, so
    each time half as much is left to add. With four channels and four blocks (P, 4):

        channel   has       after j = 0   after j = 1
              0   0 1 2 3   0 1           0
              1   0 1 2 3   2 3           2
              2   0 1 2 3   0 1           1
              3   0 1 2 3   2 3           3

    Nothing is added across warps here, since that would take barriers.
    """
    blocks = ()  # 2 M blocks (P, 4): four steps each
    for i in tl.static_range(0, 8 * M, 4):
        blocks = blocks + (join_four(weights[i], weights[i + 1], weights[i + 2], weights[i + 3]),)
    o_c = tl.arange(0, BD * G) // G  # (P,) channel of a lane
    number = o_c * 0  # (P,) of the first block that a lane has
    for j in tl.static_range(HALVINGS):  # lanes whose channels differ by 2^j
        odd = (o_c >> j) % 2 == 1  # (P,)
        half = ()
        for i in tl.static_range(M >> j):
            low = sum_to_all(blocks[i], BD >> (j + 1), 2, G << j)
            high = sum_to_all(blocks[i + (M >> j)], BD >> (j + 1), 2, G << j)
            half = half + (tl.where(odd[:, None], high, low),)
        number += tl.where(odd, M >> j, 0)
        blocks = half
    ALIKE: tl.constexpr = (BD >> HALVINGS) // WARPS  # lanes of a warp with shares of the same sum
    here = (o_c % (BD // WARPS) < (1 << HALVINGS))[:, None]  # (P, 1)
    o_warp = o_c // (BD // WARPS) * (G * M * CHUNK)  # (P,)
    for i in tl.static_range(2 * M >> HALVINGS):
        total = blocks[i] if ALIKE == 1 else sum_to_all(blocks[i], WARPS, ALIKE, G << HALVINGS)
        o = o_warp + (o_n + (number + i) // 2) * CHUNK + (number + i) % 2 * 4  # (P,)
        tl.store(p + (o[:, None] + tl.arange(0, 4)[None, :]), total, mask=here)


@triton.jit
def add_shares(p, p_total, end, L, N: tl.constexpr, GM: tl.constexpr, ROWS: tl.constexpr,
               WARPS: tl.constexpr, CHUNK: tl.constexpr):
    """Add up the shares (WARPS, GM, CHUNK) into (N, CHUNK) of p_total, whose rows are L apart."""
    for row in tl.static_range(0, GM, ROWS):
        o_n, o_t = row + tl.arange(0, ROWS)[:, None], tl.arange(0, CHUNK)[None, :]
        total = tl.zeros([ROWS, CHUNK], tl.float32)
        for i in tl.static_range(WARPS):
            total += tl.load(p + (i * GM + o_n) * CHUNK + o_t)
        tl.store(p_total + o_n.to(tl.int64) * L + o_t, total, mask=(o_n < N) & (o_t < end))
