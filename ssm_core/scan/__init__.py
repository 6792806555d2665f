r"""The selective scan of Mamba: a linear recurrence whose step, input and output weights depend on
the input.

======================================  ==========================================================
``selective_scan_fn``                   the scan over a sequence, on the fastest backend there is
``selective_scan_ref``                  its definition, a loop
``selective_state_update``              one step of it, for inference
======================================  ==========================================================

The backends are ``reference``, plain autograd, and ``cpu`` and ``triton``, modules with a forward and
a backward of their own (``ssm_core.scan._backends`` says what a backend is). A call takes four
frames: the function here checks the arguments, autograd or ``torch.library`` keeps what the backward
needs (``ssm_core.scan._operators``), the backend prepares memory, and its kernels run.

**Derivatives.** All backends have gradients, also under ``torch.func``: grad, vjp, jacrev, and vmap
of them, which is how gradients per sample are made. Forward mode (``torch.func.jvp``, ``jacfwd``,
``hessian``, ``torch.autograd.forward_ad``) runs the reference whatever the backend, because only a
definition in plain PyTorch has tangents. Derivatives of gradients need ``backend="reference"``; the
other backends refuse them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_core._dispatch import (
    has_gradient,
    is_differentiated,
    is_transformed,
    needs_definition,
    needs_operator,
    without_derivative,
)
from ssm_core._tensors import Packing
from ssm_core.scan import _operators, reference
from ssm_core.scan._arguments import check_scan, check_step
from ssm_core.scan._backends import pick_backend
from ssm_core.scan._heads import fold_heads
from ssm_core.scan.reference import selective_scan_ref

__all__ = ["selective_scan_fn", "selective_scan_ref", "selective_state_update"]


def __dir__() -> list[str]:
    return __all__


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | Packing | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Run the selective scan over a sequence, with gradients for every tensor.

    .. math::

        x_t = e^{\Delta_t A} x_{t-1} + \Delta_t B_t u_t, \qquad
        y_t = (C_t x_t + D u_t) \cdot \operatorname{silu}(z_t)

    for each of d channels with n states, where :math:`\Delta_t` is ``delta`` plus ``delta_bias``,
    through softplus if asked for. The backends cpu and triton keep the states at chunk boundaries
    only and recompute the rest in the backward pass: memory is O(b·d·L + b·d·n), and the same
    arguments give the same bits in every run, with any number of threads. With Numba, the first call
    for a dtype compiles for some seconds and keeps the code for later processes.

    Args:
        u (float32, bfloat16, float16 or float64): input (b, d, L). L = 0 gives an empty output.
        delta (as u): steps (b, d, L), in the units of time of 1/A; after bias and softplus they
            should not be negative.
        A (float32): decay rates (d, n), usually below 0.
        B (as u): input weights, (b, n, L) for all channels; (b, g, n, L) for g groups of d/g
            neighbouring channels; (d, n) constant in time.
        C (as u): output weights, shaped like B or constant.
        D (float32): weight of the direct path (d,), or None for none.
        z (as u): gate (b, d, L); the output is multiplied by silu(z).
        delta_bias (float32): added to delta before softplus (d,).
        delta_softplus (bool): send delta through softplus, log(1 + exp(delta)).
        return_last_state (bool): return the state after the last sample too.
        initial_state (float32): state before the first sample (b, d, n); zeros if None. Gradients
            flow into it, and out of the last state.
        cu_seqlens (int32): boundaries (sequences + 1,) of sequences that are packed into one row:
            sequence i is u[:, :, cu_seqlens[i]:cu_seqlens[i + 1]], and no state passes a boundary.
            The batch is then 1, the states are (sequences, d, n), and a sequence without samples
            returns the state it began with.
        backend (str): "auto", "reference", "cpu" or "triton". Auto takes cpu for tensors on the
            CPU, triton on CUDA devices, and reference where neither can run: float64 on a GPU, a
            device that is neither, no package triton. Only reference can be differentiated twice.

        u, delta, z, B, C may differ in dtype, except that float64 stands for all or none; decays
        and states are float32, or float64 for float64. The backend triton takes no float64.

    Returns:
        out (b, d, L) in u's dtype, or (out, last_state) with last_state (b, d, n) in float32, or
        float64 for float64 input.

    Raises:
        ValueError: a wrong shape, device, backend or boundary.
        TypeError: something that is not a tensor, or a dtype that is not taken, such as a complex one.

    Equations eq-selective-scan, eq-mamba-rule, eq-chunk-carry, eq-selective-scan-gradients. Source:
    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), sections
    3.2 and 3.3.

    Example:
        >>> import torch
        >>> from ssm_core.scan import selective_scan_fn
        >>> u, delta = torch.ones(1, 1, 3), torch.ones(1, 1, 3)
        >>> A = -torch.log(torch.tensor([[2.0]]))  # each step halves the state
        >>> B, C = torch.ones(1, 1), torch.ones(1, 1)
        >>> out, last_state = selective_scan_fn(u, delta, A, B, C, return_last_state=True)
        >>> out
        tensor([[[1.0000, 1.5000, 1.7500]]])
        >>> selective_scan_fn(u, delta, A, B, C, initial_state=last_state)  # go on from there
        tensor([[[1.8750, 1.9375, 1.9688]]])
    """
    scan = check_scan(
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        delta_softplus,
        return_last_state,
        initial_state,
        cu_seqlens,
    )
    backend = pick_backend(backend, u)
    floats = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if backend == "reference" or needs_definition(*floats):
        out, last_state = reference.scan(*scan)
    else:
        save = has_gradient(*floats) or is_transformed()
        run = (
            torch.ops.ssm_core.selective_scan
            if needs_operator(*floats)
            else _operators.SelectiveScan.apply
            if save
            else _operators.SelectiveScan.forward
        )
        out, last_state, _ = run(*scan, save, backend)
    return (out, last_state) if return_last_state else out


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    *,
    A_is_log: bool = False,
) -> Tensor:
    r"""Take one step of the selective scan: change the state in place, return the output.

    The recurrence of :func:`selective_scan_fn` for one sample: stepping through a sequence gives
    what the scan gives. For inference: it has no
    derivatives, and says so where one is asked for.

    With heads, as in Mamba-2: state (b, h, p, n), x, dt and z (b, h, p), A (h, p, n), B and C
    (b, g, n), D and dt_bias (h, p), y (b, h, p). What is one number a head is passed expanded.

    Args:
        state (float32, bfloat16, float16 or float64): the state (b, d, n), changed in place; with
            ``state_batch_indices`` a pool (slots, d, n).
        x (float32, bfloat16, float16 or float64): input (b, d).
        dt (as x): step (b, d).
        A (float32): decay rates (d, n).
        B, C (as x): input and output weights, (b, n), or (b, g, n) for g groups of channels.
        D (float32): weight of the direct path (d,), or None for none.
        z (as x): gate (b, d), or None for none.
        dt_bias (float32): added to dt before softplus (d,).
        dt_softplus (bool): send dt through softplus.
        state_batch_indices (int32): which state of the pool each row of x belongs to (b,), each at
            most once. A negative index marks padding: nothing is read or written, the output is 0.
        A_is_log (bool): A holds log(−A), as a Mamba block keeps it. Its exponential is taken where
            A is used, which on a GPU saves the launches that would make −exp(A) before each step.

    Returns:
        y (b, d) in x's dtype. It is computed in float32 (float64 for float64) whatever the dtype
        of x and state.

    Raises:
        ValueError: a wrong shape or device, a state that is expanded or requires a gradient, and, except
            in triton, an index past the pool or one that comes twice.
        TypeError: something that is not a tensor, or a dtype that is not taken, such as a complex one.
        NotImplementedError: a derivative of the step, at once under torch.func and in forward mode,
            from ``backward`` otherwise.

    Equation eq-selective-scan. Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with
    Selective State Spaces" (2023), section 3.2.

    Example:
        >>> import torch
        >>> from ssm_core.scan import selective_state_update
        >>> state = torch.zeros(1, 1, 1)
        >>> A = -torch.log(torch.tensor([[2.0]]))
        >>> one = torch.ones(1, 1)
        >>> for _ in range(3):
        ...     y = selective_state_update(state, one, one, A, one, one)
        >>> y
        tensor([[1.7500]])
    """
    if isinstance(state, Tensor) and state.ndim == 4:
        pooled = state_batch_indices is not None
        folded, u, dt, A, D, z, dt_bias = fold_heads(state, x, dt, A, B, D, z, dt_bias, pooled)
        y = selective_state_update(
            *(folded, u, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices),
            A_is_log=A_is_log,
        )
        if state.stride(1) != state.shape[2] * state.stride(2):  # flatten may have copied
            state.copy_(folded.view(state.shape))
        return y.view(x.shape)
    B, C = check_step(
        state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, A_is_log
    )
    backend = pick_backend("auto", x)
    floats = (x, dt, A, B, C, D, z, dt_bias)
    if is_differentiated(state, *floats):
        raise NotImplementedError(_operators.NO_STEP_GRADIENT)
    if is_transformed():
        backend = "reference"  # vmap goes through plain PyTorch
    arguments = (
        state,
        x,
        dt,
        A,
        B,
        C,
        D,
        z,
        dt_bias,
        dt_softplus,
        state_batch_indices,
        backend,
        A_is_log,
    )
    if needs_operator(state, *floats):
        return torch.ops.ssm_core.selective_state_update(*arguments)
    if has_gradient(*floats):
        return without_derivative(
            _operators.run_state_update, _operators.NO_STEP_GRADIENT, *arguments
        )
    return _operators.run_state_update(*arguments)
