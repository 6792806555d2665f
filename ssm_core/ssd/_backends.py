"""The backends of SSD: what each has to offer, and which one runs."""

from __future__ import annotations

import functools
import importlib
from typing import Protocol

from torch import Tensor

from ssm_core._checks import as_choice
from ssm_core._gpu import check_triton

__all__ = ["BACKENDS", "Backend", "load_backend", "pick_backend"]

BACKENDS = ("auto", "reference", "chunk", "triton")
MOST_STATES = 256  # n that the Triton kernels take


class Backend(Protocol):
    """A module ``ssm_core.ssd.NAME`` that computes with plain tensors, without autograd.

    The arguments are checked (:class:`ssm_core.ssd._arguments.SSD`): what is absent is None, tensors
    may have any strides. *Float* is the dtype of the states: float64 for float64 input, else
    float32. All results are new contiguous tensors, none of them a view of an argument. ``reference``
    is an exception: it has ``ssd``, which plain autograd differentiates.
    """

    def forward(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        dt_softplus: bool,
        dt_min: float,
        dt_max: float,
        initial_states: Tensor | None,
        cu_seqlens: Tensor | None,
        chunk_size: int | None,
    ) -> tuple[Tensor, Tensor]:
        """y (b, L, h, p) in x's dtype, and final_states (b or sequences, h, p, n) in float."""

    def backward(
        self,
        dy: Tensor | None,
        dfinal_states: Tensor | None,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        dt_bias: Tensor | None,
        dt_softplus: bool,
        dt_min: float,
        dt_max: float,
        initial_states: Tensor | None,
        cu_seqlens: Tensor | None,
        chunk_size: int | None,
    ) -> tuple[Tensor | None, ...]:
        """dx, ddt, dA, dB, dC, dD, dz, ddt_bias, dinitial_states, each in the shape and dtype of its
        argument, None where that is None.

        dy or dfinal_states is None where no gradient arrives, never both. Nothing but the arguments
        is kept from the forward pass: the states at chunk boundaries are computed again.
        """


@functools.cache
def load_backend(name: str) -> Backend:
    """The module of a backend, imported at its first use: Triton takes a second."""
    return importlib.import_module(f"ssm_core.ssd.{name}")


def pick_backend(backend: str, x: Tensor, n: int) -> str:
    """The name of the backend that runs: the one asked for, or by the device and dtype of x."""
    backend = as_choice(backend, "backend", BACKENDS)
    if (
        backend == "auto"
    ):  # not yet triton: benchmarks/NOTES.md says what a run on a GPU has to show
        return "chunk"
    if backend == "triton":
        check_triton(x, "x")
        if n > MOST_STATES:
            raise ValueError(
                f"backend is 'triton' and B has {n} states, expected at most {MOST_STATES} "
                "(more run on the other backends)"
            )
    return backend
