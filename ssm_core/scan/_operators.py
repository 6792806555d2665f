"""The operators and autograd functions around the backends, and the derivative that both share.

``ssm_core::selective_scan`` and ``ssm_core::selective_scan_backward`` run a backend's ``forward``
and ``backward`` (``ssm_core.scan._backends``). :class:`SelectiveScan` does the same as a
``torch.autograd.Function``, with less work per call and for ``torch.func``;
``ssm_core._dispatch`` says which of the two a call takes. An operator returns tensors only, so what
is absent travels as an empty tensor of shape (0,). The chunk states travel as one long row: an axis
of chunks, which may be 1, would tie an exported program to lengths on one side of a chunk.
"""

from __future__ import annotations

import math
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import Function

from ssm_core._dispatch import may_be_differentiated, needs_operator, with_signature
from ssm_core.scan._arguments import check_slots, state_dtype
from ssm_core.scan._backends import load_backend

__all__ = ["SelectiveScan", "run_state_update"]

# Schemas are inferred from annotations, which older PyTorch reads as they were written in its time.
MaybeTensor = Optional[Tensor]  # noqa: UP045
Three = tuple[Tensor, Tensor, Tensor]
Nine = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


# --- the scan and its gradient --------------------------------------------------------------------


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: MaybeTensor,
    z: MaybeTensor,
    delta_bias: MaybeTensor,
    delta_softplus: bool,
    initial_state: MaybeTensor,
    cu_seqlens: MaybeTensor,
    save: bool,
    backend: str,
) -> Three:
    return SelectiveScan.forward(
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        delta_softplus,
        initial_state,
        cu_seqlens,
        save,
        backend,
    )


def _backward(
    dout: MaybeTensor,
    dlast_state: MaybeTensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: MaybeTensor,
    z: MaybeTensor,
    delta_bias: MaybeTensor,
    delta_softplus: bool,
    initial_state: MaybeTensor,
    cu_seqlens: MaybeTensor,
    saved: Tensor,
    backend: str,
) -> Nine:
    """The gradients of u to delta_bias and of initial_state; empty where the argument is None."""
    module = load_backend(backend)
    given = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens)
    shape = module.saved_shape(u, A, cu_seqlens)
    if saved.numel() != math.prod(shape):  # vmap has rearranged the arguments since
        saved = module.forward(*given, True)[2]
    gradients = module.backward(dout, dlast_state, *given, saved.view(shape))
    return tuple(u.new_empty(0) if x is None else x for x in gradients)  # type: ignore[return-value]


_scan = torch.library.custom_op("ssm_core::selective_scan", _forward, mutates_args=())
_scan_backward = torch.library.custom_op(
    "ssm_core::selective_scan_backward", _backward, mutates_args=()
)


@_scan.register_fake
def _(
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, save, backend
):
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    numel = math.prod(load_backend(backend).saved_shape(u, A, cu_seqlens)) if save else 0
    dtype = state_dtype(u)
    return (
        u.new_empty(u.shape),
        u.new_empty((rows, *A.shape), dtype=dtype),
        u.new_empty(numel, dtype=dtype),
    )


@_scan_backward.register_fake
def _(
    dout,
    dlast_state,
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    delta_softplus,
    initial_state,
    cu_seqlens,
    saved,
    backend,
):
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
    run = (
        torch.ops.ssm_core.selective_scan_backward
        if needs_operator(dout, dlast_state, *tensors)
        else _SelectiveScanBackward.apply
        if may_be_differentiated()
        else _backward
    )
    gradients = run(
        dout,
        dlast_state,
        *tensors,
        ctx.delta_softplus,
        initial_state,
        cu_seqlens,
        saved,
        ctx.backend,
    )
    present = [x is not None for x in (*tensors, initial_state)]
    *of_tensors, of_state = [x if here else None for x, here in zip(gradients, present)]
    return (*of_tensors, None, of_state, None, None, None)


def _refuse(ctx, *gradients):
    raise NotImplementedError(
        "the selective scan on the backends cpu and triton has first "
        "derivatives only; for higher ones pass backend='reference'"
    )


_scan.register_autograd(_differentiate, setup_context=_setup_context)
_scan_backward.register_autograd(_refuse)


class SelectiveScan(Function):
    """The scan of a backend with its gradient, for eager calls and the transforms of torch.func."""

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_differentiate)

    @staticmethod
    @with_signature
    def forward(*inputs: Any) -> Three:  # PyTorch would match names anew at each call
        """out, last_state, and the chunk states as one row, or nothing of them if not save."""
        *arguments, backend = inputs
        out, last_state, saved = load_backend(backend).forward(*arguments)
        return out, last_state, saved.view(-1)

    @staticmethod
    def vmap(info, in_dims, *inputs):
        folded = _fold(inputs[:11], in_dims[:11], info.batch_size)
        out, last_state, saved = SelectiveScan.apply(*folded, *inputs[11:])
        # What is saved belongs to the folded scan: outside of it the backward makes it anew.
        return (
            (
                _unfold(out, 1, info.batch_size),
                _unfold(last_state, 1, info.batch_size),
                saved.new_empty(0),
            ),
            (1, 1, None),
        )


class _SelectiveScanBackward(Function):
    """The gradients that a backend computes, of which vmap makes Jacobians and those of samples."""

    backward = staticmethod(_refuse)

    @staticmethod
    @with_signature
    def forward(*inputs: Any) -> Nine:
        return _backward(*inputs)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, dout, dlast_state, *inputs):
        size, given = info.batch_size, inputs[:11]
        folded = _fold(given, in_dims[2:13], size)
        dout, dlast_state = (
            _fold_axis(x, dim, 1, size) for x, dim in zip((dout, dlast_state), in_dims)
        )
        nothing = folded[0].new_empty(0)
        gradients = _SelectiveScanBackward.apply(dout, dlast_state, *folded, nothing, inputs[12])
        axes = [axis for axis in _channel_axes(*folded[3:5]) if axis is not None]
        present = [x is not None for x in (*given[:8], given[9])]
        return (
            tuple(
                _unfold(x, axis, size) if here else x
                for x, axis, here in zip(gradients, axes, present)
            ),
            tuple(axis if here else None for axis, here in zip(axes, present)),
        )


# --- vmap: many scans side by side are one scan with more channels, in more groups -----------------


def _channel_axes(B, C):
    """The axis of channels, or of groups of them, of each argument of a scan, in order."""
    of_B, of_C = (1 if M.ndim == 4 else 0 for M in (B, C))
    return (1, 1, 0, of_B, of_C, 0, 1, 0, None, 1, None)


def _fold(given, in_dims, size):
    """The arguments of a scan with the axis of vmap joined to the channels of each."""
    if in_dims[10] is not None:
        raise ValueError("cu_seqlens differs along an axis of vmap, expected one for all")
    logical = [x if dim is None else x.select(dim, 0) for x, dim in zip(given[3:5], in_dims[3:5])]
    return [
        x if axis is None else _fold_axis(x, dim, axis, size)
        for x, dim, axis in zip(given, in_dims, _channel_axes(*logical))
    ]


def _fold_axis(x, dim, axis, size):
    if x is None:
        return None
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.movedim(0, axis).flatten(axis, axis + 1)


def _unfold(x, axis, size):
    return x.unflatten(axis, (size, x.shape[axis] // size))


# --- one step -------------------------------------------------------------------------------------

NO_STEP_GRADIENT = (
    "selective_state_update has no derivatives; selective_scan_fn with "
    "initial_state and return_last_state=True takes the same step and has them"
)


def run_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: MaybeTensor,
    z: MaybeTensor,
    dt_bias: MaybeTensor,
    dt_softplus: bool,
    state_batch_indices: MaybeTensor,
    backend: str,
    A_is_log: bool,
) -> Tensor:
    """The output of one step; the state changes in place."""
    if state_batch_indices is not None and backend != "triton":
        check_slots(state_batch_indices, state.shape[0])
    return load_backend(backend).state_update(
        state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, A_is_log
    )


_step = torch.library.custom_op(
    "ssm_core::selective_state_update", run_state_update, mutates_args=("state",)
)


@_step.register_fake
def _(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, backend, A_is_log):
    return x.new_empty(x.shape)
