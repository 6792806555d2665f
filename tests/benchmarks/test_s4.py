"""The training runs of the benchmark: they resume exactly, and read and start what they say."""

import argparse
import gzip
import hashlib
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import training
from benchmarks.s4 import mnist, networks, results, tasks, train


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """A folder with 40 and 20 digits made of noise, and their checksums."""
    rng = np.random.default_rng(0)
    shapes = [(40, 28, 28), (40,), (20, 28, 28), (20,)]
    for name, shape in zip(mnist.FILES, shapes):
        values = rng.integers(0, 256 if len(shape) > 1 else 10, shape, dtype=np.uint8)
        lengths = np.array(shape, dtype=">u4").tobytes()
        content = bytes([0, 0, 8, len(shape)]) + lengths + values.tobytes()
        packed = gzip.compress(content) if "labels" in name else content
        (tmp_path / (f"{name}.gz" if "labels" in name else name)).write_bytes(packed)
        monkeypatch.setitem(mnist.FILES, name, hashlib.sha256(content).hexdigest())
    return tmp_path


def settings(**changes):
    return train.Settings(**{
        "task": "smnist", "model": "s4d", "seed": 3, "epochs": 3, "width": 8, "layers": 1,
        "batch": 8, "lr": 0.01, "dropout": 0.2, "weight_decay": 0.01} | changes)


def test_mnist_reads_packed_and_plain_files(digits):
    images, labels, test_images, test_labels = mnist.mnist(digits)
    assert images.shape == (40, 28, 28) and test_images.shape == (20, 28, 28)
    assert labels.shape == (40,) and test_labels.max() < 10
    want = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    np.testing.assert_array_equal(images, want)


def test_mnist_refuses_another_file(digits):
    (digits / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\x05")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is not the original"):
        mnist.mnist(digits)


def test_mnist_downloads_what_is_missing(digits, monkeypatch):
    labels = digits / "t10k-labels-idx1-ubyte.gz"
    content = labels.read_bytes()
    labels.unlink()
    asked = []
    monkeypatch.setattr(mnist, "_downloaded", lambda name, folder: asked.append(name) or content)
    mnist.mnist(digits)
    assert asked == ["t10k-labels-idx1-ubyte.gz"] and labels.read_bytes() == content
    labels.unlink()
    monkeypatch.setattr(mnist, "_downloaded", lambda name, folder: gzip.compress(b"else"))
    with pytest.raises(ValueError, match="not the original"):
        mnist.mnist(digits)
    assert not labels.exists()


def test_a_run_in_pieces_is_the_run_in_one(digits, tmp_path, monkeypatch):
    whole = train.train(settings(), tmp_path / "whole", data=digits)
    step = training._step

    def until_the_seventh(run, *arguments):  # time is over in the middle of an epoch
        step(run, *arguments)
        if run.step == 7:
            patch.setattr(training.time, "monotonic", lambda: 1e9)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_step", until_the_seventh)
        stopped = train.train(settings(), tmp_path / "pieces", minutes=60, data=digits)
    assert stopped.step == 7 and len(stopped.log) == 1
    torch.manual_seed(99)
    resumed = train.train(settings(), tmp_path / "pieces", data=digits)
    assert [x["loss"] for x in resumed.log] == [x["loss"] for x in whole.log]
    for x, y in zip(resumed.model.parameters(), whole.model.parameters()):
        assert torch.equal(x, y)
    lines = (tmp_path / "pieces" / "smnist-s4d-3.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["seed"] == 3 and len(lines) == 4


def test_a_run_does_not_go_on_with_other_settings(digits, tmp_path):
    train.train(settings(epochs=1), tmp_path / "runs", data=digits)
    with pytest.raises(ValueError, match=r"other settings .*'width': \(8, 16\)"):
        train.train(settings(epochs=1, width=16), tmp_path / "runs", data=digits)


def test_drawing_and_collecting(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(results.record, "RESULTS", tmp_path / "results")
    train.train(settings(task="drawing", epochs=1, model="s4"), tmp_path / "runs", data=digits)
    results.collect(argparse.Namespace(task="drawing", folder=tmp_path / "runs"))
    monkeypatch.setattr(results, "GIVEN", 780)
    results.draw(argparse.Namespace(state=tmp_path / "runs" / "drawing-s4-3.pt", data=digits))
    (path,) = (tmp_path / "results").glob("s4-digits-*.json")
    drawn = json.loads(path.read_text(encoding="utf-8"))
    images = mnist.mnist(digits)[2].reshape(20, 784)
    assert [bytes.fromhex(x) for x in drawn["originals"]] == [bytes(x) for x in images]
    assert {len(bytes.fromhex(x)) for x in drawn["completed"]} == {784 - 780}
    assert drawn["difference"] < 1e-4
    (path,) = (tmp_path / "results").glob("s4-drawing-*.json")
    (run,) = json.loads(path.read_text(encoding="utf-8"))["runs"]
    assert run["model"] == "s4" and len(run["log"]) == 1


def test_networks_have_one_size():
    sizes = {name: networks.parameters(networks.network(
        name, 10, width=32, layers=2, dropout=0.1, pool=True, length=100))
        for name in networks.NETWORKS}
    assert max(sizes.values()) < 1.3 * min(sizes.values()), sizes


@pytest.mark.parametrize("stretch", [1.0, 3.0])
def test_random_matrix_is_what_it_says(stretch):
    """Its kernel is that of a dense matrix whose symmetric part is -1/2 - P Pᵀ."""
    torch.manual_seed(0)
    layer = networks.random_s4(1, 6, stretch).double().requires_grad_(False)
    Lambda = torch.complex(-layer.log_decay.exp(), layer.frequency)
    P, B, C = (torch.view_as_complex(x) for x in (layer.P[:, 0], layer.B, layer.C[0]))
    Lambda, P, B, C = (torch.cat([x[0], x[0].conj()]) for x in (Lambda, P, B, C))
    A = torch.diag(Lambda) - torch.outer(P, P.conj())
    unit = torch.eye(6, dtype=A.dtype)
    assert (A + A.mH + unit + 2 * torch.outer(P, P.conj())).abs().max() < 1e-7  # float32 parameters
    dt = layer.log_dt.exp().item()
    left = torch.linalg.inv(unit - dt / 2 * A)
    state, want = left @ (dt * B), []
    for _ in range(50):
        want.append((C @ state).real)
        state = left @ (unit + dt / 2 * A) @ state
    torch.testing.assert_close(layer.kernel(50)[0], torch.stack(want), rtol=1e-9, atol=1e-12)


def test_delay_is_a_delay():
    task = tasks.Delay(settings(task="delay", model="legt", width=1), "cpu", None)
    (first,), (again,) = next(task.epoch(0)), next(task.epoch(0))
    assert torch.equal(first, again) and not torch.equal(first, *next(task.epoch(1)))
    late = lambda u: u.roll(task.LAG, 1)
    assert task.loss(late, (first,)).item() == 0
    nothing = torch.zeros_like
    assert abs(task.loss(nothing, (first,)).item() - 1) < 0.1
