"""What each part of the Mamba block is worth: take it out, train anew, compare.

``python -m experiments ablate`` trains on two small tasks, on a CPU, with three seeds each:

- letters: selective copying of two letters among 32 positions. One block of width 32 with 8 states
  in each of 64 channels, 300 updates of 16 sequences; the share of right answers on 400 new
  sequences. S4D of about the same size runs the same course. S4D, and blocks in which one of Δ, B
  and C or none depends on the sample, also run five times as long, and those with Δ or nothing, and
  S4D, with a third and three times the learning rate.
- text: the next letter of Pride and Prejudice. Two blocks of width 32 with 8 states in each of 64
  channels, 250 updates of 16 windows of 128 letters; bits a letter on 32,768 letters of its last
  tenth, in windows of 128.

All variants of a task have the same updates, batches and learning rates, and differ in the part that
is named; ``parameters`` says how many each has left. Models of letters that begin with a short memory (steps
from 0.1 to 1 in place of 0.001 to 0.1) are trained with and without the selection of Δ; of the first
it is also stored what they answer when Δ, B or C is replaced by its mean over all samples
(``frozen``), and of both the share of right answers when the letters are neighbours or at least 16
samples apart, on 4,000 sequences (``distance``).
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
from ssm_book import data
from ssm_core.mamba import MambaConfig, MambaLM
from ssm_core.optim import parameter_groups
from ssm_core.s4 import S4D, SequenceModel
from ssm_core.scan import selective_scan_fn

RESULTS = pathlib.Path(__file__).parent / "results"
LENGTH, LETTERS, VOCABULARY = 32, 2, 8  # of the task letters
WINDOW = 128  # of the task text
# An embedding of 0.02, as in published models, takes some seeds more than 300 updates to get going.
SIZES = {"d_model": 32, "ssm_cfg": {"d_state": 8}, "initializer_range": 0.3}
PARTS = {
    "whole": "nothing taken out",
    "silu": "no SiLU behind the convolution",
    "gate": "no output gate",
    "D": "no direct path",
    "conv": "no short convolution",
    "bottleneck": "a full matrix to Δ in place of two narrow ones",
    "bias": "the bias of Δ starts at 0: steps of 0.7 in all channels",
    "A": "all states of a channel start at A = -1",
    "delta": "Δ does not depend on the sample",
    "B": "B does not depend on the sample",
    "C": "C does not depend on the sample",
    "delta, B": "only C depends on the sample",
    "B, C": "only Δ depends on the sample",
    "delta, C": "only B depends on the sample",
    "delta, B, C": "nothing depends on the sample",
    "hold": "the zero-order hold in place of ΔB",
}
# "hold" is a loop over samples in Python
ONLY_LETTERS = "delta, B", "B, C", "delta, C", "delta, B, C", "hold"
SHORT = {"short memory": "whole", "short memory, delta": "delta"}  # names of runs: what is missing
OTHER_RUNS = (  # of the task letters: what is missing, name after a comma, updates, learning rate
    *((part, "longer", 1500, 0.01) for part in ("whole", *ONLY_LETTERS[:4])),
    *(
        (part, name, 300, lr)
        for part in ("B, C", "delta, B, C")
        for name, lr in (("slower", 0.003), ("faster", 0.03))
    ),
)
S4D_RUNS = (  # name, layers, scattered, updates, learning rate
    ("s4d, fixed places", 1, False, 300, 0.01),
    ("s4d, one layer", 1, True, 300, 0.01),
    ("s4d, two layers", 2, True, 300, 0.01),
    ("s4d, one layer, slower", 1, True, 300, 0.003),
    ("s4d, two layers, slower", 2, True, 300, 0.003),
    ("s4d, one layer, faster", 1, True, 300, 0.03),
    ("s4d, two layers, faster", 2, True, 300, 0.03),
    ("s4d, one layer, longer", 1, True, 1500, 0.01),
    ("s4d, two layers, longer", 2, True, 1500, 0.01),
)


class Ablated(nn.Module):
    """A Mamba block without one of its parts.

    Args:
        block: the block whose parameters are used.
        without: a key of :data:`PARTS`.
    """

    def __init__(self, block, without="whole"):
        super().__init__()
        self.block, self.without = block, without
        inner, n = block.A_log.shape
        gone = self.gone = [part for part in ("delta", "B", "C") if part in without.split(", ")]
        full = without == "bottleneck" or "delta" in gone
        self.sizes = [n, n] if full else [block.dt_rank, n, n]
        self.constants = nn.ParameterDict(
            {part: nn.Parameter(torch.randn(n)) for part in ("B", "C") if part in gone}
        )
        if without == "conv":
            block.conv1d = None
        elif without == "D":
            block.D = None
        elif without == "bias":
            nn.init.zeros_(block.dt_proj.bias)
        elif without == "A":
            nn.init.zeros_(block.A_log)
        elif without == "gate":
            block.in_proj = nn.Linear(block.d_model, inner, bias=False)
        narrow, *rest = block.x_proj.weight.detach().split([block.dt_rank, n, n])
        if without == "bottleneck":  # begins with the product of the two narrow matrices
            self.full = nn.Parameter(block.dt_proj.weight.detach() @ narrow)
        if full:
            block.x_proj.weight, block.dt_proj.weight = nn.Parameter(torch.cat(rest)), None
        if len(gone) == 3:
            block.x_proj = None

    def forward(self, hidden_states, cache=None, *, cu_seqlens=None):
        block, without = self.block, self.without
        x = block.in_proj(hidden_states).mT  # (b, channels, L)
        x, z = (x, None) if without == "gate" else x.chunk(2, dim=1)
        if without == "conv":
            u = functional.silu(x)
        else:
            padded = functional.pad(x, (block.d_conv - 1, 0))
            u = block.conv1d(padded)
            u = u if without == "silu" else functional.silu(u)
        if block.x_proj is None:
            B = C = None
        else:
            *narrow, B, C = (block.x_proj.weight @ u).split(self.sizes, dim=1)
        bias = block.dt_proj.bias
        if without == "bottleneck":
            delta = self.full @ u
        elif "delta" in self.gone:
            delta = torch.zeros_like(u)
        else:
            delta = block.dt_proj.weight @ narrow[0]
        B, C = (
            self.constants[part][:, None].expand(len(u), -1, u.shape[-1])
            if part in self.gone
            else selected
            for part, selected in (("B", B), ("C", C))
        )
        A = -torch.exp(block.A_log)
        if without == "hold":
            y = _held(u, functional.softplus(delta + bias[:, None]), A, B, C)
            y = (y + block.D[:, None] * u) * functional.silu(z)
        else:
            y = selective_scan_fn(
                u, delta, A, B, C, block.D, z, delta_bias=bias, delta_softplus=True
            )
        return block.out_proj(y.mT)


def _held(u, dt, A, B, C):
    """The scan with the exact hold, sample by sample."""
    state, y = 0.0, []
    for u_k, dt_k, B_k, C_k in zip(*(s.unbind(-1) for s in (u, dt, B, C))):
        exponent = dt_k[..., None] * A  # (b, d, n)
        take = torch.expm1(exponent) / A
        state = torch.exp(exponent) * state + take * u_k[..., None] * B_k[:, None]
        y.append((state * C_k[:, None]).sum(-1))
    return torch.stack(y, dim=-1)


def mamba(without, vocabulary, **sizes):
    """A language model whose blocks lack a part."""
    model = MambaLM(MambaConfig(vocab_size=vocabulary, **sizes))
    for layer in model.backbone.layers:
        layer.mixer = Ablated(layer.mixer, without)
    return model


class S4DTokens(SequenceModel):
    """S4D from tokens to logits."""

    def forward(self, tokens):
        return super().forward(functional.one_hot(tokens, VOCABULARY).float())


def s4d(width, layers):
    return S4DTokens(
        VOCABULARY, VOCABULARY, d_model=width, n_layers=layers, ssm=lambda d: S4D(d, d_state=16)
    )


def letters(rows, seed, scattered=True):
    """Sequences and answers of the first task."""
    task = data.selective_copying(rows, LENGTH, LETTERS, VOCABULARY, seed, scattered=scattered)
    return [torch.from_numpy(x) for x in task]


def answers(model, inputs):
    """The likeliest letter at each question."""
    return model(inputs)[:, -LETTERS:, 1 : VOCABULARY - 1].argmax(-1) + 1


@torch.no_grad()
def accuracy(model, scattered=True):
    inputs, targets = letters(400, 1234, scattered)
    return (answers(model, inputs) == targets).float().mean().item()


@torch.no_grad()
def by_distance(model):
    """Right answers on 4,000 sequences, by how far the two letters are apart."""
    inputs, targets = letters(4000, 99)
    right = (answers(model, inputs) == targets).float().mean(-1)
    place = torch.arange(inputs.shape[1]).expand_as(inputs)
    letter = (inputs > 0) & (inputs < VOCABULARY - 1)
    distance = (place[letter].view(-1, LETTERS) * torch.tensor([-1, 1])).sum(-1)
    near, far = right[distance == 1], right[distance >= LENGTH // 2]
    return {"neighbours": round(near.mean().item(), 4), "far apart": round(far.mean().item(), 4)}


def fit(model, loss, updates, lr, every=0, measure=None):
    """Adam with one cycle of the learning rate; what was measured on the way."""
    optimizer = torch.optim.Adam(parameter_groups(model, lr=lr))
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=updates, pct_start=0.1
    )
    curve = []
    for update in range(updates):
        if every and update % every == 0:
            curve.append(round(measure(model), 4))
        optimizer.zero_grad()
        loss(model).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return [*curve, round(measure(model), 4)]


def train_letters(make, seed, scattered=True, updates=300, lr=0.01):
    torch.manual_seed(seed)
    model, rng = make(), np.random.default_rng(seed)

    def loss(model):
        inputs, targets = letters(16, rng, scattered)
        return functional.cross_entropy(model(inputs)[:, -LETTERS:].mT, targets)

    def measure(model):
        return accuracy(model, scattered)

    return model, fit(model, loss, updates, lr, updates // 15, measure)


def train_text(make, seed, updates=250):
    torch.manual_seed(seed)
    model, rng = make(), np.random.default_rng(seed)
    text, test = (torch.from_numpy(data.novel(part)[0]) for part in ("train", "test"))
    test = test[: 256 * WINDOW + 1]
    inputs = test[:-1].view(256, WINDOW)
    targets = test[1:].view(256, WINDOW)

    def loss(model):
        start = torch.from_numpy(rng.integers(0, len(text) - WINDOW, (16, 1)))
        windows = text[start + torch.arange(WINDOW + 1)]
        return functional.cross_entropy(model(windows[:, :-1]).mT, windows[:, 1:])

    @torch.no_grad()
    def bits(model):
        parts = zip(inputs.split(32), targets.split(32))
        losses = [functional.cross_entropy(model(x).mT, y).item() for x, y in parts]
        return float(np.mean(losses)) / math.log(2)

    return model, fit(model, loss, updates, 0.01, 0, bits)


class Frozen(Ablated):
    """The whole block with Δ, B or C replaced by its mean over rows and samples."""

    def __init__(self, block, part, channels=None):
        super().__init__(block)
        self.part, self.channels = part, channels

    def forward(self, hidden_states, cache=None, *, cu_seqlens=None):
        block = self.block
        u, z, *selected = self.selection(hidden_states)
        place = ("delta", "B", "C").index(self.part)
        mean = selected[place].mean((0, 2), keepdim=True).expand_as(selected[place])
        if self.channels is not None:
            mean = torch.where(self.channels[:, None], mean, selected[place])
        selected[place] = mean
        dt, B, C = selected
        y = selective_scan_fn(u, dt, -torch.exp(block.A_log), B, C, block.D, z)
        return block.out_proj(y.mT)

    def selection(self, hidden_states):
        """u, z, Δ, B and C, each (b, ·, L)."""
        block = self.block
        x, z = block.in_proj(hidden_states).mT.chunk(2, dim=1)
        u = functional.silu(block.conv1d(functional.pad(x, (block.d_conv - 1, 0))))
        sizes = [block.dt_rank, block.d_state, block.d_state]
        narrow, B, C = block.x_proj(u.mT).mT.split(sizes, dim=1)
        dt = functional.softplus(block.dt_proj.weight @ narrow + block.dt_proj.bias[:, None])
        return u, z, dt, B, C


@torch.no_grad()
def freeze(model):
    """Right answers of a trained model of letters with parts frozen; how evenly clocks run.

    A letter is in sight of the convolution when it comes and for three more samples. Channels are
    choosy that belong to the third with the largest ratio of Δ in sight to Δ elsewhere.
    """
    layer = model.backbone.layers[0]
    block = layer.mixer.block
    inputs, targets = letters(400, 1234)
    hidden = layer.norm(model.backbone.embedding(inputs))
    _, _, dt, *_ = Frozen(block, "delta").selection(hidden)  # (400, 64, 34)
    letter = (inputs > 0) & (inputs < VOCABULARY - 1)
    sight = torch.zeros_like(letter)
    for late in range(4):
        sight[:, late:] |= letter[:, : inputs.shape[1] - late]
    blank = (inputs == 0) & ~sight
    blank[:, :4] = False
    dt = dt.mT  # (400, 34, 64)
    ratio = dt[sight].mean(0) / dt[blank].mean(0)
    choosy = torch.zeros(len(ratio), dtype=torch.bool)
    choosy[ratio.argsort(descending=True)[: len(ratio) // 3]] = True
    scores = {}
    for name, part, channels in (
        ("delta", "delta", None),
        ("delta, choosy third", "delta", choosy),
        ("delta, other channels", "delta", ~choosy),
        ("B", "B", None),
        ("C", "C", None),
    ):
        whole = layer.mixer
        layer.mixer = Frozen(block, part, channels)
        scores[name] = round(accuracy(model), 4)
        if part == "C":
            told = answers(model, inputs)
            heard = (told[..., None] == targets[:, None]).any(-1).float().mean().item()
            right = (told == targets).float().mean(0).tolist()
            first = (told[:, 1] == targets[:, 0]).float().mean().item()
        layer.mixer = whole
    after = [dt[:, late:][letter[:, : inputs.shape[1] - late]].mean(0) for late in range(4)]
    steps = torch.stack([*after, dt[blank].mean(0), dt[inputs == VOCABULARY - 1].mean(0)])
    time_at_blanks = (dt * blank[..., None]).sum((0, 1)) / dt.sum((0, 1))
    return {
        "scores": scores,
        "one of the two letters with C frozen": round(heard, 4),
        "first question right with C frozen": round(right[0], 4),
        "second question right with C frozen": round(right[1], 4),
        "second question answered with the first letter": round(first, 4),
        # 0, 1, 2, 3 samples after a letter, at blanks out of sight, at questions
        "steps, choosy third": [round(x, 4) for x in steps[:, choosy].mean(1).tolist()],
        "steps, others": [round(x, 4) for x in steps[:, ~choosy].mean(1).tolist()],
        "ratio of steps, choosy third": round(ratio[choosy].median().item(), 2),
        "ratio of steps, others": round(ratio[~choosy].median().item(), 2),
        "blanks": round(blank.float().mean().item(), 4),
        "time at blanks, choosy third": round(time_at_blanks[choosy].mean().item(), 4),
        "time at blanks, others": round(time_at_blanks[~choosy].mean().item(), 4),
    }


def small(without, short=False):
    """The model of letters; ``short``: no channel remembers more than some ten samples at first."""
    steps = {"dt_min": 0.1, "dt_max": 1.0} if short else {}
    sizes = SIZES | {"ssm_cfg": SIZES["ssm_cfg"] | steps}
    return mamba(without, VOCABULARY, n_layer=1, **sizes)


def reader(without):
    return mamba(without, len(data.novel()[1]), n_layer=2, **SIZES)


def size(model):
    return sum(p.numel() for p in model.parameters())


def ablate(seeds=(0, 1, 2), parts=tuple(PARTS), text=True, say=print):
    """Train everything; return what is stored."""
    start, rows, frozen, distance = time.perf_counter(), [], [], []

    def keep(task, model, name, seed, curve):
        rows.append(
            {"task": task, "model": name, "seed": seed, "parameters": size(model), "curve": curve}
        )
        say(
            f"{time.perf_counter() - start:5.0f} s  {task:8} {name:12} {seed}  {curve[-1]}",
            flush=True,
        )

    for seed in seeds:
        for name, part in SHORT.items():
            model, curve = train_letters(lambda part=part: small(part, short=True), seed)
            keep("letters", model, name, seed, curve)
            distance.append({"model": name, "seed": seed, **by_distance(model)})
            if part == "whole":
                frozen.append(freeze(model))
        for part in parts:
            model, curve = train_letters(lambda part=part: small(part), seed)
            keep("letters", model, part, seed, curve)
        for part, name, updates, lr in OTHER_RUNS:
            if part in parts:
                model, curve = train_letters(
                    lambda part=part: small(part), seed, updates=updates, lr=lr
                )
                keep("letters", model, f"{part}, {name}", seed, curve)
        for name, layers, scattered, updates, lr in S4D_RUNS:
            width = {1: 48, 2: 32}[layers]
            model, curve = train_letters(
                lambda width=width, layers=layers: s4d(width, layers), seed, scattered, updates, lr
            )
            keep("letters", model, name, seed, curve)
        for part in parts if text else ():
            if part in ONLY_LETTERS:
                continue
            model, curve = train_text(lambda part=part: reader(part), seed)
            keep("text", model, part, seed, curve)
    return {"runs": rows, "frozen": frozen, "distance": distance}


def write(seeds=(0, 1, 2)):
    """Train everything on one core and write ``ablation-cpu.json``; return its path."""
    torch.set_num_threads(1)
    results = ablate(seeds)
    results = {
        "setup": {"device": "cpu", "parts": PARTS, "task": " ".join(__doc__.split())},
        **results,
    }
    return record.write("ablation", results, "cpu", RESULTS)
