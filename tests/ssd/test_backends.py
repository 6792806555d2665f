"""What SSD must do, for the backends that run without a GPU, and that their gradients are right."""

from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")

from ssm_core.ssd import ssd_fn
from tests.scan.cases import assert_close, exactly, is_float
from tests.ssd.cases import (
    FEATURES,
    Behaviour,
    arguments,
    definition,
    poisoned,  # noqa: F401
    results,
)


class TestChunk(Behaviour):
    backend = "chunk"
    dtypes = (torch.float32, torch.float64)
    # In float64, ten thousands of products of decays near 1 add to the rounding.
    tolerance: ClassVar = Behaviour.tolerance | {torch.float64: 1e-10}


class TestReference(Behaviour):
    backend = "reference"
    length = 2**10


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("backend", ["reference", "chunk"])
def test_is_the_recurrence_written_down(feature, backend):
    x = exactly(arguments(2, 70, **FEATURES[feature]))
    got = dict(zip("ys", ssd_fn(**x, return_final_states=True, backend=backend)))
    assert_close(got, dict(zip("ys", definition(**x))), 1e-11)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("backend", ["reference", "chunk"])
def test_gradients_are_difference_quotients(feature, backend):
    x = exactly(arguments(1, 19, 4, 2, n=3, **{"g": 2} | FEATURES[feature]))
    floats = {name: value.requires_grad_() for name, value in x.items() if is_float(value)}

    def function(*values):
        given = x | dict(zip(floats, values))
        return ssd_fn(**given, return_final_states=True, chunk_size=16, backend=backend)

    assert torch.autograd.gradcheck(function, tuple(floats.values()), fast_mode=True)


def test_pieces_of_time(monkeypatch):
    """Several pieces, the last of which ends within a chunk."""
    from ssm_core.ssd import chunk

    x = arguments(2, 150, dtype=torch.float64)
    want = results(ssd_fn, x | {"chunk_size": 16})
    monkeypatch.setattr(chunk, "PIECE", 2 * 4 * 16**2 * 3)
    assert_close(results(ssd_fn, x | {"chunk_size": 16}), want, 1e-11)


def test_past_sixty_thousand_steps():
    """One state of memory: y counts what it has seen, past 2^16 steps, in two sequences of a row."""
    L = 70_000
    one = torch.ones(1, L, 1, 1, dtype=torch.float64)
    cuts = torch.tensor([0, 1000, L], dtype=torch.int32)
    y = ssd_fn(one, one[..., 0], torch.zeros(1).double(), one, one, cu_seqlens=cuts)
    want = torch.cat([torch.arange(1, 1001), torch.arange(1, L - 999)])
    torch.testing.assert_close(y.flatten(), want.double(), rtol=1e-12, atol=0)
