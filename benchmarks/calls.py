"""What an eager call costs the processor: time in Python before the GPU can work.

Twenty calls are issued one after the other to an idle GPU, and the processor's time for them is
divided by twenty. Where that is more than the kernels take, the GPU waits. A training step of a layer
is measured as a whole, too, with what its GPU work takes when it is replayed from a CUDA graph.
"""

import torch

from benchmarks import gpu
from benchmarks.record import in_turns, stopwatch, summary
from benchmarks.scan import _inputs, _mamba_ssm, _ours
from ssm_core.mamba import Mamba
from ssm_core.s4 import S4, S4D

SHAPE = {"b": 1, "d": 1536, "L": 512, "n": 16}
CALLS = 20  # fewer launches than a stream takes before it makes the processor wait
REPEATS = 31


def run():
    """Seconds of one call, by what is called and with which passes."""
    if not torch.cuda.is_available():
        raise RuntimeError("calls are measured on a CUDA device, and there is none")
    scans = {"ours": _ours, **_mamba_ssm()}
    rows = [{"what": "selective scan", **SHAPE, "seconds": _of_scans(scans)}]
    rows += [{"what": name, "seconds": _of_layer(layer)} for name, layer in _layers().items()]
    for row in rows:
        print("  ", row, flush=True)
    return {
        "device": gpu.model(),
        "setup": {"device": torch.cuda.get_device_name(), "dtype": "bfloat16", "calls": CALLS},
        "rows": rows,
    }


def _of_scans(scans):
    """By pass and contender: forward without and with gradients to come, forward and backward."""
    x = _inputs(SHAPE, torch.bfloat16)
    weights = torch.randn_like(x[0])
    for M in x:
        M.requires_grad_()

    def passes(function):
        def forward():
            with torch.no_grad():
                function(*x)

        return {
            "forward": forward,
            "forward_with_grad": lambda: function(*x),
            "forward_and_backward": lambda: torch.autograd.grad(function(*x), x, weights),
        }

    by_name = {name: passes(function) for name, function in scans.items()}
    return {
        kind: {
            name: summary(times)
            for name, times in in_turns(
                {name: kinds[kind] for name, kinds in by_name.items()}, REPEATS, clock=processor
            ).items()
        }
        for kind in ("forward", "forward_with_grad", "forward_and_backward")
    }


def _layers():
    """Layers of the usual width at one row of 512 samples."""
    torch.manual_seed(0)
    return {
        "Mamba(768)": Mamba(768).to("cuda", torch.bfloat16),
        "S4D(256)": S4D(256).cuda(),
        "S4(256)": S4(256).cuda(),
    }


def _of_layer(layer):
    """A forward and a backward pass: the processor's time, and the GPU's from a graph."""
    parameter = next(layer.parameters())
    width = 768 if isinstance(layer, Mamba) else 256
    dtype = torch.bfloat16 if isinstance(layer, Mamba) else torch.float32
    x = torch.randn(1, 512, width, device=parameter.device, dtype=dtype, requires_grad=True)
    leaves = [x, *layer.parameters()]

    def step():
        torch.autograd.grad(layer(x).sum(), leaves, allow_unused=True)

    times = in_turns({"step": step}, REPEATS, clock=processor)["step"]
    graph = in_turns({"step": gpu.recorded(lambda: step)}, REPEATS, clock=gpu.clock)["step"]
    return {"processor": summary(times), "gpu": summary(graph)}


def processor(function):
    """Seconds that the processor needs to issue one call, to a GPU that has nothing else to do."""
    torch.cuda.synchronize()

    def several():
        for _ in range(CALLS):
            function()

    seconds = stopwatch(several) / CALLS
    torch.cuda.synchronize()
    return seconds
