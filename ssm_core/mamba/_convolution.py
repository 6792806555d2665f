"""The short causal convolution of a block: one filter per channel, and a SiLU.

The filters are those of a module ``conv1d``, which is called unless it is plain, so adapters, hooks
and pruning of it take effect. k is the number of samples that a filter sees.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssm_core._modules import is_plain
from ssm_core._tensors import Packing
from ssm_core.mamba import _operators
from ssm_core.mamba._modules import widened

__all__ = ["convolve", "convolve_one"]


def convolve(
    conv1d: Any, k: int, x: Tensor, conv_state: Tensor | None, packing: Packing | None
) -> tuple[Tensor, Tensor]:
    """SiLU of the causal convolution of x (b, d, L), and its last k inputs.

    k earlier samples stand in front of each sequence. The first output belongs to the last of those,
    so it is dropped.
    """
    b, d, L = x.shape
    if packing is None:
        if k <= _operators.MOST_TAPS and _operators.fuses(x) and _has_plain_filters(conv1d, d, k):
            return _operators.convolve(x, conv1d.weight[:, 0], conv1d.bias, conv_state)
        if conv_state is None:
            conv_state = x.new_zeros(b, d, k)
        padded = torch.cat([conv_state.to(x.dtype), x], dim=-1)  # (b, d, k + L)
        return functional.silu(_filter(conv1d, k, padded)[..., 1:]), padded[..., -k:]

    places, before, last = _padded_places(packing, k)
    padded = x.new_zeros(1, d, L + before.numel()).index_copy(-1, places, x)
    if conv_state is not None:
        states = conv_state.to(x.dtype).transpose(0, 1).reshape(1, d, -1)
        padded = padded.index_copy(-1, before.flatten(), states)
    out = functional.silu(_filter(conv1d, k, padded)[..., places - k + 1])
    return out, padded[0][:, last].transpose(0, 1)


def convolve_one(conv1d: Any, k: int, x: Tensor, conv_state: Tensor) -> Tensor:
    """The same for one sample x (b, d); conv_state moves on by one."""
    if _operators.fuses(x) and _has_plain_filters(conv1d, x.shape[1], k):
        return _operators.convolve_one(conv_state, x, conv1d.weight[:, 0], conv1d.bias)
    window = torch.cat([conv_state[..., 1:], x[..., None].to(conv_state.dtype)], dim=-1)
    conv_state.copy_(window)
    return functional.silu(_filter(conv1d, k, window.to(x.dtype))[..., 0])


def _filter(conv1d, k, padded):
    """One filter per channel over padded (b, d, T): (b, d, T - k + 1)."""
    if padded.device.type != "cpu" or not _has_plain_filters(conv1d, padded.shape[1], k):
        return conv1d(padded)
    # On a CPU shifted products take a third of the time of conv1d, and less in low precision.
    weight, bias = conv1d.weight, conv1d.bias
    T = padded.shape[-1] - k + 1
    wide = widened(padded, padded)
    y = torch.zeros_like(wide[..., :T]) if bias is None else bias[:, None].to(wide.dtype)
    for j in range(k):
        y = torch.addcmul(y, wide[..., j : j + T], weight[:, :, j].to(wide.dtype))
    return y.to(padded.dtype)


def _has_plain_filters(conv1d, d, k):
    return is_plain(conv1d, nn.Conv1d) and conv1d.weight.shape == (d, 1, k)


def _padded_places(packing, k):
    """Indices into a row that keeps room for k earlier samples in front of each packed sequence.

    .. code-block:: text

        packed row, cu_seqlens 0 3 5     a0 a1 a2 b0 b1
        padded row, k = 2           ·  · a0 a1 a2  ·  · b0 b1
        places                           2  3  4        7  8
        before                      0  1           5  6
        last                                3  4        7  8

    Returns:
        places (L,) of the samples, and for each sequence (sequences, k) the room before it and its
        last k columns, which reach into that room where the sequence is shorter than k.
    """
    cu_seqlens, device = packing.cu_seqlens, packing.cu_seqlens.device
    t = torch.arange(packing.length, dtype=torch.int32, device=device)
    sequence = torch.searchsorted(cu_seqlens[1:], t, right=True)  # (L,), of each sample
    room = k * torch.arange(packing.sequences + 1, device=device)  # in front of earlier sequences
    starts, ends = cu_seqlens[:-1] + room[:-1], cu_seqlens[1:] + room[1:]
    columns = torch.arange(k, device=device)
    return t + (sequence + 1) * k, starts[:, None] + columns, ends[:, None] - k + columns
