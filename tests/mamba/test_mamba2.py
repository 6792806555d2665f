"""The Mamba-2 block against its definition in NumPy, and its ways of running against each other."""

import copy
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from ssm_core.mamba import Mamba2
from ssm_core.optim import parameter_groups

WIDE = ("dt_bias", "A_log", "D")  # what stays in float32


def silu(x):
    return x / (1 + np.exp(-x))


def defined(model, hidden, before_gate=False, eps=1e-5):
    """The block as the paper defines it, head by head: hidden (L, d_model) to (L, d_model)."""
    w = {name: x.detach().double().numpy() for name, x in model.named_parameters()}
    h, p, g, n, k = model.nheads, model.headdim, model.ngroups, model.d_state, model.d_conv
    mlp, low, high = model.d_inner - h * p, *model.dt_limit
    projected = hidden @ w["in_proj.weight"].T + w.get("in_proj.bias", 0)
    z0, x0, z, xBC, dt = np.split(
        projected, np.cumsum([mlp, mlp, h * p, h * p + 2 * g * n]), axis=1
    )
    state, out = np.zeros((h, p, n)), []
    for t in range(len(hidden)):
        u = np.zeros(xBC.shape[1]) + w.get("conv1d.bias", 0)
        for j in range(min(k, t + 1)):  # the last tap sees the newest sample
            u += w["conv1d.weight"][:, 0, k - 1 - j] * xBC[t - j]
        x, B, C = np.split(silu(u), [h * p, h * p + g * n])
        x, B, C = x.reshape(h, p), B.reshape(g, n), C.reshape(g, n)
        y = np.zeros((h, p))
        for i in range(h):
            group = i // (h // g)
            step = np.clip(np.log1p(np.exp(dt[t, i] + w["dt_bias"][i])), low, high)
            decay = np.exp(-step * np.exp(w["A_log"][i]))
            state[i] = decay * state[i] + step * np.outer(x[i], B[group])
            D = w["D"].reshape(h, p)[i] if model.D_has_hdim else w["D"][i]
            y[i] = state[i] @ C[group] + D * x[i]
        y, gate = y.reshape(-1), silu(z[t])
        if model.rmsnorm:
            y = y if before_gate else y * gate
            y = y.reshape(g, -1)
            y = (y / np.sqrt((y**2).mean(1, keepdims=True) + eps)).reshape(-1) * w["norm.weight"]
            y = y * gate if before_gate else y
        else:
            y = y * gate
        y = np.concatenate([silu(z0[t]) * x0[t], y])
        out.append(w["out_proj.weight"] @ y + w.get("out_proj.bias", 0))
    return np.array(out)


def make(dtype=torch.float64, seed=0, **options):
    """A small block, four heads, with all parameters away from their special values at the start."""
    torch.manual_seed(seed)
    model = Mamba2(**{"d_model": 6, "d_state": 3, "headdim": 3, **options, "dtype": dtype})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def signal(b=2, L=11, d=6, dtype=torch.float64, seed=1):
    return torch.randn(b, L, d, dtype=torch.float64, generator=torch.manual_seed(seed)).to(dtype)


def close(got, want, tolerance=1e-11):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


OPTIONS = [
    {},
    {"ngroups": 2, "bias": True},
    {"ngroups": 4, "conv_bias": False, "D_has_hdim": True},
    {"d_conv": 1, "rmsnorm": False},
    {"d_conv": 7, "d_state": 1, "norm_before_gate": True, "ngroups": 2},
    {"expand": 1.5, "dt_limit": (0.3, 0.9), "chunk_size": 16},
    {"d_ssm": 6, "D_has_hdim": True, "rmsnorm": False, "dt_limit": [0.0, 0.5], "chunk_size": 7},
    {"headdim": 12, "norm_eps": 0.1, "conv_init": 0.5},
]
every_option = pytest.mark.parametrize("options", OPTIONS)


@every_option
def test_block_is_its_definition(options):
    model, hidden = make(**options), signal()
    variant = options.get("norm_before_gate", False), options.get("norm_eps", 1e-5)
    expected = [defined(model, row, *variant) for row in hidden.numpy()]
    np.testing.assert_allclose(model(hidden).detach().numpy(), expected, rtol=1e-10, atol=1e-11)


def test_limits_of_steps_count():
    """In a step too: the steps of other packages leave them out."""
    free, limited = make(), make(dt_limit=(0.3, 0.9))
    assert (free(signal()) - limited(signal())).abs().max() > 1e-2


@every_option
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_steps_give_what_the_whole_pass_gives(options, dtype, tolerance):
    model, hidden = make(dtype, **options), signal(L=20, dtype=dtype)
    conv_state, ssm_state = model.allocate_inference_cache(2, max_seqlen=20)
    channels = model.d_ssm + 2 * model.ngroups * model.d_state
    assert conv_state.shape == (2, channels, model.d_conv) and conv_state.dtype == dtype
    assert ssm_state.shape == (2, model.nheads, model.headdim, model.d_state)
    assert ssm_state.dtype == dtype
    ys = []
    for t in range(20):
        y, *states = model.step(hidden[:, t : t + 1], conv_state, ssm_state)
        assert states[0] is conv_state and states[1] is ssm_state and y.shape == (2, 1, 6)
        ys.append(y)
    close(torch.cat(ys, 1), model(hidden), tolerance)


@pytest.mark.parametrize("pieces", [[11], [1] * 11, [9, 2], [4, 0, 3, 1, 3], [0, 11]])
@pytest.mark.parametrize("options", [OPTIONS[1], OPTIONS[6]])
@pytest.mark.parametrize("grad", [True, False])
def test_pieces_give_what_one_pass_gives(pieces, options, grad):
    model, hidden = make(**options), signal()
    cache = model.allocate_inference_cache(2, max_seqlen=11)
    whole = model.allocate_inference_cache(2, max_seqlen=11)
    with torch.set_grad_enabled(grad):  # without gradients a piece of one sample takes a step
        out = torch.cat([model(piece, cache) for piece in hidden.split(pieces, dim=1)], dim=1)
    close(out, model(hidden, whole))
    close(out, model(hidden))
    for state, expected in zip(cache, whole):
        assert not state.requires_grad
        close(state, expected)


@pytest.mark.parametrize("lengths", [[11], [4, 7], [0, 5, 0, 0, 6, 0], [10, 1]])
@pytest.mark.parametrize("options", [{}, OPTIONS[6]])
def test_packed_sequences_do_not_see_each_other(lengths, options):
    model, row = make(**options), signal(b=1).requires_grad_()
    bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    cache = model.allocate_inference_cache(len(lengths), max_seqlen=0)
    for state in cache:  # what each sequence has seen before
        state.copy_(torch.randn(state.shape, dtype=torch.float64, generator=torch.manual_seed(5)))
    starts = [state.clone() for state in cache]

    weight = signal(b=1, seed=7)
    fresh = model(row, cu_seqlens=bounds)
    after = model(row, cache, cu_seqlens=bounds)
    (grad,) = torch.autograd.grad(((fresh + after) * weight).sum(), row)

    alone = row.detach().clone().requires_grad_()
    parts = alone.split(lengths, dim=1)
    caches = [tuple(state[i : i + 1].clone() for state in starts) for i in range(len(lengths))]
    expected_fresh = torch.cat([model(part) for part in parts], dim=1)
    expected = torch.cat([model(part, state) for part, state in zip(parts, caches)], dim=1)
    (expected_grad,) = torch.autograd.grad(((expected_fresh + expected) * weight).sum(), alone)
    close(fresh, expected_fresh)
    close(after, expected)
    close(grad, expected_grad, 1e-10)
    for i, state in enumerate(cache):
        close(state, torch.cat([c[i] for c in caches]))


@pytest.mark.parametrize("options", [OPTIONS[1], OPTIONS[6]])
def test_gradients_are_those_of_finite_differences(options):
    model, hidden = make(**options), signal(b=1, L=5).requires_grad_()
    names, values = zip(*model.named_parameters())

    def run(hidden, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters)), (hidden,))

    assert torch.autograd.gradcheck(run, (hidden, *values), fast_mode=True)


def test_no_sample_sees_a_later_one():
    model, hidden = make(), signal().requires_grad_()
    for t in range(11):
        (grad,) = torch.autograd.grad(model(hidden)[:, t].sum(), hidden)
        assert (grad[:, t + 1 :] == 0).all() and (grad[:, t] != 0).all()
        assert (grad[:, 0] != 0).all()  # the first is never forgotten


def test_the_state_is_returned_beside_the_output():
    """As S4 does it: the cache that was given stays as it is, and gradients flow through states."""
    model, hidden = make(ngroups=2), signal().requires_grad_()
    want, (grad,) = model(hidden), torch.autograd.grad(model(hidden)[:, 6:].square().sum(), hidden)
    first, state = model(hidden[:, :6], return_state=True)
    kept = [x.clone() for x in state]
    rest, last = model(hidden[:, 6:], state, return_state=True)
    close(torch.cat([first, rest], 1), want)
    close(torch.autograd.grad(rest.square().sum(), hidden)[0], grad)
    assert all(torch.equal(x, y) for x, y in zip(state, kept))
    cache = model.allocate_inference_cache(2, 11)
    model(hidden, cache)
    for x, y, start in zip(last, cache, model.default_state(2)):
        close(x, y)
        assert start.shape == y.shape and not start.any()
    with torch.no_grad():
        start = model.default_state(2)
        out, state = model(hidden[:, :1], start, return_state=True)
        assert not any(x.any() for x in start)
        close(out, want[:, :1])


# --- the start ------------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_the_published_checkpoints():
    """state-spaces/mamba2-130m, one layer."""
    shapes = {name: tuple(x.shape) for name, x in Mamba2(768).state_dict().items()}
    assert shapes == {
        "dt_bias": (24,),
        "A_log": (24,),
        "D": (24,),
        "in_proj.weight": (3352, 768),
        "conv1d.weight": (1792, 1, 4),
        "conv1d.bias": (1792,),
        "norm.weight": (1536,),
        "out_proj.weight": (768, 1536),
    }


def test_the_start():
    torch.manual_seed(0)
    model = Mamba2(2048, headdim=2, d_state=4, dt_min=0.002, dt_max=0.2, A_init_range=(2, 5))
    dt = torch.nn.functional.softplus(model.dt_bias.detach().double()).numpy()
    assert 0.002 * (1 - 1e-5) < dt.min() and dt.max() < 0.2 * (1 + 1e-5)
    place = np.sort(np.log(dt / 0.002) / np.log(100))  # uniform in [0, 1] if all is right
    assert np.abs(place - np.linspace(0, 1, len(place))).max() < 0.05
    rates = np.sort((model.A_log.detach().exp().numpy() - 2) / 3)
    assert np.abs(rates - np.linspace(0, 1, len(rates))).max() < 0.05
    assert (model.D == 1).all() and (model.norm.weight == 1).all()
    filters = Mamba2(64, conv_init=0.01).conv1d.weight
    assert 0.009 < filters.abs().max() <= 0.01


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [lambda m: m.to(torch.bfloat16), lambda m: m.double().half()])
def test_decays_and_steps_stay_in_float32(convert):
    model = make(torch.float32)
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    model = convert(model)
    for name, parameter in model.named_parameters():
        wide = name in WIDE
        assert parameter.dtype == (torch.float32 if wide else model.in_proj.weight.dtype), name
        assert torch.equal(parameter, before[name]) == wide
    conv_state, ssm_state = model.allocate_inference_cache(1, 1)
    assert conv_state.dtype == model.in_proj.weight.dtype and ssm_state.dtype == torch.float32


@pytest.mark.parametrize("options", [{}, {"rmsnorm": False, "dt_limit": (0.01, 0.5)}])
def test_low_precision_stays_near_float32(options):
    model = Mamba2(32, d_state=8, headdim=8, ngroups=2, **options).bfloat16()
    hidden = signal(L=100, d=32, dtype=torch.bfloat16)
    expected = copy.deepcopy(model).float()(hidden.float())
    out, cache = model(hidden), model.allocate_inference_cache(2, 100)
    assert out.dtype == torch.bfloat16
    assert (out - expected).norm() / expected.norm() < 2e-2
    steps = torch.cat([model.step(hidden[:, t : t + 1], *cache)[0] for t in range(100)], dim=1)
    assert (steps - expected).norm() / expected.norm() < 2e-2
    out.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_parameters_in_bfloat16_are_widened_where_they_count():
    model, hidden = make(torch.float32), signal(dtype=torch.bfloat16)
    rounded = {name: x.detach().bfloat16() for name, x in model.named_parameters()}
    want = torch.func.functional_call(
        model, {name: x.float() for name, x in rounded.items()}, (hidden.float(),)
    )
    model.load_state_dict(rounded, assign=True)
    out = model(hidden)
    assert out.dtype == torch.bfloat16 and (out - want).norm() / want.norm() < 2e-2


def test_autocast():
    model, hidden = make(torch.float32, d_model=12), signal(L=50, d=12, dtype=torch.float32)
    expected, cache = model(hidden), model.allocate_inference_cache(2, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = torch.cat([model(hidden[:, :20], cache), model(hidden[:, 20:], cache)], dim=1)
    assert out.dtype == torch.bfloat16
    assert (out - expected).norm() / expected.norm() < 2e-2


def test_marks_outlive_copies_and_conversions():
    model = Mamba2(8, headdim=4)
    assigned = Mamba2(8, headdim=4)
    assigned.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    for kind in (model, copy.deepcopy(model).bfloat16(), assigned):
        assert all(getattr(kind, name)._no_weight_decay for name in WIDE)
    decay = parameter_groups(model, lr=0.1, weight_decay=0.1)[0]
    decayed = {id(p) for p in decay["params"]}
    assert decayed == {id(m.weight) for m in (model.in_proj, model.conv1d, model.out_proj)}


# --- in other programs ----------------------------------------------------------------------------


def test_hooks_of_every_submodule_run_in_forward_and_in_step():
    block, hidden, calls = make(torch.float32), signal(dtype=torch.float32), []
    names = ["in_proj", "conv1d", "norm", "out_proj"]
    for name in names:
        module = block.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    block.register_forward_hook(lambda *_: calls.append("block"))
    block(hidden)
    assert sorted(calls) == sorted([*names, "block"])
    calls.clear()
    block.step(hidden[:, :1], *block.allocate_inference_cache(2))
    assert sorted(calls) == sorted([*names, "block"])


@pytest.mark.parametrize("name", ["in_proj", "conv1d", "out_proj"])
def test_a_parametrized_module_runs_as_its_weight(name):
    block, want = make(), make()
    module = nn.utils.parametrizations.weight_norm(block.get_submodule(name))
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(1.5)
        want.get_submodule(name).weight.mul_(1.5)
    cache = block.allocate_inference_cache(2)
    steps = torch.cat([block.step(x, *cache)[0] for x in signal().split(1, 1)], 1)
    close(block(signal()), want(signal()))
    close(steps, want(signal()))


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning")
@pytest.mark.parametrize(("name", "rank"), [("in_proj", 2), ("conv1d", 18), ("out_proj", 2)])
def test_a_lora_adapter_changes_forward_and_step_alike(name, rank):
    peft = pytest.importorskip("peft")
    plain, block = make(), make()
    peft.get_peft_model(
        nn.Sequential(block),
        peft.LoraConfig(r=rank, target_modules=[name], init_lora_weights=False),
    )
    block = block.double().eval()
    cache, out = block.allocate_inference_cache(2), block(signal())
    close(torch.cat([block.step(x, *cache)[0] for x in signal().split(1, 1)], 1), out)
    assert (out - plain(signal())).abs().max() > 1e-3
    out.sum().backward()
    learned = [p for p in block.parameters() if p.requires_grad]
    assert len(learned) == 2 and all(p.grad.abs().max() > 0 for p in learned)


@pytest.mark.parametrize("packed", [False, True])
def test_the_block_compiles_without_a_break(packed):
    model, hidden = make(torch.float32, ngroups=2), signal(b=1, dtype=torch.float32)
    bounds = torch.tensor([0, 4, 11], dtype=torch.int32) if packed else None
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    close(compiled(hidden, cu_seqlens=bounds), model(hidden, cu_seqlens=bounds), 1e-5)
    compiled(hidden, cu_seqlens=bounds).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(hidden, cu_seqlens=bounds).sum().backward()
    for grad, parameter in zip(grads, model.parameters()):
        close(grad, parameter.grad, 1e-4)


def test_forward_mode_is_the_derivative():
    block, (hidden, tangent) = make(), signal(4).split(2)
    _, got = torch.func.jvp(block, (hidden,), (tangent,))
    step = 1e-6
    want = (block(hidden + step * tangent) - block(hidden - step * tangent)) / (2 * step)
    close(got, want, 1e-6)
    assert got.abs().max() > 1e-3


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"d_model": 0}, ValueError, "d_model is 0, expected an integer of at least 1"),
        ({"d_state": -1}, ValueError, "d_state is -1"),
        ({"expand": 1.3}, ValueError, "expand \\* d_model is 10.4, expected a whole number"),
        ({"headdim": 5}, ValueError, "headdim is 5, expected a divisor of the 16 channels"),
        ({"ngroups": 3}, ValueError, "ngroups is 3, expected a divisor of the 4 heads"),
        ({"d_ssm": 20}, ValueError, "d_ssm is 20, expected at most expand \\* d_model = 16"),
        ({"A_init_range": (0, 1)}, ValueError, "A_init_range is 0"),
        ({"A_init_range": (2, 1)}, ValueError, "A_init_range is \\(2, 1\\), expected .* in order"),
        ({"A_init_range": 1}, TypeError, "A_init_range is 1, expected two numbers"),
        ({"dt_limit": (0.2, 0.1)}, ValueError, "dt_limit is \\(0.2, 0.1\\), expected"),
        ({"dt_limit": (-1, 1)}, ValueError, "dt_limit is -1"),
        ({"dt_limit": (math.nan, 1)}, ValueError, "dt_limit is nan"),
        ({"dt_min": 1.0, "dt_max": 0.1}, ValueError, "dt_min is 1, expected at most dt_max, 0.1"),
        ({"dt_init_floor": 0}, ValueError, "dt_init_floor is 0"),
        ({"rmsnorm": 1}, TypeError, "rmsnorm is 1, expected True or False"),
        ({"chunk_size": 0}, ValueError, "chunk_size is 0"),
        ({"conv_init": -1}, ValueError, "conv_init is -1"),
        ({"norm_eps": 0}, ValueError, "norm_eps is 0"),
    ],
)
def test_bad_sizes_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Mamba2(**{"d_model": 8, "headdim": 4, **options})


CACHE = (torch.zeros(2, 18, 4).double(), torch.zeros(2, 4, 3, 3).double())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_states": signal(d=5)}, ValueError, r"shape \(2, 11, 5\), expected .*d_model = 6"),
        ({"hidden_states": signal().float()}, TypeError, "float32, expected torch.float64"),
        ({"cache": CACHE[0]}, TypeError, r"cache is a Tensor, expected \(conv_state, ssm_state\)"),
        ({"cache": CACHE[::-1]}, ValueError, "conv_state has shape .* expected .*d_conv = 4"),
        ({"cache": (CACHE[0], CACHE[1][:1])}, ValueError, "ssm_state has shape .*nheads = 4"),
        ({"cu_seqlens": torch.tensor([0, 11]).int()}, ValueError, "hidden_states has batch size 2"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        make()(**{"hidden_states": signal(), **arguments})


def test_a_step_refuses_what_the_state_would_keep():
    model, hidden = make(), signal(L=1)
    hidden[1, 0, 2] = torch.nan
    with pytest.raises(ValueError, match="hidden_states holds NaN or infinity"):
        model.step(hidden, *model.default_state(2))
