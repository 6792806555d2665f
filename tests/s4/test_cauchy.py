"""Cauchy sums against their definition, and what they cost in memory."""

import torch

from ssm_core.s4 import cauchy
from ssm_core.s4.cauchy import cauchy_sums


def arguments(H=2, K=3, n=4, points=7):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    poles = torch.complex(-random(H, n).abs(), random(H, n))
    return (
        random(H, K, n),
        random(H, K, n),
        poles,
        torch.complex(random(points).abs(), random(points)),
    )


def test_definition():
    a, b, poles, s = arguments()
    want = torch.zeros(2, 3, 7, dtype=torch.complex128)
    for h in range(2):
        for k in range(3):
            for n in range(4):
                p = poles[h, n]
                want[h, k] += (a[h, k, n] * s + b[h, k, n]) / ((s - p) * (s - p.conj()))
    torch.testing.assert_close(cauchy_sums(a, b, poles, s), want, rtol=1e-13, atol=1e-13)


def test_blocks_do_not_show(monkeypatch):
    given = arguments(points=50)
    whole = cauchy_sums(*given)
    monkeypatch.setattr(cauchy, "_BLOCK", 24)  # three points at a time
    torch.testing.assert_close(cauchy_sums(*given), whole, rtol=1e-14, atol=1e-14)


def test_digits_near_a_pole():
    """A pole at 1000 i, a point 1e-9 beside it: 1/(s - p) keeps 13 digits, not 4."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    p = torch.tensor([[-1e-9 + 1000j]], dtype=torch.complex128)
    s = torch.tensor([1000j], dtype=torch.complex128)
    value = cauchy_sums(2 * one, -2 * p.real[None] * one, p, s)  # 1/(s - p) + 1/(s - p*)
    want = 1 / 1e-9 + 1 / (1e-9 + 2000j)
    assert abs(value.item() - want) < 1e-13 * abs(want)


def test_gradient():
    a, b, poles, s = arguments()
    given = [x.requires_grad_() for x in (a, b, poles)]
    assert torch.autograd.gradcheck(lambda *x: cauchy_sums(*x, s), given)


def test_operator_is_sound():
    a, b, poles, s = arguments()
    torch.library.opcheck(
        torch.ops.ssm_core.cauchy_sums.default, (a.requires_grad_(), b, poles.requires_grad_(), s)
    )


def test_nothing_of_size_modes_times_points_is_kept():
    a, b, poles, s = arguments(H=2, K=4, n=32, points=4096)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    ):
        cauchy_sums(a.requires_grad_(), b, poles, s)
    assert sum(kept) < 3 * (2 * 4 * 32) + 4096 + 1
