"""The Mamba language model: its ways of running against each other, and generation."""

import copy
import dataclasses
import gc
import subprocess
import sys
import weakref

import pytest

torch = pytest.importorskip("torch")

from ssm_core.mamba import MambaConfig, MambaLM, generation

V = 29  # padded to 32


def make(seed=0, dtype=torch.float64, device=None, **options):
    torch.manual_seed(seed)
    fields = {"d_model": 8, "n_layer": 2, "vocab_size": V, "ssm_cfg": {"d_state": 3}, **options}
    model = MambaLM(MambaConfig(**fields), device=device, dtype=dtype)
    with torch.no_grad():  # logits that differ enough for the likeliest to be clear
        model.backbone.embedding.weight.normal_()
    return model


def text(b=2, L=11, seed=1):
    return torch.randint(V, (b, L), generator=torch.manual_seed(seed))


def close(a, b, tolerance=1e-11):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_the_model_is_a_sum_of_blocks_on_normed_sums():
    model, ids = make(rms_norm=True, norm_epsilon=1e-3), text()
    x = model.backbone.embedding.weight[ids]

    def norm(x, weight):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt() * weight

    for layer in model.backbone.layers:
        with torch.no_grad():
            layer.norm.weight.normal_()
        x = x + layer.mixer(norm(x, layer.norm.weight))
    with torch.no_grad():
        model.backbone.norm_f.weight.normal_()
    expected = norm(x, model.backbone.norm_f.weight) @ model.lm_head.weight[:V].T
    close(model(ids), expected)
    assert expected.shape == (2, 11, V)


def test_layer_norm():
    model, ids = make(rms_norm=False, n_layer=1), text()
    x = model.backbone.embedding.weight[ids]
    for norm in (model.backbone.layers[0].norm, model.backbone.norm_f):
        with torch.no_grad():
            norm.weight.normal_()
            norm.bias.normal_()

    def normed(x, norm):
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * norm.weight + norm.bias

    layer = model.backbone.layers[0]
    x = x + layer.mixer(normed(x, layer.norm))
    close(model(ids), normed(x, model.backbone.norm_f) @ model.lm_head.weight[:V].T)


@pytest.mark.parametrize("pieces", [[11], [1] * 11, [5, 6], [3, 1, 7]])
def test_a_text_in_pieces_gives_the_logits_of_one_pass(pieces):
    model, ids = make(), text()
    cache = model.allocate_inference_cache(2, max_seqlen=11)
    with torch.no_grad():
        close(torch.cat([model(piece, cache) for piece in ids.split(pieces, 1)], 1), model(ids))


def test_packed_texts_do_not_see_each_other():
    model, ids = make(), text(b=1)
    bounds = torch.tensor([0, 4, 4, 11], dtype=torch.int32)
    cache = model.allocate_inference_cache(3, max_seqlen=11)
    close(
        model(ids, cache, cu_seqlens=bounds), torch.cat([model(ids[:, :4]), model(ids[:, 4:])], 1)
    )
    alone = model.allocate_inference_cache(1, max_seqlen=11)
    model(ids[:, 4:], alone)
    for i in range(2):
        for state, expected in zip(cache[i], alone[i]):
            close(state[2:], expected)
            assert (state[1] == 0).all()


def test_last_tokens_only():
    model, ids = make(), text()
    close(model(ids, num_last_tokens=3), model(ids)[:, -3:])


@pytest.mark.parametrize("last", [1, 3])
def test_last_tokens_of_each_packed_text(last):
    model, ids = make(), text(b=1)
    bounds = torch.tensor([0, 4, 7, 11], dtype=torch.int32)
    got = model(ids, cu_seqlens=bounds, num_last_tokens=last)
    want = [model(ids[:, i:j], num_last_tokens=last) for i, j in zip(bounds, bounds[1:])]
    close(got, torch.cat(want))
    assert got.shape == (3, last, V)
    with pytest.raises(ValueError, match="num_last_tokens is 4, expected at most .* text, 3"):
        model(ids, cu_seqlens=bounds, num_last_tokens=4)


def test_logits_are_those_of_the_vocabulary_in_one_piece():
    for model in (make(), make(tie_embeddings=False), make(pad_vocab_size_multiple=1)):
        ids = text()
        logits = model(ids)
        assert logits.shape == (2, 11, V) and logits.is_contiguous()
        plain = logits.clone()
        model.lm_head.register_forward_hook(lambda module, inputs, y: 1 * y)  # not past the hook
        logits = model(ids)
        close(logits, plain)
        assert logits.is_contiguous()
        logits.sum().backward()
        assert not model.lm_head.weight.grad[V:].any() or model.config.tie_embeddings


def test_bytes_are_tokens():
    model, ids = make(), text()
    assert torch.equal(model(ids.to(torch.uint8)), model(ids))
    out = model.generate(ids.to(torch.uint8), 4)
    assert out.dtype == torch.int64 and torch.equal(out, model.generate(ids, 4))


def test_recomputing_changes_memory_and_no_gradient():
    model, ids = make(n_layer=3), text()
    kept = []

    def gradients():
        model.zero_grad()
        saved = 0

        def pack(x):
            nonlocal saved
            saved += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = model(ids).square().mean()
        kept.append(saved)
        loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    model.gradient_checkpointing = True
    for grad, expected in zip(gradients(), plain):
        assert torch.equal(grad, expected)
    assert kept[1] < 0.3 * kept[0]
    cache = model.allocate_inference_cache(2, max_seqlen=11)
    out = model(ids, cache)
    close(out, model(ids))
    out.sum().backward()  # and nothing is run twice where a state would be changed
    once = make(n_layer=3).allocate_inference_cache(2, max_seqlen=11)
    model.gradient_checkpointing = False
    model(ids, once)
    for i in range(3):
        for state, expected in zip(cache[i], once[i]):
            assert torch.equal(state, expected)


def test_every_parameter_learns_with_biases_too():
    model, ids = make(ssm_cfg={"d_state": 3, "bias": True}), text(b=8, L=20)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
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
    model = MambaLM(MambaConfig(64, 9, 1000, ssm_cfg={"bias": True}))
    assert abs(model.backbone.embedding.weight.std() - 0.02) < 1e-3
    assert model.lm_head.weight is model.backbone.embedding.weight
    for layer in model.backbone.layers:
        bound = 128**-0.5 / 3  # 1 / sqrt(fan in), over sqrt(n_layer)
        assert 0.98 * bound < layer.mixer.out_proj.weight.abs().max() <= bound
        assert (layer.mixer.in_proj.bias == 0).all() and (layer.mixer.out_proj.bias == 0).all()
        assert (layer.mixer.dt_proj.bias < -2).all()  # softplus of it is at most 0.1
    untied = MambaLM(
        MambaConfig(
            64, 1, 10, tie_embeddings=False, rescale_prenorm_residual=False, initializer_range=3.0
        )
    )
    assert untied.lm_head.weight is not untied.backbone.embedding.weight
    assert untied.backbone.embedding.weight.std() > 2
    bound = 128**-0.5
    assert 0.98 * bound < untied.backbone.layers[0].mixer.out_proj.weight.abs().max() <= bound


def test_the_residual_stream_is_float32_in_a_bfloat16_model():
    seen = []
    for wide in (True, False):
        model = make(dtype=torch.bfloat16, residual_in_fp32=wide)
        model.backbone.layers[1].register_forward_pre_hook(
            lambda _, x: seen.append((x[0].dtype, x[1].dtype))
        )  # what is added, and to what
        assert model(text()).dtype == torch.bfloat16
    assert seen == [(torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)]


def test_bfloat16_stays_near_float32():
    model = make(dtype=torch.bfloat16, d_model=64)
    wide = copy.deepcopy(model).float()
    expected = wide(text())
    assert (model(text()) - expected).norm() / expected.norm() < 2e-2


def test_the_model_compiles_without_a_break():
    model, ids = make(dtype=torch.float32), text()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    close(compiled(ids), model(ids), 1e-5)


# ------------------------------------------------------------------------------------ generation


def greedy(model, ids, new):
    """Tokens that are the likeliest ones, each from a pass over the whole text."""
    for _ in range(new):
        ids = torch.cat([ids, model(ids)[:, -1:, :V].argmax(-1)], dim=1)
    return ids


def test_generation_is_greedy():
    model, prompt = make(), text(b=3, L=5)
    expected = greedy(model, prompt, 20)
    assert torch.equal(model.generate(prompt, 20), expected)
    assert torch.equal(model.generate(prompt.int(), 20), expected.int())
    assert torch.equal(model.generate(prompt[:, :1], 20), greedy(model, prompt[:, :1], 20))
    assert torch.equal(model.generate(prompt, 0), prompt)
    assert len({tuple(row) for row in expected[:, 5:].tolist()}) == 3
    assert not model.generate(prompt, 2).requires_grad


def test_rows_that_only_fill_the_table_are_no_tokens():
    model = make(tie_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[V:] = 100 * model.lm_head.weight[:3].abs()
        model.lm_head.weight[V + 1 :] *= -1
    new = model.generate(text(), 30)
    assert new.max() < V
    drawn = model.generate(text(), 30, temperature=100.0, generator=torch.manual_seed(0))
    assert drawn.max() < V


def test_a_row_ends_with_its_last_token():
    model, prompt = make(), text(b=3, L=5)

    def drawn(prompt, **options):
        return model.generate(
            prompt, 20, temperature=5.0, generator=torch.manual_seed(2), **options
        )

    free = drawn(prompt)
    end = int(free[1, 9])
    first = [row.index(end) if end in row else 20 for row in free[:, 5:].tolist()]
    assert len({*first}) > 1 and (free[1, 5 + first[1] + 1 :] != end).any()
    stopped = drawn(prompt, eos_token_id=end)
    assert torch.equal(stopped, drawn(prompt, eos_token_id=[V + 1, end]))
    for i, place in enumerate(first):
        assert torch.equal(stopped[i, : 5 + place], free[i, : 5 + place])
        assert (stopped[i, 5 + place :] == end).all()
    greedy_end = int(model.generate(prompt, 20)[1, 9])
    alone = model.generate(prompt[1:2], 20, eos_token_id=greedy_end)
    assert alone.shape[1] < 5 + 20  # no step is taken after all have ended
    assert alone[0, 5:].tolist().index(greedy_end) == alone.shape[1] - 6


def test_stream_yields_what_generate_returns():
    model, prompt = make(), text()
    stream = model.stream(prompt, 6, temperature=1.0, generator=torch.manual_seed(3))
    tokens = [next(stream) for _ in range(6)]
    with pytest.raises(StopIteration):
        next(stream)
    expected = model.generate(prompt, 6, temperature=1.0, generator=torch.manual_seed(3))
    assert torch.equal(torch.stack(tokens, 1), expected[:, 5 + 6 :])
    assert not torch.equal(
        expected, model.generate(prompt, 6, temperature=1.0, generator=torch.manual_seed(4))
    )


def test_generation_in_inference_mode():
    model, prompt = make(), text()
    with torch.inference_mode():
        inside = model.generate(prompt, 5, eos_token_id=3)
    assert torch.equal(inside, model.generate(prompt.int(), 5, eos_token_id=3).long())


def test_two_streams_at_a_time_keep_apart():
    model, a, b = make(), text(seed=1), text(seed=2)
    pairs = list(zip(model.stream(a, 5), model.stream(b, 5)))
    for prompt, tokens in zip((a, b), zip(*pairs)):
        assert torch.equal(torch.stack(tokens, 1), model.generate(prompt, 5)[:, 11:])


LOGITS = torch.log(torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]))


@pytest.mark.parametrize(
    ("options", "probabilities"),
    [
        ({"temperature": 1.0}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"temperature": 0.5}, [0.01, 0.16, 0.0025, 0.09, 0.0225]),  # squares
        ({"temperature": 1.0, "top_k": 2}, [0, 0.4, 0, 0.3, 0]),
        ({"temperature": 1.0, "top_k": 9}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"temperature": 1.0, "top_p": 0.65}, [0, 0.4, 0, 0.3, 0]),
        ({"temperature": 1.0, "top_p": 0.75}, [0, 0.4, 0, 0.3, 0.15]),
        ({"temperature": 1.0, "top_p": 1e-9}, [0, 1, 0, 0, 0]),
        ({"temperature": 1.0, "top_p": 1.0}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.8}, [0, 0.4, 0, 0.3, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_their_probability(options, probabilities):
    n = 40_000
    drawn = generation.sample(LOGITS.expand(n, -1), **options, generator=torch.manual_seed(0))
    share = torch.bincount(drawn, minlength=5) / n
    expected = torch.tensor(probabilities) / sum(probabilities)
    assert (share - expected).abs().max() < 4 * 0.5 / n**0.5  # four standard deviations
    assert (share[expected == 0] == 0).all()


def test_generation_keeps_no_model_alive():
    model = make()
    model.generate(text(), 3)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_gives_the_tokens_of_a_plain_one(dtype):
    model = make(dtype=dtype, device="cuda", d_model=64)
    for b, L in ((3, 5), (3, 9), (1, 4), (3, 5)):  # captured, again, another size, and back
        prompt = text(b, L).cuda()
        captured = model.generate(prompt, 20)
        assert torch.equal(captured, model.generate(prompt, 20, cuda_graph=False))
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16):
        assert torch.equal(captured, model.generate(prompt, 20))
    with torch.no_grad():
        model.backbone.embedding.weight.mul_(-1)  # in place: the graph sees it
    assert torch.equal(model.generate(prompt, 20), model.generate(prompt, 20, cuda_graph=False))
    with torch.inference_mode():
        model.generate(prompt[:1], 20)  # captured here
    assert torch.equal(model.generate(prompt[:1], 20), model.generate(prompt, 20)[:1])
    model.to(torch.float16)  # elsewhere: it is captured anew
    assert torch.equal(model.generate(prompt, 20), model.generate(prompt, 20, cuda_graph=False))


@cuda
def test_two_captured_streams_at_a_time_keep_apart():
    model, a, b = make(dtype=torch.float32, device="cuda"), text(seed=1).cuda(), text(seed=2).cuda()
    pairs = [(x.clone(), y.clone()) for x, y in zip(model.stream(a, 5), model.stream(b, 5))]
    for prompt, tokens in zip((a, b), zip(*pairs)):
        assert torch.equal(torch.stack(tokens, 1), model.generate(prompt, 5)[:, 11:])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"d_model": 0}, ValueError, "d_model is 0, expected an integer of at least 1"),
        ({"n_layer": "2"}, TypeError, "n_layer is '2', expected an integer"),
        ({"vocab_size": -5}, ValueError, "vocab_size is -5"),
        ({"norm_epsilon": 0}, ValueError, "norm_epsilon is 0"),
        ({"rms_norm": 1}, TypeError, "rms_norm is 1, expected True or False"),
        ({"ssm_cfg": None}, TypeError, "ssm_cfg is a NoneType, expected a dict"),
        (
            {"ssm_cfg": {"heads": 8}},
            ValueError,
            "ssm_cfg holds heads, expected options of the Mamba",
        ),
        ({"ssm_cfg": {"d_model": 8}}, ValueError, "ssm_cfg holds d_model"),
        ({"ssm_cfg": {3: 8}}, ValueError, "ssm_cfg holds 3"),
        (
            {"ssm_cfg": {"d_state": -3}},
            ValueError,
            "ssm_cfg does not fit .*d_state is -3, expected",
        ),
        ({"ssm_cfg": {"bias": "no"}}, TypeError, "bias is 'no', expected True or False"),
        ({"ssm_cfg": {"mixer_rms_eps": 0}}, ValueError, "mixer_rms_eps is 0, expected a number ab"),
        ({"ssm_cfg": {"dt_min": 1.0}}, ValueError, "dt_min is 1, expected at most dt_max"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, ValueError, "'Mamba3', expected one of: Mamba1, Mamba2"),
        ({"ssm_cfg": {"layer": 1}}, TypeError, r"ssm_cfg\['layer'\] is 1, expected one of"),
        ({"eos_token_id": "x"}, TypeError, "eos_token_id is 'x', expected an integer"),
        ({"eos_token_id": [1, -1]}, ValueError, "eos_token_id is -1, expected an integer of at"),
        ({"eos_token_id": True}, TypeError, "eos_token_id is True"),
        ({"initializer_range": float("nan")}, ValueError, "initializer_range is nan"),
        ({"pad_vocab_size_multiple": 0}, ValueError, "pad_vocab_size_multiple is 0"),
    ],
)
def test_bad_configurations_are_named(fields, error, message):
    with pytest.raises(error, match=message):
        MambaConfig(**{"d_model": 8, "n_layer": 2, "vocab_size": V, **fields})


def test_a_configuration_does_not_change():
    options = {"layer": "Mamba1", "d_state": 3}
    torch.manual_seed(0)
    config = MambaConfig(8, 2, V, options, eos_token_id=(1, 2))
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))  # no random number was used
    options["d_state"] = -1
    assert config.ssm_cfg == {"layer": "Mamba1", "d_state": 3} and config.eos_token_id == [1, 2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = -1
    assert dataclasses.replace(config, d_model=4) == MambaConfig(
        4, 2, V, {"layer": "Mamba1", "d_state": 3}, eos_token_id=[1, 2]
    )
    with pytest.raises(ValueError, match="d_model is -1"):
        dataclasses.replace(config, d_model=-1)
    ids = text()
    torch.manual_seed(0)
    named = MambaLM(config)(ids)
    torch.manual_seed(0)
    assert torch.equal(named, MambaLM(MambaConfig(8, 2, V, {"d_state": 3}))(ids))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_ids": [[1, 2]]}, TypeError, "input_ids is a list, expected a torch.Tensor"),
        ({"input_ids": text()[0]}, ValueError, r"input_ids has shape \(11,\), expected \(b, L\)"),
        ({"input_ids": text().float()}, TypeError, "input_ids has dtype float32, expected int64"),
        (
            {"input_ids": text() - 9},
            ValueError,
            "input_ids holds -.*, expected tokens from 0 to 28",
        ),
        ({"input_ids": text() + 9}, ValueError, "expected tokens from 0 to 28"),
        ({"num_last_tokens": -1}, ValueError, "num_last_tokens is -1"),
        ({"cache": [1]}, TypeError, "cache is a list, expected the dict"),
        ({"cache": {0: None}}, TypeError, "one entry per block"),
        ({"cu_seqlens": torch.tensor([0, 11]).int()}, ValueError, "input_ids has batch size 2"),
        (
            {"input_ids": text(1), "cu_seqlens": torch.tensor([0, 10]).int()},
            ValueError,
            r"cu_seqlens runs from 0 to 10",
        ),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        make()(**{"input_ids": text(), **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_ids": text(L=0)}, ValueError, "input_ids has length 0"),
        ({"input_ids": text() + 9}, ValueError, "expected tokens from 0 to 28"),
        ({"max_new_tokens": -1}, ValueError, "max_new_tokens is -1"),
        ({"max_new_tokens": 2.5}, TypeError, "max_new_tokens is 2.5"),
        ({"temperature": -1}, ValueError, "temperature is -1"),
        ({"top_k": 5}, ValueError, "temperature is 0, .* expected a temperature above 0"),
        ({"top_p": 0.5}, ValueError, "temperature is 0"),
        ({"temperature": 1, "top_k": 0}, ValueError, "top_k is 0"),
        ({"temperature": 1, "top_p": 1.5}, ValueError, "top_p is 1.5"),
        ({"temperature": 1, "top_p": 0.0}, ValueError, "top_p is 0"),
        ({"eos_token_id": "."}, TypeError, "eos_token_id is '.'"),
        ({"generator": 7}, TypeError, "generator is a int"),
        ({"cuda_graph": True}, ValueError, "cuda_graph is True and the model is on cpu"),
    ],
)
def test_bad_requests_are_named(arguments, error, message):
    model = make()
    with pytest.raises(error, match=message):
        model.generate(**{"input_ids": text(), "max_new_tokens": 2, **arguments})
    with pytest.raises(TypeError, match="config is a dict, expected a MambaConfig"):
        MambaLM({})


def test_importing_mamba_loads_nothing_that_only_checkpoints_need():
    code = (
        "import sys, ssm_core.mamba; print([m for m in ('transformers', 'tokenizers', "
        "'safetensors', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "[]"
