"""How a scan is spread over a GPU: who owns what, in numbers. Nothing here needs Triton or a GPU.

A *thread* owns one channel and M of its N states. G neighbouring threads, its *lanes*, share a
channel. A *block* is the BD channels that a program takes at once. Where batch and channels do not
fill the GPU, time is cut into *spans* that run side by side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_core._gpu import ceil_div, power_of_two, processors

STEPS = 8  # steps that a thread takes at once


@dataclass(frozen=True)
class Tuning:
    """The numbers that were chosen by measuring; ``benchmarks.scan_sweep`` changes one at a time."""

    chunk: int = 64  # steps between two saved states
    states_forward: int | None = None  # states of a thread; None for as many as its registers hold
    warps_backward: int = 8  # of a program, at most
    slots: float = 1.0  # times as many partial sums of dB and dC
    resident: tuple[int, int] = (12, 8)  # warps a processor holds, of the forward and backward kernel


TUNING = Tuning()


@dataclass(frozen=True)
class Lanes:
    """How a program's threads divide BD channels with N states among them."""

    N: int  # states of a channel
    M: int  # states of a thread
    G: int  # threads that share a channel
    BD: int  # channels of a block

    @property
    def warps(self) -> int:
        return self.BD * self.G // 32

    @property
    def sharing(self) -> int:
        """Warps of a program that have different channels."""
        return self.BD // max(1, 32 // self.G)

    @property
    def halvings(self) -> int:
        """How often a warp halves what it sums over channels, see ``store_shares``."""
        return (min(2 * self.M, max(1, 32 // self.G)) - 1).bit_length()

    def full(self, channels: int, L: int) -> bool:
        """Whether every block is full of channels, states and steps, so that no mask is needed."""
        return self.M * self.G == self.N and channels % self.BD == 0 and L > 0 and L % STEPS == 0


@dataclass(frozen=True)
class Workspace:
    """Numbers in float32 that a program of the backward kernel puts aside, by what they are.

    All but the last are for one block of channels; ``workspace_of`` in the kernel lays them out.
    """

    samples: int  # Δ, Δu and dy of a chunk, later three sums over the states
    states: int  # before each eight steps of a chunk
    decays: int  # A log2(e)
    carry: int  # gradient of the state that is carried to the step before
    dA: int  # summed over the steps so far
    dB: int  # likewise, where B is constant in time
    dC: int  # likewise, where C is constant in time
    shares: int  # of the program: dB and dC of a chunk, summed over the channels of each warp

    @property
    def block(self) -> int:
        """What one block of channels needs."""
        return (self.samples + self.states + self.decays + self.carry + self.dA + self.dB
                + self.dC)

    def program(self, blocks: int) -> int:
        """What a program needs that takes so many blocks."""
        return blocks * self.block + self.shares


@dataclass(frozen=True)
class Plan:
    """How the kernels of one pass are launched."""

    rows: int  # of the batch, or packed sequences
    groups: int  # of channels that share their B and C
    channels: int  # of a group
    L: int
    packed: bool
    lanes: Lanes
    span_lanes: Lanes  # of the kernel that sums up spans
    slots: int  # programs that share out the blocks of a group, one block after the other
    spans: int
    span: int  # steps of a span

    @property
    def blocks(self) -> int:
        """Blocks of channels in a group."""
        return ceil_div(self.channels, self.lanes.BD)

    @property
    def programs(self) -> int:
        return self.rows * self.spans * self.groups * self.slots

    @property
    def span_programs(self) -> int:
        blocks = ceil_div(self.channels, self.span_lanes.BD)
        return self.rows * self.spans * self.groups * blocks

    def constants(self, lanes: Lanes) -> dict[str, int | bool]:
        """What a kernel on these lanes is compiled for, and its options."""
        return {"N": lanes.N, "M": lanes.M, "G": lanes.G, "BD": lanes.BD, "CHUNK": TUNING.chunk,
                "FULL": not self.packed and lanes.full(self.channels, self.L),
                "num_warps": lanes.warps, "enable_fp_fusion": True}

    def workspace(self, B_CONST: bool, C_CONST: bool) -> Workspace:
        """What a program of the backward kernel puts aside."""
        lanes, chunk = self.lanes, TUNING.chunk
        states = lanes.BD * lanes.G * lanes.M  # one number for each state of the block
        share = lanes.sharing * lanes.G * lanes.M * chunk
        return Workspace(samples=3 * lanes.BD * chunk, states=chunk // STEPS * states,
                         decays=states, carry=states, dA=states, dB=B_CONST * states,
                         dC=C_CONST * states, shares=((not B_CONST) + (not C_CONST)) * share)


def plan_forward(u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> Plan:
    """The plan of a forward pass: each program takes one block over one span."""
    rows, groups, channels, L = _sizes(u, B, C, cu_seqlens)
    lanes = lanes_of_threads(A.shape[1], channels, _states_forward(A.shape[1], B, C), warps=1)
    blocks = ceil_div(channels, lanes.BD)
    filled = rows * groups * blocks / TUNING.resident[0]
    packed = cu_seqlens is not None
    spans, span = (1, L) if packed else cut_into_spans(L, filled, u.device)
    return Plan(rows, groups, channels, L, packed, lanes, lanes, blocks, spans, span)


def plan_backward(u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> Plan:
    """The plan of a backward pass: a program takes several blocks, for sums over channels."""
    rows, groups, channels, L = _sizes(u, B, C, cu_seqlens)
    n = A.shape[1]
    lanes = lanes_of_threads(n, channels, most=4, warps=TUNING.warps_backward)
    span_lanes = lanes_of_threads(n, channels, _states_forward(n, B, C), warps=1)
    slots = slots_of(B, C, n, ceil_div(channels, lanes.BD))
    filled = rows * groups * slots * lanes.warps / TUNING.resident[1]
    packed = cu_seqlens is not None
    spans, span = (1, L) if packed else cut_into_spans(L, filled, u.device)
    return Plan(rows, groups, channels, L, packed, lanes, span_lanes, slots, spans, span)


@functools.cache
def lanes_of_threads(n: int, channels: int, most: int, warps: int) -> Lanes:
    """Divide channels with n states among the threads of at most so many warps.

    A thread has at most ``most`` states: unrolled code grows with them, and so does the time to
    compile. Each thread has a channel of its own or some of its states, so nothing is done twice.
    """
    M = min(power_of_two(n), most)
    G = power_of_two(ceil_div(n, M))
    fewest = max(1, G // 16)  # two channels
    enough = power_of_two(ceil_div(channels * G, 32))
    sizes = [size for size in (16, 8, 4, 2, 1) if fewest <= size <= max(fewest, min(warps, enough))]
    full = [size for size in sizes if channels % (32 * size // G) == 0]  # no block in part empty
    return Lanes(N=n, M=M, G=G, BD=32 * (full or sizes)[0] // G)


def cut_into_spans(L: int, filled: float, device: torch.device) -> tuple[int, int]:
    """How many spans time is cut into, and how long they are.

    As many as fill the GPU once, where batch and channels fill ``filled`` of its processors.
    """
    spans = int(processors(device) / filled) if filled else 1
    spans = max(1, min(spans, L // TUNING.chunk))
    span = max(1, ceil_div(ceil_div(L, spans), TUNING.chunk)) * TUNING.chunk
    return max(1, ceil_div(L, span)), span


def slots_of(B: Tensor, C: Tensor, n: int, blocks: int) -> int:
    """How many partial sums of dB and dC there are, each as large as B in float32.

    One for two blocks of channels, or for more of them if n is large: fewer would save memory, but
    the workspaces of programs that take many blocks do not fit into the GPU's caches.
    """
    size = max(B.numel(), C.numel())
    slots = max(1, min(blocks, max(ceil_div(blocks, max(2, n // 8)), 2**21 // max(size, 1))))
    return max(1, min(blocks, int(TUNING.slots * slots)))


def _states_forward(n: int, B: Tensor, C: Tensor) -> int:
    """How many states a thread has whose B and C it loads ahead: what 255 registers hold."""
    if TUNING.states_forward is not None:
        return TUNING.states_forward
    return (8 if n <= 32 else 16) // (2 if torch.float32 in (B.dtype, C.dtype) else 1)


def _sizes(u: Tensor, B: Tensor, C: Tensor,
           cu_seqlens: Tensor | None) -> tuple[int, int, int, int]:
    """Rows, groups of channels, channels of a group, and steps."""
    b, d, L = u.shape
    rows = b if cu_seqlens is None else cu_seqlens.shape[0] - 1
    groups = next((M.shape[1] for M in (B, C) if M.ndim == 4), 1)
    return rows, groups, d // groups, L
