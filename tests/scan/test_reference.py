"""The definition of the selective scan against an independent truth, and its derivatives."""

import math

import pytest

torch = pytest.importorskip("torch")

from ssm_core.scan import reference, selective_scan_ref
from tests.scan.cases import FEATURES, SELECTION, arguments, assert_solved, is_float


@pytest.mark.parametrize("L, n, d", SELECTION)
def test_solves_the_banded_system(L, n, d):
    x = arguments(1, d, L, n, dtype=torch.float64)
    assert_solved(selective_scan_ref, x)


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature(feature):
    b = 1 if FEATURES[feature].get("packed") else 3
    x = arguments(b, 6, 50, 4, **FEATURES[feature], dtype=torch.float64)
    assert_solved(selective_scan_ref, x)


def test_a_state_by_hand():
    """Δ = 1, 2, 3 and u = 1: a state that keeps all, and one that halves in three units of time."""
    A = torch.tensor([[0.0, -math.log(2) / 3]], dtype=torch.float64)
    u = torch.ones(1, 1, 3, dtype=torch.float64)
    delta = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    weights = torch.ones(1, 2, dtype=torch.float64)
    _, last = selective_scan_ref(u, delta, A, weights, weights, return_last_state=True)
    slow = (1 * 2 ** (-2 / 3) + 2) * 2**-1 + 3
    torch.testing.assert_close(
        last[0, 0], torch.tensor([6.0, slow], dtype=torch.float64), rtol=1e-15, atol=0
    )


def test_softplus_of_large_numbers_is_exact():
    x = torch.tensor([-40.0, -1.0, 0.0, 20.5, 30.0, 39.9, 40.1, 700.0], dtype=torch.float64)
    want = torch.logaddexp(x, torch.zeros_like(x))
    torch.testing.assert_close(reference.softplus(x), want, rtol=1e-15, atol=0)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("feature", ["all arguments", "constant B", "packed groups"])
def test_derivatives_by_finite_differences(feature, check):
    x = arguments(1, 2, 5, 2, **FEATURES[feature], dtype=torch.float64)
    x["A"] = x["A"].clamp(-2, -0.05)
    names = [name for name, value in x.items() if is_float(value)]

    def scan(*tensors):
        return selective_scan_ref(**x | dict(zip(names, tensors)), return_last_state=True)

    assert check(scan, [x[name].requires_grad_() for name in names])


def test_gradient_is_linear_in_length():
    """Nodes of the graph grow with L, and none of them spreads a step over the whole length."""

    def nodes(L):
        x = arguments(1, 2, L, 2)
        seen, waiting = set(), [selective_scan_ref(**x | {"u": x["u"].requires_grad_()}).grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [parent for parent, _ in node.next_functions]
        assert not [node for node in seen if "Select" in node.name() or "Slice" in node.name()]
        return len(seen)

    assert nodes(40) - nodes(20) == nodes(60) - nodes(40)
