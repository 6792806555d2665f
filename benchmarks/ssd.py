"""State space duality, the layer of Mamba-2, against whatever else can be imported that computes it.

On a CUDA device: shapes of models in bfloat16, our Triton kernels against those of the authors
(``mamba_ssm.ops.triton.ssd_combined``) where they can be imported. On a CPU: one shape in float32, the
chunked form against the loop and against the path of transformers that needs no kernels.

Whatever is timed is first held against the chunked form in float64, which the tests hold against the
definition; what fails shows its errors and no time. Contenders take turns. On a CUDA device times are
those of kernels, replayed from a graph, and of one eager call from Python.
"""

import importlib
import sys
import time

import torch

from benchmarks import gpu
from benchmarks.record import in_turns, stopwatch, summary
from ssm_core.ssd import ssd_fn

SHAPES = (
    (8, 2048, 32, 64, 1, 128),
    (1, 2048, 24, 64, 1, 128),
    (1, 16384, 64, 64, 1, 128),
    (4, 4096, 80, 64, 8, 128),
    (1, 131072, 32, 64, 1, 128),
)
CHECKED = {"b": 1, "L": 1000}  # of each shape, for the comparison in float64
CPU_SHAPE = (1, 1024, 24, 64, 1, 128)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative, in the Euclidean norm
BUDGET = 120  # seconds after which no new shape is begun


def run():
    """Check and time every contender on this machine's best device."""
    return _run_on_cuda() if torch.cuda.is_available() else _run_on_cpu()


def _run_on_cuda():
    started, rows = time.perf_counter(), []
    contenders = {"ours": _ours, **_mamba_ssm()}
    for sizes in SHAPES:
        shape = dict(zip(("b", "L", "h", "p", "g", "n"), sizes))
        if time.perf_counter() - started > BUDGET:
            rows.append({**shape, "left_out": f"past {BUDGET} seconds"})
            continue
        rows.append(_row(shape, contenders, torch.bfloat16, repeats=15))
        print("  ", rows[-1], flush=True)
        torch.cuda.empty_cache()
    return {
        "device": gpu.model(),
        "setup": {
            "device": torch.cuda.get_device_name(),
            "dtype": "bfloat16",
            "inputs": "x, dt, B, C, z in bfloat16, D, dt_bias in float32, softplus",
            "units": "seconds",
        },
        "rows": rows,
    }


def _run_on_cpu():
    shape = dict(zip(("b", "L", "h", "p", "g", "n"), CPU_SHAPE))
    contenders = {"ours": _ours, "loop": _loop, **_transformers()}
    return {
        "setup": {
            "device": "cpu",
            "dtype": "float32",
            "threads": torch.get_num_threads(),
            "inputs": "x, dt, B, C, D, dt_bias, softplus; no gate",
            "units": "seconds",
        },
        "rows": [_row(shape, contenders, torch.float32, repeats=15)],
    }


# --- the contenders: functions of x, dt, A, B, C, D, z, dt_bias -----------------------------------


def _ours(x, dt, A, B, C, D, z, dt_bias):
    kernels = "triton" if x.is_cuda else "chunk"
    return ssd_fn(x, dt, A, B, C, D=D, z=z, dt_bias=dt_bias, dt_softplus=True, backend=kernels)


def _loop(x, dt, A, B, C, D, z, dt_bias):
    return ssd_fn(x, dt, A, B, C, D=D, z=z, dt_bias=dt_bias, dt_softplus=True, backend="reference")


def _mamba_ssm():
    """The authors' Triton kernels; their packages import more than the kernels, so those are named here."""
    try:
        module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    except (ImportError, OSError) as error:
        print("   mamba_ssm is left out:", error, file=sys.stderr)
        return {}

    def mamba_ssm(x, dt, A, B, C, D, z, dt_bias):
        return module.mamba_chunk_scan_combined(
            x, dt, A, B, C, 256, D=D, z=z, dt_bias=dt_bias, dt_softplus=True
        )

    return {"mamba_ssm": mamba_ssm}


def _transformers():
    """What transformers computes where it has no kernels, in chunks of 256 as its models are set."""
    try:
        from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
    except ImportError:  # not installed, or a version that has no such function
        return {}

    def transformers(x, dt, A, B, C, D, z, dt_bias):
        y = mamba2_chunk_scan(x, dt, A, B, C, 256, D=D, dt_bias=dt_bias, dt_softplus=True)
        return y[0] if isinstance(y, tuple) else y

    return {"transformers": transformers}


# --- one shape -----------------------------------------------------------------------------------


def _row(shape, contenders, dtype, repeats):
    """Errors, times and memory of all contenders at one shape, and ratios to ours."""
    rows = {name: _errors(function, shape, dtype) for name, function in contenders.items()}
    right = [name for name, row in rows.items() if row.get("largest_error", 1) < TOLERANCE[dtype]]
    times = _times({name: contenders[name] for name in right}, shape, dtype, repeats)
    for name in right:
        rows[name]["seconds"] = {kind: summary(runs[name]) for kind, runs in times.items()}
        if torch.cuda.is_available():
            rows[name]["peak_bytes"] = _peak_bytes(contenders[name], shape, dtype)
        if name != "ours" and "ours" in right:
            rows[name]["times_slower_than_ours"] = {
                kind: summary([a / b for a, b in zip(runs[name], runs["ours"])])
                for kind, runs in times.items()
            }
    return {**shape, "contenders": rows}


def _inputs(shape, dtype, seed=0):
    b, L, h, p, g, n = (shape[axis] for axis in "bLhpgn")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)

    def random(*size, dtype=dtype):
        return torch.randn(*size, device=device, generator=generator).to(dtype)

    A = -1 - 15 * torch.rand(h, device=device, generator=generator)  # as Mamba-2 begins
    return {
        "x": random(b, L, h, p),
        "dt": random(b, L, h),
        "A": A,
        "B": random(b, L, g, n),
        "C": random(b, L, g, n),
        "D": random(h, dtype=torch.float32),
        "z": random(b, L, h, p) if device == "cuda" else None,
        "dt_bias": random(h, dtype=torch.float32) - 4,
    }


def _errors(function, shape, dtype):
    """Of the output and of each gradient, against float64; the whole message where it cannot run."""
    x = _inputs({**shape, "b": CHECKED["b"], "L": min(shape["L"], CHECKED["L"])}, dtype)
    weights = torch.randn_like(x["x"])
    exact = {name: None if value is None else value.double() for name, value in x.items()}
    want = _outputs_and_gradients(_ours, exact, weights.double())
    try:
        got = _outputs_and_gradients(function, x, weights)
    except Exception as error:  # noqa: BLE001 - whatever a contender raises is its result
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    errors = {
        name: ((got[name].double() - want[name]).norm() / want[name].norm()).item() for name in want
    }
    return {"errors": errors, "largest_error": max(errors.values())}


def _outputs_and_gradients(function, x, weights):
    x = {k: None if v is None else v.detach().requires_grad_() for k, v in x.items()}
    given = {k: v for k, v in x.items() if v is not None}
    y = function(**x)
    gradients = torch.autograd.grad(y, list(given.values()), weights)
    return {"y": y.detach(), **{f"d{k}": g for k, g in zip(given, gradients)}}


# --- time and memory -----------------------------------------------------------------------------


def _passes(function, x):
    """The forward pass without gradients, the backward pass alone, and both."""
    given = [v for v in x.values() if v is not None]
    weights = torch.randn_like(x["x"])

    def forward():
        with torch.no_grad():
            function(**x)

    def both():
        torch.autograd.grad(function(**x), given, weights)

    return {"forward": forward, "forward_and_backward": both}


def _times(contenders, shape, dtype, repeats):
    """Seconds of every run, by kind of pass and contender, the contenders taking turns."""
    x = {k: None if v is None else v.requires_grad_() for k, v in _inputs(shape, dtype).items()}
    passes = {name: _passes(function, x) for name, function in contenders.items()}
    cuda = torch.cuda.is_available()
    times = {}
    for kind in ("forward", "forward_and_backward"):
        by_name = {name: kinds[kind] for name, kinds in passes.items()}
        clock = gpu.clock if cuda else stopwatch
        times[kind + "_call" * cuda] = in_turns(by_name, repeats, clock=clock)
        if cuda:
            graphs = {}
            for name, function in by_name.items():
                try:
                    graphs[name] = gpu.recorded(lambda function=function: function)
                except RuntimeError as error:  # what cannot be recorded has no kernel time
                    print("  ", name, "cannot be recorded:", str(error)[:200], file=sys.stderr)
            if len(graphs) == len(by_name):
                times[kind] = in_turns(graphs, repeats, clock=gpu.clock)
            del graphs
    return times


def _peak_bytes(function, shape, dtype):
    """The most that forward and backward take beside the inputs and the gradient of the output."""
    x = {k: v.requires_grad_() for k, v in _inputs(shape, dtype).items() if v is not None}
    weights = torch.randn_like(x["x"])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(function(**x), list(x.values()), weights)
    return torch.cuda.max_memory_allocated() - before
