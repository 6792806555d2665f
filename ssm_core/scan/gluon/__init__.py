r"""The selective scan on NVIDIA GPUs of compute capability 8.0 and later, in Triton's language Gluon.

The portable kernels of ``ssm_core.scan.triton`` leave it to the compiler which thread holds what.
Gluon leaves it to us, gives us shared memory of our own, and reaches the tensor cores.

**Which thread holds what.** A program works on 32 channels, one for each lane of a warp. Its warps
share out the states: for 16 states, four warps of four forwards and two warps of eight backwards.
A thread keeps its states, its share of A and the gradients that gather over time in registers.

**What lies in shared memory.** Time is cut into chunks of 32 steps (16 backwards). What concerns a
sample on its own (Δ after softplus, Δ u, the gradient of y, the slopes of SiLU and softplus) is
computed once a chunk and kept there as float32, and B and C are converted there once for all
channels. The inputs of the next chunk arrive meanwhile by asynchronous copies.

**Sums.** Sums over states are taken in the thread first and then across warps through shared memory.
Sums over channels, the gradients of B and C, go through tensor cores as products with matrices of
ones (``_channels``). Each program stores its sums in a slot of its own, and one launch adds up all
slots in a fixed order (``_totals``): there are no atomics, and the same call gives the same bits.

**What the backward pass needs.** The forward pass saves the state every 16 steps. The backward pass
takes eight steps of each chunk again, then goes back through the chunk eight steps at a time with all
of their states in registers.

**Small batches.** Where batch and channels do not fill the GPU, time is cut into spans. ``_span``
sums up what each span adds to the state after it, and each program of the scan first goes through
what the spans before its own add. The backward pass does the same with time reversed.

**When these kernels run.** ``covers`` decides: up to 64 states (32 where a processor has less shared
memory), B and C that change with time, and sizes at which they are the faster ones. Everything else,
and every GPU or Triton on which they cannot be compiled, has the portable kernels.

``forward`` and ``backward`` are those of a backend, except that they return None where the portable
kernels have to run: see ``covers`` and ``attempt``.
"""

from __future__ import annotations

import functools
import importlib
import warnings

import torch

from ssm_core._gpu import ceil_div

__all__ = ["backward", "covers", "forward", "saved_shape", "supports"]

MOST_STATES = 64
_failures: list[Exception] = []  # the first one ends all use of these kernels


def covers(u, A, B, C):
    """Whether these kernels are the ones for a call: which kernels run is decided here alone.

    B and C that are constant in time are left to the portable kernels, as are more than 64 states,
    whose gradients do not fit into the registers of one processor.
    """
    return (supports(u.device, A.shape[1]) and B.ndim == 4 and C.ndim == 4
            and pays(u.shape[1] // B.shape[1], A.shape[1]))


def pays(channels, n):
    """Whether these kernels are faster for groups of so many channels with n states.

    They always work on 32 channels with 8 states or more; the portable ones take smaller pieces.
    """
    return n > 4 and 8 * (ceil_div(channels, 32) * 32) <= 9 * channels


def supports(device, n):
    """Whether a device runs these kernels for n states."""
    return device.type == "cuda" and n <= MOST_STATES and n <= _most_states(device)


@functools.cache
def _most_states(device):
    """How many states the kernels take on a device: 0 where they do not run."""
    if not torch.cuda.is_available() or torch.version.hip:
        return 0
    properties = torch.cuda.get_device_properties(device)
    if properties.major < 8 or _kernels() is None:
        return 0
    shared = getattr(properties, "shared_memory_per_block_optin", 0)
    return MOST_STATES if shared >= 2**17 else MOST_STATES // 2


@functools.cache
def _kernels():
    """The module that launches the kernels, or None where Triton has no Gluon that they know."""
    try:
        return importlib.import_module("ssm_core.scan.gluon._launch")
    except Exception:  # noqa: BLE001 - an experimental interface may fail in any way
        return None


def saved_shape(u, A, cu_seqlens):
    """Shape of the saved states, which is at least what the portable kernels need."""
    return _kernels().saved_shape(u, A, cu_seqlens)


def forward(*arguments):
    """As a backend's; None if the kernels cannot be compiled here."""
    return attempt("forward", arguments)


def backward(*arguments):
    """As a backend's; None if the kernels cannot be compiled here."""
    return attempt("backward", arguments)


def attempt(name, arguments):
    """Run forward or backward; once that has failed, return None in this process from then on.

    A Triton newer than the ones that we know may refuse to compile a kernel. That must not stop a
    program that the portable kernels can serve.
    """
    if _failures:
        return None
    run, device = getattr(_kernels(), name), arguments[0].device
    try:
        if device.type == "cpu" or device.index == torch.cuda.current_device():
            return run(*arguments)
        with torch.cuda.device(device):
            return run(*arguments)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - see above
        _failures.append(error)
        warnings.warn(f"the fast kernels of the selective scan do not run here, so the portable ones "
                      f"take over: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=4)
        return None
