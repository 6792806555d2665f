"""Networks written to disk and read again."""

import json

import pytest
import torch

from ssm_core.mamba import Mamba, Mamba2
from ssm_core.network import SequenceModel
from ssm_core.s4 import S4, S4D

pytest.importorskip("safetensors")


def saved(folder, **more):
    options = {"d_model": 8, "n_layers": 2, "ssm_cfg": {"d_state": 4}, **more}
    model = SequenceModel(3, 5, **options).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"ssm": S4, "pool": True, "dropout": 0.25},
        {"ssm": S4D, "ssm_cfg": {"d_state": 4, "init": "real", "discretization": "bilinear"}},
        {"ssm": S4D, "ssm_cfg": {"d_state": 4, "bidirectional": True}},
        {"ssm": Mamba, "bidirectional": True, "dtype": torch.float64},
        {"ssm": Mamba, "tokens": True, "dtype": torch.bfloat16},
        {"ssm": Mamba2, "ssm_cfg": {"d_state": 4, "headdim": 8, "dt_limit": [0.0, 0.5]}},
        {"ssm": Mamba2, "ssm_cfg": {"headdim": 4, "ngroups": 2}, "dtype": torch.bfloat16},
    ],
)
def test_round_trip(tmp_path, options):
    torch.manual_seed(0)
    model = saved(tmp_path / "model", **options)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    before = torch.get_rng_state()
    read = SequenceModel.from_pretrained(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)
    assert read.config == model.config and not read.training
    for (name, x), (same, y) in zip(
        model.state_dict().items(), read.state_dict().items(), strict=True
    ):
        assert name == same and x.dtype == y.dtype and torch.equal(x, y)
    u = torch.randint(3, (2, 9)) if options.get("tokens") else torch.randn(2, 9, 3)
    u = u if options.get("tokens") else u.to(model.decoder.weight.dtype)
    assert torch.equal(read(u), model(u))
    wide = SequenceModel.from_pretrained(tmp_path / "model", dtype=torch.float64)
    assert {p.dtype for p in wide.parameters()} == {torch.float64}


def test_layers_of_your_own(tmp_path):
    def layer(d_model):
        return S4D(d_model, 4)

    model = saved(tmp_path, ssm=layer, ssm_cfg=None)
    with pytest.raises(
        ValueError, match="names the layer 'layer', expected one of S4, S4D, Mamba, Mamba2"
    ):
        SequenceModel.from_pretrained(tmp_path)
    u = torch.randn(1, 5, 3)
    assert torch.equal(SequenceModel.from_pretrained(tmp_path, ssm=layer)(u), model(u))


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="ssm_cfg holds what cannot be written as JSON"):
        saved(tmp_path / "new", ssm_cfg={"d_state": 4, "device": torch.device("cpu")})
    assert not (tmp_path / "new").exists()


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def pickled(folder):
    torch.save({}, folder / "model.safetensors")


def edited(**fields):
    def edit(folder):
        file = folder / "config.json"
        config = {**json.loads(file.read_text(encoding="utf-8")), **fields}
        file.write_text(json.dumps(config), encoding="utf-8")

    return edit


def unreadable(folder):
    (folder / "config.json").write_bytes(b"\xff{")


def not_finite(folder):
    model = SequenceModel.from_pretrained(folder)
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, "truncated, corrupt"),
        (pickled, "truncated, corrupt"),
        (not_finite, "not finite"),
        (unreadable, "holds no JSON object"),
        (lambda folder: (folder / "config.json").unlink(), "config.json does not exist"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors does not exist"),
        (edited(model_type="mamba"), "not the configuration of a SequenceModel"),
        (edited(d_model=4), "has shape"),
        (edited(n_layers=3), "missing"),
        (edited(n_layers=1), "not expected"),
        (edited(d_model="wide"), "does not describe a network"),
        (edited(device="cpu"), "does not describe a network"),
        (edited(colour="red"), "does not describe a network"),
        (edited(ssm="os.system"), "names the layer 'os.system'"),
        (edited(ssm=["S4D"]), "names the layer"),
        (edited(ssm_cfg={"d_state": 5}), "does not describe a network"),
    ],
)
def test_a_damaged_folder_loads_nothing(tmp_path, damage, message):
    saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        SequenceModel.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        SequenceModel.from_pretrained(tmp_path / "nothing")
