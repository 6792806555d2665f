"""The Triton kernels of the Mamba block on a CPU; ``test_triton`` runs this file.

Triton's interpreter has to be chosen before Triton is first imported, so this is a process of its
own.
"""

import copy

import pytest
import torch
from torch.nn import functional

from ssm_core.mamba import Mamba, MambaConfig, MambaLM, _operators, block
from ssm_core.mamba import triton as kernels
from ssm_core.mamba.model import RMSNorm

# In 16 bits the interpreter cuts off where a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
DTYPES = list(TOLERANCE)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_close(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    error = TOLERANCE[want.dtype]
    torch.testing.assert_close(got, want, rtol=error, atol=error / 4)


def convolved(x, weight, bias, before):
    """The definition in the block, in float32 and rounded once; the window in full."""
    padded = torch.cat([before.to(x.dtype), x], dim=-1)
    y = functional.conv1d(
        padded.float(),
        weight.float()[:, None],
        None if bias is None else bias.float(),
        groups=x.shape[1],
    )[..., 1:]
    return functional.silu(y).to(x.dtype), padded[..., -weight.shape[1] :]


@pytest.fixture(autouse=True)
def poisoned():
    """New memory holds NaN, which an element that is never written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# --- the convolution -----------------------------------------------------------------------------

# One channel and many, less than the eight samples of a thread, one tile and two of them.
SIZES = [
    (1, 1, 1, 4),
    (2, 33, 2, 3),
    (3, 33, 5, 4),
    (2, 1, 64, 2),
    (1, 500, 5, 4),
    (1, 33, 130, 4),
    (1, 500, 130, 2),
    (1, 2, 1029, 4),
    (2, 3, 17, 9),
    (2, 3, 16, 1),
    (2, 5, 0, 4),
]


@pytest.mark.parametrize("b, d, L, k", SIZES)
@pytest.mark.parametrize("start", [False, True])
def test_convolution(b, d, L, k, start):
    x, weight = random(b, d, L, seed=1), random(d, k, seed=2)
    bias, before = random(d, seed=3), random(b, d, k, seed=4)
    if not start:
        bias, before = None, None
    out, window = kernels.convolve(x, weight, bias, before)
    want = convolved(x, weight, bias, torch.zeros(b, d, k) if before is None else before)
    assert_close(out, want[0])
    assert torch.equal(window, want[1]) and out.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide", [False, True])
def test_convolution_in_other_dtypes(dtype, wide):
    """Also with weights and a state of a wider dtype than the samples, as under autocast."""
    other = torch.float32 if wide else dtype
    x, weight = random(2, 33, 64, seed=1, dtype=dtype), random(33, 4, seed=2, dtype=other)
    bias, before = random(33, seed=3, dtype=other), random(2, 33, 4, seed=4, dtype=dtype).to(other)
    got, want = kernels.convolve(x, weight, bias, before), convolved(x, weight, bias, before)
    assert_close(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_convolution_of_any_strides(order):
    back = sorted(range(3), key=order.__getitem__)
    x, before = random(2, 66, 21, seed=1), random(2, 33, 4, seed=4)
    want = convolved(x[:, 33:], random(33, 4), None, before)
    x, before = (M.permute(order).contiguous().permute(back) for M in (x, before))
    got = kernels.convolve(x[:, 33:], random(33, 4), None, before)
    assert_close(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize(
    "b, d, k", [(1, 1, 4), (3, 33, 2), (2, 500, 3), (2, 129, 1), (0, 5, 4), (1, 7, 12)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_of_the_convolution(b, d, k, dtype):
    """With samples that are slices and a state of other strides."""
    x, weight = random(b, 2 * d, 3, seed=1, dtype=dtype), random(d, k, seed=2, dtype=dtype)
    bias, before = random(d, seed=3, dtype=dtype), random(b, k, d, seed=4, dtype=dtype).mT
    state, x = before.clone(memory_format=torch.preserve_format), x[:, d:]
    want, window = convolved(x, weight, bias, before)
    for t in range(3):
        column = x[..., t].contiguous() if t else x.permute(2, 0, 1).contiguous()[0]
        assert_close(kernels.convolve_one(state, column, weight, bias), want[..., t])
    assert torch.equal(state, window) and state.stride() == before.stride()


def test_a_state_of_more_digits():
    x, state = random(2, 33, dtype=torch.bfloat16), random(2, 33, 4, seed=4)
    weight, want = random(33, 4, seed=2), torch.cat([state[..., 1:], x[..., None]], dim=-1)
    y = kernels.convolve_one(state, x, weight, None)
    assert_close(y, functional.silu((want * weight).sum(-1)).bfloat16())
    assert torch.equal(state, want)


# --- the norm ------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 33, 500])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stream", DTYPES)
def test_sum_and_norm(width, dtype, stream):
    x, added = random(2, 3, width, seed=1, dtype=stream), random(2, 3, width, seed=2, dtype=dtype)
    norm = RMSNorm(width, eps=1e-2, dtype=dtype)
    torch.nn.init.normal_(norm.weight)
    total, normed = kernels.add_norm(x, added, norm.weight.detach(), norm.eps)
    assert_close(total, x + added)
    assert_close(normed, norm(total).detach())
    nothing, normed = kernels.add_norm(x.mT.contiguous().mT, None, norm.weight.detach(), norm.eps)
    assert nothing is None
    assert_close(normed, norm(x).detach())


def test_a_norm_of_no_rows():
    assert kernels.add_norm(torch.empty(2, 0, 5), None, torch.ones(5), 1e-5)[1].shape == (2, 0, 5)


# --- operators, the block and the model ----------------------------------------------------------


@pytest.fixture
def fused(monkeypatch):
    """The kernels run on the CPU where a GPU would take them."""
    monkeypatch.setattr(
        _operators, "fuses", lambda x: not torch.is_grad_enabled() and x.dtype != torch.float64
    )


def test_operators_keep_their_rules():
    x, weight, state = random(2, 6, 9), random(6, 4), random(2, 6, 4)
    operators = torch.ops.ssm_core
    for bias, before in ((None, None), (random(6), state)):
        torch.library.opcheck(operators.causal_conv, (x, weight, bias, before))
        torch.library.opcheck(operators.causal_conv_step, (state.clone(), x[..., 0], weight, bias))
    for added in (None, x.bfloat16()):
        torch.library.opcheck(operators.add_rms_norm, (x, added, random(9), 1e-5))


OPTIONS = [
    {},
    {"bias": True, "d_conv": 2},
    {"conv_bias": False, "d_conv": 3},
    {"d_conv": 1},
    {"d_conv": 11},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("pieces", [[13], [1] * 13, [5, 1, 7, 0]])
def test_the_block_in_pieces(options, pieces, fused):
    torch.manual_seed(0)
    model, hidden = Mamba(6, d_state=3, **options), random(2, 13, 6)
    cache, want_cache = (model.allocate_inference_cache(2, 13) for _ in range(2))
    want = model(hidden, want_cache).detach()  # gradients are on
    with torch.no_grad():
        got = torch.cat([model(piece, cache) for piece in hidden.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    for x, y in zip(cache, want_cache):
        torch.testing.assert_close(x, y.detach(), rtol=1e-5, atol=1e-6)


def make(**options):
    torch.manual_seed(0)
    model = MambaLM(
        MambaConfig(
            **{"d_model": 8, "n_layer": 3, "vocab_size": 29, "ssm_cfg": {"d_state": 3}, **options}
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model, torch.randint(29, (2, 11))


@pytest.mark.parametrize("options", [{}, {"rms_norm": False}, {"ssm_cfg": {"bias": True}}])
def test_the_model(options, fused):
    model, ids = make(**options)
    want = model(ids).detach()
    cache = model.allocate_inference_cache(2, max_seqlen=11)
    with torch.no_grad():
        got = torch.cat([model(piece, cache) for piece in ids.split([6, 1, 4], dim=1)], dim=1)
        torch.testing.assert_close(model(ids), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wide", [True, False])
def test_the_model_in_float16(wide, fused):
    """As far from float32 as the plain path is; bfloat16 would be cut off, not rounded."""
    model, ids = make(d_model=64, residual_in_fp32=wide)
    want = model(ids).detach()
    low = copy.deepcopy(model).half()
    plain = low(ids).detach()
    with torch.no_grad():
        got = low(ids)
    assert got.dtype == torch.float16
    assert (got - want).norm() < 1.3 * (plain - want).norm()


def test_packed_texts(fused):
    model, ids = make()
    bounds = torch.tensor([0, 4, 4, 11], dtype=torch.int32)
    want = model(ids[:1], cu_seqlens=bounds).detach()
    with torch.no_grad():
        got = model(ids[:1], cu_seqlens=bounds)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_hooks_see_and_change_the_stream_as_ever(fused):
    model, ids = make()
    seen = []

    def double(module, arguments, parts):  # what is added, and to what
        seen.append(sum(parts).detach())
        return tuple(2 * part for part in parts)

    model.backbone.layers[1].register_forward_hook(double)
    want = model(ids).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(ids), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-5, atol=1e-5)


def test_what_needs_a_gradient_or_float64_has_no_kernel(fused, monkeypatch):
    monkeypatch.setattr(_operators, "_kernels", lambda: pytest.fail("a kernel is launched"))
    model, ids = make()
    model(ids).sum().backward()
    with torch.no_grad():
        model.double()(ids)
    with pytest.raises(pytest.fail.Exception), torch.no_grad():
        model.float()(ids)


def test_compiled_in_one_graph(fused):
    torch.manual_seed(0)
    model, hidden = Mamba(6, d_state=3), random(2, 9, 6)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(hidden), model(hidden), rtol=1e-5, atol=1e-6)


def test_generation_is_that_of_the_plain_path(fused, monkeypatch):
    model, ids = make()
    got = model.generate(ids, 8)
    monkeypatch.setattr(block._operators, "fuses", lambda _: False)
    assert torch.equal(got, model.generate(ids, 8))
