"""Four small data sets of the UCR and UEA archives: networks of S4D and Mamba, an LSTM, MiniRocket.

Accuracy on the archive's test split, and seconds of CPU time for training on one thread. One
setting for all data sets, chosen before the test sets were looked at: two blocks of 64 channels,
300 updates of 16 sequences. The networks end with their last update; no test accuracy decides
anything.

The data are the files inside the package ``aeon`` (BSD 3-Clause), which has MiniRocket as well:
``pip install aeon``. Nothing of them is stored here. JapaneseVowels comes from the UCI repository
(CC BY 4.0); the archives state no licence for the other three.

Sources: Dempster, Schmidt and Webb, "MiniRocket: A Very Fast (Almost) Deterministic Transform for
Time Series Classification" (2021); Dau and others, "The UCR Time Series Archive" (2019).
"""

import statistics
import time

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ssm_core.mamba import Mamba
from ssm_core.network import SequenceModel
from ssm_core.optim import parameter_groups
from ssm_core.s4 import S4D

DATA = {"BasicMotions": 3, "JapaneseVowels": 3, "OSULeaf": 1, "ACSF1": 1}  # seeds of the networks
WIDTH, LAYERS, DROPOUT = 64, 2, 0.1
UPDATES, BATCH, RATE, DECAY = 300, 16, 0.01, 0.05


def run():
    """Train every contender on every data set; print each result as it comes."""
    torch.set_num_threads(1)
    rows = []
    for name, seeds in DATA.items():
        train, test = load(name)
        d_input, classes = train[0].shape[-1], len(set(train[2].tolist()))
        rows.append(
            {
                "data": name,
                "train": len(train[0]),
                "test": len(test[0]),
                "lengths": [int(train[1].min()), int(train[1].max())],
                "channels": d_input,
                "classes": classes,
                "contenders": {
                    "minirocket": minirocket(name),
                    **{
                        kind: _summary(
                            [learn(kind, train, test, classes, seed) for seed in range(seeds)]
                        )
                        for kind in NETWORKS
                    },
                },
            }
        )
        for kind, found in rows[-1]["contenders"].items():
            accuracy = ", ".join(f"{x:.3f}" for x in found["accuracy"])
            print(f"  {name:15} {kind:12} {accuracy:22} {found['cpu_seconds']:8.1f} s", flush=True)
    return {
        "setup": {
            "width": WIDTH,
            "layers": LAYERS,
            "dropout": DROPOUT,
            "updates": UPDATES,
            "batch": BATCH,
            "lr": RATE,
            "weight_decay": DECAY,
            "threads": 1,
        },
        "rows": rows,
    }


def load(name):
    """(signals (b, L, channels) with zeros behind, lengths (b,), labels (b,)), for both splits.

    Each channel is standardized by the mean and the deviation of all training samples.
    """
    splits = [_raw(name, split) for split in ("train", "test")]
    samples = np.concatenate([x.T for x in splits[0][0]])
    mean, deviation = samples.mean(0), samples.std(0)
    names = sorted(set(splits[0][1]))
    found = []
    for signals, labels in splits:
        sequences = [torch.from_numpy((x.T - mean) / deviation).float() for x in signals]
        found.append(
            (
                nn.utils.rnn.pad_sequence(sequences, batch_first=True),
                torch.tensor([len(x) for x in sequences]),
                torch.tensor([names.index(label) for label in labels]),
            )
        )
    return found


def _raw(name, split):
    """Signals, each (channels, L), and labels; of the files in the package, which downloads others."""
    from aeon.datasets import load_classification

    return load_classification(name, split=split, load_equal_length=False)


# --- networks -------------------------------------------------------------------------------------


def network(ssm):
    """What makes a network of so many inputs and classes; 64 states in S4D, 16 in Mamba."""
    return lambda d_input, classes: SequenceModel(
        d_input, classes, d_model=WIDTH, n_layers=LAYERS, ssm=ssm, dropout=DROPOUT, pool=True
    )


class LSTM(nn.Module):
    """A layer of 100 units, of about as many parameters, and the mean over time of its outputs."""

    def __init__(self, d_input, classes):
        super().__init__()
        self.lstm = nn.LSTM(d_input, 100, batch_first=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.decoder = nn.Linear(100, classes)

    def forward(self, u, *, lengths):
        inside = (torch.arange(u.shape[1]) < lengths[:, None])[..., None]
        mean = (self.lstm(u)[0] * inside).sum(1) / lengths[:, None]
        return self.decoder(self.dropout(mean))


NETWORKS = {"s4d": network(S4D), "mamba": network(Mamba), "lstm": LSTM}


def learn(kind, train, test, classes, seed):
    """Accuracy on the test split, CPU seconds of training, parameters."""
    torch.manual_seed(seed)
    signals, lengths, labels = train
    model = NETWORKS[kind](signals.shape[-1], classes)
    model(signals[:2], lengths=lengths[:2]).sum().backward()  # what is compiled is compiled now
    groups = parameter_groups(model, lr=RATE, weight_decay=DECAY)
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=UPDATES
    )
    start, order = time.process_time(), torch.empty(0, dtype=torch.int64)
    for _ in range(UPDATES):
        if len(order) < min(BATCH, len(signals)):
            order = torch.randperm(len(signals))
        rows, order = order[:BATCH], order[BATCH:]
        longest = int(lengths[rows].max())
        loss = cross_entropy(model(signals[rows, :longest], lengths=lengths[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - start
    model.eval()
    with torch.no_grad():
        guesses = torch.cat([model(u, lengths=n).argmax(-1) for u, n in _pieces(test)])
    return {
        "accuracy": (guesses == test[2]).float().mean().item(),
        "cpu_seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _pieces(test, size=50):
    for u, n in zip(test[0].split(size), test[1].split(size)):
        yield u[:, : int(n.max())], n


def _summary(runs):
    return {
        "accuracy": [run["accuracy"] for run in runs],
        "cpu_seconds": statistics.median(run["cpu_seconds"] for run in runs),
        "parameters": runs[0]["parameters"],
    }


# --- MiniRocket -----------------------------------------------------------------------------------


def minirocket(name):
    """10,000 features of fixed convolutions, and a ridge classifier on them."""
    from aeon.classification.convolution_based import MiniRocketClassifier

    (train, labels), (test, truth) = (_raw(name, split) for split in ("train", "test"))
    longest = max(x.shape[-1] for x in (*train, *test))
    train, test = (_padded(signals, longest) for signals in (train, test))
    MiniRocketClassifier(random_state=1).fit(train, labels)  # what is compiled is compiled now
    start = time.process_time()
    classifier = MiniRocketClassifier(random_state=0).fit(train, labels)
    seconds = time.process_time() - start
    return {"accuracy": [float((classifier.predict(test) == truth).mean())], "cpu_seconds": seconds}


def _padded(signals, L):
    """Signals (b, channels, L) with zeros behind: MiniRocket takes no others."""
    return np.stack([np.pad(x, ((0, 0), (0, L - x.shape[-1]))) for x in signals])
