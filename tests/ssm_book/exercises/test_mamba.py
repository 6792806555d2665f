"""The checks of the chapter on Mamba accept every right answer and explain wrong ones."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ssm_book.exercises import (
    check_advance,
    check_convolve_piece,
    check_follow_trigger,
    check_gate_to_mamba,
    check_keeping_bias,
    check_learn_gate,
    check_older_first,
)
from ssm_book.exercises.mamba import _CHANGES, _advance


def keep(kept, gap):
    step = -np.log(kept) / gap
    return step + np.log(-np.expm1(-step))


def keep_otherwise(kept, gap):
    return float(np.log(np.expm1(-np.log(kept) / gap)))


def older_first(longest):
    delta = 0.5 / longest
    return delta, np.array([1.0, -0.9])


def older_first_from_the_bounds(longest):
    delta = 0.5 * np.log(2) / (longest - 1)
    return delta, [2.0, -(np.exp(delta * longest) / 2 + np.exp(delta))]


def change_older(delta=1.0, c=(1.0, -0.9)):
    return lambda longest: (delta * 0.5 / longest, np.array(c))


def learn(u, wanted, target, updates=400, lr=0.1, sign=1):
    w, b = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([w, b], lr=lr)
    for _ in range(updates):
        gate, x = torch.sigmoid(w * wanted + b), 0.0
        for k in range(u.shape[1]):
            x = (1 - gate[:, k]) * x + gate[:, k] * u[:, k]
        optimizer.zero_grad()
        (sign * (x - target).square().mean()).backward()
        optimizer.step()
    return w, b


def advance_without(change):
    return lambda weights, token, state: _advance(weights, token, state, change)


def convolve(x, weight, bias, window):
    joined, k = np.c_[window, x], weight.shape[1]
    views = np.lib.stride_tricks.sliding_window_view(joined, k, axis=1)[:, 1:]
    return (views * weight[:, None]).sum(-1) + bias[:, None], joined[:, -k:]


def convolve_by_numpy(x, weight, bias, window):
    joined = np.concatenate([window, x], axis=1)
    rows = [np.convolve(row, w[::-1], "valid")[1:] + b for row, w, b in zip(joined, weight, bias)]
    return np.array(rows), joined[:, x.shape[1] :]


def change_convolve(y=lambda y: y, window=lambda w: w, weight=lambda w: w):
    def answer(x, w, bias, before):
        out, after = convolve(x, weight(w), bias, before)
        return y(out), window(after)

    return answer


def convolve_late(x, weight, bias, window):
    views = np.lib.stride_tricks.sliding_window_view(np.c_[window, x], weight.shape[1], axis=1)
    return (views[:, :-1] * weight[:, None]).sum(-1) + bias[:, None], np.c_[window, x][
        :, -len(weight.T) :
    ]


def gate(g):
    delta = -np.log1p(-g)
    return delta, np.where(g > 0, g / np.where(g > 0, delta, 1), 1.0)


def gate_and_zero(g):
    delta = -np.log1p(-g)
    return delta, np.divide(g, delta, out=np.zeros_like(g), where=delta > 0)


def wrong_gate(delta=lambda g: -np.log1p(-g), B=None):
    return lambda g: (delta(g), gate(g)[1] if B is None else B(g))


def gate_without_digits(g):
    delta = -np.log(1 - g)
    return delta, np.divide(g, delta, out=np.ones_like(g), where=delta > 0)


def follow(tokens, trigger):
    return np.where(np.r_[False, tokens[:-1] == trigger], 20.0, 0.0)


def follow_by_loop(tokens, trigger):
    return [30.0 if k and tokens[k - 1] == trigger else 0.0 for k in range(len(tokens))]


RIGHT = [
    (check_keeping_bias, keep),
    (check_keeping_bias, keep_otherwise),
    (check_older_first, older_first),
    (check_older_first, lambda longest: (0.1 / longest, np.array([1.0, -1.0]))),
    (check_older_first, older_first_from_the_bounds),
    (check_learn_gate, learn),
    (check_learn_gate, lambda *data: learn(*data, updates=300)),
    (check_advance, _advance),
    (check_convolve_piece, convolve),
    (check_convolve_piece, convolve_by_numpy),
    (check_gate_to_mamba, gate),
    (check_gate_to_mamba, gate_and_zero),
    (check_follow_trigger, follow),
    (check_follow_trigger, follow_by_loop),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, accepts):
    accepts(check, answer)


WRONG = [
    (check_keeping_bias, lambda kept, gap: -np.log(kept) / gap, "That is the step"),
    (check_keeping_bias, lambda kept, gap: np.log(-np.log(kept) / gap), "inverse of exp"),
    (check_keeping_bias, lambda kept, gap: np.logaddexp(0, -np.log(kept) / gap), "softplus of"),
    (check_keeping_bias, lambda kept, gap: keep(kept, 1), "single blank"),
    (check_keeping_bias, lambda kept, gap: keep(1 - kept, gap), "forgets what it should"),
    (check_keeping_bias, lambda kept, gap: keep(kept ** (1 / np.log(2)), gap), "not of 2"),
    (check_keeping_bias, lambda kept, gap: np.log(np.exp(-np.log(kept) / gap) - 1), "expm1"),
    (
        check_keeping_bias,
        lambda kept, gap: -np.log(kept) / gap + np.log(1 - np.exp(np.log(kept) / gap)),
        "both exp",
    ),
    (check_keeping_bias, lambda kept, gap: np.nan, "not finite"),
    (check_keeping_bias, lambda kept, gap: None, "did you forget to return"),
    (check_keeping_bias, lambda kept, gap: [1.0, 2.0], "one number"),
    (check_keeping_bias, lambda kept, gap: 1.0, "is left"),
    (check_older_first, lambda longest: None, "did you forget to return"),
    (check_older_first, lambda longest: 0.1, "two things"),
    (check_older_first, lambda longest: (0.1, 1.0), "one weight per state"),
    (check_older_first, lambda longest: ([0.1, 0.1], [1.0, -0.9]), "one number"),
    (check_older_first, change_older(delta=-1.0), "time passes"),
    (check_older_first, change_older(delta=np.inf), "not finite"),
    (check_older_first, change_older(c=(1.0, 1.0)), "only a difference"),
    (check_older_first, lambda longest: (0.5, np.array([1.0, -1.0])), "past its peak"),
    (check_older_first, change_older(delta=4.0), "falls later"),
    (check_older_first, change_older(delta=4.0, c=(-1.0, 0.9)), "It falls at first"),
    (check_older_first, change_older(c=(1.0, -1.2)), "never came"),
    (check_learn_gate, lambda *data: None, "did you forget to return"),
    (check_learn_gate, lambda *data: 3.0, "two numbers"),
    (check_learn_gate, lambda *data: (0.0, 0.0), "Nothing has been learned"),
    (check_learn_gate, lambda *data: learn(*data, updates=5), "stands open"),
    (check_learn_gate, lambda *data: learn(*data, updates=40, sign=-1), "w is negative"),
    (check_learn_gate, lambda *data: (np.nan, 1.0), "too large"),
    (check_learn_gate, lambda *data: (4.0, -4.0), "only a part"),
    (check_learn_gate, lambda *data: (6.0, -3.5), "still falling"),
    (check_learn_gate, lambda *data: (20.0, -10.0), "Is it trained"),
    *((check_advance, advance_without(x), re.escape(words[:25])) for x, words in _CHANGES.items()),
    (check_advance, lambda weights, token, state: _advance(weights, token, state)[0], "two things"),
    (check_advance, lambda weights, token, state: (np.zeros(16), None), "tensor by tensor"),
    (check_advance, lambda weights, token, state: _advance(weights, token, None), "is not used"),
    (check_advance, lambda weights, token, state: (np.zeros(3), None), "shape"),
    (check_convolve_piece, change_convolve(weight=lambda w: w[:, ::-1]), "turned round"),
    (check_convolve_piece, lambda x, w, b, s: convolve(x, w, 0 * b, s), "bias is missing"),
    (check_convolve_piece, convolve_late, "one sample late"),
    (check_convolve_piece, change_convolve(y=lambda y: 2 * y), "Put the window"),
    (
        check_convolve_piece,
        lambda x, w, b, s: (convolve(x, w, b, s)[0], x[:, -w.shape[1] :]),
        "leaves some of the old",
    ),
    (check_convolve_piece, change_convolve(window=lambda w: w[:, ::-1]), "Oldest first"),
    (check_convolve_piece, lambda x, w, b, s: (convolve(x, w, b, s)[0], s), "last k inputs"),
    (check_convolve_piece, lambda x, w, b, s: convolve(x, w, b, 0 * s), "Put the window"),
    (check_gate_to_mamba, wrong_gate(delta=lambda g: g), "first order"),
    (check_gate_to_mamba, wrong_gate(B=lambda g: g), "divide by it"),
    (check_gate_to_mamba, wrong_gate(B=np.ones_like), "more than"),
    (check_gate_to_mamba, wrong_gate(B=lambda g: g / -np.log1p(-g)), "limit is 1"),
    (check_gate_to_mamba, wrong_gate(delta=lambda g: -np.log(1 - g)), "log1p"),
    (check_gate_to_mamba, gate_without_digits, "log1p"),
    (check_gate_to_mamba, lambda g: gate(g)[0][:, None], "two arrays"),
    (check_gate_to_mamba, wrong_gate(delta=lambda g: np.log1p(-g)), "negative"),
    (check_gate_to_mamba, wrong_gate(delta=lambda g: g * np.nan), "not finite"),
    (check_follow_trigger, lambda t, trigger: 20.0 * (t == trigger), "trigger itself"),
    (
        check_follow_trigger,
        lambda t, trigger: 20.0 * np.r_[t[1:-1] == trigger, False, False],
        "before the trigger",
    ),
    (check_follow_trigger, lambda t, trigger: 0.0 * t, "Pass over everything"),
    (check_follow_trigger, lambda t, trigger: follow(t, trigger) - 1, "negative"),
    (check_follow_trigger, lambda t, trigger: follow(t, trigger) + 1e-9 * t[-1], "come later"),
    (check_follow_trigger, lambda t, trigger: follow(t, trigger)[1:], "shape"),
    (check_follow_trigger, lambda t, trigger: 20.0 * np.roll(t == trigger, 1), "come round"),
    (check_follow_trigger, lambda t, trigger: np.full(len(t), np.inf), "infinite"),
]


@pytest.mark.parametrize("check, answer, words", WRONG)
def test_wrong_answers_are_explained(check, answer, words, explains):
    explains(check, answer, words)
