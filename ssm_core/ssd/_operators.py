"""The operators and the autograd function around the backends, and the derivative that both share.

``ssm_core::ssd`` and ``ssm_core::ssd_backward`` run a backend's ``forward`` and ``backward``
(``ssm_core.ssd._backends``). :class:`StateSpaceDual` does the same as a ``torch.autograd.Function``,
with less work per call; ``ssm_core._dispatch`` says which of the two a call takes. An operator
returns tensors only, so what is absent travels as an empty tensor of shape (0,).
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import Function

from ssm_core._dispatch import (
    may_be_differentiated,
    needs_operator,
    with_signature,
    without_derivative,
)
from ssm_core.ssd._arguments import state_dtype
from ssm_core.ssd._backends import load_backend

__all__ = ["StateSpaceDual"]

# Schemas are inferred from annotations, which older PyTorch reads as they were written in its time.
MaybeTensor = Optional[Tensor]  # noqa: UP045
MaybeInt = Optional[int]  # noqa: UP045
Nine = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

NO_SECOND_DERIVATIVE = (
    "ssd_fn has first derivatives only on the backends chunk and triton; for higher ones pass "
    "backend='reference'"
)


@torch.library.custom_op("ssm_core::ssd", mutates_args=())
def _ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: MaybeTensor,
    z: MaybeTensor,
    dt_bias: MaybeTensor,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
    initial_states: MaybeTensor,
    cu_seqlens: MaybeTensor,
    chunk_size: MaybeInt,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return load_backend(backend).forward(
        *(x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_min, dt_max),
        *(initial_states, cu_seqlens, chunk_size),
    )


def _backward(
    dy: MaybeTensor,
    dfinal_states: MaybeTensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: MaybeTensor,
    z: MaybeTensor,
    dt_bias: MaybeTensor,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
    initial_states: MaybeTensor,
    cu_seqlens: MaybeTensor,
    chunk_size: MaybeInt,
    backend: str,
) -> Nine:
    """The gradients of x to dt_bias and of initial_states; empty where the argument is None."""
    gradients = load_backend(backend).backward(
        *(dy, dfinal_states, x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_min, dt_max),
        *(initial_states, cu_seqlens, chunk_size),
    )
    return tuple(x.new_empty(0) if g is None else g for g in gradients)  # type: ignore[return-value]


_ssd_backward = torch.library.custom_op("ssm_core::ssd_backward", _backward, mutates_args=())


@_ssd.register_fake
def _(x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_min, dt_max, initial_states, cu_seqlens, *_):
    rows = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    states = rows, *x.shape[2:], B.shape[3]
    return x.new_empty(x.shape), x.new_empty(states, dtype=state_dtype(x))


@_ssd_backward.register_fake
def _(
    dy, dfinal, x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_min, dt_max, initial_states, *rest
):
    arguments = (x, dt, A, B, C, D, z, dt_bias, initial_states)
    return tuple(x.new_empty(0) if y is None else y.new_empty(y.shape) for y in arguments)


def _setup_context(ctx, inputs, output):
    *tensors, dt_softplus, dt_min, dt_max, initial_states, cu_seqlens, chunk_size, backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, initial_states, cu_seqlens)
    ctx.steps, ctx.chunk_size, ctx.backend = (dt_softplus, dt_min, dt_max), chunk_size, backend


def _differentiate(ctx, dy, dfinal_states):
    *tensors, initial_states, cu_seqlens = ctx.saved_tensors
    if dy is None and dfinal_states is None:
        return (None,) * 15
    given = (dy, dfinal_states, *tensors, *ctx.steps, initial_states, cu_seqlens, ctx.chunk_size)
    if needs_operator(dy, dfinal_states, *tensors):
        gradients = torch.ops.ssm_core.ssd_backward(*given, ctx.backend)
    elif may_be_differentiated():
        gradients = without_derivative(_backward, NO_SECOND_DERIVATIVE, *given, ctx.backend)
    else:
        gradients = _backward(*given, ctx.backend)
    present = [x is not None for x in (*tensors, initial_states)]
    *of_tensors, of_states = [x if here else None for x, here in zip(gradients, present)]
    return (*of_tensors, None, None, None, of_states, None, None, None)


def _refuse(ctx, *gradients):
    raise NotImplementedError(NO_SECOND_DERIVATIVE)


_ssd.register_autograd(_differentiate, setup_context=_setup_context)
_ssd_backward.register_autograd(_refuse)


class StateSpaceDual(Function):
    """SSD on a backend with its gradient, for eager calls."""

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_differentiate)

    @staticmethod
    @with_signature
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        """y and final_states."""
        *arguments, backend = inputs
        return load_backend(backend).forward(*arguments)
