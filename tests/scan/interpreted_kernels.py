"""The Triton kernels on a CPU, in Triton's interpreter; ``test_triton_interpreter`` runs this file.

The interpreter has to be chosen before Triton is first imported, so this is a process of its own:

    TRITON_INTERPRET=1 pytest tests/scan/interpreted_kernels.py
"""

from typing import ClassVar

import pytest
import torch

import ssm_core.scan
from ssm_core.scan import selective_scan_ref
from ssm_core.scan.triton import plan
from tests.scan.cases import (
    FEATURES,
    TOLERANCE,
    Behaviour,
    arguments,
    assert_close,
    exactly,
    poisoned,  # noqa: F401
    results,
)


class TestTriton(Behaviour):
    """All that a scan must do, in sizes that the interpreter can bear."""

    backend = "triton"
    # The interpreter cuts bfloat16 off where a GPU rounds: an error of 2^-7, not 2^-8.
    tolerance = TOLERANCE | {torch.bfloat16: 9e-3}
    odd: ClassVar = {"b": 1, "d": 6, "L": 11, "n": 3}
    full: ClassVar = {"b": 2, "d": 32, "L": 8, "n": 8}
    cuts = (0, 1, 8, 11)
    length = 2**6

    @pytest.mark.parametrize(
        "shape, feature",
        [
            *(("odd", name) for name in FEATURES),
            *(("full", name) for name in ("all arguments", "constant B and C", "packed groups")),
        ],
    )
    def test_outputs_and_gradients(self, shape, feature):
        super().test_outputs_and_gradients(shape, feature)

    @pytest.fixture(autouse=True)
    def _steps_too(self, monkeypatch):
        monkeypatch.setattr(ssm_core.scan, "pick_backend", lambda *_: "triton")


# More than a block of channels, states over several lanes, chunks that end before a tile or after it.
SIZES = [
    (1, 1, 1),
    (2, 17, 3),
    (3, 1, 33),
    (5, 64, 2),
    (63, 9, 2),
    (64, 8, 1),
    (65, 2, 3),
    (130, 1, 2),
]


@pytest.mark.parametrize("L, n, d", SIZES)
def test_sizes(L, n, d, poisoned):  # noqa: F811
    x = arguments(1, d, L, n)
    got = results(ssm_core.scan.selective_scan_fn, x, backend="triton")
    assert_close(got, results(selective_scan_ref, exactly(x)), TOLERANCE[torch.float32])


def test_time_in_spans(poisoned, monkeypatch):  # noqa: F811
    """Three spans side by side, as where batch and channels do not fill a GPU."""
    chunk = plan.TUNING.chunk
    L = 2 * chunk + 9
    monkeypatch.setattr(plan, "cut_into_spans", lambda *_: (3, chunk))
    x = arguments(1, 2, L, 3)
    got = results(ssm_core.scan.selective_scan_fn, x, backend="triton")
    assert_close(got, results(selective_scan_ref, exactly(x)), TOLERANCE[torch.float32])
