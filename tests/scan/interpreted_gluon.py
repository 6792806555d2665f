"""The logic of the Gluon kernels on a CPU; ``test_gluon_interpreter`` runs this file.

The interpreters have to be chosen before the kernels are first imported, so this is a process of its
own (with Triton's interpreter for the portable kernels, which take over in one test):

    TRITON_INTERPRET=1 pytest tests/scan/interpreted_gluon.py
"""

import warnings

import pytest
import torch

from tests import gluon_interpreter

gluon_interpreter.install()

from ssm_core._gpu import ceil_div
from ssm_core.scan import gluon, selective_scan_fn, selective_scan_ref
from ssm_core.scan.gluon import _launch
from tests.scan.cases import (
    FEATURES,
    OPTIONAL,
    TOLERANCE,
    arguments,
    assert_close,
    exactly,
    poisoned,  # noqa: F401
    results,
)

pytestmark = pytest.mark.usefixtures("poisoned", "_gluon")


@pytest.fixture
def _gluon(monkeypatch):
    """The Gluon kernels serve every call."""
    monkeypatch.setattr(gluon, "supports", lambda *_: True)
    monkeypatch.setattr(gluon, "covers", lambda *_: True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the fast kernels")
        yield
    failures, gluon._failures[:] = gluon._failures[:], []
    assert not failures


def check(x, monkeypatch=None, spans=1):
    if spans > 1:
        steps = ceil_div(ceil_div(x["u"].shape[2], spans), 32) * 32
        monkeypatch.setattr(_launch, "cut_into_spans", lambda L, *_: (ceil_div(L, steps), steps))
    got = results(selective_scan_fn, x, backend="triton")
    want = results(selective_scan_ref, exactly(x))
    dtype = x["u"].dtype
    if dtype == torch.bfloat16:  # sums of numbers rounded to bfloat16: measured as a whole
        for name in ("gradient of B", "gradient of C"):
            y = want.pop(name)
            assert (got.pop(name).double() - y).norm() <= 3e-3 * y.norm(), name
    assert_close(got, want, TOLERANCE[dtype])


@pytest.mark.parametrize(
    "L, d, n",
    [
        (0, 3, 2),
        (1, 1, 1),
        (15, 3, 9),
        (16, 33, 3),
        (32, 32, 8),
        (50, 32, 16),
        (64, 64, 16),
        (32, 32, 64),
        (33, 5, 33),
    ],
)
def test_sizes(L, d, n):
    check(arguments(1, d, L, n))


@pytest.mark.parametrize(
    "feature",
    [name for name in FEATURES if "onstant" not in name and "constant" not in FEATURES[name]],
)
@pytest.mark.parametrize("sizes", [(6, 50, 5), (64, 64, 8)])
def test_features(sizes, feature):
    check(arguments(1, *sizes, **FEATURES[feature]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("L, d, spans", [(128, 32, 4), (100, 7, 3)])
def test_time_in_spans(L, d, spans, dtype, monkeypatch):
    check(arguments(2, d, L, 8, dtype=dtype), monkeypatch, spans)


def test_spans_without_what_is_optional(monkeypatch):
    check(arguments(1, 32, 96, 8, without=OPTIONAL, delta_softplus=False), monkeypatch, 3)


@pytest.mark.parametrize("n, d, g", [(8, 32, 1), (3, 6, 2)])
def test_packed_sequences_of_all_lengths(n, d, g):
    lengths = [0, 1, 15, 0, 0, 16, 17, 33, 0]
    cuts = torch.tensor([0, *lengths]).cumsum(0).int()
    x = arguments(1, d, int(cuts[-1]), n, g)
    check(x | {"cu_seqlens": cuts, "initial_state": torch.randn(len(lengths), d, n)})


def test_dtypes_may_differ():
    x = arguments(1, 6, 40, 5)
    x["B"], x["z"] = x["B"].half(), x["z"].bfloat16()
    got = results(selective_scan_fn, x, backend="triton")
    assert got["gradient of B"].dtype == torch.float16
    assert_close(got, results(selective_scan_ref, exactly(x)), TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("wanted", ["out", "last_state"])
def test_gradients_through_one_result(wanted):
    x = arguments(1, 6, 40, 5)
    got = results(selective_scan_fn, x, [wanted], backend="triton")
    assert_close(got, results(selective_scan_ref, exactly(x), [wanted]), TOLERANCE[torch.float32])


@pytest.mark.parametrize("sizes", [{"b": 0}, {"L": 0}])
def test_nothing_to_do(sizes):
    check(arguments(**{"b": 1, "d": 3, "L": 5, "n": 4} | sizes))


@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_portable_kernels_take_over(broken, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("no such instruction")

    x = arguments(1, 4, 20, 3)
    monkeypatch.setattr(gluon, "_failures", [])
    monkeypatch.setattr(_launch, broken, refuse)
    with pytest.warns(RuntimeWarning, match="no such instruction"):
        got = results(selective_scan_fn, x, backend="triton")
    assert_close(got, results(selective_scan_ref, exactly(x)), TOLERANCE[torch.float32])
    gluon._failures.clear()
