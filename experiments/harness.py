"""Training that can stop and go on, with the same numbers in one piece and in several.

A task brings its settings (:class:`experiments.settings.Settings`), its device, and::

    task.network() -> torch.nn.Module
    task.batches                     steps in an epoch, which ends with a measurement
    task.epoch(number)               yields the batches, which depend on the seed and the number alone
    task.loss(model, batch) -> a tensor
    task.measure(model) -> dict      goes into the log
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import time

import torch

from benchmarks import gpu, record
from ssm_core.optim import parameter_groups

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

WARM_UP = 0.05  # share of the steps in which the learning rate rises


def train(task, folder: pathlib.Path, minutes: float = math.inf, *, graph: bool = True):
    """Train to the last epoch, or until the minutes are over; return the run so far.

    The state is ``NAME.pt`` in the folder, where a later call finds it, and ``NAME.jsonl`` the log,
    one line per epoch. Both are written after each epoch and when time is over. A run that is killed
    goes on from the last time they were written; on a CPU its numbers are then bit for bit those of a
    run that was never interrupted.

    With ``graph``, a step on a GPU is recorded as a CUDA graph, so that small networks train as fast
    as the GPU computes and not as fast as the processor launches kernels. Batches are tuples of
    tensors, and a new shape is recorded anew.
    """
    settings = task.settings
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU
    torch.manual_seed(settings.seed)
    run = _Run(task, folder, graph and task.device == "cuda")
    run.load()
    deadline = time.monotonic() + 60 * minutes
    while run.step < run.steps:
        if not _epoch(run, deadline):
            run.save()
            break
        run.model.eval()
        with torch.no_grad():
            measured = task.measure(run.model)
        run.close_epoch(measured)
        run.save()
        print(f"{settings.name} {run.log[-1]}", flush=True)
    return run


def _epoch(run, deadline):
    """Go on to the end of the epoch; whether there was time for all of it."""
    number, done = divmod(run.step, run.task.batches)
    batches = enumerate(run.task.epoch(number))
    if tqdm is not None:
        batches = tqdm(
            batches,
            total=run.task.batches,
            leave=False,
            disable=None,
            desc=f"{run.settings.name}, epoch {number + 1}",
        )
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
        _step(run, batch)
    if run.device == "cuda":
        torch.cuda.synchronize()
    run.seconds += time.monotonic() - started
    return complete


def _step(run, batch):
    for group in run.optimizer.param_groups:
        rate = group["highest_lr"] * run.schedule(run.step / run.steps)
        if isinstance(group["lr"], torch.Tensor):  # a graph reads it where it is
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    run.update(batch)
    run.step += 1


def _constant(done):
    """A straight line up, then the same to the end."""
    return min(1.0, done / WARM_UP)


def _cosine(done):
    """A straight line up, then half a cosine down to zero."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))


SCHEDULES = {"cosine": _cosine, "constant": _constant}


class _Run:
    """A network in training, with all that it takes to go on after a stop."""

    def __init__(self, task, folder, graph):
        self.settings, self.task, self.folder, self.device = (
            task.settings,
            task,
            folder,
            task.device,
        )
        settings, device = self.settings, self.device
        self.schedule = SCHEDULES[settings.schedule]
        self.model = task.network().to(device)
        self.optimizer = _optimizer(self.model, settings, device, graph)
        self.steps = settings.epochs * task.batches
        self.step, self.seconds, self.log = 0, 0.0, []
        self.loss = torch.zeros((), device=device)  # the sum since the epoch began
        self.update = (_Graph if graph else _Update)(self)

    def close_epoch(self, measured):
        loss = self.loss.item() / self.task.batches
        if not math.isfinite(loss):
            raise FloatingPointError(f"{self.settings.name}: the loss is {loss}")
        entry = {
            "epoch": self.step // self.task.batches,
            "seconds": round(self.seconds, 2),
            "loss": loss,
        }
        if self.device == "cuda":
            entry["peak_bytes"] = torch.cuda.max_memory_allocated()
        self.log.append(entry | measured)

    def save(self):
        """Write the state and the log, each as a whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = dataclasses.asdict(self.settings)
        state = {
            "place": place(),
            "settings": settings,
            "steps": self.steps,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "loss": self.loss,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.device == "cuda" else None,
        }
        path = self.folder / f"{self.settings.name}.pt"
        _replace(path, lambda part: torch.save(state, part))
        lines = "".join(json.dumps(x) + "\n" for x in [settings, *self.log])
        _replace(path.with_suffix(".jsonl"), lambda part: part.write_text(lines, encoding="utf-8"))

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
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate  # on the device, if it is a tensor
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
        self.loss.copy_(state["loss"])
        torch.set_rng_state(state["random"])
        if self.device == "cuda" and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])


def _replace(path, write):
    """Put a new file at ``path``: ``write(part)`` fills a file beside it, which then takes its place."""
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)


def _optimizer(model, settings, device, graph):
    """AdamW, with the groups of :func:`ssm_core.optim.parameter_groups`."""
    groups = parameter_groups(model, settings.lr, weight_decay=settings.weight_decay)
    for group in groups:
        group["highest_lr"] = group["lr"]
        if graph:
            group["lr"] = torch.tensor(group["lr"], device=device)
    return torch.optim.AdamW(groups, **({"capturable": True, "fused": True} if graph else {}))


class _Update:
    """One step of training: the loss, its gradient, a step of AdamW."""

    def __init__(self, run):
        self.run = run

    def __call__(self, batch):
        run = self.run
        loss = run.task.loss(run.model, batch)
        run.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimizer.step()
        run.loss += loss.detach()


class _Graph(_Update):
    """The same, recorded as a CUDA graph and replayed: one launch a step.

    The first steps run kernel by kernel, on a stream of their own as PyTorch asks for: they compile
    kernels and allocate what the graph will find at fixed addresses. If recording fails, all steps
    run that way.
    """

    FIRST = 3

    def __init__(self, run):
        super().__init__(run)
        self.shapes = None

    def __call__(self, batch):
        if (shapes := [x.shape for x in batch]) != self.shapes:
            torch.cuda.synchronize()  # the graph of the shapes before may still run
            self.shapes, self.taken, self.graph, self.batch = shapes, 0, None, None
        if self.taken == self.FIRST:
            self._record(batch)
        self.taken += 1
        if self.graph is not None:
            for fixed, new in zip(self.batch, batch):
                fixed.copy_(new)
            self.graph.replay()
        elif self.taken <= self.FIRST:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                super().__call__(batch)
            torch.cuda.current_stream().wait_stream(side)
        else:
            super().__call__(batch)

    def _record(self, batch):
        self.batch = tuple(x.clone() for x in batch)
        graph = torch.cuda.CUDAGraph()
        try:  # a recording that fails does not give the stream back by itself
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
                super().__call__(self.batch)
        except RuntimeError as error:
            print(f"{self.run.settings.name}: no CUDA graph, since {error}", flush=True)
            self.run.optimizer.zero_grad()  # gradients that were recorded were never computed
        else:
            self.graph = graph


def place():
    """Where a run was trained, in the words of the files of results."""
    cuda = torch.cuda.is_available()
    return {
        "device": gpu.model() if cuda else "cpu",
        "name": torch.cuda.get_device_name() if cuda else "cpu",
        "machine": record.machine(),
        "software": record.software(),
    }
