"""What code that launches kernels asks on the host. Nothing here imports Triton until it is needed."""

from __future__ import annotations

import functools
import warnings
from importlib.util import find_spec

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
