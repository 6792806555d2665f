"""Checks of arguments at the boundary of ``ssm_core.mamba``, on top of ``ssm_core._tensors``."""

from __future__ import annotations

from typing import Any

import torch

from ssm_core._tensors import check_device, check_kind, check_shape, dtype_name

__all__ = ["as_tokens", "check_tensor", "check_token_range"]


def check_tensor(
    value: Any,
    name: str,
    axes: tuple[str, ...],
    sizes: tuple[int | None, ...],
    device: torch.device | None,
) -> None:
    """Check that value is a real floating-point tensor of the shape and on the device expected; no
    device is expected if it is None."""
    check_kind(value, name)
    if not value.is_floating_point():
        raise TypeError(
            f"{name} has dtype {dtype_name(value.dtype)}, expected a floating-point dtype"
        )
    check_shape(value, name, axes, sizes)
    if device is not None:
        check_device(value, name, device, "the model")


def as_tokens(value: Any, name: str, device: torch.device) -> torch.Tensor:
    """Check that value is integers (b, L) on the device of the model; uint8 comes back as int64.

    Weights on the device meta are somewhere else: who offloads them brings them in when their
    module is called.
    """
    check_kind(value, name)
    if value.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise TypeError(
            f"{name} has dtype {dtype_name(value.dtype)}, expected int64, int32 or uint8"
        )
    check_shape(value, name, ("b", "L"), (None, None))
    if device.type != "meta":
        check_device(value, name, device, "the model")
    return value.long() if value.dtype == torch.uint8 else value


def check_token_range(input_ids: torch.Tensor, size: int) -> None:
    """Check that every token is in the vocabulary; on a GPU this waits for the tensor."""
    if input_ids.numel():
        low, high = (int(x) for x in torch.aminmax(input_ids))
        if low < 0 or high >= size:
            raise ValueError(
                f"input_ids holds {low if low < 0 else high}, expected tokens from 0 to {size - 1}"
            )
