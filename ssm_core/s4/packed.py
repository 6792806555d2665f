"""Sequences that are packed into one row, for layers that convolve whole signals.

A convolution has no boundaries inside a row. So the sequences are laid side by side, in groups of
similar length with zeros after the shorter ones, and each group is one batch. A group of lengths
from :math:`2^{i-1} + 1` to :math:`2^i` has at most as many zeros as samples, and there are as many
groups as powers of two that occur. Zeros after the end change nothing before it, and a layer that
looks ahead reads what it would read from a signal that ends there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Group", "groups", "packed"]


class Group(NamedTuple):
    """Some sequences of a row as a batch (rows, T)."""

    sequences: Tensor  # which they are (rows,)
    places: (
        Tensor  # of their samples in the row (rows, T), the length of the row where one has ended
    )
    inside: Tensor  # where they have not ended (rows, T), bool

    def unpack(self, row: Tensor) -> Tensor:
        """The batch (rows, T, …) from a row (T, …), with zeros after each end."""
        return torch.cat([row, row.new_zeros(1, *row.shape[1:])])[self.places]


def groups(bounds: Sequence[int], device: torch.device, *, equal: bool) -> Iterator[Group]:
    """Groups of sequences of similar or, if asked for, of equal length; empty ones are in none.

    Args:
        bounds (list of int): boundaries in the row (sequences + 1,)
        device:               where the row is
        equal (bool):         one group for each length, without zeros
    """
    kinds: dict[int, list[int]] = {}
    for i, (start, end) in enumerate(zip(bounds, bounds[1:])):
        if n := end - start:
            kinds.setdefault(n if equal else (n - 1).bit_length(), []).append(i)
    for members in kinds.values():
        starts, ends = (
            torch.tensor([bounds[i + side] for i in members], device=device)[:, None]
            for side in (0, 1)
        )
        steps = torch.arange(max(bounds[i + 1] - bounds[i] for i in members), device=device)
        places = starts + steps
        inside = places < ends
        yield Group(
            torch.tensor(members, device=device), torch.where(inside, places, bounds[-1]), inside
        )


def packed(parts: Sequence[tuple[Group, Tensor]]) -> Tensor:
    """The row (T, …) from what each of its groups has become (rows, T, …)."""
    places = torch.cat([group.places[group.inside] for group, _ in parts])
    samples = torch.cat([batch[group.inside] for group, batch in parts])
    return samples[torch.argsort(places)]
