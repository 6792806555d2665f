"""What a Mamba block does between its matrix products where no gradient is needed, as operators.

On a CUDA device these are the kernels of ``ssm_core.mamba.triton``, one pass over memory each. The
block and the model hold the definition of what they compute, in PyTorch, which runs everywhere else
and whenever a gradient may be asked for. Operators of ``torch.library`` let ``torch.compile`` and
``torch.export`` pass through, and refuse a derivative instead of leaving it out.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor

from ssm_core._dispatch import in_forward_mode, is_transformed
from ssm_core._gpu import has_triton

__all__ = ["MOST_TAPS", "add_norm", "convolve", "convolve_one", "fuses"]

MOST_TAPS = 9  # of a convolution that ``convolve`` takes

# Schemas are inferred from annotations, which older PyTorch reads as they were written in its time.
MaybeTensor = Optional[Tensor]  # noqa: UP045


def fuses(x: Tensor) -> bool:
    """Whether the operators below are for x. They have no derivatives, and compute in float32."""
    return (
        x.is_cuda
        and has_triton()
        and x.dtype != torch.float64
        and not torch.is_grad_enabled()
        and not is_transformed()
        and not in_forward_mode()
    )


def convolve(
    x: Tensor, weight: Tensor, bias: MaybeTensor, before: MaybeTensor
) -> tuple[Tensor, Tensor]:
    """SiLU of a causal convolution, one filter a channel, and the samples that the next one needs.

    Args:
        x (float32 or below):  samples (b, d, L)
        weight, bias:          filters (d, k), and (d,) or None
        before:                the last k samples (b, d, k), or None for zeros

    Returns:
        (dtype of x) outputs (b, d, L), and the last k samples of before and x together (b, d, k)
    """
    return torch.ops.ssm_core.causal_conv(x, weight, bias, before)


def convolve_one(conv_state: Tensor, x: Tensor, weight: Tensor, bias: MaybeTensor) -> Tensor:
    """The same for one sample x (b, d): output (b, d); conv_state (b, d, k) moves on in place."""
    return torch.ops.ssm_core.causal_conv_step(conv_state, x, weight, bias)


def add_norm(
    x: Tensor, added: MaybeTensor, weight: Tensor, eps: float
) -> Tensor | tuple[Tensor, Tensor]:
    """x + added and its norm over the last axis, in the dtype of weight; or just the norm of x."""
    total, normed = torch.ops.ssm_core.add_rms_norm(x, added, weight, eps)
    return normed if added is None else (total, normed)


def _kernels():
    from ssm_core.mamba import triton  # only where it is needed: an import of a second

    return triton


@torch.library.custom_op("ssm_core::causal_conv", mutates_args=())
def _conv(
    x: Tensor, weight: Tensor, bias: MaybeTensor, before: MaybeTensor
) -> tuple[Tensor, Tensor]:
    return _kernels().convolve(x, weight, bias, before)


@_conv.register_fake
def _(x, weight, bias, before):
    return x.new_empty(x.shape), x.new_empty(*x.shape[:2], weight.shape[1])


@torch.library.custom_op("ssm_core::causal_conv_step", mutates_args=("conv_state",))
def _conv_step(conv_state: Tensor, x: Tensor, weight: Tensor, bias: MaybeTensor) -> Tensor:
    return _kernels().convolve_one(conv_state, x, weight, bias)


@_conv_step.register_fake
def _(conv_state, x, weight, bias):
    return x.new_empty(x.shape)


@torch.library.custom_op("ssm_core::add_rms_norm", mutates_args=())
def _add_norm(x: Tensor, added: MaybeTensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total, normed = _kernels().add_norm(x, added, weight, eps)
    return x.new_empty(0) if total is None else total, normed


@_add_norm.register_fake
def _(x, added, weight, eps):
    normed = weight.new_empty(x.shape)
    if added is None:
        return x.new_empty(0), normed
    return x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, added.dtype)), normed
