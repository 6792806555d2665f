"""The backends of the selective scan: what each has to offer, and which one runs."""

from __future__ import annotations

import functools
import importlib
from typing import Protocol

import torch
from torch import Tensor

from ssm_core._checks import as_choice
from ssm_core._gpu import check_triton, has_triton

__all__ = ["BACKENDS", "Backend", "load_backend", "pick_backend"]

BACKENDS = ("auto", "reference", "cpu", "triton")


class Backend(Protocol):
    """A module ``ssm_core.scan.NAME`` that computes scans of plain tensors, without autograd.

    The arguments are checked (:class:`ssm_core.scan._arguments.Scan`): what is absent is None, B and
    C are (b, g, n, L) or (d, n), tensors may have any strides. *Float* is the dtype of the states:
    float64 for float64 input, else float32. All results are new contiguous tensors, none of them a
    view of an argument. ``reference`` is an exception: it has ``scan``, which plain autograd
    differentiates, and ``state_update``.
    """

    def saved_shape(self, u: Tensor, A: Tensor, cu_seqlens: Tensor | None) -> tuple[int, ...]:
        """The shape of the one tensor in float that forward hands to backward, the chunk states.

        Sizes may be symbolic, so there is no branching on them.
        """

    def forward(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
        initial_state: Tensor | None,
        cu_seqlens: Tensor | None,
        save: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """out (b, d, L) in u's dtype, last_state (b or sequences, d, n) in float, and what is saved,
        or an empty tensor (0,) if not save."""

    def backward(
        self,
        dout: Tensor | None,
        dlast_state: Tensor | None,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
        initial_state: Tensor | None,
        cu_seqlens: Tensor | None,
        saved: Tensor,
    ) -> tuple[Tensor | None, ...]:
        """du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state, each in the shape and dtype of
        its argument, None where that is None.

        dout or dlast_state is None where no gradient arrives, never both.
        """

    def state_update(
        self,
        state: Tensor,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        dt_softplus: bool,
        state_batch_indices: Tensor | None,
        A_is_log: bool,
    ) -> Tensor:
        """y (b, d) in x's dtype; state (b or slots, d, n) changes in place; B and C are (b, g, n)."""


@functools.cache
def load_backend(name: str) -> Backend:
    """The module of a backend, imported at its first use: Numba and Triton take a second each."""
    return importlib.import_module(f"ssm_core.scan.{name}")


def pick_backend(backend: str, u: Tensor) -> str:
    """The name of the backend that runs: the one asked for, or by the device and dtype of u."""
    backend = as_choice(backend, "backend", BACKENDS)
    if backend == "auto":
        if u.device.type == "cpu":
            return "cpu"
        fits = u.device.type == "cuda" and u.dtype != torch.float64 and has_triton()
        return "triton" if fits else "reference"
    if backend == "cpu" and u.device.type != "cpu":
        raise ValueError(f"backend is 'cpu' and u is on {u.device}, expected tensors on the CPU")
    if backend == "triton":
        check_triton(u, "u")
    return backend
