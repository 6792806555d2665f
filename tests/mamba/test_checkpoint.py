"""Checkpoints in both published layouts, against transformers, and what damaged ones do."""

import json
import os
import pickle
import shutil

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from ssm_core.mamba import MambaConfig, MambaLM

V = 29  # padded to 32
BLOCKS = [
    {},
    {
        "bias": True,
        "conv_bias": False,
        "d_state": 5,
        "d_conv": 3,
        "expand": 3,
        "dt_rank": 2,
        "dt_init": "constant",
        "dt_max": 0.2,
    },
]


def make(seed=0, dtype=torch.float32, **options):
    torch.manual_seed(seed)
    model = MambaLM(
        MambaConfig(**{"d_model": 16, "n_layer": 3, "vocab_size": V, **options}), dtype=dtype
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if "embedding" in name or "lm_head" in name else 0.1
            parameter += scale * torch.randn_like(parameter)
    return model


def text(b=2, L=40, seed=1):
    return torch.randint(V, (b, L), generator=torch.manual_seed(seed))


def same(a, b):
    """Whether two models have the same numbers under the same names."""
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


# ------------------------------------------------------------------------------------ transformers


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def assert_same_model(ours, theirs):
    """The same logits, gradients, and 20 greedy tokens."""
    ids = text()
    assert relative(ours(ids), theirs(ids).logits) < 1e-5
    for model in (ours, theirs):
        out = model(ids)
        logits = out if model is ours else out.logits
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        ).backward()
    grads = {
        name.replace("embeddings", "embedding"): p.grad for name, p in theirs.named_parameters()
    }
    assert grads.keys() == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, grads[name]) < 1e-4, name
    expected = theirs.generate(
        ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(ours.generate(ids, 20), expected)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_transformers_loads_what_is_saved(transformers, tmp_path, block, tie_embeddings):
    # V is a multiple of 1: their tokens are all rows of the table.
    ours = make(
        ssm_cfg=block, tie_embeddings=tie_embeddings, pad_vocab_size_multiple=1, norm_epsilon=1e-3
    )
    ours.save_pretrained(tmp_path)
    theirs, info = transformers.MambaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_model(ours, theirs.eval())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "use_bias": True,
            "use_conv_bias": False,
            "state_size": 5,
            "conv_kernel": 3,
            "time_step_rank": 2,
            "tie_word_embeddings": False,
            "layer_norm_epsilon": 1e-3,
        },
    ],
)
@pytest.mark.parametrize("shards", [False, True])
def test_what_transformers_saves_is_loaded(transformers, tmp_path, options, shards):
    torch.manual_seed(0)
    theirs = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=V, hidden_size=16, num_hidden_layers=3, **options)
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        theirs.backbone.embeddings.weight.normal_()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB" if shards else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == shards
    assert len([*tmp_path.glob("*.safetensors")]) > 1 or not shards
    assert_same_model(MambaLM.from_pretrained(tmp_path), theirs)


def test_a_bfloat16_model_keeps_its_dtypes(transformers, tmp_path):
    ours = make(dtype=torch.bfloat16)
    ours.save_pretrained(tmp_path)
    theirs = transformers.MambaForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert theirs.dtype == torch.bfloat16
    back = MambaLM.from_pretrained(tmp_path)
    assert same(ours, back) and back.backbone.layers[0].mixer.A_log.dtype == torch.float32
    wide = MambaLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert (
        relative(wide(text()), theirs.float()(text()).logits[..., :V]) < 1e-2
    )  # their A_log is rounded


@pytest.mark.parametrize("mixer_rms_eps", [1e-6, 1e-2])
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_transformers_loads_falcon_mamba_as_it_is_saved(
    transformers, tmp_path, mixer_rms_eps, tie_embeddings
):
    ours = make(
        ssm_cfg={"mixer_rms_eps": mixer_rms_eps, "dt_rank": 3},
        norm_epsilon=1e-3,
        tie_embeddings=tie_embeddings,
        pad_vocab_size_multiple=1,
    )
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is transformers.FalconMambaForCausalLM
    assert_same_model(ours, theirs.eval())
    assert same(ours, MambaLM.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "mixer_rms_eps": 1e-2,
            "tie_word_embeddings": False,
            "use_bias": True,
            "time_step_rank": 3,
        },
    ],
)
def test_falcon_mamba_as_transformers_saves_it_is_loaded(transformers, tmp_path, options):
    torch.manual_seed(0)
    theirs = transformers.FalconMambaForCausalLM(
        transformers.FalconMambaConfig(vocab_size=V, hidden_size=16, num_hidden_layers=3, **options)
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        theirs.backbone.embeddings.weight.normal_()
    theirs.save_pretrained(tmp_path)
    ours = MambaLM.from_pretrained(tmp_path)
    assert ours.config.ssm_cfg["mixer_rms_eps"] == options.get("mixer_rms_eps", 1e-6)
    assert_same_model(ours, theirs)
    # In the published 7B, expand is 16 and intermediate_size twice the hidden size: it counts.
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(
            {**json.loads(file.read_text(encoding="utf-8")), "expand": 16, "intermediate_size": 32}
        ),
        encoding="utf-8",
    )
    assert same(ours, MambaLM.from_pretrained(tmp_path))


def test_rows_that_are_not_tokens_stay_so(transformers, tmp_path):
    ours = make(vocab_size=50, tie_embeddings=False, eos_token_id=[3, 49])
    with torch.no_grad():  # the rows on top have the largest logits by far
        ours.lm_head.weight[50:] = 100 * ours.lm_head.weight[:6].abs()
        ours.lm_head.weight[53:] *= -1
    ids = text()
    expected = ours.generate(ids, 20)
    assert ours(ids).shape[-1] == 50 and expected.max() < 50

    def check(folder):
        back = MambaLM.from_pretrained(folder)
        assert back.config.vocab_size == 50 and back.config.padded_vocab_size == 56
        assert back.config.eos_token_id == [3, 49]
        assert same(ours, back) and torch.equal(back.generate(ids, 20), expected)

    for layout in ("transformers", "state-spaces"):
        ours.save_pretrained(tmp_path / layout, layout=layout)
        check(tmp_path / layout)
    theirs = transformers.MambaForCausalLM.from_pretrained(tmp_path / "transformers").eval()
    logits = theirs(ids).logits
    assert logits.argmax(-1).max() >= 50 and relative(ours(ids), logits[..., :50]) < 1e-5
    assert theirs.generation_config.eos_token_id == [3, 49]
    found = theirs.generate(
        ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(found, expected)
    theirs.save_pretrained(tmp_path / "through them")
    check(tmp_path / "through them")
    for multiple, rows in ((1, 50), (50, 50), (51, 51), (64, 64)):
        model = make(vocab_size=50, pad_vocab_size_multiple=multiple)
        model.save_pretrained(tmp_path / str(multiple))
        config = MambaLM.from_pretrained(tmp_path / str(multiple)).config
        assert (config.vocab_size, config.padded_vocab_size) == (50, rows)


def test_the_tokens_around_a_text_are_kept(transformers, tmp_path):
    tokens = {"eos_token_id": [3, 4], "bos_token_id": 2, "pad_token_id": 1}
    ours = make(**tokens)
    for layout in ("transformers", "state-spaces"):
        ours.save_pretrained(tmp_path / layout, layout=layout)
        back = MambaLM.from_pretrained(tmp_path / layout).config
        assert {name: getattr(back, name) for name in tokens} == tokens
    theirs = transformers.MambaForCausalLM.from_pretrained(tmp_path / "transformers")
    assert {name: getattr(theirs.generation_config, name) for name in tokens} == tokens
    assert (theirs.config.pad_token_id, theirs.config.bos_token_id) == (1, 2)
    theirs.save_pretrained(tmp_path / "through them")
    back = MambaLM.from_pretrained(tmp_path / "through them").config
    assert {name: getattr(back, name) for name in tokens} == tokens
    make().save_pretrained(tmp_path / "none")
    back = MambaLM.from_pretrained(tmp_path / "none").config
    assert (back.eos_token_id, back.bos_token_id, back.pad_token_id) == (None, None, None)


# ------------------------------------------------------------------------------------ round trips

# Fields of class MambaConfig in mamba_ssm/models/config_mamba.py of the authors' package, version
# 2.2, whose loader calls MambaConfig(**config): one more or with another name is an error there.
AUTHORS_FIELDS = {
    "d_model",
    "d_intermediate",
    "n_layer",
    "vocab_size",
    "ssm_cfg",
    "attn_layer_idx",
    "attn_cfg",
    "rms_norm",
    "residual_in_fp32",
    "fused_add_norm",
    "pad_vocab_size_multiple",
    "tie_embeddings",
}
# Arguments of class Mamba in mamba_ssm/modules/mamba_simple.py there, which takes **ssm_cfg; the
# name of the block, "layer", is taken out before.
AUTHORS_OPTIONS = {
    "d_state",
    "d_conv",
    "expand",
    "dt_rank",
    "dt_min",
    "dt_max",
    "dt_init",
    "dt_scale",
    "dt_init_floor",
    "conv_bias",
    "bias",
    "use_fast_path",
    "layer",
}
# Weights of state-spaces/mamba-130m, without the number of the layer.
AUTHORS_WEIGHTS = {
    "backbone.embedding.weight",
    "backbone.norm_f.weight",
    "lm_head.weight",
    *(
        f"backbone.layers.0.{name}"
        for name in (
            "norm.weight",
            "mixer.A_log",
            "mixer.D",
            "mixer.in_proj.weight",
            "mixer.conv1d.weight",
            "mixer.conv1d.bias",
            "mixer.x_proj.weight",
            "mixer.dt_proj.weight",
            "mixer.dt_proj.bias",
            "mixer.out_proj.weight",
        )
    ),
}


def test_the_authors_loader_accepts_what_is_written(tmp_path):
    model = make(
        n_layer=1,
        eos_token_id=7,
        initializer_range=0.3,
        rescale_prenorm_residual=False,
        ssm_cfg={"layer": "Mamba1", "d_state": 5, "use_fast_path": False},
    )
    model.save_pretrained(tmp_path, layout="state-spaces")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert set(config) == AUTHORS_FIELDS
    assert set(config["ssm_cfg"]) <= AUTHORS_OPTIONS
    assert config == {
        "d_model": 16,
        "d_intermediate": 0,
        "n_layer": 1,
        "vocab_size": V,
        "ssm_cfg": {"layer": "Mamba1", "d_state": 5, "use_fast_path": False},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
        "tie_embeddings": True,
    }
    assert set(torch.load(tmp_path / "pytorch_model.bin", weights_only=True)) == AUTHORS_WEIGHTS
    assert (
        json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))[
            "eos_token_id"
        ]
        == 7
    )
    back = MambaLM.from_pretrained(tmp_path)
    assert back.config.eos_token_id == 7 and same(model, back)
    assert torch.equal(back(text()), model(text()))


def test_what_the_authors_layout_cannot_say_is_refused(tmp_path):
    for odd, message in (
        (make(norm_epsilon=1e-3), "norm_epsilon is 0.001, expected 1e-05"),
        (make(ssm_cfg={"mixer_rms_eps": 1e-6}), "mixer_rms_eps is 1e-06"),
    ):
        with pytest.raises(ValueError, match=message):
            odd.save_pretrained(tmp_path / "none", layout="state-spaces")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("layout", ["transformers", "state-spaces"])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_models_come_back_as_they_were(tmp_path, layout, block, tie_embeddings, dtype):
    model = make(
        ssm_cfg=block,
        tie_embeddings=tie_embeddings,
        dtype=dtype,
        eos_token_id=[3, 4],
        residual_in_fp32=False,
    )
    model.save_pretrained(tmp_path / "new" / "folder", layout=layout)
    back = MambaLM.from_pretrained(str(tmp_path / "new" / "folder"))
    assert same(model, back) and not back.training
    assert (back.lm_head.weight is back.backbone.embedding.weight) == tie_embeddings
    assert back.config.eos_token_id == [3, 4] and not back.config.residual_in_fp32
    mixer = back.backbone.layers[0].mixer
    assert mixer.A_log._no_weight_decay and mixer.dt_proj.bias._no_reinit
    assert torch.equal(model(text()), back(text()))
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors" if layout == "transformers" else "pytorch_model.bin",
    ]


def test_what_transformers_does_not_have_comes_back_in_the_other_layout(tmp_path):
    model = make(rms_norm=False)
    model.save_pretrained(tmp_path, layout="state-spaces")
    assert same(model, MambaLM.from_pretrained(tmp_path))
    for odd, message in (
        (model, "rms_norm is False, expected True"),
        (make(ssm_cfg={"expand": 1.5}), "expand is 1.5, expected a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            odd.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_as_the_authors_publish_it(tmp_path):
    """The files of state-spaces/mamba-130m, made small: no field says that the head is tied."""
    model = make(pad_vocab_size_multiple=8)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "d_model": 16,
                "n_layer": 3,
                "vocab_size": V,
                "ssm_cfg": {},
                "rms_norm": True,
                "residual_in_fp32": True,
                "fused_add_norm": True,
                "pad_vocab_size_multiple": 8,
            }
        ),
        encoding="utf-8",
    )
    state = {name: x.clone() for name, x in model.state_dict().items()}
    assert {
        "backbone.embedding.weight",
        "lm_head.weight",
        "backbone.norm_f.weight",
        "backbone.layers.2.mixer.A_log",
        "backbone.layers.2.norm.weight",
    } < set(state)
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert same(model, MambaLM.from_pretrained(tmp_path))
    assert same(model, MambaLM.from_pretrained(tmp_path / "pytorch_model.bin"))
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert same(model, MambaLM.from_pretrained(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config.update(
        d_intermediate=0,
        attn_layer_idx=[],
        attn_cfg={},
        tie_embeddings=True,
        ssm_cfg={"layer": "Mamba1"},
    )  # as the newer package writes it
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert same(model, MambaLM.from_pretrained(tmp_path))


def test_a_folder_as_transformers_published_it_first(tmp_path):
    """The files of state-spaces/mamba-130m-hf, made small, with PyTorch's file of weights."""
    model = make(pad_vocab_size_multiple=1, vocab_size=32)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["MambaForCausalLM"],
                "bos_token_id": 0,
                "conv_kernel": 4,
                "d_inner": 32,
                "d_model": 16,
                "eos_token_id": 0,
                "expand": 2,
                "fused_add_norm": True,
                "hidden_act": "silu",
                "hidden_size": 16,
                "initializer_range": 0.1,
                "intermediate_size": 32,
                "layer_norm_epsilon": 1e-05,
                "model_type": "mamba",
                "n_layer": 3,
                "num_hidden_layers": 3,
                "pad_token_id": 0,
                "pad_vocab_size_multiple": 8,
                "rescale_prenorm_residual": False,
                "residual_in_fp32": True,
                "rms_norm": True,
                "ssm_cfg": {},
                "state_size": 16,
                "time_step_floor": 0.0001,
                "time_step_init_scheme": "random",
                "time_step_max": 0.1,
                "time_step_min": 0.001,
                "time_step_rank": 1,
                "time_step_scale": 1.0,
                "torch_dtype": "float32",
                "transformers_version": "4.39.0.dev0",
                "use_bias": False,
                "use_cache": True,
                "use_conv_bias": True,
                "vocab_size": 32,
            }
        ),
        encoding="utf-8",
    )
    state = {name.replace("embedding.", "embeddings."): x for name, x in model.state_dict().items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    back = MambaLM.from_pretrained(tmp_path)
    assert same(model, back) and back.config.eos_token_id == 0


def test_progress_counts_bytes_to_the_end(tmp_path):
    make().save_pretrained(tmp_path)
    calls = []
    MambaLM.from_pretrained(tmp_path, progress=lambda done, total: calls.append((done, total)))
    done, total = zip(*calls)
    assert len({*total}) == 1 and done[-1] == total[0] and list(done) == sorted({*done})
    assert total[0] < (tmp_path / "model.safetensors").stat().st_size


# ------------------------------------------------------------------------------------ damage


@pytest.fixture(params=["transformers", "state-spaces"])
def folder(request, tmp_path):
    """A folder with a good checkpoint in each layout."""
    make().save_pretrained(tmp_path, layout=request.param)
    return tmp_path


def weights_of(folder):
    (file,) = [*folder.glob("model.safetensors"), *folder.glob("pytorch_model.bin")]
    return file


def rewrite(folder, change):
    """Let a function change the tensors of a checkpoint."""
    file = weights_of(folder)
    if file.suffix == ".bin":
        state = torch.load(file, weights_only=True)
        change(state)
        torch.save(state, file)
    else:
        state = safetensors_torch.load_file(file)
        change(state)
        safetensors_torch.save_file(state, file)


def refuses(path, message):
    with pytest.raises(ValueError, match=message):
        MambaLM.from_pretrained(path)


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused(folder, kept):
    file = weights_of(folder)
    content = file.read_bytes()
    size = int(kept * len(content)) if isinstance(kept, float) else kept
    file.write_bytes(content[:size])
    refuses(folder, f"{file.name} .*(truncated, corrupt|is corrupt)")


@pytest.mark.parametrize("seed", range(8))
def test_a_corrupt_file_is_refused_or_its_shapes_are_right(folder, seed):
    """One byte in a hundred is wrong: no checksum tells in safetensors, but no other error comes."""
    file = weights_of(folder)
    content = bytearray(file.read_bytes())
    places = torch.randint(len(content), (len(content) // 100,), generator=torch.manual_seed(seed))
    for place in places.tolist():
        content[place] ^= 255
    file.write_bytes(content)
    refuses(folder, file.name)


def test_one_wrong_bit_of_a_pytorch_file_is_seen(tmp_path):
    model = make()
    model.save_pretrained(tmp_path, layout="state-spaces")
    file = tmp_path / "pytorch_model.bin"
    content = bytearray(file.read_bytes())
    at = content.find(model.lm_head.weight.detach().numpy().tobytes()[:64])
    content[at + 5] ^= 1
    file.write_bytes(content)
    refuses(tmp_path, "checksum")


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain", [True, False])
def test_nothing_is_executed(tmp_path, plain):
    make().save_pretrained(tmp_path, layout="state-spaces")
    trap, file = tmp_path / "executed", tmp_path / "pytorch_model.bin"
    if plain:
        file.write_bytes(pickle.dumps({"a": Evil(trap)}, protocol=2))
    else:
        torch.save({"a": Evil(trap)}, file)
    refuses(tmp_path, "nothing in it was executed")
    assert not trap.exists()


def test_a_file_of_something_else_is_refused(tmp_path):
    make().save_pretrained(tmp_path, layout="state-spaces")
    file = tmp_path / "pytorch_model.bin"
    for content in ([torch.ones(2)], {"step": 3}, {3: torch.ones(2)}, torch.ones(2)):
        torch.save(content, file)
        refuses(tmp_path, "something other than tensors by name")


EMBEDDING = "backbone.embeddings?.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backbone.norm_f.weight"), "missing backbone.norm_f.weight$"),
        (
            lambda s: s.pop(next(k for k in s if "embedding" in k)),
            "missing backbone.embedding.weight",
        ),
        (lambda s: s.update(extra=torch.ones(2)), "not expected extra$"),
        (
            lambda s: [s.update({f"backbone.layers.{i}.x": torch.ones(2)}) for i in range(9)],
            "not expected backbone.layers.0.x, .* and 4 more",
        ),
        (
            lambda s: s.update({"backbone.norm_f.weight": torch.ones(17)}),
            r"backbone.norm_f.weight has shape \(17,\), expected \(16,\)",
        ),
        (
            lambda s: s.update({"backbone.layers.1.mixer.D": torch.ones(32).int()}),
            "mixer.D has dtype torch.*, expected floating-point",
        ),
        (
            lambda s: s["backbone.layers.1.mixer.D"].fill_(torch.nan),
            "numbers in backbone.layers.1.mixer.D that are not finite",
        ),
        (
            lambda s: s.update({"lm_head.weight": torch.ones(32, 16)}),
            "lm_head.weight that differs from backbone.embedding.weight",
        ),
        (
            lambda s: s.update(
                {
                    "backbone.embedding.weight": torch.ones(32, 16),
                    "backbone.embeddings.weight": torch.ones(32, 16),
                }
            ),
            "expected one",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, message):
    rewrite(folder, change)
    refuses(folder, message)


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("transformers", {"hidden_size": 17}, "intermediate_size 32, expected .* = 34"),
        ("transformers", {"vocab_size": 33}, "embedding.weight has shape"),
        ("transformers", {"num_hidden_layers": 4}, "missing backbone.layers.3"),
        ("transformers", {"num_hidden_layers": 2}, "not expected backbone.layers.2"),
        ("transformers", {"state_size": 8}, "A_log has shape"),
        ("transformers", {"use_bias": True}, "missing backbone.layers.0.mixer.in_proj.bias"),
        ("transformers", {"tie_word_embeddings": False}, "missing lm_head.weight"),
        (
            "transformers",
            {"model_type": "mamba3"},
            "type 'mamba3', expected one of: mamba, falcon_mamba, mamba2",
        ),
        ("transformers", {"unpadded_vocab_size": 33}, "unpadded_vocab_size 33, expected at most"),
        ("transformers", {"hidden_act": "gelu"}, "hidden_act 'gelu', expected 'silu'"),
        ("transformers", {"intermediate_size": 48}, "intermediate_size 48, expected .* = 32"),
        ("transformers", {"hidden_size": "wide"}, "hidden_size is 'wide', expected an integer"),
        ("transformers", {"time_step_rank": 0}, "dt_rank is 0"),
        ("state-spaces", {"n_layer": 0}, "n_layer is 0"),
        ("state-spaces", {"vocab_size": 40}, "embedding.weight has shape"),
        ("state-spaces", {"ssm_cfg": {"layer": "Mamba2"}}, "headdim is 64, expected a divisor"),
        ("state-spaces", {"ssm_cfg": {"headdim": 64}}, "ssm_cfg holds headdim"),
        ("state-spaces", {"attn_layer_idx": [1]}, "attn_layer_idx"),
        ("state-spaces", {"n_head": 12}, "not expected n_head"),
    ],
)
def test_configurations_that_do_not_fit_are_named(tmp_path, layout, change, message):
    make().save_pretrained(tmp_path, layout=layout)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises((ValueError, TypeError), match=message):
        MambaLM.from_pretrained(tmp_path)


def test_files_that_are_not_there_are_named(folder):
    refuses(folder / "none", "none does not exist, expected a folder with a checkpoint")
    (folder / "config.json").write_text('{"d_model": 16', encoding="utf-8")
    refuses(folder, "config.json holds no JSON object")
    (folder / "config.json").write_text("[1]", encoding="utf-8")
    refuses(folder, "config.json holds no JSON object")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    refuses(folder, "config.json is not the configuration .* missing d_model, n_layer, vocab_size")
    (folder / "config.json").unlink()
    refuses(folder, "config.json does not exist, expected the configuration")
    weights_of(folder).unlink()
    refuses(folder, "holds no weights, expected one of: model.safetensors")


def shard(folder):
    """Cut a safetensors file in two, with an index."""
    file = folder / "model.safetensors"
    state = safetensors_torch.load_file(file)
    file.unlink()
    keys = sorted(state)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {key: names[i % 2] for i, key in enumerate(keys)}
    for name in names:
        safetensors_torch.save_file({k: state[k] for k in keys if places[k] == name}, folder / name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return index, places, names


def test_shards(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    index, places, names = shard(tmp_path)
    assert same(model, MambaLM.from_pretrained(tmp_path))
    assert same(model, MambaLM.from_pretrained(index))

    def with_index(places):
        index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")

    with_index({**places, "backbone.norm_f.weight": "elsewhere.safetensors"})
    refuses(tmp_path, "names elsewhere.safetensors, expected a file that lies beside it")
    with_index({**places, "backbone.norm_f.weight": "../model.safetensors"})
    refuses(tmp_path, "names ../model.safetensors, expected a file that lies beside it")
    with_index({**places, "backbone.x": names[0]})
    refuses(tmp_path, "disagree about backbone.x")
    with_index({key: name for key, name in places.items() if key != "backbone.norm_f.weight"})
    refuses(tmp_path, "disagree about backbone.norm_f.weight")
    with_index([])
    refuses(tmp_path, "has no weight_map")
    with_index(places)
    shutil.copy(tmp_path / names[0], tmp_path / names[1])
    refuses(tmp_path, "which another shard holds too")


def test_a_load_that_fails_leaves_files_and_memory_alone(folder):
    rewrite(folder, lambda s: s["backbone.layers.1.mixer.D"].fill_(torch.inf))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    refuses(folder, "not finite")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    (folder / "config.json").write_text("{}", encoding="utf-8")
    for file in (weights_of(folder), folder / "config.json"):
        file.unlink()  # no file is kept open


# ------------------------------------------------------------------------------------ writing


def test_a_failed_save_leaves_what_was_there(folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    layout = "transformers" if "model.safetensors" in before else "state-spaces"

    def fail(*_, **__):
        raise OSError("no space left")

    for target in ("torch.save", "safetensors.torch.save_file", "json.dumps"):
        with monkeypatch.context() as patch:
            patch.setattr(target, fail)
            if target != (
                "torch.save" if layout == "transformers" else "safetensors.torch.save_file"
            ):
                with pytest.raises(OSError, match="no space left"):
                    make(seed=5).save_pretrained(folder, layout=layout)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    make(seed=5).save_pretrained(folder, layout=layout)  # a good one replaces it
    assert same(make(seed=5), MambaLM.from_pretrained(folder))


def test_a_full_disk_leaves_what_was_there(folder, monkeypatch):
    """The first half of a file is written, and then there is no space."""
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    layout = "transformers" if "model.safetensors" in before else "state-spaces"

    def half(write):
        def full(content, file, **options):
            write(content, file, **options)
            with open(file, "r+b") as opened:
                opened.truncate(os.path.getsize(file) // 2)
            raise OSError(28, "No space left on device")

        return full

    monkeypatch.setattr("torch.save", half(torch.save))
    monkeypatch.setattr("safetensors.torch.save_file", half(safetensors_torch.save_file))
    with pytest.raises(OSError, match="No space left on device"):
        make(seed=5).save_pretrained(folder, layout=layout)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert same(make(), MambaLM.from_pretrained(folder))
    with pytest.raises(OSError, match="No space left on device"):
        make(seed=5).save_pretrained(folder / "new", layout=layout)
    assert [*(folder / "new").iterdir()] == []


def test_what_is_not_a_whole_published_model_is_not_written(tmp_path):
    model = make()
    model.lm_head = torch.nn.Linear(16, 40, bias=False)
    other = make()
    other.extra = torch.nn.Linear(2, 2)
    for odd, message in (
        (model, r"lm_head.weight has shape \(40, 16\), expected \(32, 16\)"),
        (other, "published weights: not expected extra.weight, extra.bias"),
        (MambaLM(make().config, device="meta"), "is on the device meta"),
    ):
        with pytest.raises(ValueError, match=message):
            odd.save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_never_holds_two_kinds_of_weights(folder):
    other = "state-spaces" if (folder / "model.safetensors").exists() else "transformers"
    with pytest.raises(ValueError, match="already holds .* expected a folder without weights"):
        make().save_pretrained(folder, layout=other)
    with pytest.raises(ValueError, match="layout is 'gguf', expected one of: transformers"):
        make().save_pretrained(folder, layout="gguf")
