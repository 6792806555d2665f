"""The operators that torch.compile and torch.export see, and autograd between them.

``ssm_core::selective_scan`` and ``ssm_core::selective_scan_backward`` run a backend's ``forward``
and ``backward`` (described in ``ssm_core.scan``). An operator returns tensors only, so what is
absent travels as an empty tensor of shape (0,). The chunk states travel as one long row: an axis of
chunks, which may be 1, would tie an exported program to lengths on one side of a chunk.
"""

from __future__ import annotations

import importlib
import math
from typing import Optional

import torch
from torch import Tensor

from ssm_core._tensors import check_boundaries
from ssm_core.scan._arguments import check_slots, state_dtype

# Schemas are inferred from annotations, which older PyTorch reads as they were written in its time.
MaybeTensor = Optional[Tensor]  # noqa: UP045


def scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, backend):
    """Out and last_state by the operator; chunk states are saved only if a gradient may come."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    out, last_state, _ = torch.ops.ssm_core.selective_scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, save,
        backend)
    return out, last_state


def step(*arguments):
    """One step by the operator."""
    return torch.ops.ssm_core.selective_state_update(*arguments)


def _module(backend):
    return importlib.import_module(f"ssm_core.scan.{backend}")


@torch.library.custom_op("ssm_core::selective_scan", mutates_args=())
def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: MaybeTensor,
          z: MaybeTensor, delta_bias: MaybeTensor, delta_softplus: bool,
          initial_state: MaybeTensor, cu_seqlens: MaybeTensor, save: bool,
          backend: str) -> tuple[Tensor, Tensor, Tensor]:
    if cu_seqlens is not None and not _capturing(cu_seqlens):
        check_boundaries(cu_seqlens, u.shape[-1])
    out, last_state, saved = _module(backend).forward(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, save)
    return out, last_state, saved.view(-1)


def _capturing(x):
    """Whether a CUDA graph is being recorded, when no number can be read."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


@_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, save,
      backend):
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    numel = math.prod(_module(backend).saved_shape(u, A, cu_seqlens)) if save else 0
    dtype = state_dtype(u)
    return (u.new_empty(u.shape), u.new_empty((rows, *A.shape), dtype=dtype),
            u.new_empty(numel, dtype=dtype))


@torch.library.custom_op("ssm_core::selective_scan_backward", mutates_args=())
def _scan_backward(dout: MaybeTensor, dlast_state: MaybeTensor, u: Tensor, delta: Tensor,
                   A: Tensor, B: Tensor, C: Tensor, D: MaybeTensor, z: MaybeTensor,
                   delta_bias: MaybeTensor, delta_softplus: bool, initial_state: MaybeTensor,
                   cu_seqlens: MaybeTensor, saved: Tensor, backend: str,
                   ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                              Tensor]:
    module = _module(backend)
    gradients = module.backward(
        dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state,
        cu_seqlens, saved.view(module.saved_shape(u, A, cu_seqlens)))
    return tuple(u.new_empty(0) if x is None else x for x in gradients)


@_scan_backward.register_fake
def _(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state,
      cu_seqlens, saved, backend):
    arguments = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    return tuple(u.new_empty(0) if x is None else x.new_empty(x.shape) for x in arguments)


def _setup_context(ctx, inputs, output):
    *tensors, delta_softplus, initial_state, cu_seqlens, _, backend = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, initial_state, cu_seqlens, output[2])
    ctx.delta_softplus, ctx.backend = delta_softplus, backend


def _differentiate(ctx, dout, dlast_state, _):
    *tensors, initial_state, cu_seqlens, saved = ctx.saved_tensors
    if dout is None and dlast_state is None:
        return (None,) * 13
    gradients = torch.ops.ssm_core.selective_scan_backward(
        dout, dlast_state, *tensors, ctx.delta_softplus, initial_state, cu_seqlens, saved,
        ctx.backend)
    present = [x is not None for x in (*tensors, initial_state)]
    *of_tensors, of_state = [x if here else None for x, here in zip(gradients, present)]
    return (*of_tensors, None, of_state, None, None, None)


def _refuse(ctx, *gradients):
    raise NotImplementedError("the selective scan on the backends cpu and triton has first "
                              "derivatives only; for higher ones pass backend='reference'")


_scan.register_autograd(_differentiate, setup_context=_setup_context)
_scan_backward.register_autograd(_refuse)


@torch.library.custom_op("ssm_core::selective_state_update", mutates_args=("state",))
def _step(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: MaybeTensor,
          z: MaybeTensor, dt_bias: MaybeTensor, dt_softplus: bool,
          state_batch_indices: MaybeTensor, backend: str, A_is_log: bool = False) -> Tensor:
    if state_batch_indices is not None and backend == "reference":
        check_slots(state_batch_indices, state.shape[0])
    return _module(backend).state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus,
                                         state_batch_indices, A_is_log)


@_step.register_fake
def _(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, backend,
      A_is_log=False):
    return x.new_empty(x.shape)
