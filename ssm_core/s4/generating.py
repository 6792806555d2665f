r"""From sums over modes to a kernel: the generating function of S4, eliminated and inverted.

Everything between the weights of the sums and the kernel is complex, of the size of the kernel, and
the same for every system, so in compiled programs it is one operator of ``torch.library`` between
real numbers: ``torch.compile`` has no code for complex ones on a GPU. Its backward pass is written
out below its forward pass, step for step. What it keeps are the rows and columns that were
eliminated. ``torch.func`` and forward-mode differentiation go through the forward pass itself.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from ssm_core._dispatch import (
    has_gradient,
    is_transformed,
    needs_definition,
    needs_operator,
    with_signature,
    without_derivative,
)
from ssm_core.s4.cauchy import cauchy_sums, cauchy_sums_backward

__all__ = ["kernel_from_sums"]

# The kernel is read off its generating function on a circle of radius r < 1. There the samples
# that come after the 2L in view add r^(2L) times their size, and rounding errors grow by r^(-L).
# The two are equal where r^(2L) is the machine precision to the power 2/3.
_ALIASING = {
    torch.float64: float(np.finfo(np.float64).eps) ** (2 / 3),
    torch.float32: float(np.finfo(np.float32).eps) ** (2 / 3),
}


def kernel_from_sums(a: Tensor, b: Tensor, poles: Tensor, L: int, rank: int) -> Tensor:
    r"""The kernel whose generating function is made of Cauchy sums, differentiable once.

    The sums are a matrix at each point, with a row for each column of P and for each output, and a
    column for each column of P and for B. Woodbury's identity is Gaussian elimination of P: what
    is left is :math:`C (g - A)^{-1} B` (eq-s4-kernel). It is evaluated at 2L points of the circle
    of radius r < 1, and an inverse FFT gives :math:`r^j K_j` (eq-s4-circle).

    Args:
        a, b (float64):     weights of the sums (H, (rank + outputs) * (rank + 1), n), as in
                            :func:`ssm_core.s4.cauchy.cauchy_sums`
        poles (complex128): one of each conjugate pair (H, n)
        L (int):            length of the kernel
        rank (int):         columns of P

    float32 and complex64 instead give a kernel in float32, with three digits.

    Returns:
        K (outputs, H, L), in the dtype of a

    Book: eq-s4-generating, eq-s4-kernel, eq-s4-circle. Source: Gu, Goel and Ré, "Efficiently
    Modeling Long Sequences with Structured State Spaces" (2022), section 3; the circle is that of
    Abate and Whitt, "Numerical inversion of probability generating functions" (1992).
    """
    given = a, b, torch.view_as_real(poles)
    if is_transformed() or needs_definition(*given):
        run = _kernel
    elif needs_operator(*given):
        run = torch.ops.ssm_core.dplr_kernel
    else:
        run = _Kernel.apply if has_gradient(*given) else _kernel
    return run(*given, L, rank)[0]


def _kernel(
    a: Tensor, b: Tensor, poles: Tensor, L: int, rank: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    s = _points(L, a)
    sums = cauchy_sums(a, b, torch.view_as_complex(poles), s).unflatten(1, (-1, rank + 1))
    rows, columns = [], []
    for i in range(rank):  # sums (H, rank + outputs, rank + 1, F)
        pivot = 1 + sums[:, i, i, None]  # its real part is at least 1
        rows.append(sums[:, i] / pivot)
        columns.append(sums[:, :, i] / pivot)
        sums = sums - sums[:, :, i, None] * rows[i][:, None]
    # With s = 2 (1 - z) / (1 + z), the factor 2 / (1 + z) of the generating function is 1 + s / 2.
    generating = (sums[:, rank:, -1] * (1 + s / 2)).transpose(0, 1)  # (outputs, H, F)
    K = torch.fft.irfft(generating, 2 * L)[..., :L] * _growth(L, a)
    return K.contiguous(), torch.stack(rows), torch.stack(columns), s


_operator = torch.library.custom_op("ssm_core::dplr_kernel", _kernel, mutates_args=())


@_operator.register_fake
def _(a, b, poles, L, rank):
    H, K, _ = a.shape
    F, outputs, dtype = L + 1, K // (rank + 1) - rank, a.dtype.to_complex()
    return (
        a.new_empty(outputs, H, L),
        a.new_empty(rank, H, rank + 1, F, dtype=dtype),
        a.new_empty(rank, H, rank + outputs, F, dtype=dtype),
        a.new_empty(F, dtype=dtype),
    )


def _kernel_backward(
    dK: Tensor, a: Tensor, b: Tensor, poles: Tensor, rows: Tensor, columns: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    outputs, H, L = dK.shape
    rank = len(rows)
    # The inverse FFT of a real signal counts all points but the first and the last one twice.
    dgenerating = torch.fft.rfft(dK * _growth(L, dK), 2 * L, norm="forward") * 2
    dgenerating[..., ::L] /= 2
    dsums = s.new_zeros(H, rank + outputs, rank + 1, L + 1)
    dsums[:, rank:, -1] = (dgenerating * (1 + s / 2).conj_physical()).transpose(0, 1)
    for i in reversed(range(rank)):
        dsums[:, :, i] -= (dsums * rows[i].conj_physical()[:, None]).sum(2)
        dsums[:, i] -= (dsums * columns[i].conj_physical()[:, :, None]).sum(1)
    da, db, dpoles = cauchy_sums_backward(
        dsums.flatten(1, 2), a, b, torch.view_as_complex(poles), s
    )
    return da, db, torch.view_as_real(dpoles)


_backward = torch.library.custom_op(
    "ssm_core::dplr_kernel_backward", _kernel_backward, mutates_args=()
)


@_backward.register_fake
def _(dK, a, b, poles, rows, columns, s):
    return a.new_empty(a.shape), b.new_empty(b.shape), poles.new_empty(poles.shape)


def _setup_context(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3], *output[1:])


def _differentiate(ctx, dK, *_):
    if dK is None:
        return (None,) * 5
    given = (dK, *ctx.saved_tensors)
    if needs_operator(dK):
        return *torch.ops.ssm_core.dplr_kernel_backward(*given), None, None
    return *without_derivative(_kernel_backward, _ONCE, *given), None, None


def _refuse(ctx, *gradients):
    raise NotImplementedError(_ONCE)


_ONCE = (
    "the kernel of S4 has first derivatives only; for higher ones use torch.func (grad, jacrev, "
    "hessian), which differentiates its definition"
)
_operator.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)


class _Kernel(Function):
    """The same with less work per call, where nothing records operators."""

    forward = staticmethod(with_signature(_kernel))
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_differentiate)


def _radius(L: int, dtype: torch.dtype) -> float:
    return math.exp(math.log(_ALIASING[dtype]) / (2 * L))


def _points(L: int, like: Tensor) -> Tensor:
    """s = 2 (1 - z) / (1 + z) on the lower half of the circle (L + 1,); the upper is conjugate."""
    angles = torch.linspace(0, -math.pi, L + 1, dtype=like.dtype, device=like.device)
    z = torch.polar(torch.full_like(angles, _radius(L, like.dtype)), angles)
    return 2 * (1 - z) / (1 + z)


def _growth(L: int, like: Tensor) -> Tensor:
    """What makes the samples on the circle those of the kernel: r to the power -j (L,)."""
    exponents = torch.arange(L, dtype=like.dtype, device=like.device)
    return _radius(L, like.dtype) ** -exponents
