"""Mamba without gradients on a GPU, where its kernels run, against its definition in PyTorch there:
``pytest tests/gpu``. More sizes of the kernels are in ``tests/mamba/interpreted_kernels.py``."""

import copy

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
pytest.importorskip("triton")

from torch.nn import functional

from ssm_core.mamba import Mamba, MambaConfig, MambaLM, _operators

DEVICE = "cuda"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
DTYPES = list(TOLERANCE)


@pytest.fixture(autouse=True)
def in_full_precision():
    """PyTorch's convolution of float32 may have ten bits."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.fixture
def plain(monkeypatch):
    """Call a function without the kernels and without gradients."""

    def call(function, *args, **options):
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(_operators, "fuses", lambda _: False)
            return function(*args, **options)

    return call


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.manual_seed(seed), dtype=torch.float64).to(
        DEVICE, dtype
    )


def assert_close(got, want, times=1):
    """Every element within rounding of what is wanted, beside itself and the root mean square."""
    assert got.dtype == want.dtype and got.shape == want.shape
    error = times * TOLERANCE[got.dtype]
    scale = want.double().abs() + want.double().square().mean().sqrt() + 1e-30
    assert not got.numel() or ((got.double() - want.double()).abs() / scale).max() < error


# --- kernels -------------------------------------------------------------------------------------

SIZES = [
    (1, 1, 1, 4),
    (2, 33, 2, 3),
    (3, 500, 5, 4),
    (2, 1, 64, 2),
    (3, 33, 130, 4),
    (2, 1536, 2048, 4),
    (1, 500, 2051, 4),
    (2, 3, 1029, 9),
    (2, 5, 0, 4),
]


@pytest.mark.parametrize("b, d, L, k", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_convolution(b, d, L, k, dtype):
    x = random(d, b, L, dtype=dtype, seed=1).transpose(0, 1)
    weight, bias = random(d, k, dtype=dtype, seed=2), random(d, dtype=dtype, seed=3)
    before = random(b, d, k, dtype=dtype, seed=4)
    padded = torch.cat([before, x], dim=-1)
    want = functional.conv1d(padded.double(), weight.double()[:, None], bias.double(), groups=d)
    want = functional.silu(want[..., 1:]).to(dtype)
    out, window = _operators.convolve(x, weight, bias, before)
    assert_close(out, want)
    assert torch.equal(window, padded[..., -k:])
    state = before.clone()
    steps = [_operators.convolve_one(state, x[..., t], weight, bias) for t in range(min(L, 70))]
    if 0 < L <= 70:
        assert_close(torch.stack(steps, dim=-1), want)
        assert torch.equal(state, window)


@pytest.mark.parametrize("rows, width", [(1, 1), (3, 33), (2, 500), (5, 768), (1, 2560), (2, 8193)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16])
def test_sum_and_norm(rows, width, dtype, stream):
    x, added = random(rows, width, dtype=stream, seed=1), random(rows, width, dtype=dtype, seed=2)
    weight = random(width, dtype=dtype, seed=3)
    total, normed = _operators.add_norm(x, added, weight, 1e-5)
    assert torch.equal(total, x + added)
    want = functional.rms_norm(total.double(), (width,), weight.double(), 1e-5).to(dtype)
    assert_close(normed, want)
    assert_close(_operators.add_norm(total, None, weight, 1e-5), want)


def test_more_elements_than_32_bits_hold():
    """The first channel and tile against all others, and a sequence that is as long."""
    if torch.cuda.mem_get_info()[0] < 30 * 2**30:
        pytest.skip("30 GiB of GPU memory are needed")
    half = torch.bfloat16
    for b, d, L in ((2, 40_000, 32_000), (1, 1, 2**31 + 1029)):
        weight = torch.ones(d, 4, device=DEVICE, dtype=half)
        out, window = _operators.convolve(
            torch.ones(b, d, L, device=DEVICE, dtype=half), weight, None, None
        )
        assert torch.equal(out[..., :4], out[:1, :1, :4].expand(b, d, 4))
        limit = functional.silu(torch.tensor(4.0)).to(half).item()
        assert (out.view(-1, L)[:, 3:].amin() == limit) and (out.amax() == limit)
        assert (window == 1).all()
        del out
    x = torch.ones(2**20, 2051, device=DEVICE, dtype=half)
    total, normed = _operators.add_norm(x, x, torch.ones(2051, device=DEVICE, dtype=half), 1e-5)
    assert (total == 2).all() and (normed == 1).all()


def test_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    x, weight = random(2, 33, 20, seed=1), random(33, 4, seed=2)
    first, second = (
        _operators.convolve(x.to(to), weight.to(to), None, None)[0].cpu()
        for to in ("cuda:0", "cuda:1")
    )
    assert torch.equal(first, second)


# --- the block and the model ---------------------------------------------------------------------


def make_block(dtype=torch.float32, d_model=250, **options):
    torch.manual_seed(0)
    block = Mamba(d_model, device=DEVICE, **options)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return block.to(dtype)


def run(block, hidden, pieces):
    """The output and the states after it, of a sequence in pieces."""
    cache = block.allocate_inference_cache(len(hidden), max_seqlen=0)
    with torch.no_grad():
        out = torch.cat([block(piece, cache) for piece in hidden.split(pieces, dim=1)], dim=1)
    return out, *cache


OPTIONS = [
    {},
    {"bias": True, "d_conv": 2},
    {"conv_bias": False, "d_conv": 3},
    {"d_conv": 11},
    {"d_state": 5, "dt_rank": 7, "d_model": 33},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pieces", [[130], [1] * 130, [64, 1, 65], [2, 0, 128]])
def test_block(options, pieces, plain):
    block = make_block(**options)
    hidden = random(3, 130, block.d_model)
    got = run(block, hidden, pieces)
    for x, want, whole in zip(got, plain(run, block, hidden, pieces), run(block, hidden, [130])):
        assert_close(x, want)
        assert_close(x, whole, times=10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pieces", [[130], [1] * 130, [64, 1, 65]])
def test_block_in_sixteen_bits_is_as_near_to_float32_as_pytorch_is(dtype, pieces, plain):
    block, hidden = make_block(dtype), random(3, 130, 250, dtype=dtype)
    truth = plain(run, copy.deepcopy(block).float(), hidden.float(), [130])
    for got, simple, exact in zip(
        run(block, hidden, pieces), plain(run, block, hidden, pieces), truth
    ):
        assert got.dtype == simple.dtype
        assert (got - exact).norm() < 1.2 * (simple - exact).norm() + 1e-6 * exact.norm()


def test_autocast(plain):
    block, hidden = make_block(), random(3, 130, 250)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        got, simple = run(block, hidden, [65, 1, 64]), plain(run, block, hidden, [65, 1, 64])
    for x, y, exact in zip(got, simple, plain(run, block, hidden, [130])):
        assert x.dtype == y.dtype
        assert (x - exact).norm() < 1.2 * (y - exact).norm() + 1e-6 * exact.norm()


def make_model(dtype=torch.float32, **options):
    torch.manual_seed(0)
    fields = {"d_model": 96, "n_layer": 3, "vocab_size": 101, **options}
    model = MambaLM(MambaConfig(**fields), device=DEVICE, dtype=dtype)
    with torch.no_grad():  # logits that differ enough for the likeliest to be clear
        model.backbone.embedding.weight.normal_()
    return model, torch.randint(101, (4, 70), device=DEVICE)


def logits(model, ids, pieces):
    cache = model.allocate_inference_cache(len(ids), max_seqlen=0)
    with torch.no_grad():
        return torch.cat([model(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)


MAMBA2 = {"layer": "Mamba2", "headdim": 16, "d_state": 32, "ngroups": 3}


@pytest.mark.parametrize(
    "options", [{}, {"rms_norm": False}, {"ssm_cfg": {"bias": True}}, {"ssm_cfg": MAMBA2}]
)
@pytest.mark.parametrize("pieces", [[70], [64, 1, 5], [1] * 70])
def test_model(options, pieces, plain):
    model, ids = make_model(**options)
    got = logits(model, ids, pieces)
    assert_close(got, plain(logits, model, ids, pieces))
    assert_close(got, logits(model, ids, [70]), times=10)


@pytest.mark.parametrize("wide", [True, False])
def test_model_in_bfloat16(wide, plain):
    model, ids = make_model(torch.bfloat16, residual_in_fp32=wide)
    exact = plain(logits, copy.deepcopy(model).float(), ids, [70])
    got, simple = logits(model, ids, [60, 10]), plain(logits, model, ids, [60, 10])
    assert (got - exact).norm() < 1.2 * (simple - exact).norm()


def test_hooks_see_the_stream(plain):
    model, ids = make_model()
    seen = []
    model.backbone.layers[1].register_forward_hook(lambda *call: seen.append(call[2]))
    assert_close(logits(model, ids, [70]), plain(logits, model, ids, [70]))
    for got, want in zip(*seen):  # what is added, and to what
        assert_close(got, want)


@pytest.mark.parametrize("b", [1, 64])
@pytest.mark.parametrize("options", [{}, {"ssm_cfg": {**MAMBA2, "dt_limit": (0.01, 0.5)}}])
def test_generation(b, options, plain):
    model, ids = make_model(**options)
    prompt = ids[:1].expand(b, -1)
    captured = model.generate(prompt, 30)
    assert torch.equal(captured, model.generate(prompt, 30, cuda_graph=False))
    assert torch.equal(captured, plain(model.generate, prompt, 30, cuda_graph=False))


def test_a_captured_step_sees_decay_rates_that_change_in_place():
    model, ids = make_model(torch.bfloat16)
    with torch.no_grad():  # outputs that come from the states alone, and states that move
        for layer in model.backbone.layers:
            layer.mixer.D.zero_()
            layer.mixer.x_proj.weight.mul_(30)

    def drawn(**options):  # by chance, so that a change of the logits shows
        generator = torch.Generator("cuda").manual_seed(0)
        return model.generate(ids, 30, temperature=10.0, generator=generator, **options)

    before = drawn()
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.A_log.add_(2)
    after = drawn()
    assert torch.equal(after, drawn(cuda_graph=False))
    assert not torch.equal(after, before)


def test_kernels_of_a_step():
    """Seven a layer, and what cuBLAS adds where it splits a product."""
    model, ids = make_model(torch.bfloat16)
    cache = model.allocate_inference_cache(4, max_seqlen=0)
    logits(model, ids, [70])
    with torch.no_grad(), torch.profiler.profile() as profile:
        model(ids[:, :1], cache)
        torch.cuda.synchronize()
    names = [
        event.name
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    ours = [name for name in names if name in ("_add_norm", "_convolve_one", "scan_step")]
    assert len(ours) == 3 * 3 + 1
    assert len(names) <= 3 * (7 + 2) + 8, names


def test_compiled(plain):
    block, hidden = make_block(), random(3, 130, 250)
    with torch.no_grad():
        got = torch.compile(block, fullgraph=True)(hidden)
    assert_close(got, plain(block, hidden))
