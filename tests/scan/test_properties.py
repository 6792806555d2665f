"""Laws of the selective scan on random sizes: what must hold whatever the numbers are.

Each law is drawn for every backend that a CPU runs, in float64, where it holds to rounding.
"""

import math
import re

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from ssm_core.scan import cpu, selective_scan_fn, selective_state_update
from tests.scan.cases import arguments, assert_close, is_float, solution

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
TIMES = ("u", "delta", "B", "C", "z")  # what varies along the sequence, as its last axis
OPTIONAL = ("D", "z", "delta_bias", "initial_state")


@st.composite
def scans(draw, *, packed=None, dtype=torch.float64, fewest=0, constant=None, softplus=None):
    """Arguments of a scan of any size and with any features, but for what is given."""
    g = draw(st.integers(1, 3))
    packed = draw(st.booleans()) if packed is None else packed
    x = arguments(
        b=1 if packed else draw(st.integers(fewest, 3)),
        d=g * draw(st.integers(1, 4)),
        L=draw(st.integers(fewest, 9) | st.integers(60, 70)),
        n=draw(st.integers(1, 5)),
        g=g,
        packed=packed,
        dtype=dtype,
        without=draw(st.sets(st.sampled_from(OPTIONAL))),
        constant=draw(st.sampled_from(["", "B", "C", "BC"])) if constant is None else constant,
        delta_softplus=draw(st.booleans()) if softplus is None else softplus,
        seed=draw(st.integers(0, 2**20)),
    )
    if packed:
        L = x["u"].shape[-1]
        inner = sorted(draw(st.lists(st.integers(0, L), max_size=4)))
        x["cu_seqlens"] = torch.tensor([0, *inner, L], dtype=torch.int32)
        if x["initial_state"] is not None:
            d, n = x["A"].shape
            x["initial_state"] = torch.randn(len(inner) + 1, d, n, dtype=x["A"].dtype)
    return x


@pytest.fixture(params=["reference", "numba", "torch"], autouse=True)
def _backend(request, backends):
    backends.append(request.param)
    yield
    backends.pop()


@pytest.fixture(scope="module")
def backends():
    return []


@pytest.fixture(scope="module")
def scan(backends):
    """A scan on the backend of the test; Hypothesis wants fixtures that a test does not change."""

    def run(**x):
        with pytest.MonkeyPatch.context() as patch:
            if backends[-1] == "torch":
                patch.setattr(cpu, "compiled", None)
            elif backends[-1] == "numba" and cpu.compiled is None:
                pytest.skip("no Numba")
            name = "reference" if backends[-1] == "reference" else "cpu"
            out, last = selective_scan_fn(**x, return_last_state=True, backend=name)
        return {"out": out, "last": last}

    return run


def at(x, times):
    """The arguments at some of the times."""
    return x | {
        name: x[name][..., times] for name in TIMES if x[name] is not None and x[name].ndim > 2
    }


def close(got, want, dtype=torch.float64):
    assert_close(got, want, TOLERANCE[dtype])


# --- what a scan is -------------------------------------------------------------------------------


@given(x=scans(fewest=1))
def test_solves_the_banded_system(scan, x):
    got = scan(**x)
    close(got, dict(zip(got, solution(**x))))


@given(x=scans(), factor=st.floats(-3, 3), seed=st.integers(0, 99))
def test_linear_in_the_input_and_the_state(scan, x, factor, seed):
    """For fixed steps and weights: scan(u + c v) = scan(u) + c scan(v)."""
    generator = torch.Generator().manual_seed(seed)

    def other(name):
        value = x[name]
        return (
            None
            if value is None
            else torch.randn(value.shape, generator=generator, dtype=value.dtype)
        )

    v, w = other("u"), other("initial_state")
    a, b = scan(**x), scan(**x | {"u": v, "initial_state": w})
    start = None if w is None else x["initial_state"] + factor * w
    got = scan(**x | {"u": x["u"] + factor * v, "initial_state": start})
    close(got, {name: a[name] + factor * b[name] for name in a})


@given(x=scans(packed=False, fewest=1), data=st.data())
def test_causal(scan, x, data):
    """What comes after a time, NaN included, does not reach the outputs up to it."""
    t = data.draw(st.integers(0, x["u"].shape[-1]))
    later = at(x, slice(None))
    for name in TIMES:
        if x[name] is not None and x[name].ndim > 2:
            later[name] = x[name].clone()
            later[name][..., t:] = math.nan
    assert torch.equal(scan(**later)["out"][..., :t], scan(**x)["out"][..., :t])


@given(x=scans(packed=False), pause=st.integers(0, 70))
def test_nothing_happens_before_the_first_input(scan, x, pause):
    """Zeros in front shift the outputs and change nothing else, as the state starts at zero."""
    x["initial_state"] = None
    longer = dict(x)
    for name in TIMES:
        if x[name] is not None and x[name].ndim > 2:
            front = x[name].new_zeros(*x[name].shape[:-1], pause)
            longer[name] = torch.cat([front, x[name]], dim=-1)
    got, want = scan(**longer), scan(**x)
    assert not got["out"][..., :pause].any()
    close({"out": got["out"][..., pause:], "last": got["last"]}, want)


@given(x=scans(packed=False), data=st.data())
def test_pieces_are_the_whole(scan, x, data):
    """Cut anywhere and as often as one likes, each piece beginning with the state of the last."""
    L = x["u"].shape[-1]
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, L), max_size=4))), L]
    state, outs = x["initial_state"], []
    for start, stop in zip(cuts, cuts[1:]):
        piece = scan(**at(x, slice(start, stop)) | {"initial_state": state})
        outs.append(piece["out"])
        state = piece["last"]
    close({"out": torch.cat(outs, dim=-1), "last": state}, scan(**x))


@given(x=scans(packed=True))
def test_packed_sequences_are_separate_ones(scan, x):
    bounds = x["cu_seqlens"].tolist()
    parts = []
    for i, (start, stop) in enumerate(zip(bounds, bounds[1:])):
        state = None if x["initial_state"] is None else x["initial_state"][i : i + 1]
        parts.append(
            scan(**at(x, slice(start, stop)) | {"initial_state": state, "cu_seqlens": None})
        )
    close(
        scan(**x),
        {
            "out": torch.cat([part["out"] for part in parts], dim=-1),
            "last": torch.cat([part["last"] for part in parts]),
        },
    )


@given(x=scans(packed=False, fewest=1, constant=""))
def test_steps_are_the_scan(scan, x):
    want = scan(**x)
    state = torch.zeros_like(want["last"])
    if x["initial_state"] is not None:
        state.copy_(x["initial_state"])
    ys = []
    for t in range(x["u"].shape[-1]):
        now = at(x, t)
        ys.append(
            selective_state_update(
                state,
                now["u"],
                now["delta"],
                now["A"],
                now["B"],
                now["C"],
                now["D"],
                now["z"],
                now["delta_bias"],
                now["delta_softplus"],
            )
        )
    close({"out": torch.stack(ys, dim=-1), "last": state}, want)


# --- what does not matter --------------------------------------------------------------------------


@given(x=scans(packed=False), data=st.data())
def test_rows_of_a_batch_do_not_meet(scan, x, data):
    order = data.draw(st.permutations(range(x["u"].shape[0])))
    mixed = {
        name: value[order] if is_float(value) and value.ndim > 2 else value
        for name, value in x.items()
    }
    close(scan(**mixed), {name: y[order] for name, y in scan(**x).items()})


@given(x=scans(), data=st.data())
def test_channels_do_not_meet(scan, x, data):
    """Channels change places within their group, and groups with each other."""
    d, g = x["A"].shape[0], next((x[M].shape[1] for M in "BC" if x[M].ndim == 4), 1)
    groups = data.draw(st.permutations(range(g)))
    order = [
        group * (d // g) + c for group in groups for c in data.draw(st.permutations(range(d // g)))
    ]
    axis = {"u": 1, "delta": 1, "A": 0, "D": 0, "z": 1, "delta_bias": 0, "initial_state": 1}
    mixed = x | {
        name: x[name].index_select(i, torch.tensor(order))
        for name, i in axis.items()
        if x[name] is not None
    }
    mixed |= {M: x[M][:, groups] if x[M].ndim == 4 else x[M][order] for M in "BC"}
    close(scan(**mixed), {name: y[:, order] for name, y in scan(**x).items()})


@given(x=scans(), data=st.data())
def test_states_of_a_channel_may_change_places(scan, x, data):
    order = data.draw(st.permutations(range(x["A"].shape[1])))
    mixed = x | {"A": x["A"][:, order]}
    mixed |= {M: x[M][:, :, order] if x[M].ndim == 4 else x[M][:, order] for M in "BC"}
    if x["initial_state"] is not None:
        mixed["initial_state"] = x["initial_state"][..., order]
    want = scan(**x)
    close(scan(**mixed), {"out": want["out"], "last": want["last"][..., order]})


@given(x=scans(softplus=False), k=st.floats(0.25, 4))
def test_units_of_time_do_not_matter(scan, x, k):
    """Half the rate for twice the step; B is per unit of time, so it halves as well."""
    other = x | {"delta": k * x["delta"], "A": x["A"] / k, "B": x["B"] / k}
    if x["delta_bias"] is not None:
        other["delta_bias"] = k * x["delta_bias"]
    close(scan(**other), scan(**x))


def view(x, kind):
    """The same numbers at other places in memory."""
    if kind == "transposed" and x.ndim > 1:
        return x.mT.contiguous().mT
    if kind == "every second":
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    if kind == "in a larger one":
        wide = x.new_full([size + 2 for size in x.shape], math.nan)
        inner = wide[tuple(slice(1, -1) for _ in x.shape)]
        return inner.copy_(x)
    if kind == "behind an odd element":
        flat = torch.cat([x.new_zeros(1), x.reshape(-1)])
        return flat[1:].view(x.shape)
    return x


KINDS = ["as it is", "transposed", "every second", "in a larger one", "behind an odd element"]


@given(x=scans(), data=st.data())
def test_places_in_memory_do_not_matter(scan, x, data):
    names = [name for name, value in x.items() if is_float(value)]
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=len(names), max_size=len(names)))
    moved = x | {name: view(x[name], kind) for name, kind in zip(names, kinds)}
    assert all(torch.equal(moved[name], x[name]) for name in names)
    close(scan(**moved), scan(**x))


@given(x=scans(), data=st.data())
def test_expanded_arguments(scan, x, data):
    """A stride of 0 is a copy of one number."""
    names = [name for name in x if is_float(x[name]) and x[name].numel()]
    expanded = dict(x)
    for name in names:
        axis = data.draw(st.integers(0, x[name].ndim - 1))
        expanded[name] = x[name].narrow(axis, 0, 1).expand(x[name].shape)
    copied = {
        name: value.clone() if torch.is_tensor(value) else value for name, value in expanded.items()
    }
    close(scan(**expanded), scan(**copied))


@given(x=scans())
def test_gradients_have_the_shapes_of_their_arguments(scan, x):
    """Of empty tensors, single samples and single channels as well; they agree with the reference."""
    leaves = {name: value.detach().requires_grad_() for name, value in x.items() if is_float(value)}
    got = scan(**x | leaves)
    out, last = selective_scan_fn(**x | leaves, return_last_state=True, backend="reference")
    gradients, want = (
        torch.autograd.grad(
            y.square().sum() + z.sum(),
            list(leaves.values()),
            allow_unused=True,
            materialize_grads=True,
        )
        for y, z in ((got["out"], got["last"]), (out, last))
    )
    close(dict(zip(leaves, gradients)), dict(zip(leaves, want)))


# --- dtypes -----------------------------------------------------------------------------------------


@given(
    x=scans(dtype=torch.float32),
    dtypes=st.fixed_dictionaries(
        {
            name: st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
            for name in (*TIMES, "initial_state")
        }
    ),
)
def test_dtypes_may_differ(scan, x, dtypes):
    lower = {
        name: value.to(dtypes[name]) if name in dtypes and value is not None else value
        for name, value in x.items()
    }
    exact = {name: value.double() if is_float(value) else value for name, value in lower.items()}
    got = scan(**lower)
    assert got["out"].dtype == dtypes["u"] and got["last"].dtype == torch.float32
    close({"out": got["out"].double()}, {"out": scan(**exact)["out"]}, dtypes["u"])
    close({"last": got["last"].double()}, {"last": scan(**exact)["last"]}, torch.float32)


# --- bad input --------------------------------------------------------------------------------------


def wrong(draw, name, value):
    """Something that must not come in the place of an argument, and the error for it."""
    if name in ("delta_softplus", "return_last_state"):
        return draw(st.sampled_from([0, 1, "yes", None, torch.tensor(True)])), TypeError
    if name == "backend":
        return draw(st.sampled_from([None, "gpu", "", 3])), (TypeError, ValueError)
    if name == "cu_seqlens":
        L = 6
        bounds = draw(
            st.sampled_from(
                [[0], [0, L + 1], [1, L], [0, 4, 2, L], [0, -1, L], [[0, L]], [0, L - 1], []]
            )
        )
        cuts = torch.tensor(bounds, dtype=torch.int32)
        other = draw(
            st.sampled_from(
                [
                    cuts,
                    [0, L],
                    torch.tensor([0, L]),
                    torch.tensor([0.0, L]),
                    cuts.to("meta") if bounds == [0, L - 1] else cuts,
                ]
            )
        )
        return other, (TypeError, ValueError)
    kinds = ["type", "dtype", "axes", "size", "device"]
    kind = draw(st.sampled_from(kinds))
    if kind == "type":
        return draw(st.sampled_from([1.0, "u", [0.0], value.numpy()])), TypeError
    if kind == "dtype":
        return value.to(
            draw(st.sampled_from([torch.int64, torch.bool, torch.complex64, torch.float64]))
        ), TypeError
    if kind == "axes":
        return draw(
            st.sampled_from(
                [
                    value[None, None, None],
                    value.flatten()[:0].reshape(()) if value.numel() == 0 else value.flatten()[0],
                ]
            )
        ), ValueError
    if kind == "size":
        axis = draw(st.integers(0, value.ndim - 1))
        more = draw(st.sampled_from([5, 7, 11]))  # added to any size of an axis this fits nothing
        shape = list(value.shape)
        shape[axis] += more
        return torch.zeros(shape), ValueError
    return value.to("meta"), ValueError


@given(data=st.data())
def test_bad_input_names_the_argument(scan, data):
    """Whatever is wrong with one argument, the message begins with a name and says what came."""
    packed = data.draw(st.booleans())
    x = arguments(1 if packed else 2, 4, 6, 3, g=2, packed=packed, dtype=torch.float32)
    names = [name for name in x if torch.is_tensor(x[name])] + ["delta_softplus"]
    name = data.draw(st.sampled_from(names))
    bad, error = wrong(data.draw, name, x[name])
    with pytest.raises(error) as raised:
        scan(**x | {name: bad})
    message = str(raised.value)
    assert re.match(rf"({'|'.join(x)}) (is|has|holds|runs|falls)", message), message
    assert "expected" in message


@given(data=st.data())
def test_bad_input_of_a_step_names_the_argument_and_changes_nothing(data):
    x = arguments(2, 4, 1, 3, g=2, dtype=torch.float32)
    step = {
        "state": x["initial_state"],
        "x": x["u"][..., 0],
        "dt": x["delta"][..., 0],
        "A": x["A"],
        "B": x["B"][..., 0],
        "C": x["C"][..., 0],
        "D": x["D"],
        "z": x["z"][..., 0],
        "dt_bias": x["delta_bias"],
    }
    name = data.draw(st.sampled_from(list(step)))
    before = step["state"].clone()
    bad, error = wrong(data.draw, name, step[name])
    with pytest.raises(error) as raised:
        selective_state_update(**step | {name: bad})
    assert re.match(rf"({'|'.join(step)}) (is|has|holds)", str(raised.value)), raised.value
    assert "expected" in str(raised.value)
    assert torch.equal(before, x["initial_state"])


@pytest.mark.parametrize(
    "name, bad", [("return_last_state", 1), ("backend", "gpu"), ("backend", None)]
)
def test_bad_options(name, bad):
    with pytest.raises((TypeError, ValueError), match=f"^{name} is"):
        selective_scan_fn(**arguments() | {name: bad})
