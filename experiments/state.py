"""Does a larger state pay? Recall with Mamba's block and with Mamba-2's, and states of several sizes.

``python -m experiments.state`` trains one block of each kind to say which value came with a key
(:func:`ssm_book.data.associative_recall`: 16 pairs from a vocabulary of 64, then 8 keys), with n = 4,
16 and 64 states a channel and three seeds, and writes ``experiments/results/state-cpu.json`` for the
chapter on state space duality. All networks have about as many parameters: a larger n costs
parameters, and the width of the network is what gives way. All see the same sequences, in as many
updates, at one learning rate (a third of it was worse for the four networks with which it was tried).
Mamba with n = 16 and 64 and Mamba-2 with n = 4 also run four times as long. It takes some fifteen
minutes on one quiet core.
"""

from __future__ import annotations

import math
import pathlib
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import record
from ssm_book.data import associative_recall
from ssm_core.mamba import Mamba
from ssm_core.optim import parameter_groups
from ssm_core.ssd import ssd_fn

RESULTS = pathlib.Path(__file__).parent / "results"
PAIRS, VOCABULARY, QUERIES = 16, 64, 8
PARAMETERS = 19_000  # of a network, within 5 percent
STATES = (4, 16, 64)
RATE = 0.015
UPDATES, BATCH = 600, 32
LONGER = 2400  # updates of those that have not learned the task by then
NOT_YET = (("mamba", 16), ("mamba", 64), ("mamba2", 4))
HEAD = 8  # channels of a head of Mamba-2


class Mamba2(nn.Module):
    """The block of Mamba-2 with one group: all projections at once, a scalar decay a head, a gated norm."""

    no_weight_decay = ("A_log", "D")

    def __init__(self, d_model, n, p=HEAD, taps=4):
        super().__init__()
        d = 2 * d_model
        h = d // p
        self.sizes, self.split = (h, p, n), [d, d + 2 * n, h]
        self.in_proj = nn.Linear(d_model, sum(self.split), bias=False)
        self.conv1d = nn.Conv1d(d + 2 * n, d + 2 * n, taps, groups=d + 2 * n, padding=taps - 1)
        self.A_log = nn.Parameter(torch.empty(h).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(h))
        dt = 10 ** torch.empty(h).uniform_(-3, -1)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.norm = nn.Parameter(torch.ones(d))
        self.out_proj = nn.Linear(d, d_model, bias=False)

    def forward(self, hidden):
        h, p, n = self.sizes
        z, mixed, dt = self.in_proj(hidden).split(self.split, dim=-1)
        mixed = functional.silu(self.conv1d(mixed.mT)[..., : hidden.shape[1]].mT)
        x, B, C = mixed.split([h * p, n, n], dim=-1)
        y = ssd_fn(
            x.unflatten(-1, (h, p)),
            dt,
            -torch.exp(self.A_log),
            B[:, :, None],
            C[:, :, None],
            D=self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            chunk_size=64,
        ).flatten(-2)
        y = y * functional.silu(z)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5) * self.norm
        return self.out_proj(y)


class Network(nn.Module):
    """Tokens, one block with a norm before it and a path around it, a norm, logits."""

    def __init__(self, kind, d_model, n):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, d_model)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.before, self.after = nn.RMSNorm(d_model), nn.RMSNorm(d_model)
        self.block = Mamba2(d_model, n) if kind == "mamba2" else Mamba(d_model, d_state=n)

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        hidden = self.after(hidden + self.block(self.before(hidden)))
        return hidden @ self.embedding.weight.T


def size(model):
    return sum(p.numel() for p in model.parameters())


def width(kind, n):
    """The width at which a network comes closest to the number of parameters."""
    widths = range(8, 100, HEAD // 2 if kind == "mamba2" else 1)
    with torch.device("meta"):
        return min(widths, key=lambda d: abs(size(Network(kind, d, n)) - PARAMETERS))


def batch(rows, seed):
    task = associative_recall(rows, PAIRS, VOCABULARY, QUERIES, seed)
    return [torch.from_numpy(x) for x in task]


@torch.no_grad()
def accuracy(model):
    inputs, targets = batch(500, 1234)
    return (model(inputs)[:, -QUERIES:].argmax(-1) == targets).float().mean().item()


def study(kind, n, seed, rate=RATE, updates=UPDATES, points=15):
    """Train one network; what it is, and the share of values that are right during training."""
    torch.manual_seed(seed)
    d_model = width(kind, n)
    model, rng = Network(kind, d_model, n), np.random.default_rng(seed)
    optimizer = torch.optim.Adam(parameter_groups(model, lr=rate))
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=updates, pct_start=0.1
    )
    curve = []
    for update in range(updates):
        if update % math.ceil(updates / points) == 0:
            curve.append(round(accuracy(model), 4))
        inputs, targets = batch(BATCH, rng)
        loss = functional.cross_entropy(model(inputs)[:, -QUERIES:].mT, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return {
        "model": kind,
        "n": n,
        "seed": seed,
        "rate": rate,
        "updates": updates,
        "d_model": d_model,
        "parameters": size(model),
        "state": 2 * d_model * n,
        "curve": [*curve, round(accuracy(model), 4)],
    }


def main() -> None:
    torch.set_num_threads(1)
    runs, start = [], time.perf_counter()
    plan = [(kind, n, UPDATES) for kind in ("mamba", "mamba2") for n in STATES]
    plan += [(kind, n, LONGER) for kind, n in NOT_YET]
    for seed in range(3):
        for kind, n, updates in plan:
            run = study(kind, n, seed, updates=updates)
            runs.append(run)
            print(
                f"{time.perf_counter() - start:5.0f} s",
                kind,
                n,
                updates,
                run["curve"][-1],
                flush=True,
            )
    setup = {
        "device": "cpu",
        "task": f"{PAIRS} pairs from a vocabulary of {VOCABULARY}, {QUERIES} keys asked for",
        "optimizer": "Adam, one cycle of the learning rate, gradient clipped to norm 1",
        "updates": [UPDATES, LONGER],
        "batch": BATCH,
        "head": HEAD,
    }
    results = {"machine": record.machine(), "software": record.software()}
    print(record.write("state", {**results, "setup": setup, "runs": runs}, "cpu", RESULTS))


if __name__ == "__main__":
    main()
