"""The networks that are compared: tokens in, logits of the next token out, all of one size.

All are called as ``network(tokens (B, L), state=None, last=0, return_state=False)`` and return the
logits (B, L, vocab), or of the ``last`` positions only, and the state after the tokens, from which
another call goes on. Attention keeps none: its state would be all that it has seen.
"""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.s4.networks import closest, open_lstm, parameters
from ssm_core.mamba import MambaConfig, MambaLM
from ssm_core.s4 import S4, S4D, SequenceModel

D_STATE = 64  # of S4 and S4D
HEAD = 32  # channels of a head of attention
CHUNK = 128  # positions that linear attention multiplies each with each


def network(name, vocab, *, width, layers, dt_min=1e-3):
    """A network by name. ``width`` is that of Mamba; others get as many parameters.

    Attention keeps the width and has a hidden layer of the size that is missing; where there is no
    such layer, the width is searched. Steps Δ of state space models begin between ``dt_min`` and
    0.1.
    """
    if name == "mamba":
        return Mamba(vocab, width, layers, dt_min)
    sizes = range(8, 8 * width, 8) if name in _MIXERS else range(8, 4 * width, 4)
    wanted = parameters(Mamba(vocab, width, layers, dt_min))

    def of(size):
        if name == "lstm":
            return LSTM(vocab, size)
        if name in _MIXERS:
            return Attention(vocab, width, layers, hidden=size, mix=_MIXERS[name])
        return StateSpace(vocab, size, layers, lambda d: _SSMS[name](d, D_STATE, dt_min=dt_min))

    return closest(of, sizes, wanted)


class Mamba(nn.Module):
    """The language model of :mod:`ssm_core.mamba`, with an embedding of its own and of size 1.

    Selective copying (L 64, CPU, 700 steps) is at 33 % with it, and at 15 % where the head shares
    an embedding of size 0.02, as in large models: blocks then drown what the tokens were.
    """

    def __init__(self, vocab, width, layers, dt_min):
        super().__init__()
        self.lm = MambaLM(MambaConfig(d_model=width, n_layer=layers, vocab_size=vocab,
                                      tie_embeddings=False, initializer_range=1.0,
                                      ssm_cfg={"dt_min": dt_min, "dt_init_floor": dt_min}))

    def forward(self, tokens, state=None, *, last=0, return_state=False):
        if return_state and state is None:
            state = self.lm.allocate_inference_cache(*tokens.shape)
        return self.lm(tokens, state, num_last_tokens=last), state


class StateSpace(nn.Module):
    """Blocks of S4 or S4D, as in the experiments of :mod:`benchmarks.s4`."""

    def __init__(self, vocab, width, layers, ssm):
        super().__init__()
        self.vocab = vocab
        self.blocks = SequenceModel(vocab, vocab, d_model=width, n_layers=layers, ssm=ssm)
        nn.init.normal_(self.blocks.encoder.weight)  # an embedding of size 1, as in the others

    def forward(self, tokens, state=None, *, last=0, return_state=False):
        samples = functional.one_hot(tokens, self.vocab).float()
        if not return_state:
            return self.blocks(samples, state)[:, -last:], None
        logits, state = self.blocks(samples, state, return_state=True)
        return logits[:, -last:], state


class LSTM(nn.Module):
    """Two layers of an LSTM between an embedding and a linear map."""

    def __init__(self, vocab, width):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.lstm = open_lstm(width, width, 2)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocab))

    def forward(self, tokens, state=None, *, last=0, return_state=False):
        y, state = self.lstm(self.embedding(tokens), state)
        return self.head(y[:, -last:]), state


class Attention(nn.Module):
    """Blocks of causal attention, of either kind, and of a hidden layer."""

    def __init__(self, vocab, width, layers, *, hidden, mix):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(AttentionBlock(width, hidden, mix) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocab))

    def forward(self, tokens, state=None, *, last=0, return_state=False):
        x, after = self.embedding(tokens), []
        seen, states = state or (0, [None] * len(self.blocks))
        turns = rotations(seen, tokens.shape[1], HEAD, x.device)
        for block, before in zip(self.blocks, states):
            x, new = block(x, turns, before)
            after.append(new)
        return self.head(x[:, -last:]), (seen + tokens.shape[1], after)


class AttentionBlock(nn.Module):
    """Norm and attention, norm and hidden layer, each added to its input."""

    def __init__(self, width, hidden, mix):
        super().__init__()
        if width % HEAD:
            raise ValueError(f"width is {width}, expected a multiple of {HEAD}, that of a head")
        self.mix, self.heads = mix, width // HEAD
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(),
                                    nn.Linear(hidden, width))

    def forward(self, x, turns, state):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        y, state = self.mix(q, k, v, turns, state)  # (B, heads, L, HEAD)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.hidden(x), state


def rotations(seen, L, channels, device):
    """Cosines and sines (L, channels / 2) of the positions from ``seen`` on; angles in float64."""
    like = {"dtype": torch.float64, "device": device}
    rates = 10000.0 ** -(torch.arange(0, channels, 2, **like) / channels)
    angles = torch.arange(seen, seen + L, **like)[:, None] * rates
    return angles.cos().float(), angles.sin().float()


def turned(x, turns):
    """Rotary positions (Su and others, 2021): pairs of channels of x (B, heads, L, e) turned."""
    (a, b), (cos, sin) = x.chunk(2, dim=-1), turns
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def softmax_attention(q, k, v, turns, state):
    if state is not None:
        raise ValueError("attention takes a sequence as a whole: it keeps no state")
    q, k = turned(q, turns), turned(k, turns)
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True), None


def linear_attention(q, k, v, turns, state):
    r"""Attention with the kernel φ(q)·φ(k), φ = elu + 1, whose sums over the past are a state.

    .. math:: y_t = \frac{\sum_{s \le t} (R_t φ(q_t) \cdot R_s φ(k_s)) \, v_s}
                         {\sum_{s \le t} φ(q_t) \cdot φ(k_s)}

    Katharopoulos and others, "Transformers are RNNs" (2020), with rotary positions R above the line
    only, as in Su and others (2021), section 3.3: below it all terms stay positive.
    """
    with torch.autocast(q.device.type, enabled=False):
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k, v = functional.elu(q.to(wide)) + 1, functional.elu(k.to(wide)) + 1, v.to(wide)
        above, below = state or (None, None)
        y, above = causal_product(turned(q, turns), turned(k, turns), v, above)
        total, below = causal_product(q, k, torch.ones_like(v[..., :1]), below)
    return y / total, (above, below)


def causal_product(q, k, v, state=None, chunk=CHUNK):
    r""":math:`y_t = \sum_{s \le t} (q_t \cdot k_s) \, v_s` in a time linear in L.

    Within a chunk all pairs are multiplied; what lies before it comes as :math:`\sum_s k_s v_s^T`.

    Args:
        q, k: (B, heads, L, e); v: (B, heads, L, f)
        state: the sum before the first position (B, heads, e, f), zero if None
        chunk (int): positions in a chunk; at 1 this is the recurrence

    Returns:
        (y, state): y (B, heads, L, f), and the sum after the last position.
    """
    L = q.shape[2]
    q, k, v = (functional.pad(x, (0, 0, 0, -L % chunk)).unflatten(2, (-1, chunk))
               for x in (q, k, v))  # (B, heads, chunks, chunk, ·)
    added = k.mT @ v  # (B, heads, chunks, e, f)
    first = torch.zeros_like(added[:, :, :1]) if state is None else state[:, :, None]
    sums = torch.cat([first, added], dim=2).cumsum(2)
    y = (q @ k.mT).tril() @ v + q @ sums[:, :, :-1]
    return y.flatten(2, 3)[:, :, :L], sums[:, :, -1]


_MIXERS = {"linear_attention": linear_attention, "transformer": softmax_attention}
_SSMS = {"s4": S4, "s4d": S4D}
NETWORKS = ("mamba", *_SSMS, "lstm", *_MIXERS)
