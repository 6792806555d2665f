"""The training runs of S4: what their numbers depend on."""

import dataclasses
import math

from benchmarks import training
from benchmarks.s4.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that the numbers of a run depend on, beside the machine."""

    task: str
    model: str
    seed: int
    epochs: int
    width: int
    layers: int
    batch: int
    lr: float
    dropout: float
    weight_decay: float

    @property
    def name(self):
        return f"{self.task}-{self.model}-{self.seed}"


def train(settings, folder, minutes=math.inf, data=None):
    """Train to the last epoch, or as long as the minutes last; return the run so far."""

    def make_task(settings, device):
        return TASKS[settings.task](settings, device, data)

    return training.train(settings, make_task, folder, minutes, graph=True)
