"""The study of one bit: the task, the networks, and what is stored of a run."""

import json

import pytest

torch = pytest.importorskip("torch")

from experiments import bit


def test_the_task_begins_with_the_bit():
    u, bits = bit.recall(200, 5, torch.Generator().manual_seed(0))
    assert u.shape == (200, 6, 1)
    assert torch.equal(u[:, 0, 0], 2 * bits - 1)
    assert 0 < bits.sum() < 200
    assert 0.2 < u[:, 1:].std() < 0.4


def test_a_linear_network_is_the_tanh_network_for_small_signals():
    torch.manual_seed(0)
    tanh, linear = bit.tanh(), bit.linear()
    linear.load_state_dict(tanh.state_dict())
    for cell in (tanh, linear):
        torch.nn.init.zeros_(cell.bias_ih_l0)
        torch.nn.init.zeros_(cell.bias_hh_l0)
    u = torch.randn(3, 7, 1)
    small = 1e-3 * u
    torch.testing.assert_close(linear(small)[0], tanh(small)[0], rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(linear(2 * u)[0], 2 * linear(u)[0])  # and linear for all
    assert not torch.allclose(tanh(2 * u)[0], 2 * tanh(u)[0], rtol=1e-3)


@pytest.mark.parametrize("name", bit.CELLS)
def test_a_longer_budget_goes_on_from_a_shorter_one(name):
    short = bit.study(name, lag=3, seed=1, budgets=(2,))
    long = bit.study(name, lag=3, seed=1, budgets=(2, 4))
    assert long["accuracy"][:1] == short["accuracy"] and len(long["accuracy"]) == 2
    assert long["slope"] == short["slope"] > 0


def test_what_is_written(monkeypatch, tmp_path):
    for name, value in {
        "LAGS": (2,),
        "SEEDS": (0, 1),
        "CELLS": {"tanh": bit.tanh},
        "RESULTS": tmp_path,
    }.items():
        monkeypatch.setattr(bit, name, value)
    monkeypatch.setattr(bit.study, "__defaults__", ((1, 2),))
    bit.main()
    written = json.loads((tmp_path / "bit-cpu.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in written["runs"]] == [0, 1]
    assert all(len(run["accuracy"]) == 2 for run in written["runs"])
    assert written["machine"]["processor"] and written["software"]["torch"]
