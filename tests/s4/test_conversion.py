"""Layers as systems of matrices, and systems as layers."""

import numpy as np
import pytest
import torch

from ssm_core.lti import ContinuousSSM, DiscreteSSM
from ssm_core.s4 import S4, S4D

LAYERS = {
    "S4 legs": lambda **more: S4(3, 8, **more),
    "S4 legt": lambda **more: S4(3, 8, "legt", **more),
    "S4D lin": lambda **more: S4D(3, 8, **more),
    "S4D bilinear": lambda **more: S4D(3, 8, "inv", discretization="bilinear", **more),
    "S4D real": lambda **more: S4D(3, 7, "real", **more),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
DAMPED = ContinuousSSM([[0.0, 1.0], [-4.0, -0.4]], [0.0, 1.0], [1.0, 0.5], 0.25)
THREE = ContinuousSSM(
    [[-0.5, 0.0, 0.0], [1.0, -0.3, 2.0], [0.0, -2.0, -0.3]], [1.0, 0.0, 1.0], [1.0, 1.0, -1.0]
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@every_layer
def test_a_channel_is_a_system(make):
    layer, u = make().double(), torch.randn(1, 60, 3, dtype=torch.float64)
    y = layer(u)[0].detach().numpy()
    for h in range(3):
        system = layer.to_discrete(h)
        assert system.N == layer.d_state and system.A.dtype == np.float64
        assert system.dt == pytest.approx(layer.log_dt[h].exp().item())
        np.testing.assert_allclose(
            system.recurrence(u[0, :, h].numpy())[0], y[:, h], rtol=0, atol=1e-9
        )
        rule = "bilinear" if isinstance(layer, S4) else layer.discretization
        again = layer.to_continuous(h).discretize(system.dt, rule)
        for name in "ABCD":
            np.testing.assert_allclose(
                getattr(again, name), getattr(system, name), rtol=0, atol=1e-10
            )


def test_poles_are_the_modes():
    layer = S4D(2, 8)
    want = layer._modes()[1].detach().numpy()
    poles = layer.to_continuous(1).poles
    want = np.concatenate([want, want.conj()])
    for pole in poles:
        assert np.abs(want - pole).min() < 1e-9 * np.abs(pole)


@pytest.mark.parametrize("system", [DAMPED, THREE], ids=["pair", "real and pair"])
@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_a_continuous_system_is_a_layer(system, rule):
    layer = S4D.from_ssm(system, dt=0.3, discretization=rule, dtype=torch.float64)
    u = np.random.default_rng(0).standard_normal(80)
    want = system.discretize(0.3, rule).recurrence(u)[0]
    y = layer(torch.tensor(u)[None, :, None])[0, :, 0].detach()
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("made_by", ["zoh", "bilinear", "backward_euler"])
@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_a_discrete_system_is_a_layer_by_either_rule(made_by, rule):
    system = THREE.discretize(0.3, made_by)
    layer = S4D.from_ssm(system, discretization=rule, dtype=torch.float64)
    K = layer.kernel(50).detach().numpy()[0]
    K[0] += layer.D.item()
    np.testing.assert_allclose(K, system.kernel(50)[:, 0, 0], rtol=0, atol=1e-11)


def test_a_negative_pole_alternates():
    system = DiscreteSSM([[-0.5, 0.0], [0.0, 0.9]], [1.0, 2.0], [1.0, 1.0], dt=0.1)
    for rule in ("zoh", "bilinear"):
        layer = S4D.from_ssm(system, discretization=rule, dtype=torch.float64)
        K = layer.kernel(9)[0].detach()
        np.testing.assert_allclose(K, system.kernel(9)[:, 0, 0], rtol=0, atol=1e-12)


@every_layer
def test_there_and_back(make):
    layer, u = make().double(), torch.randn(2, 40, 3, dtype=torch.float64)
    again = S4D.from_ssm([layer.to_discrete(h) for h in range(3)], dtype=torch.float64)
    torch.testing.assert_close(again(u), layer(u), rtol=0, atol=1e-8)


def test_channels_of_different_size():
    layer = S4D.from_ssm([DAMPED, THREE], dt=0.1, dtype=torch.float64)
    u = torch.randn(1, 30, 2, dtype=torch.float64)
    for h, system in enumerate((DAMPED, THREE)):
        want = system.discretize(0.1).recurrence(u[0, :, h].numpy())[0]
        np.testing.assert_allclose(layer(u)[0, :, h].detach(), want, rtol=0, atol=1e-11)
    layer(u).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: S4D(3, 8).to_discrete(3), ValueError, "channel is 3, expected one from 0 to 2"),
        (lambda: S4D(3, 8).to_discrete(-1), ValueError, "channel is -1"),
        (lambda: S4(3, 8, bidirectional=True).to_continuous(0), ValueError, "sees the future"),
        (lambda: S4D.from_ssm([]), ValueError, "systems is empty"),
        (lambda: S4D.from_ssm([np.eye(2)]), TypeError, "system 0 is a ndarray"),
        (lambda: S4D.from_ssm(DAMPED), TypeError, "dt is None"),
        (lambda: S4D.from_ssm(DAMPED, dt=-1), ValueError, "dt is -1"),
        (lambda: S4D.from_ssm(DAMPED, 0.1, discretization="foh"), ValueError, "discretization"),
        (
            lambda: S4D.from_ssm(DAMPED.discretize(0.1), 0.1),
            ValueError,
            "a DiscreteSSM has its own",
        ),
        (
            lambda: S4D.from_ssm(ContinuousSSM(-1.0, [[1.0, 1.0]], 1.0), 0.1),
            ValueError,
            "system 0 has M = 2 and P = 1",
        ),
        (lambda: S4D.from_ssm(ContinuousSSM(-1j, 1.0, 1.0), 0.1), ValueError, "complex matrices"),
        (lambda: S4D.from_ssm(ContinuousSSM(0.0, 1.0, 1.0), 0.1), ValueError, "not stable"),
        (lambda: S4D.from_ssm(DiscreteSSM(1.0, 1.0, 1.0, dt=1)), ValueError, "not stable"),
        (lambda: S4D.from_ssm(DiscreteSSM(0.0, 1.0, 1.0, dt=1)), ValueError, "pure delay"),
        (
            lambda: S4D.from_ssm(
                ContinuousSSM([[-1.0, 1.0], [0.0, -1.0]], [0.0, 1.0], [1.0, 0.0]), 0.1
            ),
            ValueError,
            "system 0 has no basis of eigenvectors",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
