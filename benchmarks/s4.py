"""What structure saves: the kernels and layers of S4 and S4D against dense matrices and naive sums.

The table of the S4 paper (a layer of S4 and S4D against powers of a dense matrix), the sums over modes
against the naive complex products, times against L and N with their exponents, and, on a processor,
rounding errors.

On a processor everything runs on one thread, and times are those that it worked and not those that
it waited for others.
"""

import itertools
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch import nn

from benchmarks import gpu
from benchmarks.record import high_water_mark, in_turns, summary
from ssm_core.hippo import transition
from ssm_core.s4 import S4, S4D, dplr
from ssm_core.s4.cauchy import cauchy_sums
from ssm_core.s4.diagonal import Diagonal

# Sizes for a GPU, and those that one core of a processor takes in about three minutes.
SIZES = {
    "cuda": {
        "widths": (128, 256, 512),
        "L": 1024,
        "sums": {"H": 256, "N": 64, "L": 16384},
        "channels": 64,
        "repeats": 15,
    },
    "cpu": {
        "widths": (64, 128, 256),
        "L": 1024,
        "sums": {"H": 8, "N": 64, "L": 8192},
        "channels": 4,
        "repeats": 5,
    },
}
LENGTHS = [2**k for k in range(10, 17)]  # at N = 64
STATE_SIZES = [32, 64, 128, 256, 512]  # at L = 4096, and for one step
FITTED = 3  # exponents are those of the largest sizes, where fixed costs count least
LONGEST = 2**16


def run():
    """Check every contender, then time them all: layers, sums, scaling, and the rounding errors."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = SIZES[device]
    torch.set_num_threads(1)
    results = {
        "setup": {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "threads": 1,
            "units": "seconds, bytes",
            **sizes,
        },
        "layers": [_layer_row(device, width, sizes) for width in sizes["widths"]],
        "cauchy": _sums_row(device, _CAUCHY, _cauchy_inputs, sizes),
        "vandermonde": _sums_row(device, _VANDERMONDE, _vandermonde_inputs, sizes),
        **_scaling(device, sizes),
    }
    if device == "cuda":
        return {"device": gpu.model(), **results}
    return {**results, "accuracy": _accuracy()}


# --- layers: the table of the S4 paper -----------------------------------------------------------


class Dense(nn.Module):
    """What S4 replaces: a full A in each channel, discretized and raised to powers, in float32.

    So did the layer before S4 (Gu and others, 2021), which the S4 paper compares with.
    """

    def __init__(self, width, N):
        super().__init__()
        A, B = (torch.tensor(x, dtype=torch.float32) for x in transition("legs", N))
        self.A = nn.Parameter(A.repeat(width, 1, 1))
        self.B = nn.Parameter(B.repeat(width, 1, 1))
        self.C = nn.Parameter(torch.randn(width, 1, N))
        self.D = nn.Parameter(torch.randn(width))
        self.log_dt = nn.Parameter(torch.empty(width).uniform_(math.log(1e-3), math.log(1e-1)))

    def kernel(self, L):
        dt = self.log_dt.exp()[:, None, None]
        unit = torch.eye(self.A.shape[-1], device=dt.device)
        left = torch.linalg.inv(unit - dt / 2 * self.A)
        power, states = left @ (unit + dt / 2 * self.A), left @ (dt * self.B)
        while states.shape[-1] < L:  # Ā^j B̄ for j up to 1, 3, 7, …
            states = torch.cat([states, power @ states], dim=-1)
            if states.shape[-1] < L:
                power = power @ power
        return (self.C @ states[..., :L])[:, 0]

    def forward(self, u):
        L = u.shape[1]
        K = torch.fft.rfft(self.kernel(L), 2 * L)
        y = torch.fft.irfft(torch.fft.rfft(u.mT, 2 * L) * K, 2 * L)[..., :L]
        return y.mT + self.D * u


def _dense_like(layer):
    """The same systems as an S4 layer, whose modes are the half of V* x."""
    dense = Dense(layer.d_model, 2 * layer.B.shape[1])
    V = torch.tensor(dplr("legs", 2 * layer.B.shape[1])[3])[:, : layer.B.shape[1]]
    with torch.no_grad():
        C = torch.view_as_complex(layer.C[0].double())
        dense.C.copy_(2 * (C @ V.conj().T).real[:, None])
        dense.log_dt.copy_(layer.log_dt)
    return dense


_LAYERS = {
    "dense": lambda width: Dense(width, width),
    "s4": lambda width: S4(width, width),
    "s4d": lambda width: S4D(width, width),
}


def _layer_row(device, width, sizes):
    """Forward and backward of one layer with as many states in a channel as channels, batch 1."""
    torch.manual_seed(0)
    s4 = S4(width, width)
    dense = _dense_like(s4).to(device)
    with torch.no_grad():
        exact = s4.to(device, torch.float64).kernel(sizes["L"])
        difference = _distance(dense.kernel(sizes["L"]), exact)
    if not difference < 1e-2:
        raise AssertionError(f"powers of a dense matrix differ from S4 by {difference:.3g}")
    runs = _in_turns(
        device,
        {name: _layer_pass(device, name, width, sizes["L"]) for name in _LAYERS},
        sizes["repeats"],
        recorded=False,
    )
    row = {"width": width, "error_of_powers": difference}
    for name in _LAYERS:
        row[name] = {
            "seconds": summary(runs[name]),
            "times_slower": _ratios(runs[name], runs["s4"]),
            "peak_bytes": _peak(device, _layer_pass, device, name, width, sizes["L"]),
        }
    print("  ", row, flush=True)
    return row


def _layer_pass(device, name, width, L):
    torch.manual_seed(0)
    layer = _LAYERS[name](width).to(device)
    u = torch.randn(1, L, width, device=device, requires_grad=True)
    weights = torch.randn_like(u)
    inputs = [u, *layer.parameters()]

    def both():
        torch.autograd.grad(layer(u), inputs, weights)

    return both


# --- sums over modes and points ------------------------------------------------------------------


def _cauchy_inputs(device, H, N, L):
    """Weights of the K = 4 sums that a rank of 1 asks for, poles of LegS, points of the circle."""
    generator = torch.Generator().manual_seed(0)
    dt = torch.logspace(-3, -1, H, dtype=torch.float64)[:, None]
    poles = torch.tensor(dplr("legs", N)[0][: N // 2]) * dt
    weights = torch.randn(H, 4, N // 2, dtype=torch.complex128, generator=generator)
    z = 0.999 ** (1024 / L) * torch.exp(
        -1j * torch.arange(L + 1, dtype=torch.float64) * math.pi / L
    )
    s = 2 * (1 - z) / (1 + z)
    return [weights.to(device), poles.to(device), s.to(device)]


def _cauchy_ours(weights, poles, s):
    both = weights * poles.conj()[:, None]
    return cauchy_sums(2 * weights.real, -2 * both.real, poles, s)


def _cauchy_naive(weights, poles, s):
    """All modes and their conjugates, all quotients at once, and one product of matrices."""
    weights = torch.cat([weights, weights.conj().resolve_conj()], dim=-1)
    poles = torch.cat([poles, poles.conj().resolve_conj()], dim=-1)
    return weights @ (s - poles[..., None]).reciprocal()


def _vandermonde_inputs(device, H, N, L):
    generator = torch.Generator().manual_seed(0)
    dt = torch.logspace(-3, -1, H, dtype=torch.float64)
    Lambda = torch.tensor(-0.5 + 1j * np.pi * np.arange(N // 2)).repeat(H, 1)
    weights = torch.randn(H, N // 2, dtype=torch.complex128, generator=generator)
    return [weights.to(device), Lambda.to(device), dt.to(device), L]


def _vandermonde_ours(weights, Lambda, dt, L):
    return Diagonal(Lambda, torch.ones_like(Lambda), weights[None], dt, "zoh").kernel(L)[0]


def _vandermonde_naive(weights, Lambda, dt, L):
    """All powers at once, for one of each pair of modes."""
    x = Lambda * dt[:, None]
    powers = torch.exp(x[..., None] * torch.arange(L, dtype=dt.dtype, device=dt.device))
    weights = weights * (torch.exp(x) - 1) / Lambda
    return 2 * (weights[:, None] @ powers)[:, 0].real


def _in_single(function):
    """The same function of the same numbers in complex64."""
    to = {torch.complex128: torch.complex64, torch.float64: torch.float32}
    return lambda *x: function(*(y.to(to[y.dtype]) if torch.is_tensor(y) else y for y in x))


_CAUCHY = {
    "ours": _cauchy_ours,
    "naive_complex128": _cauchy_naive,
    "naive_complex64": _in_single(_cauchy_naive),
}
_VANDERMONDE = {
    "ours": _vandermonde_ours,
    "naive_complex128": _vandermonde_naive,
    "naive_complex64": _in_single(_vandermonde_naive),
}


def _sums_row(device, contenders, make, sizes):
    """Errors, times and memory: forward alone, and forward and backward together."""
    shape = sizes["sums"]
    small = make("cpu", **shape | {"H": 2})
    exact = contenders["naive_complex128"](*small)
    given = make(device, **shape)
    for x in given[:2]:
        x.requires_grad_()

    def forward(function):
        with torch.no_grad():
            return function(*given)

    def both(function):
        out = function(*given)
        return torch.autograd.grad(out, given[:2], torch.ones_like(out))

    row = dict(shape)
    for name, function in contenders.items():
        error = _distance(
            function(*(x.to(device) if torch.is_tensor(x) else x for x in small)).cpu(), exact
        )
        if not error < (1e-2 if name.endswith("64") else 1e-9):
            raise AssertionError(f"{name} is off by {error:.3g}")
        row[name] = {"error": error}
    times = {
        kind: _in_turns(
            device,
            {name: lambda f=function, one=one: one(f) for name, function in contenders.items()},
            sizes["repeats"],
        )
        for kind, one in (("forward", forward), ("forward_and_backward", both))
    }
    for name in contenders:
        row[name] |= {
            "seconds": {kind: summary(runs[name]) for kind, runs in times.items()},
            "times_slower": {
                kind: _ratios(runs[name], runs["ours"]) for kind, runs in times.items()
            },
            "peak_bytes": _peak(device, _sums_pass, device, contenders is _CAUCHY, name, shape),
        }
    print("  ", row, flush=True)
    return row


def _sums_pass(device, cauchy, name, shape):
    given = (_cauchy_inputs if cauchy else _vandermonde_inputs)(device, **shape)
    function = (_CAUCHY if cauchy else _VANDERMONDE)[name]
    for x in given[:2]:
        x.requires_grad_()

    def both():
        out = function(*given)
        torch.autograd.grad(out, given[:2], torch.ones_like(out))

    return both


# --- growth --------------------------------------------------------------------------------------


def _scaling(device, sizes):
    """Times of kernels against L and N and of one step against N, and the exponents of both."""
    rows = []
    kernels = {
        "dense": lambda H, N: Dense(H, N),
        "dplr": lambda H, N: S4(H, N),
        "diagonal": lambda H, N: S4D(H, N),
    }
    sweeps = {"L": [(64, L) for L in LENGTHS], "N": [(N, 4096) for N in STATE_SIZES]}
    for against, cases in sweeps.items():
        for N, L in cases:
            layers = {name: make(sizes["channels"], N).to(device) for name, make in kernels.items()}
            kernel_of = {name: _no_grad(layer.kernel, L) for name, layer in layers.items()}
            runs = _in_turns(
                device, {"dense": kernel_of.pop("dense")}, sizes["repeats"], recorded=False
            )
            runs |= _in_turns(device, kernel_of, sizes["repeats"])
            rows += [
                {"what": name, "against": against, "N": N, "L": L, "seconds": summary(times)}
                for name, times in runs.items()
            ]
    for N in STATE_SIZES:
        runs = _in_turns(device, _steps(device, N), 3 * sizes["repeats"])
        rows += [
            {"what": name, "against": "N", "N": N, "L": 1, "seconds": summary(times)}
            for name, times in runs.items()
        ]
    groups = itertools.groupby(sorted(rows, key=_curve), key=_curve)
    exponents = {}
    for (what, against), curve in groups:
        exponents.setdefault(what, {})[against] = _slope(list(curve)[-FITTED:], against)
    print("  ", exponents, flush=True)
    return {"scaling": rows, "exponents": exponents}


def _curve(row):
    return row["what"], row["against"]


def _slope(rows, against):
    x = np.log([row[against] for row in rows])
    return float(np.polyfit(x, np.log([row["seconds"]["median"] for row in rows]), 1)[0])


def _steps(device, N, channels=64, batch=8):
    """One step of 8 signals in 64 channels each, with A dense, as DPLR and diagonal."""
    u = torch.randn(batch, channels, device=device)
    A = torch.randn(channels, N, N, device=device) / N
    x = torch.zeros(channels, N, batch, device=device)
    steps = {"step_dense": _no_grad(lambda: A @ x + u.T[:, None])}
    for name, layer in (("step_dplr", S4(channels, N)), ("step_diagonal", S4D(channels, N))):
        layer = layer.to(device)
        steps[name] = _no_grad(layer.stepper().step, u, layer.default_state(batch))
    return steps


def _no_grad(function, *arguments):
    def run():
        with torch.no_grad():
            return function(*arguments)

    return run


# --- rounding ------------------------------------------------------------------------------------


def _accuracy():
    """Convolution against recurrence in float32, and both against float64, as L grows.

    Largest difference over the largest output of white noise, 4 channels of 64 states.
    """
    makers = {
        "legs": lambda: S4(4, measure="legs"),
        "legt": lambda: S4(4, measure="legt"),
        "fout": lambda: S4(4, measure="fout"),
        "s4d": lambda: S4D(4),
    }
    rows = []
    for name, make in makers.items():
        torch.manual_seed(0)
        layer, u = make(), torch.randn(1, LONGEST, 4)
        stepper, state, steps = layer.stepper(), layer.default_state(1), []
        for sample in u.unbind(1):
            y, state = stepper.step(sample, state)
            steps.append(y)
        recurrence = torch.stack(steps, 1)
        with torch.no_grad():
            lengths = [2**k for k in range(8, LONGEST.bit_length())]
            convolutions = [layer(u[:, :L]) for L in lengths]
            exact = layer.double()(u.double())
        for L, convolution in zip(lengths, convolutions):
            largest = exact[:, :L].abs().max()
            rows.append(
                {"layer": name, "L": L}
                | {
                    kind: ((x - y[:, :L]).abs().max() / largest).item()
                    for kind, x, y in (
                        ("between", convolution, recurrence),
                        ("convolution", convolution, exact),
                        ("recurrence", recurrence[:, :L], exact),
                    )
                }
            )
        print("  ", rows[-1], flush=True)
    return rows


# --- measuring -----------------------------------------------------------------------------------


def _in_turns(device, functions, repeats, recorded=True):
    """Seconds of every run: of a GPU's kernels alone, or those that the processor worked.

    The inverse of a matrix waits for the processor and cannot be recorded: what has one in its
    company is called.
    """
    if device != "cuda":
        return in_turns(functions, repeats, clock=_processor_clock)
    if recorded:
        functions = {name: gpu.recorded(lambda f=f: f) for name, f in functions.items()}
    return in_turns(functions, repeats, clock=gpu.clock)


def _processor_clock(function):
    """Seconds that the processor worked for one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def _ratios(runs, others):
    """How many times slower, turn by turn."""
    return summary([a / b for a, b in zip(runs, others)])


def _distance(got, want):
    return ((got.to(want.dtype) - want).norm() / want.norm()).item()


def _peak(device, make, *arguments):
    """The most memory that one call takes beside its inputs."""
    if device == "cuda":
        function = make(*arguments)
        function()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        peak = torch.cuda.max_memory_allocated() - before
        torch.cuda.empty_cache()
        return peak
    context = multiprocessing.get_context("spawn")  # so that the peak is that of this call alone
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_resident_peak, make, *arguments).result()


def _resident_peak(make, *arguments):
    torch.set_num_threads(1)
    function = make(*arguments)
    before = high_water_mark(reset=True)
    function()
    return high_water_mark() - before
