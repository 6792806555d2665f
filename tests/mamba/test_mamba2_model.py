"""Language models of Mamba-2 blocks: their ways of running, both published layouts, transformers."""

import copy
import json
import math

import pytest

torch = pytest.importorskip("torch")

from ssm_core.mamba import Mamba2, MambaConfig, MambaLM, _stepping

V = 29  # padded to 32
BLOCKS = [
    {},
    {"ngroups": 2, "bias": True, "conv_bias": False, "d_conv": 3, "expand": 3, "chunk_size": 16},
    {"ngroups": 4, "dt_limit": (0.3, 0.9), "dt_max": 0.2, "chunk_size": 5},
]


def make(seed=0, dtype=torch.float32, ssm_cfg=None, **options):
    torch.manual_seed(seed)
    block = {"layer": "Mamba2", "d_state": 8, "headdim": 4, **(ssm_cfg or {})}
    fields = {"d_model": 16, "n_layer": 2, "vocab_size": V, "ssm_cfg": block, **options}
    model = MambaLM(MambaConfig(**fields), dtype=dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if "embedding" in name or "lm_head" in name else 0.1
            parameter += scale * torch.randn_like(parameter)
    return model


def text(b=2, L=11, seed=1):
    return torch.randint(V, (b, L), generator=torch.manual_seed(seed))


def close(got, want, tolerance=1e-11):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def same(a, b):
    """Whether two models have the same numbers under the same names."""
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


# --- ways of running ------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[1] * 11, [5, 6], [3, 1, 7]])
def test_a_text_in_pieces_gives_the_logits_of_one_pass(pieces):
    model, ids = make(dtype=torch.float64), text()
    cache = model.allocate_inference_cache(2, max_seqlen=11)
    with torch.no_grad():
        close(torch.cat([model(piece, cache) for piece in ids.split(pieces, 1)], 1), model(ids))


def test_packed_texts_do_not_see_each_other():
    model, ids = make(dtype=torch.float64), text(b=1)
    bounds = torch.tensor([0, 4, 4, 11], dtype=torch.int32)
    cache = model.allocate_inference_cache(3, max_seqlen=11)
    want = torch.cat([model(ids[:, :4]), model(ids[:, 4:])], 1)
    close(model(ids, cache, cu_seqlens=bounds), want)
    alone = model.allocate_inference_cache(1, max_seqlen=11)
    model(ids[:, 4:], alone)
    for i in range(2):
        for state, expected in zip(cache[i], alone[i]):
            close(state[2:], expected)
            assert (state[1] == 0).all()


def greedy(model, ids, new):
    """Tokens that are the likeliest ones, each from a pass over the whole text."""
    for _ in range(new):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
    return ids


@pytest.fixture(params=["compiled", "torch"])
def implementation(request, monkeypatch):
    """Steps compiled by Numba, and in PyTorch."""
    if request.param == "torch":
        monkeypatch.setattr(_stepping, "kernels", lambda: None)
    else:
        pytest.importorskip("numba")
    return request.param


@pytest.mark.parametrize("ssm_cfg", [{}, {"ngroups": 2, "dt_limit": (0.1, 0.5)}])
def test_generation_is_greedy(ssm_cfg, implementation):
    model, prompt = make(dtype=torch.float64, ssm_cfg=ssm_cfg), text(b=3, L=5)
    expected = greedy(model, prompt, 12)
    assert torch.equal(model.generate(prompt, 12), expected)
    assert torch.equal(torch.stack(list(model.stream(prompt, 12)), 1), expected[:, 5:])
    prompts = [prompt[0], prompt[1, :2], prompt[2, :1]]  # packed into one row
    for got, alone in zip(model.generate(prompts, 12), prompts):
        assert torch.equal(got, greedy(model, alone[None], 12)[0])
    cache = model.allocate_inference_cache(3)
    first = model.generate(prompt, 5, cache=cache)
    rest = model.generate(first[:, -1:], 7, cache=cache)
    assert torch.equal(torch.cat([first[:, :-1], rest], 1), expected)
    stepper = model.stepper()
    cache, logits = stepper.allocate_inference_cache(3), []
    for tokens in prompt.T:
        step, cache = stepper.step(tokens, cache)
        logits.append(step)
    close(torch.stack(logits, 1), model(prompt))


@pytest.mark.parametrize(
    ("ssm_cfg", "compiles"),
    [
        ({}, True),
        ({"ngroups": 2, "norm_before_gate": True, "D_has_hdim": True, "norm_eps": 0.1}, True),
        ({"rmsnorm": False, "dt_limit": (0.2, 0.6), "bias": True, "conv_bias": False}, True),
        ({"headdim": 1, "d_conv": 1, "ngroups": 32, "d_state": 1}, True),
        ({"headdim": 32, "expand": 4, "d_conv": 2}, True),
        ({"d_ssm": 16}, False),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_compiled_steps_are_those_of_the_modules(ssm_cfg, compiles, dtype, tolerance):
    pytest.importorskip("numba")
    model, ids = make(dtype=dtype, ssm_cfg=ssm_cfg), text(b=3)
    stepper, states = model.stepper(), model.allocate_inference_cache(3)
    cache, logits = stepper.allocate_inference_cache(3), []
    assert (stepper._packed is not None) == compiles
    for tokens in ids.T:
        step, cache = stepper.step(tokens, cache)
        logits.append(step)
    with torch.no_grad():
        want = model(ids, states)
    assert relative(torch.stack(logits, 1), want) < tolerance
    for i in range(2):
        for got, right in zip(cache[i], states[i]):
            assert relative(got, right) < tolerance


def test_only_plain_modules_are_compiled():
    pytest.importorskip("numba")
    for name in ("norm", "in_proj", "conv1d", "out_proj", None):
        model = make()
        block = model.backbone.layers[1].mixer
        module = block if name is None else block.get_submodule(name)
        handle = module.register_forward_hook(lambda *_: None)
        assert _stepping.pack(model) is None
        handle.remove()
        assert _stepping.pack(model) is not None


def test_recomputing_changes_no_gradient():
    model, ids = make(), text()

    def gradients():
        model.zero_grad()
        model(ids).square().mean().backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    model.gradient_checkpointing = True
    for grad, expected in zip(gradients(), plain):
        assert torch.equal(grad, expected)


def test_every_parameter_learns():
    model, ids = make(ssm_cfg={"bias": True, "D_has_hdim": True}), text(b=8, L=20)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_the_start_is_that_of_the_published_models():
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(64, 9, 1000, ssm_cfg={"layer": "Mamba2", "bias": True}))
    assert abs(model.backbone.embedding.weight.std() - 0.02) < 1e-3
    for layer in model.backbone.layers:
        bound = 128**-0.5 / 3  # 1 / sqrt(fan in), over sqrt(n_layer)
        assert 0.98 * bound < layer.mixer.out_proj.weight.abs().max() <= bound
        assert (layer.mixer.in_proj.bias == 0).all() and (layer.mixer.out_proj.bias == 0).all()
        assert (layer.mixer.dt_bias < -2).all()  # softplus of it is at most 0.1


def test_bfloat16_stays_near_float32():
    model = make(dtype=torch.bfloat16, d_model=64)
    expected = copy.deepcopy(model).float()(text())
    assert relative(model(text()), expected) < 2e-2
    assert model.backbone.layers[0].mixer.dt_bias.dtype == torch.float32


def test_export_with_any_batch_and_length():
    model, dim = make(), torch.export.Dim
    dynamic = {"input_ids": {0: dim("b", min=1, max=64), 1: dim("L", min=2, max=4096)}}
    program = torch.export.export(model, (text(3, 5),), dynamic_shapes=dynamic)
    for b, L in ((1, 2), (2, 11), (4, 300)):
        close(program.module()(text(b, L)), model(text(b, L)), 1e-4)


def test_the_model_compiles_in_one_graph():
    model, ids = make(), text()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    close(compiled(ids), model(ids), 1e-5)
    with torch.no_grad():
        cache, same = (model.allocate_inference_cache(2) for _ in range(2))
        for piece in (ids, ids[:, :1]):
            close(compiled(piece, cache), model(piece, same), 1e-5)
    for got, want in zip(cache.values(), same.values()):
        close(got[1], want[1], 1e-5)


def test_gradients_per_sample_through_torch_func():
    model, ids = make(dtype=torch.float64), text(b=2, L=6)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, row):
        logits = torch.func.functional_call(model, parameters, (row[None, :-1],))
        return torch.nn.functional.cross_entropy(logits[0], row[1:])

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, ids)
    for i, row in enumerate(ids):
        model.zero_grad()
        logits = model(row[None, :-1])
        torch.nn.functional.cross_entropy(logits[0], row[1:]).backward()
        for name, parameter in model.named_parameters():
            close(got[name][i], parameter.grad, 1e-9)


def test_offloaded_weights_come_in_when_a_module_is_called():
    accelerate = pytest.importorskip("accelerate")
    model, ids = make(), text()
    with torch.no_grad():
        want, tokens = model(ids), model.generate(ids, 5)
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        close(model(ids), want, 1e-5)
    assert torch.equal(model.generate(ids, 5), tokens)


# --- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ssm_cfg", "error", "message"),
    [
        ({"heads": 8}, ValueError, "ssm_cfg holds heads, expected options of the Mamba2 block: A_"),
        ({"dt_rank": 3}, ValueError, "ssm_cfg holds dt_rank, expected options of the Mamba2 block"),
        ({"headdim": 5}, ValueError, "ssm_cfg does not fit the Mamba2 block: headdim is 5, expect"),
        ({"ngroups": "2"}, TypeError, "ngroups is '2', expected an integer"),
        ({"layer": "Mamba3"}, ValueError, "'Mamba3', expected one of: Mamba1, Mamba2"),
    ],
)
def test_bad_configurations_are_named(ssm_cfg, error, message):
    with pytest.raises(error, match=message):
        make(ssm_cfg=ssm_cfg)


# --- transformers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("safetensors")
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


def continued(theirs, ids, new):
    """Their greedy tokens. A mask keeps them from taking token 0 in a prompt for padding."""
    return theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


def assert_same_model(ours, theirs):
    """The same logits, gradients and states, and the same greedy tokens."""
    ids = text(L=40)
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
    with torch.no_grad():
        cache = ours.allocate_inference_cache(2)
        ours(ids, cache)
        theirs_cache = theirs(ids, use_cache=True).cache
        for i, (conv_state, ssm_state) in cache.items():
            assert relative(conv_state, theirs_cache.get_conv_state(i, state_idx=0)) < 1e-5
            assert relative(ssm_state, theirs_cache.get_recurrent_state(i, state_idx=0)) < 1e-5
        limited = theirs.config.time_step_limit[1] != math.inf
        if limited:  # a fault of theirs: one step leaves the limits out, a whole pass does not
            step = theirs(ids[:, :1], cache=theirs_cache, use_cache=True).logits
            assert relative(ours(ids[:, :1], cache), step) > 1e-3
            want = greedy_of(theirs, ids, 10)
        else:
            want = continued(theirs, ids, 10)
        assert torch.equal(ours.generate(ids, 10), want)


def greedy_of(theirs, ids, new):
    """Their greedy tokens, each from a pass over the whole text."""
    return greedy(lambda x: theirs(x).logits, ids, new)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_transformers_loads_what_is_saved(transformers, tmp_path, block, tie_embeddings):
    ours = make(
        ssm_cfg={**block, "norm_eps": 1e-3},
        tie_embeddings=tie_embeddings,
        pad_vocab_size_multiple=1,  # their tokens are all rows of the table
        norm_epsilon=1e-3,
    )
    ours.save_pretrained(tmp_path)
    back = MambaLM.from_pretrained(tmp_path)
    assert same(ours, back) and torch.equal(back(text()), ours(text()))
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(theirs) is transformers.Mamba2ForCausalLM
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_model(ours, theirs.eval())


@pytest.mark.parametrize(
    "options",
    [
        {"n_groups": 1, "num_heads": 8, "head_dim": 4, "state_size": 8},
        {
            "n_groups": 2,
            "num_heads": 4,
            "head_dim": 12,
            "expand": 3,
            "use_bias": True,
            "use_conv_bias": False,
            "conv_kernel": 3,
            "tie_word_embeddings": True,
            "layer_norm_epsilon": 1e-3,
            "chunk_size": 7,
            "time_step_limit": (0.001, math.inf),
        },
    ],
)
@pytest.mark.parametrize("shards", [False, True])
def test_what_transformers_saves_is_loaded(transformers, tmp_path, options, shards):
    torch.manual_seed(0)
    config = transformers.Mamba2Config(
        vocab_size=V, hidden_size=16, num_hidden_layers=2, eos_token_id=3, **options
    )
    theirs = transformers.Mamba2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        theirs.backbone.embeddings.weight.normal_()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB" if shards else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == shards
    ours = MambaLM.from_pretrained(tmp_path)
    assert ours.config.tie_embeddings == config.tie_word_embeddings
    assert (ours.config.eos_token_id, ours.config.pad_token_id) == (3, 1)
    assert ours.config.ssm_cfg["norm_eps"] == config.layer_norm_epsilon
    assert ours.config.ssm_cfg.get("chunk_size", 256) == config.chunk_size
    assert_same_model(ours, theirs)


def test_a_published_configuration_of_transformers(tmp_path):
    """That of a 7B model in short: fields of older versions, and defaults that are left out."""
    pytest.importorskip("safetensors")
    make().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    published = {
        "architectures": ["Mamba2ForCausalLM"],
        "head_dim": 4,
        "hidden_size": 16,
        "intermediate_size": 32,
        "model_type": "mamba2",
        "n_groups": 1,
        "norm_before_gate": True,  # which it never read
        "num_heads": 8,
        "num_hidden_layers": 2,
        "rms_norm": True,
        "state_size": 8,
        "tie_word_embeddings": True,
        "time_step_init_scheme": "random",
        "time_step_limit": [0.0, math.inf],
        "time_step_rank": 256,
        "vocab_size": 32,
    }
    file.write_text(json.dumps(published), encoding="utf-8")
    back = MambaLM.from_pretrained(tmp_path)
    assert same(back, make()) and back.config.vocab_size == 32
    assert (back.config.eos_token_id, back.config.bos_token_id) == (2, 0)


# --- the authors' package -------------------------------------------------------------------------

# Arguments of class Mamba2 in mamba_ssm/modules/mamba2.py there, which takes **ssm_cfg; the name of
# the block, "layer", is taken out before.
AUTHORS_OPTIONS = {
    "d_state",
    "d_conv",
    "conv_init",
    "expand",
    "headdim",
    "d_ssm",
    "ngroups",
    "A_init_range",
    "D_has_hdim",
    "rmsnorm",
    "norm_before_gate",
    "dt_min",
    "dt_max",
    "dt_init_floor",
    "dt_limit",
    "bias",
    "conv_bias",
    "chunk_size",
    "use_mem_eff_path",
    "layer",
}
# Weights of state-spaces/mamba2-130m, without the number of the layer.
AUTHORS_WEIGHTS = {
    "backbone.embedding.weight",
    "backbone.norm_f.weight",
    "lm_head.weight",
    *(
        f"backbone.layers.0.{name}"
        for name in (
            "norm.weight",
            "mixer.dt_bias",
            "mixer.A_log",
            "mixer.D",
            "mixer.in_proj.weight",
            "mixer.conv1d.weight",
            "mixer.conv1d.bias",
            "mixer.norm.weight",
            "mixer.out_proj.weight",
        )
    ),
}


@pytest.mark.parametrize(
    "ssm_cfg",
    [
        {},
        {"chunk_size": None, "norm_eps": 1e-5, "use_mem_eff_path": False},
        {"d_ssm": 16, "D_has_hdim": True, "norm_before_gate": True, "dt_limit": (0.0, 0.5)},
    ],
)
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_authors_loader_accepts_what_is_written(tmp_path, ssm_cfg, tie_embeddings):
    model = make(n_layer=1, ssm_cfg=ssm_cfg, tie_embeddings=tie_embeddings, eos_token_id=7)
    model.save_pretrained(tmp_path, layout="state-spaces")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["ssm_cfg"]["layer"] == "Mamba2" and set(config["ssm_cfg"]) <= AUTHORS_OPTIONS
    assert config["ssm_cfg"].get("chunk_size", 256) is not None
    state = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert set(state) == AUTHORS_WEIGHTS
    back = MambaLM.from_pretrained(tmp_path)
    assert same(model, back) and back.config.eos_token_id == 7
    assert torch.equal(model(text()), back(text()))


def test_a_checkpoint_as_the_authors_publish_it(tmp_path):
    """config.json of state-spaces/mamba2-130m, smaller."""
    torch.manual_seed(0)
    ssm_cfg = {"layer": "Mamba2"}
    model = MambaLM(MambaConfig(32, 1, 50, ssm_cfg, pad_vocab_size_multiple=16)).eval()
    assert type(model.backbone.layers[0].mixer) is Mamba2
    published = {
        "d_model": 32,
        "d_intermediate": 0,
        "n_layer": 1,
        "vocab_size": 50,
        "ssm_cfg": ssm_cfg,
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(published), encoding="utf-8")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    back = MambaLM.from_pretrained(tmp_path)
    assert same(model, back) and back.config == model.config
    wide = MambaLM.from_pretrained(tmp_path, dtype=torch.bfloat16).backbone.layers[0].mixer
    assert {wide.A_log.dtype, wide.D.dtype, wide.dt_bias.dtype} == {torch.float32}


# --- what a layout cannot hold --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "ssm_cfg", "message"),
    [
        ("transformers", {"rmsnorm": False}, "rmsnorm is False, expected True"),
        ("transformers", {"norm_before_gate": True}, "norm_before_gate is True, expected False"),
        ("transformers", {"D_has_hdim": True}, "D_has_hdim is True, expected False"),
        ("transformers", {"d_ssm": 16}, "d_ssm is 16, expected None"),
        ("transformers", {"norm_eps": 1e-3}, "norm_eps is 0.001, expected 1e-05"),
        ("transformers", {"expand": 1.5}, "expand is 1.5, expected a whole number"),
        ("state-spaces", {"norm_eps": 1e-3}, "norm_eps is 0.001, expected 1e-05"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(tmp_path, layout, ssm_cfg, message):
    with pytest.raises(ValueError, match=message):
        make(ssm_cfg=ssm_cfg).save_pretrained(tmp_path / "new", layout=layout)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("transformers", {"num_heads": 4}, "num_heads 4 and head_dim 4, expected .* = 32"),
        ("transformers", {"n_groups": 3}, "ngroups is 3, expected a divisor of the 8 heads"),
        ("transformers", {"n_groups": 2}, "conv1d.weight has shape"),
        ("transformers", {"time_step_limit": "wide"}, "dt_limit is 'wide', expected two numbers"),
        ("transformers", {"time_step_limit": [{}, 1]}, "dt_limit"),
        ("transformers", {"head_dim": 0}, "head_dim is 0"),
        ("transformers", {"model_type": "mamba"}, "missing .*x_proj"),
        ("state-spaces", {"ssm_cfg": {"layer": "Mamba2", "d_state": 8}}, "headdim is 64"),
        ("state-spaces", {"ssm_cfg": {}}, "missing .*x_proj.weight"),
        ("state-spaces", {"ssm_cfg": {"layer": "Mamba3"}}, "'Mamba3', expected one of: Mamba1, M"),
    ],
)
def test_configurations_that_do_not_fit_are_named(tmp_path, layout, change, message):
    pytest.importorskip("safetensors")
    make().save_pretrained(tmp_path, layout=layout)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises((ValueError, TypeError), match=message):
        MambaLM.from_pretrained(tmp_path)
