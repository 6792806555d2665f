"""How SSD is spread over a GPU, in numbers. Nothing here needs a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssm_core._gpu import ceil_div, power_of_two, processors
from ssm_core.ssd._arguments import SSD


@dataclass(frozen=True)
class Tuning:
    """Numbers to be chosen by measuring."""

    chunk: int = 64  # steps of a chunk, where blocks allow it
    programs_states: int = 8  # for each processor, by kernel
    programs_outputs: int = 8
    programs_gradients: int = 4


TUNING = Tuning()
HEADS = 16  # of a program of the kernels of steps


@dataclass(frozen=True)
class Blocks:
    """Sizes of blocks, and what they take."""

    chunk: int  # steps, at most
    channels: int  # at most
    warps: int
    stages: int  # of heads whose loads are under way, in shared memory; one for several blocks of channels
    kilobytes: int  # of shared memory, which no kernel goes beyond


# By bytes of a factor and number of states, up to. No GPU since sm_80 has less than 99 KB. Four warps
# hold the 64 rows of a product; Triton gives more warps more rows, and where there are no more they
# repeat what the first four do. Float32 needs three products for one, and registers for their factors.
# ``tests/ssd/test_triton_compiles.py`` holds all this against the compiler.
BLOCKS = {
    (2, 128): Blocks(64, 64, 4, 2, 80),
    (2, 256): Blocks(32, 64, 4, 2, 64),
    (4, 64): Blocks(32, 64, 4, 1, 64),
    (4, 128): Blocks(32, 64, 8, 1, 80),
    (4, 256): Blocks(16, 64, 8, 1, 96),
}
LONGEST = max(blocks.chunk for blocks in BLOCKS.values())


def blocks_for(size: int, n: int) -> Blocks:
    """Blocks for factors of so many bytes and n states."""
    return next(blocks for (s, most), blocks in BLOCKS.items() if s == size and n <= most)


@dataclass(frozen=True)
class Plan:
    """How the kernels of one pass are launched."""

    rows: int  # of the batch, or packed sequences
    chunks_per_row: int  # 0 where sequences are packed
    chunks: int  # of all rows
    groups: int
    heads: int  # of a group
    L: int
    state: tuple[int, int]  # p, n
    owner: Tensor | None  # int32 (chunks,): the packed sequence of each chunk
    dtype: torch.dtype  # of the factors of matrix products, and of states between chunks
    processors: int
    constants: dict[str, Any]  # what the kernels of chunks are compiled for

    def _share(self, programs: int) -> int:
        """Heads of one program, so that there are about so many programs for each processor."""
        units = max(1, self.chunks * self.groups)
        parts = min(self.heads, ceil_div(programs * self.processors, units))
        return ceil_div(self.heads, parts)

    @property
    def unit(self) -> int:
        """Elements that all strides are multiples of."""
        return self.constants["UNIT"]

    @property
    def share_states(self) -> int:
        return self._share(TUNING.programs_states)

    @property
    def share_outputs(self) -> int:
        return self._share(TUNING.programs_outputs)

    @property
    def share_gradients(self) -> int:
        return self._share(TUNING.programs_gradients)

    def programs_per_group(self, share: int) -> int:
        return ceil_div(self.heads, share)

    def programs(self, share: int) -> int:
        return self.chunks * self.groups * self.programs_per_group(share)

    def sizes(self, share: int) -> tuple[int, ...]:
        """The sizes that kernels of chunks take: h, groups, L, chunks of a row, heads of a program,
        programs of a group."""
        return (self.groups * self.heads, self.groups, self.L, self.chunks_per_row, share,
                self.programs_per_group(share))


def make_plan(given: SSD) -> Plan:
    import triton.language as tl

    x, B = given.x, given.B
    (b, L, h, p), (g, n) = x.shape, B.shape[2:]
    low = x.dtype == torch.bfloat16 and x.device.type != "cpu"  # the interpreter multiplies no bfloat16
    blocks = blocks_for(2 if low else 4, n)
    BN, BP = max(16, power_of_two(n)), min(blocks.channels, max(16, power_of_two(p)))
    Q = min(given.chunk_size or TUNING.chunk, blocks.chunk)
    bounds = given.cu_seqlens
    rows = b if bounds is None else len(bounds) - 1
    chunks_per_row = ceil_div(L, Q) if bounds is None else 0
    chunks = rows * chunks_per_row if bounds is None else L // Q + rows
    half = {M.dtype for M in (x, B, given.C)} == {torch.float16}
    strides = [s for M in (x, B, given.C, given.z) if M is not None for s in M.stride()[:2]]
    return Plan(
        rows, chunks_per_row, chunks, g, h // g, L, (p, n),
        None if bounds is None else _owners(bounds, chunks, Q),
        torch.bfloat16 if low else torch.float32, processors(x.device),
        {"UNIT": 8 if all(s % 8 == 0 for s in (p, n, *strides)) else 1,
         "P": p, "BP": BP, "N": n, "BN": BN, "Q": Q,
         "COMPUTE": tl.bfloat16 if low else tl.float32,
         "PRECISION": "tf32" if low or half else "tf32x3", "num_warps": blocks.warps,
         "num_stages": blocks.stages if p <= blocks.channels else 1,
         "enable_fp_fusion": True})


def _owners(bounds: Tensor, chunks: int, Q: int) -> Tensor:
    """The packed sequence of each chunk, without a look at the numbers on the host."""
    first = bounds[:-1] // Q + torch.arange(len(bounds) - 1, device=bounds.device)
    places = torch.arange(chunks, device=bounds.device)
    return torch.searchsorted(first, places, right=True).int() - 1
