"""How sequences lie in a batch (b, L, …): whole rows, rows with padding, or one packed row.

Each layout says what blocks and pooling need of it, in the same terms: which samples are there, how
each sequence is turned round, and its mean over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssm_core._tensors import Packing, check_device, check_shape, dtype_name, read_boundaries

__all__ = ["Layout", "Packed", "Padded"]


class Layout:
    """Whole rows: each is one sequence of L samples."""

    def options(self) -> dict[str, Any]:
        """What a layer has to be told."""
        return {}

    def hide(self, x: Tensor) -> Tensor:
        """x (b, L, …) with zeros where there is no sample."""
        return x

    def turned(self, x: Tensor) -> Tensor:
        """Each sequence of x (b, L, …) from its last sample to its first."""
        return x.flip(1)

    def turned_steps(self, dt: Tensor) -> Tensor:
        """The time since the sample before (b, L), in sequences that are turned round.

        What was the time from a sample to the next one is now the time to it. The first step, which
        leads to the first sample from outside of the signal, stays the first.
        """
        return self.turned(dt).roll(1, 1)

    def mean(self, x: Tensor) -> Tensor:
        """The mean over time of each sequence, (sequences, …)."""
        return x.mean(1)


class Padded(Layout):
    """Rows whose sequence ends after so many samples.

    Args:
        lengths (int64): samples of each row (b,), from 1 to L
        L (int):         length of the rows
    """

    def __init__(self, lengths: Tensor, L: int) -> None:
        self.lengths = lengths
        self.place = torch.arange(L, device=lengths.device)
        self.inside = self.place < lengths[:, None]  # (b, L)

    def hide(self, x: Tensor) -> Tensor:
        return torch.where(_over(self.inside, x), x, 0)

    def turned(self, x: Tensor) -> Tensor:
        return self._turned(x, 0)

    def turned_steps(self, dt: Tensor) -> Tensor:
        return self._turned(dt, 1)

    def _turned(self, x: Tensor, shift: int) -> Tensor:
        n = self.lengths[:, None]
        source = torch.where(self.inside, (n - 1 + shift - self.place) % n, self.place)
        return torch.take_along_dim(x, _over(source, x), dim=1)

    def mean(self, x: Tensor) -> Tensor:
        return self.hide(x).sum(1) / self.lengths[:, None].to(x.dtype)


class Packed(Layout):
    """One row (1, L) of sequences that follow each other."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self.place = torch.arange(packing.length, device=packing.cu_seqlens.device)
        bounds = packing.cu_seqlens.long()
        self.sequence = torch.searchsorted(bounds[1:], self.place, right=True)  # of each sample
        self.start, self.n = bounds[self.sequence], bounds.diff()[self.sequence]

    def options(self) -> dict[str, Any]:
        return {"cu_seqlens": self.packing}

    def turned(self, x: Tensor) -> Tensor:
        return self._turned(x, 0)

    def turned_steps(self, dt: Tensor) -> Tensor:
        return self._turned(dt, 1)

    def _turned(self, x: Tensor, shift: int) -> Tensor:
        within = self.place - self.start
        return x[:, self.start + (self.n - 1 + shift - within) % self.n]

    def mean(self, x: Tensor) -> Tensor:
        total = x.new_zeros(self.packing.sequences, x.shape[-1]).index_add(0, self.sequence, x[0])
        return total / self.packing.cu_seqlens.diff()[:, None].to(x.dtype)

    def check_pooling(self) -> None:
        """Raise if a sequence has no samples, and so no mean."""
        bounds = read_boundaries(self.packing.cu_seqlens)
        if any(start == end for start, end in zip(bounds, bounds[1:])):
            raise ValueError(
                "cu_seqlens has an empty sequence, expected at least one sample in each: "
                "a model that pools takes their mean"
            )


def as_lengths(lengths: Any, u: Tensor) -> Tensor:
    """Check how many samples the rows of u (b, L, …) have; numbers are read, also on a GPU."""
    if isinstance(lengths, Sequence):
        lengths = torch.tensor(lengths, device=u.device)
    if not isinstance(lengths, Tensor):
        kind = type(lengths).__name__
        raise TypeError(f"lengths is a {kind}, expected a tensor or a list of integers")
    if lengths.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"lengths has dtype {dtype_name(lengths.dtype)}, expected int64 or int32")
    check_shape(lengths, "lengths", ("b",), (len(u),))
    check_device(lengths, "lengths", u.device, "u")
    if not torch.compiler.is_compiling():
        bad = [n for n in lengths.tolist() if not 1 <= n <= u.shape[1]]
        if bad:
            raise ValueError(
                f"lengths holds {bad[0]}, expected numbers of samples from 1 to "
                f"{u.shape[1]}, the length of u"
            )
    return lengths.long()


def _over(x: Tensor, like: Tensor) -> Tensor:
    """x (b, L) with as many axes of size 1 behind it as ``like`` has more."""
    return x.reshape(*x.shape, *[1] * (like.ndim - 2))
