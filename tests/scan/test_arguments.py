"""Bad arguments: an error that names the argument, what came and what is expected."""

import re

import pytest

torch = pytest.importorskip("torch")

from ssm_core import _gpu, _tensors
from ssm_core.scan import _backends, selective_scan_fn, selective_scan_ref, selective_state_update
from tests.scan.cases import arguments, columns

b, d, L, n = 2, 6, 5, 4


def cuts(*bounds, dtype=torch.int32):
    return torch.tensor(bounds, dtype=dtype)


SCAN = [
    ({"u": None}, TypeError, "u is None, expected a torch.Tensor"),
    ({"u": torch.zeros(d, L)}, ValueError, "u has shape (6, 5), expected (b, d, L)"),
    (
        {"u": torch.zeros(b, d, L, dtype=torch.int64)},
        TypeError,
        "u has dtype int64, expected float",
    ),
    ({"u": [[[1.0]]]}, TypeError, "u is a list, expected a torch.Tensor"),
    ({"delta": None}, TypeError, "delta is None, expected a torch.Tensor"),
    (
        {"delta": torch.zeros(b, d, 1)},
        ValueError,
        "delta has shape (2, 6, 1), expected (b, d, L) with b = 2, d = 6, L = 5",
    ),
    ({"delta": torch.zeros(b, L, d)}, ValueError, "delta has shape (2, 5, 6), expected (b, d, L)"),
    ({"A": torch.zeros(d)}, ValueError, "A has shape (6,), expected (d, n) with d = 6"),
    ({"A": torch.zeros(1, n)}, ValueError, "A has shape (1, 4), expected (d, n) with d = 6"),
    ({"A": torch.zeros(d, 0)}, ValueError, "A 0 states a channel, expected at least 1"),
    ({"A": torch.zeros(d, n).bfloat16()}, TypeError, "A has dtype bfloat16, expected float32"),
    ({"A": torch.zeros(d, n, dtype=torch.complex64)}, TypeError, "A has dtype complex64, expected"),
    ({"A": torch.zeros(d, n).double()}, TypeError, "A is float64 and u is float32, expected all"),
    (
        {"B": torch.zeros(d, n, 1)},
        ValueError,
        "B has shape (6, 4, 1), expected (d, n) or (b, n, L) or (b, g, n, L) with b = 2, d = 6, "
        "n = 4, L = 5",
    ),
    ({"B": torch.zeros(b, L, n)}, ValueError, "B has shape (2, 5, 4), expected (d, n)"),
    ({"B": torch.zeros(n, d)}, ValueError, "B has shape (4, 6), expected (d, n)"),
    ({"B": torch.zeros(n)}, ValueError, "B has shape (4,), expected (d, n)"),
    ({"B": torch.zeros(1, 2, n, L)}, ValueError, "B has shape (1, 2, 4, 5), expected (d, n)"),
    ({"B": torch.zeros(b, 4, n, L)}, ValueError, "B has 4 groups, expected a divisor of"),
    ({"B": torch.zeros(b, 0, n, L)}, ValueError, "B has 0 groups, expected a divisor of"),
    ({"C": torch.zeros(b, 3, n, L)}, ValueError, "C has 3 groups, expected as many as B, 2"),
    (
        {"C": torch.zeros(b, n, L, dtype=torch.complex64)},
        TypeError,
        "C has dtype complex64, expected",
    ),
    ({"D": torch.zeros(1)}, ValueError, "D has shape (1,), expected (d,) with d = 6"),
    ({"D": torch.zeros(d).half()}, TypeError, "D has dtype float16, expected float32"),
    ({"D": 1.0}, TypeError, "D is a float, expected a torch.Tensor"),
    ({"z": torch.zeros(b, 1, L)}, ValueError, "z has shape (2, 1, 5), expected (b, d, L)"),
    ({"delta_bias": torch.zeros(d, 1)}, ValueError, "delta_bias has shape (6, 1), expected (d,)"),
    ({"delta_softplus": 1}, TypeError, "delta_softplus is a int, expected True or False"),
    ({"return_last_state": None}, TypeError, "return_last_state is a NoneType, expected True"),
    (
        {"initial_state": torch.zeros(b, n, d)},
        ValueError,
        "initial_state has shape (2, 4, 6), expected (b, d, n) with b = 2, d = 6, n = 4",
    ),
    ({"initial_state": torch.zeros(1, d, n)}, ValueError, "initial_state has shape (1, 6, 4)"),
    ({"cu_seqlens": cuts(0, L)}, ValueError, "u has batch size 2, expected 1 where cu_seqlens"),
    ({"u": torch.zeros(b, d, L, device="meta")}, ValueError, "delta is on cpu, expected meta"),
    ({"B": torch.zeros(b, 2, n, L, device="meta")}, ValueError, "B is on meta, expected cpu"),
]
PACKED = [
    (cuts(0), ValueError, "cu_seqlens has shape (1,), expected (sequences + 1,)"),
    (cuts(0, L)[None], ValueError, "cu_seqlens has shape (1, 2), expected (sequences + 1,)"),
    (cuts(0, L, dtype=torch.int64), TypeError, "cu_seqlens has dtype int64, expected int32"),
    ([0, L], TypeError, "cu_seqlens is a list, expected a torch.Tensor"),
    (
        cuts(1, L),
        ValueError,
        "cu_seqlens runs from 1 to 5, expected from 0 to the length of the row, 5",
    ),
    (
        cuts(0, 4),
        ValueError,
        "cu_seqlens runs from 0 to 4, expected from 0 to the length of the row, 5",
    ),
    (cuts(0, 6), ValueError, "cu_seqlens runs from 0 to 6"),
    (cuts(0, 4, 3, L), ValueError, "cu_seqlens falls from 4 to 3 at index 2"),
    (cuts(0, -1, L), ValueError, "cu_seqlens falls from 0 to -1 at index 1"),
]


@pytest.mark.parametrize("change, error, message", SCAN)
def test_scan(change, error, message):
    x = arguments(b, d, L, n, g=2) | {"return_last_state": True} | change
    for function in (selective_scan_fn, selective_scan_ref):
        with pytest.raises(error, match=re.escape(message)):
            function(**x)


@pytest.mark.parametrize("bounds, error, message", PACKED)
def test_packed(bounds, error, message):
    x = arguments(1, d, L, n, without=("initial_state",)) | {"cu_seqlens": bounds}
    for backend in ("cpu", "reference"):
        with pytest.raises(error, match=re.escape(message)):
            selective_scan_fn(**x, backend=backend)
    with pytest.raises(error, match=re.escape(message)):
        selective_scan_ref(**x)


def test_boundaries_are_checked_once(monkeypatch):
    """By the outermost call, which hands down the proof; what it belongs to is still compared."""
    checked = []
    check = _tensors.check_boundaries
    monkeypatch.setattr(
        _tensors, "check_boundaries", lambda *given: checked.append(1) or check(*given)
    )
    x = arguments(1, d, L, n, without=("initial_state",))
    packing = _tensors.as_packing(cuts(0, 2, L), 1, L, "hidden_states", x["u"].device)
    want = selective_scan_fn(**x | {"cu_seqlens": cuts(0, 2, L)})
    assert len(checked) == 2
    for function in (selective_scan_fn, selective_scan_ref):
        out = function(**x | {"cu_seqlens": packing})
        torch.testing.assert_close(out, want)
    assert len(checked) == 2
    other = arguments(1, d, L + 1, n, without=("initial_state",)) | {"cu_seqlens": packing}
    with pytest.raises(ValueError, match="length 6, expected 1 and 5, for which cu_seqlens"):
        selective_scan_fn(**other)


def test_boundaries_on_another_device():
    x = arguments(1, d, L, n) | {"cu_seqlens": cuts(0, L).to("meta")}
    with pytest.raises(ValueError, match="cu_seqlens is on meta, expected cpu, where u is"):
        selective_scan_fn(**x)


def test_compiled_programs_check_boundaries_when_they_run():
    """Once, however many scans there are."""

    def two_scans(u, cu_seqlens):
        packing = _tensors.as_packing(cu_seqlens, 1, u.shape[-1], "u", u.device)
        for _ in range(2):
            u = selective_scan_fn(
                u, x["delta"], x["A"], x["B"], x["C"], delta_softplus=True, cu_seqlens=packing
            )
        return u

    x = arguments(1, d, L, n)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(two_scans, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x["u"], cuts(0, 2, L)), two_scans(x["u"], cuts(0, 2, L)))
    checks = [node for node in graphs[0].graph.nodes if "checked_boundaries" in str(node.target)]
    assert len(graphs) == 1 and len(checks) == 1
    with pytest.raises(ValueError, match="cu_seqlens falls from 4 to 3"):
        torch.compile(two_scans, fullgraph=True, backend="aot_eager")(x["u"], cuts(0, 4, 3, L))


def test_the_check_of_boundaries_keeps_the_rules_of_operators():
    torch.library.opcheck(torch.ops.ssm_core.checked_boundaries, (cuts(0, 2, L), L))


def test_states_of_packed_sequences():
    x = arguments(1, d, L, n) | {"cu_seqlens": cuts(0, 2, L)}
    message = "initial_state has shape (1, 6, 4), expected (sequences, d, n) with sequences = 2"
    with pytest.raises(ValueError, match=re.escape(message)):
        selective_scan_fn(**x)


@pytest.mark.parametrize(
    "backend, dtype, error, message",
    [
        (
            "cuda",
            torch.float32,
            ValueError,
            "backend is 'cuda', expected one of: auto, reference, cpu",
        ),
        (None, torch.float32, TypeError, "backend is None, expected one of"),
        ("triton", torch.float64, ValueError, "backend is 'triton' and u is float64"),
        (
            "triton",
            torch.float32,
            ValueError,
            "backend is 'triton' and u is on cpu, expected a CUDA",
        ),
    ],
)
def test_backend(backend, dtype, error, message, monkeypatch):
    monkeypatch.setattr(_backends, "has_triton", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(error, match=re.escape(message)):
        selective_scan_fn(**arguments(dtype=dtype), backend=backend)


def test_backend_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(_gpu, "has_triton", lambda: False)
    with pytest.raises(ValueError, match="the package triton is not installed"):
        selective_scan_fn(**arguments(), backend="triton")


def test_backend_of_another_device():
    x = {
        name: value.to("meta") if torch.is_tensor(value) else value
        for name, value in arguments().items()
    }
    with pytest.raises(ValueError, match="backend is 'cpu' and u is on meta, expected tensors on"):
        selective_scan_fn(**x, backend="cpu")


@pytest.mark.parametrize(
    "device, dtype, triton, backend",
    [
        ("cpu", torch.float64, True, "cpu"),
        ("cuda", torch.bfloat16, True, "triton"),
        ("cuda", torch.float64, True, "reference"),
        ("cuda", torch.float32, False, "reference"),
        ("mps", torch.float32, True, "reference"),
    ],
)
def test_backend_by_itself(device, dtype, triton, backend, monkeypatch):
    class Fake:
        pass

    u = Fake()
    u.device, u.dtype = torch.device(device), dtype
    monkeypatch.setattr(_backends, "has_triton", lambda: triton)
    assert _backends.pick_backend("auto", u) == backend


STEP = [
    ({"x": torch.zeros(b, d, 1)}, ValueError, "x has shape (2, 6, 1), expected (b, d)"),
    ({"x": None}, TypeError, "x is None, expected a torch.Tensor"),
    ({"state": torch.zeros(b, n, d)}, ValueError, "state has shape (2, 4, 6), expected (b, d, n)"),
    ({"state": torch.zeros(1, d, n)}, ValueError, "state has shape (1, 6, 4), expected (b, d, n)"),
    ({"state": torch.zeros(b, d, n).double()}, TypeError, "state is float64 and x is float32"),
    ({"state": torch.zeros(1, d, n).expand(b, d, n)}, ValueError, "state is expanded"),
    ({"state": torch.zeros(b, d, n, requires_grad=True)}, ValueError, "state requires a gradient"),
    ({"dt": torch.zeros(b)}, ValueError, "dt has shape (2,), expected (b, d) with b = 2, d = 6"),
    ({"A": torch.zeros(n)}, ValueError, "A has shape (4,), expected (d, n) with d = 6"),
    ({"A": torch.zeros(d, n).half()}, TypeError, "A has dtype float16, expected float32"),
    (
        {"B": torch.zeros(d, n)},
        ValueError,
        "B has shape (6, 4), expected (b, n) or (b, g, n) with b = 2, d = 6, n = 4",
    ),
    ({"B": torch.zeros(b, 4, n)}, ValueError, "B has 4 groups, expected a divisor of"),
    ({"C": torch.zeros(b, n)}, ValueError, "C has 1 groups, expected as many as B, 2"),
    ({"D": torch.zeros(b, d)}, ValueError, "D has shape (2, 6), expected (d,)"),
    ({"z": torch.zeros(d)}, ValueError, "z has shape (6,), expected (b, d)"),
    ({"dt_bias": torch.zeros(1)}, ValueError, "dt_bias has shape (1,), expected (d,)"),
    ({"dt_softplus": "yes"}, TypeError, "dt_softplus is a str, expected True or False"),
    ({"A_is_log": 1}, TypeError, "A_is_log is a int, expected True or False"),
    ({"state_batch_indices": cuts(0)}, ValueError, "state_batch_indices has shape (1,)"),
    ({"state_batch_indices": cuts(0, 1, dtype=torch.int64)}, TypeError, "has dtype int64"),
    (
        {"state_batch_indices": cuts(0, 2)},
        ValueError,
        "state_batch_indices holds 2, expected below the number of states in the pool, 2",
    ),
    ({"state_batch_indices": cuts(1, 1)}, ValueError, "state_batch_indices names a state twice"),
    (
        {"B": torch.zeros(b, 2, n, device="meta")},
        ValueError,
        "B is on meta, expected cpu, where x is",
    ),
]


@pytest.mark.parametrize("change, error, message", STEP)
def test_step(change, error, message):
    x = arguments(b, d, 1, n, g=2)
    names = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias")
    step = dict(zip(names, next(columns(x))[0])) | {"state": x["initial_state"]} | change
    before = step["state"].clone()
    with pytest.raises(error, match=re.escape(message)):
        selective_state_update(**step)
    assert torch.equal(step["state"], before)


def test_many_rows_may_be_padding():
    x = arguments(b, d, 1, n)
    y = selective_state_update(
        x["initial_state"], *next(columns(x))[0], state_batch_indices=cuts(-1, -1)
    )
    assert not y.any()
