"""SSD as it is defined: one loop over time, nothing clever.

Every other backend is held against this one. Autograd differentiates it as often as one likes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ssm_core._tensors import read_boundaries
from ssm_core.scan.reference import softplus
from ssm_core.ssd._arguments import state_dtype

__all__ = ["ssd"]


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
    initial_states: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """y (b, L, h, p) and final_states of arguments that are checked; chunk_size plays no part."""
    dtype, (b, L, h, p), n = state_dtype(x), x.shape, B.shape[-1]
    u = x.to(dtype)
    steps = step_sizes(dt, dt_bias, dt_softplus, dt_min, dt_max, dtype)  # (b, L, h)
    B, C = (M.to(dtype).repeat_interleave(h // M.shape[2], dim=2) for M in (B, C))  # (b, L, h, n)
    decays = torch.exp(steps * A).unbind(1)
    inputs = (steps[..., None] * u).unbind(1)
    B_steps, C_steps = B.unbind(1), C.unbind(1)
    bounds = [0, L] if cu_seqlens is None else read_boundaries(cu_seqlens)
    state = x.new_zeros(b, h, p, n, dtype=dtype) if initial_states is None else initial_states
    starts = [state] if cu_seqlens is None else state.expand(len(bounds) - 1, -1, -1, -1).split(1)

    y, final = [], []
    for state, start, stop in zip(starts, bounds, bounds[1:]):
        for t in range(start, stop):
            outer = inputs[t][..., :, None] * B_steps[t][..., None, :]  # (b, h, p, n)
            state = decays[t][..., None, None] * state + outer
            y.append((state * C_steps[t][..., None, :]).sum(-1))  # (b, h, p)
        final.append(state)

    out = torch.stack(y, dim=1) if y else u.clone()  # (b, L, h, p)
    if D is not None:
        out = out + (D if D.ndim == 2 else D[:, None]) * u
    if z is not None:
        out = out * functional.silu(z.to(dtype))
    return out.to(x.dtype), torch.cat(final)


def step_sizes(
    dt: Tensor,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
    dtype: torch.dtype,
) -> Tensor:
    """Δ as the recurrence takes it, (b, L, h): with the bias, through softplus, within the limits."""
    steps = dt.to(dtype)
    if dt_bias is not None:
        steps = steps + dt_bias
    if dt_softplus:
        steps = softplus(steps)
    return steps.clamp(dt_min, dt_max)
