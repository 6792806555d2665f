"""Checks of tensors at the boundary of ``ssm_core.mamba``, on top of ``ssm_core._tensors``."""

from __future__ import annotations

import torch

from ssm_core._tensors import check_device, check_kind, check_shape, dtype_name

__all__ = ["check_tensor", "check_token_range", "check_tokens"]


def check_tensor(value, name, axes, sizes, device):
    """Check that value is a real floating-point tensor of the shape and on the device expected."""
    check_kind(value, name)
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {dtype_name(value.dtype)}, expected a floating-point "
                        "dtype")
    check_shape(value, name, axes, sizes)
    check_device(value, name, device, "the model")


def check_tokens(input_ids, device):
    """Check that input_ids are integers (b, L) on the device of the model."""
    check_kind(input_ids, "input_ids")
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"input_ids has dtype {dtype_name(input_ids.dtype)}, expected int64 or "
                        "int32")
    check_shape(input_ids, "input_ids", ("b", "L"), (None, None))
    check_device(input_ids, "input_ids", device, "the model")


def check_token_range(input_ids, size):
    """Check that every token has a row in the embedding; on a GPU this waits for the tensor."""
    if input_ids.numel():
        low, high = (int(x) for x in torch.aminmax(input_ids))
        if low < 0 or high >= size:
            raise ValueError(f"input_ids holds {low if low < 0 else high}, "
                             f"expected tokens from 0 to {size - 1}")
