"""Training that can stop and go on: the same numbers in one piece and in several."""

import dataclasses
import json
import math
import time

import torch

from benchmarks import gpu, record
from benchmarks.s4.tasks import TASKS
from ssm_core.s4 import parameter_groups

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

WARM_UP = 0.05  # share of the steps in which the learning rate rises


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
    """Train to the last epoch, or as long as the minutes last; return the run so far.

    The state is ``NAME.pt`` in the folder, where a later call finds it, and ``NAME.jsonl`` the log,
    one line an epoch. Both are written after each epoch and when time is over.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU
    torch.manual_seed(settings.seed)
    task = TASKS[settings.task](settings, device, data)
    model = task.network().to(device)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.lr, weight_decay=settings.weight_decay))
    for group in optimizer.param_groups:
        group["highest_lr"] = group["lr"]
    run = _Run(settings, folder, device, model, optimizer)
    run.load()
    deadline = time.monotonic() + 60 * minutes
    while run.step < settings.epochs * task.batches:
        if not _epoch(run, task, deadline):
            run.save()
            break
        model.eval()
        with torch.no_grad():
            measured = task.measure(model)
        run.close_epoch(task.batches, measured)
        run.save()
        print(f"{settings.name} {run.log[-1]}", flush=True)
    return run


def _epoch(run, task, deadline):
    """Go on to the end of the epoch; whether there was time for all of it."""
    number, done = divmod(run.step, task.batches)
    batches = enumerate(task.epoch(number))
    if tqdm is not None:
        batches = tqdm(batches, total=task.batches, leave=False, disable=None,
                       desc=f"{run.settings.name}, epoch {number + 1}")
    if not done:
        run.loss.zero_()
    run.model.train()
    started = time.monotonic()
    complete = True
    for i, batch in batches:
        if i < done:
            continue
        if time.monotonic() > deadline:
            complete = False
            break
        _step(run, task, batch, run.settings.epochs * task.batches)
    if run.device == "cuda":
        torch.cuda.synchronize()
    run.seconds += time.monotonic() - started
    return complete


def _step(run, task, batch, steps):
    for group in run.optimizer.param_groups:
        group["lr"] = group["highest_lr"] * _schedule(run.step / steps)
    loss = task.loss(run.model, batch)
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    run.loss += loss.detach()
    run.step += 1


def _schedule(done):
    """A straight line up, then half a cosine down to zero."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))


class _Run:
    """A network in training, with all that it takes to go on after a stop."""

    def __init__(self, settings, folder, device, model, optimizer):
        self.settings, self.device, self.model, self.optimizer = settings, device, model, optimizer
        self.folder = folder
        self.step, self.seconds, self.log = 0, 0.0, []
        self.loss = torch.zeros((), device=device)  # the sum since the epoch began

    def close_epoch(self, batches, measured):
        loss = self.loss.item() / batches
        if not math.isfinite(loss):
            raise FloatingPointError(f"{self.settings.name}: the loss is {loss}")
        entry = {"epoch": self.step // batches, "seconds": round(self.seconds, 2), "loss": loss}
        if self.device == "cuda":
            entry["peak_bytes"] = torch.cuda.max_memory_allocated()
        self.log.append(entry | measured)

    def save(self):
        """Write the log and the state, each under another name first, so that none is ever half."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "place": _place(),
            "settings": dataclasses.asdict(self.settings), "step": self.step,
            "seconds": self.seconds, "log": self.log, "loss": self.loss,
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.device == "cuda" else None,
        }
        path = self.folder / f"{self.settings.name}.pt"
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        lines = [dataclasses.asdict(self.settings), *self.log]
        path.with_suffix(".jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))

    def load(self):
        path = self.folder / f"{self.settings.name}.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        wanted, found = dataclasses.asdict(self.settings), state["settings"]
        if wanted != found:
            differ = {k: (found.get(k), v) for k, v in wanted.items() if found.get(k) != v}
            raise ValueError(f"{path} was begun with other settings (then, now): {differ}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
        self.loss.copy_(state["loss"])
        torch.set_rng_state(state["random"])
        if self.device == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])


def _place():
    """Where a run was trained, in the words of the files of results."""
    cuda = torch.cuda.is_available()
    return {"device": gpu.model() if cuda else "cpu",
            "name": torch.cuda.get_device_name() if cuda else "cpu",
            "machine": record.machine(), "software": record.software()}
