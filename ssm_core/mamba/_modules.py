"""What the block and the model ask of modules and parameters: may a shortcut be taken, and in which
precision does a value count."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

__all__ = ["is_plain", "keep_wide", "widened"]


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the module runs the ``forward`` of exactly this class on plain tensors.

    Only then may a faster formula read its weight instead. Adapters, parametrizations, quantized
    and sharded modules are of another class or hold another kind of tensor; pruning, weight norm,
    offloading and whoever watches a module register hooks or replace ``forward`` on the instance.
    """
    watched = (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )
    return (
        type(module) is kind
        and not watched
        and all(
            type(x) in (nn.Parameter, Tensor) for x in module._parameters.values() if x is not None
        )
    )


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
