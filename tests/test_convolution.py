"""Causal convolution against its definition, kernels against powers in more digits."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ssm_core.convolution import causal_convolution, kernel_from_ssm


def by_definition(u, K):
    """y_k = sum over j of K_j u_{k-j}, one signal."""
    return np.array(
        [sum(K[j] * u[k - j] for j in range(min(k + 1, len(K)))) for k in range(len(u))]
    )


@pytest.mark.parametrize("L, L_K", [(1, 1), (2, 2), (7, 7), (63, 63), (50, 3), (3, 50), (64, 64)])
def test_is_the_sum_of_the_definition(L, L_K):
    rng = np.random.default_rng(L)
    u, K = rng.normal(size=L), rng.normal(size=L_K)
    y = causal_convolution(u, K)
    assert y.dtype == np.float64 and y.shape == (L,)
    assert_allclose(y, by_definition(u, K), rtol=0, atol=1e-14 * L)


def test_agrees_with_numpy_on_a_long_signal():
    rng = np.random.default_rng(0)
    u, K = rng.normal(size=5000), rng.normal(size=5000) * 0.999 ** np.arange(5000)
    want = np.convolve(u, K)[:5000]
    assert np.abs(causal_convolution(u, K) - want).max() < 1e-14 * np.abs(want).max() * 10


def test_complex_numbers():
    rng = np.random.default_rng(1)
    u, K = rng.normal(size=20) + 1j * rng.normal(size=20), rng.normal(size=20)
    assert_allclose(causal_convolution(u, K), by_definition(u, K), rtol=0, atol=1e-13)
    assert causal_convolution(u.real, 1j * K).dtype == np.complex128


def test_no_output_sees_a_later_input():
    u = np.zeros(100)
    u[60] = 1.0
    y = causal_convolution(u, np.ones(100))
    assert np.abs(y[:60]).max() < 1e-15
    assert_allclose(y[60:], 1.0, rtol=0, atol=1e-14)


def test_leading_axes_broadcast():
    rng = np.random.default_rng(2)
    u, K = rng.normal(size=(4, 1, 30)), rng.normal(size=(3, 30))
    y = causal_convolution(u, K)
    assert y.shape == (4, 3, 30)
    assert_allclose(y[2, 1], by_definition(u[2, 0], K[1]), rtol=0, atol=1e-13)
    assert causal_convolution(u[0, 0], K).shape == (3, 30)
    assert causal_convolution(u, K[0]).shape == (4, 1, 30)


def test_input_that_is_not_contiguous():
    u = np.arange(24.0).reshape(8, 3).T[:, ::2]  # (3, 4)
    K = np.ones(8)[::2]
    assert_allclose(causal_convolution(u, K), np.cumsum(u, axis=-1), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "u, K, words",
    [
        ([], [1.0], r"u has shape \(0,\), expected \(..., L\)"),
        (1.0, [1.0], r"u has shape \(\)"),
        ([1.0], [], r"K has shape \(0,\)"),
        ([np.nan], [1.0], "u holds nan"),
        ([1.0], [np.inf], "K holds inf"),
        (np.ones((2, 5)), np.ones((3, 5)), r"K has leading axes \(3,\)"),
    ],
)
def test_bad_arguments_of_the_convolution(u, K, words):
    with pytest.raises(ValueError, match=words):
        causal_convolution(u, K)


def test_text_is_no_signal():
    with pytest.raises(TypeError, match="u has dtype"):
        causal_convolution("abc", [1.0])


@pytest.mark.parametrize("L", [1, 2, 3, 4, 5, 16, 17, 100])
@pytest.mark.parametrize("N, M, P", [(1, 1, 1), (3, 1, 1), (4, 2, 3), (2, 1, 2)])
def test_kernel_is_its_definition(L, N, M, P):
    rng = np.random.default_rng(N)
    A = rng.normal(size=(N, N)) / np.sqrt(N)
    B, C = rng.normal(size=(N, M)), rng.normal(size=(P, N))
    want = np.stack([C @ np.linalg.matrix_power(A, j) @ B for j in range(L)])
    have = kernel_from_ssm(A, B, C, L)
    assert have.shape == (L, P, M)
    assert_allclose(have, want, rtol=0, atol=1e-13 * np.abs(want).max())


def test_kernel_of_hippo_legs_in_extended_precision():
    """N = 64, L = 16384: a nonnormal A, where squaring could lose digits."""
    N, L, dt = 64, 16384, 1e-3
    n = np.arange(N)
    A = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1.0)
    B, C = np.sqrt(2 * n + 1.0)[:, None], np.random.default_rng(0).normal(size=(1, N))
    AB = np.linalg.solve(np.eye(N) - dt / 2 * A, np.hstack([np.eye(N) + dt / 2 * A, dt * B]))
    Ab, Bb = AB[:, :N], AB[:, N:]
    x, want = Bb[:, 0].astype(np.longdouble), np.empty(L, dtype=np.longdouble)
    Ab_long, C_long = Ab.astype(np.longdouble), C[0].astype(np.longdouble)
    for j in range(L):
        want[j] = C_long @ x
        x = Ab_long @ x
    error = np.abs(kernel_from_ssm(Ab, Bb, C, L)[:, 0, 0] - want).max() / np.abs(want).max()
    assert error < 1e-13  # 1e-15 where long double has 64 bits


def test_kernel_of_a_singular_or_zero_matrix():
    assert_array_equal(kernel_from_ssm(0.0, 2.0, 3.0, 4)[:, 0, 0], [6, 0, 0, 0])
    shift = np.eye(5, k=-1)
    assert_array_equal(
        kernel_from_ssm(shift, np.eye(5)[:, :1], np.eye(5)[4:], 7)[:, 0, 0], [0, 0, 0, 0, 1, 0, 0]
    )


def test_kernel_of_complex_modes():
    a = np.array([0.99 * np.exp(0.3j), 0.5 - 0.1j])
    K = kernel_from_ssm(np.diag(a), np.ones((2, 1)), np.array([[1.0, 2.0]]), 300)
    j = np.arange(300)
    assert_allclose(K[:, 0, 0], a[0] ** j + 2 * a[1] ** j, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"A": [[1.0, 0.0]]}, "A has shape"),
        ({"B": [[1.0], [1.0]]}, r"B has shape \(2, 1\), expected \(1, M\)"),
        ({"C": [[1.0, 1.0]]}, r"C has shape \(1, 2\), expected \(P, 1\)"),
        ({"C": [[np.nan]]}, "C holds nan"),
        ({"L": 0}, "L is 0, expected an integer of at least 1"),
        ({"L": -3}, "L is -3"),
    ],
)
def test_bad_arguments_of_the_kernel(change, words):
    with pytest.raises(ValueError, match=words):
        kernel_from_ssm(**{"A": [[0.5]], "B": [[1.0]], "C": [[1.0]], "L": 4, **change})


@pytest.mark.parametrize("L", [4.0, "4", None, True])
def test_length_is_an_integer(L):
    with pytest.raises(TypeError, match="L is "):
        kernel_from_ssm([[0.5]], [[1.0]], [[1.0]], L)


def test_a_kernel_that_overflows_is_an_error():
    with pytest.raises(OverflowError, match="leaves the range of float64"):
        kernel_from_ssm([[2.0]], [[1.0]], [[1.0]], 2000)
