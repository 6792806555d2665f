"""Trained at one length, tested at many: how far does what was learned reach?"""

from __future__ import annotations

import json

import numpy as np
import torch

from experiments.settings import Settings
from experiments.tasks import make_task

PIECE = 2**14  # tokens at once, with the state handed over
SHORTEST, LONGEST = 2**6, 2**20
WHOLE = {"transformer": 2**15}  # networks without a state, and the longest sequence for them
TESTED = 256  # sequences


@torch.no_grad()
def measure(path, longest=LONGEST):
    """Accuracies of a trained network at every power of two, written beside its state.

    Lengths that were measured before are kept, and the file is written after each.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    state = torch.load(path, map_location="cpu", weights_only=True)
    settings = Settings(**state["settings"])
    task = make_task(settings, device)
    model = task.network().to(device).eval()
    model.load_state_dict(state["model"])
    known, length = of(path.parent, settings.name, state["step"]), SHORTEST
    while length <= min(longest, WHOLE.get(settings.model, longest)):
        if str(length) not in known["accuracy"]:
            known["accuracy"][str(length)] = _accuracy(task, model, length)
            _path(path.parent, settings.name).write_text(json.dumps(known), encoding="utf-8")
            print(settings.name, length, known["accuracy"][str(length)], flush=True)
        length *= 2


def _accuracy(task, model, length):
    """The share of right answers, on other sequences than those of the measurements in training."""
    piece = None if task.settings.model in WHOLE else min(length, PIECE)
    rows = min(TESTED, task.settings.batch)
    parts = [
        task.sequences(rows, length, np.random.default_rng([1, i])) for i in range(TESTED // rows)
    ]
    return sum(task.accuracy(model, *part, piece) for part in parts) / len(parts)


def of(folder, name, step):
    """What is known of a run after so many steps: {"step": …, "accuracy": {length: share}}."""
    path = _path(folder, name)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known if known.get("step") == step else {"step": step, "accuracy": {}}


def _path(folder, name):
    return folder / f"{name}.lengths.json"
