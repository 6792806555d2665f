"""Selective copying."""

from __future__ import annotations

from experiments import sequences
from experiments.tasks.base import Answers
from ssm_book import data


class Copying(Answers):
    """Selective copying: 16 tokens of 14 kinds among 4096 positions, then all of them in order.

    Sizes as in the Mamba paper, section 4.1.1. Accuracy is the share of tokens that are right.
    """

    VOCAB, TOKENS, BF16 = 16, 16, True

    def sequences(self, count, length, rng):
        return self.on_device(data.selective_copying(count, length, self.TOKENS, self.VOCAB, rng))

    def draw(self, count, length, generator):
        return sequences.selective_copying(count, length, self.TOKENS, self.VOCAB, generator)
