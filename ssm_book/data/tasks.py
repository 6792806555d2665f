"""Synthetic tasks that need a memory, as token sequences.

A task returns ``inputs`` (batch, L) and ``targets`` (batch, K), both integer tokens: a model reads the
inputs, and its outputs at the last K positions are compared with the targets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ssm_core._checks import as_generator, as_int

__all__ = ["associative_recall", "induction_heads", "selective_copying"]


def selective_copying(
    batch: int,
    length: int = 4096,
    tokens: int = 16,
    vocab: int = 16,
    seed: int | np.random.Generator = 0,
    *,
    scattered: bool = True,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    r"""Task: repeat the tokens that stood among blanks, in their order.

    ``tokens`` positions out of ``length`` hold a token drawn from 1 to vocab − 2, all others the
    blank 0. Then the marker vocab − 1 asks once for each token::

        0 0 5 0 3 0 0 0 1 0 7 7 7  ->  5 3 1      (length 10, tokens 3, vocab 8)

    Where the tokens stand is drawn anew for each sequence, so that a filter that is the same at all
    times cannot know which inputs to keep. With ``scattered=False`` they stand at the start, and
    a fixed delay solves the task.

    Args:
        batch (int): sequences, at least 1.
        length (int): positions before the markers, at least ``tokens``.
        tokens (int): tokens to remember, at least 1.
        vocab (int): numbers in use: blank, marker, and at least one token, so 3 or more.
        seed (int or numpy.random.Generator): same seed, same sequences.
        scattered (bool): tokens at random positions, or at the start.

    Returns:
        inputs (int64): (batch, length + tokens).
        targets (int64): the tokens in their order (batch, tokens).

    Raises:
        ValueError: a number below its bound, more tokens than positions.
        TypeError: an argument of the wrong kind.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    section 4.1.1, with the defaults of its experiment; after Jing et al., "Gated Orthogonal
    Recurrent Units: On Learning to Forget" (2019).

    Example:
        >>> from ssm_book.data import selective_copying
        >>> inputs, targets = selective_copying(1, length=10, tokens=3, vocab=8, seed=0)
        >>> print(*inputs[0], "->", *targets[0])
        6 4 0 0 0 0 0 0 0 4 7 7 7 -> 6 4 4
    """
    batch, tokens = as_int(batch, "batch"), as_int(tokens, "tokens")
    length = as_int(length, "length", low=tokens)
    vocab = as_int(vocab, "vocab", low=3)
    rng = as_generator(seed, "seed")
    targets = rng.integers(1, vocab - 1, (batch, tokens))  # (batch, tokens)
    positions = np.arange(tokens)[None]  # (1, tokens)
    if scattered:
        positions = np.sort(_distinct(rng, batch, length, tokens), axis=1)  # (batch, tokens)
    inputs = np.zeros((batch, length + tokens), dtype=np.int64)  # (batch, length + tokens)
    np.put_along_axis(inputs, np.broadcast_to(positions, targets.shape), targets, axis=1)
    inputs[:, length:] = vocab - 1
    return inputs, targets


def induction_heads(
    batch: int, length: int = 256, vocab: int = 16, seed: int | np.random.Generator = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    r"""Task: say what followed the trigger when it came before.

    Random tokens from 0 to vocab − 2; the trigger vocab − 1 stands once among them, at a random
    place, and again at the end::

        4 1 7 3 6 2 0 5 3 7  ->  3                (length 10, vocab 8)

    Args:
        batch (int): sequences, at least 1.
        length (int): length of a sequence, both triggers included, at least 3.
        vocab (int): numbers in use, at least 2.
        seed (int or numpy.random.Generator): same seed, same sequences.

    Returns:
        inputs (int64): (batch, length).
        targets (int64): the token after the first trigger (batch, 1).

    Raises:
        ValueError: a number below its bound.
        TypeError: an argument of the wrong kind.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    section 4.1.2, with the defaults of its training; after Olsson et al., "In-context Learning and
    Induction Heads" (2022).

    Example:
        >>> from ssm_book.data import induction_heads
        >>> inputs, targets = induction_heads(1, length=10, vocab=8, seed=0)
        >>> print(*inputs[0], "->", *targets[0])
        5 4 3 1 2 7 0 0 1 7 -> 0
    """
    batch, length = as_int(batch, "batch"), as_int(length, "length", low=3)
    vocab = as_int(vocab, "vocab", low=2)
    rng = as_generator(seed, "seed")
    inputs = rng.integers(0, vocab - 1, (batch, length))  # (batch, length)
    place = rng.integers(0, length - 2, (batch, 1))  # (batch, 1), of the first trigger
    np.put_along_axis(inputs, place, vocab - 1, axis=1)
    inputs[:, -1] = vocab - 1
    return inputs, np.take_along_axis(inputs, place + 1, axis=1)


def associative_recall(
    batch: int,
    pairs: int = 8,
    vocab: int = 32,
    queries: int = 1,
    seed: int | np.random.Generator = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    r"""Task: say which value came with a key.

    Pairs of a key and a value, each key once, then some of the keys again. Keys are the lower half
    of the vocabulary, values the upper half::

        2 7 0 4 3 7 3 2  ->  7 7                  (pairs 3, queries 2, vocab 8)

    Args:
        batch (int): sequences, at least 1.
        pairs (int): pairs to remember, from 1 to vocab / 2, as no key comes twice.
        vocab (int): numbers in use, keys and values, at least 2.
        queries (int): keys asked for, different ones, from 1 to ``pairs``.
        seed (int or numpy.random.Generator): same seed, same sequences.

    Returns:
        inputs (int64): (batch, 2 · pairs + queries).
        targets (int64): the value of each key asked for (batch, queries).

    Raises:
        ValueError: a number outside its bounds.
        TypeError: an argument of the wrong kind.

    Source: Ba et al., "Using Fast Weights to Attend to the Recent Past" (2016), section 4.1; with
    several queries Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language
    Models" (2023).

    Example:
        >>> from ssm_book.data import associative_recall
        >>> inputs, targets = associative_recall(1, pairs=3, vocab=8, queries=2, seed=0)
        >>> print(*inputs[0], "->", *targets[0])
        3 4 2 7 1 6 1 3 -> 6 4
    """
    batch, vocab = as_int(batch, "batch"), as_int(vocab, "vocab", low=2)
    pairs, queries = as_int(pairs, "pairs"), as_int(queries, "queries")
    keys_there_are = vocab // 2
    if pairs > keys_there_are:
        raise ValueError(f"pairs is {pairs}, expected at most half of vocab, {keys_there_are}")
    if queries > pairs:
        raise ValueError(f"queries is {queries}, expected at most pairs, {pairs}")
    rng = as_generator(seed, "seed")
    keys = _distinct(rng, batch, keys_there_are, pairs)  # (batch, pairs)
    values = rng.integers(keys_there_are, vocab, (batch, pairs))  # (batch, pairs)
    asked = _distinct(rng, batch, pairs, queries)  # (batch, queries)
    told = np.stack([keys, values], axis=-1).reshape(batch, 2 * pairs)  # (batch, 2 · pairs)
    inputs = np.concatenate([told, np.take_along_axis(keys, asked, axis=1)], axis=1)
    return inputs, np.take_along_axis(values, asked, axis=1)


def _distinct(rng, rows, size, count):
    """Draw ``count`` different numbers below ``size`` in random order for each row: (rows, count)."""
    order = rng.random((rows, size))  # (rows, size)
    drawn = np.argpartition(order, count - 1, axis=1)[:, :count]  # (rows, count), a random set
    rank = np.argsort(np.take_along_axis(order, drawn, axis=1), axis=1)
    return np.take_along_axis(drawn, rank, axis=1)
