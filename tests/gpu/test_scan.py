"""The portable Triton kernels on a GPU, against the definition in float64: ``pytest tests/gpu``.

What a scan must do everywhere is in ``tests/scan/cases.py``; here it meets the full grid of sizes and
what only a GPU has: graphs, several devices, more than 2^31 elements.
"""

from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from ssm_core.scan import gluon, selective_scan_fn, selective_scan_ref, selective_state_update
from tests.scan.cases import (
    GRID,
    SELECTION,
    TOLERANCE,
    Behaviour,
    arguments,
    assert_close,
    assert_same_bits,
    columns,
    exactly,
    poisoned,  # noqa: F401
    results,
)

DEVICE = "cuda"


@pytest.fixture(autouse=True)
def _portable_kernels(monkeypatch):
    monkeypatch.setattr(gluon, "supports", lambda *_: False)


class TestTriton(Behaviour):
    backend = "triton"
    device = DEVICE
    odd: ClassVar = {"b": 2, "d": 98, "L": 333, "n": 17}
    full: ClassVar = {"b": 2, "d": 256, "L": 1024, "n": 16}
    cuts = (0, 1, 63, 64, 65, 332, 333)
    exp_error = 4  # the GPU's 2^x may err by two such numbers


class TestReference(Behaviour):
    """For float64 on a GPU, and for the comparisons of this file."""

    backend = "reference"
    device = DEVICE
    dtypes = (torch.float32, torch.float64)
    length = 2**10


def need(gigabytes):
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gigabytes:
        pytest.skip(f"{gigabytes:.0f} GiB of GPU memory are needed, {free:.0f} are free")


def check(L, n, d, dtype):
    need(8 * L * n * d * 8 / 2**30)  # the states that the reference keeps for its gradient
    x = arguments(1, d, L, n, dtype=dtype, device=DEVICE)
    got = results(selective_scan_fn, x, backend="triton")
    assert_close(got, results(selective_scan_ref, exactly(x)), TOLERANCE[dtype])


@pytest.mark.parametrize("L, n, d", GRID)
def test_grid(L, n, d, poisoned):  # noqa: F811
    check(L, n, d, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("L, n, d", SELECTION)
def test_grid_in_sixteen_bits(L, n, d, dtype, poisoned):  # noqa: F811
    check(L, n, d, dtype)


def test_triton_is_what_runs_by_itself():
    x = arguments(2, 64, 130, 16, device=DEVICE)
    assert_same_bits(results(selective_scan_fn, x), results(selective_scan_fn, x, backend="triton"))


def test_same_bits_as_compiled():
    x = arguments(2, 64, 130, 16, dtype=torch.bfloat16, device=DEVICE)
    compiled = torch.compile(selective_scan_fn, fullgraph=True)
    assert_same_bits(results(compiled, x), results(selective_scan_fn, x))


def test_autocast_changes_nothing():
    x = arguments(2, 64, 130, 16, dtype=torch.bfloat16, device=DEVICE)
    want = results(selective_scan_fn, x)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert_same_bits(results(selective_scan_fn, x), want)


def test_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    x = arguments(2, 64, 130, 16, g=2)
    first, second = (
        {name: value.to(device) if torch.is_tensor(value) else value for name, value in x.items()}
        for device in ("cuda:0", "cuda:1")
    )
    got, want = results(selective_scan_fn, second), results(selective_scan_fn, first)
    assert_same_bits(got, {name: value.to("cuda:1") for name, value in want.items()})


def recorded(function):
    """Run once, so that all is compiled, then record a CUDA graph of it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph, result


@pytest.mark.parametrize("packed", [False, True])
def test_scan_in_a_cuda_graph(packed):
    x = arguments(1, 64, 300, 16, packed=packed, device=DEVICE)
    graph, (out, last) = recorded(lambda: selective_scan_fn(**x, return_last_state=True))
    x["u"].mul_(2)
    graph.replay()
    want = selective_scan_fn(**x, return_last_state=True)
    assert torch.equal(out, want[0]) and torch.equal(last, want[1])


def test_step_in_a_cuda_graph():
    x = arguments(3, 64, 1, 16, device=DEVICE)
    step, softplus = next(columns(x))
    slots = torch.tensor([4, -1, 0], device=DEVICE, dtype=torch.int32)
    pool = torch.randn(5, 64, 16, device=DEVICE)
    plain, replayed = pool.clone(), pool.clone()
    want = selective_state_update(plain, *step, softplus, state_batch_indices=slots)
    graph, y = recorded(
        lambda: selective_state_update(replayed, *step, softplus, state_batch_indices=slots)
    )
    replayed.copy_(pool)
    graph.replay()
    assert torch.equal(y, want) and torch.equal(replayed, plain)


def test_long_sequence_with_extreme_decays_is_finite():
    x = arguments(1, 32, 2**20, 16, dtype=torch.bfloat16, device=DEVICE)
    x["A"] = -torch.logspace(-8, 4, 16, device=DEVICE).repeat(32, 1)
    assert all(y.isfinite().all() for y in results(selective_scan_fn, x).values())


def test_more_channels_and_elements_than_32_bits_and_grids_hold():
    """70,000 equal channels: the first against the geometric sum, the others against the first."""
    need(40)
    d, L = 70_000, 32_000  # 2.2e9 elements
    u = torch.ones(1, d, L, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    A, weights = -torch.ones(d, 1, device=DEVICE), torch.ones(d, 1, device=DEVICE).bfloat16()
    out = selective_scan_fn(u, torch.ones_like(u), A, weights, weights)
    (du,) = torch.autograd.grad(out, u, torch.ones_like(out))
    limit = 1 / (1 - torch.exp(torch.tensor(-1.0)))  # of the state, and of its gradient backwards
    for x, end in ((out, -1), (du, 0)):
        torch.testing.assert_close(x[0, 0, end].float().cpu(), limit, rtol=2**-8, atol=0)
        for c in (1, d // 2, 67_108, 67_109, d - 1):  # 67,108 crosses 2^31 elements
            assert torch.equal(x[0, c], x[0, 0])
        assert torch.equal(x[0, :, end], x[0, :1, end].expand(d))
