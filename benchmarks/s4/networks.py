"""The networks that are compared: S4, S4D, S4 from a random A, an LSTM, a Transformer, of one size.

All take signals (B, L, 1) and give (B, outputs), or (B, L, outputs) where they do not pool.
"""

import bisect
import math

import torch
from torch import nn

from ssm_core.s4 import S4, S4D, SequenceModel

D_STATE = 64


def network(name, outputs, *, width, layers, dropout, pool, length):
    """A network by name. ``width`` is that of the S4 network; others get as many parameters."""
    if name in _SSMS:
        return SequenceModel(1, outputs, d_model=width, n_layers=layers, dropout=dropout, pool=pool,
                             ssm=lambda d: _SSMS[name](d, D_STATE))
    if not pool:
        raise ValueError(f"model is {name!r}, expected one of {', '.join(_SSMS)} for this task")

    def other(width):
        return _OTHERS[name](outputs, width, layers, dropout, length)

    s4 = network("s4", outputs, width=width, layers=layers, dropout=dropout, pool=pool,
                 length=length)
    return closest(other, range(8, 4 * width, 8), parameters(s4))


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


def open_lstm(inputs, width, layers, dropout=0.0):
    """An LSTM whose gates that forget are open to begin with."""
    lstm = nn.LSTM(inputs, width, num_layers=layers, dropout=dropout, batch_first=True)
    for name, p in lstm.named_parameters():
        if "bias_ih" in name:
            nn.init.constant_(p[width : 2 * width], 1.0)
    return lstm


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


_SSMS = {"s4": S4, "s4d": S4D, "random": random_s4}


class LSTM(nn.Module):
    """Two layers of an LSTM, mean over time, linear decoder."""

    def __init__(self, outputs, width, layers, dropout, length):
        super().__init__()
        self.lstm = open_lstm(1, width, 2, dropout)
        self.decoder = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, u):
        return self.decoder(self.lstm(u)[0].mean(1))


class Transformer(nn.Module):
    """Encoder layers that see the whole sequence, learned positions, mean over time."""

    def __init__(self, outputs, width, layers, dropout, length):
        super().__init__()
        self.encoder = nn.Linear(1, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=4 * width,
                                           dropout=dropout, activation="gelu", batch_first=True,
                                           norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.decoder = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, u):
        with torch.autocast(u.device.type, torch.bfloat16, enabled=u.is_cuda,
                            cache_enabled=False):  # flash attention: a ninth of the memory
            y = self.layers(self.encoder(u) + self.position)
        return self.decoder(y.float().mean(1))


_OTHERS = {"lstm": LSTM, "transformer": Transformer}
NETWORKS = (*_SSMS, *_OTHERS)


class DelayLine(nn.Module):
    """One layer of a state space model between a copy and a sum of channels: all is linear."""

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
