"""The selective scan against whatever else can be imported that computes it.

On a CPU: one shape in float32, against loops in PyTorch and parallel scans in PyTorch. On a CUDA
device: the shapes of ``results/scan-cuda-baseline.json`` in bfloat16, against the kernel that most
programs use, as it was measured there and, where mamba_ssm is installed, in the same run.

Whatever is timed is first held against the definition in float64; what fails shows its error and no
time. Contenders take turns, on several copies of the inputs, so that no cache serves them. Times
are of the forward pass alone, of the backward pass alone (CUDA), and of both. On a CUDA device they
are those of the kernels, recorded in a graph; beside them stands what one call from Python takes.
"""

import importlib
import itertools

import torch
from torch.nn import functional

from benchmarks import gpu
from benchmarks.record import in_turns, stopwatch, summary
from ssm_book.data import measurements
from ssm_core.scan import selective_scan_fn, selective_scan_ref

CPU_SHAPE = {"b": 1, "d": 1536, "L": 1024, "n": 16}
CHECKED = 2048  # samples of a long sequence that the check looks at
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}  # relative, in the Euclidean norm
OUT_OF_CACHE = 2**28  # bytes of inputs, in copies, that are passed through between two visits
STATES_AT_MOST = 2**32  # bytes of (b, d, L, n): those who write all states are left out beyond


def run():
    """Check and time every contender on this machine's best device."""
    return _run_on_cuda() if torch.cuda.is_available() else _run_on_cpu()


def _run_on_cpu():
    contenders = {
        "ours": _ours,
        "loop": _loop,
        "loop_all_at_once": _loop_all_at_once,
        **_mamba_py(),
        **_accelerated_scan("ref"),
    }
    row = _row(CPU_SHAPE, contenders, torch.float32, repeats=11)
    return {
        "setup": {
            "device": "cpu",
            "dtype": "float32",
            "threads": torch.get_num_threads(),
            "threads_of_loop": _loop.threads,
            "inputs": "u, delta > 0, A = -(1..n), B, C, D",
            "units": "seconds",
        },
        "rows": [row],
    }


def _run_on_cuda():
    baseline = measurements("scan-cuda-baseline")
    contenders = {"ours": _ours, **_mamba_ssm(), **_accelerated_scan("scalar")}
    rows = []
    for known in baseline["rows"]:
        shape = {axis: known[axis] for axis in "bdLn"}
        row = _row(shape, contenders, torch.bfloat16, repeats=31)
        _compare(row, known)
        rows.append(row)
        print("  ", row, flush=True)
        torch.cuda.empty_cache()
    return {
        "device": gpu.model(),
        "setup": {
            "device": torch.cuda.get_device_name(),
            "dtype": "bfloat16",
            "inputs": baseline["inputs"],
            "units": "seconds",
            "baseline": baseline["device"],
            "baseline_software": baseline["software"],
        },
        "rows": rows,
    }


def _compare(row, known):
    """How many times faster than the CUDA kernel was for the baseline, and what that one takes.

    Its memory is counted: with a gate it keeps the output twice, and the state once in 2,048
    samples as a pair of products and sums; its gradients of B and C are float32 at first.
    """
    b, d, L, n = (row[axis] for axis in "bdLn")
    states = 2 * n * 4 * b * d * -(-L // 2048)
    row["baseline_counted_bytes"] = 5 * 2 * b * d * L + states + 2 * (4 + 2) * b * n * L + 4 * d * n
    ours = row["contenders"]["ours"]
    if "seconds" in ours:
        row["times_faster_than_baseline"] = {
            name: known[key] / 1e3 / ours["seconds"][name]["median"]
            for name, key in (("forward", "mamba_ssm_fwd"), ("backward", "mamba_ssm_bwd"))
        }


# --- the contenders: functions of (u, delta, A, B, C, D, z, delta_bias) --------------------------


def _ours(u, delta, A, B, C, D, z=None, delta_bias=None):
    return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_bias is not None)


def _loop(u, delta, A, B, C, D):
    """The recurrence step by step, over ``unbind`` so that its gradient is linear in L."""
    x, y = torch.zeros(len(u), *A.shape), []
    for u_t, dt, B_t, C_t in zip(*(M.unbind(-1) for M in (u, delta, B, C))):
        x = torch.exp(dt[..., None] * A) * x + (dt * u_t)[..., None] * B_t[:, None]
        y.append((x * C_t[:, None]).sum(-1))
    return torch.stack(y, -1) + D[:, None] * u


_loop.threads = 1  # its operations are so small that sharing them out makes them slower


def _loop_all_at_once(u, delta, A, B, C, D):
    """The same with all decays before the loop and all outputs after it, from (b, L, d, n)."""
    dt = delta.mT[..., None]
    x, states = torch.zeros(len(u), *A.shape), []
    steps = torch.exp(dt * A), dt * u.mT[..., None] * B.mT[:, :, None]
    for decay, step in zip(*(M.unbind(1) for M in steps)):
        x = torch.addcmul(step, decay, x)
        states.append(x)
    y = torch.stack(states, 1) @ C.mT[..., None]
    return y[..., 0].mT + D[:, None] * u


def _mamba_ssm():
    module = _imported("mamba_ssm.ops.selective_scan_interface")
    if module is None:
        return {}
    return {"mamba_ssm": lambda *x: module.selective_scan_fn(*x, delta_softplus=True)}


def _mamba_py():
    """mamba.py's scan; its layout is (b, L, d), so the inputs are copied into it beforehand."""
    module = _imported("mambapy.pscan")
    if module is None:
        return {}

    def mamba_py(u, delta, A, B, C, D):
        dt = delta.mT[..., None]
        steps = torch.exp(dt * A), dt * B.mT[:, :, None] * u.mT[..., None]
        y = module.pscan(*steps) @ C.mT[..., None]
        return y[..., 0].mT + D[:, None] * u

    return {"mamba_py": mamba_py}


def _accelerated_scan(kind):
    """Its scan of (b, channels, L): all states of all channels, written out."""
    module = _imported(f"accelerated_scan.{kind}")
    if module is None:
        return {}

    def accelerated_scan(u, delta, A, B, C, D, z=None, delta_bias=None):
        signal, dt, B, C = (M.float() for M in (u, delta, B, C))
        if delta_bias is not None:
            dt = functional.softplus(dt + delta_bias[:, None])
        decay = torch.exp(dt[:, :, None] * A[..., None])  # (b, d, n, L)
        step = (dt * signal)[:, :, None] * B[:, None]
        states = module.scan(decay.flatten(1, 2), step.flatten(1, 2)).view_as(step)
        y = (states * C[:, None]).sum(2) + D[:, None] * signal
        return (y if z is None else y * functional.silu(z.float())).to(u.dtype)

    return {"accelerated_scan": accelerated_scan}


def _imported(name):
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: built for another PyTorch
        return None


# --- one shape -----------------------------------------------------------------------------------


def _row(shape, contenders, dtype, repeats):
    """Errors, times and memory of all contenders at one shape, and ratios to ours."""
    states = 4 * shape["b"] * shape["d"] * shape["L"] * shape["n"]
    rows = {}
    for name, function in contenders.items():
        if name == "accelerated_scan" and states > STATES_AT_MOST:
            rows[name] = {"left_out": f"its states take {states / 2**30:.0f} GiB"}
        else:
            rows[name] = {"largest_error": _largest_error(function, shape, dtype)}
    right = [
        name
        for name, row in rows.items()
        if row.get("largest_error", float("inf")) < TOLERANCE[dtype]
    ]
    times = _times({name: contenders[name] for name in right}, shape, dtype, repeats)
    for name in right:
        rows[name]["seconds"] = {kind: summary(runs[name]) for kind, runs in times.items()}
        if torch.cuda.is_available():
            rows[name]["peak_bytes"] = _peak_bytes(contenders[name], shape, dtype)
    if "ours" in right:
        for name in right[1:]:
            rows[name]["times_slower_than_ours"] = {
                kind: summary([a / b for a, b in zip(runs[name], runs["ours"])])
                for kind, runs in times.items()
            }
    return {**shape, "contenders": rows}


def _inputs(shape, dtype, seed=0):
    """As in the baseline on a GPU; on a CPU what all contenders there take, delta above zero."""
    b, d, L, n = (shape[axis] for axis in "bdLn")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)

    def random(*size, dtype=dtype):
        return torch.randn(*size, device=device, generator=generator).to(dtype)

    A = -torch.arange(1.0, n + 1, device=device).repeat(d, 1)
    u, delta, B, C = random(b, d, L), random(b, d, L), random(b, n, L), random(b, n, L)
    D = random(d, dtype=torch.float32)
    if device == "cpu":
        return [u, functional.softplus(delta - 3), A, B, C, D]
    return [u, delta, A, B, C, D, random(b, d, L), random(d, dtype=torch.float32) - 3]


def _largest_error(function, shape, dtype):
    """Of the output and all gradients, against the definition in float64.

    The definition runs on the first of the batch only, and nothing flows back from the others. Of
    a long sequence the beginning is compared in full, and its output as part of the whole again.
    """
    x = _inputs(shape, dtype)
    begin = [M[..., :CHECKED].contiguous() if M.ndim == 3 else M for M in x]
    weights = torch.zeros_like(begin[0])
    weights[:1] = torch.randn_like(weights[:1])
    exact = [M[:1].double() if M.ndim == 3 else M.double() for M in begin]
    want = _outputs_and_gradients(_definition, exact, weights[:1].double())
    got = _outputs_and_gradients(function, begin, weights)
    with torch.no_grad():
        got.append(function(*x)[..., :CHECKED])
    want.append(want[0])
    return max(_distance(M[:1] if M.ndim == 3 else M, exact) for M, exact in zip(got, want))


def _distance(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def _definition(u, delta, A, B, C, D, z=None, delta_bias=None):
    return selective_scan_ref(u, delta, A, B, C, D, z, delta_bias, delta_bias is not None)


def _outputs_and_gradients(function, x, weights):
    x = [M.detach().requires_grad_() for M in x]
    out = function(*x)
    return [out.detach(), *torch.autograd.grad(out, x, weights)]


# --- time and memory -----------------------------------------------------------------------------


def _times(contenders, shape, dtype, repeats):
    """Seconds of every run, by kind of pass and contender, the contenders taking turns."""
    one = _inputs(shape, dtype)
    size = sum(M.numel() * M.element_size() for M in one)
    copies = [one, *(_inputs(shape, dtype, seed) for seed in range(1, 2 + OUT_OF_CACHE // size))]
    for x in copies:
        for M in x:
            M.requires_grad_()
    weights = torch.randn_like(one[0])

    def forward(function, x):
        with torch.no_grad():
            function(*x)

    def both(function, x):
        torch.autograd.grad(function(*x), x, weights)

    passes = {"forward": forward, "forward_and_backward": both}
    cuda = torch.cuda.is_available()
    times = {
        kind + "_call" * cuda: in_turns(
            {name: _on_each(one_pass, function, copies) for name, function in contenders.items()},
            repeats,
            clock=gpu.clock if cuda else stopwatch,
        )
        for kind, one_pass in passes.items()
    }
    if cuda:
        for kind, one_pass in {**passes, "backward": None}.items():
            times[kind] = in_turns(
                {
                    name: _recorded(one_pass, function, copies, weights)
                    for name, function in contenders.items()
                },
                repeats,
                clock=gpu.clock,
            )
    return times


def _on_each(one_pass, function, copies):
    turns, threads = itertools.cycle(copies), torch.get_num_threads()

    def call():
        torch.set_num_threads(getattr(function, "threads", threads))
        one_pass(function, next(turns))
        torch.set_num_threads(threads)

    return call


def _recorded(one_pass, function, copies, weights):
    """The kernels of a pass, or of the backward pass alone over a forward pass that is kept."""

    def prepare(x):
        if one_pass is not None:
            return lambda: one_pass(function, x)
        out = function(*x)
        return lambda: torch.autograd.grad(out, x, weights, retain_graph=True)

    turns = itertools.cycle([gpu.recorded(lambda x=x: prepare(x)) for x in copies[:4]])
    return lambda: next(turns)()


def _peak_bytes(function, shape, dtype):
    """The most that forward and backward take beside the inputs and the gradient of the output."""
    x = [M.requires_grad_() for M in _inputs(shape, dtype)]
    weights = torch.randn_like(x[0])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(function(*x), x, weights)
    return torch.cuda.max_memory_allocated() - before


# --- a picture of a stored result ----------------------------------------------------------------


def figure(results):
    """Times of all contenders, each shape a panel, and how many times slower than ours they are."""
    from matplotlib import pyplot as plt  # here, since measuring needs no Matplotlib

    from ssm_book.figures import use_style

    use_style()
    rows, passes = results["rows"], ("forward", "forward_and_backward")
    fig, panels = plt.subplots(len(rows), 2, figsize=(7.2, 0.8 + 1.3 * len(rows)), squeeze=False)
    for row, pair in zip(rows, panels):
        shape = ", ".join(f"{axis} {row[axis]:,}" for axis in "bdLn")
        timed = {name: x for name, x in row["contenders"].items() if "seconds" in x}
        for axes, kind in zip(pair, passes):
            medians = [x["seconds"][kind]["median"] for x in timed.values()]
            bars = axes.barh(list(timed), medians)
            axes.bar_label(bars, [f"{t / medians[0]:.1f}×" for t in medians], padding=3)
            axes.invert_yaxis()
            axes.margins(x=0.2)
            axes.set_title(f"{kind.replace('_', ' ')}: {shape}", fontsize=8)
        pair[1].tick_params(labelleft=False)
    panels[-1, 0].set_xlabel("seconds, median")
    fig.suptitle(
        f"Selective scan, {results['setup']['dtype']}, {results['machine']['processor']}"
        if results["setup"]["device"] == "cpu"
        else f"Selective scan, {results['setup']['dtype']}, {results['setup']['device']}"
    )
    return fig
