"""The entry points: one call under autograd, autocast, torch.compile and torch.export."""

import sys

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssm_core.scan import _operators, selective_scan_fn, selective_scan_ref, selective_state_update
from tests.scan.cases import (
    FEATURES,
    TOLERANCE,
    arguments,
    assert_close,
    assert_same_bits,
    assert_solved,
    columns,
    exactly,
    is_float,
    results,
)

FULLGRAPH = {"fullgraph": True, "backend": "aot_eager"}
SOME = ("all arguments", "nothing optional", "constant B and C", "packed groups")


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("feature", FEATURES)
def test_solves_the_banded_system(feature):
    b = 1 if FEATURES[feature].get("packed") else 3
    x = arguments(b, 6, 150, 4, **FEATURES[feature], dtype=torch.float64)
    assert_solved(selective_scan_fn, x)


def test_positional_order_is_the_usual_one():
    x = arguments(2, 3, 9, 4)
    order = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    out, last = selective_scan_fn(
        *(x[name] for name in order), True, True, initial_state=x["initial_state"]
    )
    want = selective_scan_ref(**x, return_last_state=True)
    torch.testing.assert_close((out, last), want)
    assert torch.equal(
        selective_scan_fn(*(x[name] for name in order), True, initial_state=x["initial_state"]), out
    )


def test_weights_without_a_group():
    x = arguments(2, 6, 9, 4)
    plain = x | {"B": x["B"][:, 0], "C": x["C"][:, 0]}
    got, want = results(selective_scan_fn, plain), results(selective_scan_fn, x)
    assert got["gradient of B"].shape == (2, 4, 9)
    assert_same_bits({name: y.reshape(want[name].shape) for name, y in got.items()}, want)


def test_initial_state_in_16_bits():
    x = arguments(2, 3, 9, 4, dtype=torch.bfloat16)
    x["initial_state"] = x["initial_state"].bfloat16()
    got = results(selective_scan_fn, x)
    assert got["last_state"].dtype == torch.float32
    assert got["gradient of initial_state"].dtype == torch.bfloat16
    assert_close(got, results(selective_scan_ref, exactly(x)), TOLERANCE[torch.bfloat16])


# --- autograd ------------------------------------------------------------------------------------


def test_second_derivatives_are_refused_where_there_are_none():
    x = arguments()
    u = x["u"].requires_grad_()
    (gradient,) = torch.autograd.grad(selective_scan_fn(**x).sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="pass backend='reference'"):
        gradient.sum().backward()


def test_reference_has_second_derivatives():
    x = exactly(arguments())
    A = x["A"].requires_grad_()
    out = selective_scan_fn(**x, backend="reference")
    (gradient,) = torch.autograd.grad(out.sum(), A, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), A)[0].abs().sum() > 0


def test_nothing_is_saved_without_a_gradient(monkeypatch):
    from ssm_core.scan import cpu

    saved, forward = [], cpu.forward

    def watched(*given):
        results = forward(*given)
        saved.append(results[2].numel())
        return results

    monkeypatch.setattr(cpu, "forward", watched)
    x = arguments()
    selective_scan_fn(**x)
    x["u"].requires_grad_()
    with torch.no_grad():
        assert not selective_scan_fn(**x).requires_grad
    with torch.inference_mode():
        selective_scan_fn(**x)
    assert selective_scan_fn(**x).requires_grad
    assert saved[:3] == [0, 0, 0] and saved[3] > 0


def test_a_changed_argument_is_noticed():
    x = arguments()
    out = selective_scan_fn(**x | {"u": x["u"].requires_grad_()})
    x["delta"].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_checkpointed():
    x = arguments(1, 3, 70, 4)
    want = results(selective_scan_fn, x)

    def scan(**x):
        return torch.utils.checkpoint.checkpoint(selective_scan_fn, use_reentrant=False, **x)

    assert_same_bits(results(scan, x), want)


def test_autocast_changes_nothing():
    x = arguments(2, 6, 70, 4, dtype=torch.bfloat16)
    want = results(selective_scan_fn, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same_bits(results(selective_scan_fn, x), want)
        exact = results(selective_scan_ref, x)
    assert exact["last_state"].dtype == torch.float32
    assert_close(want, exactly(exact), TOLERANCE[torch.bfloat16])


def test_step_has_no_gradient():
    x = arguments(2, 3, 1, 4)
    state = x["initial_state"]
    step, softplus = next(columns(x | {"A": x["A"].requires_grad_()}))
    y = selective_state_update(state, *step, softplus)
    assert not state.requires_grad
    with pytest.raises(RuntimeError, match="selective_state_update"):
        y.sum().backward()
    with torch.no_grad():
        assert not selective_state_update(state, *step, softplus).requires_grad


# --- torch.compile and torch.export --------------------------------------------------------------


@pytest.mark.parametrize("feature", SOME)
def test_compiled_in_one_graph(feature):
    b = 1 if FEATURES[feature].get("packed") else 2
    x = arguments(b, 6, 70, 4, **FEATURES[feature])
    compiled = torch.compile(selective_scan_fn, **FULLGRAPH)
    assert_same_bits(results(compiled, x), results(selective_scan_fn, x))


def test_compiled_for_any_batch_and_length():
    """One graph for all of them: none is compiled again."""
    compiled = torch.compile(selective_scan_fn, **FULLGRAPH, dynamic=True)
    first = arguments(5, 6, 70, 4, g=2)  # sizes that are equal would be taken for one
    assert_same_bits(results(compiled, first), results(selective_scan_fn, first))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for b, L in ((3, 70), (6, 33), (4, 200)):
            x = arguments(b, 6, L, 4, g=2)
            assert_same_bits(results(compiled, x), results(selective_scan_fn, x))


def test_compiled_with_the_default_backend():
    x = arguments(1, 6, 70, 4)
    compiled = torch.compile(selective_scan_fn, fullgraph=True)
    assert_same_bits(results(compiled, x), results(selective_scan_fn, x))


class Layer(torch.nn.Module):
    def __init__(self, A):
        super().__init__()
        self.A = torch.nn.Parameter(A)

    def forward(self, u, delta, B, C):
        return selective_scan_fn(
            u, delta, self.A, B, C, delta_softplus=True, return_last_state=True
        )


@pytest.mark.parametrize("strict", [False, True])
def test_exported_with_any_batch_and_length(strict):
    first, second = arguments(3, 4, 70, 5), arguments(4, 4, 130, 5)
    names = ("u", "delta", "B", "C")
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes = [{0: batch, 2: length}] * 2 + [{0: batch, 3: length}] * 2
    layer = Layer(first["A"])
    program = torch.export.export(
        layer,
        tuple(first[name] for name in names),
        dynamic_shapes=dict(zip(names, shapes)),
        strict=strict,
    )
    operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert torch.ops.ssm_core.selective_scan.default in operators
    given = [second[name] for name in names]
    torch.testing.assert_close(program.module()(*given), layer(*given), rtol=0, atol=0)


class Recorder(TorchDispatchMode):
    """The operators that pass through."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_dispatch_modes_and_fake_tensors_see_one_operator():
    x = arguments(2, 3, 9, 4)
    want = selective_scan_fn(**x)
    with Recorder() as seen:
        assert torch.equal(selective_scan_fn(**x), want)
    assert "ssm_core::selective_scan" in seen.names
    with FakeTensorMode() as mode:
        fake = {
            name: mode.from_tensor(value) if torch.is_tensor(value) else value
            for name, value in x.items()
        }
        assert selective_scan_fn(**fake).shape == want.shape
    assert selective_scan_fn(**fake).shape == want.shape  # fake tensors outlive their mode


def test_a_tensor_subclass_passes():
    class Tagged(torch.Tensor):
        pass

    x = arguments(2, 3, 9, 4)
    out = selective_scan_fn(**x | {"u": x["u"].as_subclass(Tagged)})
    torch.testing.assert_close(out.as_subclass(torch.Tensor), selective_scan_fn(**x))


@pytest.mark.parametrize("gradient", [True, False])
def test_few_frames_lie_between_the_call_and_the_kernel(gradient, monkeypatch):
    """Autograd, the backend, its tasks and their threads: at most four, each with a reason."""
    from ssm_core.scan import cpu

    if cpu.compiled is None:
        pytest.skip("no Numba")
    frames = []

    def kernel(*_):
        frame = sys._getframe(1)
        while frame.f_code is not selective_scan_fn.__code__:
            frames.append(frame.f_code)
            frame = frame.f_back

    monkeypatch.setattr(cpu.compiled, "_forward", kernel)
    x = arguments(1, 3, 9, 4)
    selective_scan_fn(**x | {"u": x["u"].requires_grad_(gradient)})
    assert len([code for code in frames if "ssm_core" in code.co_filename]) <= 4


def test_step_compiled_in_one_graph():
    x = arguments(3, 6, 1, 4)
    step, softplus = next(columns(x))
    compiled = torch.compile(selective_state_update, **FULLGRAPH)
    slots = torch.tensor([3, -1, 0], dtype=torch.int32)
    for more in ({}, {"state_batch_indices": slots}):
        pool = torch.cat([x["initial_state"]] * 2)[: 5 if more else 3]
        want = pool.clone()
        y = selective_state_update(want, *step, softplus, **more)
        assert torch.equal(compiled(pool, *step, softplus, **more), y) and torch.equal(pool, want)


def test_a_loop_of_steps_exported():
    class Steps(torch.nn.Module):
        def forward(self, state, u, delta, A, B, C):
            return torch.stack(
                [
                    selective_state_update(state, u[..., t], delta[..., t], A, B[..., t], C[..., t])
                    for t in range(3)
                ],
                dim=-1,
            )

    x = arguments(2, 4, 3, 5, delta_softplus=False)
    given = tuple(x[name] for name in ("u", "delta", "A", "B", "C"))
    program = torch.export.export(Steps(), (x["initial_state"].clone(), *given))
    want = selective_scan_ref(*given, initial_state=x["initial_state"])
    torch.testing.assert_close(program.module()(x["initial_state"].clone(), *given), want)


@pytest.mark.parametrize("feature", SOME)
def test_operators_keep_the_rules_of_operators(feature):
    b = 1 if FEATURES[feature].get("packed") else 2
    x = arguments(b, 6, 70, 4, **FEATURES[feature])
    x = {name: value.requires_grad_() if is_float(value) else value for name, value in x.items()}
    *tensors, initial_state, softplus, cuts = x.values()
    given = (*tensors, softplus, initial_state, cuts)
    torch.library.opcheck(torch.ops.ssm_core.selective_scan, (*given, True, "cpu"))

    with torch.no_grad():
        out, last, saved = torch.ops.ssm_core.selective_scan(*given, True, "cpu")
        backward = (out, last, *given, saved, "cpu")
        torch.library.opcheck(
            torch.ops.ssm_core.selective_scan_backward,
            [v.detach() if torch.is_tensor(v) else v for v in backward],
        )


def test_step_keeps_the_rules_of_operators():
    x = arguments(3, 6, 1, 4, g=2)
    step, softplus = next(columns(x))
    for slots in (None, torch.tensor([2, -1, 0], dtype=torch.int32)):
        torch.library.opcheck(
            torch.ops.ssm_core.selective_state_update,
            (x["initial_state"].clone(), *step, softplus, slots, "reference", False),
        )


def test_results_are_contiguous_as_the_operators_promise():
    """Also for a gate and a gradient that are not: what is compiled relies on the strides."""
    x = arguments(2, 6, 70, 4, g=2)
    x = {
        name: value.mT.contiguous().mT if is_float(value) and value.ndim > 2 else value
        for name, value in x.items()
    }
    *tensors, initial_state, softplus, cuts = x.values()
    given = (*tensors, softplus, initial_state, cuts)
    out, last, saved = torch.ops.ssm_core.selective_scan(*given, True, "cpu")
    dout = out.mT.contiguous().mT
    made = torch.ops.ssm_core.selective_scan_backward(dout, None, *given, saved, "cpu")
    assert all(y.is_contiguous() for y in (out, last, saved, *made))


def test_operators_and_their_modules_agree_on_what_is_absent():
    x = arguments(without=("D", "z", "delta_bias", "initial_state"))
    *tensors, initial_state, softplus, cuts = x.values()
    given = (*tensors, softplus, initial_state, cuts)
    out, last, saved = torch.ops.ssm_core.selective_scan(*given, True, "cpu")
    made = torch.ops.ssm_core.selective_scan_backward(out, last, *given, saved, "cpu")
    assert [y.shape == (0,) for y in made] == [False] * 5 + [True] * 4
    assert _operators.SelectiveScan.forward(*given, False, "cpu")[0].shape == x["u"].shape


# --- a step with heads ----------------------------------------------------------------------------


def heads(b=3, h=4, p=3, g=2, n=5):
    """Arguments of a step with heads, where a head has one step, one decay and one bias."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "x": random(b, h, p),
        "dt": random(b, h, 1).expand(b, h, p),
        "A": -torch.exp(random(h, 1, 1)).expand(h, p, n),
        "B": random(b, g, n),
        "C": random(b, g, n),
        "D": random(h, 1).expand(h, p),
        "z": random(b, h, p),
        "dt_bias": random(h, 1).expand(h, p),
        "dt_softplus": True,
    }, random(b, h, p, n)


def test_steps_with_heads_are_state_space_duality():
    from ssm_core.ssd import ssd_fn

    x, state = heads()
    y, want = ssd_fn(
        *(x["x"][:, None], x["dt"][:, None, :, 0], x["A"][:, 0, 0]),
        *(x["B"][:, None], x["C"][:, None]),
        D=x["D"][:, 0],
        z=x["z"][:, None],
        dt_bias=x["dt_bias"][:, 0],
        dt_softplus=True,
        initial_states=state,
        return_final_states=True,
    )
    turned = state.mT.contiguous().mT.transpose(1, 2).contiguous().transpose(1, 2)
    for given in (state.clone(), turned):
        got = selective_state_update(given, **x)
        torch.testing.assert_close(got, y[:, 0])
        torch.testing.assert_close(given, want)


def test_steps_with_heads_in_a_pool_of_states():
    x, state = heads()
    pool = torch.cat([state, state])
    slots = torch.tensor([4, -1, 0], dtype=torch.int32)
    before = pool.clone()
    y = selective_state_update(pool, **x, state_batch_indices=slots)
    start = before[[4, 0, 0]]
    want = selective_state_update(start, **x)
    torch.testing.assert_close(y[[0, 2]], want[[0, 2]])
    assert not y[1].any() and torch.equal(pool[[1, 2, 3, 5]], before[[1, 2, 3, 5]])
    torch.testing.assert_close(pool[[4, 0]], start[[0, 2]])


def test_step_with_heads_compiled():
    x, state = heads()
    want_state = state.clone()
    want = selective_state_update(want_state, **x)
    y = torch.compile(selective_state_update, **FULLGRAPH)(state, **x)
    torch.testing.assert_close((y, state), (want, want_state))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(3, 12)}, r"x has shape \(3, 12\), expected \(b, h, p\)"),
        ({"dt": torch.zeros(3, 4)}, r"dt has shape \(3, 4\), expected \(b, h, p\) with b = 3"),
        ({"A": torch.zeros(4)}, r"A has shape \(4,\), expected \(h, p, n\) with h = 4, p = 3"),
        ({"B": torch.zeros(3, 5)}, r"B has shape \(3, 5\), expected \(b, g, n\)"),
        ({"B": torch.zeros(3, 3, 5)}, "B has 3 groups, expected a divisor of the number of heads"),
        ({"D": torch.zeros(4)}, r"D has shape \(4,\), expected \(h, p\) with h = 4, p = 3"),
    ],
)
def test_messages_of_steps_with_heads(change, message):
    x, state = heads()
    with pytest.raises(ValueError, match=message):
        selective_state_update(state, **x | change)


def test_an_expanded_state_with_heads_is_refused():
    x, state = heads()
    with pytest.raises(ValueError, match="state is expanded"):
        selective_state_update(state[:1].expand(3, -1, -1, -1), **x)
