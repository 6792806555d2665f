"""Associative recall."""

from __future__ import annotations

from experiments import sequences
from experiments.tasks.base import Answers
from ssm_book import data


class Recall(Answers):
    """Associative recall: pairs of one of 64 keys and one of 64 values, then 16 keys: which values?

    The length is that of the pairs: 64 are 32 pairs. Accuracy is the share of right values.
    """

    VOCAB, QUERIES = 128, 16

    def sequences(self, count, length, rng):
        return self.on_device(data.associative_recall(count, *self._sizes(length), rng))

    def draw(self, count, length, generator):
        return sequences.associative_recall(count, *self._sizes(length), generator)

    def _sizes(self, length):
        """Pairs, vocabulary, queries."""
        pairs = length // 2
        return pairs, self.VOCAB, min(self.QUERIES, pairs)
