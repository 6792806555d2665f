"""Recall with states of several sizes: equal budgets, causal blocks, and what is stored."""

import json

import pytest

torch = pytest.importorskip("torch")

from experiments import state


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
@pytest.mark.parametrize("n", state.STATES)
def test_networks_have_about_as_many_parameters(kind, n):
    with torch.device("meta"):
        network = state.Network(kind, state.width(kind, n), n)
    assert abs(state.size(network) / state.PARAMETERS - 1) < 0.05


def test_an_output_sees_no_later_token():
    torch.manual_seed(0)
    network = state.Network("mamba2", 16, 4)
    tokens = torch.randint(state.VOCABULARY, (2, 20))
    changed = tokens.clone()
    changed[:, 12] = (tokens[:, 12] + 1) % state.VOCABULARY
    with torch.no_grad():
        before, after = network(tokens), network(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_a_study_says_what_it_trained():
    run = state.study("mamba2", 4, seed=0, rate=0.01, updates=2, points=2)
    assert len(run["curve"]) == 3 and run["state"] == 2 * run["d_model"] * 4


def test_what_is_stored_is_complete():
    stored = json.loads((state.RESULTS / "state-cpu.json").read_text("utf-8"))
    runs = {(run["model"], run["n"], run["updates"], run["seed"]) for run in stored["runs"]}
    assert len(runs) == len(stored["runs"])
    for seed in range(3):
        for kind in ("mamba", "mamba2"):
            assert {(kind, n, state.UPDATES, seed) for n in state.STATES} <= runs
