"""Checks for the chapter on training."""

import math

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned

__all__ = [
    "check_bits_in_pieces",
    "check_delta_write",
    "check_least_bits",
    "check_most_texts",
    "check_plateau",
    "check_rewritten",
    "check_select_only",
    "check_share_without_order",
]


def check_share_without_order(share_without_order):
    """Check ``share_without_order(tokens, kinds)``: the best score without any order.

    Args:
        share_without_order (callable): takes the number of letters and of kinds of letters; returns
            the share of right answers, to three digits.
    """
    for tokens, kinds in ((1, 5), (2, 6), (4, 6), (3, 1), (8, 3), (16, 14)):
        want = _share_of_the_commonest(tokens, kinds)
        got = _number(share_without_order(tokens, kinds), "share_without_order", "share")
        matched = 1 / kinds + (1 - 1 / kinds) / tokens
        hints = (
            (
                1 / kinds,
                "That is guessing among all kinds: use that some letters came and others did not.",
            ),
            (1 / tokens, "That counts a letter as if it came once."),
            (
                matched,
                "That is the score of naming the letters that came in a random order. Naming the "
                "most frequent of them every time is better.",
            ),
            (
                want * tokens,
                "That is the mean count of the most frequent letter: divide it by the "
                "number of letters.",
            ),
        )
        why = next(
            # an answer by drawing words is off by a little, also where it is not yet divided
            (hint for wrong, hint in hints if abs(got - wrong) < max(1e-3, 4e-3 * abs(wrong))),
            "For one word it is the count of its most frequent letter over the number of letters; "
            "take the mean over all words, which are equally likely.",
        )
        expect(
            abs(got - want) < 0.004,
            f"share_without_order({tokens}, {kinds}) is {got:.4f}; expected {want:.4f}. {why}",
        )
    passed("the best score without any order")


def _number(answer, name, what):
    """The one finite number that was returned."""
    answer = np.asarray(returned(answer, name), dtype=float)
    expect(
        answer.shape == (), f"{name} returns shape {answer.shape}; expected one number, the {what}."
    )
    expect(np.isfinite(answer), f"{name} returns {answer}; expected a finite number, the {what}.")
    return float(answer)


def _share_of_the_commonest(tokens, kinds):
    """The mean of the largest of ``kinds`` counts of ``tokens`` letters, over ``tokens``."""
    mean = 0.0
    for most in range(
        tokens
    ):  # words in which no letter comes more than so often, one kind more each
        words = [1] + [0] * tokens
        for _ in range(kinds):
            words = [
                sum(math.comb(t, j) * words[t - j] for j in range(min(t, most) + 1))
                for t in range(tokens + 1)
            ]
        mean += 1 - words[tokens] / kinds**tokens
    return mean / tokens


def check_plateau(plateau):
    """Check ``plateau(thresholds, scores)``: where even the worst model is nearly at its best.

    Args:
        plateau (callable): takes thresholds that rise, float64 (t,), and scores, float64
            (models, t); returns the lowest and the highest threshold of the longest range.
    """
    cases = (
        ([0.01, 0.02, 0.05, 0.1, 0.2], [[0.5, 0.9, 1.0, 1.0, 0.6], [0.7, 1.0, 1.0, 0.99, 0.9]]),
        ([0, 1, 2, 3, 4, 5], [[1.0, 1.0, 0.3, 0.99, 1.0, 0.985]]),
        ([0, 1, 2, 3, 4], [[1.0, 0.2, 1.0, 0.2, 1.0]]),
        ([0, 1, 2, 3], [[0.8, 1.0, 1.0, 1.0], [0.6, 0.6, 0.6, 0.5], [0.9, 0.9, 0.9, 0.9]]),
        ([1, 2, 3, 4], [[0.3, 0.6, 0.9, 1.0]]),
        ([1, 2, 3, 4], [[0.95, 0.965, 0.971, 0.969], [0.96, 0.97, 0.98, 0.98]]),
        ([0.5], [[0.4]]),
        ([0, 0.01, 0.02, 0.1, 0.2, 0.5], [[1.0, 1.0, 1.0, 0.3, 1.0, 1.0]]),
    )
    for thresholds, scores in cases:
        thresholds, scores = np.array(thresholds, dtype=float), np.array(scores)
        answer = returned(plateau(thresholds.copy(), scores.copy()), "plateau")
        expect(
            np.shape(answer) == (2,),
            "plateau should return two numbers, the lowest and the highest threshold.",
        )
        got = tuple(float(x) for x in answer)
        want = _longest_run(scores.min(0), thresholds)
        span = _good(scores.min(0))
        hints = (
            (want[::-1], "The lowest comes first."),
            (
                _longest_run(scores.min(0), np.arange(len(thresholds))),
                "Those are places in the list: return the thresholds there.",
            ),
            (
                (thresholds[span[0]], thresholds[span[-1]]),
                "Between these two lie thresholds at which a model fails: the range must be "
                "unbroken.",
            ),
            (_longest_run(scores.min(0), thresholds, first=True), "A later range is longer."),
            (
                _widest_run(scores.min(0), thresholds),
                "The longest range is the one with the most thresholds, however far apart they are.",
            ),
            (
                _longest_run(scores.min(0)[::-1], thresholds[::-1])[::-1],
                "Of two ranges of equal length, the one with lower thresholds counts.",
            ),
            (_longest_run(scores.mean(0), thresholds), "The mean hides the worst model."),
            (_longest_run(scores.max(0), thresholds), "That follows the best model."),
            (
                _longest_run(scores.min(0), thresholds, slack=0.0),
                "A threshold within 0.02 of the best is good enough.",
            ),
        )
        why = next(
            (hint for wrong, hint in hints if got == tuple(wrong)),
            "Take the worst model at each threshold, and compare it with the worst model at the "
            "best threshold.",
        )
        expect(
            got == want,
            f"for thresholds {thresholds.tolist()} and scores {scores.tolist()}, plateau returns "
            f"{got}; expected {want}. {why}",
        )
    passed("a range of thresholds that all models agree on")


def _good(scores, slack=0.02):
    return np.flatnonzero(scores >= scores.max() - slack - 1e-12)


def _longest_run(scores, places, slack=0.02, first=False):
    """The ends of the longest (or first) run of good scores."""
    runs = _runs(scores, slack)
    run = runs[0] if first else max(runs, key=len)  # the first of the longest
    return float(places[run[0]]), float(places[run[-1]])


def _runs(scores, slack=0.02):
    good = _good(scores, slack)
    return np.split(good, np.flatnonzero(np.diff(good) > 1) + 1)


def _widest_run(scores, places):
    """The ends of the run that spans the largest distance."""
    run = max(_runs(scores), key=lambda run: places[run[-1]] - places[run[0]])
    return float(places[run[0]]), float(places[run[-1]])


def check_rewritten(scores):
    """Check what two trained tables recall whose keys were written twice.

    Args:
        scores (dict): for "sum" and for "delta rule", the shares of right answers on four keys, one
            for each seed.
    """
    expect(
        isinstance(scores, dict) and set(scores) == {"sum", "delta rule"},
        'expected a dictionary with the scores of "sum" and of "delta rule".',
    )
    for name, shares in scores.items():
        shares = np.asarray(shares, dtype=float)
        expect(
            shares.ndim == 1 and len(shares) >= 3,
            f"{name}: expected one score for each of at least three seeds.",
        )
        expect(
            bool(np.isfinite(shares).all() and (shares >= 0).all() and (shares <= 1).all()),
            f"{name}: expected shares between 0 and 1, not percent.",
        )
    sums, deltas = (np.asarray(scores[name], dtype=float) for name in ("sum", "delta rule"))
    expect(
        sums.max() < 0.65,
        f"the sum answers {sums.max():.2f}, more than a state that cannot tell which of two values "
        "came later. Does it fade, does it erase, or does the test ask for the earlier one of keys "
        "that came once?",
    )
    expect(
        sums.min() > 0.3,
        f"the sum answers {sums.min():.2f}; one of the two values of a key, at random, is right in "
        "half of the cases. Train it longer, and look whether a value meets its key.",
    )
    expect(
        deltas.min() > 0.8,
        f"with the delta rule a network answers {deltas.min():.2f}. Are keys and queries of length "
        "1, and does it read after it has written? Both rules get the same updates: try more of "
        "them for both.",
    )
    passed("a sum keeps both values, the delta rule the later one")


def check_bits_in_pieces(bits_in_pieces):
    """Check ``bits_in_pieces(model, state, tokens, piece)``: a text in pieces, as in one pass.

    Args:
        bits_in_pieces (callable): takes ``model``, which maps at most ``piece`` tokens and a state to
            what each next character would cost after each token (L, V) and the state after them;
            the state before the text; tokens, int64 (L,); and ``piece``. Returns the mean over all
            characters but the first.
    """
    rng = np.random.default_rng(1)
    V = 6
    weights, mixing = rng.standard_normal((3, V)), rng.standard_normal((V, 3))

    def read(tokens, state):
        rows = []
        for token in tokens:
            state = 0.8 * state + mixing[token]  # never in place
            logits = state @ weights
            rows.append((np.logaddexp.reduce(logits) - logits) / math.log(2))
        return np.array(rows).reshape(-1, V), state

    for L, piece in ((12, 4), (11, 3), (9, 20), (8, 1), (2, 1)):
        tokens, start = rng.integers(0, V, L), rng.standard_normal(3)

        def model(part, state, piece=piece):
            part = np.asarray(part)
            expect(
                len(part) <= piece, f"the model got {len(part)} tokens; it takes at most {piece}."
            )
            expect(
                getattr(state, "shape", None) == (3,),
                "the model got something else than a state: hand on the "
                "second of the two things that it returns.",
            )
            return read(part, state)

        costs = read(tokens, start)[0]
        each = costs[np.arange(L - 1), tokens[1:]]
        want = each.mean()
        pieces = [slice(s, min(s + piece, L)) for s in range(0, L, piece)]
        fresh = np.concatenate([read(tokens[p], start)[0] for p in pieces])
        inside = [costs[p][:-1][np.arange(p.stop - p.start - 1), tokens[p][1:]] for p in pieces]
        own = costs[np.arange(L), tokens]
        known = np.concatenate(inside)
        parts = [each[p] for p in pieces if len(each[p])]
        rolled = costs[np.arange(L), np.roll(tokens, -1)]  # the last row against the first token
        hints = [
            (
                rolled.mean(),
                "np.roll brings the first character to the end, where the last row is compared "
                "with it. Nothing follows the last character: leave that row out.",
            ),
            (
                rolled.sum() / (L - 1),
                "np.roll brings the first character to the end, where the last row is compared "
                "with it. Nothing follows the last character: leave that row out.",
            ),
            (
                np.concatenate(
                    [costs[p][np.arange(p.stop - p.start), np.roll(tokens[p], -1)] for p in pieces]
                ).mean(),
                "np.roll brings the first character of each piece to its end. What follows the "
                "last character of a piece is the first of the next.",
            ),
            (
                fresh[np.arange(L - 1), tokens[1:]].mean(),
                "Each piece begins with the first state again: hand on the state.",
            ),
            (own.mean(), "Row k speaks of the character after token k, not of token k."),
            (
                each.sum() / L,
                "Nothing predicts the first character: there is one fewer to divide by.",
            ),
            (each.sum(), "That is the sum: divide by the number of characters predicted."),
            (
                np.mean([part.mean() for part in parts]),
                "That is the mean of the means of pieces, "
                "in which a short piece counts like a long one.",
            ),
        ]
        if len(known):
            hints += [
                (
                    known.mean(),
                    "The first character of each piece is left out: the last row of "
                    "the piece before speaks of it.",
                ),
                (
                    known.sum() / (L - 1),
                    "The first character of each piece is left out: the "
                    "last row of the piece before speaks of it.",
                ),
            ]
        with np.errstate(all="ignore"):
            got = _number(
                bits_in_pieces(model, start.copy(), tokens.copy(), piece),
                "bits_in_pieces",
                "mean of the bits",
            )
        expect_close(
            f"the bits of {L} characters in pieces of {piece}",
            got,
            want,
            reason(
                got,
                want,
                hints,
                "Row k of the whole text, wherever the pieces end, belongs to character k + 1.",
            ),
            rtol=1e-9,
        )
    passed("a text in pieces, and no character lost between them")


def check_most_texts(most_texts):
    """Check ``most_texts(memory, prompt, new)``: how many texts fit beside the weights.

    Args:
        most_texts (callable): takes bytes, tokens of a prompt and new tokens, all int; returns how
            many texts a Transformer and a Mamba of 130 million numbers can continue at once.
    """
    weights, token, state = 259_597_824, 12 * 2 * 768 * 2, 24 * 1536 * 72
    for memory, prompt, new in (
        (80 * 10**9, 2048, 128),
        (16 * 10**9, 100, 1000),
        (300 * 10**6, 512, 1),
        (10**8, 2048, 128),
    ):
        left = max(0, memory - weights)
        want = left // ((prompt + new) * token), left // state
        answer = returned(most_texts(memory, prompt, new), "most_texts")
        expect(
            np.shape(answer) == (2,),
            "most_texts should return two numbers, for the Transformer and for the Mamba.",
        )
        got = tuple(float(x) for x in answer)
        expect(
            all(map(math.isfinite, got)),
            f"most_texts says {got[0]:g} and {got[1]:g}; expected two finite whole numbers.",
        )
        case = f"{memory / 1e9:g} gigabytes, prompts of {prompt} and {new} new tokens"
        why = "Take the weights off, and divide by what one text keeps."
        if min(got) < 0:
            why = (
                "The weights alone do not fit: that is no text, and not a negative number of them."
            )
        elif any(x != int(x) for x in got):
            why = "Only whole texts count: round down."
        elif got == want[::-1]:
            why = "The Transformer comes first."
        elif got == (memory // ((prompt + new) * token), memory // state):
            why = "The weights take memory as well, once."
        elif got[0] == left // (prompt * token):
            why = "The new tokens go into the cache too."
        elif got[1] == left // ((prompt + new) * state):
            why = "A state does not grow with the text."
        elif got[0] == 2 * want[0] or got[0] == left // ((prompt + new) * token // 2):
            why = "Keys and values: two of each."
        expect(
            got == want,
            f"with {case}, most_texts says {got[0]:g} and {got[1]:g}; expected "
            f"{want[0]} and {want[1]}. {why}",
        )
    passed("one limit that depends on the length of the texts, and one that does not")


def check_least_bits(least_bits):
    """Check ``least_bits(pairs, keys, values)``: how much a memory of a table must hold.

    Args:
        least_bits (callable): takes three whole numbers; returns bits.
    """
    for pairs, keys, values in (
        (1, 2, 1),
        (16, 16, 16),
        (3, 8, 5),
        (32, 64, 64),
        (5, 9, 1),
        (2000, 10**6, 10**5),
    ):
        chosen, given = math.log2(math.comb(keys, pairs)), pairs * math.log2(values)
        want = chosen + given
        try:
            got = _number(least_bits(pairs, keys, values), "least_bits", "bits")
        except OverflowError as error:
            raise AssertionError(
                f"{error}: the number of tables is too large for a float. Take "
                "logarithms before you multiply."
            ) from None
        ordered = want + math.lgamma(pairs + 1) / math.log(2)
        hints = (
            (given, "It must also tell which keys are in the table."),
            (chosen, "Each key has a value as well."),
            (
                ordered,
                "The order of the pairs need not be remembered: choose the keys in no order.",
            ),
            (
                pairs * (math.log2(keys) + math.log2(values)),
                "That lets a key come twice, and remembers an order: choose different keys, in no "
                "order.",
            ),
            (want * math.log(2), "Those are nats: take the logarithm to the base 2."),
            (math.ceil(want), "Do not round: a fraction of a bit counts."),
            (math.floor(want), "Do not round: a fraction of a bit counts."),
        )
        expect_close(
            f"least_bits({pairs}, {keys}, {values})",
            got,
            want,
            reason(
                got,
                want,
                hints,
                "Count the tables; bits are the logarithm of their number to the base 2.",
            ),
            rtol=1e-6,
        )
    passed("two tables must not leave the same memory")


def check_select_only(select_only):
    """Check ``select_only(proj, sizes, keep)``: a projection of which parts see the sample.

    Args:
        select_only (callable): takes a torch.nn.Linear, the sizes of the parts Δ, B and C of its
            output, and the names of those to keep, from "dt", "B" and "C"; returns a module from
            (b, L, channels) to (b, L, sum of the sizes).
    """
    import torch

    names, sizes = ("dt", "B", "C"), (2, 3, 3)
    for keep in (("dt", "B", "C"), ("dt",), ("B", "C"), ("C",), ()):
        proj = torch.nn.Linear(6, sum(sizes), bias=False)
        module = returned(select_only(proj, sizes, keep), "select_only")
        expect(
            isinstance(module, torch.nn.Module),
            f"select_only returns a {type(module).__name__}; expected a torch.nn.Module.",
        )
        x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
        out = returned(module(x), "the module")
        expect(
            tuple(out.shape) == (4, 5, sum(sizes)),
            f"the module returns shape {tuple(out.shape)} for an input (4, 5, 6); expected "
            f"(4, 5, {sum(sizes)}).",
        )
        expect(bool(torch.isfinite(out).all()), f"with keep = {keep} the output is not finite.")
        for name, part, selected in zip(names, out.split(sizes, -1), proj(x).split(sizes, -1)):
            case = f"with keep = {keep}, {name}"
            if name in keep:
                spread = (part - part[:1, :1]).abs().max()
                expect(
                    spread > 1e-6,
                    f"{case} is the same for all samples, but it should be selective. The order "
                    "of the parts is Δ, B, C.",
                )
                expect(
                    torch.allclose(part, selected, atol=1e-5),
                    f"{case} should be what proj makes of the sample, unchanged.",
                )
                continue
            over_time = (part - part[:, :1]).abs().max()
            over_rows = (part - part[:1]).abs().max()
            why = "It should be a learned constant."
            if over_time < 1e-6 < over_rows:
                why = (
                    "It is constant within a sequence and differs between sequences: a mean over "
                    "the sequence still depends on the input, and on what comes later."
                )
            expect(max(over_time, over_rows) < 1e-6, f"{case} still depends on the sample. {why}")
            longer = module(torch.cat([x, 2 + x], 1))[:1, :1].split(sizes, -1)[names.index(name)]
            expect(
                torch.allclose(longer, part[:1, :1], atol=1e-6),
                f"{case} depends on the batch: an average of the input is not a constant.",
            )
            learned = list(module.parameters()) if part.requires_grad else []
            slopes = (
                torch.autograd.grad(part.sum(), learned, allow_unused=True, retain_graph=True)
                if learned
                else ()
            )
            expect(
                any(slope is not None and slope.abs().max() > 0 for slope in slopes),
                f"{case} is constant but nothing of it is learned: it should come from a parameter.",
            )
        known = {id(p) for p in module.parameters()}
        expect(
            id(proj.weight) in known or not keep,
            "the weight of proj is not among the parameters of the module, so no optimizer would "
            "train it: keep proj as an attribute.",
        )
    passed("one module that leaves the selection of any part of the three")


def check_delta_write(delta_write):
    """Check ``delta_write(x, key, value, beta)``: one update of a memory by the delta rule.

    Args:
        delta_write (callable): takes the state, float64 (d, n), a key (n,), a value (d,) and a number
            beta; returns the state after the update (d, n).
    """
    rng = np.random.default_rng(0)
    for d, n, beta, size in (
        (3, 4, 1.0, 1.0),
        (5, 2, 0.3, 1.0),
        (4, 4, 0.7, 2.0),
        (2, 3, 0.0, 1.0),
    ):
        x, key, value = rng.standard_normal((d, n)), rng.standard_normal(n), rng.standard_normal(d)
        key *= size / np.linalg.norm(key)
        want = x - beta * np.outer(x @ key - value, key)
        given = x.copy()
        with np.errstate(all="ignore"):
            got = np.asarray(
                returned(delta_write(given, key.copy(), value.copy(), beta), "delta_write")
            )
        expect(
            got.shape == (d, n),
            f"delta_write returns shape {got.shape}; expected {(d, n)}, values times keys."
            + (" That is the transpose." if got.shape == (n, d) != (d, n) else ""),
        )
        hints = [
            (
                x + beta * np.outer(value, key),
                "That adds the new pair and erases nothing: subtract what the key retrieves from "
                "the value first.",
            ),
            (
                x - np.outer(x @ key, key) + beta * np.outer(value, key),
                "That erases everything the key retrieves and writes only a fraction beta: beta "
                "multiplies both.",
            ),
            (
                x - beta * np.outer(x @ key, key) + np.outer(value, key),
                "That erases a fraction beta and writes the whole value: beta multiplies both.",
            ),
            (
                x + beta * np.outer(x @ key - value, key),
                "The sign: the correction moves the answer towards the value.",
            ),
            (x - beta * np.outer(x @ key, key), "That erases and writes nothing."),
            (
                x - beta * np.outer(x @ key - value, key) / (key @ key),
                "Do not divide by the length of the key: the network normalizes its keys itself.",
            ),
            (
                (1 - beta) * x + beta * np.outer(value, key),
                "That lets the whole state fade: erase only what this key retrieves.",
            ),
        ]
        if d == n:
            hints.append(
                (
                    x - beta * np.outer(key, key @ x - value),
                    "The state is (values, keys): read it as x @ key.",
                )
            )
        expect_close(
            f"the state after a write with beta = {beta:g}",
            got,
            want,
            reason(
                got,
                want,
                hints,
                "Try beta = 1 and a key of length 1: afterwards the key must retrieve the value, and "
                "a key orthogonal to it what it retrieved before.",
            ),
            rtol=1e-9,
        )
    passed("the key now retrieves its value, and orthogonal keys what they did before")
