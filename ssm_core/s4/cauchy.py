r"""Cauchy sums over pairs of conjugate poles, which the kernel of S4 is made of.

With real weights a, b for each row k and mode n, and one pole p_n of each pair (eq-cauchy):

.. math::

    F_k(s) = \sum_n \frac{a_{kn} s + b_{kn}}{(s - p_n)(s - \bar p_n)}

All rows share the division. Points s come block by block, so that nothing of size modes × points is
kept; the backward pass computes the quotients again. In compiled programs both are operators of
``torch.library``, otherwise an autograd function; on a GPU they are the kernels of
``ssm_core.s4.triton``. ``torch.func`` and forward-mode differentiation get the definition.
"""

from __future__ import annotations

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
from ssm_core._gpu import has_triton

__all__ = ["cauchy_sums", "cauchy_sums_backward"]

_BLOCK = 2**16  # quotients that exist at once: they stay in the caches


def cauchy_sums(a: Tensor, b: Tensor, poles: Tensor, s: Tensor) -> Tensor:
    """The sums at every point, differentiable once in a, b and poles.

    Args:
        a, b (float64):     weights (H, K, n)
        poles (complex128): one of each conjugate pair (H, n)
        s (complex128):     points (F,), none on a pole

    Returns:
        complex128 (H, K, F)

    Book: eq-cauchy. Source: Gu, Goel and Ré, "Efficiently Modeling Long Sequences with Structured
    State Spaces" (2022), appendix C.3.

    Example:
        >>> import torch
        >>> from ssm_core.s4.cauchy import cauchy_sums
        >>> one = torch.ones(1, 1, 1, dtype=torch.float64)
        >>> poles = torch.tensor([[1j]], dtype=torch.complex128)
        >>> cauchy_sums(one, 0 * one, poles, torch.tensor([2.0 + 0j], dtype=torch.complex128))
        tensor([[[0.4000+0.j]]], dtype=torch.complex128)
    """
    given = a, b, poles, s
    if is_transformed() or needs_definition(*given):
        return _definition(*given)
    if needs_operator(*given):
        return torch.ops.ssm_core.cauchy_sums(*given)
    return _CauchySums.apply(*given) if has_gradient(*given) else _sums(*given)


def _definition(a: Tensor, b: Tensor, poles: Tensor, s: Tensor) -> Tensor:
    """The same in plain PyTorch, with all quotients at once."""
    p = poles[..., None]
    quotients = 1 / ((s - p) * (s - p.conj()))  # (H, n, F)
    times_s, constant = (torch.cat([a, b], dim=1).to(s.dtype) @ quotients).chunk(2, dim=1)
    return times_s * s + constant


def _sums(a: Tensor, b: Tensor, poles: Tensor, s: Tensor) -> Tensor:
    if a.is_cuda and has_triton():
        from ssm_core.s4 import triton  # only where it is needed: an import of a second

        return triton.sums(a, b, poles, s)
    out = s.new_empty(*a.shape[:2], len(s))
    both = torch.cat([a, b], dim=1)  # (H, 2K, n)
    for block in _blocks(poles, s):
        quotients = torch.view_as_real(_quotients(poles, s[block]))  # (H, n, points, 2)
        sums = (both @ quotients.flatten(-2)).unflatten(-1, (-1, 2))
        times_s, constant = torch.view_as_complex(sums).chunk(2, dim=1)
        out[..., block] = times_s * s[block] + constant
    return out


_operator = torch.library.custom_op("ssm_core::cauchy_sums", _sums, mutates_args=())


@_operator.register_fake
def _(a, b, poles, s):
    return s.new_empty(*a.shape[:2], s.shape[0])


def cauchy_sums_backward(
    dout: Tensor, a: Tensor, b: Tensor, poles: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a, b and poles for the gradient dout (H, K, F) of the sums."""
    if a.is_cuda and has_triton():
        from ssm_core.s4 import triton

        return triton.sums_backward(dout, a, b, poles, s)
    dout = dout.resolve_conj()
    # With q = 1 / ((s - p)(s - p*)): dq/d(Re p) = 2 (s - Re p) q², dq/d(Im p) = -2 (Im p) q². So
    # sums over points of dout* times s^m q and s^m q² are all there is to know.
    H, K, n = a.shape
    with_q = a.new_zeros(H, 2 * K, n)
    with_q2 = a.new_zeros(H, 3 * K, n)
    for block in _blocks(poles, s):
        q, points = _quotients(poles, s[block]), s[block].conj_physical()
        g0 = dout[..., block]
        g = torch.cat([g0, g0 * points, g0 * points**2], dim=1)  # (H, 3K, points)
        with_q += _inner(g[:, : 2 * K], q)
        with_q2 += _inner(g, q * q)
    db, da = with_q.chunk(2, dim=1)
    w0, w1, w2 = with_q2.chunk(3, dim=1)
    plain, times_s = (a * w1 + b * w0).sum(1), (a * w2 + b * w1).sum(1)  # (H, n)
    dpoles = torch.complex(2 * (times_s - poles.real * plain), -2 * poles.imag * plain)
    return da.clone(), db.clone(), dpoles


_backward = torch.library.custom_op(
    "ssm_core::cauchy_sums_backward", cauchy_sums_backward, mutates_args=()
)


@_backward.register_fake
def _(dout, a, b, poles, s):
    return a.new_empty(a.shape), b.new_empty(b.shape), poles.new_empty(poles.shape)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, dout):
    given = (dout, *ctx.saved_tensors)
    if needs_operator(dout):
        return *torch.ops.ssm_core.cauchy_sums_backward(*given), None
    return *without_derivative(cauchy_sums_backward, _ONCE, *given), None


def _refuse(ctx, *gradients):
    raise NotImplementedError(_ONCE)


_ONCE = (
    "Cauchy sums have first derivatives only; for higher ones use torch.func (grad, jacrev, "
    "hessian), which differentiates their definition"
)
_operator.register_autograd(_differentiate, setup_context=_setup_context)
_backward.register_autograd(_refuse)


class _CauchySums(Function):
    """The same with less work per call, where nothing records operators."""

    forward = staticmethod(with_signature(_sums))
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_differentiate)


def _blocks(poles, s):
    size = max(1, _BLOCK // poles.numel())
    return [slice(i, i + size) for i in range(0, len(s), size)]


def _quotients(poles, s):
    """1 / ((s - p)(s - p*)), (H, n, points), in real arithmetic: a complex division is slow.

    Products of differences, not s² - 2 Re(p) s + |p|²: near a pole that would lose digits.
    """
    across, along = s.real - poles.real[..., None], s.imag
    real = across.square() - (along - poles.imag[..., None]) * (along + poles.imag[..., None])
    imag = 2 * across * along
    size = real.square().addcmul_(imag, imag).reciprocal_()
    return torch.complex(real.mul_(size), imag.mul_(size).neg_())


def _inner(g, q):
    """Re of the sum over points of g* q: (H, rows, n) from (H, rows, points) and (H, n, points)."""
    return torch.view_as_real(g).flatten(-2) @ torch.view_as_real(q).flatten(-2).mT
