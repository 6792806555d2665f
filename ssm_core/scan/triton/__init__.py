r"""The selective scan on a GPU, in Triton: forward, backward, and one step.

======================  ========================================================================
``plan``                how a pass is spread over a GPU, in numbers
``lanes``               who owns what in a kernel, and how each thread loads its share
``scan_forward``        the forward kernel
``spans``               the kernels that find the state wherever time is cut
``scan_backward``       the backward kernel
``workspace``           what the backward kernel puts aside
``scan_step``           the kernel of one step
======================  ========================================================================

**Who does what.** A thread owns one channel and M of its N states, keeps them in registers, and
walks along time eight steps at a time; G neighbouring lanes share a channel. Nothing is scanned
across threads, so the only traffic between lanes is a sum over states for the output, and a sum over
channels for the gradients of B and C.

**Who does when.** Time is cut into chunks of 64 steps, and the state at the start of each is kept:
that is all that the backward pass needs (it recomputes the rest). Where batch and channels do not
fill the GPU, time is also cut into spans that run side by side. What a span adds to the state after
it is summed up first (``sum_span``), from its end backwards and only as far as the decays let
anything through; a short loop carries the states across spans (``carry_across_spans``); then each
span runs from its true state. The backward pass does the same with time reversed.

**What the backward pass keeps near.** A program takes several blocks of channels through a chunk
together, so that the gradients of B and C are summed over channels in registers. What it must put
aside meanwhile goes through a workspace of its own, small enough for the GPU's caches.

**What is repeatable.** Sums over channels go through one slot of memory for each program and are
added up afterwards in a fixed order; there are no atomics. All offsets are 64 bits wide.

**When other kernels run.** ``ssm_core.scan.gluon`` has kernels for NVIDIA GPUs of compute capability
8.0 and later, which are being tried. Its ``covers`` decides which calls they serve: none by default.

Triton is imported by the first launch, not before: this package imports without it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_core._gpu import aligned, ceil_div, empty_like_or_none, power_of_two
from ssm_core.scan import gluon
from ssm_core.scan.triton import plan as plans
from ssm_core.scan.triton.plan import Plan, plan_backward, plan_forward

__all__ = ["backward", "forward", "saved_shape", "state_update"]


def saved_shape(u, A, cu_seqlens):
    """Shape of the chunk states: (chunks of all rows, d, n), more than needed if Gluon may serve."""
    if gluon.supports(u.device, A.shape[1]):
        return gluon.saved_shape(u, A, cu_seqlens)
    b, d, L = u.shape
    chunk = plans.TUNING.chunk
    if cu_seqlens is None:
        return (b * ceil_div(L, chunk), d, A.shape[1])
    return (L // chunk + cu_seqlens.shape[0] - 1, d, A.shape[1])


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, save):
    """The scan, as ``ssm_core.scan`` describes it."""
    from ssm_core.scan.triton.lanes import Inputs
    from ssm_core.scan.triton.scan_forward import scan_forward

    u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens = aligned(
        u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens)
    if gluon.covers(u, A, B, C):
        results = gluon.forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state,
                                cu_seqlens, save)
        if results is not None:
            return results
    (_, d, L), n = u.shape, A.shape[1]
    plan = plan_forward(u, A, B, C, cu_seqlens)
    out = torch.empty_like(u)
    last_state = _new(u, plan.rows, d, n)
    saved = _new(u, *(saved_shape(u, A, cu_seqlens) if save else (0,)))
    with torch.cuda.device_of(u):
        start = initial_state
        if plan.spans > 1:
            start = _carried(plan, initial_state, u, None, delta, A, B, delta_bias, delta_softplus,
                             ADJOINT=False)
        if plan.programs:
            scan_forward[(plan.programs,)](
                Inputs(u, delta, A, B, C, D, z, delta_bias), start, out, last_state,
                saved if save else None, cu_seqlens, d, plan.groups, L, plan.spans, plan.span,
                SOFTPLUS=delta_softplus, B_CONST=B.ndim == 2, C_CONST=C.ndim == 2,
                **plan.constants(plan.lanes))
    return out, last_state, saved


def backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus,
             initial_state, cu_seqlens, saved):
    """The gradients, as ``ssm_core.scan`` describes them."""
    from ssm_core.scan.triton.lanes import Inputs
    from ssm_core.scan.triton.scan_backward import Gradients, scan_backward

    if dout is None:
        dout = torch.zeros_like(u)
    dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, cu_seqlens = aligned(
        dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, cu_seqlens)
    if gluon.covers(u, A, B, C):
        gradients = gluon.backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias,
                                   delta_softplus, initial_state, cu_seqlens, saved)
        if gradients is not None:
            return gradients
        # Its kernels may have saved other states than these need.
        saved = forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state,
                        cu_seqlens, True)[2]
    (b, d, L), n = u.shape, A.shape[1]
    B_CONST, C_CONST = B.ndim == 2, C.ndim == 2
    plan = plan_backward(u, A, B, C, cu_seqlens)
    parts = plan.rows * plan.spans  # each has its sums over time, which are added up at the end
    grad = Gradients(
        u=torch.empty_like(u), delta=torch.empty_like(delta), z=empty_like_or_none(z),
        A=_new(u, parts, d, n),
        B=_new(u, parts, d, n) if B_CONST else _new(u, plan.slots, *B.shape),
        C=_new(u, parts, d, n) if C_CONST else _new(u, plan.slots, *C.shape),
        D=None if D is None else _new(u, parts, d),
        bias=None if delta_bias is None else _new(u, parts, d),
        start=None if initial_state is None else _new(u, plan.rows, d, n))
    workspace = plan.workspace(B_CONST, C_CONST)
    work = _new(u, plan.programs, workspace.program(ceil_div(plan.blocks, plan.slots)))
    with torch.cuda.device_of(u):
        carry = dlast_state
        if plan.spans > 1:
            carry = _carried(plan, dlast_state, dout, z, delta, A, C, delta_bias, delta_softplus,
                             ADJOINT=True)
        if plan.programs:
            scan_backward[(plan.programs,)](
                Inputs(u, delta, A, B, C, D, z, delta_bias), grad, dout, carry, saved, work,
                cu_seqlens, d, plan.groups, L, plan.spans, plan.span, plan.slots, b,
                SOFTPLUS=delta_softplus, B_CONST=B_CONST, C_CONST=C_CONST, WORK=workspace.block,
                HALVINGS=plan.lanes.halvings, **plan.constants(plan.lanes))
    del work

    def total(summands, like):
        return None if like is None else summands.sum(0).to(like.dtype)

    return (grad.u, grad.delta, total(grad.A, A), total(grad.B, B), total(grad.C, C),
            total(grad.D, D), grad.z, total(grad.bias, delta_bias), grad.start)


def state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, A_is_log):
    """One step in one launch, as ``ssm_core.scan`` describes it; the state may have any strides."""
    from ssm_core.scan.triton.scan_step import scan_step

    A, D, dt_bias, state_batch_indices = aligned(A, D, dt_bias, state_batch_indices)
    x, dt, B, C, z = (None if M is None else _rows_in_one_piece(M) for M in (x, dt, B, C, z))
    (b, d), n = x.shape, A.shape[1]
    y = torch.empty(b, d, dtype=x.dtype, device=x.device)
    BN = power_of_two(n)
    BD = max(1, 512 // BN)  # four states a thread: what 16 bytes of float32 hold
    with torch.cuda.device_of(x):
        if b:
            scan_step[(b * ceil_div(d, BD),)](
                state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, y, state.stride(),
                *(0 if M is None else M.stride(0) for M in (x, dt, B, C, z)), d, B.shape[1],
                SOFTPLUS=dt_softplus, A_IS_LOG=A_is_log, N=n, BN=BN, BD=BD, num_warps=4,
                enable_fp_fusion=True)
    return y


def _carried(plan: Plan, first, signal, z, delta, A, weight, delta_bias, delta_softplus, *,
             ADJOINT):
    """What enters each span, (rows, spans, d, n), from what each span adds at its edge."""
    from ssm_core.scan.triton.spans import carry_across_spans, sum_span

    (rows, d, L), n = signal.shape, A.shape[1]
    states, sums = _new(signal, rows, plan.spans, d, n), _new(signal, rows, plan.spans, d)
    sum_span[(plan.span_programs,)](
        signal, z, delta, A, weight, delta_bias, states, sums, d, plan.groups, L, plan.spans,
        plan.span, ADJOINT=ADJOINT, SOFTPLUS=delta_softplus, CONST=weight.ndim == 2,
        **plan.constants(plan.span_lanes))
    carry_across_spans[(rows * ceil_div(d * n, 128),)](
        first, states, sums, A, d, plan.spans, N=n, REVERSE=ADJOINT, BLOCK=128, num_warps=4,
        enable_fp_fusion=True)
    return states


def _new(like: Tensor, *shape: int) -> Tensor:
    """Memory for numbers in float32 on the same device."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _rows_in_one_piece(x: Tensor) -> Tensor:
    """x, copied unless what is in each row of the batch lies together."""
    return x if x[:1].is_contiguous() else x.contiguous()
