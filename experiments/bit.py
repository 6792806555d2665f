"""One bit, some noise, one question: how long may the gap be for a small network to learn it?

``python -m experiments.bit`` trains five small recurrent networks on :func:`recall` with several
lags, seeds and budgets, and writes ``experiments/results/bit-cpu.json`` for the chapter on recurrent
networks. It takes some twenty minutes on one core. All networks see the same sequences, and a longer
budget goes on from where a shorter one ended.
"""

from __future__ import annotations

import pathlib

import torch

from benchmarks import record

WIDTH = 16
LAGS = (8, 16, 32, 64)
SEEDS = tuple(range(8))
BUDGETS = (200, 800, 3200)  # updates
BATCH = 32
RATE = 3e-3
RESULTS = pathlib.Path(__file__).parent / "results"


class Linear(torch.nn.RNN):
    """``torch.nn.RNN`` with the same parameters and without the tanh."""

    def forward(self, u):
        drive = u @ self.weight_ih_l0.T + self.bias_ih_l0 + self.bias_hh_l0  # (b, L, N)
        h, states = torch.zeros_like(drive[:, 0]), []
        for drive_k in drive.unbind(1):
            h = torch.addmm(drive_k, h, self.weight_hh_l0.T)
            states.append(h)
        return torch.stack(states, 1), h[None]


def tanh():
    return torch.nn.RNN(1, WIDTH, batch_first=True)


def linear():
    return Linear(1, WIDTH, batch_first=True)


def linear_orthogonal():
    cell = linear()
    torch.nn.init.orthogonal_(cell.weight_hh_l0)
    return cell


def lstm():
    return torch.nn.LSTM(1, WIDTH, batch_first=True)


def lstm_open():
    cell = lstm()
    torch.nn.init.constant_(cell.bias_hh_l0[WIDTH : 2 * WIDTH], 4.0)
    return cell


CELLS = {
    "tanh": tanh,
    "linear": linear,
    "linear, orthogonal": linear_orthogonal,
    "LSTM": lstm,
    "LSTM, bias 4": lstm_open,
}


def recall(batch, lag, generator):
    """Sequences (batch, lag + 1, 1) that begin with a bit, +1 or -1, and the bits (batch,)."""
    bit = torch.randint(0, 2, (batch,), generator=generator).float()
    u = 0.3 * torch.randn(batch, lag + 1, 1, generator=generator)
    u[:, 0, 0] = 2 * bit - 1
    return u, bit


def study(name, lag, seed, budgets=BUDGETS):
    """Train one network.

    Returns:
        dict: mean |dy/du_0| before training, and the share of 1000 new bits that are right after
        each budget.
    """
    torch.manual_seed(seed)
    cell, readout = CELLS[name](), torch.nn.Linear(WIDTH, 1)
    weights = [*cell.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(weights, lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    tests, bits = recall(1000, lag, torch.Generator().manual_seed(10_000 + seed))

    def answer(u):
        return readout(cell(u)[0][:, -1])[:, 0]

    u = tests[:100].clone().requires_grad_()
    slope = torch.autograd.grad(answer(u).sum(), u)[0][:, 0].abs().mean().item()
    accuracy = []
    for update in range(1, max(budgets) + 1):
        u, bit = recall(BATCH, lag, generator)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(answer(u), bit)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if update in budgets:
            with torch.no_grad():
                right = ((answer(tests) > 0) == (bits > 0)).float().mean().item()
            accuracy.append(round(right, 4))
    return {"model": name, "lag": lag, "seed": seed, "slope": slope, "accuracy": accuracy}


def main() -> None:
    torch.set_num_threads(1)
    runs = []
    for name in CELLS:
        for lag in LAGS:
            runs += [study(name, lag, seed) for seed in SEEDS]
            print(name, lag, [run["accuracy"] for run in runs[-len(SEEDS) :]], flush=True)
    setup = {
        "device": "CPU",
        "width": WIDTH,
        "batch": BATCH,
        "optimizer": f"Adam, rate {RATE}, gradient clipped to norm 1",
        "budgets": BUDGETS,
    }
    results = {"machine": record.machine(), "software": record.software()}
    print(record.write("bit", {**results, "setup": setup, "runs": runs}, "cpu", RESULTS))


if __name__ == "__main__":
    main()
