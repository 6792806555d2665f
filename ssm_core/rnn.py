r"""Recurrences with a nonlinearity: what a state space model gives up, and why.

A tanh RNN, a GRU and an LSTM, each as a plain loop in NumPy, and for each the Jacobians of one
step, :math:`J_k = \partial s_k / \partial s_{k-1}`. How much of a gradient survives k steps back
is the norm of the product of the last k of them: :func:`gradient_norms`, the same for all cells.

=========  =====================  ==========================================
cell       its Jacobians          state s
=========  =====================  ==========================================
``rnn``    ``rnn_jacobians``      h (N,)
``gru``    ``gru_jacobians``      h (N,)
``lstm``   ``lstm_jacobians``     (h, c) one after the other (2 N,)
=========  =====================  ==========================================

``gru`` and ``lstm`` take the parameters of ``torch.nn.GRU`` and ``torch.nn.LSTM`` as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit as sigmoid

from ssm_core._checks import (
    RealArray,
    as_array,
    as_choice,
    as_generator,
    as_int,
    as_positive,
    as_signal,
    finite_result,
    without_warnings,
)

__all__ = [
    "ACTIVATIONS",
    "gradient_norms",
    "gru",
    "gru_jacobians",
    "jacobian_norms",
    "lstm",
    "lstm_jacobians",
    "orthogonal",
    "rnn",
    "rnn_jacobians",
    "with_spectral_radius",
]

# name: (the function, its derivative in terms of its value h)
_FUNCTIONS: dict[str, tuple[Callable[..., RealArray], Callable[..., RealArray]]] = {
    "tanh": (np.tanh, lambda h: 1 - h**2),
    "sigmoid": (sigmoid, lambda h: h * (1 - h)),
    "relu": (lambda a: np.maximum(a, 0), lambda h: (h > 0).astype(float)),
    "identity": (lambda a: a, np.ones_like),
}

ACTIVATIONS = tuple(_FUNCTIONS)

_TOO_LARGE = "an argument is too large"


@without_warnings
def rnn(
    u: ArrayLike,
    W: ArrayLike,
    U: ArrayLike,
    b: ArrayLike,
    activation: str = "tanh",
    h0: ArrayLike | None = None,
) -> RealArray:
    r"""Run the recurrence h_k = f(W h_{k-1} + U u_k + b) over a signal.

    With ``activation="identity"`` it is the state update of a discrete state space model.

    Args:
        u (float64): input (L, M), or (L,) where M = 1.
        W (float64): from state to state (N, N).
        U (float64): from input to state (N, M).
        b (float64): bias (N,).
        activation (str): ``tanh``, ``sigmoid``, ``relu`` or ``identity``.
        h0 (float64): state (N,) before the first sample; zero by default.

    Returns:
        h (L, N): the state after every sample.

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity, an unknown activation.
        TypeError: arguments that are not real numbers.
        OverflowError: the state leaves the range of float64 (``relu``, ``identity``).

    Equations eq-rnn and, for ``identity``, eq-rnn-linear. Source: Elman, "Finding structure in
    time" (1990).

    Example:
        >>> from ssm_core.rnn import rnn
        >>> print(rnn([1.0, 0.0], W=[[0.5]], U=[[1.0]], b=[0.0]).round(4))
        [[0.7616]
         [0.3634]]
    """
    f, _ = _FUNCTIONS[as_choice(activation, "activation", ACTIVATIONS)]
    W = as_array(W, "W", ("N", "N"), real=True)  # (N, N)
    N = len(W)
    U = as_array(U, "U", (N, "M"), real=True)  # (N, M)
    b = as_array(b, "b", (N,), real=True)  # (N,)
    u = as_signal(u, "u", U.shape[1], real=True)  # (L, M)
    state = _initial(h0, "h0", N)  # (N,)
    drive = u @ U.T + b  # (L, N)
    h = np.empty_like(drive)
    for k in range(len(u)):
        h[k] = state = f(W @ state + drive[k])
    return finite_result(h, "the state")


@without_warnings
def rnn_jacobians(W: ArrayLike, h: ArrayLike, activation: str = "tanh") -> RealArray:
    r"""The Jacobians of one step, J_k = diag(f'(a_k)) W, along a run of :func:`rnn`.

    The derivative f' is taken from the state: for tanh it is 1 - h². Hence the input and the bias
    are not needed again.

    Args:
        W (float64): from state to state (N, N).
        h (float64): states (L, N) that :func:`rnn` returned.
        activation (str): the one the run had.

    Returns:
        J (L, N, N) with J[k] = dh[k] / dh[k - 1], and J[0] = dh[0] / dh0.

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity, an unknown activation.
        TypeError: arguments that are not real numbers.

    Equation eq-jacobian-product. Source: Pascanu, Mikolov and Bengio, "On the difficulty of
    training recurrent neural networks" (2013), equation (5).

    Example:
        >>> from ssm_core.rnn import rnn_jacobians
        >>> print(rnn_jacobians([[0.5]], [[0.0], [0.6]]).ravel())
        [0.5  0.32]
    """
    _, slope = _FUNCTIONS[as_choice(activation, "activation", ACTIVATIONS)]
    W = as_array(W, "W", ("N", "N"), real=True)  # (N, N)
    h = as_array(h, "h", ("L", len(W)), real=True)  # (L, N)
    return finite_result(slope(h)[:, :, None] * W, "the Jacobian", _TOO_LARGE)  # (L, N, N)


@without_warnings
def gradient_norms(jacobians: ArrayLike) -> RealArray:
    r"""How much of a gradient is left k steps back: the norm of the product of k Jacobians.

    .. math::

        g_k = \left\lVert \frac{\partial s_{L-1}}{\partial s_{L-1-k}} \right\rVert_2
            = \lVert J_{L-1} J_{L-2} \cdots J_{L-k} \rVert_2, \qquad g_0 = 1

    The spectral norm is the largest factor by which any direction is stretched: where it vanishes,
    every gradient does.

    Args:
        jacobians (float64): the Jacobians of single steps (L, S, S), oldest first, of any cell.

    Returns:
        g (L + 1,): one norm for each k = 0, …, L. It reaches 0 below 1e-308.

    Raises:
        ValueError: wrong shape, masked entries, NaN or infinity.
        TypeError: an argument that is not an array of real numbers.
        OverflowError: the product leaves the range of float64.

    Equation eq-jacobian-product. Source: Bengio, Simard and Frasconi, "Learning long-term
    dependencies with gradient descent is difficult" (1994); Pascanu, Mikolov and Bengio (2013).

    Example:
        >>> from ssm_core.rnn import gradient_norms
        >>> print(gradient_norms([[[0.5]], [[0.5]], [[0.1]]]).round(12))
        [1.    0.1   0.05  0.025]
    """
    J = as_array(jacobians, "jacobians", ("L", "S", "S"), real=True)  # (L, S, S)
    product = np.eye(J.shape[1])  # (S, S)
    g = np.ones(len(J) + 1)
    for k in range(len(J)):
        product = finite_result(product @ J[len(J) - 1 - k], "the product of Jacobians")
        g[k + 1] = np.linalg.norm(product, 2)
    return g


@without_warnings
def jacobian_norms(W: ArrayLike, h: ArrayLike, activation: str = "tanh") -> RealArray:
    r"""The gradient norms of a run of :func:`rnn`: of dh[L-1] / dh[L-1-k] for k = 0, …, L.

    Args:
        W (float64): from state to state (N, N).
        h (float64): states (L, N) that :func:`rnn` returned.
        activation (str): the one the run had.

    Returns:
        g (L + 1,), as in :func:`gradient_norms`.

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity, an unknown activation.
        TypeError: arguments that are not real numbers.

    Equation eq-jacobian-product. Source: Pascanu, Mikolov and Bengio (2013).

    Example:
        One unit, without a tanh and with it. (For a single unit the tanh can only lower the norms;
        with more units it lowers their bound, the k-th power of the norm of W.)

        >>> from ssm_core.rnn import jacobian_norms, rnn
        >>> h = rnn([1.0, 1.0, 1.0], W=[[0.5]], U=[[1.0]], b=[0.0])
        >>> print(jacobian_norms([[0.5]], h, "identity"))
        [1.    0.5   0.25  0.125]
        >>> print(jacobian_norms([[0.5]], h).round(4))
        [1.     0.1006 0.0112 0.0024]
    """
    return gradient_norms(rnn_jacobians(W, h, activation))


@without_warnings
def orthogonal(N: int, rng: np.random.Generator | int) -> RealArray:
    """A random orthogonal matrix, every rotation and reflection equally likely (Haar measure).

    Args:
        N (int): size, at least 1.
        rng (numpy.random.Generator or int): where the randomness comes from, or a seed.

    Returns:
        W (N, N) with W^T W = I: repeated products neither grow nor shrink.

    Raises:
        ValueError: N below 1.
        TypeError: N not an integer, ``rng`` neither a generator nor a seed.

    Source: Mezzadri, "How to generate random matrices from the classical compact groups" (2007).

    Example:
        >>> import numpy as np
        >>> from ssm_core.rnn import orthogonal
        >>> W = orthogonal(3, rng=0)
        >>> print(np.allclose(W.T @ W, np.eye(3)))
        True
    """
    N = as_int(N, "N")
    Q, R = np.linalg.qr(as_generator(rng).standard_normal((N, N)))
    return Q * np.sign(np.diag(R))  # QR alone prefers some signs


@without_warnings
def with_spectral_radius(W: ArrayLike, radius: float) -> RealArray:
    """The matrix W scaled so that its largest eigenvalue has the modulus ``radius``.

    Args:
        W (float64): matrix (N, N) with an eigenvalue other than 0.
        radius (float): above 0.

    Returns:
        A multiple of W (N, N).

    Raises:
        ValueError: wrong shape, masked entries, NaN or infinity, ``radius`` not above 0, all
            eigenvalues 0.
        TypeError: arguments that are not real numbers.

    Source: Pascanu, Mikolov and Bengio (2013), section 2.1: in a linear recurrence gradients
    vanish in the end where the radius is below 1, and only above 1 can they explode. What bounds
    a tanh RNN is the largest singular value.

    Example:
        >>> from ssm_core.rnn import with_spectral_radius
        >>> print(with_spectral_radius([[2.0, 0.0], [0.0, -4.0]], 1.0))
        [[ 0.5  0. ]
         [ 0.  -1. ]]
    """
    W = as_array(W, "W", ("N", "N"), real=True)
    radius = as_positive(radius, "radius")
    largest = np.abs(np.linalg.eigvals(W)).max()
    if largest == 0:
        raise ValueError("W has no eigenvalue other than 0, expected one that can be scaled")
    return finite_result(W / largest * radius, "the scaled matrix", _TOO_LARGE)


@without_warnings
def gru(
    u: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias_ih: ArrayLike,
    bias_hh: ArrayLike,
    h0: ArrayLike | None = None,
) -> RealArray:
    r"""Run a gated recurrent unit over a signal.

    Args:
        u (float64): input (L, M), or (L,) where M = 1.
        weight_ih (float64): from input (3 N, M), rows in the order r, z, n as in torch.
        weight_hh (float64): from state (3 N, N).
        bias_ih (float64): bias on the side of the input (3 N,).
        bias_hh (float64): bias on the side of the state (3 N,).
        h0 (float64): state (N,) before the first sample; zero by default.

    Returns:
        h (L, N): the state after every sample, that of a one layer ``torch.nn.GRU``.

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity.
        TypeError: arguments that are not real numbers.
        OverflowError: a sum leaves the range of float64.

    Equation eq-gru. Source: Cho et al., "Learning phrase representations using RNN
    encoder-decoder" (2014), in the variant of torch: the reset gate acts after the product.

    Example:
        With all weights zero the update gate is 1/2 and the state halves at each step:

        >>> from ssm_core.rnn import gru
        >>> zero = [[0.0]] * 3
        >>> print(gru([1.0, 1.0], zero, zero, [0.0] * 3, [0.0] * 3, h0=[1.0]).ravel())
        [0.5  0.25]
    """
    u, weights, h = _gated_arguments(u, weight_ih, weight_hh, bias_ih, bias_hh, 3, h0)
    hs = np.stack([h := _gru_step(u_k, h, *weights)[0] for u_k in u])
    return finite_result(hs, "the state", _TOO_LARGE)


@without_warnings
def gru_jacobians(
    u: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias_ih: ArrayLike,
    bias_hh: ArrayLike,
    h0: ArrayLike | None = None,
) -> RealArray:
    r"""The Jacobians of one step, J_k = dh_k / dh_{k-1}, along a run of :func:`gru`.

    Args:
        u, weight_ih, weight_hh, bias_ih, bias_hh, h0: as for :func:`gru`.

    Returns:
        J (L, N, N) with J[k] = dh[k] / dh[k - 1], and J[0] = dh[0] / dh0.

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity.
        TypeError: arguments that are not real numbers.
        OverflowError: a sum leaves the range of float64.

    Equations eq-gru, eq-jacobian-product. Source: the derivative of Cho et al. (2014).

    Example:
        >>> from ssm_core.rnn import gradient_norms, gru_jacobians
        >>> zero = [[0.0]] * 3
        >>> J = gru_jacobians([1.0, 1.0], zero, zero, [0.0] * 3, [0.0] * 3)
        >>> print(gradient_norms(J))
        [1.   0.5  0.25]
    """
    u, weights, h = _gated_arguments(u, weight_ih, weight_hh, bias_ih, bias_hh, 3, h0)
    W_r, W_z, W_n = np.split(weights[1], 3)  # (N, N) each
    J = np.empty((len(u), len(h), len(h)))
    for k, u_k in enumerate(u):
        h_last = h
        h, r, z, n, q = _gru_step(u_k, h_last, *weights)
        dr = _rows(r * (1 - r), W_r)
        dz = _rows(z * (1 - z), W_z)
        dn = _rows(1 - n**2, _rows(r, W_n) + _rows(q, dr))
        J[k] = np.diag(z) + _rows(h_last - n, dz) + _rows(1 - z, dn)
    return finite_result(J, "the Jacobian", _TOO_LARGE)


@without_warnings
def lstm(
    u: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias_ih: ArrayLike,
    bias_hh: ArrayLike,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
) -> tuple[RealArray, RealArray]:
    r"""Run a long short-term memory over a signal.

    Args:
        u (float64): input (L, M), or (L,) where M = 1.
        weight_ih (float64): from input (4 N, M), rows in the order i, f, g, o as in torch.
        weight_hh (float64): from state (4 N, N).
        bias_ih (float64): bias on the side of the input (4 N,).
        bias_hh (float64): bias on the side of the state (4 N,).
        h0 (float64): output state (N,) before the first sample; zero by default.
        c0 (float64): cell state (N,) before the first sample; zero by default.

    Returns:
        ``(h, c)``: both states after every sample, (L, N) each, those of a one layer
        ``torch.nn.LSTM``.

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity.
        TypeError: arguments that are not real numbers.
        OverflowError: a sum leaves the range of float64.

    Equation eq-lstm. Source: Hochreiter and Schmidhuber, "Long short-term memory" (1997), with
    the forget gate of Gers, Schmidhuber and Cummins (2000).

    Example:
        With all weights zero the forget gate is 1/2 and the cell halves at each step:

        >>> from ssm_core.rnn import lstm
        >>> zero = [[0.0]] * 4
        >>> h, c = lstm([1.0, 1.0], zero, zero, [0.0] * 4, [0.0] * 4, c0=[1.0])
        >>> print(c.ravel())
        [0.5  0.25]
    """
    u, weights, h = _gated_arguments(u, weight_ih, weight_hh, bias_ih, bias_hh, 4, h0)
    c = _initial(c0, "c0", len(h))
    hs, cs = np.empty((2, len(u), len(h)))
    for k, u_k in enumerate(u):
        h, c = _lstm_step(u_k, h, c, *weights)[:2]
        hs[k], cs[k] = h, c
    return finite_result(hs, "the state h", _TOO_LARGE), finite_result(
        cs, "the state c", _TOO_LARGE
    )


@without_warnings
def lstm_jacobians(
    u: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias_ih: ArrayLike,
    bias_hh: ArrayLike,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
) -> RealArray:
    r"""The Jacobians of one step of the state (h, c), along a run of :func:`lstm`.

    Args:
        u, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0: as for :func:`lstm`.

    Returns:
        J (L, 2 N, 2 N) with J[k] = d(h, c)[k] / d(h, c)[k - 1]; the last N rows and columns, from
        cell to cell, hold the forget gate.

    Raises:
        ValueError: shapes that do not fit, masked entries, NaN or infinity.
        TypeError: arguments that are not real numbers.
        OverflowError: a sum leaves the range of float64.

    Equations eq-lstm, eq-jacobian-product. Source: the derivative of Hochreiter and Schmidhuber
    (1997).

    Example:
        A bias of 3 on the forget gate keeps 95 % of the cell at each step:

        >>> from ssm_core.rnn import lstm_jacobians
        >>> zero, bias = [[0.0]] * 4, [0.0, 3.0, 0.0, 0.0]
        >>> J = lstm_jacobians([0.0, 0.0], zero, zero, bias, [0.0] * 4)
        >>> print(J[:, 1, 1].round(4))
        [0.9526 0.9526]
    """
    u, weights, h = _gated_arguments(u, weight_ih, weight_hh, bias_ih, bias_hh, 4, h0)
    c = _initial(c0, "c0", len(h))
    W_i, W_f, W_g, W_o = np.split(weights[1], 4)  # (N, N) each
    N = len(h)
    J = np.empty((len(u), 2 * N, 2 * N))
    for k, u_k in enumerate(u):
        c_last = c
        h, c, i, f, g, o = _lstm_step(u_k, h, c_last, *weights)
        dc_dh = (
            _rows(g * i * (1 - i), W_i)
            + _rows(c_last * f * (1 - f), W_f)
            + _rows(i * (1 - g**2), W_g)
        )
        through_cell = o * (1 - np.tanh(c) ** 2)  # dh / dc, a diagonal
        J[k, :N, :N] = _rows(np.tanh(c) * o * (1 - o), W_o) + _rows(through_cell, dc_dh)
        J[k, :N, N:] = np.diag(through_cell * f)
        J[k, N:, :N] = dc_dh
        J[k, N:, N:] = np.diag(f)
    return finite_result(J, "the Jacobian", _TOO_LARGE)


def _gru_step(
    u: RealArray,
    h: RealArray,
    weight_ih: RealArray,
    weight_hh: RealArray,
    bias_ih: RealArray,
    bias_hh: RealArray,
) -> tuple[RealArray, ...]:
    """One step of a GRU: the new state, its gates r, z, n, and what the reset gate acts on."""
    a_r, a_z, a_n = np.split(weight_ih @ u + bias_ih, 3)  # (N,) each
    p_r, p_z, p_n = np.split(weight_hh @ h + bias_hh, 3)
    r, z = sigmoid(a_r + p_r), sigmoid(a_z + p_z)
    n = np.tanh(a_n + r * p_n)
    return (1 - z) * n + z * h, r, z, n, p_n


def _lstm_step(
    u: RealArray,
    h: RealArray,
    c: RealArray,
    weight_ih: RealArray,
    weight_hh: RealArray,
    bias_ih: RealArray,
    bias_hh: RealArray,
) -> tuple[RealArray, ...]:
    """One step of an LSTM: the new h and c, and its gates i, f, g, o."""
    i, f, g, o = np.split(weight_ih @ u + bias_ih + weight_hh @ h + bias_hh, 4)  # (N,) each
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    return o * np.tanh(c), c, i, f, g, o


def _gated_arguments(
    u: ArrayLike,
    weight_ih: ArrayLike,
    weight_hh: ArrayLike,
    bias_ih: ArrayLike,
    bias_hh: ArrayLike,
    gates: int,
    h0: ArrayLike | None,
) -> tuple[RealArray, tuple[RealArray, RealArray, RealArray, RealArray], RealArray]:
    """Check the arguments of a gated cell: u (L, M), its four parameters, h0 (N,)."""
    weight_hh = as_array(weight_hh, "weight_hh", (f"{gates} N", "N"), real=True)
    N = weight_hh.shape[1]
    weight_hh = as_array(weight_hh, "weight_hh", (gates * N, N), real=True)  # (gates N, N)
    weight_ih = as_array(weight_ih, "weight_ih", (gates * N, "M"), real=True)  # (gates N, M)
    bias_ih = as_array(bias_ih, "bias_ih", (gates * N,), real=True)  # (gates N,)
    bias_hh = as_array(bias_hh, "bias_hh", (gates * N,), real=True)
    u = as_signal(u, "u", weight_ih.shape[1], real=True)  # (L, M)
    return u, (weight_ih, weight_hh, bias_ih, bias_hh), _initial(h0, "h0", N)


def _initial(state: ArrayLike | None, name: str, N: int) -> RealArray:
    """An initial state (N,), zero if it is None."""
    return np.zeros(N) if state is None else as_array(state, name, (N,), real=True)


def _rows(scale: RealArray, matrix: RealArray) -> RealArray:
    """diag(scale) @ matrix."""
    return scale[:, None] * matrix
