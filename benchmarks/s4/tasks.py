"""What the networks are trained on: batches, the loss, and what is measured after each epoch."""

import math

import numpy as np
import torch
from torch.nn import functional

from benchmarks.s4 import networks
from benchmarks.s4.mnist import mnist
from ssm_book.data import band_limited_noise


class Digits:
    """Digits as sequences of 784 pixels: which digit is it?"""

    def __init__(self, settings, device, data):
        self.settings = settings
        images, labels, *test = mnist(data)
        self.train = self._on(device, images, labels)
        self.test = self._on(device, *test)
        self.batches = len(images) // settings.batch  # of an epoch

    def _on(self, device, images, labels):
        pixels = images.reshape(len(images), -1)
        if self.settings.task == "psmnist":
            pixels = pixels[:, np.random.default_rng(0).permutation(pixels.shape[1])]
        return torch.tensor(pixels, device=device), torch.tensor(labels, device=device).long()

    def network(self):
        s = self.settings
        return networks.network(s.model, 10, width=s.width, layers=s.layers, dropout=s.dropout,
                                pool=True, length=784)

    def epoch(self, number):
        """The batches of an epoch, which depend on the seed and the number of the epoch alone."""
        pixels, labels = self.train
        order = np.random.default_rng([self.settings.seed, number]).permutation(len(pixels))
        order = torch.tensor(order, device=pixels.device)
        for rows in order[: self.batches * self.settings.batch].chunk(self.batches):
            yield pixels[rows], labels[rows]

    def loss(self, model, batch):
        pixels, labels = batch
        return functional.cross_entropy(model(_grey(pixels)), labels)

    def measure(self, model):
        right = sum((model(_grey(pixels)).argmax(1) == labels).sum()
                    for pixels, labels in zip(*(x.split(500) for x in self.test)))
        return {"accuracy": right.item() / len(self.test[1])}


class Drawing(Digits):
    """Digits pixel by pixel: which of 256 greys comes next?"""

    def network(self):
        s = self.settings
        return networks.network(s.model, 256, width=s.width, layers=s.layers, dropout=s.dropout,
                                pool=False, length=784)

    def loss(self, model, batch):
        pixels = batch[0]
        before = functional.pad(pixels[:, :-1], (1, 0))
        y = model(_grey(before))
        return functional.cross_entropy(y.flatten(0, 1), pixels.flatten().long())

    def measure(self, model):
        losses = [self.loss(model, (pixels,)) for pixels in self.test[0].split(100)]
        return {"bits_per_pixel": torch.stack(losses).mean().item() / math.log(2)}


def _grey(pixels):
    """Bytes (B, L) as one signal (B, L, 1) with mean 0 and variance 1 over MNIST."""
    return ((pixels.float() / 255 - 0.1307) / 0.3081)[..., None]


class Delay:
    """White noise without frequencies above a cutoff: what was it 1000 samples ago?

    Lengths as in "How to Train Your HiPPO" (Gu and others, 2023). The fastest sine has 40 periods
    in the delay, so that a state needs at least 80 numbers; each of 4 channels has 256.
    """

    L, LAG, CUTOFF, D_STATE = 4000, 1000, 0.04, 256
    batches = 50

    def __init__(self, settings, device, data):
        self.settings, self.device = settings, device
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
        y = model(u)
        return (y[:, self.LAG :] - u[:, : -self.LAG]).square().mean()

    def measure(self, model):
        return {"error": self.loss(model, (self.test,)).item()}


TASKS = {"delay": Delay, "smnist": Digits, "psmnist": Digits, "drawing": Drawing}
MODELS = {"delay": networks.DelayLine.MODELS, "smnist": networks.NETWORKS,
          "psmnist": networks.NETWORKS, "drawing": ("s4", "s4d", "random")}
