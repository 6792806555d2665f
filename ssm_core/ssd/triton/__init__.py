r"""SSD on a GPU, in Triton: chunks of time, matrix products inside them, states between them.

======================  ========================================================================
``plan``                how a pass is spread over a GPU, in numbers
``chunks``              what the kernels share: who owns what, decays, loads and products
``chunk_states``        what each chunk adds to the state after it; the adjoint with time reversed
``pass_states``         states from chunk to chunk; gradients the other way
``chunk_outputs``       the outputs of a chunk from the state before it
``chunk_gradients``     the gradients of x, z, dt, A and D from that state and the gradient after it
``weight_gradients``    the gradients of B, and as the adjoint those of C
======================  ========================================================================

**The forward pass** is ``chunk_states``, ``pass_states``, ``chunk_outputs``. The backward pass keeps
nothing but the arguments: it repeats the first two, does the same for the gradients of the states
with time reversed, and ends with ``chunk_gradients`` and ``weight_gradients``. These two are apart
because together they need more registers than there are. ``ssm_core.ssd.chunk`` has the formulas.

**Numbers.** Products are taken by tensor cores, of factors in bfloat16 for bfloat16 input, and are
added in float32. Float32 takes three products in TF32, which keep 22 bits of each factor; float16
takes one, which keeps all of its 11 bits and does not overflow. States between chunks are in the
dtype of the factors, since that is how they are read; they are carried in float32.

**What is repeatable.** Sums over heads and chunks go through memory of their own and are added up
afterwards in a fixed order; there are no atomics. All offsets are 64 bits wide.

Triton is imported by the first launch, not before: this package imports without it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_core._gpu import aligned, ceil_div, launch
from ssm_core.ssd._arguments import SSD
from ssm_core.ssd.triton import plan as plans
from ssm_core.ssd.triton.plan import Plan, make_plan

__all__ = ["backward", "forward"]


def forward(*arguments):
    """y and final_states, as ``ssm_core.ssd._backends`` describes it."""
    from ssm_core.ssd.triton.chunk_outputs import chunk_outputs

    given = _in_rows(SSD(*arguments))
    plan = make_plan(given)
    with torch.cuda.device_of(given.x):
        entering, final, _ = _states(given, plan)
        y = torch.empty_like(given.x, memory_format=torch.contiguous_format)
        if plan.chunks:
            launch(chunk_outputs, plan.programs(plan.share_outputs), given.x, given.z, given.dt,
                   given.A, given.B, given.C, given.D, given.dt_bias, entering, y,
                   given.cu_seqlens, plan.owner, given.dt_min, given.dt_max,
                   *_strides(given.x, given.z, given.dt, given.B, given.C),
                   *plan.sizes(plan.share_outputs), PER_CHANNEL=_per_channel(given),
                   **plan.constants, num_warps=plans.TUNING.warps_outputs)
    return y, final


def backward(dy, dfinal_states, *arguments):
    """The gradients, as ``ssm_core.ssd._backends`` describes it."""
    from ssm_core.ssd.triton.chunk_gradients import chunk_gradients

    given = _in_rows(SSD(*arguments))
    x, dt, A, B, C, D, z, bias = given[:8]
    h, p = x.shape[2:]
    plan = make_plan(given)
    share = plan.share_gradients
    dy = torch.zeros_like(x) if dy is None else dy
    dy, dfinal_states = aligned(dy, dfinal_states)
    dx, ddt, dz = (None if M is None else _empty(M.shape, M) for M in (x, dt, z))
    dscores = _empty((plan.programs(share), plan.constants["Q"] ** 2), x, torch.float32)
    dA, dD, dbias = (
        None if M is None else _empty((plan.chunks, h, *size), x, torch.float32)
        for M, size in ((A, ()), (D, (p,)), (bias, ())))
    with torch.cuda.device_of(x):
        entering, _, sums = _states(given, plan)
        leaving, dinitial = _state_gradients(given, plan, dy, dfinal_states, sums)
        if plan.chunks:
            launch(chunk_gradients, plan.programs(share), dy, x, z, dt, A, B, C, D, bias, entering,
                   leaving, dx, dz, ddt, dA, dscores, dD, dbias, given.cu_seqlens, plan.owner,
                   given.dt_min, given.dt_max, *_strides(x, z, dt, B, C), *plan.sizes(share),
                   PER_CHANNEL=_per_channel(given), **plan.constants,
                   num_warps=plans.TUNING.warps_gradients)
        dB = _weight_gradient(given, plan, x, None, B, C, leaving, dscores, ADJOINT=False)
        dC = _weight_gradient(given, plan, dy, z, C, B, entering, dscores, ADJOINT=True)
    dA, dD, dbias = (None if M is None else M.sum(0) for M in (dA, dD, dbias))
    if D is not None and D.ndim == 1:
        dD = dD.sum(-1)
    return dx, ddt, dA, dB, dC, dD, dz, dbias, None if given.initial_states is None else dinitial


def _states(given: SSD, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """The state before each chunk, after the last one, and the sums of Δ A of chunks."""
    from ssm_core.ssd.triton.chunk_states import chunk_states

    x, h = given.x, given.x.shape[2]
    added = _empty((plan.chunks, h, *plan.state), x, plan.dtype)
    sums = _empty((plan.chunks, h), x, torch.float32)
    if plan.chunks:
        launch(chunk_states, plan.programs(plan.share_states), x, None, given.dt, given.A, given.B,
               given.dt_bias, added, sums, given.cu_seqlens, plan.owner, given.dt_min,
               given.dt_max, *_strides(x, None, given.dt, given.B),
               *plan.sizes(plan.share_states), ADJOINT=False, **plan.constants,
               num_warps=plans.TUNING.warps_states)
    entering, final = _carry(given, plan, added, sums, given.initial_states, REVERSE=False)
    return entering, final, sums


def _state_gradients(given: SSD, plan: Plan, dy, dfinal_states, sums) -> tuple[Tensor, Tensor]:
    """The gradients of the state after each chunk, and of the state before the first."""
    from ssm_core.ssd.triton.chunk_states import chunk_states

    z = given.z
    added = _empty((plan.chunks, dy.shape[2], *plan.state), dy, plan.dtype)
    if plan.chunks:
        launch(chunk_states, plan.programs(plan.share_states), dy, z, given.dt, given.A, given.C,
               given.dt_bias, added, None, given.cu_seqlens, plan.owner, given.dt_min,
               given.dt_max, *_strides(dy, z, given.dt, given.C), *plan.sizes(plan.share_states),
               ADJOINT=True, **plan.constants, num_warps=plans.TUNING.warps_states)
    return _carry(given, plan, added, sums, dfinal_states, REVERSE=True)


def _weight_gradient(given: SSD, plan: Plan, x, z, weight, other, states, dscores, *, ADJOINT):
    """The gradient of B or, as the adjoint, of C."""
    from ssm_core.ssd.triton.weight_gradients import weight_gradients

    share = plan.share_gradients
    shares = plan.programs_per_group(share)
    dweight = _empty((shares, *weight.shape), x, weight.dtype if shares == 1 else torch.float32)
    if plan.chunks:
        launch(weight_gradients, plan.programs(share), x, z, given.dt, given.A, other,
               given.dt_bias, states, dscores, dweight, given.cu_seqlens, plan.owner, given.dt_min,
               given.dt_max, *_strides(x, z, given.dt, other), *plan.sizes(share), len(x),
               ADJOINT=ADJOINT, **plan.constants, num_warps=plans.TUNING.warps_weights)
    return dweight[0] if shares == 1 else dweight.sum(0).to(weight.dtype)


def _carry(given: SSD, plan: Plan, added, sums, first, *, REVERSE) -> tuple[Tensor, Tensor]:
    """What passes from chunk to chunk, and what is left in the end."""
    from ssm_core.ssd.triton.pass_states import pass_states

    h, size, block = given.x.shape[2], plan.state[0] * plan.state[1], 512
    carried = torch.empty_like(added)
    last = _empty((plan.rows, h, *plan.state), added, torch.float32)
    if plan.rows:
        launch(pass_states, plan.rows * h * ceil_div(size, block), added, sums, first, carried,
               last, given.cu_seqlens, h, plan.chunks_per_row, SIZE=size, BLOCK=block,
               Q=plan.constants["Q"], REVERSE=REVERSE, num_warps=4, enable_fp_fusion=True)
    return carried, last


def _in_rows(given: SSD) -> SSD:
    """The arguments with (h, p) and (g, n) in one piece and at multiples of 16 bytes; batch and time
    keep their strides, so that slices of one projection are not copied."""
    x, dt, A, B, C, D, z, dt_bias, *steps, initial_states, cu_seqlens, chunk_size = given
    x, dt, B, C, z = (None if M is None else _in_one_piece(M) for M in (x, dt, B, C, z))
    A, D, dt_bias, initial_states, cu_seqlens = aligned(A, D, dt_bias, initial_states, cu_seqlens)
    return SSD(x, dt, A, B, C, D, z, dt_bias, *steps, initial_states, cu_seqlens, chunk_size)


def _in_one_piece(value: Tensor) -> Tensor:
    if value[:1, :1].is_contiguous() and value.data_ptr() % 16 == 0:
        return value
    return value.clone(memory_format=torch.contiguous_format)


def _strides(*tensors: Tensor | None) -> list[int]:
    """Of batch and time, one tensor after the other."""
    return [s for M in tensors for s in ((0, 0) if M is None else M.stride()[:2])]


def _per_channel(given: SSD) -> bool:
    return given.D is not None and given.D.ndim == 2


def _empty(shape, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
