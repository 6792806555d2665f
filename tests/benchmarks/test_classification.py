"""The benchmark of small data sets: what it says of its stored run, and that its networks train."""

import statistics

import pytest

from ssm_book.data import measurements

torch = pytest.importorskip("torch")

from benchmarks import classification


def test_what_is_said_of_the_stored_run():
    rows = {row["data"]: row["contenders"] for row in measurements("classification-cpu")["rows"]}
    assert set(rows) == set(classification.DATA)
    for name, row in rows.items():
        score = {kind: statistics.median(found["accuracy"]) for kind, found in row.items()}
        assert score["minirocket"] == max(score.values())
        assert score["lstm"] == min(score.values())
        if name in ("OSULeaf", "ACSF1"):
            assert score["minirocket"] > max(score["s4d"], score["mamba"]) + 0.1
            for kind in ("s4d", "mamba"):
                assert row[kind]["cpu_seconds"] > 70 * row["minirocket"]["cpu_seconds"]
                assert 12.5 < row[kind]["cpu_seconds"] < 154.5
    sizes = {kind: row[kind]["parameters"] for kind in ("s4d", "lstm")}
    assert abs(sizes["lstm"] / sizes["s4d"] - 1) < 0.05


@pytest.mark.parametrize("kind", classification.NETWORKS)
def test_networks_learn(kind, monkeypatch):
    """Which of two channels carries a pulse, in sequences of several lengths."""
    monkeypatch.setattr(classification, "UPDATES", 30)
    torch.manual_seed(0)
    lengths, labels = torch.randint(5, 13, (60,)), torch.randint(2, (60,))
    signals = 0.1 * torch.randn(60, 12, 2)
    signals[torch.arange(60), lengths // 2, labels] += 3
    split = signals, lengths, labels
    found = classification.learn(kind, split, split, 2, seed=0)
    assert found["accuracy"] > 0.9 and found["parameters"] > 1000
