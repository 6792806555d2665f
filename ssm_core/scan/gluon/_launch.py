"""Launches of the Gluon kernels: how work is cut, and what memory it takes."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_core._gpu import ceil_div, empty_like_or_none, launch, power_of_two, processors
from ssm_core.scan.gluon._backward import scan_backward
from ssm_core.scan.gluon._channels import selection
from ssm_core.scan.gluon._forward import scan_forward
from ssm_core.scan.gluon._span import sum_span
from ssm_core.scan.gluon._totals import totals

CHANNELS = 32  # of a program
PAIR = 32  # steps that have two saved states; saved states of a row begin with a pair
LEAST = 64  # steps of a span
WARPS = 8  # of the backward kernel, at 255 registers, that a processor holds at once


def saved_shape(u, A, cu_seqlens):
    """Shape of the saved states: (states of all rows, d, n)."""
    b, d, L = u.shape
    pairs = b * ceil_div(L, PAIR) if cu_seqlens is None else L // PAIR + cu_seqlens.shape[0] - 1
    return (2 * pairs, d, A.shape[1])


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, save):
    """Out, last_state and saved states, as ``ssm_core.scan`` describes them."""
    d, n = A.shape
    plan = plan_scan(u, A, B, delta_softplus, cu_seqlens)
    out = torch.empty_like(u)
    last_state = _new(u, plan.rows, d, n)
    saved = _new(u, *(saved_shape(u, A, cu_seqlens) if save else (0,)))
    edges = _sum_spans(plan, u, None, delta, A, B, delta_bias, ADJOINT=False)
    if plan.programs:
        launch(scan_forward, plan.programs, u, delta, A, B, C, D, z, delta_bias, initial_state,
               *edges, cu_seqlens, out, last_state, saved if save else None, *plan.sizes,
               PACKED=plan.packed, **plan.constants, **forward_warps(n))
    return out, last_state, saved


def backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state,
             cu_seqlens, saved):
    """The gradients, as ``ssm_core.scan`` describes them."""
    b, (d, n) = u.shape[0], A.shape
    plan = plan_scan(u, A, B, delta_softplus, cu_seqlens)
    du, ddelta, dA, dB, dC, dD, dz, dbias = map(
        empty_like_or_none, (u, delta, A, B, C, D, z, delta_bias))
    dfirst = None if initial_state is None else _new(u, plan.rows, d, n)
    # What programs have of sums over time, and of sums over channels.
    count = plan.rows * plan.spans
    parts_A = _new(u, count, d, n)
    parts_D = None if D is None else _new(u, count, d)
    parts_bias = None if delta_bias is None else _new(u, count, d)
    parts_BC = _new(u, plan.blocks, 2, *B.shape)
    edges = _sum_spans(plan, dout, z, delta, A, C, delta_bias, ADJOINT=True)
    if plan.programs:
        exact = any(x.dtype != torch.bfloat16 for x in (u, B, C))
        launch(scan_backward, plan.programs, dout, dlast_state, saved, *edges, u, delta, A, B, C, D, z,
               delta_bias, cu_seqlens, selection(u.device, exact), du, ddelta, dz, parts_A, parts_BC,
               parts_D, parts_bias, dfirst, *plan.sizes, b, PACKED=plan.packed, EXACT=exact,
               **plan.constants, **backward_warps(n))
    BLOCK = 1024
    n_BC, n_A = B.numel(), d * n
    blocks = 2 * ceil_div(n_BC, BLOCK) + ceil_div(n_A, BLOCK) + 2 * ceil_div(d, BLOCK)
    launch(totals, blocks, parts_BC, dB, dC, parts_A, dA, parts_D, dD, parts_bias, dbias, n_BC,
           plan.blocks, n_A, d, count, ALIGNED=n_BC % 16 == n_A % 16 == d % 16 == 0, BLOCK=BLOCK,
           num_warps=4, enable_fp_fusion=True)
    return du, ddelta, dA, dB, dC, dD, dz, dbias, dfirst


def _sum_spans(plan, signal, z, delta, A, W, delta_bias, *, ADJOINT):
    """What each span adds at its edge, (rows, spans, d, n), and its sum of steps; None for one span."""
    if plan.spans == 1 or not plan.programs:
        return None, None
    d, n = A.shape
    edges, sums = _new(A, plan.rows, plan.spans, d, n), _new(A, plan.rows, plan.spans, d)
    launch(sum_span, plan.programs, signal, z, delta, A, W, delta_bias, edges, sums, *plan.sizes,
           ADJOINT=ADJOINT, **plan.constants, **forward_warps(n))
    return edges, sums


def _new(like: Tensor, *shape: int) -> Tensor:
    """Memory for float32 on the same device."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)


# --- how work is cut -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How a scan is cut into programs."""

    rows: int  # of the batch, or packed sequences
    blocks: int  # of 32 channels in a group
    programs: int
    spans: int  # that time is cut into
    sizes: tuple[int, ...]  # d, groups, L, spans, steps of a span
    packed: bool
    constants: dict  # that all kernels are compiled for


def plan_scan(u: Tensor, A: Tensor, B: Tensor, delta_softplus: bool,
              cu_seqlens: Tensor | None) -> Plan:
    (b, d, L), n, groups = u.shape, A.shape[1], B.shape[1]
    packed = cu_seqlens is not None
    rows = b if cu_seqlens is None else cu_seqlens.shape[0] - 1
    blocks = ceil_div(d // groups, CHANNELS)
    programs = rows * groups * blocks
    spans, span = (1, L) if packed else cut_into_spans(L, n, programs, u.device)
    full = (not packed and L > 0 and L % PAIR == 0 and d // groups % CHANNELS == 0
            and n == _padded(n))
    return Plan(rows, blocks, programs * spans, spans, (d, groups, L, spans, span), packed,
                {"SOFTPLUS": delta_softplus, "FULL": full, "N": n})


@functools.lru_cache(maxsize=1000)
def cut_into_spans(L: int, n: int, programs: int, device: torch.device) -> tuple[int, int]:
    """How many spans time is cut into, and their steps: as many as fill the GPU once."""
    resident = processors(device) * (WARPS // backward_warps(n)["WARPS"])
    spans = max(1, min(resident // max(1, programs), L // LEAST))
    span = max(1, ceil_div(ceil_div(L, spans), LEAST)) * LEAST
    return max(1, ceil_div(L, span)), span


def forward_warps(n: int) -> dict[str, int | bool]:
    """Warps and the states of each, for the scan and for the sums of spans."""
    return _warps(n, 8 if n > 16 else 4)


def backward_warps(n: int) -> dict[str, int | bool]:
    """Likewise, backwards: eight states of a thread take 255 registers."""
    return _warps(n, 8 if n > 8 else 4)


def _warps(n: int, states: int) -> dict[str, int | bool]:
    warps = _padded(n) // states
    return {"WARPS": warps, "STATES": states, "num_warps": warps, "enable_fp_fusion": True}


def _padded(n: int) -> int:
    """The states that registers are there for: a power of two, at least 8."""
    return max(8, power_of_two(n))
