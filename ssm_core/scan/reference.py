"""The selective scan as it is defined: one loop over time, nothing clever.

Every other backend is held against this one. Autograd differentiates it as often as one likes, and
since the loop walks over ``unbind(-1)`` and not over indices, its gradient costs time linear in L.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ssm_core._tensors import Packing, read_boundaries
from ssm_core.scan._arguments import check_scan, state_dtype

__all__ = ["selective_scan_ref"]


def selective_scan_ref(
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
) -> Tensor | tuple[Tensor, Tensor]:
    r"""The selective scan by its definition, for any float dtype, on any device.

    .. math::

        x_t = e^{\Delta_t A} x_{t-1} + \Delta_t B_t u_t, \qquad
        y_t = (C_t x_t + D u_t) \cdot \operatorname{silu}(z_t)

    Arguments, results and errors are those of :func:`ssm_core.scan.selective_scan_fn`, which gives
    the same numbers faster. This function stores every state for its gradient, b·d·L·n numbers,
    and can be differentiated twice.

    Equation eq-selective-scan. Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with
    Selective State Spaces" (2023), algorithm 2 and section 3.2.

    Example:
        >>> import torch
        >>> from ssm_core.scan import selective_scan_ref
        >>> u, delta = torch.ones(1, 1, 3), torch.ones(1, 1, 3)
        >>> A = -torch.log(torch.tensor([[2.0]]))  # each step halves the state
        >>> B, C = torch.ones(1, 1), torch.ones(1, 1)
        >>> selective_scan_ref(u, delta, A, B, C)
        tensor([[[1.0000, 1.5000, 1.7500]]])
    """
    out, last_state = scan(
        *check_scan(
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
    )
    return (out, last_state) if return_last_state else out


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Out (b, d, L) and last_state of arguments that are checked, B and C (b, g, n, L) or (d, n)."""
    dtype, (b, d, L) = state_dtype(u), u.shape
    signal = u.to(dtype)
    dt = delta.to(dtype)
    if delta_bias is not None:
        dt = dt + delta_bias[:, None]
    if delta_softplus:
        dt = softplus(dt)
    B_steps, C_steps = _steps(B, d, L, dtype), _steps(C, d, L, dtype)
    bounds = [0, L] if cu_seqlens is None else read_boundaries(cu_seqlens)
    x = u.new_zeros(b, d, A.shape[1], dtype=dtype) if initial_state is None else initial_state
    starts = [x] if cu_seqlens is None else x.expand(len(bounds) - 1, -1, -1).split(1)

    u_steps, dt_steps, y, last = signal.unbind(-1), dt.unbind(-1), [], []
    for x, start, stop in zip(starts, bounds, bounds[1:]):
        for t in range(start, stop):
            decay = torch.exp(dt_steps[t][..., None] * A)  # (b, d, n)
            x = decay * x + (dt_steps[t] * u_steps[t])[..., None] * B_steps[t]
            y.append((C_steps[t] * x).sum(-1))  # (b, d)
        last.append(x)

    out = torch.stack(y, dim=-1) if y else signal.clone()  # (b, d, L)
    if D is not None:
        out = out + D[:, None] * signal
    if z is not None:
        out = out * functional.silu(z.to(dtype))
    return out.to(u.dtype), torch.cat(last)


def state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state_batch_indices: Tensor | None,
    A_is_log: bool,
) -> Tensor:
    """One step in place; a row whose index is negative is left out."""
    if state_batch_indices is not None:
        rows = state_batch_indices >= 0
        slots = state_batch_indices[rows].long()
        used, out = state[slots], x.new_zeros(x.shape)
        x, dt, B, C = x[rows], dt[rows], B[rows], C[rows]
        z = None if z is None else z[rows]
        out[rows] = state_update(used, x, dt, A, B, C, D, z, dt_bias, dt_softplus, None, A_is_log)
        state[slots] = used
        return out
    dtype, per_group = state_dtype(x), x.shape[1] // B.shape[1]
    if A_is_log:
        A = -torch.exp(A)
    u, dt = x.to(dtype), dt.to(dtype)  # (b, d)
    B, C = (
        M.to(dtype).repeat_interleave(per_group, dim=1) if M.shape[1] > 1 else M.to(dtype)
        for M in (B, C)
    )  # (b, d or 1, n)
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = softplus(dt)
    new = torch.exp(dt[..., None] * A) * state.to(dtype) + (dt * u)[..., None] * B
    state.copy_(new)
    y = (C * new).sum(-1)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * functional.silu(z.to(dtype))
    return y.to(x.dtype)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); from 40 on that is x to the last bit, in float64 too."""
    return functional.softplus(x, threshold=40)


def _steps(M, d, L, dtype):
    """B or C at each time, something that broadcasts with (b, d, n); group i has d/g channels."""
    if M.ndim == 2:
        return [M.to(dtype)] * L
    return [step.repeat_interleave(d // M.shape[1], dim=1) for step in M.to(dtype).unbind(-1)]
