"""The convolution of a layer against its definition, on a circle with a quarter turn."""

import pytest
import torch

from ssm_core.s4 import convolution
from ssm_core.s4.convolution import convolve


def arguments(B=2, L=7, H=3, outputs=1, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (B, L, H), (outputs, H, L), (H,)
    return [torch.randn(*shape, dtype=dtype, generator=generator) for shape in shapes]


def definition(u, K, D):
    """Sample by sample; autograd goes through it."""
    ys = []
    for t in range(u.shape[1]):
        y = D * u[:, t] + sum(K[0, :, j] * u[:, t - j] for j in range(t + 1))
        if len(K) == 2:
            y = y + sum(K[1, :, j] * u[:, t + j] for j in range(1, u.shape[1] - t))
        ys.append(y)
    return torch.stack(ys, dim=1)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("B, L, H", [(1, 1, 1), (2, 2, 3), (3, 13, 2), (1, 29, 5), (2, 64, 1)])
def test_definition(B, L, H, outputs):
    """Lengths that have a circle of their own, and 13 and 29, which get one of 14 and 30."""
    given = [x.requires_grad_() for x in arguments(B, L, H, outputs)]
    y, want = convolve(*given), definition(*given)
    torch.testing.assert_close(y, want, rtol=0, atol=1e-13 * L)
    dy = torch.randn(B, L, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for got, right in zip(torch.autograd.grad(y, given, dy), torch.autograd.grad(want, given, dy)):
        torch.testing.assert_close(got, right, rtol=0, atol=1e-13 * L * B)


def test_float32_is_right_to_a_few_roundings():
    given = arguments(L=5000, dtype=torch.float32)
    want = convolve(*(x.double() for x in given))
    assert (convolve(*given) - want).abs().max() < 1e-6 * want.abs().max()


@pytest.mark.parametrize("outputs", [1, 2])
def test_gradient(outputs):
    given = [x.requires_grad_() for x in arguments(outputs=outputs)]
    assert torch.autograd.gradcheck(convolve, given)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("save", [True, False])
def test_operator_is_sound(outputs, save):
    given = [x.requires_grad_(save) for x in arguments(L=11, outputs=outputs)]
    torch.library.opcheck(torch.ops.ssm_core.convolve.default, (*given, save))


def test_second_derivatives_are_refused():
    u, K, D = (x.requires_grad_() for x in arguments())
    (du,) = torch.autograd.grad(convolve(u, K, D).square().sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        du.sum().backward()


def test_any_strides():
    u, K, D = arguments(L=10)
    want = convolve(u, K, D)
    strided = u.mT.contiguous().mT, K.mT.contiguous().mT, D.repeat_interleave(2)[::2]
    torch.testing.assert_close(convolve(*strided), want, rtol=0, atol=1e-13)
    u.requires_grad_()
    same = convolve(u, K, D).sum()  # a gradient of stride 0
    (du,) = torch.autograd.grad(same, u)
    by_hand = torch.stack([D + K[0, :, : 10 - t].sum(-1) for t in range(10)])
    torch.testing.assert_close(du[0], by_hand, rtol=0, atol=1e-13)


def test_memory_for_the_backward_pass_is_the_spectra():
    u, K, D = (x.requires_grad_() for x in arguments(B=4, L=32, H=8))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        convolve(u, K, D)
    assert sorted(x.shape for x in kept) == [(4, 8, 32), (8, 32)]
    with torch.no_grad():
        _, *nothing = torch.ops.ssm_core.convolve(u, K, D, False)
    assert all(x.numel() == 0 for x in nothing)


@pytest.mark.parametrize("L", [784, 785, 4999, 2**14 + 1])
def test_circles_have_small_prime_factors_and_are_hardly_longer(L):
    n = rest = convolution._circle(L)
    for prime in (2, 3, 5, 7, 11):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1 and L <= n < 1.02 * L


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles(backend, train):
    given = [x.requires_grad_(train) for x in arguments(outputs=2)]
    want, got = convolve(*given), torch.compile(convolve, backend=backend, fullgraph=True)(*given)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)
    if train:
        for x, y in zip(*(torch.autograd.grad(y.square().sum(), given) for y in (got, want))):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-13)
