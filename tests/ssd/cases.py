"""What the tests of SSD share: arguments, an independent truth, comparisons, and ``Behaviour``, the
tests that every backend has to pass on every device."""

import functools
from typing import ClassVar

import numpy as np
import pytest
import torch

from ssm_core.scan import selective_scan_ref
from ssm_core.ssd import ssd_fn, ssd_matrix
from tests.scan.cases import TOLERANCE, assert_close, assert_same_bits, exactly, is_float, upstream

IN_TIME = ("x", "dt", "B", "C", "z")  # what has an axis of time, which is axis 1
OPTIONAL = ("D", "z", "dt_bias", "initial_states")
FEATURES = {
    "all arguments": {},
    "nothing optional": {"without": OPTIONAL},
    "no gate": {"without": ("z",)},
    "one group": {"g": 1},
    "a group for each head": {"g": 4},
    "D of each channel": {"D": "channel"},
    "no softplus": {"dt_softplus": False},
    "limits": {"dt_limit": (0.05, 0.6)},
    "packed": {"packed": True},
    "packed with one group": {"packed": True, "g": 1, "without": ("z", "initial_states")},
}
# A head has one number of each: its gradient is a sum over all channels and states.
PER_HEAD = ("gradient of A", "gradient of D", "gradient of dt_bias")


def arguments(
    b=2,
    L=5,
    h=4,
    p=3,
    g=2,
    n=5,
    *,
    D="head",
    without=(),
    packed=False,
    dt_softplus=True,
    dt_limit=(0.0, float("inf")),
    dtype=torch.float32,
    device="cpu",
    seed=0,
):
    """Random arguments of ssd_fn by name; decays of a step run from nearly 1 to below 1e-10.

    They come from the CPU's generator, so that each device gets the same numbers. Packed are four
    sequences with cuts at odd places, of which one is empty.
    """
    generator = torch.Generator().manual_seed(seed)
    state = torch.float64 if dtype == torch.float64 else torch.float32

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    b = 1 if packed else b
    steps = random(b, L, h)
    x = {
        "x": random(b, L, h, p).to(dtype),
        "dt": (steps if dt_softplus else steps.abs() / 4).to(dtype),
        "A": -torch.exp(2 * random(h)).to(state),
        "B": random(b, L, g, n).to(dtype),
        "C": random(b, L, g, n).to(dtype),
        "D": random(*(h, p) if D == "channel" else (h,)).to(state),
        "z": random(b, L, h, p).to(dtype),
        "dt_bias": (random(h) - 2 if dt_softplus else random(h).abs() / 4).to(state),
        "initial_states": random(4 if packed else b, h, p, n).to(state),
    }
    x = {name: None if name in without else value.to(device) for name, value in x.items()}
    cuts = torch.tensor([0, L // 5, L // 5, L - L // 3, L], dtype=torch.int32, device=device)
    return x | {
        "dt_softplus": dt_softplus,
        "dt_limit": dt_limit,
        "cu_seqlens": cuts if packed else None,
    }


def definition(x, dt, A, B, C, D, z, dt_bias, initial_states, dt_softplus, dt_limit, cu_seqlens):
    """y and final_states in NumPy, as one would write it down: head by head, step by step."""
    x, dt, A, B, C, D, z, bias, start = (
        None if v is None else v.double().cpu().numpy()
        for v in (x, dt, A, B, C, D, z, dt_bias, initial_states)
    )
    (b, L, h, p), (g, n) = x.shape, B.shape[2:]
    dt = dt if bias is None else dt + bias
    dt = np.clip(np.logaddexp(0, dt) if dt_softplus else dt, *dt_limit)
    cuts = [0, L] if cu_seqlens is None else cu_seqlens.tolist()
    rows = b if cu_seqlens is None else len(cuts) - 1
    states = np.zeros((rows, h, p, n)) if start is None else start.copy()
    y = np.zeros_like(x)
    for row in range(rows):
        i, first, last = (row, 0, L) if cu_seqlens is None else (0, cuts[row], cuts[row + 1])
        for head in range(h):
            S, group = states[row, head], head // (h // g)
            for t in range(first, last):
                step = dt[i, t, head]
                S = np.exp(step * A[head]) * S + step * np.outer(x[i, t, head], B[i, t, group])
                y[i, t, head] = S @ C[i, t, group]
            states[row, head] = S
    if D is not None:
        y += (D if D.ndim == 2 else D[:, None]) * x
    if z is not None:
        y *= z / (1 + np.exp(-z))
    return torch.from_numpy(y), torch.from_numpy(states)


def results(function, x, wanted=("y", "final_states"), **options):
    """y, final_states and the gradients of all tensors by name, for fixed gradients of ``wanted``."""
    x = {
        name: value.detach().requires_grad_() if is_float(value) else value
        for name, value in x.items()
    }
    got = dict(zip(("y", "final_states"), function(**x, return_final_states=True, **options)))
    inputs = {name: value for name, value in x.items() if is_float(value)}
    weights = upstream(got)
    gradients = torch.autograd.grad(
        [got[name] for name in wanted],
        list(inputs.values()),
        [weights[name] for name in wanted],
        allow_unused=True,
        materialize_grads=True,
    )
    return {name: value.detach() for name, value in got.items()} | {
        f"gradient of {name}": g for name, g in zip(inputs, gradients)
    }


reference = functools.partial(ssd_fn, backend="reference")


def part(x, steps):
    """The arguments for some steps of the sequence."""
    return {
        name: value[:, steps] if name in IN_TIME and value is not None else value
        for name, value in x.items()
    }


def as_selective_scan(x, return_final_states):
    """The same by Mamba-1's scan: each channel of a head has the head's decay in all its states."""
    b, L, h, p = x["x"].shape
    n = x["B"].shape[-1]

    def channels(value):  # (b, L, h, p) as (b, h p, L)
        return None if value is None else value.flatten(2).mT

    def of_heads(value):  # (h,) as (h p,)
        return None if value is None else value.repeat_interleave(p)

    D = x["D"]
    out, last = selective_scan_ref(
        channels(x["x"]),
        channels(x["dt"][..., None].expand(b, L, h, p)),
        of_heads(x["A"])[:, None].expand(h * p, n),
        x["B"].permute(0, 2, 3, 1),
        x["C"].permute(0, 2, 3, 1),
        D.flatten() if D is not None and D.ndim == 2 else of_heads(D),
        channels(x["z"]),
        of_heads(x["dt_bias"]),
        x["dt_softplus"],
        True,
        initial_state=None if x["initial_states"] is None else x["initial_states"].flatten(1, 2),
        cu_seqlens=x["cu_seqlens"],
    )
    y, states = out.mT.unflatten(2, (h, p)), last.unflatten(1, (h, p))
    return (y, states) if return_final_states else y


def assert_close_in_norm(got, want, tolerance):
    """Within tolerance in the Euclidean norm, and each element within ten times that.

    Where factors of products are rounded, the error of an element goes with the size of what was added
    up, not with what is left of it.
    """
    for name, y in want.items():
        x, size = got[name].to(y), y.norm().item()
        error = (x - y).norm().item()
        assert error <= tolerance * size, f"{name}: {error / size:.2e}"
    assert_close(got, want, 10 * tolerance)


@pytest.fixture
def poisoned():
    """New memory holds NaN, which an element that is never written shows; and PyTorch raises for an
    operation whose bits may differ from run to run."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
class Behaviour:
    """What holds for every backend; a test module inherits this and says which, and how large."""

    backend = "chunk"
    device = "cpu"
    dtypes = (torch.float32,)
    tolerance = TOLERANCE
    compare = staticmethod(assert_close)  # results in 16 bits
    # Sizes that nothing divides, and sizes that fill chunks and blocks.
    odd: ClassVar = {"b": 2, "L": 150, "h": 4, "p": 3, "n": 5}
    full: ClassVar = {"b": 1, "L": 128, "h": 4, "p": 16, "n": 16}
    cuts = (0, 1, 63, 64, 65, 149, 150)  # where the odd one is split
    length = 2**16 + 100  # of a long sequence
    chunk_sizes = (16, 32, 64, 128)
    lengths = (1, 15, 16, 17, 0, 3, 64, 0, 34)  # of packed sequences, in the odd one

    def ssd(self, **x):
        return ssd_fn(**x, backend=self.backend)

    def make(self, sizes, **options):
        return arguments(**sizes | options, device=self.device)

    @pytest.mark.parametrize("feature", FEATURES)
    @pytest.mark.parametrize("shape", ["odd", "full"])
    def test_outputs_and_gradients(self, shape, feature):
        for dtype in self.dtypes:
            x = self.make(getattr(self, shape), **FEATURES[feature], dtype=dtype)
            want = results(reference, exactly(x))
            assert_close(results(self.ssd, x), want, self.tolerance[dtype])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("shape", ["odd", "full"])
    def test_sixteen_bits(self, shape, dtype):
        x = self.make(getattr(self, shape), dtype=dtype)
        got = results(self.ssd, x)
        assert got["y"].dtype == dtype and got["final_states"].dtype == torch.float32
        self.compare(got, results(reference, exactly(x)), self.tolerance[dtype])

    def test_dtypes_may_differ(self):
        x = self.make(self.odd)
        x["B"], x["z"] = x["B"].half(), x["z"].bfloat16()
        got = results(self.ssd, x)
        assert got["gradient of B"].dtype == torch.float16
        assert_close(got, results(reference, exactly(x)), self.tolerance[torch.bfloat16])

    def test_any_chunk_size(self):
        x = self.make(self.odd)
        want = results(reference, exactly(x))
        for size in self.chunk_sizes:
            got = results(self.ssd, x | {"chunk_size": size})
            assert_close(got, want, self.tolerance[torch.float32])

    @pytest.mark.parametrize("wanted", ["y", "final_states"])
    def test_gradients_through_one_result(self, wanted):
        x = self.make(self.odd)
        want = results(reference, exactly(x), [wanted])
        assert_close(results(self.ssd, x, [wanted]), want, self.tolerance[torch.float32])

    def test_gradients_of_some_arguments(self):
        x = self.make(self.odd)
        want = results(self.ssd, x, ["y"])
        for name in ("A", "initial_states"):
            alone = x[name].detach().requires_grad_()
            y = self.ssd(**x | {name: alone})
            (gradient,) = torch.autograd.grad(y, alone, upstream({"y": y})["y"])
            assert torch.equal(gradient, want[f"gradient of {name}"])

    def test_any_strides(self):
        """Slices of one projection, as a block makes them, and transposed memory."""
        x = self.make(self.full, dtype=torch.bfloat16)
        tolerance = self.tolerance[torch.bfloat16]
        want = results(self.ssd, x)
        joined = torch.cat([x[name].flatten(2) for name in ("z", "x", "B", "C", "dt")], dim=2)
        sliced = dict(x)
        for name, value in zip(
            ("z", "x", "B", "C", "dt"),
            joined.split([x[k].flatten(2).shape[2] for k in ("z", "x", "B", "C", "dt")], dim=2),
        ):
            sliced[name] = value.unflatten(2, x[name].shape[2:])
        assert not sliced["x"].is_contiguous()
        assert_close(results(self.ssd, sliced), want, tolerance)
        turned = {
            name: value.mT.contiguous().mT if is_float(value) and value.ndim > 1 else value
            for name, value in x.items()
        }
        assert_close(results(self.ssd, turned), want, tolerance)
        flat = torch.cat([x["B"].new_zeros(1), x["B"].flatten()])  # at an odd address
        assert_close(results(self.ssd, x | {"B": flat[1:].view(x["B"].shape)}), want, tolerance)

    def test_expanded_arguments(self):
        x = self.make(self.odd)
        expanded = {
            name: value[:, :1].expand(value.shape) if name in ("x", "B", "z") else value
            for name, value in x.items()
        }
        copied = {k: v.clone() if torch.is_tensor(v) else v for k, v in expanded.items()}
        got, want = results(self.ssd, expanded), results(self.ssd, copied)
        assert_close(got, want, self.tolerance[torch.float32])

    @pytest.mark.parametrize("feature", ["all arguments", "packed"])
    def test_nothing_beside_the_arguments_is_read(self, feature):
        """Each argument in the middle of NaN, of which no product with 0 is 0."""

        def surrounded(value):
            flat = value.new_full((value.numel() + 2**12,), float("nan"))
            middle = flat[2**11 : 2**11 + value.numel()].view(value.shape)
            return middle.copy_(value)

        x = self.make(self.odd, **FEATURES[feature])
        inside = {
            name: surrounded(value) if is_float(value) else value for name, value in x.items()
        }
        assert_same_bits(results(self.ssd, inside), results(self.ssd, x))

    @pytest.mark.parametrize("shape", ["odd", "full"])
    def test_same_bits_every_time(self, shape):
        x = self.make(getattr(self, shape))
        assert_same_bits(results(self.ssd, x), results(self.ssd, x))

    def test_arguments_stay_as_they_were(self):
        x = self.make(self.odd)
        before = {name: value.clone() for name, value in x.items() if torch.is_tensor(value)}
        results(self.ssd, x)
        assert_same_bits(x, before)

    def test_no_result_is_a_view(self):
        x = self.make(self.odd | {"L": 0})
        y, final = self.ssd(**x, return_final_states=True)
        assert y.shape[1] == 0 and torch.equal(final, x["initial_states"])
        assert final.data_ptr() != x["initial_states"].data_ptr()

    @pytest.mark.parametrize("sizes", [{"L": 0}, {"b": 0}, {"b": 0, "L": 0}])
    def test_nothing_to_do(self, sizes):
        x = self.make(self.odd | sizes)
        got, want = results(self.ssd, x), results(reference, exactly(x))
        assert_close(got, want, self.tolerance[torch.float32])

    def test_nothing_but_empty_sequences(self):
        x = self.make(self.odd | {"L": 0}, packed=True)
        assert torch.equal(self.ssd(**x, return_final_states=True)[1], x["initial_states"])

    def test_a_split_sequence_is_the_whole(self):
        x = self.make(self.odd)
        want = results(reference, exactly(x))

        def in_two(cut, return_final_states, **x):
            y, states = self.ssd(**part(x, slice(cut)), return_final_states=True)
            x = part(x, slice(cut, None)) | {"initial_states": states}
            y_2, states = self.ssd(**x, return_final_states=True)
            return torch.cat([y, y_2], dim=1), states

        for cut in self.cuts:
            got = results(functools.partial(in_two, cut), x)
            assert_close(got, want, self.tolerance[torch.float32])

    def test_packed_sequences_are_separate_ones(self):
        x = self.make(self.odd, packed=True)

        def one_by_one(return_final_states, cu_seqlens, initial_states, **x):
            bounds = cu_seqlens.tolist()
            pieces = [
                self.ssd(
                    **part(x, slice(start, stop)),
                    initial_states=initial_states[i : i + 1],
                    return_final_states=True,
                )
                for i, (start, stop) in enumerate(zip(bounds, bounds[1:]))
            ]
            y, states = zip(*pieces)
            return torch.cat(y, dim=1), torch.cat(states)

        assert_close(results(self.ssd, x), results(one_by_one, x), self.tolerance[torch.float32])

    def test_many_packed_sequences(self):
        """Shorter and longer than a chunk, beginning and ending on boundaries of chunks or not."""
        x = self.make(self.odd, packed=True)
        x["cu_seqlens"] = torch.tensor([0, *self.lengths], device=self.device).cumsum(0).int()
        x["initial_states"] = None
        got = results(self.ssd, x | {"chunk_size": 16})
        assert_close(got, results(reference, exactly(x)), self.tolerance[torch.float32])

    def test_decays_from_nearly_one_to_nothing(self):
        """A constant input against the geometric sum, for A Δ from -1e-8 to -1e4."""
        rates = -torch.logspace(-8, 4, 7, dtype=torch.float64, device=self.device)
        L = self.length
        for dtype in self.dtypes:
            one = torch.ones(1, L, 1, 1, dtype=dtype, device=self.device)
            x = {"x": one.expand(1, L, 7, 1), "dt": one[..., 0].expand(1, L, 7), "B": one, "C": one}
            got = results(self.ssd, x | {"A": rates.to(dtype)})
            assert all(value.isfinite().all() for value in got.values())
            exact = torch.expm1(rates * L) / torch.expm1(rates)
            torch.testing.assert_close(
                got["final_states"].flatten().double(), exact, rtol=self.tolerance[dtype], atol=0
            )

    def test_decays_that_differ_wildly_within_a_chunk(self):
        """Where differences of cumulative sums lose all digits of the small decays: steps that forget
        everything between steps that forget nothing."""
        x = self.make(self.odd, without=("dt_bias",), dt_softplus=False)
        x["dt"] = x["dt"] * 1e-4
        x["dt"][:, ::7] = 30.0
        x["A"] = torch.tensor([-1e-3, -1.0, -30.0, -1e4], device=self.device)
        got, want = results(self.ssd, x), results(reference, exactly(x))
        assert all(value.isfinite().all() for value in got.values())
        assert_close(got, want, self.tolerance[torch.float32])

    def test_infinite_decays_give_no_nan(self):
        x = self.make(self.odd, without=("dt_bias",), dt_softplus=False)
        x["A"][1] = -1e38
        x["dt"][:, ::2] = 1e3
        got = results(self.ssd, x, ["y"])
        assert all(
            value.isfinite().all()
            for name, value in got.items()
            if name not in ("gradient of A", "gradient of dt")
        )
        assert not got["gradient of dt"].isnan().any() and not got["gradient of A"].isnan().any()

    def test_nan_stays_in_its_head_and_after_its_step(self):
        x = self.make(self.odd | {"b": 2}, without=OPTIONAL, dt_softplus=False)
        step = self.odd["L"] // 3
        x["x"][0, step, 1] = float("nan")
        y = self.ssd(**x)
        assert y[0, :, [0, 2, 3]].isfinite().all() and y[1].isfinite().all()
        assert y[0, step:, 1].isnan().any()

    def test_is_the_matrix_times_the_input(self):
        x = self.make(self.odd, without=OPTIONAL, dt_softplus=False)
        exact = exactly(x)
        M = ssd_matrix(exact["dt"], exact["A"], exact["B"], exact["C"])
        want = torch.einsum("bhij,bjhp->bihp", M, exact["x"])
        assert_close({"y": self.ssd(**x)}, {"y": want}, self.tolerance[torch.float32])

    @pytest.mark.parametrize("feature", ["all arguments", "D of each channel", "packed"])
    def test_is_the_selective_scan_with_shared_decays(self, feature):
        x = self.make(self.odd, **FEATURES[feature])

        def scan(**x):
            x.pop("dt_limit")
            return as_selective_scan(x, x.pop("return_final_states"))

        want = results(scan, exactly(x))
        assert_close(results(self.ssd, x), want, self.tolerance[torch.float32])
