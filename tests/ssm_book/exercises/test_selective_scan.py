"""The checks of the chapter on the selective scan accept every right answer and explain wrong ones."""

import numpy as np
import pytest
import torch

from ssm_book.exercises import (
    check_chunk_starts,
    check_combine,
    check_exclusive_scan,
    check_learn_decays,
    check_scan_gradient,
    check_step_floors,
)
from ssm_core.scan import selective_scan_fn


def combine(first, second):
    (a1, b1), (a2, b2) = first, second
    return a2 * a1, a2 * b1 + b2


def queue(first, second):
    (a1, b1), (a2, b2) = first, second
    return a1 + a2, np.maximum(b1 + a2, b2)


def queue_by_matrices(first, second):
    """Products of matrices in which plus is the maximum and times is the sum."""

    def matrix(step):
        a, b = np.asarray(step)
        return [[a, b], [np.full_like(a, -np.inf), np.zeros_like(a)]]

    p, q = matrix(second), matrix(first)
    joint = [[np.maximum(p[0][0] + q[0][j], p[0][1] + q[1][j]) for j in range(2)]]
    return np.array(joint[0])


def by_sweeps(a, b, combine, order=lambda before, left: (before, left), pad=True):
    """Blelloch, with a list of levels; those of odd length end in an identity, if ``pad``."""
    levels = [(a, b)]
    while len(levels[-1][0]) > 1:
        a, b = levels[-1]
        if pad and len(a) % 2:
            levels[-1] = a, b = np.r_[a, 1.0], np.r_[b, 0.0]
        levels.append(combine((a[0::2], b[0::2]), (a[1::2], b[1::2])))
    before = np.ones(1), np.zeros(1)
    for a, b in reversed(levels[:-1]):
        before = tuple(part[: len(a[0::2])] for part in before)
        right = combine(*order(before, (a[0::2], b[0::2])))
        before = tuple(np.stack(pair, axis=1).ravel() for pair in zip(before, right))
    return before


def cut(pair, L):
    return tuple(part[:L] for part in pair)


def to_power_of_two(a, b, combine):
    more = 2 ** int(np.ceil(np.log2(len(a)))) - len(a)
    return cut(by_sweeps(np.r_[a, np.ones(more)], np.r_[b, np.zeros(more)], combine), len(a))


def by_recursion(a, b, combine):
    """Scan the folded pairs, half as many, and step from each to its right neighbour."""
    if len(a) == 1:
        return np.ones(1), np.zeros(1)
    if len(a) % 2:  # the last step has no partner, and needs none
        before = by_recursion(np.r_[a, 1.0], np.r_[b, 0.0], combine)
        return before[0][:-1], before[1][:-1]
    left = a[0::2], b[0::2]
    before = by_recursion(*combine(left, (a[1::2], b[1::2])), combine)
    out = np.empty(len(a)), np.empty(len(a))
    for x, even, odd in zip(out, before, combine(before, left)):
        x[0::2], x[1::2] = even, odd
    return out


def by_doubling(a, b, combine):
    a, b = np.r_[1.0, a[:-1]], np.r_[0.0, b[:-1]]
    reach = 1
    while reach < len(a):
        new = combine((a[:-reach], b[:-reach]), (a[reach:], b[reach:]))
        a, b = np.r_[a[:reach], new[0]], np.r_[b[:reach], new[1]]
        reach *= 2
    return a, b


def one_by_one(a, b, combine):
    before = [(1.0, 0.0)]
    for step in list(zip(a, b))[:-1]:
        before.append(combine(before[-1], step))
    return np.array(before).T


def inclusive(a, b, combine):
    before = cut(by_sweeps(a, b, combine), len(a))
    return a * before[0], a * before[1] + b


def starts_by_walking(delta, A, added, T, exp, carry=True):
    delta, added = delta.reshape(-1, T), added.reshape(-1, T, len(A))
    x = np.zeros((len(delta), len(A)))
    for k in range(T):
        x = exp(delta[:, k, None] * A) * x + added[:, k]
    fading = exp(delta.sum(axis=1)[:, None] * A)
    starts = [np.zeros(len(A))]
    for f, end in zip(fading[:-1], x[:-1]):
        starts.append(f * starts[-1] * carry + end)
    return np.array(starts)


def starts_by_products(delta, A, added, T, exp):
    """One call for all decays, and products of them where the carry needs them."""
    decay = exp(delta[:, None] * A).reshape(-1, T, len(A))
    added, x, start = added.reshape(decay.shape), np.zeros(len(A)), []
    for a, b in zip(decay, added):
        start.append(x)
        x = a.prod(axis=0) * x + sum(a[k + 1 :].prod(axis=0) * b[k] for k in range(T))
    return np.array(start)


def ends(delta, A, added, T, exp):
    delta, added = delta.reshape(-1, T), added.reshape(-1, T, len(A))
    starts = starts_by_walking(delta.ravel(), A, added.reshape(-1, len(A)), T, exp)
    for k in range(T):
        starts = np.exp(delta[:, k, None] * A) * starts + added[:, k]
    return starts


def starts_step_by_step(delta, A, added, T, exp):
    x, starts = np.zeros(len(A)), []
    for k in range(len(delta)):
        if k % T == 0:
            starts.append(x)
        x = exp(delta[k] * A) * x + added[k]
    return np.array(starts)


def starts_with_all_fadings(delta, A, added, T, exp):
    """Every step faded to the end of its chunk and its own decay besides: exponentials twice."""
    decay = exp(delta[:, None] * A)
    left = np.concatenate([d[::-1].cumsum()[::-1] - d for d in delta.reshape(-1, T)])
    ends = (exp(left[:, None] * A) * added).reshape(-1, T, len(A)).sum(axis=1)
    starts = [np.zeros(len(A))]
    for f, end in zip(decay.reshape(-1, T, len(A)).prod(axis=1)[:-1], ends[:-1]):
        starts.append(f * starts[-1] + end)
    return np.array(starts)


def gradient_by_reversal(a, x, dx, scan, shift=True):
    later = np.r_[a[1:], 0.0] if shift else a
    g = scan(later[::-1], dx[::-1])[::-1]
    return g * np.r_[0.0, x[:-1]], g


def gradient_by_shift(a, x, dx, scan, later):
    g = scan(later[::-1], dx[::-1])[::-1]
    return g * np.r_[0.0, x[:-1]], g


def learn(u, delta, B, C, y, updates=300, rate=0.05, start=0.0):
    log_rates = torch.full((1, B.shape[1]), start, requires_grad=True)
    optimizer = torch.optim.Adam([log_rates], lr=rate)
    for _ in range(updates):
        optimizer.zero_grad()
        error = selective_scan_fn(u, delta, -torch.exp(log_rates), B, C) - y
        error.square().mean().backward()
        optimizer.step()
    return -torch.exp(log_rates[0]).detach()


def learn_unconstrained(u, delta, B, C, y, updates=300, rate=0.05):
    A = torch.full((1, B.shape[1]), -1.0, requires_grad=True)
    optimizer = torch.optim.Adam([A], lr=rate)
    for _ in range(updates):
        optimizer.zero_grad()
        (selective_scan_fn(u, delta, A, B, C) - y).square().mean().backward()
        optimizer.step()
    return A[0].detach()


def gradient_by_padding(a, x, dx, scan):
    """One more step in front, so that nothing has to be shifted: it reads a_0 and is dropped."""
    flipped = scan(np.r_[0.0, a[:0:-1]], dx[::-1])
    return flipped[::-1] * np.concatenate([[0.0], x[:-1]]), flipped[::-1]


def floors(b, d, n, copy, exps):
    moved = 2 * 4 * b * d * n + 4 * d * n + 4 * 2 * b * d + 2 * 2 * b * n + 2 * 4 * d
    return moved / copy, (b * d * n + 3 * b * d) / exps


RIGHT = [
    (check_combine, queue),
    (check_combine, queue_by_matrices),
    (check_exclusive_scan, lambda a, b, c: cut(by_sweeps(a, b, c), len(a))),
    (check_exclusive_scan, by_recursion),
    (check_chunk_starts, starts_by_walking),
    (check_chunk_starts, starts_by_products),
    (check_scan_gradient, gradient_by_reversal),
    (check_scan_gradient, gradient_by_padding),
    (check_step_floors, floors),
    (check_step_floors, lambda *a: np.array(floors(*a))),
    (check_learn_decays, learn),
    (check_learn_decays, lambda *a: learn(*a, start=-0.7).numpy()),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, accepts):
    accepts(check, answer)


def forwards(a, x, dx, scan):
    g = scan(a, dx)
    return g * np.r_[0.0, x[:-1]], g


def change_floors(memory=0, exps=0):
    def answer(b, d, n, copy, per_second):
        known = floors(b, d, n, copy, per_second)
        return (
            known[0] + (memory(b, d, n) if memory else 0) / copy,
            known[1] + (exps(b, d, n) if exps else 0) / per_second,
        )

    return answer


WRONG = [
    (check_combine, lambda first, second: queue(second, first), "second step acting first"),
    (check_combine, combine, "two steps add both"),
    (check_combine, lambda f, s: (f[0] + s[0], np.maximum(f[1], s[1])), "passes through"),
    (check_combine, lambda f, s: (f[0] + s[0], f[1] + s[0] + s[1]), "not their sum"),
    (check_combine, lambda f, s: (f[0] + s[0], s[0] * f[1] + s[1]), "takes a maximum"),
    (check_combine, lambda f, s: (np.maximum(f[0], s[0]), f[1]), "what is added"),
    (check_combine, lambda f, s: (f[0] + s[0], f[1]), "what is left"),
    (check_combine, lambda f, s: f[0], "two things"),
    (check_combine, lambda f, s: 3.0, "two things"),
    (check_combine, lambda f, s: None, "did you forget to return"),
    (check_combine, lambda f, s: f[0] + np.ones(7), "stops with"),
    (check_exclusive_scan, inclusive, "states after each step"),
    (
        check_exclusive_scan,
        lambda a, b, c: by_sweeps(a, b, c, lambda p, q: (q, p)),
        "in this order",
    ),
    (check_exclusive_scan, by_doubling, "Doubling the reach"),
    (check_exclusive_scan, lambda *a: by_sweeps(*a, pad=False), "has no partner"),
    (check_exclusive_scan, to_power_of_two, "Padding to a power of two"),
    (check_exclusive_scan, one_by_one, "joins all pairs"),
    (check_exclusive_scan, lambda a, b, c: by_sweeps(a, b, combine), "never called"),
    (check_exclusive_scan, lambda a, b, c: by_sweeps(a, b, c)[1], "two things"),
    (check_chunk_starts, ends, "ends of the chunks"),
    (check_chunk_starts, lambda *a: starts_by_walking(*a, carry=False), "forgotten all but"),
    (check_chunk_starts, lambda *a: 2 * starts_by_walking(*a), "start of the next chunk"),
    (check_chunk_starts, lambda *a: starts_by_walking(*a[:4], np.exp), "never called"),
    (check_chunk_starts, starts_step_by_step, "side by side"),
    (check_chunk_starts, starts_with_all_fadings, "one for each step"),
    (check_scan_gradient, forwards, "reverse time"),
    (check_scan_gradient, lambda *a: gradient_by_reversal(*a, shift=False), "shift a by one"),
    (check_scan_gradient, lambda a, x, dx, scan: (dx * np.r_[0.0, x[:-1]], dx), "all later states"),
    (check_scan_gradient, lambda *a: gradient_by_shift(*a, np.r_[0.0, a[0][:-1]]), "the wrong way"),
    (check_scan_gradient, lambda *a: gradient_by_shift(*a, np.roll(a[0], 1)), "the wrong way"),
    (check_scan_gradient, lambda *a: gradient_by_shift(*a, a[0][1:]), "has to be there"),
    (
        check_scan_gradient,
        lambda *a: [part[::-1] for part in gradient_by_reversal(*a)],
        "turn the result",
    ),
    (
        check_scan_gradient,
        lambda a, x, dx, scan: (x[:-1] * gradient_by_reversal(a, x, dx, scan)[1], dx),
        "stops with",
    ),
    (
        check_scan_gradient,
        lambda a, x, dx, scan: (np.r_[0.0, x[:-1]], gradient_by_reversal(a, x, dx, scan)[1]),
        "the chain rule",
    ),
    (
        check_scan_gradient,
        lambda a, x, dx, scan: (
            gradient_by_reversal(a, x, dx, scan)[1] * x,
            np.array([dx[k:] @ np.r_[1.0, np.cumprod(a[k + 1 :])] for k in range(len(a))]),
        ),
        "not the one after",
    ),
    (
        check_scan_gradient,
        lambda a, x, dx, scan: gradient_by_reversal(
            a, x, dx, lambda a, b: scan(a, b) + 0 * scan(a, b)
        ),
        "expected once",
    ),
    (check_step_floors, change_floors(memory=lambda b, d, n: -4 * b * d * n), "read and written"),
    (check_step_floors, change_floors(memory=lambda b, d, n: -4 * d * n), "A is read as well"),
    (check_step_floors, change_floors(memory=lambda b, d, n: 4 * (b - 1) * d * n), "memory once"),
    (check_step_floors, change_floors(memory=lambda b, d, n: 4 * b * n), "every tensor"),
    (check_step_floors, change_floors(memory=lambda b, d, n: -4 * d), "one is missing"),
    (check_step_floors, change_floors(memory=lambda b, d, n: -8 * d), "are missing"),
    (check_step_floors, change_floors(memory=lambda b, d, n: -2 * b * d), "Four tensors"),
    (check_step_floors, change_floors(memory=lambda b, d, n: -4 * b * n), "B and C are read"),
    (check_step_floors, change_floors(exps=lambda b, d, n: -3 * b * d), "Softplus and the gate"),
    (check_step_floors, lambda *a: floors(*a)[0], "two things"),
    (check_learn_decays, lambda *a: -learn(*a), "without their sign"),
    (check_learn_decays, lambda *a: torch.log(-learn(*a)), "return A itself"),
    (check_learn_decays, lambda *a: learn(*a, updates=0), "does the optimizer take steps"),
    (check_learn_decays, lambda u, d, B, C, y: -torch.ones(B.shape[1]), "take steps"),
    (check_learn_decays, learn_unconstrained, "On the way"),
    (check_learn_decays, lambda *a: learn_unconstrained(*a, rate=0.02, updates=600), "On the way"),
    (check_learn_decays, lambda *a: learn(*a, updates=3), "stopped too early"),
    (check_learn_decays, lambda *a: learn(*a) * torch.nan, "not finite"),
    (check_learn_decays, lambda *a: learn(*a)[:, None], "one rate for each state"),
    (check_learn_decays, lambda u, delta, B, C, y: u + torch.ones(7), "stops with"),
]


@pytest.mark.parametrize("check, answer, words", WRONG)
def test_wrong_answers_are_explained(check, answer, words, explains):
    explains(check, answer, words)
