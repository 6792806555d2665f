"""The checks of the chapter on state space duality: right answers pass, wrong ones are told why."""

import numpy as np
import pytest

from ssm_book import exercises as ex


def half_life(A_log, dt):
    return np.log(2) / (np.exp(A_log) * dt)


def segment_sums(a):
    S = np.full((len(a), len(a)), -np.inf)
    for j in range(len(a)):
        S[j, j], S[j + 1 :, j] = 0, np.cumsum(a[j + 1 :])
    return S


def best_chunk(n, p, cost):
    return np.sqrt(cost * n * p / (n + p))


def ssd_piece(v, a, B, C, x):
    decays = np.exp(segment_sums(a))
    y = (decays * (C @ B.T)) @ v + np.exp(np.cumsum(a))[:, None] * (C @ x.T)
    return y, np.exp(a.sum()) * x + (decays[-1][:, None] * v).T @ B


def ssd_gradient(scan, dy, a, B, C):
    return scan(dy[::-1], np.r_[0.0, a[:0:-1]], C[::-1], B[::-1])[::-1]


def learn_rate(v, delta, B, C, y):
    between = np.where(np.tri(len(v), dtype=bool), segment_sums(delta), 0)
    scores, A_log = np.tril(C @ B.T), 0.0
    for _ in range(100):
        A = -np.exp(A_log)
        M = np.exp(A * between) * scores
        error, slope = M @ v - y, A * (between * M) @ v
        A_log -= np.clip(np.sum(error * slope) / np.sum(slope**2), -0.5, 0.5)
    return -np.exp(A_log)


RIGHT = {
    ex.check_half_life: half_life,
    ex.check_segment_sums: segment_sums,
    ex.check_best_chunk: best_chunk,
    ex.check_ssd_piece: ssd_piece,
    ex.check_ssd_gradient: ssd_gradient,
    ex.check_learn_rate: learn_rate,
}


@pytest.mark.parametrize("check", RIGHT, ids=lambda check: check.__name__)
def test_right_answers_pass(check, capsys):
    check(RIGHT[check])
    assert capsys.readouterr().out.startswith("✓")


def differences(a):
    clock = np.cumsum(a)
    return np.where(np.tri(len(a), dtype=bool), clock[:, None] - clock, -np.inf)


def piece(first=1.0, last=1.0, late=False):
    """A chunk whose entering state, or the state that it leaves, is wrong."""

    def answer(v, a, B, C, x):
        y, after = ssd_piece(v, a, B, C, 0 * x)
        lead = np.exp(np.cumsum(a) - (a if late else 0))[:, None]
        return y + first * lead * (C @ x.T), after + last * np.exp(a.sum()) * x

    return answer


WRONG = [
    (ex.check_half_life, lambda A_log, dt: -half_life(A_log, dt), "sign"),
    (ex.check_half_life, lambda A_log, dt: np.log(2) / np.exp(A_log), "steps of Δ"),
    (ex.check_half_life, lambda A_log, dt: 1 / (np.exp(A_log) * dt), "to 1/e"),
    (ex.check_half_life, lambda A_log, dt: np.log(2) / np.exp(A_log * dt), "not the rate"),
    (ex.check_half_life, lambda A_log, dt: None, "returns None"),
    (ex.check_half_life, lambda A_log, dt: "long", "array of numbers"),
    (ex.check_segment_sums, differences, "difference of two cumulative sums"),
    (
        ex.check_segment_sums,
        lambda a: np.where(np.isfinite(segment_sums(a)), segment_sums(a) + a, -np.inf),
        r"Yours has a\[j\]",
    ),
    (
        ex.check_segment_sums,
        lambda a: np.where(np.isfinite(segment_sums(a)), segment_sums(a), 0.0),
        "not −inf",
    ),
    (ex.check_segment_sums, lambda a: np.cumsum(a), "shape"),
    (ex.check_best_chunk, lambda n, p, cost: cost * n * p / (n + p), "square"),
    (ex.check_best_chunk, lambda n, p, cost: np.sqrt(n * p / (n + p)), "`cost`"),
    (ex.check_best_chunk, lambda n, p, cost: np.sqrt(cost * n), "two products"),
    (ex.check_ssd_piece, piece(first=0.0), "before the piece is missing"),
    (ex.check_ssd_piece, piece(late=True), "decayed once more"),
    (ex.check_ssd_piece, piece(last=0.0), "lost what entered"),
    (ex.check_ssd_piece, lambda v, a, B, C, x: ssd_piece(v, a, B, C, x)[0], "two arrays"),
    (
        ex.check_ssd_gradient,
        lambda scan, dy, a, B, C: scan(dy[::-1], a[::-1], C[::-1], B[::-1])[::-1],
        "one step off",
    ),
    (
        ex.check_ssd_gradient,
        lambda scan, dy, a, B, C: scan(dy[::-1], np.r_[0.0, a[:0:-1]], B[::-1], C[::-1])[::-1],
        "change places",
    ),
    (ex.check_ssd_gradient, lambda scan, dy, a, B, C: scan(dy, a, C, B), "backwards"),
    (
        ex.check_ssd_gradient,
        lambda scan, dy, a, B, C: ssd_gradient(scan, dy, a, B, C)[::-1],
        "turn it round",
    ),
    (
        ex.check_ssd_gradient,
        lambda scan, dy, a, B, C: (np.exp(segment_sums(a)) * (C @ B.T)).T @ dy,
        "scan was not called",
    ),
    (ex.check_learn_rate, lambda *given: -learn_rate(*given), "The sign"),
    (ex.check_learn_rate, lambda *given: -1.5, "More updates"),
    (ex.check_learn_rate, lambda *given: np.nan, "too large"),
]


@pytest.mark.parametrize(("check", "answer", "words"), WRONG)
def test_wrong_answers_are_told_why(check, answer, words):
    with pytest.raises(AssertionError, match=words):
        check(answer)
