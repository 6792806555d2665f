"""The checks of the chapter on training accept every right answer and explain wrong ones."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ssm_book.exercises import (
    check_bits_in_pieces,
    check_delta_write,
    check_least_bits,
    check_most_texts,
    check_plateau,
    check_rewritten,
    check_select_only,
    check_share_without_order,
)


def share_by_series(tokens, kinds):
    mean = 0.0
    for most in range(tokens):
        series = np.array([1 / math.factorial(j) for j in range(most + 1)])
        product = np.eye(1, tokens + 1)[0]
        for _ in range(kinds):
            product = np.convolve(product, series)[: tokens + 1]
        mean += 1 - product[tokens] * math.factorial(tokens) / kinds**tokens
    return mean / tokens


def share_by_chance(tokens, kinds):
    words = np.random.default_rng(5).integers(kinds, size=(100_000, tokens))
    counts = np.array([(words == kind).sum(1) for kind in range(kinds)])
    return counts.max(0).mean() / tokens


def plateau(thresholds, scores, reduce=np.min, slack=0.02):
    worst = reduce(scores, axis=0)
    good = [*(worst >= worst.max() - slack).tolist(), False]
    best = (0, 0)
    for i in range(len(worst)):
        j = i
        while good[j]:
            j += 1
        if j - i > best[1] - best[0]:
            best = i, j
    return thresholds[best[0]], thresholds[best[1] - 1]


def plateau_by_text(thresholds, scores):
    worst = scores.min(0)
    marks = "".join("x" if fine else " " for fine in worst >= worst.max() - 0.02)
    longest = max(marks.split(), key=len)
    start = marks.index(longest)
    return np.array([thresholds[start], thresholds[start + len(longest) - 1]])


def plateau_with_holes(thresholds, scores):
    worst = scores.min(0)
    good = thresholds[worst >= worst.max() - 0.02]
    return good[0], good[-1]


def first_plateau(thresholds, scores):
    worst = scores.min(0)
    good = [*(worst >= worst.max() - 0.02), False]
    begin = good.index(True)
    return thresholds[begin], thresholds[good.index(False, begin) - 1]


def last_plateau(thresholds, scores):
    return plateau(thresholds[::-1], scores[:, ::-1])[::-1]


def widest_plateau(thresholds, scores):
    worst = scores.min(0)
    good = worst >= worst.max() - 0.02
    ends = range(len(good))
    spans = [(i, j) for i in ends for j in ends if i <= j and good[i : j + 1].all()]
    best = max(spans, key=lambda span: thresholds[span[1]] - thresholds[span[0]])
    return thresholds[best[0]], thresholds[best[1]]


def in_pieces(model, state, tokens, piece):
    total = 0.0
    for start in range(0, len(tokens), piece):
        costs, state = model(tokens[start : start + piece], state)
        following = tokens[start + 1 : start + piece + 1]
        total += costs[np.arange(len(following)), following].sum()
    return total / (len(tokens) - 1)


def in_pieces_with_the_row_before(model, state, tokens, piece):
    paid, last = [], None
    for start in range(0, len(tokens), piece):
        part = tokens[start : start + piece]
        costs, state = model(part, state)
        rows = costs[:-1] if last is None else np.concatenate([last[None], costs[:-1]])
        foretold = part[1:] if last is None else part
        paid += [row[token] for row, token in zip(rows, foretold)]
        last = costs[-1]
    return np.mean(paid)


def pieces_that_forget(model, state, tokens, piece):
    return in_pieces(lambda part, _: model(part, state), state, tokens, piece)


def pieces_without_seams(model, state, tokens, piece):
    paid = []
    for start in range(0, len(tokens), piece):
        part = tokens[start : start + piece]
        costs, state = model(part, state)
        paid += [row[token] for row, token in zip(costs, part[1:])]
    return np.mean(paid)


def pieces_of_themselves(model, state, tokens, piece):
    paid = []
    for start in range(0, len(tokens), piece):
        part = tokens[start : start + piece]
        costs, state = model(part, state)
        paid += [row[token] for row, token in zip(costs, part)]
    return np.mean(paid)


def pieces_of_equal_weight(model, state, tokens, piece):
    means = []
    for start in range(0, len(tokens), piece):
        costs, state = model(tokens[start : start + piece], state)
        following = tokens[start + 1 : start + piece + 1]
        if len(following):
            means.append(costs[np.arange(len(following)), following].mean())
    return np.mean(means)


WEIGHTS, TOKEN, STATE = 259_597_824, 36_864, 2_654_208


def texts(memory, prompt, new):
    left = max(0, memory - WEIGHTS)
    return left // ((prompt + new) * TOKEN), left // STATE


def texts_by_trying(memory, prompt, new):
    def most(each):
        count = 0
        while WEIGHTS + (count + 1) * each <= memory:
            count += 1
        return count

    return np.array([most((prompt + new) * TOKEN), most(STATE)])


def table(pairs, keys, values):
    return math.log2(math.comb(keys, pairs)) + pairs * math.log2(values)


def table_by_lgamma(pairs, keys, values):
    choose = math.lgamma(keys + 1) - math.lgamma(pairs + 1) - math.lgamma(keys - pairs + 1)
    return (choose + pairs * math.log(values)) / math.log(2)


def pieces_rolled(model, state, tokens, piece, divisor=0):
    total = 0.0
    following = np.roll(tokens, -1)
    for start in range(0, len(tokens), piece):
        costs, state = model(tokens[start : start + piece], state)
        part = following[start : start + piece]
        total += costs[np.arange(len(part)), part].sum()
    return total / (len(tokens) - divisor)


def pieces_rolled_alone(model, state, tokens, piece):
    paid = []
    for start in range(0, len(tokens), piece):
        part = tokens[start : start + piece]
        costs, state = model(part, state)
        paid += list(costs[np.arange(len(part)), np.roll(part, -1)])
    return np.mean(paid)


def counts_by_chance(tokens, kinds, words=1000):
    drawn = np.random.default_rng(7).integers(kinds, size=(words, tokens))
    return np.array([(drawn == kind).sum(1) for kind in range(kinds)]).max(0).mean()


class SelectOnly(nn.Module):
    def __init__(self, proj, sizes, keep, instead=None):
        super().__init__()
        self.proj, self.vector = proj, nn.Parameter(torch.randn(proj.in_features))
        kept = [torch.full((size,), part in keep) for part, size in zip(("dt", "B", "C"), sizes)]
        self.register_buffer("kept", torch.cat(kept))
        self.instead = instead

    def forward(self, x):
        constant = self.proj(self.instead(x) if self.instead else self.vector)
        return torch.where(self.kept, self.proj(x), constant)


class SelectOnlyByConcatenation(nn.Module):
    """Each part on its own, with a constant that is a parameter itself."""

    def __init__(self, proj, sizes, keep):
        super().__init__()
        self.proj, self.sizes, self.keep = proj, sizes, keep
        self.constants = nn.ParameterList(torch.randn(size) for size in sizes)

    def forward(self, x):
        parts = zip(("dt", "B", "C"), self.proj(x).split(self.sizes, dim=-1), self.constants)
        return torch.cat(
            [part if name in self.keep else c.expand_as(part) for name, part, c in parts], dim=-1
        )


def wrong_order(proj, sizes, keep):
    swapped = {"dt": "C", "B": "B", "C": "dt"}
    return SelectOnly(proj, sizes, [swapped[part] for part in keep])


class Loose(nn.Module):
    """Computes with the projection and does not hold it."""

    def __init__(self, proj, sizes, keep):
        super().__init__()
        self.vector = nn.Parameter(torch.randn(proj.in_features))
        inside = SelectOnly(proj, sizes, keep)
        inside.vector = self.vector
        self.call = [inside]

    def forward(self, x):
        return self.call[0](x)


def with_constant(make):
    class Fixed(SelectOnly):
        def forward(self, x):
            return torch.where(self.kept, self.proj(x), make(self.proj(x)))

    return Fixed


def without_gradient(proj, sizes, keep):
    class Fixed(nn.Module):
        def forward(self, x):
            return SelectOnly(proj, sizes, keep, lambda y: torch.ones(6))(x).detach()

    module = Fixed()
    module.proj = proj
    return module


def delta(x, key, value, beta):
    return x @ (np.eye(len(key)) - beta * np.outer(key, key)) + beta * np.outer(value, key)


def delta_by_loops(x, key, value, beta):
    new = x.copy()
    for i in range(len(value)):
        new[i] += beta * (value[i] - x[i] @ key) * key
    return new


RIGHT = [
    (check_share_without_order, share_by_series),
    (check_share_without_order, share_by_chance),
    (check_bits_in_pieces, in_pieces),
    (check_bits_in_pieces, in_pieces_with_the_row_before),
    (check_most_texts, texts),
    (check_most_texts, texts_by_trying),
    (check_plateau, plateau),
    (check_plateau, plateau_by_text),
    (check_rewritten, {"sum": [0.5, 0.55, 0.52], "delta rule": np.array([1.0, 0.98, 0.95])}),
    (check_least_bits, table),
    (check_least_bits, table_by_lgamma),
    (check_select_only, SelectOnly),
    (check_select_only, SelectOnlyByConcatenation),
    (check_delta_write, delta),
    (check_delta_write, delta_by_loops),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, accepts):
    accepts(check, answer)


WRONG = [
    (check_share_without_order, lambda t, k: 1 / k, "guessing among all"),
    (check_share_without_order, lambda t, k: 1 / t, "as if it came once"),
    (check_share_without_order, lambda t, k: 1 / k + (1 - 1 / k) / t, "random order"),
    (check_share_without_order, lambda t, k: t * share_by_series(t, k), "divide it"),
    (check_share_without_order, lambda t, k: 0.99, "over all words"),
    (check_share_without_order, lambda t, k: None, "did you forget to return"),
    (check_bits_in_pieces, pieces_that_forget, "hand on the state"),
    (check_bits_in_pieces, pieces_without_seams, "left out"),
    (check_bits_in_pieces, pieces_of_themselves, "not of token k"),
    (check_bits_in_pieces, pieces_of_equal_weight, "mean of the means"),
    (check_bits_in_pieces, lambda *a: in_pieces(*a) * (1 - 1 / len(a[2])), "one fewer"),
    (check_bits_in_pieces, lambda *a: in_pieces(*a) * (len(a[2]) - 1), "That is the sum"),
    (check_bits_in_pieces, lambda m, s, t, n: in_pieces(m, s, t, len(t)), "at most"),
    (check_bits_in_pieces, lambda m, s, t, n: m(t[:n], m(t[:n], s))[0].mean(), "else than a state"),
    (check_bits_in_pieces, lambda *a: 1 + in_pieces(*a), "wherever the pieces end"),
    (check_bits_in_pieces, lambda *a: None, "did you forget to return"),
    (check_most_texts, lambda m, p, n: texts(m + WEIGHTS, p, n), "take memory as well"),
    (check_most_texts, lambda m, p, n: texts(m, p, 0), "new tokens go into"),
    (
        check_most_texts,
        lambda m, p, n: ((m - WEIGHTS) // ((p + n) * TOKEN), (m - WEIGHTS) // STATE),
        "negative",
    ),
    (
        check_most_texts,
        lambda m, p, n: ((m - WEIGHTS) / ((p + n) * TOKEN), (m - WEIGHTS) / STATE),
        "whole texts",
    ),
    (check_most_texts, lambda m, p, n: texts(m, p, n)[::-1], "comes first"),
    (
        check_most_texts,
        lambda m, p, n: (texts(m, p, n)[0], (m - WEIGHTS) // ((p + n) * STATE)),
        "does not grow",
    ),
    (
        check_most_texts,
        lambda m, p, n: ((m - WEIGHTS) // ((p + n) * TOKEN // 2), texts(m, p, n)[1]),
        "two of each",
    ),
    (check_most_texts, lambda m, p, n: texts(m, p, n)[0], "two numbers"),
    (check_most_texts, lambda m, p, n: (5, 5), "Take the weights off"),
    (check_least_bits, lambda p, k, v: p * math.log2(v), "which keys"),
    (check_least_bits, lambda p, k, v: math.log2(math.comb(k, p)), "has a value"),
    (check_least_bits, lambda p, k, v: math.log2(math.perm(k, p)) + p * math.log2(v), "no order"),
    (check_least_bits, lambda p, k, v: p * math.log2(k * v), "come twice"),
    (check_least_bits, lambda p, k, v: table(p, k, v) * math.log(2), "nats"),
    (check_least_bits, lambda p, k, v: math.ceil(table(p, k, v)), "Do not round"),
    (check_least_bits, lambda p, k, v: int(table(p, k, v)), "Do not round"),
    (
        check_least_bits,
        lambda p, k, v: math.log2(float(math.comb(k, p)) * float(v) ** p),
        "too large",
    ),
    (check_least_bits, lambda p, k, v: table(p, k, v) + 1, "Count the tables"),
    (check_least_bits, lambda p, k, v: float("nan"), "finite number"),
    (check_share_without_order, counts_by_chance, "divide it"),
    (check_share_without_order, lambda t, k: float("nan"), "finite number"),
    (check_share_without_order, lambda t, k: np.ones(t), "one number"),
    (check_bits_in_pieces, pieces_rolled, "np.roll brings the first character to the end"),
    (
        check_bits_in_pieces,
        lambda *a: pieces_rolled(*a, divisor=1),
        "np.roll brings the first character to the end",
    ),
    (check_bits_in_pieces, pieces_rolled_alone, "first character of each piece to its end"),
    (check_bits_in_pieces, lambda *a: np.nan, "finite number"),
    (check_most_texts, lambda m, p, n: (np.nan, np.inf), "two finite whole numbers"),
    (check_plateau, lambda *a: None, "did you forget to return"),
    (check_plateau, lambda t, s: t[0], "two numbers"),
    (check_plateau, lambda t, s: plateau(t, s)[::-1], "lowest comes first"),
    (check_plateau, lambda t, s: plateau(np.arange(len(t)), s), "places in the list"),
    (check_plateau, plateau_with_holes, "unbroken"),
    (check_plateau, first_plateau, "later range is longer"),
    (check_plateau, last_plateau, "equal length"),
    (check_plateau, widest_plateau, "most thresholds"),
    (check_plateau, lambda t, s: plateau(t, s, np.mean), "hides the worst"),
    (check_plateau, lambda t, s: plateau(t, s, np.max), "best model"),
    (check_plateau, lambda t, s: plateau(t, s, slack=0.0), "good enough"),
    (check_plateau, lambda t, s: (-1.0, np.nan), "worst model at each"),
    (check_rewritten, [0.5, 0.5, 0.5], "a dictionary"),
    (check_rewritten, {"sum": [0.5] * 3}, "a dictionary"),
    (check_rewritten, {"sum": [0.5], "delta rule": [1.0]}, "three seeds"),
    (check_rewritten, {"sum": [52, 50, 51], "delta rule": [99, 98, 97]}, "not percent"),
    (check_rewritten, {"sum": [np.nan] * 3, "delta rule": [1.0] * 3}, "between 0 and 1"),
    (check_rewritten, {"sum": [0.9] * 3, "delta rule": [1.0] * 3}, "which of two values"),
    (check_rewritten, {"sum": [0.1] * 3, "delta rule": [1.0] * 3}, "at random"),
    (check_rewritten, {"sum": [0.5] * 3, "delta rule": [0.5] * 3}, "after it has written"),
    (check_select_only, lambda *a: None, "did you forget to return"),
    (
        check_select_only,
        lambda proj, sizes, keep: proj(torch.ones(6)),
        "expected a torch.nn.Module",
    ),
    (check_select_only, lambda proj, sizes, keep: nn.Linear(6, 3), "returns shape"),
    (check_select_only, lambda proj, sizes, keep: proj, "still depends on the sample"),
    (check_select_only, lambda *a: SelectOnly(*a[:2], ()), "should be selective"),
    (check_select_only, wrong_order, "The order of the parts"),
    (
        check_select_only,
        lambda *a: SelectOnly(*a, instead=lambda x: x.mean(1, keepdim=True)),
        "a mean over the sequence",
    ),
    (
        check_select_only,
        lambda *a: SelectOnly(*a, instead=lambda x: x.mean((0, 1))),
        "depends on the batch",
    ),
    (check_select_only, with_constant(torch.zeros_like), "nothing of it is learned"),
    (check_select_only, with_constant(lambda y: torch.ones_like(y)), "nothing of it is learned"),
    (check_select_only, without_gradient, "nothing of it is learned"),
    (check_select_only, Loose, "among the parameters"),
    (check_delta_write, lambda *a: None, "did you forget to return"),
    (check_delta_write, lambda x, k, v, b: delta(x, k, v, b).T, "transpose"),
    (check_delta_write, lambda x, k, v, b: x + b * np.outer(v, k), "erases nothing"),
    (
        check_delta_write,
        lambda x, k, v, b: x - np.outer(x @ k, k) + b * np.outer(v, k),
        "writes only a fraction",
    ),
    (
        check_delta_write,
        lambda x, k, v, b: x - b * np.outer(x @ k, k) + np.outer(v, k),
        "writes the whole value",
    ),
    (check_delta_write, lambda x, k, v, b: x + b * np.outer(x @ k - v, k), "The sign"),
    (check_delta_write, lambda x, k, v, b: x - b * np.outer(x @ k, k), "writes nothing"),
    (
        check_delta_write,
        lambda x, k, v, b: x - b * np.outer(x @ k - v, k) / (k @ k),
        "Do not divide",
    ),
    (check_delta_write, lambda x, k, v, b: (1 - b) * x + b * np.outer(v, k), "whole state fade"),
    (check_delta_write, lambda x, k, v, b: x + np.nan, "not finite"),
    (check_delta_write, lambda x, k, v, b: x + 1, "a key of length 1"),
]


@pytest.mark.parametrize("check, answer, words", WRONG)
def test_wrong_answers_are_explained(check, answer, words, explains):
    with np.errstate(all="ignore"):
        explains(check, answer, words)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "check, answer",
    [
        (check_share_without_order, lambda t, k: np.nan),
        (check_bits_in_pieces, lambda *a: np.float64(0) / 0),
        (check_least_bits, lambda p, k, v: np.nan),
        (check_most_texts, lambda m, p, n: (np.nan, np.nan)),
        (check_delta_write, lambda x, k, v, b: x / np.float64(0)),
    ],
)
def test_an_answer_that_is_not_a_number_brings_no_warning(check, answer, explains):
    explains(check, answer, "finite")
