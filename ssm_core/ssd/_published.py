"""SSD under the name and arguments of the published package, for code that changes its import."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssm_core._checks import as_int
from ssm_core._tensors import as_packing, check_dtype, check_flag, check_float, check_shape
from ssm_core.ssd._arguments import CHUNK_SIZES

__all__ = ["mamba_chunk_scan_combined"]


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """:func:`ssd_fn` with the arguments of ``mamba_ssm.ops.triton.ssd_combined``.

    What differs from the published call: any chunk size and any backend, gradients through all
    states, and a sequence of a row that ends anywhere.

    Args:
        x, dt, A, B, C, D, z, dt_bias, dt_softplus, dt_limit, initial_states: as in :func:`ssd_fn`;
            A, D and dt_bias may have any float dtype.
        chunk_size (int): steps of a chunk, which changes speed and rounding only.
        seq_idx (int32): which sequence each sample belongs to (b, L). No state passes from one number
            to another. The first sequence of a row begins with its initial state, the others with
            zeros. The numbers are read on the host.
        cu_seqlens (int32): boundaries (sequences + 1,) of the sequences whose states are asked for by
            ``return_varlen_states``, b = 1. They separate sequences here whether seq_idx is given or not.
        return_final_states (bool): return the states at the end of each row.
        return_varlen_states (bool): return the states at the end of each sequence of cu_seqlens.

    Returns:
        y (b, L, h, p), followed by final_states (b, h, p, n) and by varlen_states (sequences, h, p,
        n) where they are asked for.

    Raises:
        ValueError, TypeError: as :func:`ssd_fn`, and for varlen states without cu_seqlens.

    Example:
        >>> import torch
        >>> from ssm_core.ssd import mamba_chunk_scan_combined
        >>> x, dt, one = torch.ones(1, 3, 1, 1), torch.ones(1, 3, 1), torch.ones(1, 3, 1, 1)
        >>> A = -torch.log(torch.tensor([2.0]))  # each step halves the state
        >>> mamba_chunk_scan_combined(x, dt, A, one, one, chunk_size=256).flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """
    from ssm_core.ssd import ssd_fn

    check_flag(return_final_states, "return_final_states")
    check_flag(return_varlen_states, "return_varlen_states")
    check_float(x, "x")
    check_shape(x, "x", ("b", "L", "h", "p"), (None,) * 4)
    if return_varlen_states and cu_seqlens is None:
        raise ValueError("return_varlen_states is True and cu_seqlens is None, expected boundaries")
    as_int(chunk_size, "chunk_size")

    def run(initial_states, boundaries, x, dt, B, C, z):
        return ssd_fn(
            *(x, dt, _as_weight(A), B, C),
            D=_as_weight(D),
            z=z,
            dt_bias=_as_weight(dt_bias),
            dt_softplus=dt_softplus,
            dt_limit=dt_limit,
            initial_states=initial_states,
            cu_seqlens=boundaries,
            return_final_states=True,
            chunk_size=chunk_size if chunk_size in CHUNK_SIZES else None,
        )

    if (seq_idx is None and cu_seqlens is None) or x.shape[1] == 0:
        y, final = run(initial_states, None, x, dt, B, C, z)
        varlen = None if cu_seqlens is None else final.expand(len(cu_seqlens) - 1, -1, -1, -1)
    else:
        boundaries = _boundaries(x, seq_idx, cu_seqlens)
        L, starts, ends = x.shape[1], boundaries[:-1], boundaries[1:]
        begin = None
        if initial_states is not None:
            begin = initial_states.new_zeros(len(starts), *initial_states.shape[1:])
            begin = begin.index_put((starts % L == 0,), initial_states)
        flat = [None if M is None else M.flatten(0, 1)[None] for M in (x, dt, B, C, z)]
        y, states = run(begin, boundaries, *flat)
        y, final, varlen = y.view(x.shape), states[ends % L == 0], None
        if cu_seqlens is not None:
            varlen = states[torch.searchsorted(ends, cu_seqlens[1:])]
            varlen = torch.where((cu_seqlens.diff() > 0)[:, None, None, None], varlen, 0)
    wanted = [y, *[final] * return_final_states, *[varlen] * return_varlen_states]
    return y if len(wanted) == 1 else tuple(wanted)


def _as_weight(value: Tensor | None) -> Tensor | None:
    """The parameter of a model in 16 bits as ssd_fn takes it."""
    if value is None or value.dtype not in (torch.float16, torch.bfloat16):
        return value
    return value.float()


def _boundaries(x: Tensor, seq_idx: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
    """Where sequences begin and end if the rows of the batch are laid one behind the other."""
    b, L = x.shape[:2]
    first = torch.zeros(b, L, dtype=torch.bool, device=x.device)
    first[:, 0] = True
    if seq_idx is not None:
        check_dtype(seq_idx, "seq_idx", (torch.int32, torch.int64), "int32")
        check_shape(seq_idx, "seq_idx", ("b", "L"), (b, L))
        first[:, 1:] |= seq_idx.diff(dim=1) != 0
    if cu_seqlens is not None:
        as_packing(cu_seqlens, b, L, "x", x.device)
        starts = cu_seqlens[:-1]
        first[0, starts[starts < L]] = True
    starts = first.flatten().nonzero()[:, 0]
    return torch.cat([starts, starts.new_tensor([b * L])]).int()
