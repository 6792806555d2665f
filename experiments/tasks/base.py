"""What tasks on tokens share."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from experiments import networks, sequences

POOL = 2**21  # tokens that are drawn at once, many batches of short sequences


class Tokens:
    """A task on sequences of tokens. An epoch is ``settings.every`` steps.

    BF16 says whether matrix products run in bfloat16 on a GPU. It pays where sequences are long;
    where launching kernels takes most of the time, conversions only add kernels.
    """

    BF16 = False

    def __init__(self, settings, device):
        self.settings, self.device = settings, device
        self.batches = settings.every

    def network(self):
        s = self.settings
        return networks.of_tokens(
            s.model, self.VOCAB, width=s.width, layers=s.layers, dt_min=s.dt_min
        )

    def epoch(self, number):
        """The batches of an epoch, which depend on the seed and the number of the epoch alone."""
        s = self.settings
        length = self.length(number)
        pool = max(1, POOL // (s.batch * length))  # batches
        for first in range(0, self.batches, pool):
            count = min(pool, self.batches - first)
            generator = sequences.generator(self.device, s.seed, number, first)
            drawn = self.draw(count * s.batch, length, generator)
            yield from zip(*(x.split(s.batch) for x in drawn))

    def length(self, number):
        """That of the sequences in an epoch: it doubles in the first two thirds of the training."""
        s = self.settings
        doubled = 3 * s.doublings * number // (2 * s.epochs)
        return s.length >> max(0, s.doublings - doubled)

    def run(self, model, inputs, last, **options):
        """What the model returns for the last positions."""
        low = self.BF16 and self.device == "cuda"
        with torch.autocast(
            self.device, torch.bfloat16, enabled=low, cache_enabled=False
        ):  # a CUDA graph would miss what a cache keeps
            return model(inputs, last=last, **options)

    def loss(self, model, batch):
        inputs, targets = batch
        logits = self.run(model, inputs, targets.shape[1])
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Answers(Tokens):
    """Tasks with right answers, which are asked for at the last positions.

    Networks are measured on sequences of ssm_book.data, the same ones for all of them.
    """

    TESTED = 1024  # sequences

    def __init__(self, settings, device):
        super().__init__(settings, device)
        self.test = self.sequences(self.TESTED, settings.length, np.random.default_rng(0))

    def on_device(self, arrays):
        return tuple(torch.tensor(x, device=self.device) for x in arrays)

    def measure(self, model):
        return {"accuracy": self.accuracy(model, *self.test)}

    def accuracy(self, model, inputs, targets, piece=None):
        """The share of answers that are right; sequences come in pieces of ``piece`` tokens."""
        right = 0
        for rows, answers in zip(
            inputs.split(self.settings.batch), targets.split(self.settings.batch)
        ):
            right += (self.answers(model, rows, answers.shape[1], piece) == answers).sum()
        return right.item() / targets.numel()

    def answers(self, model, inputs, count, piece):
        if piece is None:
            logits = self.run(model, inputs, count)
        else:
            state = None
            for part in inputs.split(piece, dim=1):
                logits, state = self.run(model, part, count, state=state, return_state=True)
        return logits[..., : self.VOCAB].argmax(-1)
