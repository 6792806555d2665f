r"""SSD on a GPU, in Triton: chunks of time, matrix products inside them, states between them.

======================  ========================================================================
``plan``                how a pass is spread over a GPU, in numbers
``chunks``              what the kernels share: who owns what, decays, loads and products
``steps``               step sizes and sums of Δ A of each chunk; the gradient of dt
``chunk_states``        what each chunk adds to the state after it; the adjoint with time reversed
``pass_states``         states from chunk to chunk; gradients the other way
``chunk_outputs``       the outputs of a chunk from the state before it
``output_gradients``    the gradients of z and D, and of the output before the gate
``input_gradients``     the gradients of x, Δ and A from that, the state before and the gradient after
``weight_gradients``    the gradients of B, and as the adjoint those of C
======================  ========================================================================

**The forward pass** is ``steps``, ``chunk_states``, ``pass_states``, ``chunk_outputs``. The backward
pass keeps nothing but the arguments: it repeats the first three, goes on with ``output_gradients``,
does the same for the gradients of the states with time reversed, and ends with ``input_gradients``,
``weight_gradients`` and ``steps``. Three kernels make the gradients because together they need more
registers than there are. ``ssm_core.ssd.chunk`` has the formulas.

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
        steps = _steps(given, plan)
        entering, final = _states(given, plan, steps)
        y = torch.empty_like(given.x, memory_format=torch.contiguous_format)
        if plan.chunks:
            launch(chunk_outputs, plan.programs(plan.share_outputs), given.x, given.z, given.B,
                   given.C, given.D, steps, entering, y, given.cu_seqlens, plan.owner,
                   *_strides(plan.unit, given.x, given.z, given.B, given.C),
                   *plan.sizes(plan.share_outputs), PER_CHANNEL=_per_channel(given),
                   **plan.constants)
    return y, final


def backward(dy, dfinal_states, *arguments):
    """The gradients, as ``ssm_core.ssd._backends`` describes it."""
    given = _in_rows(SSD(*arguments))
    x = given.x
    plan = make_plan(given)
    dy = torch.zeros_like(x) if dy is None else dy
    dy, dfinal_states = aligned(dy, dfinal_states)
    with torch.cuda.device_of(x):
        steps = _steps(given, plan)
        entering, _ = _states(given, plan, steps)
        dy, dz, dD, read = _output_gradients(given, plan, dy, steps, entering)
        leaving, dinitial = _state_gradients(given, plan, dy, dfinal_states, steps)
        dx, dsteps, shares = _input_gradients(given, plan, dy, steps, entering, leaving)
        dA, dscores = _pair_gradients(given, plan, dy, steps, (read, *shares), dsteps)
        dB, dC = (_weight_gradient(given, plan, *of, steps, dscores, ADJOINT=adjoint)
                  for adjoint, of in ((False, (x, given.B, given.C, leaving)),
                                      (True, (dy, given.C, given.B, entering))))
        ddt, dbias = _step_gradients(given, plan, dsteps)
    return dx, ddt, dA, dB, dC, dD, dz, dbias, None if given.initial_states is None else dinitial


def _steps(given: SSD, plan: Plan) -> Tensor:
    """Δ and the sums of Δ A of each chunk, as ``load_steps`` reads them."""
    from ssm_core.ssd.triton.steps import make_steps

    dt, h, Q = given.dt, given.dt.shape[2], plan.constants["Q"]
    steps = _empty((plan.chunks, h, 3, Q), dt, torch.float32)
    if plan.chunks:
        launch(make_steps, plan.chunks * ceil_div(h, plans.HEADS), dt, given.A, given.dt_bias,
               steps, given.cu_seqlens, plan.owner, given.dt_min, given.dt_max, *_strides(1, dt), h,
               plan.L, plan.chunks_per_row, SOFTPLUS=given.dt_softplus, Q=Q, BH=plans.HEADS,
               num_warps=4, enable_fp_fusion=True)
    return steps


def _states(given: SSD, plan: Plan, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk, and after the last one."""
    added = _added(given, plan, given.x, given.B, steps, ADJOINT=False)
    return _carry(given, plan, added, steps, given.initial_states, REVERSE=False)


def _state_gradients(given: SSD, plan: Plan, dy, dfinal_states, steps) -> tuple[Tensor, Tensor]:
    """The gradients of the state after each chunk, and of the state before the first."""
    added = _added(given, plan, dy, given.C, steps, ADJOINT=True)
    return _carry(given, plan, added, steps, dfinal_states, REVERSE=True)


def _added(given: SSD, plan: Plan, x, weight, steps, *, ADJOINT) -> Tensor:
    """What each chunk adds to the state after it, or to the gradient of the state before it."""
    from ssm_core.ssd.triton.chunk_states import chunk_states

    added = _empty((plan.chunks, x.shape[2], *plan.state), x, plan.dtype)
    if plan.chunks:
        launch(chunk_states, plan.programs(plan.share_states), x, weight, steps, added,
               given.cu_seqlens, plan.owner, *_strides(plan.unit, x, weight),
               *plan.sizes(plan.share_states), ADJOINT=ADJOINT, **plan.constants)
    return added


def _output_gradients(given: SSD, plan: Plan, dy, steps, entering):
    """The gradients of the output before the gate, of z and D, and shares of the decays."""
    from ssm_core.ssd.triton.output_gradients import output_gradients

    x, B, C, D, z = given.x, given.B, given.C, given.D, given.z
    h, p = x.shape[2:]
    gated = dy if z is None else _empty(x.shape, x, plan.dtype)
    dz = None if z is None else _empty(z.shape, z)
    dD = None if D is None else _empty((plan.chunks, h, p), x, torch.float32)
    read = _empty((plan.chunks, h, plan.constants["Q"]), x, torch.float32)
    if plan.chunks:
        launch(output_gradients, plan.programs(plan.share_outputs), dy, x, z, B, C, D, steps,
               entering, dz, None if z is None else gated, read, dD, given.cu_seqlens, plan.owner,
               *_strides(plan.unit, x, z, B, C), *plan.sizes(plan.share_outputs),
               PER_CHANNEL=_per_channel(given), **plan.constants)
    if D is not None:
        dD = dD.sum(0) if D.ndim == 2 else dD.sum(0).sum(-1)
    return gated, dz, dD, read


def _input_gradients(given: SSD, plan: Plan, dy, steps, entering, leaving):
    """The gradients of x and, but for decays, of Δ; shares of the decays."""
    from ssm_core.ssd.triton.input_gradients import input_gradients

    x, B, C, h, Q = given.x, given.B, given.C, given.x.shape[2], plan.constants["Q"]
    dx = _empty(x.shape, x)
    dsteps, written = (_empty((plan.chunks, h, Q), x, torch.float32) for _ in range(2))
    kept = _empty((plan.chunks, h), x, torch.float32)
    if plan.chunks:
        launch(input_gradients, plan.programs(plan.share_gradients), dy, x, B, C, given.D, steps,
               entering, leaving, dx, dsteps, written, kept, given.cu_seqlens, plan.owner,
               *_strides(plan.unit, x, B, C), *plan.sizes(plan.share_gradients),
               PER_CHANNEL=_per_channel(given), **plan.constants)
    return dx, dsteps, (written, kept)


def _pair_gradients(given: SSD, plan: Plan, dy, steps, shares, dsteps) -> tuple[Tensor, Tensor]:
    """The gradients of A, and of the products of B and C by program; dsteps gets what is missing."""
    from ssm_core.ssd.triton.pair_gradients import pair_gradients

    x, A, B, C, Q = given.x, given.A, given.B, given.C, plan.constants["Q"]
    dA = _empty((plan.chunks, len(A)), x, torch.float32)
    dscores = _empty((plan.programs(plan.share_gradients), Q, Q), x, torch.float32)
    if plan.chunks:
        launch(pair_gradients, plan.programs(plan.share_gradients), dy, x, A, B, C, steps, *shares,
               dsteps, dA, dscores, given.cu_seqlens, plan.owner, *_strides(plan.unit, x, B, C),
               *plan.sizes(plan.share_gradients), **plan.constants)
    return dA.sum(0), dscores


def _weight_gradient(given: SSD, plan: Plan, x, weight, other, states, steps, dscores, *, ADJOINT):
    """The gradient of B or, as the adjoint, of C."""
    from ssm_core.ssd.triton.weight_gradients import weight_gradients

    share = plan.share_gradients
    shares = plan.programs_per_group(share)
    dweight = _empty((shares, *weight.shape), x, weight.dtype if shares == 1 else torch.float32)
    if plan.chunks:
        launch(weight_gradients, plan.programs(share), x, other, steps, states, dscores, dweight,
               given.cu_seqlens, plan.owner, *_strides(plan.unit, x, other), *plan.sizes(share), len(x),
               ADJOINT=ADJOINT, **plan.constants)
    return dweight[0] if shares == 1 else dweight.sum(0).to(weight.dtype)


def _step_gradients(given: SSD, plan: Plan, dsteps) -> tuple[Tensor, Tensor | None]:
    """The gradients of dt and its bias from that of Δ."""
    from ssm_core.ssd.triton.steps import step_gradients

    dt, bias, h = given.dt, given.dt_bias, given.dt.shape[2]
    ddt = _empty(dt.shape, dt)
    dbias = None if bias is None else _empty((plan.chunks, h), dt, torch.float32)
    if plan.chunks:
        launch(step_gradients, plan.chunks * ceil_div(h, plans.HEADS), dsteps, dt, bias, ddt, dbias,
               given.cu_seqlens, plan.owner, given.dt_min, given.dt_max, *_strides(1, dt), h, plan.L,
               plan.chunks_per_row, SOFTPLUS=given.dt_softplus, Q=plan.constants["Q"],
               BH=plans.HEADS, num_warps=4, enable_fp_fusion=True)
    return ddt, None if dbias is None else dbias.sum(0)


def _carry(given: SSD, plan: Plan, added, steps, first, *, REVERSE) -> tuple[Tensor, Tensor]:
    """What passes from chunk to chunk, and what is left in the end."""
    from ssm_core.ssd.triton.pass_states import pass_states

    h, size, block = given.x.shape[2], plan.state[0] * plan.state[1], 512
    carried = torch.empty_like(added)
    last = _empty((plan.rows, h, *plan.state), added, torch.float32)
    if plan.rows:
        launch(pass_states, plan.rows * h * ceil_div(size, block), added, steps, first, carried,
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
    near = value.stride(1) * plans.LONGEST < 2**31  # offsets within a chunk have 32 bits
    if near and value[:1, :1].is_contiguous() and value.data_ptr() % 16 == 0:
        return value
    return value.clone(memory_format=torch.contiguous_format)


def _strides(unit: int, *tensors: Tensor | None) -> list[int]:
    """Of batch and time, one tensor after the other, in units of so many elements."""
    return [s // unit for M in tensors for s in ((0, 0) if M is None else M.stride()[:2])]


def _per_channel(given: SSD) -> bool:
    return given.D is not None and given.D.ndim == 2


def _empty(shape, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)
