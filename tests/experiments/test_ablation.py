"""Blocks without a part: each lacks what it says, and nothing else."""

import json

import pytest

torch = pytest.importorskip("torch")

from experiments import __main__ as command
from experiments import ablation
from ssm_core.mamba import Mamba

SIZES = {"d_model": 16, "d_state": 4}


def block(seed=0):
    torch.manual_seed(seed)
    made = Mamba(**SIZES)
    with torch.no_grad():
        for parameter in made.parameters():  # far from the start, where parts nearly vanish
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made


def changed(part):
    made = ablation.Ablated(block(), part)
    torch.manual_seed(1)
    with torch.no_grad():
        return made(torch.randn(2, 12, 16))


def test_nothing_taken_out_is_the_block():
    whole = block()
    torch.manual_seed(1)
    want = whole(torch.randn(2, 12, 16))
    torch.testing.assert_close(changed("whole"), want.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", sorted(set(ablation.PARTS) - {"whole", "bottleneck"}))
def test_a_part_that_is_gone_is_missed(part):
    assert not torch.allclose(changed(part), changed("whole"), atol=1e-3)


def test_without_the_bottleneck_it_begins_as_the_block():
    torch.testing.assert_close(changed("bottleneck"), changed("whole"), rtol=1e-4, atol=1e-5)


def test_every_parameter_that_is_left_is_used():
    for part in ablation.PARTS:
        made = ablation.Ablated(block(), part)
        made(torch.randn(2, 12, 16)).square().sum().backward()
        unused = {name for name, p in made.named_parameters() if p.grad is None}
        assert not unused, (part, unused)


def test_with_nothing_selective_the_scan_is_a_convolution():
    made = ablation.Ablated(block(), "delta, B, C")
    seen = []
    scan = ablation.selective_scan_fn
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(
            ablation, "selective_scan_fn", lambda *a, **k: seen.append(a) or scan(*a, **k)
        )
        made(torch.randn(2, 12, 16))
    _, delta, _, B, C, *_ = seen[0]
    for signal in (delta, B, C):  # the same at every sample
        torch.testing.assert_close(signal, signal[..., :1].expand_as(signal))


def test_distance_tells_neighbours_from_letters_far_apart(monkeypatch):
    def right_for_neighbours(model, inputs):
        _, targets = ablation.letters(4000, 99)
        place = ((inputs > 0) & (inputs < ablation.VOCABULARY - 1)).float().topk(2, dim=1).indices
        near = (place[:, 0] - place[:, 1]).abs() == 1
        return torch.where(near[:, None], targets, 0)

    monkeypatch.setattr(ablation, "answers", right_for_neighbours)
    assert ablation.by_distance(None) == {"neighbours": 1.0, "far apart": 0.0}


def test_hold_in_a_loop_is_the_scan_with_another_input():
    torch.manual_seed(2)
    u, dt = torch.randn(2, 3, 9), torch.rand(2, 3, 9)
    A, B, C = -torch.ones(3, 1), torch.randn(2, 1, 9), torch.randn(2, 1, 9)
    held = u * -torch.expm1(-dt) / dt
    want = ablation.selective_scan_fn(held, dt, A, B, C)
    torch.testing.assert_close(ablation._held(u, dt, A, B, C), want, rtol=1e-4, atol=1e-5)


def test_command_trains_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "fit", lambda model, *rest: [0.0])
    half = {"neighbours": 0.5, "far apart": 0.5}
    monkeypatch.setattr(ablation, "by_distance", lambda model: half)
    result = ablation.ablate((0,), parts=("whole", "hold"), text=False, say=lambda *_, **__: None)
    assert len(result["runs"]) == 2 + 2 + 1 + 9 and len(result["frozen"]) == 1
    assert [row["model"] for row in result["distance"]] == list(ablation.SHORT)
    scores = result["frozen"][0]["scores"]
    assert set(scores) == {"delta", "delta, choosy third", "delta, other channels", "B", "C"}

    seen = []
    monkeypatch.setattr(ablation, "ablate", lambda seeds: seen.append(tuple(seeds)) or result)
    monkeypatch.setattr(ablation, "RESULTS", tmp_path)
    threads = torch.get_num_threads()
    command.main(["ablate", "--seeds", "0", "1"])
    torch.set_num_threads(threads)
    assert seen == [(0, 1)]
    stored = json.loads((tmp_path / "ablation-cpu.json").read_text(encoding="utf-8"))
    assert stored["runs"] == result["runs"] and stored["setup"]["parts"] == ablation.PARTS
    assert "ablation-cpu.json" in capsys.readouterr().out
