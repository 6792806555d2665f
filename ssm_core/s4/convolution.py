r"""The convolution of a layer: a batch of signals, each channel with its own kernel.

**The definition** is :func:`convolve_ref`, a few lines. A product of transforms is a convolution on
a circle, where the end of a signal runs into its beginning; the usual remedy is a circle of twice as
many samples, half of them zero. :func:`convolve` computes the same faster, and the rest of this
module explains how.

**A circle with a quarter turn.** There is a remedy without zeros: a circle of n samples on which a
number that goes round once comes back multiplied by i. It multiplies polynomials in t of which the
coefficients are samples, modulo :math:`t^n = i` where the usual circle has :math:`t^n = 1`,

.. math:: \Bigl(\sum_j K_j t^j\Bigr) \Bigl(\sum_k u_k t^k\Bigr) = \sum_{m < n} t^m
          \Bigl(\sum_{j + k = m} K_j u_k + i \sum_{j + k = m + n} K_j u_k\Bigr) .

What stays is real and what wraps is imaginary: the real part is the causal convolution.

With :math:`t = \zeta s` and :math:`\zeta = e^{i \pi / 2 n}` it is :math:`s^n = 1` again, an FFT of
n complex numbers. So a signal is *wound* on the circle, times :math:`\zeta^k`, and *unwound* by the
real part of the result times :math:`\zeta^{-k}`. A look into the future goes round backwards, which
divides by i: it is the imaginary part of the kernel. And D, the weight of the present, is part of
the kernel's first sample.

**What it moves.** In units of the signal: winding reads 1 and writes 2, an FFT moves 4, the product
with the kernel's spectrum 4, an FFT 4, unwinding 3. The backward pass moves 20. It finds the
spectrum of the signal where forward has left it, which costs memory for 2; to compute it again
would take 7 more, and the signal itself, 1, would have to stay.

It runs as an operator of ``torch.library`` in compiled programs, and as an autograd function
otherwise. On a GPU winding, unwinding and the backward product are the kernels of
``ssm_core.s4.triton_convolution``. ``torch.func`` and forward-mode differentiation get the
definition.
"""

from __future__ import annotations

import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd import Function
from torch.fft import fft, ifft, irfft, rfft

from ssm_core._dispatch import (
    has_gradient,
    is_transformed,
    needs_definition,
    needs_operator,
    with_signature,
    without_derivative,
)
from ssm_core._gpu import has_triton
from ssm_core._tensors import widest_float

__all__ = ["convolve", "convolve_ref"]


def convolve_ref(u: Tensor, K: Tensor, D: Tensor) -> Tensor:
    """What :func:`convolve` computes, by its definition: on a circle twice as long, in plain PyTorch."""
    L = u.shape[1]
    n = 2 * L
    signal = rfft(u, n, dim=1)  # (b, L + 1, H)
    kernel = K[0]  # (H, L); a look into the future goes round the circle backwards
    if len(K) == 2:
        kernel = torch.cat([kernel, K.new_zeros(len(D), 1), K[1, :, 1:].flip(-1)], dim=-1)
    return irfft(signal * rfft(kernel, n).mT, n, dim=1)[:, :L] + D * u


def convolve(u: Tensor, K: Tensor, D: Tensor) -> Tensor:
    r"""Convolve signals with the kernels of their channels, and add D times the signal.

    .. math:: y_t = D u_t + \sum_{j=0}^{t} K_{0,j} u_{t-j} + \sum_{j=1}^{L-1-t} K_{1,j} u_{t+j}

    Memory for the backward pass: the spectrum, twice the size of u. ``torch.func`` and forward mode
    differentiate it as often as they like; ``backward`` through a gradient is refused.

    Args:
        u (float32 or float64): signals (b, L, H), in any strides
        K (as u):               kernels of the past, or of past and future (1 or 2, H, L)
        D (as u):               weights of the present (H,)

    Returns:
        y (b, L, H), contiguous

    Book: eq-causal-convolution. Source: an FFT of samples times powers of a root is a weighted
    transform, Crandall and Fagin, "Discrete Weighted Transforms and Large-Integer Arithmetic"
    (1994).

    Example:
        >>> import torch
        >>> from ssm_core.s4.convolution import convolve
        >>> u = torch.tensor([[[1.0], [0.0], [2.0]]])
        >>> convolve(u, torch.tensor([[[1.0, 0.5, 0.25]]]), torch.tensor([0.0]))[0, :, 0]
        tensor([1.0000, 0.5000, 2.2500])
    """
    if is_transformed() or needs_definition(u, K, D):
        return convolve_ref(u, K, D)
    save = has_gradient(u, K, D)
    run = (
        torch.ops.ssm_core.convolve
        if needs_operator(u, K, D)
        else _Convolve.apply
        if save
        else _convolve
    )
    return run(u, K, D, save)[0]


# --- the operators --------------------------------------------------------------------------------
#
# Conjugates are written out: in compiled code PyTorch runs operators without the part of it that
# looks after `conj()`, and a product with x.conj() would be one with x.


def _convolve(u: Tensor, K: Tensor, D: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    turn = _turn(u)
    response = fft(_kernel_on_circle(K, D, turn), norm="forward")  # (H, n), with the 1/n of ifft
    spectrum = fft(_wind(u, turn))  # (b, H, n)
    product = torch.mul(spectrum, response, out=None if save else spectrum)
    y = _unwind(ifft(product, norm="forward"), turn, u.shape[1])
    return (y, spectrum, response) if save else (y, u.new_empty(0), u.new_empty(0))


_operator = torch.library.custom_op("ssm_core::convolve", _convolve, mutates_args=())


@_operator.register_fake
def _(u, K, D, save):
    (b, L, H), dtype = u.shape, u.dtype.to_complex()
    if not save:
        return u.new_empty(u.shape), u.new_empty(0), u.new_empty(0)
    n = _circle(L)
    return (u.new_empty(u.shape), u.new_empty(b, H, n, dtype=dtype), u.new_empty(H, n, dtype=dtype))


def _convolve_backward(
    dy: Tensor, spectrum: Tensor, response: Tensor, outputs: int
) -> tuple[Tensor, Tensor, Tensor]:
    turn, L = _turn(dy), dy.shape[1]
    # The adjoint of a product with a spectrum is one with its conjugate.
    product, dresponse = _product_backward(fft(_wind(dy, turn)), spectrum, response)
    du = _unwind(ifft(product, norm="forward"), turn, L)
    dkernel = ifft(dresponse) * turn.conj_physical()  # (H, n)
    dK = dy.new_zeros(outputs, len(dkernel), L)
    dK[0] = dkernel.real[:, :L]
    if outputs == 2:
        dK[1, :, 1:] = -dkernel.imag[:, len(turn) - L + 1 :].flip(-1)
    return du, dK, dkernel.real[:, 0].clone()


_backward = torch.library.custom_op(
    "ssm_core::convolve_backward", _convolve_backward, mutates_args=()
)


@_backward.register_fake
def _(dy, spectrum, response, outputs):
    _, L, H = dy.shape
    return dy.new_empty(dy.shape), dy.new_empty(outputs, H, L), dy.new_empty(H)


def _setup_context(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.outputs = inputs[1].shape[0]


def _differentiate(ctx, dy, *_):
    if dy is None:
        return (None,) * 4
    given = (dy, *ctx.saved_tensors, ctx.outputs)
    if needs_operator(dy):
        return *torch.ops.ssm_core.convolve_backward(*given), None
    return *without_derivative(_convolve_backward, _ONCE, *given), None


def _refuse(ctx, *gradients):
    raise NotImplementedError(_ONCE)


_ONCE = (
    "the convolution of S4 has first derivatives only; for higher ones use torch.func (grad, "
    "jacrev, hessian), which differentiates its definition"
)
_operator.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)


class _Convolve(Function):
    """The same with less work per call, where nothing records operators."""

    forward = staticmethod(with_signature(_convolve))
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_differentiate)


# --- the circle -----------------------------------------------------------------------------------


def _circle(L):
    """Samples of a circle that L samples fit on: the next number whose prime factors are small."""
    return next_fast_len(int(L))


def _turn(u):
    """The powers of zeta on the circle for signals u (b, L, H): n, a quarter turn in all."""
    n = _circle(u.shape[1])
    angles = torch.linspace(0, math.pi / 2, n + 1, dtype=widest_float(u.device), device=u.device)[
        :-1
    ]
    return torch.polar(torch.ones_like(angles), angles).to(u.dtype.to_complex())


def _kernel_on_circle(K, D, turn):
    """Past and future, with D where they meet, wound on the circle: (H, n)."""
    L, n = K.shape[-1], len(turn)
    kernel = K.new_zeros(K.shape[1], n, 2)
    past, future = kernel.unbind(-1)
    past[:, :L] = K[0]
    past[:, 0] += D
    if len(K) == 2:
        future[:, n - L + 1 :] = -K[1, :, 1:].flip(-1)
    return torch.view_as_complex(kernel) * turn


def _on_gpu(x):
    return x.is_cuda and has_triton()


def _wind(u, turn):
    """Signals (b, L, H) on the circle: (b, H, n)."""
    if _on_gpu(u):
        from ssm_core.s4 import triton_convolution  # only where it is needed: an import of a second

        return triton_convolution.wind(u, turn)
    wound = u.mT * turn[: u.shape[1]]
    return torch.nn.functional.pad(wound, (0, len(turn) - u.shape[1])).contiguous()


def _unwind(z, turn, L):
    """What is real of the first L samples (b, H, n) off the circle: (b, L, H)."""
    if _on_gpu(z):
        from ssm_core.s4 import triton_convolution

        return triton_convolution.unwind(z, turn, L)
    z, turn = z[..., :L], turn[:L]
    return (z.real * turn.real + z.imag * turn.imag).mT.contiguous()


def _product_backward(w, spectrum, response):
    """w times response* (b, H, n), which may take the place of w, and the batch's sum of w times
    spectrum* (H, n)."""
    if _on_gpu(w):
        from ssm_core.s4 import triton_convolution

        return triton_convolution.product_backward(w, spectrum, response)
    dresponse = (w * spectrum.conj_physical()).sum(0)
    return w.mul_(response.conj_physical()), dresponse
