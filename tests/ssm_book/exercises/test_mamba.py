"""The checks of the chapter on Mamba accept every right answer and explain wrong ones."""

import numpy as np
import pytest

pytest.importorskip("torch")

from ssm_book.exercises import (
    check_convolve_piece,
    check_dt_bias,
    check_follow_trigger,
    check_gate_to_mamba,
    check_parameter_count,
)


def bias_by_expm1(dt):
    return dt + np.log(-np.expm1(-dt))


def bias_by_cases(dt):
    small = np.minimum(dt, 20)
    return np.where(dt < 20, np.log(np.expm1(small)), dt + np.log1p(-np.exp(-dt)))


def count(
    d,
    layers,
    vocab,
    n,
    k,
    expand,
    rank,
    head=0,
    norms=1,
    last=1,
    biases=2,
    A=1,
    twice=2,
    mixing=0,
    direct=1,
):
    e = expand * d
    block = (
        twice * d * e
        + e * k
        + e * (rank + 2 * n)
        + rank * e
        + biases * e
        + A * e * n
        + direct * e
        + e * d
        + norms * d
        + mixing * e * e * k
    )
    return layers * block + last * d + (1 + head) * vocab * d


def count_short(d, layers, vocab, n, k, expand, rank):
    e = expand * d
    return vocab * d + d + layers * (d + e * (3 * d + k + 2 * rank + 3 * n + 3))


def wrong_count(**change):
    return lambda *sizes: count(*sizes, **change)


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


def follow(tokens, trigger):
    return np.where(np.r_[False, tokens[:-1] == trigger], 20.0, 0.0)


def follow_by_loop(tokens, trigger):
    return [30.0 if k and tokens[k - 1] == trigger else 0.0 for k in range(len(tokens))]


RIGHT = [
    (check_dt_bias, bias_by_expm1),
    (check_dt_bias, bias_by_cases),
    (check_parameter_count, count),
    (check_parameter_count, count_short),
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


def careless_bias(dt):
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(dt < 100, np.log(np.exp(dt) - 1), dt)


WRONG = [
    (check_dt_bias, np.log, "inverse of exp"),
    (check_dt_bias, lambda dt: np.logaddexp(0, dt), "softplus itself"),
    (check_dt_bias, lambda dt: np.log(np.expm1(dt)), "overflows"),
    (check_dt_bias, careless_bias, "expm1"),
    (check_dt_bias, lambda dt: None, "did you forget to return"),
    (check_dt_bias, lambda dt: bias_by_expm1(dt)[:3], "shape"),
    (check_parameter_count, wrong_count(head=1), "count it once"),
    (check_parameter_count, wrong_count(head=-1), "for each token"),
    (check_parameter_count, wrong_count(norms=0, last=0), "norms are missing"),
    (check_parameter_count, wrong_count(norms=0), "norm in front"),
    (check_parameter_count, wrong_count(last=0), "one more norm"),
    (check_parameter_count, wrong_count(biases=0), "have biases"),
    (check_parameter_count, wrong_count(direct=0), "each inner channel is missing"),
    (check_parameter_count, wrong_count(twice=1), "twice as many"),
    (check_parameter_count, wrong_count(A=0), "A_log"),
    (check_parameter_count, wrong_count(mixing=1), "does not mix"),
    (check_parameter_count, lambda *sizes: 7, "weight by weight"),
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
    (check_gate_to_mamba, lambda g: gate(g)[0][:, None], "two arrays"),
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
]


@pytest.mark.parametrize("check, answer, words", WRONG)
def test_wrong_answers_are_explained(check, answer, words, explains):
    explains(check, answer, words)
