"""MNIST as sequences of pixels: which digit is it, and which pixel comes next?"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from experiments import networks
from experiments.mnist import mnist


class Digits:
    """Digits as sequences of 784 pixels: which digit is it?"""

    def __init__(self, settings, device, data=None):
        self.settings, self.device = settings, device
        images, labels, *test = mnist(data)
        self.train = self._on_device(images, labels)
        self.test = self._on_device(*test)
        self.batches = settings.every or len(images) // settings.batch

    def _on_device(self, images, labels):
        pixels = images.reshape(len(images), -1)
        if self.settings.task == "psmnist":
            pixels = pixels[:, np.random.default_rng(0).permutation(pixels.shape[1])]
        return (
            torch.tensor(pixels, device=self.device),
            torch.tensor(labels, device=self.device).long(),
        )

    def network(self):
        s = self.settings
        return networks.of_signals(
            s.model, 10, width=s.width, layers=s.layers, dropout=s.dropout, pool=True, length=784
        )

    def epoch(self, number):
        """The batches of an epoch, which depend on the seed and the number of the epoch alone."""
        pixels, labels = self.train
        order = np.random.default_rng([self.settings.seed, number]).permutation(len(pixels))
        order = torch.tensor(order, device=pixels.device)
        for rows in order[: self.batches * self.settings.batch].chunk(self.batches):
            yield pixels[rows], labels[rows]

    def loss(self, model, batch):
        pixels, labels = batch
        return functional.cross_entropy(model(grey(pixels)), labels)

    def measure(self, model):
        right = sum(
            (model(grey(pixels)).argmax(1) == labels).sum()
            for pixels, labels in zip(*(x.split(500) for x in self.test))
        )
        return {"accuracy": right.item() / len(self.test[1])}


class Drawing(Digits):
    """Digits pixel by pixel: which of 256 greys comes next?"""

    def network(self):
        s = self.settings
        return networks.of_signals(
            s.model, 256, width=s.width, layers=s.layers, dropout=s.dropout, pool=False, length=784
        )

    def loss(self, model, batch):
        pixels = batch[0]
        before = functional.pad(pixels[:, :-1], (1, 0))
        return functional.cross_entropy(model(grey(before)).flatten(0, 1), pixels.flatten().long())

    def measure(self, model):
        losses = [self.loss(model, (pixels,)) for pixels in self.test[0].split(100)]
        return {"bits_per_pixel": torch.stack(losses).mean().item() / math.log(2)}


def grey(pixels):
    """Bytes (B, L) as one signal (B, L, 1) with mean 0 and variance 1 over MNIST."""
    return ((pixels.float() / 255 - 0.1307) / 0.3081)[..., None]
