"""How a scan is spread over a GPU. It is all numbers, so neither Triton nor a GPU is needed."""

import itertools
from unittest import mock

import pytest
import torch

from ssm_core.scan.triton import plan as plans
from ssm_core.scan.triton import saved_shape

STATES = (1, 2, 3, 8, 16, 17, 33, 64, 256)
CHANNELS = (1, 3, 8, 24, 100, 128, 1536)


def sizes(b, d, L, n, g=1, constant="", dtype=torch.bfloat16):
    """Arguments of a plan: u, A, B, C without data."""

    def empty(*shape):
        return torch.empty(*shape, dtype=dtype, device="meta")

    B, C = (empty(d, n) if name in constant else empty(b, g, n, L) for name in "BC")
    return empty(b, d, L), empty(d, n), B, C


@pytest.mark.parametrize("most, warps", [(4, 8), (8, 1), (16, 1)])
def test_each_state_has_one_thread(most, warps):
    for n, channels in itertools.product(STATES, CHANNELS):
        lanes = plans.lanes_of_threads(n, channels, most, warps)
        assert lanes.G // 2 * lanes.M < n <= lanes.G * lanes.M
        assert lanes.BD * lanes.G == 32 * lanes.warps and lanes.warps >= 1
        assert lanes.warps <= max(warps, lanes.G // 16)


@pytest.mark.parametrize("g, L", [(1, 512), (2, 512), (1, 333)])
def test_a_kernel_without_masks_has_no_gaps(g, L):
    """Also where the kernel that sums up spans has other blocks than the one that runs after it.

    A block that is in part empty would read past the end of a tensor.
    """
    for n, channels in itertools.product(STATES, CHANNELS):
        x = sizes(1, g * channels, L, n, g)
        for plan in (plans.plan_forward(*x, None), plans.plan_backward(*x, None)):
            for lanes in (plan.lanes, plan.span_lanes):
                full = plan.constants(lanes)["FULL"]
                assert full == (L % 8 == 0 and channels % lanes.BD == 0 and lanes.G * lanes.M == n)


@pytest.mark.parametrize("processors", [1, 20, 132])
@pytest.mark.parametrize(
    "b, d, L", [(1, 3, 1), (1, 64, 1000), (2, 1536, 2048), (1, 16, 2**17), (3, 5, 0)]
)
def test_programs_cover_everything_once(processors, b, d, L):
    with mock.patch.object(plans, "processors", return_value=processors):
        x = sizes(b, d, L, 16)
        for plan in (plans.plan_forward(*x, None), plans.plan_backward(*x, None)):
            assert (plan.spans - 1) * plan.span < max(L, 1) <= plan.spans * max(plan.span, 1)
            assert plan.span % plans.TUNING.chunk == 0
            assert plan.blocks * plan.lanes.BD >= plan.channels > (plan.blocks - 1) * plan.lanes.BD
            assert 1 <= plan.slots <= plan.blocks
            assert plan.programs == b * plan.spans * plan.slots
        assert saved_shape(x[0], x[1], None) == (b * -(-L // 64), d, 16)


def test_packed_sequences_are_one_span_each():
    x = sizes(1, 64, 1000, 16, g=2)
    bounds = torch.empty(6, dtype=torch.int32, device="meta")
    plan = plans.plan_backward(*x, bounds)
    assert (plan.rows, plan.spans, plan.groups, plan.channels) == (5, 1, 2, 32)
    assert not plan.constants(plan.lanes)["FULL"]
    assert saved_shape(x[0], x[1], bounds) == (1000 // 64 + 5, 64, 16)


@pytest.mark.parametrize(
    "B_CONST, C_CONST", [(False, False), (True, False), (False, True), (True, True)]
)
def test_workspace(B_CONST, C_CONST):
    """What a block needs, piece by piece: samples, states, and one number for each state."""
    for n, d in itertools.product(STATES, CHANNELS):
        plan = plans.plan_backward(*sizes(2, d, 100, n), None)
        lanes, work = plan.lanes, plan.workspace(B_CONST, C_CONST)
        states = lanes.BD * lanes.G * lanes.M
        assert work.samples == 3 * 64 * lanes.BD and work.states == 8 * states
        assert work.block == work.samples + (11 + B_CONST + C_CONST) * states
        assert work.program(3) == 3 * work.block + work.shares
        assert work.shares % 64 == 0 and (work.shares == 0) == (B_CONST and C_CONST)


def test_tuning_changes_the_plan():
    x = sizes(1, 1536, 2048, 16)
    plain = plans.plan_backward(*x, None)
    with mock.patch.object(
        plans, "TUNING", plans.Tuning(chunk=32, warps_backward=2, slots=0.5, states_forward=4)
    ):
        changed = plans.plan_backward(*x, None)
        assert saved_shape(x[0], x[1], None)[0] == 64
        assert changed.constants(changed.lanes)["CHUNK"] == 32
    assert plain.lanes.warps == 8 and changed.lanes.warps == 2
    assert plain.span_lanes.M == 8 and changed.span_lanes.M == 4
