"""Checks of tensors at the boundary of the PyTorch modules, as ``ssm_core._checks`` is for NumPy.

All but :func:`as_packing` look at types, shapes, dtypes and devices only, never at the numbers: so
they cost nothing on a GPU, and torch.compile and torch.export trace through them. Each raises an
error that names the argument, says what came and what is expected.

**Packed sequences.** The boundaries ``cu_seqlens`` decide which memory a kernel reads, so their
numbers have to be checked, and reading numbers makes the host wait for the GPU. Therefore the
outermost public call checks them, once, and hands down the :class:`Packing` that proves it::

    packing = as_packing(cu_seqlens, batch, L, "hidden_states", device)
    for layer in self.layers:
        hidden = layer(hidden, cu_seqlens=packing)  # is not checked again

Every public function with an argument ``cu_seqlens`` calls ``as_packing`` first, which returns a
Packing as it is. A model of n layers so waits for the GPU once per forward pass, and never inside
the capture of a CUDA graph. ``packing.cu_seqlens`` is the tensor. A Packing is a NamedTuple, so
torch.compile, checkpointing of activations, hooks and wrappers take it for a tuple of tensors.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssm_core._dispatch import is_transformed, needs_operator

__all__ = [
    "Packing",
    "as_device",
    "as_packing",
    "check_boundaries",
    "check_device",
    "check_devices",
    "check_dtype",
    "check_dtypes",
    "check_finite",
    "check_flag",
    "check_float",
    "check_kind",
    "check_packed",
    "check_shape",
    "dtype_name",
    "no_autocast",
    "read_boundaries",
    "widest_float",
]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_kind(value: Any, name: str) -> None:
    """Check that value is a tensor at all."""
    if not isinstance(value, torch.Tensor):
        kind = "None" if value is None else f"a {type(value).__name__}"
        raise TypeError(f"{name} is {kind}, expected a torch.Tensor")


def check_shape(
    value: Tensor, name: str, axes: tuple[str, ...], sizes: tuple[int | None, ...]
) -> None:
    """Compare a shape with the sizes expected; None is any size, axes are names for the message."""
    shape = tuple(value.shape)
    good = len(shape) == len(sizes)
    if good:
        for have, want in zip(shape, sizes):  # one by one: sizes may be symbolic
            good = good and (want is None or have == want)
    if not good:
        known = ", ".join(f"{axis} = {size}" for axis, size in zip(axes, sizes) if size is not None)
        spelled = f"({axes[0]},)" if len(axes) == 1 else f"({', '.join(axes)})"
        raise ValueError(
            f"{name} has shape {shape}, expected {spelled}" + (f" with {known}" if known else "")
        )


def check_flag(value: Any, name: str) -> None:
    """Check that value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is a {type(value).__name__}, expected True or False")


def check_dtype(value: Any, name: str, dtypes: tuple[torch.dtype, ...], words: str) -> None:
    """Check that value is a tensor of one of these dtypes, which words names for the message."""
    check_kind(value, name)
    if value.dtype not in dtypes:
        raise TypeError(f"{name} has dtype {dtype_name(value.dtype)}, expected {words}")


def check_float(value: Any, name: str) -> None:
    """Check that value is a tensor of real numbers that gradients and kernels take."""
    check_dtype(value, name, _FLOATS, "float32, bfloat16, float16 or float64")


def check_dtypes(signals: dict[str, Tensor | None], weights: dict[str, Tensor | None]) -> None:
    """Signals in low precision or float32 with weights in float32, or everything in float64."""
    present = {k: v for k, v in {**signals, **weights}.items() if v is not None}
    doubles = [k for k, v in present.items() if v.dtype == torch.float64]
    if doubles and len(doubles) < len(present):
        other = next(k for k in present if k not in doubles)
        raise TypeError(
            f"{doubles[0]} is float64 and {other} is {dtype_name(present[other].dtype)}, "
            "expected all tensors in float64 or none"
        )
    for name, value in weights.items():
        if value is not None and value.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{name} has dtype {dtype_name(value.dtype)}, expected float32: decays and "
                f"steps lose too much below it; pass {name}.float()"
            )


def check_devices(tensors: dict[str, Tensor | None], owner: str, device: torch.device) -> None:
    """Check that tensors, by their names, are on the device of their owner (in words)."""
    for name, value in tensors.items():
        if value is not None:
            check_device(value, name, device, owner)


def as_device(device: torch.device | str | None) -> torch.device:
    """The device that is asked for, or PyTorch's default; one that is not there is refused."""
    device = torch.get_default_device() if device is None else torch.device(device)
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:  # each backend its own
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device is '{device}', which cannot be used here: {reason}") from None
    return device


def check_device(value: Tensor, name: str, device: torch.device, owner: str) -> None:
    """Check that value is on the device of its owner (in words)."""
    if value.device != device:
        raise ValueError(f"{name} is on {value.device}, expected {device}, where {owner} is")


def check_finite(value: Tensor, name: str) -> None:
    """Check that a sample of a stream holds no NaN and no infinity, which would stay in the state.

    Only on a CPU: elsewhere reading numbers makes the host wait. Traces, transforms and forward
    mode, where there are no numbers to read, pass.
    """
    if value.device.type != "cpu" or needs_operator(value) or is_transformed():
        return
    value = value.detach()
    if math.isfinite(value.sum()):  # one operation for what is almost always true
        return
    if not torch.isfinite(value).all():
        raise ValueError(
            f"{name} holds NaN or infinity, expected finite numbers: the state would keep them"
        )


class Packing(NamedTuple):
    """Boundaries of sequences that are packed into one row, checked by :func:`as_packing`."""

    cu_seqlens: Tensor  # int32 (sequences + 1,), from 0 to length, never falling
    length: int  # of the row
    sequences: int  # how many, empty ones included


def as_packing(
    cu_seqlens: Tensor | Packing | None, batch: int, L: int, owner: str, device: torch.device
) -> Packing | None:
    """Check the boundaries of packed sequences, unless an outer call has done so.

    Args:
        cu_seqlens (int32):  boundaries (sequences + 1,), what an earlier call returned, or None
        batch (int):         batch size of ``owner``, which has to be 1
        L (int):             length of the row that holds the sequences
        owner (str):         the argument that holds them, for messages
        device:              where it is

    Returns:
        Packing, or None for None. The numbers are not read while a CUDA graph is captured; in
        compiled and exported programs an operator reads them when the program runs.

    Raises:
        TypeError:  not a tensor, or not int32
        ValueError: a batch size other than 1, a wrong shape or device, boundaries that do not start
            at 0, fall, or do not end at L

    Example:
        >>> import torch
        >>> from ssm_core._tensors import as_packing
        >>> packing = as_packing(torch.tensor([0, 2, 5], dtype=torch.int32), 1, 5, "u",
        ...                      torch.device("cpu"))
        >>> packing.sequences
        2
        >>> as_packing(packing, 1, 5, "u", torch.device("cpu")) is packing
        True
    """
    if cu_seqlens is None:
        return None
    if isinstance(cu_seqlens, Packing):
        if cu_seqlens.length != L or batch != 1:
            raise ValueError(
                f"{owner} has batch size {batch} and length {L}, expected 1 and "
                f"{cu_seqlens.length}, for which cu_seqlens was checked"
            )
        return cu_seqlens
    sequences = check_packed(cu_seqlens, batch, owner)
    check_device(cu_seqlens, "cu_seqlens", device, owner)
    if needs_operator(cu_seqlens):
        return Packing(torch.ops.ssm_core.checked_boundaries(cu_seqlens, L), L, sequences)
    check_boundaries(cu_seqlens, L)
    return Packing(cu_seqlens, L, sequences)


def check_packed(cu_seqlens: Any, batch: int, owner: str) -> int:
    """Check the kind, dtype and shape of boundaries; return how many sequences there are.

    ``batch`` is the batch size of ``owner``, whose one row holds the sequences.
    """
    check_kind(cu_seqlens, "cu_seqlens")
    if cu_seqlens.dtype != torch.int32:
        raise TypeError(f"cu_seqlens has dtype {dtype_name(cu_seqlens.dtype)}, expected int32")
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(
            f"cu_seqlens has shape {tuple(cu_seqlens.shape)}, expected "
            "(sequences + 1,) with at least one sequence"
        )
    if batch != 1:
        raise ValueError(f"{owner} has batch size {batch}, expected 1 where cu_seqlens is given")
    return cu_seqlens.shape[0] - 1


def check_boundaries(cu_seqlens: Tensor, L: int) -> None:
    """Check that cu_seqlens rises from 0 to L; this reads the numbers, so the GPU must finish.

    Nothing can be read while a CUDA graph is captured, so nothing is checked then.
    """
    if cu_seqlens.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    bounds = read_boundaries(cu_seqlens)
    if bounds[0] != 0 or bounds[-1] != L:
        raise ValueError(
            f"cu_seqlens runs from {bounds[0]} to {bounds[-1]}, "
            f"expected from 0 to the length of the row, {L}"
        )
    for i in range(len(bounds) - 1):
        if bounds[i] > bounds[i + 1]:
            raise ValueError(
                f"cu_seqlens falls from {bounds[i]} to {bounds[i + 1]} at index "
                f"{i + 1}, expected boundaries that do not fall"
            )


def read_boundaries(cu_seqlens: Tensor) -> list[int]:
    """The boundaries as numbers, which older PyTorch does not give out within torch.func."""
    with torch._C._DisableFuncTorch():
        return cu_seqlens.tolist()


@torch.library.custom_op("ssm_core::checked_boundaries", mutates_args=())
def _checked_boundaries(cu_seqlens: Tensor, L: int) -> Tensor:
    check_boundaries(cu_seqlens, L)
    return cu_seqlens.clone()  # an operator returns no view of an argument


@_checked_boundaries.register_fake
def _(cu_seqlens: Tensor, L: int) -> Tensor:
    return torch.empty_like(cu_seqlens)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without the package: float32."""
    return str(dtype).removeprefix("torch.")


def widest_float(device: torch.device) -> torch.dtype:
    """The widest floating-point dtype of a device: float64, or float32 on Apple's GPUs (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Switch autocast off for a block of code; the meta device does not have it at all."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
