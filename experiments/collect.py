"""From the states of training runs to the file that is committed: settings, curves, sizes."""

from __future__ import annotations

import pathlib

import torch

from benchmarks import record
from experiments import lengths
from experiments.settings import Settings
from experiments.tasks import TASKS

RESULTS = pathlib.Path(__file__).parent / "results"


def collect(task: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Write all runs of a task to one file per device, ``results/TASK-DEVICE.json``."""
    states = [
        torch.load(path, map_location="cpu", weights_only=True)
        for path in sorted(folder.glob(f"{task}-*.pt"))
    ]
    if not states:
        raise SystemExit(f"there is no {task}-*.pt in {folder}")
    written = []
    for device in sorted({state["place"]["device"] for state in states}):
        here = [state for state in states if state["place"]["device"] == device]
        place = here[-1]["place"]
        results = {
            "machine": place["machine"],
            "software": place["software"],
            "setup": {
                "device": place["name"],
                "units": "seconds of training, bytes",
                "task": " ".join(TASKS[task].__doc__.split()),
            },
            "runs": [_run(state, folder) for state in here],
        }
        written.append(record.write(task, results, device, RESULTS))
    return written


def _run(state, folder):
    """What is committed of a run, from its state."""
    name = Settings(**state["settings"]).name
    return {
        **state["settings"],
        "steps": state["steps"],
        "log": state["log"],
        "parameters": _size(state["model"]),
        "lengths": lengths.of(folder, name, state["step"])["accuracy"],
    }


def _size(weights):
    """The number of parameters; a tensor that two modules share counts once."""
    return sum({x.data_ptr(): x.numel() for x in weights.values()}.values())
