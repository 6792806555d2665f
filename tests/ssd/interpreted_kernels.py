"""The Triton kernels of SSD on a CPU, in Triton's interpreter; ``test_triton_interpreter`` runs this file.

The interpreter has to be chosen before Triton is first imported, so this is a process of its own:

    TRITON_INTERPRET=1 pytest tests/ssd/interpreted_kernels.py
"""

from typing import ClassVar

import pytest
import torch

from ssm_core.ssd import ssd_fn
from ssm_core.ssd.triton import plan
from tests.interpreted_addresses import addresses_checked  # noqa: F401
from tests.scan.cases import TOLERANCE, assert_close, exactly
from tests.ssd.cases import (
    FEATURES,
    Behaviour,
    arguments,
    poisoned,  # noqa: F401
    reference,
    results,
)


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    monkeypatch.setattr(plan, "TUNING", plan.Tuning(chunk=16))


class TestTriton(Behaviour):
    """All that SSD must do, in sizes that the interpreter can bear."""

    backend = "triton"
    # The interpreter cuts bfloat16 off where a GPU rounds: an error of 2^-7, not 2^-8.
    tolerance: ClassVar = TOLERANCE | {torch.bfloat16: 9e-3}
    odd: ClassVar = {"b": 1, "L": 35, "h": 4, "p": 3, "n": 5}
    full: ClassVar = {"b": 1, "L": 32, "h": 4, "p": 16, "n": 16}
    cuts = (0, 1, 16, 35)
    length = 2**6
    chunk_sizes = (32, 64)
    lengths = (1, 15, 0, 16, 3)

    @pytest.mark.parametrize(
        "shape, feature",
        [*(("odd", name) for name in FEATURES), ("full", "all arguments"), ("full", "packed")],
    )
    def test_outputs_and_gradients(self, shape, feature):
        super().test_outputs_and_gradients(shape, feature)


# Several blocks of channels, several programs that share the heads of a group, chunks of all sizes.
SIZES = [
    (1, 1, 1, 1, 1),
    (17, 3, 17, 3, 2),
    (40, 5, 65, 1, 20),
    (17, 4, 130, 2, 40),
    (16, 2, 64, 2, 130),
]


@pytest.mark.parametrize("L, h, p, g, n", SIZES)
def test_sizes(L, h, p, g, n, poisoned, monkeypatch):  # noqa: F811
    monkeypatch.setattr(plan, "processors", lambda _: 2)
    x = arguments(1, L, h, p, g, n, D="channel")
    got = results(ssd_fn, x, backend="triton")
    assert_close(got, results(reference, exactly(x)), TOLERANCE[torch.float32])


def test_a_head_to_a_program(poisoned, monkeypatch):  # noqa: F811
    monkeypatch.setattr(plan, "processors", lambda _: 1000)
    x = arguments(2, 35, 4, 20, 2, 20)
    got = results(ssd_fn, x, backend="triton")
    assert_close(got, results(reference, exactly(x)), TOLERANCE[torch.float32])


@pytest.mark.parametrize("feature", ["all arguments", "packed"])
def test_features_in_the_dtype_of_training(feature, poisoned):  # noqa: F811
    x = arguments(1, 40, 4, 16, n=16, **{"g": 2} | FEATURES[feature], dtype=torch.bfloat16)
    got = results(ssd_fn, x, backend="triton")
    assert_close(got, results(reference, exactly(x)), TestTriton.tolerance[torch.bfloat16])
