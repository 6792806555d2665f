"""The cells against torch, their Jacobians against autograd, the norms against their definition."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ssm_core.lti import DiscreteSSM
from ssm_core.rnn import (
    ACTIVATIONS,
    gradient_norms,
    gru,
    gru_jacobians,
    jacobian_norms,
    lstm,
    lstm_jacobians,
    orthogonal,
    rnn,
    rnn_jacobians,
    with_spectral_radius,
)


def vanilla(seed=0, L=12, N=5, M=3):
    rng = np.random.default_rng(seed)
    return {
        "u": rng.normal(size=(L, M)),
        "W": rng.normal(size=(N, N)) / np.sqrt(N),
        "U": rng.normal(size=(N, M)),
        "b": rng.normal(size=N),
    }


def gated(gates, seed=0, L=9, N=4, M=3):
    rng = np.random.default_rng(seed)
    return {
        "u": rng.normal(size=(L, M)),
        "weight_ih": rng.normal(size=(gates * N, M)),
        "weight_hh": rng.normal(size=(gates * N, N)),
        "bias_ih": rng.normal(size=gates * N),
        "bias_hh": rng.normal(size=gates * N),
        "h0": rng.normal(size=N),
    }


def in_torch(name, arguments, **extra):
    """The cell of torch with the same parameters, in float64."""
    torch = pytest.importorskip("torch")
    N, M = arguments["weight_hh"].shape[1], arguments["weight_ih"].shape[1]
    cell = getattr(torch.nn, name)(M, N, dtype=torch.float64, **extra)
    for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, f"{key}_l0").data.copy_(torch.from_numpy(arguments[key]))
    return torch, cell


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_rnn_agrees_with_torch(activation):
    a = vanilla()
    parameters = {
        "weight_ih": a["U"],
        "weight_hh": a["W"],
        "bias_ih": a["b"],
        "bias_hh": 0 * a["b"],
    }
    torch, cell = in_torch("RNN", parameters, nonlinearity=activation)
    want = cell(torch.from_numpy(a["u"]))[0].detach().numpy()
    assert_allclose(rnn(**a, activation=activation), want, rtol=0, atol=1e-13)


def test_gru_agrees_with_torch():
    a = gated(3)
    torch, cell = in_torch("GRU", a)
    want = cell(torch.from_numpy(a["u"]), torch.from_numpy(a["h0"])[None])[0].detach().numpy()
    assert_allclose(gru(**a), want, rtol=0, atol=1e-14)


def test_lstm_agrees_with_torch():
    a = gated(4)
    c0 = np.random.default_rng(9).normal(size=4)
    torch, cell = in_torch("LSTM", a)
    start = torch.from_numpy(a["h0"])[None], torch.from_numpy(c0)[None]
    want, (_, last_cell) = cell(torch.from_numpy(a["u"]), start)
    h, c = lstm(**a, c0=c0)
    assert_allclose(h, want.detach().numpy(), rtol=0, atol=1e-14)
    assert_allclose(c[-1], last_cell[0].detach().numpy(), rtol=0, atol=1e-14)


def by_autograd(name, a, gates_state):
    """Jacobians of one step by torch, along the run of states (L + 1, S) with the initial one."""
    torch, cell = in_torch(name, a)
    u = torch.from_numpy(a["u"])
    N = a["weight_hh"].shape[1]

    def step(s, k):
        if name == "LSTM":
            _, (h, c) = cell(u[k : k + 1], (s[None, :N], s[None, N:]))
            return torch.cat([h[0], c[0]])
        return cell(u[k : k + 1], s[None])[1][0]

    jacobian = torch.autograd.functional.jacobian
    return np.stack(
        [
            jacobian(lambda s, k=k: step(s, k), torch.from_numpy(gates_state[k])).numpy()
            for k in range(len(u))
        ]
    )


def test_gru_jacobians_agree_with_autograd():
    a = gated(3, seed=1)
    states = np.vstack([a["h0"], gru(**a)])
    assert_allclose(gru_jacobians(**a), by_autograd("GRU", a, states), rtol=0, atol=1e-14)


def test_lstm_jacobians_agree_with_autograd():
    a = gated(4, seed=2)
    c0 = np.random.default_rng(3).normal(size=4)
    h, c = lstm(**a, c0=c0)
    states = np.vstack([np.append(a["h0"], c0), np.hstack([h, c])])
    J = lstm_jacobians(**a, c0=c0)
    assert J.shape == (9, 8, 8)
    assert_allclose(J, by_autograd("LSTM", a, states), rtol=0, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rnn_jacobians_agree_with_differences(activation):
    a = vanilla(seed=4)
    h = rnn(**a, activation=activation)
    J = rnn_jacobians(a["W"], h, activation)
    step, k, N = 1e-6, 7, 5
    for j in range(N):
        shift = step * np.eye(N)[j]
        ends = [
            rnn(a["u"][k : k + 1], a["W"], a["U"], a["b"], activation, h[k - 1] + sign * shift)
            for sign in (1, -1)
        ]
        assert_allclose(J[k][:, j], (ends[0] - ends[1])[0] / (2 * step), rtol=0, atol=1e-8)


def test_the_product_of_jacobians_is_the_gradient_through_time():
    torch = pytest.importorskip("torch")
    a = vanilla(seed=5, L=20)
    W, U, b = (torch.from_numpy(a[key]) for key in ("W", "U", "b"))
    u = torch.from_numpy(a["u"])

    def last(h0):
        h = h0
        for k in range(20):
            h = torch.tanh(W @ h + U @ u[k] + b)
        return h

    whole = torch.autograd.functional.jacobian(last, torch.zeros(5, dtype=torch.float64)).numpy()
    g = jacobian_norms(a["W"], rnn(**a))
    assert g.shape == (21,) and g[0] == 1
    assert_allclose(g[20], np.linalg.norm(whole, 2), rtol=1e-12)


def test_gradient_norms_are_their_definition():
    J = np.random.default_rng(6).normal(size=(6, 3, 3))
    g = gradient_norms(J)
    assert_allclose(g[2], np.linalg.norm(J[5] @ J[4], 2), rtol=1e-14)
    assert_allclose(g[6], np.linalg.norm(np.linalg.multi_dot(J[::-1]), 2), rtol=1e-13)


def test_orthogonal_and_linear_keeps_gradients_and_tanh_loses_them():
    W = orthogonal(16, rng=0)
    rng = np.random.default_rng(1)
    u = rng.normal(size=(200, 1))
    run = {"u": u, "W": W, "U": rng.normal(size=(16, 1)), "b": np.zeros(16)}
    assert_allclose(
        jacobian_norms(W, rnn(**run, activation="identity"), "identity"), 1, rtol=0, atol=1e-12
    )
    assert jacobian_norms(W, rnn(**run))[-1] < 1e-6


def test_identity_is_the_state_of_a_discrete_system():
    a = vanilla(seed=7)
    system = DiscreteSSM(a["W"], a["U"], np.eye(5), np.zeros((5, 3)), 1.0)
    h = rnn(a["u"], a["W"], a["U"], np.zeros(5), "identity")
    assert_allclose(h, system.recurrence(a["u"])[1], rtol=0, atol=1e-13)


def test_tanh_is_not_linear_hence_no_convolution():
    """Superposition fails: no kernel can give these outputs."""
    arguments = {"W": [[0.5]], "U": [[1.0]], "b": [0.0]}
    one, two = rnn([1.0, 0.0], **arguments), rnn([2.0, 0.0], **arguments)
    assert np.abs(two - 2 * one).max() > 0.5


def test_orthogonal_is_orthogonal_uniform_and_seeded():
    W = orthogonal(50, np.random.default_rng(0))
    assert_allclose(W.T @ W, np.eye(50), rtol=0, atol=1e-14)
    assert_array_equal(orthogonal(4, 3), orthogonal(4, np.random.default_rng(3)))
    rng = np.random.default_rng(4)
    diagonal = [np.diag(orthogonal(2, rng)) for _ in range(2000)]
    assert np.abs(np.mean(diagonal, axis=0)).max() < 0.06  # without the signs it is -0.64
    assert {orthogonal(1, seed).item() for seed in range(20)} == {-1.0, 1.0}


def test_with_spectral_radius():
    W = with_spectral_radius(np.random.default_rng(0).normal(size=(20, 20)), 0.9)
    assert np.abs(np.linalg.eigvals(W)).max() == pytest.approx(0.9, rel=1e-12)
    with pytest.raises(ValueError, match="no eigenvalue other than 0"):
        with_spectral_radius(np.zeros((2, 2)), 1.0)
    with pytest.raises(ValueError, match="radius is 0"):
        with_spectral_radius(np.eye(2), 0.0)


def test_runs_of_one_sample_and_one_state():
    assert rnn([0.3], [[0.5]], [[1.0]], [0.1]).shape == (1, 1)
    a = gated(3, L=1, N=1, M=1)
    a["u"] = a["u"][:, 0]
    assert gru(**a).shape == (1, 1) and gru_jacobians(**a).shape == (1, 1, 1)
    a = gated(4, L=1, N=1, M=1)
    assert lstm(**a)[0].shape == (1, 1) and lstm_jacobians(**a).shape == (1, 2, 2)


def test_extreme_inputs_saturate_without_warnings():
    a = gated(3)
    a["u"] = 1e6 * a["u"]
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(gru(**a)).all()


def test_runs_in_parts():
    a = gated(4)
    h, c = lstm(**a)
    first = lstm(**{**a, "u": a["u"][:4]})
    rest = lstm(**{**a, "u": a["u"][4:], "h0": first[0][-1]}, c0=first[1][-1])
    assert_array_equal(np.vstack([first[0], rest[0]]), h)
    assert_array_equal(np.vstack([first[1], rest[1]]), c)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"W": [[1.0, 0.0]]}, "W has shape"),
        ({"U": np.ones((4, 3))}, r"U has shape \(4, 3\), expected \(5, M\)"),
        ({"b": np.ones(4)}, "b has shape"),
        ({"u": np.ones((12, 2))}, r"u has shape \(12, 2\), expected \(L, 3\)"),
        ({"u": np.ones(12)}, "u has shape"),
        ({"u": np.full((12, 3), np.nan)}, "u holds nan"),
        ({"h0": np.ones(3)}, "h0 has shape"),
        ({"activation": "swish"}, "activation is 'swish', expected one of: tanh"),
    ],
)
def test_bad_arguments_of_the_rnn(change, words):
    with pytest.raises(ValueError, match=words):
        rnn(**{**vanilla(), **change})


@pytest.mark.parametrize(
    "change, words",
    [
        ({"weight_hh": np.ones((12, 5))}, r"weight_hh has shape \(12, 5\), expected \(\d+, 5\)"),
        ({"weight_hh": np.ones(12)}, "weight_hh has shape"),
        ({"weight_ih": np.ones((11, 3))}, r"weight_ih has shape \(11, 3\), expected \(12, M\)"),
        ({"bias_ih": np.ones(4)}, "bias_ih has shape"),
        ({"bias_hh": np.ones(4)}, "bias_hh has shape"),
        ({"u": np.ones((9, 2))}, "u has shape"),
        ({"h0": np.ones(5)}, "h0 has shape"),
        ({"bias_hh": np.full(12, np.inf)}, "bias_hh holds inf"),
    ],
)
@pytest.mark.parametrize("run", [gru, gru_jacobians])
def test_bad_arguments_of_the_gru(run, change, words):
    with pytest.raises(ValueError, match=words):
        run(**{**gated(3), **change})


@pytest.mark.parametrize("run", [lstm, lstm_jacobians])
def test_bad_arguments_of_the_lstm(run):
    with pytest.raises(ValueError, match="weight_hh has shape"):
        run(**gated(3))
    with pytest.raises(ValueError, match="c0 has shape"):
        run(**gated(4), c0=[0.0])


def test_bad_arguments_of_the_norms():
    with pytest.raises(ValueError, match=r"jacobians has shape \(2, 2\)"):
        gradient_norms(np.eye(2))
    with pytest.raises(ValueError, match="jacobians holds nan"):
        gradient_norms([[[np.nan]]])
    with pytest.raises(ValueError, match="h has shape"):
        jacobian_norms(np.eye(2), np.ones((3, 3)))
    with pytest.raises(ValueError, match="activation"):
        jacobian_norms(np.eye(2), np.ones((3, 2)), "none")


def test_bad_types():
    with pytest.raises(TypeError, match="W is complex"):
        rnn([1.0], [[1j]], [[1.0]], [0.0])
    with pytest.raises(TypeError, match="rng is None"):
        orthogonal(3, None)
    with pytest.raises(TypeError, match="N is 2.0"):
        orthogonal(2.0, 0)
    with pytest.raises(ValueError, match="N is 0"):
        orthogonal(0, 0)


def test_what_grows_without_bound_is_an_error():
    with pytest.raises(OverflowError, match="the state"):
        rnn(np.ones(3000), [[2.0]], [[1.0]], [0.0], "relu")
    with pytest.raises(OverflowError, match="the product of Jacobians"):
        gradient_norms(np.full((400, 1, 1), 10.0))
