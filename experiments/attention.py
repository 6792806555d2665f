"""Networks with attention: a Transformer that classifies signals, and causal ones on tokens.

The two have little in common on purpose. A classifier sees its whole sequence, has one length and may
learn its positions; a model of tokens is causal, and is tested at lengths that it was not trained at.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

HEAD = 32  # channels of a head of causal attention
CHUNK = 128  # positions that linear attention multiplies each with each


class PooledTransformer(nn.Module):
    """Encoder layers on a signal of one length: they see all of it, and a mean over time is decoded."""

    def __init__(self, outputs, width, layers, dropout, length):
        super().__init__()
        self.encoder = nn.Linear(1, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(
            width,
            nhead=4,
            dim_feedforward=4 * width,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.decoder = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, u):
        with torch.autocast(
            u.device.type, torch.bfloat16, enabled=u.is_cuda, cache_enabled=False
        ):  # flash attention: a ninth of the memory
            y = self.layers(self.encoder(u) + self.position)
        return self.decoder(y.float().mean(1))


class CausalAttention(nn.Module):
    """Blocks of causal attention, of either kind, and of a hidden layer, on tokens."""

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
        logits = self.head(x[:, -last:])
        return (logits, (seen + tokens.shape[1], after)) if return_state else logits


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
        self.hidden = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

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
    q, k, v = (
        functional.pad(x, (0, 0, 0, -L % chunk)).unflatten(2, (-1, chunk)) for x in (q, k, v)
    )  # (B, heads, chunks, chunk, ·)
    added = k.mT @ v  # (B, heads, chunks, e, f)
    first = torch.zeros_like(added[:, :, :1]) if state is None else state[:, :, None]
    sums = torch.cat([first, added], dim=2).cumsum(2)
    y = (q @ k.mT).tril() @ v + q @ sums[:, :, :-1]
    return y.flatten(2, 3)[:, :, :L], sums[:, :, -1]
