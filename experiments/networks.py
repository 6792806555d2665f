"""The networks that are compared, all of one size.

Networks of signals take (B, L, 1) and return (B, outputs), or (B, L, outputs) if they do not pool.

Networks of tokens are called as ``network(tokens (B, L), state=None, last=0, return_state=False)``
and return the logits (B, L, vocab), or of the ``last`` positions only; with ``return_state`` also the
state after the tokens, from which another call goes on. Softmax attention has none: its state would
be all tokens so far.
"""

from __future__ import annotations

import bisect
import math

import torch
from torch import nn
from torch.nn import functional

from experiments.attention import (
    CausalAttention,
    PooledTransformer,
    linear_attention,
    softmax_attention,
)
from ssm_core.mamba import MambaConfig, MambaLM
from ssm_core.s4 import S4, S4D, SequenceModel

D_STATE = 64  # of S4 and S4D


def of_signals(name, outputs, *, width, layers, dropout, pool, length):
    """A network of signals by name. ``width`` is that of S4; others get as many parameters."""
    if name in _SSMS:
        return SequenceModel(
            1,
            outputs,
            d_model=width,
            n_layers=layers,
            dropout=dropout,
            pool=pool,
            ssm=lambda d: _SSMS[name](d, D_STATE),
        )
    if not pool:
        raise ValueError(f"model is {name!r}, expected one of {', '.join(_SSMS)} for this task")

    def other(width):
        if name == "lstm":
            return LSTM(nn.Identity(), 1, width, outputs, dropout=dropout, pool=True)
        return PooledTransformer(outputs, width, layers, dropout, length)

    s4 = of_signals(
        "s4", outputs, width=width, layers=layers, dropout=dropout, pool=pool, length=length
    )
    return closest(other, range(8, 4 * width, 8), parameters(s4))


def of_tokens(name, vocab, *, width, layers, dt_min=1e-3):
    """A network of tokens by name. ``width`` is that of Mamba; others get as many parameters.

    Attention keeps the width, and the size of its hidden layers is searched; where there are no such
    layers, the width is searched. Steps Δ of state space models begin between ``dt_min`` and 0.1.
    """
    if name == "mamba":
        return Mamba(vocab, width, layers, dt_min)
    sizes = range(8, 8 * width, 8) if name in _MIXERS else range(8, 4 * width, 4)
    wanted = parameters(Mamba(vocab, width, layers, dt_min))

    def of(size):
        if name == "lstm":
            return LSTM(nn.Embedding(vocab, size), size, size, vocab)
        if name in _MIXERS:
            return CausalAttention(vocab, width, layers, hidden=size, mix=_MIXERS[name])
        return StateSpace(vocab, size, layers, lambda d: _SSMS[name](d, D_STATE, dt_min=dt_min))

    return closest(of, sizes, wanted)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def closest(make, sizes, wanted):
    """The network among ``make(size)`` whose number of parameters is closest to the one wanted.

    Sizes rise, and the number of parameters with them.
    """

    def count(size):
        return parameters(make(size))

    with torch.random.fork_rng(devices=[]):  # the search draws numbers, too
        i = bisect.bisect_left(sizes, wanted, key=count)
        best = min(sizes[max(i - 1, 0) : i + 1], key=lambda size: abs(count(size) - wanted))
    return make(best)


# --- recurrent networks --------------------------------------------------------------------------


class LSTM(nn.Module):
    """Two layers of an LSTM between an encoder and a linear decoder, which may see a mean over time.

    The forget gates are open at the start.
    """

    def __init__(self, encoder, inputs, width, outputs, *, dropout=0.0, pool=False):
        super().__init__()
        self.encoder, self.pool = encoder, pool
        self.lstm = nn.LSTM(inputs, width, num_layers=2, dropout=dropout, batch_first=True)
        for name, p in self.lstm.named_parameters():
            if "bias_ih" in name:
                nn.init.constant_(p[width : 2 * width], 1.0)
        self.decoder = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, x, state=None, *, last=0, return_state=False):
        y, state = self.lstm(self.encoder(x), state)
        y = self.decoder(y.mean(1) if self.pool else y[:, -last:])
        return (y, state) if return_state else y


# --- state space models --------------------------------------------------------------------------


class Mamba(nn.Module):
    """The language model of :mod:`ssm_core.mamba`, with an embedding of its own and of size 1.

    Selective copying (L 64, CPU, 700 steps) is at 33 % with it, and at 15 % where the head shares
    an embedding of size 0.02, as in large models: the blocks then drown what the tokens were.
    """

    def __init__(self, vocab, width, layers, dt_min):
        super().__init__()
        self.lm = MambaLM(
            MambaConfig(
                d_model=width,
                n_layer=layers,
                vocab_size=vocab,
                tie_embeddings=False,
                initializer_range=1.0,
                ssm_cfg={"dt_min": dt_min, "dt_init_floor": dt_min},
            )
        )

    def forward(self, tokens, state=None, *, last=0, return_state=False):
        if return_state and state is None:
            state = self.lm.allocate_inference_cache(*tokens.shape)
        logits = self.lm(tokens, state, num_last_tokens=last)
        return (logits, state) if return_state else logits


class StateSpace(nn.Module):
    """Blocks of S4 or S4D on tokens."""

    def __init__(self, vocab, width, layers, ssm):
        super().__init__()
        self.vocab = vocab
        self.blocks = SequenceModel(vocab, vocab, d_model=width, n_layers=layers, ssm=ssm)
        nn.init.normal_(self.blocks.encoder.weight)  # an embedding of size 1, as in the others

    def forward(self, tokens, state=None, *, last=0, return_state=False):
        samples = functional.one_hot(tokens, self.vocab).float()
        if not return_state:
            return self.blocks(samples, state)[:, -last:]
        logits, state = self.blocks(samples, state, return_state=True)
        return logits[:, -last:], state


def random_s4(d_model, d_state=D_STATE, stretch=1.0, **options):
    """S4 from a random matrix instead of a HiPPO matrix: same form, same training.

    A = stretch (G - Gᵀ)/√2 - 1/2 - P Pᵀ with G, B and √2 P standard normal, another one in each
    channel. It is stable, since its symmetric part is negative, and its frequencies reach 2 √N
    stretch. After the ablation of the S4 paper (section 4.4), which does not give the scale of its
    random matrices.
    """
    layer = S4(d_model, d_state, **options)
    G = torch.randn(d_model, d_state, d_state, dtype=torch.float64)
    w, V = torch.linalg.eigh(-1j * (G - G.mT) / 2**0.5)  # in pairs ±w, rising
    half = slice(d_state // 2, None)
    P = torch.randn(d_model, d_state, 1, dtype=V.dtype) * 2**-0.5
    B = torch.randn(d_model, d_state, 1, dtype=V.dtype)
    with torch.no_grad():
        layer.log_decay.fill_(math.log(0.5))
        layer.frequency.copy_(stretch * w[:, half])
        layer.P.copy_(_modes(V, P.real)[:, None, half])
        layer.B.copy_(_modes(V, B.real)[:, half])
    return layer


def _modes(V, x):
    """Real vectors (d, N, 1) in the basis of eigenvectors, as pairs of numbers (d, N, 2)."""
    return torch.view_as_real((V.mH @ x.to(V.dtype))[..., 0])


class DelayLine(nn.Module):
    """One layer of a state space model between a copy and a sum of channels: linear throughout."""

    MODELS = ("legs", "legt", "fout", "s4d", "random", "random_wide")

    def __init__(self, name, *, width, lag, d_state):
        super().__init__()
        scale = {"dt_min": 1 / lag, "dt_max": 1 / lag}  # the lag is one unit of time
        if name == "random":
            self.ssm = random_s4(width, d_state, **scale)
        elif name == "random_wide":  # frequencies up to N: those that the polynomials have as well
            self.ssm = random_s4(width, d_state, d_state**0.5 / 2, **scale)
        elif name == "s4d":
            self.ssm = S4D(width, d_state, "lin", **scale)
        else:
            self.ssm = S4(width, d_state, name, **scale)
        self.read = nn.Linear(width, 1)

    def forward(self, u):
        return self.read(self.ssm(u.expand(-1, -1, self.ssm.d_model)))


_SSMS = {"s4": S4, "s4d": S4D, "random": random_s4}
_MIXERS = {"linear_attention": linear_attention, "transformer": softmax_attention}
OF_SIGNALS = (*_SSMS, "lstm", "transformer")
OF_TOKENS = ("mamba", "s4", "s4d", "lstm", *_MIXERS)
