"""Induction heads."""

from __future__ import annotations

from experiments import sequences
from experiments.tasks.base import Answers
from ssm_book import data


class Induction(Answers):
    """Induction heads: what followed the trigger, one of 16 tokens, when it came before?

    Sizes as in the Mamba paper, section 4.1.2: trained at one length, tested at many.
    """

    VOCAB = 16

    def sequences(self, count, length, rng):
        return self.on_device(data.induction_heads(count, length, self.VOCAB, rng))

    def draw(self, count, length, generator):
        return sequences.induction_heads(count, length, self.VOCAB, generator)
