"""The operator between the sums of S4 and its kernel, against a power series, and its gradient."""

import pytest
import torch

from ssm_core.s4.generating import kernel_from_sums


def arguments(H=2, outputs=1, rank=1, n=3, seed=0):
    """Weights of systems Λ - P P* with Re Λ < 0, which are stable."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.complex128, generator=generator)

    poles = torch.complex(-random(H, n).abs() - 0.1, random(H, n).abs())
    P, B, C = 0.3 * random(H, rank, n), random(H, 1, n), random(H, outputs, n)
    rows, columns = torch.cat([P.conj(), C], 1), torch.cat([P, B], 1)
    return poles, P, B, C, (rows[:, :, None] * columns[:, None]).flatten(1, 2)


def weights(poles, w):
    return 2 * w.real, -2 * (w * poles.conj()[:, None]).real


def stepped(poles, P, B, C, L):
    """Samples of C Ā^j B̄ with dense matrices of all modes and their conjugates."""
    both = [torch.cat([x, x.conj()], -1) for x in (poles, P, B, C)]
    Lambda, P, B, C = both
    A = torch.diag_embed(Lambda) - P.mT @ P.conj()
    unit = torch.eye(A.shape[-1], dtype=A.dtype)
    left = torch.linalg.inv(unit - A / 2)
    step, x = left @ (unit + A / 2), left @ B.mT
    K = []
    for _ in range(L):
        K.append((C @ x)[..., 0].real)
        x = step @ x
    return torch.stack(K, -1).transpose(0, 1)  # (outputs, H, L)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("L", [1, 2, 9])
def test_kernel_is_that_of_the_matrices(L, rank, outputs):
    poles, P, B, C, w = arguments(rank=rank, outputs=outputs)
    K = kernel_from_sums(*weights(poles, w), poles, L, rank)
    torch.testing.assert_close(K, stepped(poles, P, B, C, L), rtol=0, atol=1e-9)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("L", [1, 4])
def test_gradient(L, rank, outputs):
    poles, *_, w = arguments(outputs=outputs, rank=rank)
    given = [x.clone().requires_grad_() for x in (*weights(poles, w), poles)]
    assert torch.autograd.gradcheck(lambda *x: kernel_from_sums(*x, L, rank), given)


@pytest.mark.parametrize("outputs, rank", [(1, 1), (2, 2)])
def test_operator_is_sound(outputs, rank):
    poles, *_, w = arguments(outputs=outputs, rank=rank)
    given = [x.clone().requires_grad_() for x in (*weights(poles, w), torch.view_as_real(poles))]
    torch.library.opcheck(torch.ops.ssm_core.dplr_kernel.default, (*given, 5, rank))


def test_second_derivatives_are_refused():
    poles, *_, w = arguments()
    a, b = (x.clone().requires_grad_() for x in weights(poles, w))
    (da,) = torch.autograd.grad(kernel_from_sums(a, b, poles, 5, 1).sum(), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        da.sum().backward()
