"""The block and the model in other people's programs: adapters, hooks, quantization, offloading,
compilation, copies, and every way by which parameters arrive. On a CPU."""

import copy
import io
import pickle
import tempfile

import pytest

torch = pytest.importorskip("torch")

from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune

from ssm_core.mamba import Mamba, MambaConfig, MambaLM, _convolution
from ssm_core.mamba import block as block_module
from ssm_core.optim import parameter_groups

PROJECTIONS = ["in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"]
LINEAR = [name for name in PROJECTIONS if name != "conv1d"]
V = 29  # padded to 32


def make_block(seed=0, **options):
    """A small block with all parameters away from their special values at the start."""
    torch.manual_seed(seed)
    block = Mamba(**{"d_model": 16, "d_state": 4, "bias": True, **options})
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return block


def make_model(seed=0, dtype=None, **options):
    torch.manual_seed(seed)
    fields = {"d_model": 16, "n_layer": 2, "vocab_size": V, "ssm_cfg": {"d_state": 4}, **options}
    model = MambaLM(MambaConfig(**fields), dtype=dtype).eval()
    with torch.no_grad():
        model.backbone.embedding.weight.normal_()
    return model


def signal(b=2, L=7, d=16, seed=1, dtype=torch.float32):
    return torch.randn(b, L, d, generator=torch.manual_seed(seed)).to(dtype)


def text(b=2, L=11, seed=1):
    return torch.randint(V, (b, L), generator=torch.manual_seed(seed))


def stepped(block, hidden):
    """The output of a block, sample by sample."""
    cache = block.allocate_inference_cache(len(hidden), max_seqlen=0, device="cpu")
    return torch.cat([block.step(x, *cache)[0] for x in hidden.split(1, dim=1)], dim=1)


def close(got, want, tolerance=1e-5):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def assert_runs_as(block, truth, tolerance=1e-5):
    """Forward, step and packed forward of a block are those of another one."""
    hidden = signal()
    close(block(hidden), truth(hidden), tolerance)
    close(stepped(block, hidden), truth(hidden), tolerance)
    packing = torch.tensor([0, 2, 7], dtype=torch.int32)
    close(block(hidden[:1], cu_seqlens=packing), truth(hidden[:1], cu_seqlens=packing), tolerance)


def relative(got, want):
    return float((got - want).detach().norm() / want.detach().norm())


# --- modules are called ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"conv_bias": False, "d_conv": 2}, {"mixer_rms_eps": 1e-6}]
)
@pytest.mark.parametrize("b", [1, 2])
def test_calling_a_module_is_the_same_as_the_shortcut_past_it(options, b, monkeypatch):
    block, hidden = make_block(**options).double(), signal(b, dtype=torch.float64)
    hidden.requires_grad_()

    def run():
        out = block(hidden)
        grads = torch.autograd.grad(out.square().sum(), [hidden, *block.parameters()])
        return out, stepped(block, hidden), *grads

    short = run()
    for module in (block_module, _convolution):
        monkeypatch.setattr(module, "is_plain", lambda *_: False)
    for got, want in zip(run(), short, strict=True):
        close(got, want, 1e-11)


def test_hooks_of_every_submodule_run_in_forward_and_in_step():
    block, hidden = make_block(), signal().requires_grad_()
    want, calls = block(hidden), []
    for name in PROJECTIONS:
        module = block.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        module.register_full_backward_hook(lambda *_, name=name: calls.append(f"{name}, back"))
    block.register_forward_hook(lambda *_: calls.append("block"))
    out = block(hidden)
    close(out, want)
    assert sorted(calls) == sorted([*PROJECTIONS, *PROJECTIONS, "block"])
    calls.clear()
    out.sum().backward()
    assert sorted(calls) == sorted(f"{name}, back" for name in PROJECTIONS)
    calls.clear()
    close(stepped(block, hidden), want)
    assert sorted(calls) == sorted(7 * [*PROJECTIONS, *PROJECTIONS, "block"])


def test_hooks_of_every_module_of_a_model_run():
    model, names = make_model(), []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: names.append(name))
    model(text())
    expected = sorted(name for name, m in model.named_modules() if not isinstance(m, nn.ModuleList))
    assert sorted(names) == expected
    names.clear()
    model.generate(text(), 1)
    assert sorted(names) == expected


def test_global_hooks_and_replaced_forwards_are_seen():
    block, hidden, seen = make_block(), signal(), []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        block(hidden)
    finally:
        handle.remove()
    assert {*seen} == {block, *(block.get_submodule(name) for name in PROJECTIONS)}
    want = make_block()
    for name in PROJECTIONS:
        module, other = block.get_submodule(name), want.get_submodule(name)
        module.forward = lambda x, forward=module.forward: 2 * forward(x)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter *= 2
    assert_runs_as(block, want, tolerance=1e-4)


def with_adapters(module, rank, *names):
    """A module with LoRA adapters, which are not zero, at some of its layers."""
    peft = pytest.importorskip("peft")
    peft.get_peft_model(
        nn.Sequential(module),
        peft.LoraConfig(r=rank, target_modules=list(names), init_lora_weights=False),
    )
    return module.eval()


def merged(module):
    """The same without adapters: their products are added to the weights."""
    module = copy.deepcopy(module)
    for name, layer in [*module.named_modules()]:
        if hasattr(layer, "lora_A"):
            base = layer.get_base_layer()
            with torch.no_grad():
                base.weight += layer.get_delta_weight("default")
            module.set_submodule(name, base)
    return module


@pytest.mark.parametrize("name", LINEAR)
def test_a_lora_adapter_changes_forward_and_step_alike(name):
    plain = make_block()
    block, hidden = with_adapters(copy.deepcopy(plain), 1, name), signal()
    assert relative(block(hidden), plain(hidden)) > 1e-3
    assert type(merged(block).get_submodule(name)) is type(plain.get_submodule(name))
    assert_runs_as(block, merged(block))
    block(hidden).sum().backward()
    learned = [p for p in block.parameters() if p.requires_grad]
    assert len(learned) == 2 and all(p.grad.abs().max() > 0 for p in learned)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning")
def test_a_lora_adapter_of_the_convolution():
    want = make_block()
    block = with_adapters(copy.deepcopy(want), 32, "conv1d")  # one for each of the 32 filters
    impulses = torch.eye(32 * 4).view(-1, 32, 4)  # one for each channel and place in the window
    with torch.no_grad():
        answer = block.conv1d(impulses) - block.conv1d(torch.zeros_like(impulses))
        kernel = answer[..., 0].view(32, 4, 32).permute(2, 0, 1)  # an adapter mixes channels
        assert (kernel != 0).sum() > 32 * 4
        bias = want.conv1d.bias.clone()
        want.conv1d = nn.Conv1d(32, 32, 4)
        want.conv1d.weight.copy_(kernel)
        want.conv1d.bias.copy_(bias)
    assert_runs_as(block, want)


def test_lora_on_a_model_generates_as_the_merged_one_does():
    model = make_model(tie_embeddings=False)
    before, ids = model(text()), text()
    model = with_adapters(model, 2, *LINEAR, "embedding", "lm_head")
    assert relative(model(ids), before) > 1e-2
    with pytest.raises(ValueError, match="does not hold the published weights: missing .*merge"):
        model.save_pretrained("nowhere")
    close(merged(model)(ids), model(ids), 1e-4)
    assert torch.equal(merged(model).generate(ids, 8), model.generate(ids, 8))


def test_lora_in_bfloat16():
    block, hidden = with_adapters(make_block().bfloat16(), 2, *LINEAR), signal(dtype=torch.bfloat16)
    wide = copy.deepcopy(block).float()
    for out in (block(hidden), stepped(block, hidden)):
        assert out.dtype == torch.bfloat16
        assert relative(out.float(), wide(hidden.float())) < 2e-2


@pytest.mark.parametrize("name", PROJECTIONS)
def test_pruned_weights_are_gone(name):
    block, want = make_block(), make_block()
    module = block.get_submodule(name)
    prune.random_unstructured(module, "weight", 0.5)
    with torch.no_grad():
        want.get_submodule(name).weight *= module.weight_mask
        module.weight_orig.add_(0.1)  # the next call multiplies by the mask again
        want.get_submodule(name).weight.add_(0.1 * module.weight_mask)
    assert_runs_as(block, want)


@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weight_norm_trains_its_length(name, norm):
    block, want = make_block(), make_block()
    module = norm(block.get_submodule(name))
    length = [p for n, p in module.named_parameters() if n.endswith(("original0", "weight_g"))]
    with torch.no_grad():
        length[0].mul_(1.5)
        want.get_submodule(name).weight.mul_(1.5)
    assert_runs_as(block, want)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per:UserWarning")
def test_dynamic_quantization():
    if "x86" not in torch.backends.quantized.supported_engines:
        pytest.skip("no engine for quantized products")
    block, model, ids = make_block().eval(), make_model(d_model=64), text()
    small = torch.ao.quantization.quantize_dynamic(block, {nn.Linear}, dtype=torch.qint8)
    assert type(small.in_proj) is not nn.Linear
    for out in (small(signal()), stepped(small, signal())):
        assert 1e-5 < relative(out, block(signal())) < 5e-2
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert 1e-5 < relative(quantized(ids), model(ids)) < 0.1
    assert quantized.generate(ids, 5).shape == (2, 16)
    with pytest.raises(ValueError, match="does not hold the published weights"):
        quantized.save_pretrained("nowhere")


def test_offloaded_weights_come_in_when_a_module_is_called():
    accelerate = pytest.importorskip("accelerate")
    block, model = make_block(), make_model()
    hidden, ids = signal(), text()
    with torch.no_grad():
        want, logits = block(hidden), model(ids)
    tokens = model.generate(ids, 6)
    accelerate.cpu_offload(block, execution_device=torch.device("cpu"))
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert block.A_log.is_meta and model.lm_head.weight.is_meta
    with torch.no_grad():
        close(block(hidden), want)
        close(stepped(block, hidden), want)
        close(model(ids), logits)
    assert torch.equal(model.generate(ids, 6), tokens)
    with pytest.raises(ValueError, match="on the device meta, expected a tensor that holds"):
        model.save_pretrained("nowhere")


# --- parameters by every way ------------------------------------------------------------------


def low(module, dtype=torch.bfloat16):
    return {name: x.detach().to(dtype) for name, x in module.named_parameters()}


def by_functional_call(block, hidden):
    return functional_call(block, low(block), (hidden,))


def by_assign(block, hidden):
    block.load_state_dict(low(block), assign=True)
    return block(hidden)


def by_data(block, hidden):
    for parameter in block.parameters():
        parameter.data = parameter.data.bfloat16()
    return block(hidden)


def by_conversion(block, hidden):
    return block.to(torch.bfloat16)(hidden)


@pytest.mark.parametrize("arrive", [by_functional_call, by_assign, by_data, by_conversion])
def test_parameters_in_bfloat16_are_widened_where_they_count(arrive):
    block, hidden = make_block(), signal(L=40, dtype=torch.bfloat16)
    rounded = make_block()
    rounded.load_state_dict({name: x.float() for name, x in low(rounded).items()})
    want = rounded(hidden.float())
    out = arrive(block, hidden)
    assert out.dtype == torch.bfloat16 and relative(out.float(), want) < 2e-2
    if arrive is not by_functional_call:
        assert relative(stepped(block, hidden).float(), want) < 2e-2
        out.float().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in block.parameters())


def test_a_model_in_bfloat16_by_functional_call_and_assign():
    model, ids = make_model(d_model=64), text()
    rounded = copy.deepcopy(model)
    rounded.load_state_dict({name: x.bfloat16().float() for name, x in model.state_dict().items()})
    want = rounded(ids)
    out = functional_call(model, low(model), (ids,))
    assert out.dtype == torch.bfloat16 and relative(out.float(), want) < 2e-2
    state = {name: x.bfloat16() for name, x in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    assert model(ids).dtype == torch.bfloat16 and relative(model(ids).float(), want) < 2e-2


def test_double_precision_stays_double():
    block, hidden = make_block().double(), signal(dtype=torch.float64)
    a, b = block(hidden), stepped(block, hidden)
    assert a.dtype == torch.float64
    close(a, b, 1e-12)
    close(functional_call(make_block(), dict(block.named_parameters()), (hidden,)), a, 1e-12)


def tied_and_marked(model):
    names = {
        id(p)
        for group in parameter_groups(model, lr=0.1, weight_decay=0.1)
        if group["name"] == "no_decay"
        for p in group["params"]
    }
    mixers = [m for m in model.modules() if isinstance(m, Mamba)]
    assert all(id(m.A_log) in names and id(m.D) in names for m in mixers)
    assert all(
        m.A_log._no_weight_decay and m.D._no_weight_decay and m.dt_proj.bias._no_reinit
        for m in mixers
    )
    return model.lm_head.weight is model.backbone.embedding.weight


def on_meta(config):
    return MambaLM(config, device="meta")


def strict(model):
    other = make_model(seed=5)
    other.load_state_dict(model.state_dict())
    return other


def assign(model):
    other = make_model(seed=5)
    other.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    return other


def meta_then_assign(model):
    other = on_meta(model.config)
    other.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    return other


def meta_then_empty(model):
    other = on_meta(model.config).to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    return other


def torch_save(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = make_model(seed=5)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def safetensors(model):
    library = pytest.importorskip("safetensors.torch")
    state = {name: x for name, x in model.state_dict().items() if name != "lm_head.weight"}
    state = library.load(library.save(state))  # which holds a shared matrix once
    other = make_model(seed=5)
    with pytest.raises(RuntimeError, match='Missing key.* "lm_head.weight"'):
        other.load_state_dict(state)
    assert other.load_state_dict(state, strict=False).missing_keys == ["lm_head.weight"]
    return other


def safetensors_model(model):
    library = pytest.importorskip("safetensors.torch")
    with tempfile.TemporaryDirectory() as folder:
        library.save_model(model, f"{folder}/model.safetensors")
        other = make_model(seed=5)
        library.load_model(other, f"{folder}/model.safetensors")
    return other


def inside_another(model):
    other = nn.Sequential(make_model(seed=5))
    other.load_state_dict({f"0.{k}": v.clone() for k, v in model.state_dict().items()}, assign=True)
    return other[0]


def vector(model):
    other = make_model(seed=5)
    numbers = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(numbers, other.parameters())
    return other


def averaged(model):
    average = torch.optim.swa_utils.AveragedModel(
        make_model(seed=5), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.0)
    )
    average.update_parameters(model)
    average.update_parameters(model)
    return average.module


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved_whole(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


ROADS = [
    strict,
    assign,
    meta_then_assign,
    meta_then_empty,
    torch_save,
    safetensors,
    safetensors_model,
    inside_another,
    vector,
    averaged,
    pickled,
    saved_whole,
    copy.deepcopy,
]


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
def test_a_model_arrives_whole_by_every_road(road):
    model, ids = make_model(), text()
    other = road(model).eval()
    assert torch.equal(other(ids), model(ids))
    assert torch.equal(other.generate(ids, 4), model.generate(ids, 4))
    assert tied_and_marked(other)
    ids = text(b=4)  # and it trains as one: the tie holds, A_log does not decay
    losses = []
    for each in (model, other):
        optimizer = torch.optim.AdamW(parameter_groups(each, lr=0.01, weight_decay=0.1))
        for _ in range(3):
            logits = each(ids[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == losses[1]


def test_a_head_that_differs_is_never_dropped_in_silence(tmp_path):
    model, other = make_model(), make_model(seed=3)
    state = {**model.state_dict(), "lm_head.weight": other.lm_head.weight.detach()}
    for way in ({}, {"assign": True}, {"strict": False}):
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(ValueError, match="lm_head.weight that differs from backbone.embedding"):
            other.load_state_dict(state, **way)
        assert all(torch.equal(x, before[name]) for name, x in other.state_dict().items())
    untied = make_model(tie_embeddings=False)
    untied.load_state_dict(state)
    assert torch.equal(untied.lm_head.weight, other.lm_head.weight)

    model.lm_head.weight = nn.Parameter(other.lm_head.weight.detach().clone())
    model.to("cpu", torch.float64).float()  # conversions leave it alone
    model.load_state_dict({"backbone.norm_f.weight": torch.ones(16)}, strict=False)
    assert model.lm_head.weight is not model.backbone.embedding.weight
    pytest.importorskip("safetensors")
    for layout in ("transformers", "state-spaces"):
        model.save_pretrained(tmp_path / layout, layout=layout)
        back = MambaLM.from_pretrained(tmp_path / layout)
        assert torch.equal(back(text()), model(text())) and not back.config.tie_embeddings


def test_one_name_of_a_tied_matrix_is_enough():
    matrix = torch.randn(32, 16)
    for name in ("lm_head.weight", "backbone.embedding.weight"):
        for way in ({}, {"assign": True}):
            model = make_model()
            model.load_state_dict({name: matrix}, strict=False, **way)
            assert torch.equal(model.lm_head.weight, matrix)
            assert model.lm_head.weight is model.backbone.embedding.weight


# --- transforms, recomputation, compilation ---------------------------------------------------


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_of_a_block_gives_the_same_gradients(reentrant):
    block, hidden = make_block(), signal().requires_grad_()

    def gradients(run):
        return torch.autograd.grad(run(hidden).square().sum(), [hidden, *block.parameters()])

    def recomputed(x):
        return torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)

    if reentrant:  # this kind knows .grad only
        recomputed(hidden).square().sum().backward()
        got = [hidden.grad, *(p.grad for p in block.parameters())]
    else:
        got = gradients(recomputed)
    for a, b in zip(got, gradients(block), strict=True):
        assert torch.equal(a, b)


def test_gradients_per_sample_through_torch_func():
    model, ids = make_model(dtype=torch.float64), text(b=3)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, row):
        logits = functional_call(model, parameters, (row[None, :-1],))
        return nn.functional.cross_entropy(logits[0], row[1:])

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, ids)
    for i, row in enumerate(ids):
        model.zero_grad()
        logits = model(row[None, :-1])
        nn.functional.cross_entropy(logits[0], row[1:]).backward()
        for name, parameter in model.named_parameters():
            close(got[name][i], parameter.grad, 1e-10)


def test_forward_mode_is_the_derivative():
    block, hidden, tangent = make_block().double(), *signal(4, dtype=torch.float64).split(2)
    _, got = torch.func.jvp(block, (hidden,), (tangent,))
    step = 1e-6
    want = (block(hidden + step * tangent) - block(hidden - step * tangent)) / (2 * step)
    assert relative(got, want) < 1e-7
    assert got.abs().max() > 1e-3


def test_export_with_any_batch_and_length():
    model, dim = make_model(), torch.export.Dim
    dynamic = {"input_ids": {0: dim("b", min=1, max=64), 1: dim("L", min=2, max=4096)}}
    program = torch.export.export(model, (text(3, 5),), dynamic_shapes=dynamic)
    for b, L in ((1, 2), (2, 11), (4, 300)):
        close(program.module()(text(b, L)), model(text(b, L)))


@pytest.mark.parametrize("packed", [False, True])
def test_the_model_compiles_in_one_graph(packed):
    model, ids = make_model(), text(b=1)
    options = {"cu_seqlens": torch.tensor([0, 4, 11], dtype=torch.int32)} if packed else {}
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    close(compiled(ids, **options), model(ids, **options))
    with torch.no_grad():
        cache, same = (model.allocate_inference_cache(2 if packed else 1, 0) for _ in range(2))
        close(compiled(ids, cache, **options), model(ids, same, **options))
    for got, want in zip(cache.values(), same.values()):
        close(got[0], want[0])
        close(got[1], want[1])


def test_a_compiled_adapter():
    block = with_adapters(make_block(), 1, *LINEAR)
    close(torch.compile(block, fullgraph=True, backend="aot_eager")(signal()), block(signal()))


def test_what_a_layer_is_shows_in_its_name():
    assert "Mamba(\n  d_model=16, d_state=4, d_conv=4, d_inner=32, dt_rank=1\n" in repr(
        make_block()
    )
    shown = repr(make_model(ssm_cfg={"mixer_rms_eps": 1e-6}))
    assert "d_model=16, n_layer=2, vocab_size=29, tie_embeddings=True" in shown
    assert "mixer_rms_eps=1e-06" in shown and "RMSNorm(16, eps=1e-05)" in shown
