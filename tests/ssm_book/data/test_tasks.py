"""Synthetic tasks against the definition of each."""

from __future__ import annotations

import numpy as np
import pytest

from ssm_book import data

TASKS = {
    "selective_copying": lambda batch, seed: data.selective_copying(batch, 50, 5, 9, seed),
    "induction_heads": lambda batch, seed: data.induction_heads(batch, 20, 7, seed),
    "associative_recall": lambda batch, seed: data.associative_recall(batch, 6, 20, 3, seed),
}


@pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)
def test_tasks_follow_their_seed(make):
    one, same, other = make(40, 3), make(40, np.random.default_rng(3)), make(40, 4)
    for a, b, c in zip(one, same, other):
        assert a.dtype == np.int64 and a.flags.owndata and a.shape == b.shape == c.shape
        assert np.array_equal(a, b) and not np.array_equal(a, c)
    rng = np.random.default_rng(0)  # a generator goes on: the next batch is another
    assert not np.array_equal(make(40, rng)[0], make(40, rng)[0])
    before = np.random.get_state()[1].copy()
    make(2, 0)
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize(("length", "tokens", "vocab"), [(50, 5, 9), (5, 5, 3), (4096, 16, 16)])
def test_selective_copying_asks_for_the_tokens_in_their_order(length, tokens, vocab):
    inputs, targets = data.selective_copying(60, length, tokens, vocab, seed=1)
    assert inputs.shape == (60, length + tokens) and targets.shape == (60, tokens)
    assert (inputs[:, length:] == vocab - 1).all()
    for row, target in zip(inputs[:, :length], targets):
        assert row[row != 0].tolist() == target.tolist()
    assert {*np.unique(targets).tolist()} == {*range(1, vocab - 1)}


def test_selective_copying_scatters_evenly_and_independently():
    inputs, _ = data.selective_copying(20_000, 10, 3, 9, seed=2)
    here = inputs[:, :10] != 0
    np.testing.assert_allclose(
        here.mean(axis=0), 0.3, rtol=0, atol=0.015
    )  # 4.6 standard deviations
    together = here.T.astype(float) @ here / len(here)
    pairs = together[~np.eye(10, dtype=bool)]
    np.testing.assert_allclose(pairs, 3 / 10 * 2 / 9, rtol=0, atol=0.009)
    tokens = inputs[:, :10][here]
    np.testing.assert_allclose(np.bincount(tokens)[1:] / len(tokens), 1 / 7, rtol=0, atol=0.007)


def test_copying_that_is_not_scattered_is_a_fixed_delay():
    inputs, targets = data.selective_copying(30, 20, 4, 9, seed=3, scattered=False)
    assert np.array_equal(inputs[:, :4], targets) and (inputs[:, 4:20] == 0).all()


@pytest.mark.parametrize(("length", "vocab"), [(20, 7), (3, 2), (256, 16)])
def test_induction_heads_ask_what_followed_the_trigger(length, vocab):
    inputs, targets = data.induction_heads(200, length, vocab, seed=1)
    assert inputs.shape == (200, length) and targets.shape == (200, 1)
    for row, target in zip(inputs, targets):
        first, last = np.flatnonzero(row == vocab - 1)
        assert last == length - 1 and first < length - 2
        assert row[first + 1] == target[0] < vocab - 1
        assert 0 <= row.min()


def test_induction_heads_put_the_trigger_anywhere():
    inputs, targets = data.induction_heads(20_000, 12, 6, seed=2)
    places = (inputs == 5).argmax(axis=1)
    np.testing.assert_allclose(np.bincount(places) / 20_000, np.full(10, 0.1), rtol=0, atol=0.01)
    np.testing.assert_allclose(
        np.bincount(targets[:, 0]) / 20_000, np.full(5, 0.2), rtol=0, atol=0.013
    )


@pytest.mark.parametrize(
    ("pairs", "vocab", "queries"), [(6, 20, 3), (8, 16, 8), (1, 2, 1), (3, 9, 1)]
)
def test_associative_recall_asks_for_the_value_of_a_key(pairs, vocab, queries):
    inputs, targets = data.associative_recall(100, pairs, vocab, queries, seed=1)
    assert inputs.shape == (100, 2 * pairs + queries) and targets.shape == (100, queries)
    half = vocab // 2
    for row, target in zip(inputs, targets):
        keys, values, asked = row[: 2 * pairs : 2], row[1 : 2 * pairs : 2], row[2 * pairs :]
        known = dict(zip(keys.tolist(), values.tolist()))
        assert len(known) == pairs and len({*asked.tolist()}) == queries
        assert [known[key] for key in asked.tolist()] == target.tolist()
        assert 0 <= keys.min() and keys.max() < half <= values.min() and values.max() < vocab


def test_associative_recall_draws_keys_and_queries_evenly():
    inputs, _ = data.associative_recall(20_000, 3, 8, 2, seed=2)
    for column in (0, 2, 4, 6, 7):
        np.testing.assert_allclose(
            np.bincount(inputs[:, column]) / 20_000, np.full(4, 0.25), rtol=0, atol=0.014
        )
    place = (inputs[:, :6:2] == inputs[:, 6:7]).argmax(axis=1)
    np.testing.assert_allclose(np.bincount(place) / 20_000, np.full(3, 1 / 3), rtol=0, atol=0.015)


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda: data.selective_copying(64, 4096, 16, 16), 64 * 4096),
        (lambda: data.induction_heads(8, 2**18, 16), 8 * 2**18),
        (lambda: data.associative_recall(64, 256, 8192, 64), 64 * 4096),  # each row orders all keys
    ],
)
def test_long_tasks_take_memory_in_proportion(with_peak_memory, make, numbers):
    (inputs, targets), peak = with_peak_memory(make)
    assert inputs.shape[0] == targets.shape[0] and inputs.dtype == targets.dtype == np.int64
    assert peak < 6 * 8 * numbers


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (data.selective_copying, {"batch": 0}, "batch is 0"),
        (
            data.selective_copying,
            {"batch": 1, "length": 9, "tokens": 10},
            "length is 9.*at least 10",
        ),
        (data.selective_copying, {"batch": 1, "vocab": 2}, "vocab is 2"),
        (data.induction_heads, {"batch": 1, "length": 2}, "length is 2"),
        (data.induction_heads, {"batch": 1, "vocab": 1}, "vocab is 1"),
        (data.associative_recall, {"batch": 1, "pairs": 9, "vocab": 17}, "pairs is 9.*of vocab, 8"),
        (data.associative_recall, {"batch": 1, "pairs": 3, "queries": 4}, "queries is 4.*pairs, 3"),
        (data.associative_recall, {"batch": 1, "queries": 0}, "queries is 0"),
    ],
)
def test_tasks_refuse_what_cannot_be(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
