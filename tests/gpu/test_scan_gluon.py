"""The Gluon kernels of the selective scan on a GPU, against the definition in float64.

What every backend must do is in ``tests/scan/cases.py``; here it meets these kernels, whose launches
are counted, and what is theirs: spans of time, masks, sums in tensor cores.
"""

import warnings
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from ssm_core._gpu import ceil_div
from ssm_core.scan import gluon, selective_scan_fn, selective_scan_ref

if not gluon.supports(torch.device("cuda"), 16):
    pytest.skip("the Gluon kernels do not run on this device", allow_module_level=True)

from ssm_core.scan.gluon import _launch
from tests.scan.cases import (
    OPTIONAL,
    TOLERANCE,
    Behaviour,
    arguments,
    assert_close,
    assert_same_bits,
    exactly,
    poisoned,  # noqa: F401
    results,
)

DEVICE = "cuda"
CALLS = []


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Count calls that these kernels serve, and turn a silent change to others into a failure.

    Here they also take sizes that are faster with the portable ones.
    """
    CALLS.clear()
    monkeypatch.setattr(gluon, "pays", lambda *_: True)

    def counted(function):
        def call(*arguments):
            CALLS.append(function.__name__)
            return function(*arguments)

        return call

    monkeypatch.setattr(_launch, "forward", counted(_launch.forward))
    monkeypatch.setattr(_launch, "backward", counted(_launch.backward))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the fast kernels")
        yield
    assert not gluon._failures


def assert_right(got, want, dtype):
    """As ``assert_close``, except that gradients of B and C in bfloat16 are measured as a whole.

    They are sums of many numbers, each rounded to bfloat16: a result that is small because its
    summands cancel has their error.
    """
    summed = [name for name in want if dtype == torch.bfloat16 and name[-4:] in ("of B", "of C")]
    assert_close(
        {name: y for name, y in got.items() if name not in summed},
        {name: y for name, y in want.items() if name not in summed},
        TOLERANCE[dtype],
    )
    for name in summed:
        assert distance(got[name], want[name]) <= 3e-3, name


def distance(got, want):
    """Relative, in the Euclidean norm."""
    return ((got.double() - want).norm() / want.norm()).item()


class TestGluon(Behaviour):
    backend = "triton"
    device = DEVICE
    odd: ClassVar = {"b": 2, "d": 98, "L": 333, "n": 17}
    full: ClassVar = {"b": 2, "d": 256, "L": 1024, "n": 16}
    cuts = (0, 1, 31, 32, 33, 332, 333)
    exp_error = 4  # the GPU's 2^x may err by two such numbers

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("shape", ["odd", "full"])
    def test_sixteen_bits(self, shape, dtype):
        x = self.make(getattr(self, shape), g=2, dtype=dtype)
        got = results(self.scan, x)
        assert got["out"].dtype == dtype and got["last_state"].dtype == torch.float32
        assert_right(got, results(selective_scan_ref, exactly(x)), dtype)


def check(x, spans=None, monkeypatch=None):
    if spans is not None:
        steps = ceil_div(ceil_div(x["u"].shape[2], spans), 32) * 32
        monkeypatch.setattr(_launch, "cut_into_spans", lambda L, *_: (ceil_div(L, steps), steps))
    got = results(selective_scan_fn, x, backend="triton")
    assert CALLS == ["forward", "backward"]
    assert_right(got, results(selective_scan_ref, exactly(x)), x["u"].dtype)


@pytest.mark.parametrize("n", [1, 8, 16, 33, 64])
@pytest.mark.parametrize(
    "L, d", [(1, 1), (15, 33), (16, 3), (17, 32), (32, 64), (63, 500), (257, 70), (1024, 32)]
)
def test_sizes(L, d, n, poisoned):  # noqa: F811
    check(arguments(1, d, L, n, device=DEVICE))


@pytest.mark.parametrize(
    "L, d, n, dtype",
    [
        (1024, 64, 16, torch.float32),
        (1024, 64, 16, torch.bfloat16),
        (1024, 64, 16, torch.float16),
        (999, 40, 16, torch.float32),
        (512, 32, 64, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("spans", [2, 5])
def test_time_in_spans(L, d, n, spans, dtype, poisoned, monkeypatch):  # noqa: F811
    x = arguments(2, d, L, n, dtype=dtype, device=DEVICE)
    check(x, spans, monkeypatch)


def test_spans_without_what_is_optional(poisoned, monkeypatch):  # noqa: F811
    x = arguments(1, 64, 640, 16, without=OPTIONAL, delta_softplus=False, device=DEVICE)
    check(x, 4, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("slow", [1, 100, 1000])
def test_slow_decays(slow, dtype):
    x = arguments(2, 64, 1024, 16, dtype=dtype, device=DEVICE)
    x["A"] /= slow
    check(x)


@pytest.mark.parametrize("slow", [1, 1000])
def test_euclidean_errors_in_bfloat16(slow):
    """No result is further from the exact one than its own rounding and a little of the sums'."""
    x = arguments(2, 256, 1024, 16, dtype=torch.bfloat16, device=DEVICE)
    x["A"] /= slow
    got, want = results(selective_scan_fn, x), results(selective_scan_ref, exactly(x))
    errors = {name: distance(got[name], y) for name, y in want.items()}
    assert max(errors.values()) <= 2.5e-3, errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n, d, g", [(16, 64, 1), (5, 70, 2)])
def test_packed_sequences_of_all_lengths(n, d, g, dtype, poisoned):  # noqa: F811
    lengths = [0, 1, 15, 0, 0, 16, 17, 31, 32, 33, 64, 100, 0]
    cuts = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()
    x = arguments(1, d, int(cuts[-1]), n, g, dtype=dtype, device=DEVICE)
    x["cu_seqlens"] = cuts
    x["initial_state"] = torch.randn(len(lengths), d, n, device=DEVICE)
    check(x)


def test_more_rows_than_an_axis_of_a_grid_holds(poisoned):  # noqa: F811
    check(arguments(70_000, 2, 3, 2, device=DEVICE))


@pytest.mark.parametrize("sizes", [(2, 64, 1024, 16), (1, 96, 4096, 16), (1, 70, 333, 5)])
def test_same_bits_in_many_runs(sizes):
    x = arguments(*sizes, dtype=torch.bfloat16, device=DEVICE)
    want = results(selective_scan_fn, x)
    for _ in range(5):
        assert_same_bits(results(selective_scan_fn, x), want)


def test_more_elements_than_32_bits_hold():
    """70,000 equal channels: the first against the geometric sum, the others against the first."""
    if torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("60 GiB of GPU memory are needed")
    d, L = 70_000, 32_000  # 2.2e9 elements
    u = torch.ones(1, d, L, device=DEVICE, dtype=torch.bfloat16).requires_grad_()
    A, weights = -torch.ones(d, 1, device=DEVICE), torch.ones(1, 1, L, device=DEVICE).bfloat16()
    out = selective_scan_fn(u, torch.ones_like(u), A, weights, weights)
    (du,) = torch.autograd.grad(out, u, torch.ones_like(out))
    assert CALLS == ["forward", "backward"]
    limit = 1 / (1 - torch.exp(torch.tensor(-1.0)))  # of the state, and of its gradient backwards
    for x, end in ((out, -1), (du, 0)):
        torch.testing.assert_close(x[0, 0, end].float().cpu(), limit, rtol=2**-8, atol=0)
        for c in (1, d // 2, 67_108, 67_109, d - 1):  # 67,108 crosses 2^31 elements
            assert torch.equal(x[0, c], x[0, 0])
        assert torch.equal(x[0, :, end], x[0, :1, end].expand(d))


@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_portable_kernels_take_over(broken, monkeypatch):
    x = arguments(2, 64, 130, 16, device=DEVICE)

    def refuse(*arguments):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(gluon, "_failures", [])
    monkeypatch.setattr(_launch, broken, refuse)
    with pytest.warns(RuntimeWarning, match="no such instruction"):
        got = results(selective_scan_fn, x)
    assert_close(got, results(selective_scan_ref, exactly(x)), TOLERANCE[torch.float32])
    gluon._failures.clear()


@pytest.mark.parametrize("sizes, constant", [((1, 64, 130, 65), ""), ((1, 64, 130, 16), "B")])
def test_what_the_portable_kernels_serve(sizes, constant):
    x = arguments(*sizes, constant=constant, device=DEVICE)
    got = results(selective_scan_fn, x)
    assert not CALLS
    assert_close(got, results(selective_scan_ref, exactly(x)), TOLERANCE[torch.float32])
