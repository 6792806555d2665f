r"""The recurrence of structured systems: what :class:`Diagonal` and :class:`DPLR` become in time.

.. math:: x_k = \bar A x_{k-1} + \bar B u_k, \quad y_k = 2 \operatorname{Re}(C x_k)

:class:`Recurrence` is a batch of H such systems without D. :class:`Stepper` is what a layer steps
with: a recurrence, D, and the dtype of the states that go from one step to the next.

Both are immutable, and hold numbers that were computed once from the parameters of a system. They
do not follow a parameter that changes later: make a new one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssm_core._checks import as_int
from ssm_core._dispatch import is_transformed
from ssm_core._tensors import (
    check_device,
    check_finite,
    check_kind,
    check_shape,
    dtype_name,
    no_autocast,
)
from ssm_core.s4 import _stepping

__all__ = ["Recurrence", "Stepper"]


@dataclass(frozen=True, eq=False, repr=False)
class Recurrence:
    r"""H discretized systems side by side, each with a diagonal plus low-rank matrix of a step.

    With one of each pair of conjugate modes the low-rank part takes real parts, as the output does:
    :math:`\bar A x = \text{decay} \cdot x - \sum_r \text{left}_r \, 2 \operatorname{Re}(\text{right}_r
    x)`. A diagonal system has no low-rank part.

    Made by ``Diagonal.discretize`` and ``DPLR.discretize``.

    Args:
        decay (complex128): diagonal of a step (H, n)
        B (complex128):     input weights of a step (H, n)
        C (complex128):     output weights (outputs, H, n)
        left, right (complex128): low-rank part (H, r, n), or None

    Equation eq-s4-step.

    Example:
        A leaky integrator, whose state halves with each sample:

        >>> import torch
        >>> from ssm_core.s4 import Recurrence
        >>> one = torch.ones(1, 1, dtype=torch.complex128)
        >>> leaky = Recurrence(decay=0.5 * one, B=one, C=one[None])
        >>> leaky.advance(torch.ones(1, dtype=torch.float64), 2 * one).real
        tensor([[2.]], dtype=torch.float64)
    """

    decay: Tensor
    B: Tensor
    C: Tensor
    left: Tensor | None = None
    right: Tensor | None = None

    def advance(self, u: Tensor | None, x: Tensor) -> Tensor:
        """The state after one more sample: u (..., H), or None for zero, and x (..., H, n) to x."""
        moved = self.decay * x
        if u is not None:
            moved = moved + self.B * u[..., None]
        if self.left is None:
            return moved
        seen = 2 * torch.einsum("hrn,...hn->...hr", self.right, x).real
        return moved - torch.einsum("hrn,...hr->...hn", self.left, seen.to(x.dtype))

    def step(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """One sample: u (..., H) and x (..., H, n) to (y, x), with y (outputs, ..., H)."""
        check_tensor(u, "u", ("...", "H"), self.decay.real)
        check_tensor(x, "x", ("...", "H", "n"), self.decay)
        if x.shape[:-1] != u.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected (..., H, n) with the leading "
                f"axes of u, which has shape {tuple(u.shape)}"
            )
        x = self.advance(u, x)
        return 2 * torch.einsum("ohn,...hn->o...h", self.C, x).real, x

    def snapshot(self, device: torch.device | str | None = None) -> Recurrence:
        """A copy without gradients that shares no memory with this one."""

        def copied(x: Tensor) -> Tensor:
            return x.detach().to(device, copy=True)

        decay, B, C = copied(self.decay), copied(self.B), copied(self.C)
        if self.left is None or self.right is None:
            return Recurrence(decay, B, C)
        return Recurrence(decay, B, C, copied(self.left), copied(self.right))

    def __repr__(self) -> str:
        outputs, H, n = self.C.shape
        rank = 0 if self.left is None else self.left.shape[1]
        return f"Recurrence(H={H}, n={n}, outputs={outputs}, rank={rank})"


@dataclass(frozen=True, eq=False, repr=False)
class Stepper:
    """A layer that runs one sample at a time, with the parameters it had when this was made.

    Made by ``layer.stepper()``, which discretizes the system once; after that a step is a few
    products, in one compiled call on a CPU with Numba. It has no gradients of the parameters and no
    link to the layer: after an optimizer's update, make a new one. It can be copied, pickled and
    compiled.

    Where samples arrive in chunks, ``layer(u, state, return_state=True)`` on each chunk gives the
    same outputs, and from some hundred samples a chunk it is faster than steps.

    Args:
        recurrence (Recurrence): the discretized systems of the d_model channels
        D (float64):             weights of the present (d_model,)
        dtype (torch.dtype):     of the states that ``default_state`` makes

    Book: eq-s4-step.

    Example:
        >>> import torch
        >>> from ssm_core.s4 import S4
        >>> layer, u = S4(d_model=2, d_state=16), torch.randn(3, 100, 2)
        >>> stepper = layer.stepper()
        >>> state, ys = stepper.default_state(3), []
        >>> for sample in u.unbind(1):
        ...     y, state = stepper.step(sample, state)
        ...     ys.append(y)
        >>> torch.allclose(torch.stack(ys, 1), layer(u), atol=1e-4)
        True
    """

    recurrence: Recurrence
    D: Tensor
    dtype: torch.dtype

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One sample.

        Args:
            u (float32, float64, bfloat16, float16): samples (b, d_model)
            state (complex64 or complex128): the state before them (b, d_model, n)

        Returns:
            (y, state): y (b, d_model) in u's dtype, and the state after the samples.

        Raises:
            ValueError: wrong shapes, a tensor on another device, or (on a CPU) a sample with NaN or
                infinity
            TypeError: u is not real floating point, or state is not complex
        """
        check_signal(u, ("b", "d_model"), len(self.D), self.D.device)
        check_state(state, len(u), self.recurrence.decay)
        if _stepping.runs_compiled(u, state) and self.systems is not None:
            return _stepping.step_layer(self.systems, u, state, self._dtype_after(u))
        check_finite(u, "u")
        with no_autocast(u.device):
            y, x = self.recurrence.step(u.to(self.D.dtype), state.to(self.recurrence.B.dtype))
            y = y[0] + self.D * u
        return y.to(u.dtype), x.to(self._dtype_after(u))

    def _dtype_after(self, u: Tensor) -> torch.dtype:
        return torch.promote_types(self.dtype, u.dtype)

    @functools.cached_property
    def systems(self) -> _stepping.Systems | None:
        """What the compiled step reads, or None where it does not run."""
        return _stepping.pack_systems(self.recurrence, self.D)

    def default_state(self, batch_size: int) -> Tensor:
        """The state before the first sample: zeros (b, d_model, n)."""
        return torch.zeros(
            as_int(batch_size, "batch_size"),
            *self.recurrence.decay.shape,
            dtype=self.dtype,
            device=self.D.device,
        )

    def to(self, device: torch.device | str) -> Stepper:
        """The same on another device; this one stays where it is."""
        return Stepper(self.recurrence.snapshot(device), self.D.to(device, copy=True), self.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles pack their arrays anew."""
        return Stepper, (self.recurrence, self.D, self.dtype)

    def __repr__(self) -> str:
        d_model, n = self.recurrence.decay.shape
        return f"Stepper(d_model={d_model}, n={n}, device='{self.D.device}')"


# --- checks: shapes, dtypes and devices, never numbers --------------------------------------------


def check_system(Lambda: Tensor, B: Tensor, C: Tensor, dt: Tensor) -> None:
    """Check what all structured systems have: one precision, one device, and shapes that fit."""
    check_kind(Lambda, "Lambda")
    if Lambda.dtype not in (torch.complex128, torch.complex64):
        raise TypeError(
            f"Lambda has dtype {dtype_name(Lambda.dtype)}, expected complex128 (or complex64)"
        )
    if Lambda.ndim != 2 or 0 in Lambda.shape:
        raise ValueError(
            f"Lambda has shape {tuple(Lambda.shape)}, expected (H, n) without an empty axis"
        )
    check_tensor(B, "B", ("H", "n"), Lambda)
    check_tensor(C, "C", ("outputs", "H", "n"), Lambda)
    check_tensor(dt, "dt", ("H",), Lambda.real)


def check_tensor(
    value: Tensor, name: str, axes: tuple[str, ...], like: Tensor, *, batch: int | None = None
) -> None:
    """Check a tensor of a system: dtype and device of ``like`` (H, n), and its axes H and n."""
    check_kind(value, name)
    if value.dtype != like.dtype:
        raise TypeError(
            f"{name} has dtype {dtype_name(value.dtype)}, expected {dtype_name(like.dtype)}"
        )
    known = {"H": like.shape[0], "n": like.shape[-1], "b": batch}
    if axes[0] == "...":
        leading = max(0, value.ndim - len(axes) + 1)
        axes = (*[f"axis {i}" for i in range(leading)], *axes[1:])
    check_shape(value, name, axes, tuple(known.get(axis) for axis in axes))
    check_device(value, name, like.device, "the system")


def check_signal(u: Tensor, axes: tuple[str, ...], d_model: int, device: torch.device) -> None:
    """Check the input of a layer: real floating point, d_model channels, and nothing empty."""
    check_kind(u, "u")
    if not u.is_floating_point():
        raise TypeError(f"u has dtype {dtype_name(u.dtype)}, expected a real floating-point dtype")
    check_shape(u, "u", axes, (*[None] * (len(axes) - 1), d_model))
    if 0 in u.shape:
        raise ValueError(f"u has shape {tuple(u.shape)}, expected no empty axis")
    check_device(u, "u", device, "the layer")


def check_intervals(dt: Tensor, u: Tensor) -> None:
    """Check the time before each sample of u (b, L, d_model): finite and at least 0.

    On a GPU the numbers are not read, since it would have to finish what it does.
    """
    check_kind(dt, "dt")
    if not dt.is_floating_point():
        raise TypeError(
            f"dt has dtype {dtype_name(dt.dtype)}, expected a real floating-point dtype"
        )
    check_shape(dt, "dt", ("b", "L"), tuple(u.shape[:2]))
    check_device(dt, "dt", u.device, "u")
    if dt.device.type == "cpu" and not (torch.compiler.is_compiling() or is_transformed()):
        bad = ~((dt >= 0) & dt.isfinite())
        if bad.any():
            place = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"dt holds {dt[place].item():g} at index {place}, "
                "expected finite steps of at least 0"
            )


def check_state(state: Tensor, batch_size: int, like: Tensor) -> None:
    """Check the state of a layer; ``like`` is a tensor (d_model, n) of the layer."""
    check_kind(state, "state")
    if not state.is_complex():
        raise TypeError(f"state has dtype {dtype_name(state.dtype)}, expected a complex dtype")
    check_shape(state, "state", ("b", "d_model", "n"), (batch_size, *like.shape))
    check_device(state, "state", like.device, "the layer")
