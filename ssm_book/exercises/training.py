"""Checks for the chapter on training."""

import math

import numpy as np

from ssm_book.exercises._report import expect, expect_close, passed, reason, returned

__all__ = [
    "check_bits_in_pieces",
    "check_bits_per_character",
    "check_least_bits",
    "check_most_texts",
    "check_share_without_order",
]


def check_share_without_order(share_without_order):
    """Check ``share_without_order(tokens, kinds)``: the best score of who knows no order.

    Args:
        share_without_order (callable): takes the number of letters and of kinds of letters; returns
            the share of right answers, to three digits.
    """
    for tokens, kinds in ((1, 5), (2, 6), (4, 6), (3, 1), (8, 3), (16, 14)):
        want = _share_of_the_commonest(tokens, kinds)
        got = float(returned(share_without_order(tokens, kinds), "share_without_order"))
        matched = 1 / kinds + (1 - 1 / kinds) / tokens
        hints = (
            (
                1 / kinds,
                "That is guessing among all kinds: use that some letters came and others did not.",
            ),
            (1 / tokens, "That counts a letter as if it came once."),
            (
                matched,
                "That is to say the letters that came in a random order. To say the "
                "commonest of them every time is better.",
            ),
            (
                want * tokens,
                "That is the mean count of the commonest letter: divide it by the "
                "number of letters.",
            ),
        )
        why = next(
            (hint for wrong, hint in hints if abs(got - wrong) < 1e-3),
            "For one word it is the count of its commonest letter over the number of letters; "
            "take the mean over all words, which are equally likely.",
        )
        expect(
            abs(got - want) < 0.004,
            f"share_without_order({tokens}, {kinds}) is {got:.4f}; expected {want:.4f}. {why}",
        )
    passed("what the order is worth: everything above this share")


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


def check_bits_per_character(bits_per_character):
    """Check ``bits_per_character(logits, targets)``: what a text costs under a model.

    Args:
        bits_per_character (callable): takes logits, float64 (L, V), and targets, int64 (L,); returns
            the mean of −log2 p.
    """
    rng = np.random.default_rng(0)
    for L, V, size in ((7, 5, 1.0), (40, 75, 3.0), (1, 2, 1.0), (30, 8, 1e4)):
        logits, targets = size * rng.standard_normal((L, V)), rng.integers(0, V, L)
        every = -(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))  # in nats
        nats = every[np.arange(L), targets]
        want = nats.mean() / math.log(2)
        with np.errstate(all="ignore"):
            got = returned(bits_per_character(logits.copy(), targets.copy()), "bits_per_character")
            naive = -np.log2(np.mean(np.exp(-nats)))
        got = np.asarray(got, dtype=float)
        expect(
            got.shape == (),
            f"bits_per_character returns shape {got.shape}; expected one number, "
            "the mean over all positions.",
        )
        expect(
            np.isfinite(got),
            f"bits_per_character is {got} for logits of size {size:g}: an "
            "exponential overflows. Subtract the largest logit of each position first.",
        )
        hints = (
            (nats.mean(), "Those are nats: divide by ln 2."),
            (want * L, "That is the sum over all positions, not their mean."),
            (-want, "The sign: a probability below 1 costs a positive number of bits."),
            (2.0 ** min(want, 1e3), "That is the perplexity, two to the power of the bits."),
            (
                every.mean() / math.log(2),
                "That is the mean over all characters that could have "
                "come; only the one that came is paid for.",
            ),
            (naive, "Take the logarithm first and the mean afterwards."),
            (
                -logits[np.arange(L), targets].mean() / math.log(2),
                "The logits are no logarithms of probabilities yet: the sum over all characters is "
                "missing.",
            ),
        )
        expect_close(
            f"the bits of {L} characters, {V} kinds",
            got,
            want,
            reason(
                got,
                want,
                hints,
                "−log2 p of the character that came, with p from softmax, and the mean of that.",
            ),
            rtol=1e-9,
        )
    passed("bits a character, whatever the size of the logits")


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
        hints = [
            (
                fresh[np.arange(L - 1), tokens[1:]].mean(),
                "Each piece begins with the first state again: hand on the state.",
            ),
            (own.mean(), "Row k speaks of the character after token k, not of token k."),
            (
                each.sum() / L,
                "The first character is not foretold: there is one fewer to divide by.",
            ),
            (each.sum(), "That is the sum: divide by the number of characters foretold."),
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
        got = returned(bits_in_pieces(model, start.copy(), tokens.copy(), piece), "bits_in_pieces")
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
    weights, token, state = 2 * 129_135_360, 12 * 2 * 768 * 2, 24 * 1536 * 72
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
            got = returned(least_bits(pairs, keys, values), "least_bits")
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
        )
        expect_close(
            f"least_bits({pairs}, {keys}, {values})",
            float(got),
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
