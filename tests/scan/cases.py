"""What the tests of the selective scan share: arguments, an independent truth, comparisons, and
``Behaviour``, the tests that every backend has to pass on every device."""

import functools
import itertools
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.linalg import solve_banded

from ssm_core.scan import selective_scan_fn, selective_scan_ref, selective_state_update

LENGTHS = (1, 2, 3, 63, 64, 65, 127, 1000, 1025, 2049, 4097)
STATES = (1, 8, 16, 17, 64, 256)
CHANNELS = (1, 3, 32, 500)
GRID = list(itertools.product(LENGTHS, STATES, CHANNELS))
# Each value of the grid, and the pairs that go wrong first: around a chunk, a block of channels and
# a power of two, many states with few steps, many channels with one state.
SELECTION = [
    (1, 1, 1),
    (1, 256, 3),
    (2, 16, 500),
    (2, 64, 1),
    (3, 8, 32),
    (3, 17, 1),
    (63, 16, 3),
    (63, 256, 1),
    (64, 64, 32),
    (64, 17, 3),
    (64, 256, 1),
    (65, 8, 1),
    (65, 16, 500),
    (65, 64, 3),
    (127, 17, 32),
    (127, 1, 500),
    (1000, 16, 3),
    (1000, 1, 32),
    (1025, 8, 3),
    (1025, 17, 1),
    (2049, 16, 1),
    (4097, 8, 3),
]
OPTIONAL = ("D", "z", "delta_bias", "initial_state")
FEATURES = {
    "all arguments": {},
    "nothing optional": {"without": OPTIONAL},
    "no gate": {"without": ("z",)},
    "gate only": {"without": ("D", "delta_bias", "initial_state")},
    "two groups": {"g": 2},
    "constant B": {"constant": "B"},
    "constant C": {"constant": "C", "g": 2},
    "constant B and C": {"constant": "BC"},
    "no softplus": {"delta_softplus": False},
    "packed": {"packed": True},
    "packed groups": {"packed": True, "g": 2, "constant": "B"},
}
# What rounding may change, beside the root mean square of a tensor: sums of some thousand terms in
# float32, and one rounding of a result to 16 bits (2^-8 and 2^-11 of it).
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 5e-3, torch.float16: 7e-4}


def arguments(
    b=1,
    d=3,
    L=5,
    n=4,
    g=1,
    *,
    constant="",
    without=(),
    packed=False,
    delta_softplus=True,
    dtype=torch.float32,
    device="cpu",
    seed=0,
):
    """Random arguments of a scan by name; decays of a step run from nearly 1 to below 1e-10.

    They come from the CPU's generator, so that each device gets the same numbers. Packed are four
    sequences with cuts at odd places, of which one is empty.
    """
    generator = torch.Generator().manual_seed(seed)
    state = torch.float64 if dtype == torch.float64 else torch.float32

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = 4 if packed else b
    steps = random(b, d, L)
    x = {
        "u": random(b, d, L).to(dtype),
        "delta": (steps if delta_softplus else steps.abs() / 4).to(dtype),
        "A": -torch.exp(2 * random(d, n)).to(state),
        "B": random(*(d, n) if "B" in constant else (b, g, n, L)).to(dtype),
        "C": random(*(d, n) if "C" in constant else (b, g, n, L)).to(dtype),
        "D": random(d).to(state),
        "z": random(b, d, L).to(dtype),
        "delta_bias": (random(d) - 2 if delta_softplus else random(d).abs() / 4).to(state),
        "initial_state": random(rows, d, n).to(state),
    }
    x = {name: None if name in without else value.to(device) for name, value in x.items()}
    cuts = torch.tensor([0, L // 5, L // 5, L - L // 3, L], dtype=torch.int32, device=device)
    return x | {"delta_softplus": delta_softplus, "cu_seqlens": cuts if packed else None}


def solution(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, cu_seqlens):
    """Out and last_state in NumPy: all states of all channels as one banded linear system.

    x_t - a_t x_{t-1} = b_t for every t at once, with zeros in place of a_t where a sequence starts.
    """
    u, delta, A, B, C, D, z, bias, start = (
        None if x is None else x.double().cpu().numpy()
        for x in (u, delta, A, B, C, D, z, delta_bias, initial_state)
    )
    (b, d, L), n = u.shape, A.shape[1]
    dt = delta if bias is None else delta + bias[:, None]
    dt = np.logaddexp(0, dt) if delta_softplus else dt

    def over_time(M):  # (b, d, n, L)
        if M.ndim == 2:
            return np.broadcast_to(M[..., None], (b, d, n, L))
        return np.repeat(M, d // M.shape[1], axis=1)

    a = np.exp(dt[:, :, None] * A[..., None])
    right = (dt * u)[:, :, None] * over_time(B)
    cuts = [0, L] if cu_seqlens is None else cu_seqlens.tolist()
    lengths = np.diff(cuts)
    firsts = np.array(cuts[:-1])[lengths > 0]
    before = np.zeros((b, len(lengths), d, n))
    if start is not None:
        before[:] = start[:, None] if cu_seqlens is None else start
    right[..., firsts] += a[..., firsts] * np.moveaxis(before[:, lengths > 0], 1, -1)
    a[..., firsts] = 0
    band = np.stack([np.ones(a.size), -np.roll(a.reshape(-1), -1)])
    x = solve_banded((1, 0), band, right.reshape(-1)).reshape(a.shape)
    y = (over_time(C) * x).sum(2)
    y = y if D is None else y + D[:, None] * u
    y = y if z is None else y * z / (1 + np.exp(-z))
    last = before
    last[:, lengths > 0] = np.moveaxis(x[..., np.array(cuts[1:])[lengths > 0] - 1], -1, 1)
    return torch.from_numpy(y), torch.from_numpy(last.reshape(-1, d, n))


def results(function, x, wanted=("out", "last_state"), **options):
    """Out, last_state and the gradients of all tensors by name, for fixed gradients of ``wanted``."""
    x = {
        name: value.detach().requires_grad_() if is_float(value) else value
        for name, value in x.items()
    }
    got = dict(zip(("out", "last_state"), function(**x, return_last_state=True, **options)))
    inputs = {name: value for name, value in x.items() if is_float(value)}
    weights = upstream(got)
    gradients = torch.autograd.grad(
        [got[name] for name in wanted],
        list(inputs.values()),
        [weights[name] for name in wanted],
        allow_unused=True,
        materialize_grads=True,
    )
    return {name: y.detach() for name, y in got.items()} | {
        f"gradient of {name}": g for name, g in zip(inputs, gradients)
    }


def upstream(outputs):
    """Fixed gradients of outputs, the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: (torch.randint(-16, 17, y.shape, generator=generator) / 8).to(y)
        for name, y in outputs.items()
    }


def exactly(x):
    """The same arguments in float64."""
    return {name: value.double() if is_float(value) else value for name, value in x.items()}


def assert_solved(function, x):
    """The outputs of a scan in float64 against the banded system."""
    got = dict(zip("yx", function(**x, return_last_state=True)))
    assert_close(got, dict(zip("yx", solution(**x))), 1e-12)


def is_float(value):
    return torch.is_tensor(value) and value.is_floating_point()


def assert_close(got, want, tolerance):
    """Every element within tolerance of what is wanted, beside itself and the root mean square."""
    assert got.keys() == want.keys()
    for name, y in want.items():
        x = got[name]
        assert x.shape == y.shape, name
        if x.numel():
            scale = y.abs() + y.square().mean().sqrt() + 1e-30
            error = ((x.to(y) - y).abs() / scale).max().item()
            assert error <= tolerance, f"{name}: {error:.2e}"  # fails for NaN


def assert_same_bits(got, want):
    for name, y in want.items():
        assert torch.equal(got[name], y), name


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

    backend = "cpu"
    device = "cpu"
    dtypes = (torch.float32,)
    tolerance = TOLERANCE
    # Sizes that nothing divides, and sizes that fill blocks of channels, states and steps.
    odd: ClassVar = {"b": 2, "d": 6, "L": 150, "n": 5}
    full: ClassVar = {"b": 1, "d": 64, "L": 128, "n": 16}
    cuts = (0, 1, 63, 64, 65, 149, 150)  # where the odd one is split
    length = 2**20  # of a long sequence
    exp_error = 1  # of a decay near 1, in halves of the spacing of numbers there

    def scan(self, **x):
        return selective_scan_fn(**x, backend=self.backend)

    def make(self, sizes, **options):
        return arguments(
            **sizes | ({"b": 1} if options.get("packed") else {}), **options, device=self.device
        )

    @pytest.mark.parametrize("feature", FEATURES)
    @pytest.mark.parametrize("shape", ["odd", "full"])
    def test_outputs_and_gradients(self, shape, feature):
        for dtype in self.dtypes:
            x = self.make(getattr(self, shape), **FEATURES[feature], dtype=dtype)
            want = results(selective_scan_ref, exactly(x))
            assert_close(results(self.scan, x), want, self.tolerance[dtype])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("shape", ["odd", "full"])
    def test_sixteen_bits(self, shape, dtype):
        x = self.make(getattr(self, shape), g=2, dtype=dtype)
        got = results(self.scan, x)
        assert got["out"].dtype == dtype and got["last_state"].dtype == torch.float32
        assert_close(got, results(selective_scan_ref, exactly(x)), self.tolerance[dtype])

    def test_dtypes_may_differ(self):
        x = self.make(self.odd)
        x["B"], x["z"] = x["B"].half(), x["z"].bfloat16()
        got = results(self.scan, x)
        assert got["gradient of B"].dtype == torch.float16
        assert_close(got, results(selective_scan_ref, exactly(x)), self.tolerance[torch.bfloat16])

    @pytest.mark.parametrize("wanted", ["out", "last_state"])
    def test_gradients_through_one_result(self, wanted):
        x = self.make(self.odd)
        want = results(selective_scan_ref, exactly(x), [wanted])
        assert_close(results(self.scan, x, [wanted]), want, self.tolerance[torch.float32])

    def test_gradients_of_some_arguments(self):
        x = self.make(self.odd)
        want = results(self.scan, x, ["out"])
        for name in ("A", "initial_state"):
            alone = x[name].detach().requires_grad_()
            out = self.scan(**x | {name: alone})
            (gradient,) = torch.autograd.grad(out, alone, upstream({"out": out})["out"])
            assert_close({"g": gradient}, {"g": want[f"gradient of {name}"]}, 1e-6)

    def test_any_strides(self):
        x = self.make(self.odd)
        strided = {
            name: value.mT.contiguous().mT if is_float(value) and value.ndim > 1 else value
            for name, value in x.items()
        }
        assert not strided["u"].is_contiguous()
        assert_close(
            results(self.scan, strided), results(self.scan, x), self.tolerance[torch.float32]
        )

    @pytest.mark.parametrize("shape", ["odd", "full"])
    def test_sliced_and_expanded_arguments(self, shape):
        x = self.make(getattr(self, shape), dtype=torch.bfloat16)
        sliced = dict(x)
        for name in ("u", "delta", "B", "C", "z"):
            padded = torch.cat([x[name][..., :1], x[name]], dim=-1)
            sliced[name] = padded[..., 1:]
        # One element into its memory, so that it is contiguous and yet at an odd address.
        flat = torch.cat([x["B"].new_zeros(1), x["B"].reshape(-1)])
        sliced["B"] = flat[1:].view(x["B"].shape)
        assert sliced["B"].is_contiguous()
        tolerance = self.tolerance[torch.bfloat16]
        assert_close(results(self.scan, sliced), results(self.scan, x), tolerance)

        expanded = {
            name: value[..., :1].expand(value.shape) if name in ("u", "B", "z") else value
            for name, value in x.items()
        }
        copied = {
            name: value.clone() if torch.is_tensor(value) else value
            for name, value in expanded.items()
        }
        assert_close(results(self.scan, expanded), results(self.scan, copied), tolerance)

    @pytest.mark.parametrize("feature", ["two groups", "constant B", "constant C", "packed"])
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
        assert_same_bits(results(self.scan, inside), results(self.scan, x))

    @pytest.mark.parametrize("shape", ["odd", "full"])
    def test_same_bits_every_time(self, shape):
        x = self.make(getattr(self, shape), g=2)
        assert_same_bits(results(self.scan, x), results(self.scan, x))

    def test_arguments_stay_as_they_were(self):
        x = self.make(self.odd)
        before = {name: value.clone() for name, value in x.items() if torch.is_tensor(value)}
        results(self.scan, x)
        assert_same_bits(x, before)

    def test_no_result_is_a_view(self):
        x = self.make(self.odd | {"L": 0})
        x["A"].requires_grad_()
        out, last = self.scan(**x, return_last_state=True)
        assert out.shape[-1] == 0 and torch.equal(last, x["initial_state"])
        assert last.data_ptr() != x["initial_state"].data_ptr()

    @pytest.mark.parametrize("sizes", [{"L": 0}, {"b": 0}, {"b": 0, "L": 0}])
    def test_nothing_to_do(self, sizes):
        x = self.make(self.odd | sizes)
        got, want = results(self.scan, x), results(selective_scan_ref, exactly(x))
        assert_close(got, want, self.tolerance[torch.float32])

    def test_nothing_but_empty_sequences(self):
        x = self.make(self.odd | {"L": 0}, packed=True)
        assert torch.equal(self.scan(**x, return_last_state=True)[1], x["initial_state"])

    def test_a_split_sequence_is_the_whole(self):
        x = self.make(self.odd)
        want = results(selective_scan_ref, exactly(x))

        def in_two(cut, return_last_state, **x):
            pieces = []
            for steps in (slice(cut), slice(cut, None)):
                part = {
                    name: value[..., steps] if name in ("u", "delta", "B", "C", "z") else value
                    for name, value in x.items()
                }
                part["initial_state"] = pieces[-1][1] if pieces else x["initial_state"]
                pieces.append(self.scan(**part, return_last_state=True))
            return torch.cat([out for out, _ in pieces], dim=-1), pieces[-1][1]

        for cut in self.cuts:
            got = results(functools.partial(in_two, cut), x)
            assert_close(got, want, self.tolerance[torch.float32])

    def test_packed_sequences_are_separate_ones(self):
        x = self.make(self.odd, packed=True)

        def one_by_one(return_last_state, cu_seqlens, initial_state, **x):
            outs, lasts = [], []
            bounds = cu_seqlens.tolist()
            for i, steps in enumerate(map(slice, bounds, bounds[1:])):
                part = {
                    name: value[..., steps] if name in ("u", "delta", "B", "C", "z") else value
                    for name, value in x.items()
                }
                out, last = self.scan(
                    **part, initial_state=initial_state[i : i + 1], return_last_state=True
                )
                outs.append(out)
                lasts.append(last)
            return torch.cat(outs, dim=-1), torch.cat(lasts)

        assert_close(results(self.scan, x), results(one_by_one, x), self.tolerance[torch.float32])

    def test_decays_from_nearly_one_to_nothing(self):
        """A constant input against the geometric sum, for A Δ from -1e-8 to -1e4."""
        rates = -torch.logspace(-8, 4, 7, dtype=torch.float64, device=self.device)
        L = self.length
        for dtype in self.dtypes:
            one = torch.ones(1, 1, L, dtype=dtype, device=self.device)
            weights = torch.ones(1, 7, dtype=dtype, device=self.device)
            x = {"u": one, "delta": one, "A": rates.to(dtype)[None], "B": weights, "C": weights}
            got = results(self.scan, x)
            assert all(value.isfinite().all() for value in got.values())
            exact = torch.expm1(rates * L) / torch.expm1(rates)
            # L roundings of a decay near 1 (in float32 some of them are 1) and of a growing sum.
            tolerance = (L + 64) * self.exp_error * torch.finfo(dtype).eps / 2
            torch.testing.assert_close(
                got["last_state"][0, 0].double(), exact, rtol=tolerance, atol=0
            )

    def test_large_numbers_overflow_to_infinity_and_nan_stays(self):
        x = self.make({"b": 1, "d": 3, "L": 70, "n": 2}, without=OPTIONAL, delta_softplus=False)
        x["A"][0] = 100.0
        x["u"][0, 1, 40] = float("nan")
        out = self.scan(**x)
        assert not out[0, 0, -1].isfinite()
        assert out[0, 1, :40].isfinite().all() and out[0, 1, 40:].isnan().all()
        assert out[0, 2].isfinite().all()

    @pytest.mark.parametrize("feature", ["all arguments", "nothing optional", "two groups"])
    def test_steps_are_the_scan(self, feature):
        x = self.make(self.odd | {"L": 7}, **FEATURES[feature])
        want, last = selective_scan_ref(**exactly(x), return_last_state=True)
        state = torch.zeros_like(last).float()
        if x["initial_state"] is not None:
            state.copy_(x["initial_state"])
        steps = [
            selective_state_update(state, *step, delta_softplus)
            for step, delta_softplus in columns(x)
        ]
        got = {"out": torch.stack(steps, dim=-1), "last_state": state}
        assert_close(got, {"out": want, "last_state": last}, self.tolerance[torch.float32])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_step_in_a_pool_of_states(self, dtype):
        x = self.make(self.odd | {"b": 4, "L": 1}, g=2, dtype=dtype)
        slots = torch.tensor([5, -1, 0, 2], dtype=torch.int32, device=self.device)
        # States with strides of their own: each second slot of a larger pool, states before channels.
        d, n = x["A"].shape
        pool = (
            torch.randn(12, n, d, generator=torch.Generator().manual_seed(2))
            .to(self.device, dtype)
            .mT[::2]
        )
        before = pool.clone()
        step, softplus = next(columns(x))
        y = selective_state_update(pool, *step, softplus, state_batch_indices=slots)
        assert y.dtype == dtype and pool.dtype == dtype
        start = exactly({"s": torch.stack([before[i] for i in (5, 0, 0, 2)])})["s"]
        want, last = selective_scan_ref(
            **exactly(x) | {"initial_state": start}, return_last_state=True
        )
        used = [0, 2, 3]
        assert_close(
            {"y": y[used], "state": pool[slots[used].long()]},
            {"y": want[used, :, 0], "state": last[used]},
            max(self.tolerance[dtype], 1e-5),
        )
        assert not y[1].any() and torch.equal(pool[[1, 3, 4]], before[[1, 3, 4]])

    def test_step_of_slices(self):
        """Rows that lie apart, as what one projection gives for several arguments."""
        x = self.make(self.odd | {"b": 3, "L": 1}, dtype=torch.bfloat16)
        (u, dt, A, B, C, *rest), softplus = next(columns(x))
        state = x["initial_state"]
        want_state = state.clone()
        want = selective_state_update(want_state, u, dt, A, B, C, *rest, softplus)
        joined = torch.cat([M.flatten(1) for M in (u, dt, B, C)], dim=1)
        u, dt, *BC = joined.split([M.flatten(1).shape[1] for M in (u, dt, B, C)], dim=1)
        B, C = (M.view(like.shape) for M, like in zip(BC, (B, C)))
        y = selective_state_update(state, u, dt, A, B, C, *rest, softplus)
        assert torch.equal(y, want) and torch.equal(state, want_state)

    def test_step_with_the_logarithm_of_decay_rates(self):
        x = self.make(self.odd | {"L": 1})
        (u, dt, A, *rest), softplus = next(columns(x))
        state, want_state = x["initial_state"].clone(), x["initial_state"].clone()
        want = selective_state_update(want_state, u, dt, A, *rest, softplus)
        y = selective_state_update(state, u, dt, torch.log(-A), *rest, softplus, A_is_log=True)
        assert_close(
            {"y": y, "state": state}, {"y": want, "state": want_state}, TOLERANCE[torch.float32]
        )

    def test_step_of_no_rows(self):
        x = self.make(self.odd | {"b": 0, "L": 1})
        step, softplus = next(columns(x))
        assert selective_state_update(x["initial_state"], *step, softplus).shape == x["u"].shape[:2]


def columns(x):
    """The arguments of one step at a time: (x, dt, A, B, C, D, z, dt_bias) and whether softplus."""
    for t in range(x["u"].shape[-1]):
        at = {
            name: value[..., t]
            if name in ("u", "delta", "B", "C", "z") and value is not None
            else value
            for name, value in x.items()
        }
        yield (
            [at[name] for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")],
            at["delta_softplus"],
        )
