"""Groups of parameters: who learns slowly, who decays, and that nobody is forgotten or doubled."""

import pytest
import torch
from torch import nn

from ssm_core.mamba import Mamba, MambaConfig, MambaLM
from ssm_core.optim import parameter_groups
from ssm_core.s4 import S4, S4D, SequenceModel


def names_by_group(model, **options):
    """The groups by name, each with the names of its parameters."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 0.01, **options)
    assert len({id(p) for group in groups for p in group["params"]}) == sum(
        len(group["params"]) for group in groups
    )
    return {group["name"]: {names[id(p)] for p in group["params"]} for group in groups}


@pytest.mark.parametrize(
    "ssm, memory",
    [
        (lambda d: S4(d, 8), {"log_dt", "log_decay", "frequency", "P", "B"}),
        (lambda d: S4D(d, 8), {"log_dt", "log_decay", "frequency", "B"}),
        (lambda d: S4D(d, 8, "real"), {"log_dt", "log_decay", "B"}),
    ],
    ids=["S4", "S4D", "real"],
)
def test_a_network_of_s4(ssm, memory):
    model = SequenceModel(1, 2, d_model=4, n_layers=2, ssm=ssm)
    groups = names_by_group(model)
    assert set().union(*groups.values()) == {name for name, _ in model.named_parameters()}
    assert groups["memory"] == {f"blocks.{i}.ssm.{name}" for i in range(2) for name in memory}
    assert groups["decay"] == {
        "encoder.weight",
        "decoder.weight",
        *(f"blocks.{i}.{name}" for i in range(2) for name in ("ssm.C", "mix.2.weight")),
    }


def test_rates():
    model = SequenceModel(1, 2, d_model=4, n_layers=2)
    groups = {group["name"]: group for group in parameter_groups(model, 0.01, weight_decay=0.1)}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "decay": (0.01, 0.1),
        "no_decay": (0.01, 0.0),
        "memory": (1e-3, 0.0),
    }
    by_name = {group["name"]: group for group in parameter_groups(model, 0.01, memory_lr=1e-5)}
    assert by_name["memory"]["lr"] == 1e-5
    assert {group["lr"] for group in parameter_groups(model, 1e-4)} == {1e-4}  # no faster than lr
    torch.optim.AdamW(parameter_groups(model, 0.01, weight_decay=0.1))
    torch.optim.AdamW(parameter_groups(nn.Linear(2, 2), 0.01))


def test_mamba():
    groups = names_by_group(MambaLM(MambaConfig(8, 1, 11, tie_embeddings=True)))
    exempt = {name.rpartition("mixer.")[2] for name in groups["no_decay"] if "mixer" in name}
    assert exempt >= {"A_log", "D", "dt_proj.bias", "conv1d.bias"}
    assert "memory" not in groups
    decayed = {name.rpartition("mixer.")[2] for name in groups["decay"]}
    assert decayed >= {"in_proj.weight", "x_proj.weight", "out_proj.weight"}
    assert any("embedding" in name for name in groups["no_decay"])  # and the head that shares it
    assert not any("norm" in name or "lm_head" in name for name in groups["decay"])
    untied = names_by_group(MambaLM(MambaConfig(8, 1, 11, tie_embeddings=False)))
    assert "lm_head.weight" in untied["decay"]


def test_norms_biases_and_embeddings_do_not_decay():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 3),
            "conv": nn.Conv1d(2, 2, 3),
            "embedding": nn.Embedding(4, 2),
            "bag": nn.EmbeddingBag(4, 2),
            "flat": nn.LayerNorm(2),
            "wide": nn.LayerNorm((3, 2)),
            "rms": nn.RMSNorm((3, 2)),
            "group": nn.GroupNorm(1, 2),
            "batch": nn.BatchNorm1d(2),
        }
    )
    groups = names_by_group(model)
    assert groups["decay"] == {"linear.weight", "conv.weight"}


def test_declarations_and_marks():
    class Layer(nn.Module):
        memory = ("slow",)
        no_weight_decay = ("kept", "absent")

        def __init__(self):
            super().__init__()
            for name in ("slow", "kept", "marked", "plain"):
                self.register_parameter(name, nn.Parameter(torch.zeros(2, 2)))
            self.absent = None
            self.marked._no_weight_decay = True

    assert names_by_group(Layer()) == {
        "memory": {"slow"},
        "no_decay": {"kept", "marked"},
        "decay": {"plain"},
    }


def test_shared_parameters_are_listed_once():
    first, second = S4D(4, 8), nn.Linear(4, 4)
    second.weight = first.B  # one declaration is enough
    model = nn.ModuleList([second, first, first])
    groups = parameter_groups(model, 0.01)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(model.parameters()))
    memory = next(group for group in groups if group["name"] == "memory")
    assert any(p is first.B for p in memory["params"])


def test_frozen_parameters_are_left_out():
    layer = S4D(4, 8)
    layer.B.requires_grad_(False)
    layer.C.requires_grad_(False)
    assert names_by_group(layer) == {
        "no_decay": {"D"},
        "memory": {"log_dt", "log_decay", "frequency"},
    }
    assert parameter_groups(layer.requires_grad_(False), 0.01) == []


def test_parametrized_memory_stays_memory():
    layer = S4D(4, 8)
    nn.utils.parametrize.register_parametrization(layer, "B", nn.Identity())
    nn.utils.parametrizations.weight_norm(layer, "frequency")
    groups = names_by_group(nn.Sequential(layer))
    assert {
        "0.parametrizations.B.original",
        "0.parametrizations.frequency.original0",
        "0.parametrizations.frequency.original1",
    } <= groups["memory"]


@pytest.mark.parametrize(
    "wrap", [lambda model: torch.compile(model, backend="eager"), nn.DataParallel, nn.Sequential]
)
def test_wrappers(wrap):
    model = SequenceModel(1, 2, d_model=4, n_layers=1)
    sizes = [
        {group["name"]: len(group["params"]) for group in parameter_groups(m, 0.01)}
        for m in (model, wrap(model))
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: parameter_groups(S4D(4).parameters(), 0.01), TypeError, "model is a generator"),
        (lambda: parameter_groups(S4D(4), 0.0), ValueError, "lr is 0"),
        (lambda: parameter_groups(S4D(4), "fast"), TypeError, "lr is 'fast'"),
        (lambda: parameter_groups(S4D(4), 0.01, memory_lr=-1), ValueError, "memory_lr is -1"),
        (
            lambda: parameter_groups(S4D(4), 0.01, weight_decay=-0.1),
            ValueError,
            "weight_decay is -0.1",
        ),
        (
            lambda: parameter_groups(S4D(4), 0.01, weight_decay=float("nan")),
            ValueError,
            "weight_decay",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_mamba_block_alone():
    groups = names_by_group(Mamba(8))
    assert groups["no_decay"] == {"A_log", "D", "dt_proj.bias", "conv1d.bias"}
