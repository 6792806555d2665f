"""May a shortcut be taken past a module? What layers and models ask before they read a weight."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

__all__ = ["is_plain"]


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
