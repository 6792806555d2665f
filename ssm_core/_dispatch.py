"""Which way a call of an operator goes: straight to its code, through PyTorch, or by its definition.

An operation of this library exists in up to three forms that compute the same numbers.

=============  ====================================================================================
the operator   registered with ``torch.library``; what records or replaces operators needs it:
               ``torch.compile``, ``torch.export``, fake tensors, dispatch modes, subclasses
the function   a ``torch.autograd.Function`` around the same code, with less work per call
the definition plain PyTorch, which every transform of ``torch.func`` and forward-mode
               differentiation understand
=============  ====================================================================================
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = [
    "has_gradient",
    "in_forward_mode",
    "is_differentiated",
    "is_transformed",
    "may_be_differentiated",
    "needs_definition",
    "needs_operator",
    "signature",
    "with_signature",
    "without_derivative",
]

_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_is_batched = torch._C._functorch.is_legacy_batchedtensor


def needs_operator(*tensors: Tensor | None) -> bool:
    """Whether these tensors must go through an operator: because something records or replaces
    operators, or because PyTorch has to prepare the tensors first.

    It has to where the memory of a tensor does not hold its numbers: a subclass may keep them
    elsewhere, ``z.conj()`` and ``z.conj().imag`` leave a sign to be applied, and gradients may come in
    a batch (``is_grads_batched``, whose vmap is older than torch.func).
    """
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or torch.jit.is_tracing():
        return True
    for x in tensors:  # a loop, as this runs in each call
        if x is None:
            continue
        if type(x) not in _PLAIN or x.is_conj() or x.is_neg() or _is_batched(x):
            return True
    return False


def needs_definition(*tensors: Tensor | None) -> bool:
    """Whether only the definition gives what is asked for: forward mode runs through one of these
    tensors, or a transform of ``torch.func`` meets something that needs operators, which know none.

    ``torch.func.jvp`` and ``jacfwd`` count wherever they are in a nest of transforms, because an
    inner transform hides the tangents of an outer one.
    """
    if is_transformed():
        return not set(_transforms()) <= {"Grad", "Vmap"} or needs_operator(*tensors)
    return in_forward_mode() and (
        torch.compiler.is_compiling()
        or any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors)
    )


def is_differentiated(*tensors: Tensor | None) -> bool:
    """Whether a transform of ``torch.func`` or forward mode wants a derivative of this call."""
    return (
        "Grad" in _transforms()
        or "Jvp" in _transforms()
        or (not is_transformed() and needs_definition(*tensors))
    )


def has_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the gradient of what is computed from these tensors."""
    if torch.is_grad_enabled():
        for x in tensors:
            if x is not None and x.requires_grad:
                return True
    return False


def signature(*tensors: Any) -> tuple | None:
    """Shapes, dtypes and devices, to look up what was found out about such tensors before.

    None where a call may not be told from another by them: in traces, and with subclasses of Tensor.
    """
    if torch.compiler.is_compiling():
        return None
    parts: list[Any] = []
    for x in tensors:
        if x is None:
            parts.append(None)
        elif type(x) in _PLAIN:
            parts += (x.shape, x.dtype, x.device)
        else:
            return None
    return tuple(parts)


def constant_in_traces(function: Callable) -> Callable:
    """Let torch.compile call a function when it traces, and keep the answer.

    This is ``torch.compiler.assume_constant_result``, which imports the compiler when it is called: a
    second more for each import of this library, and an error where the compiler cannot be imported.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# torch.compile cannot look into these; it calls them when it traces, and each transform is guarded.


@constant_in_traces
def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is running: grad, vjp, jvp, vmap or one made of them."""
    return torch._C._are_functorch_transforms_active()


@constant_in_traces
def in_forward_mode() -> bool:
    """Whether forward-mode differentiation runs through anything at all."""
    return forward_ad._current_level >= 0


@constant_in_traces
def _transforms() -> tuple[str, ...]:
    """The kinds of the transforms that are running, from the outermost to the innermost."""
    return tuple(level.key().name for level in torch._C._functorch.get_interpreter_stack() or ())


def may_be_differentiated() -> bool:
    """Whether anything can ask for a derivative of what runs now: not in a usual backward pass."""
    return torch.is_grad_enabled() or is_transformed() or in_forward_mode()


def with_signature(function: Callable) -> Callable:
    """Let ``torch.autograd.Function.apply`` read the signature of ``forward`` instead of making it
    anew in each call, which takes 60 µs."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def without_derivative(function: Callable, why: str, *arguments: Any) -> Any:
    """``function(*arguments)``; what asks for its derivative gets a NotImplementedError that says why."""
    if may_be_differentiated():
        return _WithoutDerivative.apply(function, why, *arguments)
    return function(*arguments)


class _WithoutDerivative(Function):
    @staticmethod
    def forward(ctx, function: Callable, why: str, *arguments: Any) -> Any:
        ctx.why = why
        return function(*arguments)

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(ctx.why)
