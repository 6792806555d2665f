"""A delay of 1000 samples: what was the signal that long ago?"""

from __future__ import annotations

import numpy as np
import torch

from experiments import networks
from ssm_book.data import band_limited_noise


class Delay:
    """White noise without frequencies above a cutoff: what was it 1000 samples ago?

    Lengths as in "How to Train Your HiPPO" (Gu and others, 2023). The fastest sine has 40 periods
    in the delay, so that a state needs at least 80 numbers; each of 4 channels has 256.
    """

    L, LAG, CUTOFF, D_STATE = 4000, 1000, 0.04, 256

    def __init__(self, settings, device):
        self.settings, self.device = settings, device
        self.batches = settings.every
        self.test = self._signals(64, np.random.default_rng([settings.seed, 2**32 - 1]))

    def _signals(self, count, rng):
        signals = [band_limited_noise(self.L, self.CUTOFF, seed=rng) for _ in range(count)]
        return torch.tensor(np.array(signals), dtype=torch.float32, device=self.device)[..., None]

    def network(self):
        s = self.settings
        return networks.DelayLine(s.model, width=s.width, lag=self.LAG, d_state=self.D_STATE)

    def epoch(self, number):
        rng = np.random.default_rng([self.settings.seed, number])
        for _ in range(self.batches):
            yield (self._signals(self.settings.batch, rng),)

    def loss(self, model, batch):
        """Mean squared error, as a share of the signal's variance of 1."""
        (u,) = batch
        return (model(u)[:, self.LAG :] - u[:, : -self.LAG]).square().mean()

    def measure(self, model):
        return {"error": self.loss(model, (self.test,)).item()}
