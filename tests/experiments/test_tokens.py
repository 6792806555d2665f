"""The studies on tokens: what is drawn, what is measured, and how networks go on."""

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments import attention, collect, harness, lengths, networks, sequences
from experiments.__main__ import main
from experiments.settings import DEFAULTS, settings
from experiments.tasks import base, make_task
from ssm_book import data

TASKS = "copying", "induction", "recall", "char"
SMALL = {
    "epochs": 2,
    "every": 2,
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


def small(task="induction", model="mamba", **changes):
    """A small task on a CPU."""
    length = {"length": 1000} if task == "char" else {}  # few windows of a long text
    return make_task(settings(task, model, 3, SMALL | length | changes), "cpu")


# what is drawn


def answers_of_copying(inputs, length, vocab):
    """The answers, from the inputs alone; nothing else may stand there."""
    body, markers = inputs[:, :length], inputs[:, length:]
    assert (markers == vocab - 1).all() and body.max() < vocab - 1 and body.min() == 0
    return np.array([row[row > 0] for row in body])


def answers_of_induction(inputs, vocab):
    assert inputs.min() == 0 and ((inputs == vocab - 1).sum(1) == 2).all()
    assert (inputs[:, -1] == vocab - 1).all()
    return inputs[np.arange(len(inputs)), inputs.argmax(1) + 1][:, None]


def answers_of_recall(inputs, pairs, vocab):
    keys, values = inputs[:, : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2]
    assert keys.max() < vocab // 2 <= values.min()
    return np.array(
        [
            [dict(zip(key, value))[x] for x in row]  # a key that came twice would be lost
            for key, value, row in zip(keys, values, inputs[:, 2 * pairs :])
        ]
    )


CASES = {
    "selective_copying": ((20, 5, 8), lambda x: answers_of_copying(x, 20, 8)),
    "induction_heads": ((12, 8), lambda x: answers_of_induction(x, 8)),
    "associative_recall": ((5, 16, 3), lambda x: answers_of_recall(x, 5, 16)),
}


@pytest.mark.parametrize("name", CASES)
def test_sequences_are_those_of_the_library(name):
    """Both keep the definition, and each token is as frequent at each place."""
    sizes, answers = CASES[name]
    count = 20_000
    ours = getattr(sequences, name)(count, *sizes, sequences.generator("cpu", 1))
    library = getattr(data, name)(count, *sizes, seed=0)
    for inputs, targets in ([x.numpy() for x in ours], library):
        np.testing.assert_array_equal(answers(inputs), targets)
    for one, other in zip(ours, library):
        assert one.shape == other.shape and one.dtype == torch.int64
        for token in range(one.max() + 1):
            shares = [(np.asarray(x) == token).mean(0) for x in (one, other)]
            np.testing.assert_allclose(*shares, atol=6 * (0.5 / count) ** 0.5)  # six deviations
    if name == "associative_recall":
        assert all(len(set(row)) == 5 for row in ours[0][:, :10:2].tolist())


def test_a_batch_depends_on_seed_and_number_alone():
    task = small(every=5)
    one, other = list(task.epoch(1)), list(task.epoch(1))
    assert len(one) == 5 and one[0][0].shape == (4, 24) and one[0][1].shape == (4, 1)
    assert all(torch.equal(x, y) for a, b in zip(one, other) for x, y in zip(a, b))
    assert not torch.equal(one[0][0], one[1][0])
    assert not torch.equal(one[0][0], next(iter(task.epoch(2)))[0])
    changed = make_task(dataclasses.replace(task.settings, seed=4), "cpu")
    assert not torch.equal(one[0][0], next(iter(changed.epoch(1)))[0])


def test_pools_of_batches(monkeypatch):
    monkeypatch.setattr(base, "POOL", 2 * 4 * 24)
    batches = list(small("copying", every=5).epoch(0))
    assert len(batches) == 5
    assert len({tuple(x.flatten().tolist()) for x, _ in batches}) == 5


def test_the_length_doubles_in_the_first_two_thirds():
    task = small("copying", epochs=18, every=1, length=128, doublings=2)
    lengths = [next(iter(task.epoch(number)))[0].shape[1] - task.TOKENS for number in range(18)]
    assert lengths == [32] * 6 + [64] * 6 + [128] * 6
    assert task.test[0].shape[1] == 128 + task.TOKENS  # measured at full length all along
    assert small("copying", length=100).length(0) == 100


# what is measured


class Says(torch.nn.Module):
    """Always the same answers."""

    def __init__(self, *tokens, vocab=16):
        super().__init__()
        self.row = torch.nn.functional.one_hot(torch.tensor(tokens), vocab).float()

    def forward(self, tokens, state=None, *, last=0, return_state=False):
        logits = self.row.expand(len(tokens), -1, -1)[:, -last:]
        return (logits, state) if return_state else logits


def test_accuracy_is_the_share_of_right_answers():
    task = small("copying")
    inputs = torch.zeros(3, 27, dtype=torch.int64)
    targets = torch.tensor([[1, 2, 3], [1, 5, 5], [6, 6, 6]])
    assert task.accuracy(Says(1, 2, 3), inputs, targets) == pytest.approx(4 / 9)
    assert task.accuracy(Says(1, 2, 3), inputs, targets, piece=5) == pytest.approx(4 / 9)


def test_bits_are_those_of_the_text():
    task = small("char", length=100)
    even = lambda tokens, last: torch.zeros(*tokens.shape, task.VOCAB)
    assert task.measure(even)["bits_per_character"] == pytest.approx(np.log2(task.VOCAB), rel=1e-6)
    inputs, targets = next(iter(task.epoch(0)))
    assert torch.equal(inputs[:, 1:], targets[:, :-1]) and inputs.shape == (4, 100)
    spells = lambda tokens, last: (  # the right letter, always: every window is in line
        10 * torch.nn.functional.one_hot(task.test[place(tokens) + 1], task.VOCAB).float()
    )

    def place(tokens):
        starts = (task.test.unfold(0, 100, 100)[:, None] == tokens).all(-1).int().argmax(0)
        return 100 * starts[:, None] + torch.arange(100)

    assert task.measure(spells)["bits_per_character"] < 0.01


# the networks


def test_networks_have_one_size():
    for vocab, width, layers in ((16, 64, 2), (75, 128, 4)):
        sizes = [
            networks.parameters(networks.of_tokens(name, vocab, width=width, layers=layers))
            for name in networks.OF_TOKENS
        ]
        assert max(sizes) < 1.08 * min(sizes), sizes


@pytest.mark.parametrize("model", networks.OF_TOKENS)
@pytest.mark.parametrize("task", TASKS)
def test_every_network_takes_a_step(task, model, tmp_path):
    run = harness.train(small(task, model, epochs=1, every=1), tmp_path)
    assert run.step == 1 and len(run.log) == 1
    assert all(p.grad is not None and p.grad.isfinite().all() for p in run.model.parameters())


@pytest.mark.parametrize("model", networks.OF_TOKENS)
def test_networks_are_causal(model):
    torch.manual_seed(0)
    network = networks.of_tokens(model, 16, width=32, layers=2).eval()
    tokens = torch.randint(0, 16, (2, 30))
    later = tokens.clone()
    later[:, 20:] = 0
    with torch.no_grad():
        one, other = network(tokens), network(later)
    torch.testing.assert_close(one[:, :20], other[:, :20], rtol=0, atol=1e-5)
    assert (one[:, 20:] - other[:, 20:]).abs().max() > 1e-3


@pytest.mark.parametrize("model", [x for x in networks.OF_TOKENS if x != "transformer"])
def test_pieces_are_the_whole(model):
    torch.manual_seed(0)
    network = networks.of_tokens(model, 16, width=32, layers=2).eval()
    tokens, state, pieces = torch.randint(0, 16, (2, 300)), None, []
    with torch.no_grad():
        whole = network(tokens)
        for part in tokens.split(110, dim=1):
            logits, state = network(part, state, return_state=True)
            pieces.append(logits)
        last = network(tokens, last=7)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=2e-5)
    torch.testing.assert_close(last, whole[:, -7:], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("L", "chunk"), [(1, 8), (8, 8), (37, 8), (37, 1), (37, 64)])
def test_linear_attention_is_its_quadratic_definition(L, chunk):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, L, 6, dtype=torch.float64, generator=generator)
    start = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=generator)
    want = torch.einsum("bhte,bhse,bhsf,ts->bhtf", q, k, v, torch.ones(L, L).tril().double())
    y, state = attention.causal_product(q, k, v, chunk=chunk)
    torch.testing.assert_close(y, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, torch.einsum("bhse,bhsf->bhef", k, v))
    y, _ = attention.causal_product(q, k, v, start, chunk=chunk)
    torch.testing.assert_close(y, want + q @ start, rtol=1e-12, atol=1e-12)


def test_linear_attention_is_a_weighted_mean():
    q, k, v = torch.randn(3, 1, 2, 50, 6, dtype=torch.float64)
    turns = attention.rotations(10, 50, 6, "cpu")
    y, _ = attention.linear_attention(q, k, v, turns, None)
    f = lambda x: torch.nn.functional.elu(x) + 1
    weight = (attention.turned(f(q), turns) @ attention.turned(f(k), turns).mT).tril()
    weight = weight / (f(q) @ f(k).mT).tril().sum(-1, keepdim=True)
    torch.testing.assert_close(y, weight @ v)


def test_rotary_positions_are_relative():
    q, k = torch.randn(2, 1, 1, 1, 32)

    def product(at, before):
        return (
            attention.turned(q, attention.rotations(at, 1, 32, "cpu"))
            * attention.turned(k, attention.rotations(before, 1, 32, "cpu"))
        ).sum()

    torch.testing.assert_close(product(2**20, 2**20 - 5), product(5, 0), rtol=1e-5, atol=1e-5)
    assert abs(product(5, 0) - product(6, 0)) > 1e-3


# the commands


def test_lengths_and_collecting(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collect, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(lengths, "TESTED", 8)
    monkeypatch.setattr(lengths, "PIECE", 100)
    run = harness.train(small(), tmp_path)
    state = tmp_path / f"{run.settings.name}.pt"
    for longest in ("128", "256"):
        main(["lengths", str(state), "--longest", longest])
    assert capsys.readouterr().out.count(run.settings.name) == 2 + 3  # epochs, lengths
    main(["collect", "induction", "--folder", str(tmp_path)])
    path = tmp_path / "results" / "induction-cpu.json"
    assert capsys.readouterr().out.strip() == str(path)
    (stored,) = json.loads(path.read_text(encoding="utf-8"))["runs"]
    assert list(stored["lengths"]) == ["64", "128", "256"] and len(stored["log"]) == 2
    assert stored["parameters"] == networks.parameters(run.model) and stored["steps"] == 4


def test_the_command_trains(tmp_path):
    main(
        [
            "train",
            "recall",
            "lstm",
            "--seeds",
            "0",
            "1",
            "--folder",
            str(tmp_path),
            *(word for name, value in SMALL.items() for word in (f"--{name}", str(value))),
        ]
    )
    assert sorted(x.name for x in tmp_path.glob("*.pt")) == ["recall-lstm-0.pt", "recall-lstm-1.pt"]


def test_options_that_a_task_does_not_have_are_refused(tmp_path):
    for task, option in (("recall", "dropout"), ("delay", "layers"), ("smnist", "length")):
        assert option not in DEFAULTS[task]
        model = "legt" if task == "delay" else "lstm"
        with pytest.raises(SystemExit, match=f"{task} has no option {option}, only"):
            main(["train", task, model, "--folder", str(tmp_path), f"--{option}", "1"])
    with pytest.raises(SystemExit, match="model is 'legt', expected one of s4, s4d, random"):
        main(["train", "drawing", "legt", "--folder", str(tmp_path)])
    assert not list(tmp_path.iterdir())
