"""What the networks are trained on: batches, the loss, and what is measured after each epoch."""

from __future__ import annotations

from experiments.networks import OF_SIGNALS, OF_TOKENS, DelayLine
from experiments.tasks.char import Char
from experiments.tasks.copying import Copying
from experiments.tasks.delay import Delay
from experiments.tasks.digits import Digits, Drawing
from experiments.tasks.induction import Induction
from experiments.tasks.recall import Recall

TASKS = {
    "delay": Delay,
    "smnist": Digits,
    "psmnist": Digits,
    "drawing": Drawing,
    "copying": Copying,
    "induction": Induction,
    "recall": Recall,
    "char": Char,
}
MODELS = {
    "delay": DelayLine.MODELS,
    "smnist": OF_SIGNALS,
    "psmnist": OF_SIGNALS,
    "drawing": ("s4", "s4d", "random"),
    **dict.fromkeys(("copying", "induction", "recall", "char"), OF_TOKENS),
}


def make_task(settings, device, data=None):
    """The task of a run; ``data`` is the folder of MNIST, which only tasks with digits read."""
    make = TASKS[settings.task]
    return make(settings, device, data) if issubclass(make, Digits) else make(settings, device)
