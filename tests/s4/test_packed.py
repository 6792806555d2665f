"""Sequences packed into one row, for layers that convolve."""

import pytest
import torch

from ssm_core.s4 import S4, S4D
from ssm_core.s4.packed import groups

BOUNDS = [0, 7, 7, 30, 37, 60, 61]  # two of equal length, an empty one, one of a single sample
LAYERS = {"S4": lambda **more: S4(3, 8, **more), "S4D": lambda **more: S4D(3, 8, **more)}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def row():
    u = torch.randn(1, BOUNDS[-1], 3, dtype=torch.float64)
    return u, torch.tensor(BOUNDS, dtype=torch.int32)


@every_layer
@pytest.mark.parametrize("more", [{}, {"bidirectional": True}], ids=["causal", "bidirectional"])
def test_no_sequence_sees_another(make, more):
    layer, (u, cu_seqlens) = make(**more).double(), row()
    u.requires_grad_()
    y = layer(u, cu_seqlens=cu_seqlens)
    singles = [layer(u[:, i:j]) for i, j in zip(BOUNDS, BOUNDS[1:]) if j > i]
    want = torch.cat(singles, dim=1)
    torch.testing.assert_close(y, want, rtol=0, atol=1e-12)
    weights = torch.randn_like(y)
    got = torch.autograd.grad((y * weights).sum(), [u, *layer.parameters()])
    right = torch.autograd.grad((want * weights).sum(), [u, *layer.parameters()])
    for x, value in zip(got, right):
        torch.testing.assert_close(x, value, rtol=1e-9, atol=1e-9)


@every_layer
def test_each_sequence_has_its_state(make):
    layer, (u, cu_seqlens) = make().double(), row()
    before = torch.randn(6, *layer.default_state(1).shape[1:], dtype=torch.complex128)
    y, states = layer(u, before, cu_seqlens=cu_seqlens, return_state=True)
    plain = layer(u, before, cu_seqlens=cu_seqlens)
    torch.testing.assert_close(plain, y)
    for i, (start, end) in enumerate(zip(BOUNDS, BOUNDS[1:])):
        if start == end:
            assert torch.equal(states[i], before[i])
            continue
        want, state = layer(u[:, start:end], before[i : i + 1], return_state=True)
        torch.testing.assert_close(y[:, start:end], want)
        torch.testing.assert_close(states[i], state[0])


def test_groups_pad_to_at_most_twice():
    bounds = [0]
    for n in (1, 2, 3, 4, 5, 8, 9, 100, 0, 127, 65):
        bounds.append(bounds[-1] + n)
    found = list(groups(bounds, torch.device("cpu"), equal=False))
    assert sorted(int(i) for g in found for i in g.sequences) == [*range(8), 9, 10]
    for group in found:
        assert group.inside.sum() * 2 > group.inside.numel()
    assert len(found) <= 8
    for group in groups(bounds, torch.device("cpu"), equal=True):
        assert group.inside.all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda layer, u, c: layer(u.expand(2, -1, -1), cu_seqlens=c), "batch size 2"),
        (lambda layer, u, c: layer(u[:, 1:], cu_seqlens=c), "runs from 0 to 61"),
        (lambda layer, u, c: layer(u, layer.default_state(1), cu_seqlens=c), "state has shape"),
    ],
)
def test_bad_input(call, message):
    layer, (u, cu_seqlens) = S4D(3, 8).double(), row()
    with pytest.raises(ValueError, match=message):
        call(layer, u, cu_seqlens)
