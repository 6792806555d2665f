"""The checks of the chapter on S4 accept every right answer and explain the usual wrong ones."""

import numpy as np
import pytest
import scipy.linalg
import torch

from ssm_book.exercises import (
    check_circle,
    check_low_rank_legt,
    check_modes_to_kernel,
    check_start,
    check_transfer,
    check_wrong_length,
)


def late(K, L):
    return np.r_[K[L:], np.zeros(L)]


def folded(K, M):
    return np.pad(K, (0, -len(K) % M)).reshape(-1, M).sum(axis=0)


def wrong_length(K, L, M):
    return folded(K - late(K, L), M)


def wrong_length_sample_by_sample(K, L, M):
    K = np.r_[K, np.zeros(len(K) + L)]
    return [sum(K[i] - K[i + L] for i in range(j, len(K) - L, M)) for j in range(M)]


def parities(N, theta):
    n = np.arange(N)
    return np.sqrt((2 * n + 1) / theta)[:, None] * (n[:, None] % 2 == [0, 1])


def ends(N, theta):
    n = np.arange(N)
    return np.sqrt((2 * n + 1) / (2 * theta))[:, None] * np.column_stack([np.ones(N), (-1.0) ** n])


def by_sums(Lambda, P, B, C, s, outer=-1, inner=1, row=None, solve=np.linalg.solve):
    """The right answer, and some with a wrong sign or conjugate."""
    q = 1 / (s[:, None] - Lambda)
    row = P.conj() if row is None else row
    PB, CP = (q * B) @ row, (q * C) @ P
    PP = np.einsum("fn,nk,nl->fkl", q, row, P)
    small = np.array(
        [solve(np.eye(P.shape[1]) + inner * a, b) for a, b in zip(PP, PB, strict=True)]
    )
    return q @ (C * B) + outer * (CP * small).sum(axis=1)


def one_column_after_the_other(Lambda, P, B, C, s):
    """Sherman and Morrison's formula once for each column: neither solver nor matrix."""
    q = 1 / (s[:, None] - Lambda)

    def applied(x, k):  # the inverse with the first k columns, times x (F, N)
        if k == 0:
            return q * x
        p = P[:, k - 1]
        y, z = applied(x, k - 1), applied(p + 0 * x, k - 1)
        return y - z * ((y @ p.conj()) / (1 + z @ p.conj()))[:, None]

    return applied(B + np.zeros((len(s), 1)), P.shape[1]) @ C


def each_column_alone(Lambda, P, B, C, s):
    q = 1 / (s[:, None] - Lambda)
    PB, CP, PP = (q * B) @ P.conj(), (q * C) @ P, q @ abs(P) ** 2
    return q @ (C * B) - (CP * PB / (1 + PP)).sum(axis=1)


def by_solving(Lambda, P, B, C, s):
    A = np.diag(Lambda) - P @ P.conj().T
    return np.array([C @ np.linalg.solve(x * np.eye(len(A)) - A, B) for x in s])


def by_a_solver_that_is_not_watched(Lambda, P, B, C, s):
    A = np.diag(Lambda) - P @ P.conj().T
    return np.array([C @ scipy.linalg.solve(x * np.eye(len(A)) - A, B) for x in s])


def by_explicit_inverse(Lambda, P, B, C, s):
    A = np.diag(Lambda) - P @ P.conj().T
    return np.array([C @ np.linalg.inv(x * np.eye(len(A)) - A) @ B for x in s])


def evenly(N, fastest, decay=3.0, reach=1.1):
    return -decay + 1j * np.linspace(0, reach * fastest, N // 2)


def lin(N, fastest):
    return -0.5 + 1j * np.pi * np.arange(N // 2)


def uneven(N, fastest):
    """Another right answer: a little denser at slow frequencies, fading unequally."""
    share = np.linspace(0, 1, N // 2)
    return -(2.5 + share) + 1.15j * fastest * share**1.05


def circle(L, tolerance, eps):
    M = L
    while eps ** (M / (M + L)) > tolerance:
        M += 1
    return M, eps ** (1 / (M + L))


def circle_by_formula(L, tolerance, eps):
    wanted = L * np.log(tolerance) / (np.log(eps) - np.log(tolerance))
    M = max(L, int(np.ceil(wanted)))
    return M, eps ** (1 / (M + L))


def table(weights, log_decay, L):
    return 2 * (weights @ np.exp(log_decay[:, None] * np.arange(L))).real


def in_pieces(weights, log_decay, L, T=2048):
    """The same with a table of T columns that is used again and again."""
    small = np.exp(log_decay[:, None] * np.arange(T))
    pieces = [2 * ((weights * np.exp(log_decay * start)) @ small).real for start in range(0, L, T)]
    return np.concatenate(pieces)[:L]


def mode_by_mode(weights, log_decay, L):
    """Little memory, but all exponentials."""
    K = np.zeros(L)
    for w, a in zip(weights, log_decay, strict=True):
        K += 2 * (w * np.exp(a * np.arange(L))).real
    return K


def mode_by_mode_in_powers(weights, log_decay, L):
    K = np.zeros(L)
    for w, decay in zip(weights, np.exp(log_decay), strict=True):
        K += 2 * (w * decay ** np.arange(L)).real
    return K


def mode_by_mode_in_products(weights, log_decay, L):
    """Every power from the one before it."""
    K = np.zeros(L)
    for w, a in zip(weights, log_decay, strict=True):
        K += 2 * (w * np.cumprod(np.r_[1, np.full(L - 1, np.exp(a))])).real
    return K


def all_in_pieces(weights, log_decay, L):
    """All exponentials, of plain arrays, a thousand samples at a time."""
    pieces = np.split(np.arange(L), np.arange(1000, L, 1000))
    return np.concatenate([table_at(weights, log_decay, j) for j in pieces])


def table_at(weights, log_decay, j):
    return 2 * (weights @ np.exp(np.outer(log_decay, j))).real


def two_digits_in_torch(weights, log_decay, L):
    """Tensors are not counted, and do not stumble."""
    w, a = torch.as_tensor(weights), torch.as_tensor(log_decay)
    T = int(np.ceil(np.sqrt(L)))
    large = w[:, None] * torch.exp(a[:, None] * (T * torch.arange(-(-L // T))))
    return 2 * (large.T @ torch.exp(a[:, None] * torch.arange(T))).real.flatten()[:L].numpy()


def by_outer_products(weights, log_decay, L):
    """The solution of the book; np.outer makes plain arrays."""
    T = int(np.ceil(np.sqrt(L)))
    small = np.exp(np.outer(log_decay, np.arange(T)))
    large = weights[:, None] * np.exp(np.outer(log_decay, T * np.arange(-(-L // T))))
    left = np.concatenate([large.real, -large.imag]).T
    return 2 * (left @ np.concatenate([small.real, small.imag])).ravel()[:L]


def two_digits(weights, log_decay, L):
    T = int(np.ceil(np.sqrt(L)))
    large = weights[:, None] * np.exp(log_decay[:, None] * (T * np.arange(-(-L // T))))
    return 2 * (large.T @ np.exp(log_decay[:, None] * np.arange(T))).real.ravel()[:L]


RIGHT = [
    (check_wrong_length, wrong_length),
    (check_wrong_length, wrong_length_sample_by_sample),
    (check_low_rank_legt, parities),
    (check_low_rank_legt, ends),
    (check_low_rank_legt, lambda N, theta: -parities(N, theta)[:, ::-1]),
    (check_transfer, by_sums),
    (check_transfer, one_column_after_the_other),
    (check_start, evenly),
    (check_start, lambda N, fastest: evenly(N, fastest, 2.0, 1.2).conj()),
    (check_start, uneven),
    (check_circle, circle),
    (check_circle, circle_by_formula),
    (check_modes_to_kernel, in_pieces),
    (check_modes_to_kernel, two_digits),
    (check_modes_to_kernel, two_digits_in_torch),
    (check_modes_to_kernel, by_outer_products),
]


@pytest.mark.parametrize("check, answer", RIGHT)
def test_right_answers_pass(check, answer, accepts):
    accepts(check, answer)


def radius_of_the_paper(L, tolerance, eps):
    M, _ = circle(L, tolerance, eps)
    return M, 1 - 1e-9


def too_small(L, tolerance, eps):
    M, _ = circle(L, tolerance, eps)
    return M, eps ** (1 / L)


def rounded_down(L, tolerance, eps):
    wanted = L * np.log(tolerance) / (np.log(eps) - np.log(tolerance))
    M = max(L, int(wanted))
    return M, eps ** (1 / (M + L))


def from_folding_alone(L, tolerance, eps):
    M, _ = circle(L, tolerance, eps)
    return M, tolerance ** (1 / M)


WRONG = [
    (check_wrong_length, lambda K, L, M: K[:M], "kernel of C; the row"),
    (check_wrong_length, lambda K, L, M: (K - late(K, L))[:M], "what a recurrence with C tilde"),
    (check_wrong_length, lambda K, L, M: folded(K, M), "folds the kernel of C"),
    (check_wrong_length, lambda K, L, M: folded(K + late(K, L), M), "look at the sign"),
    (check_wrong_length, lambda K, L, M: 2 * wrong_length(K, L, M), "sample by sample"),
    (check_wrong_length, lambda K, L, M: K, "has shape"),
    (check_wrong_length, lambda K, L, M: ..., "replace the dots"),
    (check_wrong_length, lambda K, L, M: None, "did you forget to return"),
    (check_low_rank_legt, lambda N, theta: np.sqrt(2) * parities(N, theta), "too large by"),
    (check_low_rank_legt, lambda N, theta: parities(N, 1.0), "so P by its root"),
    (check_low_rank_legt, lambda N, theta: parities(N, 1.0) / theta, "divided by its root"),
    (
        check_low_rank_legt,
        lambda N, theta: np.column_stack([parities(N, theta).sum(1), np.zeros(N)]),
        "different parity",
    ),
    (check_low_rank_legt, lambda N, theta: parities(N, theta).T, "P has shape"),
    (check_low_rank_legt, lambda N, theta: None, "did you forget to return"),
    (
        check_transfer,
        lambda Lambda, P, B, C, s: by_sums(Lambda, 0 * P, B, C, s),
        "diagonal part alone",
    ),
    (
        check_transfer,
        lambda Lambda, P, B, C, s: by_sums(Lambda, P, B, C.conj(), s),
        "not conjugated",
    ),
    (
        check_transfer,
        lambda Lambda, P, B, C, s: by_sums(Lambda, P, B, C, s, row=P),
        "the conjugate of P",
    ),
    (check_transfer, lambda *args: by_sums(*args, 1, -1), "That is Lambda"),
    (check_transfer, lambda *args: by_sums(*args, 1, 1), r"x = R \(B - P q"),
    (check_transfer, lambda *args: by_sums(*args, -1, -1), "equation for q"),
    (check_transfer, lambda *args: 2 * by_sums(*args), "Which r equations"),
    (check_transfer, each_column_alone, "not independent"),
    (check_transfer, lambda Lambda, P, B, C, s: ..., "replace the dots"),
    (check_transfer, by_solving, "calls numpy.linalg.solve"),
    (check_transfer, by_explicit_inverse, "calls numpy.linalg.inv"),
    (check_transfer, by_a_solver_that_is_not_watched, "as a matrix of size N x N"),
    (check_transfer, lambda Lambda, P, B, C, s: 1 / (s - Lambda), r"s\[:, None\] - Lambda"),
    (check_transfer, lambda Lambda, P, B, C, s: None, "did you forget to return"),
    (check_start, lin, "neighbours are about"),
    (check_start, lambda N, fastest: ..., "replace the dots"),
    (check_start, lambda N, fastest: evenly(N, fastest, reach=0.8), "The fastest mode turns with"),
    (check_start, lambda N, fastest: evenly(N, fastest / (2 * np.pi)), "factor of 2 pi"),
    (check_start, lambda N, fastest: evenly(N, fastest, 9.0), "very large entries"),
    (check_start, lambda N, fastest: -(np.arange(N // 2) + 1.0), "None of the modes turns"),
    (check_start, lambda N, fastest: evenly(2 * N, fastest), "one of each conjugate pair"),
    (check_start, lambda N, fastest: evenly(N, fastest, -3.0), "does not fade"),
    (check_start, lambda N, fastest: evenly(N, fastest) * np.nan, "not finite"),
    (
        check_start,
        lambda N, fastest: -3 + 1.1j * fastest * np.linspace(0, 1, N // 2) ** 4,
        "evenly",
    ),
    (check_start, lambda N, fastest: None, "did you forget to return"),
    (check_circle, lambda L, tolerance, eps: (L, eps ** (1 / (2 * L))), "round it up"),
    (check_circle, radius_of_the_paper, "misses the tolerance: folding"),
    (check_circle, too_small, "misses the tolerance: amplified rounding"),
    (check_circle, rounded_down, "round it up"),
    (check_circle, from_folding_alone, "could be smaller: folding"),
    (check_circle, lambda L, tolerance, eps: (50 * L, eps ** (1 / (51 * L))), "fewer points"),
    (check_circle, lambda L, tolerance, eps: (L // 2, 0.9), "fewer than L points"),
    (check_circle, lambda L, tolerance, eps: (2 * L, 1.0), "inside the unit circle"),
    (check_circle, lambda L, tolerance, eps: (1.5 * L + 0.25, 0.9), "is whole"),
    (check_circle, lambda L, tolerance, eps: None, "did you forget to return"),
    (check_modes_to_kernel, lambda w, a, L: in_pieces(w, a, L) / 2, "factor 2 is missing"),
    (check_modes_to_kernel, lambda w, a, L: in_pieces(w * np.exp(a), a, L), "first sample has j"),
    (
        check_modes_to_kernel,
        lambda w, a, L: 2 * np.abs(w @ np.exp(a[:, None] * np.arange(L))),
        "the modulus",
    ),
    (check_modes_to_kernel, table, "took .* MB"),
    (check_modes_to_kernel, mode_by_mode, "exponentials or powers"),
    (check_modes_to_kernel, mode_by_mode_in_powers, "exponentials or powers"),
    (check_modes_to_kernel, mode_by_mode_in_products, "exponentials or powers"),
    (check_modes_to_kernel, all_in_pieces, "exponentials or powers"),
    (check_modes_to_kernel, lambda w, a, L: in_pieces(w, a, min(L, 1000)), "has shape"),
    (check_modes_to_kernel, lambda w, a, L: None, "did you forget to return"),
]


@pytest.mark.parametrize("check, answer, words", WRONG)
def test_wrong_answers_are_explained(check, answer, words, explains):
    explains(check, answer, words)


def test_start_says_an_upper_bound(capsys):
    check_start(lambda N, fastest: evenly(N, fastest, 1.5))
    assert "at most 2e-03" in capsys.readouterr().out


def test_counting_leaves_numpy_as_it_was():
    exp = np.exp
    check_modes_to_kernel(two_digits)
    assert np.exp is exp
