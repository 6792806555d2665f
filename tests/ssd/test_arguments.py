"""Bad arguments: an error that names the argument, what came and what is expected."""

import re

import pytest

torch = pytest.importorskip("torch")

from ssm_core import _gpu
from ssm_core.ssd import _backends, ssd_fn, ssd_matrix
from tests.ssd.cases import arguments

b, L, h, p, g, n = 2, 5, 4, 3, 2, 6
zeros = torch.zeros


def cuts(*bounds, dtype=torch.int32):
    return torch.tensor(bounds, dtype=dtype)


BAD = [
    ({"x": None}, TypeError, "x is None, expected a torch.Tensor"),
    ({"x": zeros(b, L, h)}, ValueError, "x has shape (2, 5, 4), expected (b, L, h, p)"),
    ({"x": zeros(b, L, h, p, dtype=torch.int64)}, TypeError, "x has dtype int64, expected float32"),
    ({"x": zeros(b, L, h, 0)}, ValueError, "x has 4 heads of 0 channels, expected at least 1"),
    (
        {"dt": zeros(b, h, L)},
        ValueError,
        "dt has shape (2, 4, 5), expected (b, L, h) with b = 2, L = 5, h = 4",
    ),
    ({"A": zeros(h, n)}, ValueError, "A has shape (4, 6), expected (h,) with h = 4"),
    ({"A": zeros(h).bfloat16()}, TypeError, "A has dtype bfloat16, expected float32"),
    ({"A": zeros(h).double()}, TypeError, "A is float64 and x is float32, expected all tensors"),
    (
        {"B": zeros(b, g, n, L)},
        ValueError,
        "B has shape (2, 2, 6, 5), expected (b, L, g, n) with b = 2, L = 5",
    ),
    ({"B": zeros(b, L, n)}, ValueError, "B has shape (2, 5, 6), expected (b, L, g, n)"),
    ({"B": zeros(b, L, 3, n)}, ValueError, "B has 3 groups, expected a divisor of the number of"),
    ({"B": zeros(b, L, 0, n)}, ValueError, "B has 0 groups, expected a divisor of the number of"),
    ({"B": zeros(b, L, g, 0)}, ValueError, "B has no states (n = 0), expected at least 1"),
    (
        {"C": zeros(b, L, 1, n)},
        ValueError,
        "C has shape (2, 5, 1, 6), expected (b, L, g, n) with b = 2, L = 5, g = 2, n = 6",
    ),
    ({"D": zeros(p)}, ValueError, "D has shape (3,), expected (h,) or (h, p) with h = 4, p = 3"),
    ({"D": zeros(h, 1)}, ValueError, "D has shape (4, 1), expected (h,) or (h, p)"),
    ({"z": zeros(b, L, h, 1)}, ValueError, "z has shape (2, 5, 4, 1), expected (b, L, h, p)"),
    ({"dt_bias": zeros(1)}, ValueError, "dt_bias has shape (1,), expected (h,) with h = 4"),
    ({"dt_softplus": 1}, TypeError, "dt_softplus is a int, expected True or False"),
    ({"return_final_states": 0}, TypeError, "return_final_states is a int, expected True or False"),
    ({"dt_limit": 1.0}, TypeError, "dt_limit is 1.0, expected two numbers (least, largest)"),
    ({"dt_limit": (1.0, 0.1)}, ValueError, "dt_limit is (1, 0.1), expected (least, largest)"),
    ({"dt_limit": (float("nan"), 1.0)}, ValueError, "dt_limit is (nan, 1), expected"),
    (
        {"initial_states": zeros(b, h, n, p)},
        ValueError,
        "initial_states has shape (2, 4, 6, 3), expected (b, h, p, n) with b = 2, h = 4, p = 3, n = 6",
    ),
    ({"cu_seqlens": cuts(0, L)}, ValueError, "x has batch size 2, expected 1 where cu_seqlens"),
    ({"chunk_size": 48}, ValueError, "chunk_size is 48, expected None or one of: 16, 32, 64"),
    ({"chunk_size": 64.0}, TypeError, "chunk_size is 64.0, expected an integer"),
    ({"backend": "cuda"}, ValueError, "backend is 'cuda', expected one of: auto, reference, chunk"),
]


@pytest.mark.parametrize("change, error, message", BAD, ids=[message for *_, message in BAD])
def test_message(change, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ssd_fn(**arguments(b, L, h, p, g, n) | change)


PACKED = [
    (cuts(0, 5, dtype=torch.int64), TypeError, "cu_seqlens has dtype int64, expected int32"),
    (cuts(0, 3), ValueError, "cu_seqlens runs from 0 to 3, expected from 0 to the length of the"),
    (cuts(0, 4, 3, 5), ValueError, "cu_seqlens falls from 4 to 3 at index 2"),
]


@pytest.mark.parametrize("bounds, error, message", PACKED)
def test_message_for_boundaries(bounds, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ssd_fn(**arguments(1, L, without=("initial_states",)) | {"cu_seqlens": bounds})


def test_states_of_packed_sequences_are_as_many_as_they():
    x = arguments(1, L, packed=True)
    with pytest.raises(ValueError, match=r"expected \(sequences, h, p, n\) with sequences = 4"):
        ssd_fn(**x | {"initial_states": x["initial_states"][:1]})


def test_matrix_checks_its_arguments():
    x = arguments(b, L, h, p, g, n)
    with pytest.raises(ValueError, match=re.escape("dt has shape (2, 5), expected (b, L, h)")):
        ssd_matrix(x["dt"][..., 0], x["A"], x["B"], x["C"])
    with pytest.raises(ValueError, match=re.escape("C has shape (2, 5, 2, 5), expected")):
        ssd_matrix(x["dt"], x["A"], x["B"], x["C"][..., :5])


def test_chunks_run_unless_another_backend_is_named():
    class OnGPU(torch.Tensor):
        device = torch.device("cuda")

    for x in (zeros(1), zeros(1).as_subclass(OnGPU)):
        assert _backends.pick_backend("auto", x, 4) == "chunk"
        assert _backends.pick_backend("reference", x, 4) == "reference"


def test_triton_says_what_it_does_not_take(monkeypatch):
    monkeypatch.setattr(_gpu, "_try_triton", lambda: True)
    with pytest.raises(ValueError, match="x is float64, expected float32, bfloat16 or float16"):
        _backends.pick_backend("triton", zeros(1).double(), 4)
    monkeypatch.setattr(_backends, "check_triton", lambda *_: None)
    with pytest.raises(ValueError, match="B has 300 states, expected at most 256"):
        _backends.pick_backend("triton", zeros(1), 300)
