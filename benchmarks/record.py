"""What every measurement shares: the clock, the machine's description, the file."""

import datetime
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results"
_PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "triton",
    "numba",
    "mamba-ssm",
    "mambapy",
    "accelerated-scan",
    "transformers",
    "aeon",
    "scikit-learn",
)


def stopwatch(function):
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def seconds(function, repeats=7, warmups=1):
    """Time a call: median, fastest and slowest of ``repeats`` runs after ``warmups``, in seconds."""
    return summary(in_turns({"": function}, repeats, warmups)[""])


def in_turns(functions, repeats, warmups=1, clock=stopwatch):
    """Seconds of every run of every function, which take turns: a busy machine is busy for all."""
    runs = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(warmups):
            function()
    gc.collect()
    for _ in range(repeats):
        for name, function in functions.items():
            runs[name].append(clock(function))
    return runs


def summary(runs):
    """Median, least and largest of some numbers."""
    return {"median": statistics.median(runs), "min": min(runs), "max": max(runs)}


def high_water_mark(reset=False):
    """The largest resident memory of this process so far, in bytes.

    Linux can forget the mark, so that it is the present size; elsewhere the mark stands, and what
    stays below it reads as zero.
    """
    if sys.platform == "linux":
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # here, since Windows has no such module

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write(name, results, device="cpu", folder=None):
    """Write results with the machine and the versions beside them; return the path."""
    folder = folder or RESULTS
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{device}.json"
    document = {"machine": machine(), "software": software(), **results}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def machine():
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "date": datetime.date.today().isoformat(),
    }


def _processor():
    """The processor's name; ``platform`` knows it on some systems only."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def software():
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
