"""The benchmark of steps: it runs through where it is small, and both ways compute the same."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("numba")

from benchmarks import steps
from ssm_core.mamba import _stepping as mamba_stepping
from ssm_core.s4 import _stepping as s4_stepping


def test_it_runs_through():
    results = steps.run(new=3, samples=4, chunks=(16, 64), repeats=2)
    assert all(error < 1e-4 for error in results["checks"].values())
    for name in ("mamba", "s4d"):
        assert [row["batch"] for row in results[name]] == [1, 8, 32]
        for row in results[name]:
            assert {*row["per_second"]} == {"compiled", "pytorch"}
            assert row["times_faster"]["min"] > 0
    assert [row["chunk"] for row in results["s4d_chunks"]] == [16, 64]


def test_one_way_is_pytorch():
    model, network = steps._mamba(), steps._network()
    assert model.stepper()._packed is not None and network.stepper()._network is not None
    with steps.in_pytorch():
        assert mamba_stepping.kernels() is None and s4_stepping.kernels() is None
        assert model.stepper()._packed is None and network.stepper()._network is None
