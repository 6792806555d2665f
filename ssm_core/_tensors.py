"""Checks of tensors at the boundary of the PyTorch modules, as ``ssm_core._checks`` is for NumPy.

All but :func:`check_boundaries` look at types, shapes, dtypes and devices only, never at the
numbers: so they cost nothing on a GPU, and torch.compile and torch.export trace through them. Each
raises an error that names the argument, says what came and what is expected.
"""

from __future__ import annotations

import torch

__all__ = ["check_boundaries", "check_device", "check_kind", "check_packed", "check_shape",
           "dtype_name"]


def check_kind(value, name):
    """Check that value is a tensor at all."""
    if not isinstance(value, torch.Tensor):
        kind = "None" if value is None else f"a {type(value).__name__}"
        raise TypeError(f"{name} is {kind}, expected a torch.Tensor")


def check_shape(value, name, axes, sizes):
    """Compare a shape with the sizes expected; None is any size, axes are names for the message."""
    shape = tuple(value.shape)
    good = len(shape) == len(sizes)
    if good:
        for have, want in zip(shape, sizes):  # one by one: sizes may be symbolic
            good = good and (want is None or have == want)
    if not good:
        known = ", ".join(f"{axis} = {size}" for axis, size in zip(axes, sizes) if size is not None)
        spelled = f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"
        raise ValueError(f"{name} has shape {shape}, expected {spelled}"
                         + (f" with {known}" if known else ""))


def check_device(value, name, device, owner):
    """Check that value is where its owner (in words) is."""
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, expected {device}, where {owner} is")


def check_packed(cu_seqlens, batch, owner):
    """Check the boundaries of packed sequences but for their numbers; return how many there are.

    ``batch`` is the batch size of ``owner``, whose one row holds the sequences.
    """
    check_kind(cu_seqlens, "cu_seqlens")
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(f"cu_seqlens has dtype {dtype_name(cu_seqlens.dtype)}, expected int32")
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(f"cu_seqlens has shape {tuple(cu_seqlens.shape)}, expected "
                         "(sequences + 1,) with at least one sequence")
    if batch != 1:
        raise ValueError(f"{owner} has batch size {batch}, expected 1 where cu_seqlens is given")
    return cu_seqlens.shape[0] - 1


def check_boundaries(cu_seqlens, L):
    """Check that cu_seqlens rises from 0 to L; this reads the numbers, so the GPU must finish."""
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != L:
        raise ValueError(f"cu_seqlens runs from {bounds[0]} to {bounds[-1]}, "
                         f"expected from 0 to the length of the row, {L}")
    for i in range(len(bounds) - 1):
        if bounds[i] > bounds[i + 1]:
            raise ValueError(f"cu_seqlens falls from {bounds[i]} to {bounds[i + 1]} at index "
                             f"{i + 1}, expected boundaries that do not fall")


def dtype_name(dtype):
    """The name of a dtype without the package: float32."""
    return str(dtype).removeprefix("torch.")
