"""In which precision a value of the block and the model counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

__all__ = ["keep_wide", "widened"]


def widened(x: Tensor, beside: Tensor) -> Tensor:
    """x in the precision that states have beside another tensor: float32, or float64 for float64."""
    return x.to(torch.promote_types(beside.dtype, torch.float32))


def keep_wide(
    module: nn.Module, names: Iterable[str], fn: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """``fn`` as ``Module._apply`` takes it, except that the named parameters of the module, and
    their gradients, do not go below float32."""
    parameters = [module._parameters.get(name) for name in names]
    kept = [x for p in parameters if p is not None for x in (p, p.grad)]

    def careful(x: Tensor) -> Tensor:
        new = fn(x)
        if new.itemsize < 4 and any(x is wide for wide in kept):
            new = x.to(device=new.device, dtype=torch.float32)
        return new

    return careful
