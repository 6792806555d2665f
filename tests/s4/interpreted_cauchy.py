"""The Triton kernels of the Cauchy sums on a CPU; ``test_triton_cauchy`` runs this file.

Triton's interpreter has to be chosen before Triton is first imported, so this is a process of its
own.
"""

import pytest
import torch

from ssm_core.s4 import triton as kernels


def arguments(H, K, n, F, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    poles = torch.complex(-random(H, n).abs() - 0.1, 3 * random(H, n))
    return random(H, K, n), random(H, K, n), poles, torch.complex(random(F).abs(), 3 * random(F))


def definition(a, b, poles, s):
    """Everything of size (H, K, n, F), and PyTorch's complex arithmetic."""
    p = poles[:, None, :, None]
    return ((a[..., None] * s + b[..., None]) / ((s - p) * (s - p.conj()))).sum(2)


@pytest.mark.parametrize("H, K, n, F", [(1, 1, 1, 1), (2, 4, 5, 7), (1, 9, 33, 20), (1, 2, 3, 258)])
def test_sums_and_gradients(H, K, n, F):
    a, b, poles, s = arguments(H, K, n, F)
    inputs = [x.requires_grad_() for x in (a, b, poles)]
    want = definition(*inputs, s)
    dout = torch.complex(*torch.randn(2, H, K, F, dtype=torch.float64).unbind())
    want_gradients = torch.autograd.grad(want, inputs, dout)
    a, b, poles = (x.detach() for x in inputs)
    torch.testing.assert_close(kernels.sums(a, b, poles, s), want.detach(), rtol=1e-12, atol=1e-12)
    for x, y in zip(kernels.sums_backward(dout, a, b, poles, s), want_gradients):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-11 * y.abs().max().item())


@pytest.mark.parametrize("H, F", [(1, 1), (1, 300), (3, 5), (3, 300)])
def test_gradients_share_no_memory(H, F):
    """An operator may not return views of one buffer, which slices of one channel would be."""
    a, b, poles, s = arguments(H, 1, 1, F)
    gradients = kernels.sums_backward(torch.zeros(H, 1, F, dtype=s.dtype), a, b, poles, s)
    assert len({x.untyped_storage().data_ptr() for x in gradients}) == 3
    assert all(x.is_contiguous() for x in gradients)


def test_any_strides_and_lazy_conjugates():
    a, b, poles, s = arguments(2, 3, 6, 40)
    strided = [x.mT.contiguous().mT for x in (a, b, poles)]
    got, want = kernels.sums(*strided, s.conj()), kernels.sums(a, b, poles, s.conj().clone())
    assert torch.equal(got, want)
    dout = torch.complex(*torch.randn(2, 2, 3, 40, dtype=torch.float64).unbind())
    got = kernels.sums_backward(dout.conj(), *strided, s)
    want = kernels.sums_backward(dout.conj().resolve_conj(), a, b, poles, s)
    assert all(torch.equal(x, y) for x, y in zip(got, want))


def test_digits_near_a_pole():
    """A pole at 1000 i, a point 1e-9 beside it: 1/(s - p) keeps 13 digits, not 4."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    p = torch.tensor([[-1e-9 + 1000j]], dtype=torch.complex128)
    s = torch.tensor([1000j], dtype=torch.complex128)
    value = kernels.sums(2 * one, -2 * p.real[None] * one, p, s)
    want = 1 / 1e-9 + 1 / (1e-9 + 2000j)
    assert abs(value.item() - want) < 1e-13 * abs(want)


def test_no_points_and_no_channels():
    a, b, poles, s = arguments(2, 3, 6, 0)
    assert kernels.sums(a, b, poles, s).shape == (2, 3, 0)
    dout = torch.zeros(2, 3, 0, dtype=torch.complex128)
    da, _, dpoles = kernels.sums_backward(dout, a, b, poles, s)
    assert not da.any() and not dpoles.any()
