"""The Mamba block against its definition in NumPy, and its ways of running against each other."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ssm_core.mamba import Mamba

WIDE = ("A_log", "D", "dt_proj.bias")  # what stays in float32


def silu(x):
    return x / (1 + np.exp(-x))


def defined(model, hidden):
    """The block as the paper defines it, sample by sample: hidden (L, d_model) to (L, d_model)."""
    p = {name: x.detach().double().numpy() for name, x in model.named_parameters()}
    n, k, rank = model.d_state, model.d_conv, model.dt_rank
    xz = hidden @ p["in_proj.weight"].T + p.get("in_proj.bias", 0)
    x, z = np.split(xz, 2, axis=1)  # (L, d_inner)
    state, out = np.zeros((model.d_inner, n)), []
    for t in range(len(hidden)):
        u = np.zeros(model.d_inner) + p.get("conv1d.bias", 0)
        for j in range(k):  # the last tap sees the newest sample
            if t - j >= 0:
                u += p["conv1d.weight"][:, 0, k - 1 - j] * x[t - j]
        u = silu(u)
        dt, B, C = np.split(p["x_proj.weight"] @ u, [rank, rank + n])
        dt = np.log1p(np.exp(p["dt_proj.weight"] @ dt + p["dt_proj.bias"]))
        decay = np.exp(-dt[:, None] * np.exp(p["A_log"]))
        state = decay * state + np.outer(dt * u, B)
        y = (state @ C + p["D"] * u) * silu(z[t])
        out.append(p["out_proj.weight"] @ y + p.get("out_proj.bias", 0))
    return np.array(out)


def make(dtype=torch.float64, seed=0, **options):
    """A small block with all parameters away from their special values at the start."""
    torch.manual_seed(seed)
    model = Mamba(**{"d_model": 6, "d_state": 3, **options, "dtype": dtype})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def signal(b=2, L=11, d=6, dtype=torch.float64, seed=1):
    return torch.randn(b, L, d, dtype=torch.float64, generator=torch.manual_seed(seed)).to(dtype)


OPTIONS = [
    {},
    {"bias": True},
    {"conv_bias": False},
    {"d_conv": 1},
    {"d_conv": 7, "d_state": 1},
    {"expand": 1.5, "dt_rank": 2},
    {"d_state": 16, "dt_init": "constant", "bias": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_block_is_its_definition(options):
    model, hidden = make(**options), signal()
    expected = [defined(model, row) for row in hidden.numpy()]
    np.testing.assert_allclose(model(hidden).detach().numpy(), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_steps_give_what_the_whole_pass_gives(options, dtype, tolerance):
    model, hidden = make(dtype, **options), signal(L=40, dtype=dtype)
    conv_state, ssm_state = model.allocate_inference_cache(2, max_seqlen=40)
    assert conv_state.shape == (2, model.d_inner, model.d_conv) and conv_state.dtype == dtype
    assert ssm_state.shape == (2, model.d_inner, model.d_state) and ssm_state.dtype == dtype
    ys = []
    for t in range(40):
        y, *states = model.step(hidden[:, t : t + 1], conv_state, ssm_state)
        assert states[0] is conv_state and states[1] is ssm_state and y.shape == (2, 1, 6)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), model(hidden), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pieces", [[11], [1] * 11, [2, 9], [9, 2], [4, 0, 3, 1, 3], [0, 11]])
@pytest.mark.parametrize("options", [{}, {"d_conv": 1}, {"d_conv": 6, "bias": True}])
@pytest.mark.parametrize("grad", [True, False])
def test_pieces_give_what_one_pass_gives(pieces, options, grad):
    model, hidden = make(**options), signal()
    cache = model.allocate_inference_cache(2, max_seqlen=11)
    whole = model.allocate_inference_cache(2, max_seqlen=11)
    with torch.set_grad_enabled(grad):  # without gradients a piece of one sample takes a step
        out = torch.cat([model(piece, cache) for piece in hidden.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(out, model(hidden, whole), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out, model(hidden), rtol=1e-12, atol=1e-12)
    for state, expected in zip(cache, whole):
        assert not state.requires_grad
        torch.testing.assert_close(state, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_pieces_stop_at_their_border():
    model, hidden = make(), signal(L=10)
    cache = model.allocate_inference_cache(2, max_seqlen=10)
    first = hidden[:, :6].clone().requires_grad_()
    second = hidden[:, 6:].clone().requires_grad_()
    a, b = model(first, cache), model(second, cache)
    (a.sum() + b.sum()).backward()
    alone = hidden[:, :6].clone().requires_grad_()
    model(alone).sum().backward()
    torch.testing.assert_close(first.grad, alone.grad, rtol=1e-12, atol=1e-12)
    assert second.grad.abs().min() > 0


@pytest.mark.parametrize("lengths", [[11], [4, 7], [1, 2, 3, 5], [0, 5, 0, 0, 6, 0], [10, 1]])
@pytest.mark.parametrize("options", [{}, {"d_conv": 1}, {"d_conv": 6}])
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
    torch.testing.assert_close(fresh, expected_fresh, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-12)
    for i, state in enumerate(cache):
        torch.testing.assert_close(state, torch.cat([c[i] for c in caches]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"bias": True, "d_conv": 2}, {"conv_bias": False}])
def test_gradients_are_those_of_finite_differences(options):
    model, hidden = make(d_model=3, d_state=2, **options), signal(b=2, L=5, d=3).requires_grad_()
    names, values = zip(*model.named_parameters())

    def run(hidden, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters)), (hidden,))

    assert torch.autograd.gradcheck(run, (hidden, *values))


def test_no_sample_sees_a_later_one():
    model, hidden = make(), signal().requires_grad_()
    for t in range(11):
        (grad,) = torch.autograd.grad(model(hidden)[:, t].sum(), hidden)
        assert (grad[:, t + 1 :] == 0).all() and (grad[:, t] != 0).all()
        assert (grad[:, 0] != 0).all()  # the first is never forgotten


def test_an_empty_sequence_leaves_the_state_alone():
    model = make()
    cache = model.allocate_inference_cache(2, max_seqlen=0)
    model(signal(), cache)
    before = [state.clone() for state in cache]
    assert model(signal(L=0), cache).shape == (2, 0, 6)
    for state, expected in zip(cache, before):
        assert torch.equal(state, expected)


# ------------------------------------------------------------------------------------ the start


def test_steps_start_in_their_range_evenly_in_the_logarithm():
    torch.manual_seed(0)
    model = Mamba(2048, dt_min=0.002, dt_max=0.2)
    dt = torch.nn.functional.softplus(model.dt_proj.bias.detach().double()).numpy()
    assert 0.002 * (1 - 1e-5) < dt.min() and dt.max() < 0.2 * (1 + 1e-5)
    place = np.sort(np.log(dt / 0.002) / np.log(100))  # uniform in [0, 1] if all is right
    assert np.abs(place - np.linspace(0, 1, len(place))).max() < 0.03
    floored = Mamba(64, dt_min=1e-6, dt_max=1e-5, dt_init_floor=1e-3)
    dt = torch.nn.functional.softplus(floored.dt_proj.bias.detach().double())
    torch.testing.assert_close(dt, torch.full_like(dt, 1e-3), rtol=1e-5, atol=0)


def test_decays_start_at_whole_numbers_and_the_rank_is_a_sixteenth():
    model = Mamba(50, d_state=5)
    expected = torch.tensor([-1.0, -2, -3, -4, -5]).expand(100, 5)
    torch.testing.assert_close(-torch.exp(model.A_log.detach()), expected)
    assert (model.D == 1).all() and model.dt_rank == 4 and model.d_inner == 100
    bound = 3 * 4**-0.5
    weight = Mamba(50, dt_scale=3).dt_proj.weight
    assert 0.9 * bound < weight.abs().max() <= bound
    assert (Mamba(50, dt_scale=3, dt_init="constant").dt_proj.weight == bound).all()


def test_names_and_shapes_are_those_of_the_published_checkpoints():
    shapes = {name: tuple(x.shape) for name, x in Mamba(768).state_dict().items()}
    assert shapes == {
        "A_log": (1536, 16),
        "D": (1536,),
        "in_proj.weight": (3072, 768),
        "conv1d.weight": (1536, 1, 4),
        "conv1d.bias": (1536,),
        "x_proj.weight": (80, 1536),
        "dt_proj.weight": (1536, 48),
        "dt_proj.bias": (1536,),
        "out_proj.weight": (768, 1536),
    }


# ------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.to(torch.bfloat16),
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.double().bfloat16(),
        lambda m: torch.nn.Sequential(m).to(torch.bfloat16)[0],
    ],
)
def test_decays_and_steps_stay_in_float32(convert):
    model = make(torch.float32)
    model(signal(dtype=torch.float32)).sum().backward()
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    model = convert(model)
    for name, parameter in model.named_parameters():
        wide = name in WIDE
        assert parameter.dtype == (torch.float32 if wide else model.in_proj.weight.dtype), name
        assert parameter.dtype == parameter.grad.dtype
        assert torch.equal(parameter, before[name]) == wide


def test_a_block_made_in_bfloat16_and_one_in_float64():
    low, double = Mamba(8, dtype=torch.bfloat16), Mamba(8).double()
    for name in WIDE:
        assert low.get_parameter(name).dtype == torch.float32
        assert double.get_parameter(name).dtype == torch.float64
    assert low.in_proj.weight.dtype == torch.bfloat16
    conv_state, ssm_state = low.allocate_inference_cache(1, 1)
    assert conv_state.dtype == torch.bfloat16 and ssm_state.dtype == torch.float32
    assert {x.dtype for x in low.allocate_inference_cache(1, 1, torch.float16)} == {torch.float16}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_near_float32(dtype):
    model = Mamba(32).to(dtype)
    hidden = signal(L=200, d=32, dtype=dtype)
    wide = copy.deepcopy(model).float()
    expected = wide(hidden.float())
    out = model(hidden)
    assert out.dtype == dtype
    relative = (out - expected).norm() / expected.norm()
    assert relative < (2e-2 if dtype == torch.bfloat16 else 3e-3)
    cache = model.allocate_inference_cache(2, 200)
    steps = torch.cat([model.step(hidden[:, t : t + 1], *cache)[0] for t in range(200)], dim=1)
    assert (steps - expected).norm() / expected.norm() < 2e-2
    out.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_autocast():
    model, hidden = make(torch.float32, d_model=16), signal(L=50, d=16, dtype=torch.float32)
    expected = model(hidden)
    cache = model.allocate_inference_cache(2, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = torch.cat([model(hidden[:, :20], cache), model(hidden[:, 20:], cache)], dim=1)
    assert out.dtype == torch.bfloat16
    assert (out - expected).norm() / expected.norm() < 2e-2
    out.float().sum().backward()
    assert model.A_log.grad.dtype == torch.float32


def test_marks_outlive_copies_and_conversions():
    model = Mamba(8)
    for kind in (
        model,
        copy.deepcopy(model),
        copy.deepcopy(model).bfloat16(),
        Mamba(8, device="meta").to_empty(device="cpu"),
    ):
        assert kind.A_log._no_weight_decay and kind.D._no_weight_decay
        assert kind.dt_proj.bias._no_reinit
        assert not hasattr(kind.in_proj.weight, "_no_weight_decay")


# ------------------------------------------------------------------------------------ the rest


@pytest.mark.parametrize("packed", [False, True])
def test_the_block_compiles_without_a_break(packed):
    model, hidden = make(torch.float32), signal(b=1, dtype=torch.float32)
    bounds = torch.tensor([0, 4, 11], dtype=torch.int32) if packed else None
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(hidden, cu_seqlens=bounds), model(hidden, cu_seqlens=bounds)
    )
    compiled(hidden, cu_seqlens=bounds).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(hidden, cu_seqlens=bounds).sum().backward()
    for grad, parameter in zip(grads, model.parameters()):
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"d_model": 0}, ValueError, "d_model is 0, expected an integer of at least 1"),
        ({"d_model": 8.0}, TypeError, "d_model is 8.0, expected an integer"),
        ({"d_state": -1}, ValueError, "d_state is -1"),
        ({"d_conv": 0}, ValueError, "d_conv is 0"),
        ({"expand": 0.01}, ValueError, "d_inner is 0"),
        ({"dt_rank": "all"}, ValueError, "dt_rank is 'all', expected one of: auto"),
        ({"dt_rank": 0}, ValueError, "dt_rank is 0"),
        ({"dt_min": 0.0}, ValueError, "dt_min is 0"),
        ({"dt_min": 1.0, "dt_max": 0.1}, ValueError, "dt_min is 1, expected at most dt_max, 0.1"),
        ({"dt_max": np.nan}, ValueError, "dt_max is nan"),
        ({"dt_init": "zeros"}, ValueError, "dt_init is 'zeros', expected one of"),
        ({"dt_scale": -1}, ValueError, "dt_scale is -1"),
        ({"dt_init_floor": 0}, ValueError, "dt_init_floor is 0"),
    ],
)
def test_bad_sizes_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Mamba(**{"d_model": 8, **options})


CACHE = (torch.zeros(2, 12, 4).double(), torch.zeros(2, 12, 3).double())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_states": np.zeros((2, 5, 6))}, TypeError, "hidden_states is a ndarray"),
        ({"hidden_states": signal(d=5)}, ValueError, r"shape \(2, 11, 5\), expected .*d_model = 6"),
        ({"hidden_states": signal()[0]}, ValueError, r"hidden_states has shape \(11, 6\)"),
        ({"hidden_states": signal().float()}, TypeError, "float32, expected torch.float64"),
        ({"hidden_states": signal().long()}, TypeError, "int64, expected a floating-point"),
        ({"hidden_states": signal().to("meta")}, ValueError, "is on meta, expected cpu"),
        ({"cache": CACHE[0]}, TypeError, r"cache is a Tensor, expected \(conv_state, ssm_state\)"),
        ({"cache": CACHE[::-1]}, ValueError, "conv_state has shape .* expected .*d_conv = 4"),
        ({"cache": (CACHE[0], CACHE[1][:1])}, ValueError, "ssm_state has shape .*rows = 2"),
        ({"cu_seqlens": torch.tensor([0, 11])}, TypeError, "cu_seqlens has dtype int64"),
        ({"cu_seqlens": torch.tensor([0, 11]).int()}, ValueError, "hidden_states has batch size 2"),
        (
            {"hidden_states": signal(b=1), "cu_seqlens": torch.tensor([0, 12]).int()},
            ValueError,
            r"cu_seqlens runs from 0 to 12, expected from 0 to .* 11",
        ),
        (
            {"hidden_states": signal(b=1), "cu_seqlens": torch.tensor([0, 7, 3, 11]).int()},
            ValueError,
            "expected boundaries that do not fall",
        ),
        (
            {"hidden_states": signal(b=1), "cu_seqlens": torch.tensor([0]).int()},
            ValueError,
            r"cu_seqlens has shape \(1,\)",
        ),
        (
            {
                "hidden_states": signal(b=1),
                "cu_seqlens": torch.tensor([0, 4, 11]).int(),
                "cache": (CACHE[0][:1], CACHE[1][:1]),
            },
            ValueError,
            "conv_state has shape .*rows = 2",
        ),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        make()(**{"hidden_states": signal(), **arguments})


def test_a_step_takes_one_sample():
    with pytest.raises(ValueError, match=r"hidden_states has shape \(2, 11, 6\)"):
        make().step(signal(), *CACHE)


def test_the_state_is_returned_beside_the_output():
    """As S4 does it: the cache that was given stays as it is, and gradients flow through states."""
    model, hidden = make(), signal()
    want = model(hidden)
    first, state = model(hidden[:, :6], return_state=True)
    kept = [x.clone() for x in state]
    rest, last = model(hidden[:, 6:], state, return_state=True)
    torch.testing.assert_close(torch.cat([first, rest], 1), want)
    assert all(torch.equal(x, y) for x, y in zip(state, kept))
    cache = model.allocate_inference_cache(2, 11)
    model(hidden, cache)
    for x, y, start in zip(last, cache, model.default_state(2)):
        torch.testing.assert_close(x, y)
        assert start.shape == y.shape and not start.any()
    with torch.no_grad():
        start = model.default_state(2)
        out, state = model(hidden[:, :1], start, return_state=True)
        assert not any(x.any() for x in start)
        torch.testing.assert_close(out, want[:, :1])
        for x, right in zip(state, model(hidden[:, :1], return_state=True)[1]):
            torch.testing.assert_close(x, right)

    given = signal(seed=2).requires_grad_()
    gradients = []
    for whole in (True, False):
        if whole:
            y = model(given)[:, 6:]
        else:
            y = model(given[:, 6:], model(given[:, :6], return_state=True)[1])
        gradients.append(torch.autograd.grad(y.square().sum(), given)[0])
    torch.testing.assert_close(*gradients)
