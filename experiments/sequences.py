"""The tasks of :mod:`ssm_book.data` drawn by PyTorch, on the device that trains.

NumPy takes 5 ms for a batch of 64 sequences of 4096 tokens, as long as a GPU trains on it; here it
is a share of that. Definitions, arguments and results are those of the functions of the same name,
other numbers come from the same distribution. Networks are measured on those of NumPy.
"""

import numpy as np
import torch


def generator(device, *key):
    """A generator that depends on some whole numbers alone."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed))


def selective_copying(batch, length, tokens, vocab, generator):
    """Inputs (batch, length + tokens) and targets (batch, tokens)."""
    device = generator.device
    targets = torch.randint(1, vocab - 1, (batch, tokens), generator=generator, device=device)
    positions = _distinct(batch, length, tokens, generator).sort(1).values
    inputs = torch.full((batch, length + tokens), vocab - 1, device=device)
    inputs[:, :length] = 0
    return inputs.scatter_(1, positions, targets), targets


def induction_heads(batch, length, vocab, generator):
    """Inputs (batch, length) and targets (batch, 1)."""
    device = generator.device
    inputs = torch.randint(0, vocab - 1, (batch, length), generator=generator, device=device)
    place = torch.randint(0, length - 2, (batch, 1), generator=generator, device=device)
    inputs.scatter_(1, place, vocab - 1)
    inputs[:, -1] = vocab - 1
    return inputs, inputs.gather(1, place + 1)


def associative_recall(batch, pairs, vocab, queries, generator):
    """Inputs (batch, 2 · pairs + queries) and targets (batch, queries)."""
    keys = _distinct(batch, vocab // 2, pairs, generator)
    values = torch.randint(
        vocab // 2, vocab, (batch, pairs), generator=generator, device=generator.device
    )
    asked = _distinct(batch, pairs, queries, generator)
    told = torch.stack([keys, values], dim=-1).flatten(1)
    return torch.cat([told, keys.gather(1, asked)], dim=1), values.gather(1, asked)


def _distinct(rows, size, count, generator):
    """``count`` different numbers below ``size`` in random order for each row: (rows, count)."""
    order = torch.rand(rows, size, generator=generator, device=generator.device)
    return order.topk(count, dim=1).indices
