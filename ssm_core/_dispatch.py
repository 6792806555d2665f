"""Which way a call of an operator goes: straight to its code, through PyTorch, or by its definition.

An operation of this library exists in up to three forms that compute the same numbers.

=============  ====================================================================================
the operator   registered with ``torch.library``; what records or replaces operators needs it:
               ``torch.compile``, ``torch.export``, fake tensors, dispatch modes
the function   a ``torch.autograd.Function`` around the same code, with less work per call
the definition plain PyTorch, which every transform of ``torch.func`` and forward-mode
               differentiation understand
=============  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["WithoutDerivative", "has_gradient", "has_tangent", "is_differentiated", "is_traced", "is_transformed"]

_Transform = torch._C._functorch.TransformType
_PLAIN = (Tensor, torch.nn.Parameter)


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether something records or replaces the operators that these tensors pass through."""
    return (torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or torch.jit.is_tracing()
            or any(x is not None and (type(x) not in _PLAIN or _is_batched_gradient(x))
                   for x in tensors))


# ``torch.autograd.grad(…, is_grads_batched=True)`` runs a vmap of its own, older than torch.func.
_is_batched_gradient = torch._C._functorch.is_legacy_batchedtensor


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is running: grad, vjp, jvp, vmap or one made of them."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def has_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the gradient of what is computed from these tensors."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward-mode differentiation runs through one of these tensors.

    ``torch.func.jvp`` and ``jacfwd`` count wherever they are in a nest of transforms, because an
    inner transform hides the tangents of an outer one.
    """
    if torch.compiler.is_compiling():
        return False
    if is_transformed():
        return _Transform.Jvp in _transforms()
    if forward_ad._current_level < 0:  # nothing is dual
        return False
    return any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether a transform of ``torch.func`` or forward mode wants a derivative of this call."""
    return has_tangent(*tensors) or (is_transformed() and _Transform.Grad in _transforms())


def _transforms() -> list[_Transform]:
    """The kinds of the transforms that are running, from the outermost to the innermost."""
    return [level.key() for level in torch._C._functorch.get_interpreter_stack()]


class WithoutDerivative(Function):
    """``WithoutDerivative.apply(function, why, *arguments)`` is ``function(*arguments)``, and what
    asks for its derivative gets a NotImplementedError that says why."""

    @staticmethod
    def forward(ctx, function: Callable, why: str, *arguments: Any) -> Any:
        ctx.why = why
        return function(*arguments)

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(ctx.why)
