"""The studies on signals: what is read, what is trained on, and what is written."""

import gzip
import hashlib
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments import collect, drawing, harness, mnist, networks
from experiments.__main__ import main
from experiments.settings import settings
from experiments.tasks import make_task


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


SMALL = {"epochs": 1, "width": 8, "layers": 1, "batch": 8}


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


def test_a_run_on_digits_goes_on_to_the_same_numbers(digits, tmp_path, monkeypatch):
    """Within an epoch, of which the order of the images and the channels dropped are random."""
    sizes = SMALL | {"epochs": 3, "dropout": 0.2}
    task = make_task(settings("smnist", "s4d", 3, sizes), "cpu", digits)
    whole = harness.train(task, tmp_path / "whole")
    step = harness._step

    def until_the_seventh(run, batch):  # then time is over
        step(run, batch)
        if run.step == 7:
            patch.setattr(harness.time, "monotonic", lambda: 1e9)

    with monkeypatch.context() as patch:
        patch.setattr(harness, "_step", until_the_seventh)
        stopped = harness.train(task, tmp_path / "pieces", minutes=60)
    assert stopped.step == 7 and len(stopped.log) == 1
    torch.manual_seed(99)
    resumed = harness.train(task, tmp_path / "pieces")
    assert [x["loss"] for x in resumed.log] == [x["loss"] for x in whole.log]
    for x, y in zip(resumed.model.parameters(), whole.model.parameters()):
        assert torch.equal(x, y)


def test_drawing_and_collecting(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "RESULTS", tmp_path / "results")
    folder = tmp_path / "runs"
    harness.train(make_task(settings("drawing", "s4", 3, SMALL), "cpu", digits), folder)
    main(["collect", "drawing", "--folder", str(folder)])
    monkeypatch.setattr(drawing, "GIVEN", 780)
    main(["draw", str(folder / "drawing-s4-3.pt"), "--data", str(digits)])
    drawn = json.loads((tmp_path / "results" / "digits-cpu.json").read_text(encoding="utf-8"))
    images = mnist.mnist(digits)[2].reshape(20, 784)
    assert [bytes.fromhex(x) for x in drawn["originals"]] == [bytes(x) for x in images]
    assert {len(bytes.fromhex(x)) for x in drawn["completed"]} == {784 - 780}
    assert drawn["difference"] < 1e-4
    (run,) = json.loads((tmp_path / "results" / "drawing-cpu.json").read_text(encoding="utf-8"))[
        "runs"
    ]
    assert run["model"] == "s4" and len(run["log"]) == 1 and run["steps"] == 5


def test_networks_have_one_size():
    sizes = {
        name: networks.parameters(
            networks.of_signals(name, 10, width=32, layers=2, dropout=0.1, pool=True, length=100)
        )
        for name in networks.OF_SIGNALS
    }
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
    task = make_task(settings("delay", "legt", 3, {"width": 1}), "cpu")
    (first,), (again,) = next(task.epoch(0)), next(task.epoch(0))
    assert torch.equal(first, again) and not torch.equal(first, *next(task.epoch(1)))
    assert task.loss(lambda u: u.roll(task.LAG, 1), (first,)).item() == 0
    assert abs(task.loss(torch.zeros_like, (first,)).item() - 1) < 0.1


def test_every_model_takes_a_step_of_the_delay(tmp_path):
    small = {"epochs": 1, "every": 1, "batch": 1, "width": 1}
    for model in networks.DelayLine.MODELS:
        run = harness.train(make_task(settings("delay", model, 0, small), "cpu"), tmp_path)
        assert run.step == 1 and run.log[0]["error"] > 0
