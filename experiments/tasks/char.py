"""A language model of letters."""

from __future__ import annotations

import math

import torch

from experiments.tasks.base import Tokens
from ssm_book import data


class Char(Tokens):
    """The next letter of a novel, Pride and Prejudice, whose last tenth is for the measurement.

    Bits a character over that tenth, in windows of one length that know nothing of each other.
    """

    BF16 = True

    def __init__(self, settings, device):
        super().__init__(settings, device)
        self.text, self.test = (
            torch.tensor(data.novel(part)[0], device=device) for part in ("train", "test")
        )
        self.VOCAB = len(data.novel()[1])

    def draw(self, count, length, generator):
        start = torch.randint(
            0, len(self.text) - length, (count, 1), generator=generator, device=self.device
        )
        windows = self.text[start + torch.arange(length + 1, device=self.device)]
        return windows[:, :-1], windows[:, 1:]

    def measure(self, model):
        length, losses = self.settings.length, []
        count = (len(self.test) - 1) // length  # what is left over is shorter than a window
        inputs = self.test[: count * length].unflatten(0, (count, length))
        targets = self.test[1 : count * length + 1].unflatten(0, (count, length))
        for batch in zip(inputs.split(self.settings.batch), targets.split(self.settings.batch)):
            losses.append(self.loss(model, batch) * batch[0].numel())
        nats = torch.stack(losses).sum().item() / inputs.numel()
        return {"bits_per_character": nats / math.log(2)}
