"""A deep network of state space layers: residual blocks between two linear maps.

The same network classifies (mean over time at the end), or maps a sequence to a sequence, and then
can run one sample at a time.
"""

from __future__ import annotations

from torch import nn

from ssm_core._checks import as_int, as_real
from ssm_core.s4.layer import S4D

__all__ = ["Block", "SequenceModel"]


class ChannelDropout(nn.Dropout1d):
    """Drop channels, each for a whole sequence: (B, L, d_model), while the module trains.

    A convolution as long as the sequence averages away what is dropped sample by sample; a channel
    that is gone from the first sample to the last is missing.

    Args:
        p (float): share of the channels that are dropped, 0 to 1; the others are scaled up

    Source: Tompson and others, "Efficient Object Localization Using Convolutional Networks" (2015),
    there for images.
    """

    def forward(self, u):
        return super().forward(u.mT).mT


class Block(nn.Module):
    """One residual block: norm, SSM, GELU, dropout, gated linear unit, dropout.

    Args:
        ssm (torch.nn.Module): an S4 or S4D layer of d_model channels
        dropout (float):       share of the channels that are dropped while training, 0 to 1, each
                               for a whole sequence

    Source: Gu, Goel and Ré, "Efficiently Modeling Long Sequences with Structured State Spaces"
    (2022), section 3.4; the gated unit as in Gu, Gupta, Goel and Ré (2022), appendix B.
    """

    def __init__(self, ssm, dropout=0.0):
        super().__init__()
        self.norm = nn.LayerNorm(ssm.d_model)
        self.ssm = ssm
        self.mix = nn.Sequential(
            nn.GELU(), ChannelDropout(dropout), nn.Linear(ssm.d_model, 2 * ssm.d_model), nn.GLU(),
            ChannelDropout(dropout))

    def forward(self, u, state=None, *, return_state=True):
        """Signals (B, L, d_model) to the same shape, and the state of the layer."""
        y, state = self.ssm(self.norm(u), state, return_state=return_state)
        return u + self.mix(y), state

    def step(self, u, state):
        """One sample (B, d_model) to the same shape, and the state after it."""
        y, state = self.ssm.step(self.norm(u), state)
        return u + self.mix(y), state


class SequenceModel(nn.Module):
    """Blocks of state space layers between a linear encoder and a linear decoder.

    Args:
        d_input (int):   numbers in a sample of the input (tokens come as one-hot vectors)
        d_output (int):  numbers in an output: classes, or what a sample of the output holds
        d_model (int):   channels
        n_layers (int):  blocks
        ssm (callable):  makes the layer of a block from d_model, such as ``S4D`` or
                         ``lambda d: S4(d, d_state=32, bidirectional=True)``
        dropout (float): share of the channels that are dropped while training, 0 to 1
        pool (bool):     return one output for the whole sequence, from the mean over time

    Raises:
        ValueError, TypeError: sizes out of range, or of the wrong kind

    Example:
        >>> import torch
        >>> model = SequenceModel(1, 10, d_model=16, n_layers=2, pool=True)
        >>> model(torch.randn(3, 50, 1))[0].shape
        torch.Size([3, 10])
    """

    def __init__(self, d_input, d_output, *, d_model=128, n_layers=4, ssm=S4D, dropout=0.0,
                 pool=False):
        super().__init__()
        dropout = as_real(dropout, "dropout", low=0, high=1)
        d_model = as_int(d_model, "d_model")
        self.pool = pool
        self.encoder = nn.Linear(as_int(d_input, "d_input"), d_model)
        self.blocks = nn.ModuleList(
            Block(ssm(d_model), dropout) for _ in range(as_int(n_layers, "n_layers")))
        self.norm = nn.LayerNorm(d_model)
        self.decoder = nn.Linear(d_model, as_int(d_output, "d_output"))

    def forward(self, u, states=None, *, return_state=True):
        """Sequences to outputs, all at once.

        Args:
            u (float32):  (B, L, d_input)
            states (list of complex64): one state a block, as returned before; zeros if None
            return_state (bool): return the states after the last sample too; training needs none

        Returns:
            (y, states): y (B, L, d_output), or (B, d_output) with ``pool``; states a list, or None
        """
        x, after = self.encoder(u), []
        for block, state in zip(self.blocks, states or [None] * len(self.blocks)):
            x, state = block(x, state, return_state=return_state)
            after.append(state)
        x = self.norm(x)
        return self.decoder(x.mean(1) if self.pool else x), after if return_state else None

    def default_state(self, batch_size):
        """One zero state a block."""
        return [block.ssm.default_state(batch_size) for block in self.blocks]

    def step(self, u, states):
        """One sample (B, d_input) and the states before it, to (y (B, d_output), states after it)."""
        if self.pool:
            raise ValueError("a model that pools over time has no output for one sample")
        x, after = self.encoder(u), []
        for block, state in zip(self.blocks, states):
            x, state = block.step(x, state)
            after.append(state)
        return self.decoder(self.norm(x)), after
