"""What code that launches kernels asks on the host. Nothing here imports Triton until it is needed."""

from __future__ import annotations

import functools
import os
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ssm_core._dispatch import constant_in_traces


@constant_in_traces
def has_triton() -> bool:
    """Whether Triton works here; one that is installed but does not gives one warning.

    The import takes a second, so ask only where a kernel would run next.
    """
    return _try_triton()


@functools.cache
def _try_triton() -> bool:
    if find_spec("triton") is None:
        return False
    try:
        import triton

        if torch.cuda.is_available():  # this compiles Triton's driver, so it needs a C compiler
            triton.runtime.driver.active.get_current_target()
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        warnings.warn(
            f"Triton is installed but does not work ({type(error).__name__}: {error}); "
            "ssm_core runs its slower PyTorch code instead",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    return True


def check_triton(x: Tensor, name: str) -> None:
    """Check that a Triton kernel can run on x, the argument of this name."""
    if not has_triton():
        raise ValueError(
            "backend is 'triton', and the package triton is not installed or does not work"
        )
    if x.dtype == torch.float64:
        raise ValueError(
            f"backend is 'triton' and {name} is float64, expected float32, bfloat16 or float16 "
            "(float64 runs on the other backends)"
        )
    interpreted = x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if x.device.type != "cuda" and not interpreted:
        raise ValueError(
            f"backend is 'triton' and {name} is on {x.device}, expected a CUDA device (on "
            "a CPU Triton interprets the kernels, slowly, if TRITON_INTERPRET=1 is "
            "set before it is imported)"
        )


@functools.cache
def processors(device: torch.device) -> int:
    """How many multiprocessors a GPU has; 1 for any other device."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def aligned(*tensors: Tensor | None) -> list[Tensor | None]:
    """Contiguous tensors that begin at a multiple of 16 bytes, as 16-byte loads need it."""
    contiguous = [None if x is None else x.contiguous() for x in tensors]
    return [x if x is None or x.data_ptr() % 16 == 0 else x.clone() for x in contiguous]


def empty_like_or_none(x: Tensor | None) -> Tensor | None:
    """New memory for a tensor like x, or None where there is no x."""
    return None if x is None else torch.empty_like(x)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up; ``triton.cdiv`` outside a kernel takes ten times as long."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()


_compiled: dict[tuple, tuple[Any, list]] = {}  # kernels by what they were compiled for


def launch(
    kernel: Any, programs: int, first: Tensor, *others: Tensor | float | None, **options: Any
) -> None:
    """``kernel[(programs,)](first, *others, **options)`` in less of the processor's time.

    At each call Triton binds the arguments and looks for the code that fits them, which takes 48 µs for
    twenty arguments. Here the dtypes of tensors, the sizes of integers and the options say which code
    fits. For that the kernel must take its constants last and may specialize on no integer, and tensors
    must begin at a multiple of 16 bytes, on the device that is current.
    """
    device = first.device.index
    kinds = [
        x.dtype if isinstance(x, Tensor) else x if x is None else -(2**31) <= x < 2**31
        for x in others
    ]
    key = (id(kernel), device, first.dtype, *kinds, *options.values())
    if known := _compiled.get(key):
        code, constants = known
        stream = torch._C._cuda_getCurrentRawStream(device)
        code[programs, 1, 1](first, *others, *constants, stream=stream)
        return
    code = kernel[(programs,)](first, *others, **options)
    if code is not None:  # an interpreter has none
        _compiled[key] = code, [options[name] for name in kernel.arg_names if name in options]
