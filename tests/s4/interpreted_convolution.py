"""The Triton kernels around the FFTs on a CPU; ``test_triton_convolution`` runs this file."""

import pytest
import torch

from ssm_core.s4 import convolution
from ssm_core.s4 import triton_convolution as kernels

SHAPES = [(1, 1, 1), (2, 31, 3), (1, 33, 65), (3, 64, 2), (2, 97, 70)]  # on both sides of a tile


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("B, L, H", SHAPES)
def test_wind_and_unwind(B, L, H, dtype):
    u = randn(B, L, H, dtype=dtype)
    turn = convolution._turn(u)
    z = kernels.wind(u, turn)
    assert torch.equal(torch.view_as_real(z), torch.view_as_real(convolution._wind(u, turn)))
    torch.testing.assert_close(kernels.unwind(z, turn, L), u)
    z = randn(*z.shape, dtype=z.dtype)
    torch.testing.assert_close(kernels.unwind(z, turn, L), convolution._unwind(z, turn, L))


def test_wind_takes_any_strides():
    u = randn(2, 40, 5)
    one = u[:1].expand(3, -1, -1), u[:, :1].expand_as(u)
    for strided in (u.mT.contiguous().mT, u[:, ::2], *one):
        turn = convolution._turn(strided)
        assert torch.equal(kernels.wind(strided, turn), kernels.wind(strided.contiguous(), turn))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("programs", [1, 4, 1000])  # one span of the batch, and several
@pytest.mark.parametrize("B, H, n", [(1, 1, 1), (5, 3, 7), (4, 2, 300), (7, 1, 256)])
def test_product_backward(B, H, n, programs, dtype, monkeypatch):
    monkeypatch.setattr(kernels, "_PROGRAMS", programs)
    w, spectrum = randn(2, B, H, n, dtype=dtype)
    response = randn(H, n, dtype=dtype)
    want = convolution._product_backward(w.clone(), spectrum, response)
    for got, expected in zip(kernels.product_backward(w, spectrum, response), want):
        torch.testing.assert_close(got, expected)


def test_no_signals():
    u = torch.zeros(0, 5, 3)
    turn = convolution._turn(u)
    z = kernels.wind(u, turn)
    assert z.shape == (0, 3, 5) and kernels.unwind(z, turn, 5).shape == (0, 5, 3)
