"""Training that stops, is killed or fails goes on to the numbers of a run that was left alone."""

import contextlib
import json
import os
import subprocess
import sys
import unittest.mock

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments import harness, networks
from experiments.settings import settings
from experiments.tasks import base, make_task

SMALL = {
    "epochs": 3,
    "every": 5,
    "length": 24,
    "doublings": 0,
    "width": 32,
    "layers": 1,
    "batch": 4,
}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Measurements on few sequences."""
    monkeypatch.setattr(base.Answers, "TESTED", 8)


def small(task="recall", model="mamba", device="cpu", **changes):
    return make_task(settings(task, model, 3, SMALL | changes), device)


class Noisy(torch.nn.Module):
    """A network that draws random numbers in every step, as dropout does."""

    def __init__(self, vocab):
        super().__init__()
        self.embedding, self.dropout = torch.nn.Embedding(vocab, 16), torch.nn.Dropout(0.3)
        self.head = torch.nn.Linear(16, vocab)

    def forward(self, tokens, *, last=0):
        return self.head(self.dropout(self.embedding(tokens).cumsum(1)))[:, -last:]


@pytest.fixture(params=["noisy", "mamba", "linear_attention"])
def task(request):
    """A task whose run takes 15 steps, in 3 epochs."""
    if request.param != "noisy":
        return lambda: small(model=request.param)

    def make():
        task = small()
        task.network = lambda: Noisy(task.VOCAB)
        return task

    return make


class Killed(BaseException):
    """Nothing in the harness may catch it."""


def same_run(resumed, whole):
    assert resumed.step == whole.step == whole.steps
    assert [x["loss"] for x in resumed.log] == [x["loss"] for x in whole.log]
    assert [x["accuracy"] for x in resumed.log] == [x["accuracy"] for x in whole.log]
    for x, y in zip(resumed.model.parameters(), whole.model.parameters()):
        assert torch.equal(x, y)


def stop_after(step, monkeypatch, stop):
    """Call ``stop()`` once that many steps have been taken."""
    take = harness._step

    def take_and_stop(run, batch):
        take(run, batch)
        if run.step == step:
            stop()

    monkeypatch.setattr(harness, "_step", take_and_stop)


@pytest.mark.parametrize("step", [5, 7])  # at the end of an epoch, within one
def test_a_run_in_pieces_is_the_run_in_one(task, step, tmp_path, monkeypatch):
    whole = harness.train(task(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(step, patch, lambda: patch.setattr(harness.time, "monotonic", lambda: 1e9))
        stopped = harness.train(task(), tmp_path / "pieces", minutes=60)
    assert stopped.step == step and len(stopped.log) == 1
    torch.manual_seed(99)
    same_run(harness.train(task(), tmp_path / "pieces"), whole)
    (log,) = (tmp_path / "pieces").glob("recall-*-3.jsonl")
    lines = log.read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["seed"] == 3 and len(lines) == 4


@pytest.mark.parametrize("step", [1, 5, 8, 10])
def test_a_killed_run_goes_on_to_the_same_numbers(task, step, tmp_path, monkeypatch):
    """Killed after a step, without a chance to save: before the first file, within an epoch, and
    after the last step of an epoch, before it is measured and saved."""

    def kill():
        raise Killed

    whole = harness.train(task(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(step, patch, kill)
        with pytest.raises(Killed):
            harness.train(task(), tmp_path / "killed")
    torch.manual_seed(99)
    same_run(harness.train(task(), tmp_path / "killed"), whole)


@pytest.mark.parametrize("write", [1, 2, 3, 4])  # each epoch writes the state, then the log
def test_a_run_killed_while_it_saves_goes_on_from_a_whole_file(write, tmp_path, monkeypatch):
    replace, count = os.replace, 0

    def killed_before(part, path):
        nonlocal count
        count += 1
        if count == write:
            raise Killed
        replace(part, path)

    whole = harness.train(small(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(harness.os, "replace", killed_before)
        with pytest.raises(Killed):
            harness.train(small(), tmp_path / "killed")
    same_run(harness.train(small(), tmp_path / "killed"), whole)
    logs = [
        (tmp_path / name / "recall-mamba-3.jsonl").read_text(encoding="utf-8").splitlines()
        for name in ("killed", "whole")
    ]
    assert [len(log) for log in logs] == [4, 4] and logs[0][0] == logs[1][0]


def test_a_full_disk_leaves_the_last_state_whole(tmp_path, monkeypatch):
    def fails(state, path):
        path.write_bytes(b"half a file")
        raise OSError("No space left on device")

    whole = harness.train(small(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(6, patch, lambda: patch.setattr(harness.torch, "save", fails))
        with pytest.raises(OSError, match="No space left"):
            harness.train(small(), tmp_path / "full")
    same_run(harness.train(small(), tmp_path / "full"), whole)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_process_killed_by_the_system_goes_on(tmp_path):
    """The same in earnest: the command is killed after seven steps, and the run goes on here."""
    sizes = SMALL | {"epochs": 2}
    command = [
        "train",
        "recall",
        "linear_attention",
        "--folder",
        str(tmp_path / "killed"),
        *(word for name, value in sizes.items() for word in (f"--{name}", str(value))),
    ]
    code = f"""
import os, signal
from experiments import harness
from experiments.__main__ import main
from experiments.tasks import base
base.Answers.TESTED = 8
step = harness._step
def killed(run, batch):
    step(run, batch)
    if run.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
harness._step = killed
main({command!r})
"""
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    assert subprocess.run([sys.executable, "-c", code], env=threads, check=False).returncode == -9
    task = make_task(settings("recall", "linear_attention", 0, sizes), "cpu")
    resumed = harness.train(task, tmp_path / "killed")
    assert resumed.step == 10
    same_run(resumed, harness.train(task, tmp_path / "whole"))


def test_a_run_does_not_go_on_with_other_settings(tmp_path):
    harness.train(small(epochs=1), tmp_path)
    with pytest.raises(ValueError, match=r"other settings .*'width': \(32, 64\)"):
        harness.train(small(epochs=1, width=64), tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", networks.OF_TOKENS)
@pytest.mark.parametrize("name", ["copying", "recall"])  # in bfloat16, in float32
def test_a_graph_takes_the_same_steps(name, model, tmp_path):
    sizes = {"device": "cuda", "epochs": 2, "every": 10}
    run = harness.train(small(name, model, **sizes), tmp_path / "graph")
    assert run.update.graph is not None
    plain = harness.train(small(name, model, **sizes), tmp_path / "plain", graph=False)
    np.testing.assert_allclose(
        [x["loss"] for x in run.log],
        [x["loss"] for x in plain.log],
        rtol=1e-2 if name == "copying" else 1e-4,
    )


@pytest.fixture
def graphs_of_nothing(monkeypatch):
    """Streams and graphs that do nothing, so that their bookkeeping runs on any device."""
    for name in ("Stream", "current_stream", "CUDAGraph", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, unittest.mock.MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: contextlib.nullcontext())


def test_steps_are_plain_where_recording_fails(graphs_of_nothing, tmp_path, monkeypatch, capsys):
    @contextlib.contextmanager
    def refuses(graph):
        yield
        raise RuntimeError("not today")

    monkeypatch.setattr(torch.cuda, "graph", refuses)
    run = harness._Run(small("induction", every=2), tmp_path, graph=False)
    run.update = harness._Graph(run)
    for batch in [*run.task.epoch(0), *run.task.epoch(1), *run.task.epoch(2)]:
        harness._step(run, batch)
    assert run.step == 6 and run.update.graph is None
    assert capsys.readouterr().out.count("no CUDA graph, since not today") == 1


def test_a_graph_is_recorded_for_each_shape(graphs_of_nothing, tmp_path, monkeypatch):
    task = small("copying", length=48, doublings=1, epochs=3, every=6)
    run = harness._Run(task, tmp_path, graph=False)
    run.update = harness._Graph(run)
    recorded = []
    monkeypatch.setattr(run.update, "_record", lambda batch: recorded.append(batch[0].shape[1]))
    for number in range(3):
        for batch in task.epoch(number):
            harness._step(run, batch)
    assert recorded == [24 + 16, 48 + 16] and run.step == 18


def test_weight_decay_spares_what_is_marked(tmp_path):
    run = harness._Run(small("char", weight_decay=0.1), tmp_path, graph=False)
    names = {id(p): name for name, p in run.model.named_parameters()}
    spared = {
        names[id(p)].rpartition(".")[2]
        for group in run.optimizer.param_groups
        for p in group["params"]
        if not group["weight_decay"]
    }
    assert {"A_log", "D"} <= spared
    decayed = [
        p for group in run.optimizer.param_groups if group["weight_decay"] for p in group["params"]
    ]
    assert decayed and all(p.ndim > 1 and names[id(p)].endswith("weight") for p in decayed)
