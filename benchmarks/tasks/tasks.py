"""What the networks are trained on: batches, the loss, and what is measured after each epoch."""

import math

import numpy as np
import torch
from torch.nn import functional

from benchmarks.tasks import networks, sequences
from ssm_book import data

POOL = 2**21  # tokens that are drawn at once, many batches of short sequences


class _Task:
    """What the tasks share. An epoch is ``settings.every`` steps.

    BF16 says whether matrix products run in bfloat16 on a GPU. It pays where sequences are long;
    where launches of kernels are what costs time, conversions are only more of them.
    """

    BF16 = False

    def __init__(self, settings, device):
        self.settings, self.device = settings, device
        self.batches = settings.every

    def network(self):
        s = self.settings
        return networks.network(s.model, self.VOCAB, width=s.width, layers=s.layers,
                                dt_min=s.dt_min)

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

    def logits(self, model, inputs, last, **options):
        """The logits of the last positions, and the state."""
        low = self.BF16 and self.device == "cuda"
        with torch.autocast(self.device, torch.bfloat16, enabled=low,
                            cache_enabled=False):  # a CUDA graph would miss what a cache keeps
            return model(inputs, last=last, **options)

    def loss(self, model, batch):
        inputs, targets = batch
        logits, _ = self.logits(model, inputs, targets.shape[1])
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class _Answers(_Task):
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
        """The share of answers that are right; sequences come in pieces, if piece says how long."""
        right = 0
        for rows, answers in zip(inputs.split(self.settings.batch),
                                 targets.split(self.settings.batch)):
            right += (self.answers(model, rows, answers.shape[1], piece) == answers).sum()
        return right.item() / targets.numel()

    def answers(self, model, inputs, count, piece):
        if piece is None:
            logits, _ = self.logits(model, inputs, count)
        else:
            state = None
            for part in inputs.split(piece, dim=1):
                logits, state = self.logits(model, part, count, state=state, return_state=True)
        return logits[..., : self.VOCAB].argmax(-1)


class Copying(_Answers):
    """Selective copying: 16 tokens of 14 kinds among 4096 positions, then all of them in order.

    Sizes as in the Mamba paper, section 4.1.1. Accuracy is the share of tokens that are right.
    """

    VOCAB, TOKENS, BF16 = 16, 16, True

    def sequences(self, count, length, rng):
        return self.on_device(data.selective_copying(count, length, self.TOKENS, self.VOCAB, rng))

    def draw(self, count, length, generator):
        return sequences.selective_copying(count, length, self.TOKENS, self.VOCAB, generator)


class Induction(_Answers):
    """Induction heads: what followed the trigger, one of 16 tokens, when it came before?

    Sizes as in the Mamba paper, section 4.1.2: trained at one length, tested at many.
    """

    VOCAB = 16

    def sequences(self, count, length, rng):
        return self.on_device(data.induction_heads(count, length, self.VOCAB, rng))

    def draw(self, count, length, generator):
        return sequences.induction_heads(count, length, self.VOCAB, generator)


class Recall(_Answers):
    """Associative recall: pairs of one of 64 keys and one of 64 values, then 16 keys: which values?

    The length is that of the pairs: 64 are 32 pairs. Accuracy is the share of right values.
    """

    VOCAB, QUERIES = 128, 16

    def sequences(self, count, length, rng):
        return self.on_device(data.associative_recall(count, length // 2, self.VOCAB,
                                                      min(self.QUERIES, length // 2), rng))

    def draw(self, count, length, generator):
        pairs = length // 2
        return sequences.associative_recall(count, pairs, self.VOCAB, min(self.QUERIES, pairs),
                                            generator)


class Char(_Task):
    """The next letter of a novel, Pride and Prejudice, whose last tenth is for the measurement.

    Bits a character over that tenth, in windows of one length that know nothing of each other.
    """

    BF16 = True

    def __init__(self, settings, device):
        super().__init__(settings, device)
        self.text, self.test = (torch.tensor(data.novel(part)[0], device=device)
                                for part in ("train", "test"))
        self.VOCAB = len(data.novel()[1])

    def draw(self, count, length, generator):
        start = torch.randint(0, len(self.text) - length, (count, 1), generator=generator,
                              device=self.device)
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


TASKS = {"copying": Copying, "induction": Induction, "recall": Recall, "char": Char}
