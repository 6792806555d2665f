"""The Triton kernels of SSD on a GPU, against the definition in float64: ``pytest tests/gpu``.

What SSD must do everywhere is in ``tests/ssd/cases.py``; here it meets the sizes of models and what
only a GPU has: graphs, more than 2^31 elements.
"""

import functools
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from ssm_core.ssd import ssd_fn
from tests.scan.cases import TOLERANCE, assert_close, assert_same_bits, exactly
from tests.ssd.cases import (
    FEATURES,
    Behaviour,
    arguments,
    assert_close_in_norm,
    poisoned,  # noqa: F401
    results,
)

DEVICE = "cuda"
# Beside the results, the factors of products are rounded: to bfloat16, 2^-9 each, and for float16 to
# TF32, 2^-11. Errors are then taken in the norm.
SIXTEEN = TOLERANCE | {torch.bfloat16: 1e-2, torch.float16: 2e-3}
ssd_in_triton = functools.partial(ssd_fn, backend="triton")


def exact_results(x):
    """The truth by the backend chunk in float64, which the CPU tests hold against the definition.

    It takes products of matrices and sums from PyTorch, which need not have the same bits every time.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        return results(ssd_fn, exactly(x), backend="chunk")
    finally:
        torch.use_deterministic_algorithms(deterministic)


class TestTriton(Behaviour):
    backend = "triton"
    device = DEVICE
    tolerance: ClassVar = SIXTEEN
    compare = staticmethod(assert_close_in_norm)
    odd: ClassVar = {"b": 2, "L": 150, "h": 4, "p": 24, "n": 17}
    full: ClassVar = {"b": 1, "L": 256, "h": 4, "p": 64, "n": 128}
    chunk_sizes = (16, 32, 64, 128)


# As models have them: Mamba-2 of 370M and 2.7B, eight groups, other widths of heads and states.
SIZES = [
    (2, 1000, 32, 64, 1, 128),
    (1, 700, 80, 64, 8, 128),
    (2, 515, 24, 64, 1, 64),
    (1, 300, 8, 128, 2, 128),
    (1, 300, 8, 32, 1, 256),
    (3, 65, 6, 16, 3, 16),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("b, L, h, p, g, n", SIZES)
def test_sizes_of_models(b, L, h, p, g, n, dtype, poisoned):  # noqa: F811
    x = arguments(b, L, h, p, g, n, dtype=dtype, device=DEVICE)
    assert_close_in_norm(results(ssd_in_triton, x), exact_results(x), SIXTEEN[dtype])


@pytest.mark.parametrize("feature", FEATURES)
def test_features_at_the_size_of_models(feature, poisoned):  # noqa: F811
    sizes = {"b": 2, "L": 1000, "h": 8, "p": 64, "g": 2, "n": 128}
    x = arguments(**sizes | FEATURES[feature], dtype=torch.bfloat16, device=DEVICE)
    got = results(ssd_in_triton, x)
    assert_close_in_norm(got, exact_results(x), SIXTEEN[torch.bfloat16])


def test_chunks_are_what_runs_by_itself():
    x = arguments(2, 130, 8, 64, 1, 128, dtype=torch.bfloat16, device=DEVICE)
    assert_same_bits(results(ssd_fn, x), results(ssd_fn, x, backend="chunk"))


def test_float64_runs_in_chunks():
    x = arguments(1, 130, dtype=torch.float64, device=DEVICE)
    assert_close(results(ssd_fn, x), results(ssd_fn, x, backend="reference"), 1e-10)


def test_same_bits_as_compiled():
    x = arguments(2, 130, 8, 64, 1, 128, dtype=torch.bfloat16, device=DEVICE)
    compiled = torch.compile(ssd_in_triton, fullgraph=True)
    assert_same_bits(results(compiled, x), results(ssd_in_triton, x))


@pytest.mark.parametrize("packed", [False, True])
def test_in_a_cuda_graph(packed):
    x = arguments(1, 300, 8, 64, 1, 128, packed=packed, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ssd_in_triton(**x, return_final_states=True)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, states = ssd_in_triton(**x, return_final_states=True)
    x["x"].mul_(2)
    graph.replay()
    want = ssd_in_triton(**x, return_final_states=True)
    assert torch.equal(y, want[0]) and torch.equal(states, want[1])


def test_long_sequence_with_extreme_decays_is_finite():
    x = arguments(1, 2**17, 7, 64, 1, 128, dtype=torch.bfloat16, device=DEVICE)
    x["A"] = -torch.logspace(-8, 4, 7, device=DEVICE)
    assert all(value.isfinite().all() for value in results(ssd_in_triton, x).values())


def test_more_elements_than_32_bits_hold():
    """2.2e9 elements of x: with a constant input and no decay, y counts the steps of each row."""
    if torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("60 GiB of GPU memory are needed")
    L, h, p = 2**17, 264, 64
    x = torch.ones(1, 1, 1, 1, device=DEVICE, dtype=torch.bfloat16).expand(1, L, h, p).contiguous()
    dt = torch.ones(1, L, h, device=DEVICE, dtype=torch.bfloat16) / L
    one = torch.ones(1, L, 1, 16, device=DEVICE, dtype=torch.bfloat16) / 4
    with torch.no_grad():
        y, states = ssd_in_triton(
            x, dt, torch.zeros(h, device=DEVICE), one, one, return_final_states=True
        )
    torch.testing.assert_close(states, torch.full_like(states, 0.25), rtol=2e-2, atol=0)
    for t in (L // 2 - 1, L - 1):
        want = torch.full((h, p), (t + 1) / L, device=DEVICE)
        torch.testing.assert_close(y[0, t].float(), want, rtol=2e-2, atol=0)
