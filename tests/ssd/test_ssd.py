"""The entry points: one call under autograd, torch.compile, torch.export and torch.func."""

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode

from ssm_core.ssd import mamba_chunk_scan_combined, ssd_fn, ssd_matrix
from tests.scan.cases import TOLERANCE, assert_close, assert_same_bits, exactly, is_float
from tests.ssd.cases import FEATURES, arguments, part, reference, results

FULLGRAPH = {"fullgraph": True, "backend": "aot_eager"}
SOME = ("all arguments", "nothing optional", "D of each channel", "packed")


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_chunk_is_what_runs_on_a_cpu():
    x = arguments(2, 70)
    assert_same_bits(results(ssd_fn, x), results(ssd_fn, x, backend="chunk"))


def test_initial_states_in_16_bits():
    x = arguments(2, 20, dtype=torch.bfloat16)
    x["initial_states"] = x["initial_states"].bfloat16()
    got = results(ssd_fn, x)
    assert got["final_states"].dtype == torch.float32
    assert got["gradient of initial_states"].dtype == torch.bfloat16
    assert_close(got, results(reference, exactly(x)), TOLERANCE[torch.bfloat16])


# --- autograd ------------------------------------------------------------------------------------


def test_second_derivatives_are_refused_where_there_are_none():
    x = arguments()
    u = x["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(ssd_fn(**x).sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="pass backend='reference'"):
        gradient.sum().backward()


def test_reference_has_second_derivatives():
    x = exactly(arguments(1, 4, 2, 1, 1, 2))
    A, dt = x["A"].requires_grad_(), x["dt"].requires_grad_()

    def function(A, dt):
        return ssd_fn(**x | {"A": A, "dt": dt}, backend="reference")

    assert torch.autograd.gradgradcheck(function, (A, dt))


def test_a_changed_argument_is_noticed():
    x = arguments()
    y = ssd_fn(**x | {"x": x["x"].requires_grad_()})
    x["dt"].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_checkpointed():
    x = arguments(1, 70)
    want = results(ssd_fn, x)

    def ssd(**x):
        return torch.utils.checkpoint.checkpoint(ssd_fn, use_reentrant=False, **x)

    assert_same_bits(results(ssd, x), want)


def test_autocast_changes_nothing():
    x = arguments(2, 70, dtype=torch.bfloat16)
    want = results(ssd_fn, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(results(ssd_fn, x), want)


def test_a_gradient_in_a_batch():
    x = arguments(1, 20)
    u = x["x"].requires_grad_()
    y = ssd_fn(**x)
    weights = torch.randn(3, *y.shape)
    (got,) = torch.autograd.grad(y, u, weights, retain_graph=True, is_grads_batched=True)
    want = [torch.autograd.grad(y, u, w, retain_graph=True)[0] for w in weights]
    torch.testing.assert_close(got, torch.stack(want))


# --- torch.func and forward mode ------------------------------------------------------------------


def test_gradients_of_each_sample():
    x = exactly(arguments(3, 20, without=("initial_states",)))
    shared = {name: x.pop(name) for name in ("x", "dt", "B", "C", "z")}

    def loss(A, sample):
        rows = {name: value[None] for name, value in sample.items()}
        return ssd_fn(**x | rows | {"A": A}).square().sum()

    got = torch.func.vmap(torch.func.grad(loss), (None, 0))(x["A"], shared)
    for i in range(3):
        A = x["A"].clone().requires_grad_()
        sample = {name: value[i] for name, value in shared.items()}
        (want,) = torch.autograd.grad(loss(A, sample), A)
        torch.testing.assert_close(got[i], want)


def test_forward_mode():
    x = exactly(arguments(1, 20))
    tangent = torch.randn_like(x["dt"])
    got = torch.func.jvp(lambda dt: ssd_fn(**x | {"dt": dt}), (x["dt"],), (tangent,))[1]
    step = 1e-6
    ahead, behind = (ssd_fn(**x | {"dt": x["dt"] + s * tangent}) for s in (step, -step))
    torch.testing.assert_close(got, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


# --- torch.compile and torch.export ---------------------------------------------------------------


@pytest.mark.parametrize("feature", SOME)
def test_compiled_in_one_graph(feature):
    x = arguments(2, 70, **FEATURES[feature])
    compiled = torch.compile(ssd_fn, **FULLGRAPH)
    assert_same_bits(results(compiled, x), results(ssd_fn, x))


def test_compiled_for_any_batch_and_length():
    """One graph for all of them: none is compiled again."""
    compiled = torch.compile(ssd_fn, **FULLGRAPH, dynamic=True)
    first = arguments(5, 70, 6, 3, 2, 7)  # sizes that are equal would be taken for one
    assert_same_bits(results(compiled, first), results(ssd_fn, first))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for b, L in ((3, 70), (8, 33), (4, 200)):
            x = arguments(b, L, 6, 3, 2, 7)
            assert_same_bits(results(compiled, x), results(ssd_fn, x))


class Layer(torch.nn.Module):
    def __init__(self, A):
        super().__init__()
        self.A = torch.nn.Parameter(A)

    def forward(self, x, dt, B, C):
        return ssd_fn(x, dt, self.A, B, C, dt_softplus=True, return_final_states=True)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_with_any_batch_and_length(strict):
    first, second = arguments(3, 70, 4, 2, 2, 5), arguments(4, 130, 4, 2, 2, 5)
    names = ("x", "dt", "B", "C")
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    layer = Layer(first["A"])
    program = torch.export.export(
        layer,
        tuple(first[name] for name in names),
        dynamic_shapes={name: {0: batch, 1: length} for name in names},
        strict=strict,
    )
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert torch.ops.ssm_core.ssd.default in operators
    given = [second[name] for name in names]
    torch.testing.assert_close(program.module()(*given), layer(*given), rtol=0, atol=0)


def test_fake_tensors_pass():
    x = arguments(2, 9)
    with FakeTensorMode() as mode:
        fake = {k: mode.from_tensor(v) if torch.is_tensor(v) else v for k, v in x.items()}
        y, states = ssd_fn(**fake, return_final_states=True)
    assert y.shape == x["x"].shape and states.shape == x["initial_states"].shape


@pytest.mark.parametrize("feature", SOME)
def test_operators_keep_the_rules_of_operators(feature):
    x = arguments(2, 70, **FEATURES[feature])
    x = {k: v.requires_grad_() if is_float(v) else v for k, v in x.items()}
    *tensors, initial_states, softplus, limits, cuts = x.values()
    given = (*tensors, softplus, *limits, initial_states, cuts, 16)
    torch.library.opcheck(torch.ops.ssm_core.ssd, (*given, "chunk"))

    detached = [v.detach() if torch.is_tensor(v) else v for v in given]
    y, states = torch.ops.ssm_core.ssd(*detached, "chunk")
    backward = (y, states, *detached, "chunk")
    torch.library.opcheck(torch.ops.ssm_core.ssd_backward, backward)
    made = torch.ops.ssm_core.ssd_backward(*backward)
    assert all(g.is_contiguous() for g in (y, states, *made))
    absent = [g.shape == (0,) for g in made]
    assert absent == [v is None for v in (*tensors, initial_states)]


# --- the matrix ----------------------------------------------------------------------------------


def test_matrix_is_lower_triangular_and_of_low_rank_below_the_diagonal():
    x = arguments(1, 12, 2, 1, 1, 3, dtype=torch.float64, dt_softplus=False)
    M = ssd_matrix(x["dt"], x["A"] / 10, x["B"], x["C"])
    assert M.shape == (1, 2, 12, 12) and not M.triu(1).any()
    for k in range(3, 9):  # 3-semiseparable: every block below the diagonal has rank n = 3
        assert torch.linalg.matrix_rank(M[0, 0, k:, :k], rtol=1e-9) == 3


def test_matrix_without_decay_is_causal_linear_attention():
    x = arguments(2, 12, dtype=torch.float64)
    one = torch.ones_like(x["dt"])
    M = ssd_matrix(one, 0 * x["A"], x["B"], x["C"])
    want = torch.einsum("bign,bjgn->bgij", x["C"], x["B"]).tril().repeat_interleave(2, dim=1)
    torch.testing.assert_close(M, want)


def test_matrix_has_gradients():
    x = arguments(1, 6, 2, 1, 1, 2, dtype=torch.float64, dt_softplus=False)
    given = [x[name].requires_grad_() for name in ("dt", "A", "B", "C")]
    assert torch.autograd.gradcheck(ssd_matrix, given)


# --- the published call ---------------------------------------------------------------------------


def published(x, **more):
    x = {k: v for k, v in x.items() if k != "cu_seqlens"}
    return mamba_chunk_scan_combined(**{"chunk_size": 256, **x, **more})


def test_published_call():
    x = arguments(2, 70)
    y, states = ssd_fn(**x, return_final_states=True)
    torch.testing.assert_close(published(x), y)
    torch.testing.assert_close(published(x, return_final_states=True), (y, states))
    order = ("x", "dt", "A", "B", "C")
    plain = mamba_chunk_scan_combined(*(x[k] for k in order), 100, x["D"], x["z"], x["dt_bias"])
    want = ssd_fn(**x | {"initial_states": None, "dt_softplus": False})
    torch.testing.assert_close(plain, want)


def test_published_call_takes_weights_in_16_bits():
    x = arguments(2, 20, dtype=torch.bfloat16)
    low = x | {k: x[k].bfloat16() for k in ("A", "D", "dt_bias")}
    want = ssd_fn(**x | {k: low[k].float() for k in ("A", "D", "dt_bias")})
    assert torch.equal(published(low), want)


def test_published_call_with_indices_of_sequences():
    """Two rows of several sequences each, one of which returns under the number of another."""
    lengths = ((5, 20, 1, 4), (30,))
    x = arguments(2, 30)
    indices = [torch.tensor([7, 2, 7, 0]), torch.tensor([7])]
    rows = [i.repeat_interleave(torch.tensor(n)) for i, n in zip(indices, lengths)]

    def separately(return_final_states, cu_seqlens, initial_states, **x):
        y, last = [], []
        for i, row in enumerate(lengths):
            state, pieces, start = initial_states[i : i + 1], [], 0
            for n in row:
                one = {
                    k: v[i : i + 1] if k in ("x", "dt", "B", "C", "z") else v for k, v in x.items()
                }
                piece, end = reference(
                    **part(one, slice(start, start + n)),
                    initial_states=state,
                    return_final_states=True,
                )
                pieces.append(piece)
                start, state = start + n, None
            y.append(torch.cat(pieces, dim=1))
            last.append(end)
        return torch.cat(y), torch.cat(last)

    def ours(return_final_states, cu_seqlens, **x):
        return published(x, seq_idx=torch.stack(rows).int(), return_final_states=True)

    got, want = results(ours, x), results(separately, exactly(x))
    assert_close(got, want, TOLERANCE[torch.float32])


def test_published_call_with_states_of_packed_sequences():
    x = arguments(1, 30, without=("initial_states",))
    cuts = torch.tensor([0, 10, 10, 30], dtype=torch.int32)
    y, states = ssd_fn(**x | {"cu_seqlens": cuts}, return_final_states=True)
    index = torch.tensor([0] * 10 + [2] * 20, dtype=torch.int32)[None]
    for seq_idx in (index, None):
        got = published(
            x, cu_seqlens=cuts, seq_idx=seq_idx, return_final_states=True, return_varlen_states=True
        )
        torch.testing.assert_close(got, (y, states[2:], states))


def test_published_call_says_what_it_misses():
    x = arguments(1, 30)
    with pytest.raises(ValueError, match="cu_seqlens is None"):
        published(x, return_varlen_states=True)
    with pytest.raises(ValueError, match=r"seq_idx has shape \(1, 5\), expected \(b, L\)"):
        published(x, seq_idx=torch.zeros(1, 5, dtype=torch.int32))
    with pytest.raises(TypeError, match="seq_idx has dtype float32, expected int32"):
        published(x, seq_idx=torch.zeros(1, 30))
    with pytest.raises(ValueError, match="chunk_size is 0"):
        published(x, chunk_size=0)
