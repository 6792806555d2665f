"""What holds for every input of the NumPy modules, on inputs that Hypothesis draws.

Tolerances are relative to the largest number that enters a sum, since what is compared may cancel.
"""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import signal
from scipy.linalg import block_diag

from ssm_core import _checks, hippo
from ssm_core import convolution as conv
from ssm_core import discretize as disc
from ssm_core import rnn as cells
from ssm_core.lti import ContinuousSSM, DiscreteSSM

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")

MEASURES = ("legs", "legt", "lagt", "glagt", "fout", "chebt")
SCIPY_NAME = {
    "euler": "euler",
    "backward_euler": "backward_diff",
    "bilinear": "bilinear",
    "gbt": "gbt",
    "zoh": "zoh",
    "foh": "foh",
}

sizes = st.integers(1, 4)
lengths = st.integers(1, 30)
steps = st.floats(-9, 1).map(lambda exponent: 10.0**exponent)
numbers = st.floats(-1, 1)


def close(have, want, size=1.0, tolerance=1e-12):
    """Whether the largest difference is small against ``size``, or the largest number if larger."""
    have, want = np.asarray(have), np.asarray(want)
    assert have.shape == want.shape
    size = max(size, np.abs(want).max(initial=0))
    assert np.abs(have - want).max(initial=0) <= tolerance * size


def arrays(*shape, is_complex=False):
    real = hnp.arrays(np.float64, shape, elements=numbers)
    return st.builds(lambda a, b: a + 1j * b, real, real) if is_complex else real


@st.composite
def matrices(draw, decay=0.0, is_complex=None):
    """A (N, N), B (N, M), C (P, N), D (P, M); A has a norm of at most 1, shifted by -decay."""
    N, M, P = draw(sizes), draw(sizes), draw(sizes)
    is_complex = draw(st.booleans()) if is_complex is None else is_complex
    A = draw(arrays(N, N, is_complex=is_complex))
    A = A / max(1.0, np.linalg.norm(A, 2)) - decay * np.eye(N)
    return A, draw(arrays(N, M)), draw(arrays(P, N)), draw(arrays(P, M))


@st.composite
def discrete(draw, **kwargs):
    return DiscreteSSM(*draw(matrices(**kwargs)), 0.5)


@st.composite
def continuous(draw, **kwargs):
    return ContinuousSSM(*draw(matrices(decay=1.5, **kwargs)))


@st.composite
def runs(draw, **kwargs):
    """A discrete system, an input (L, M) and an initial state (N,)."""
    system, L = draw(discrete(**kwargs)), draw(lengths)
    return system, draw(arrays(L, system.M)), draw(arrays(system.N))


@st.composite
def well_conditioned(draw, N):
    """A change of coordinates (N, N) with a condition number of at most 3."""
    T = draw(arrays(N, N))
    return 2 * np.eye(N) + T / max(1.0, np.linalg.norm(T, 2))


def guises(x):
    """The same numbers in other memory: each must give the same result, bit for bit or nearly."""
    return st.sampled_from(
        [
            x.tolist(),
            np.asfortranarray(x),
            np.flip(np.flip(x).copy()),
            np.repeat(x, 2, axis=-1)[..., ::2],
            _checks.read_only(x),
            x.astype(x.dtype.newbyteorder(">")),
            np.ma.masked_array(x, mask=False),
            x.astype(np.clongdouble if x.dtype.kind == "c" else np.longdouble),
            x.view(type("Subclass", (np.ndarray,), {})),
            *([np.asmatrix(x)] if x.ndim == 2 else []),
        ]
    )


# the checks


@given(
    hnp.arrays(
        st.sampled_from(
            ["?", "i1", "u1", "<i2", ">i4", "u8", "f2", "<f4", ">f8", "g", "F", ">c16", "G"]
        ),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
        elements=st.integers(0, 1),
    )
)
def test_every_dtype_of_numbers_is_converted(x):
    y = _checks.as_array(x, "x")
    assert y.dtype == (np.complex128 if x.dtype.kind == "c" else np.float64)
    assert type(y) is np.ndarray and y.dtype.isnative
    np.testing.assert_array_equal(y, x)


@given(
    st.data(), hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=4), elements=numbers)
)
def test_a_mask_or_a_bad_number_anywhere_is_seen(data, x):
    place = tuple(data.draw(st.integers(0, n - 1)) for n in x.shape)
    masked = np.ma.masked_array(x)
    masked[place] = np.ma.masked
    for value in (masked, [masked, masked], [[masked]]):
        with pytest.raises(ValueError, match=r"^x has \d+ masked entries"):
            _checks.as_array(value, "x")
    x[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    with pytest.raises(ValueError, match="^x holds (nan|inf|-inf)"):
        _checks.as_array(x, "x")


# convolution


@given(st.data(), lengths, st.integers(1, 40))
def test_convolution_is_its_definition_and_linear(data, L, L_K):
    u, v, K = data.draw(arrays(L)), data.draw(arrays(L)), data.draw(arrays(L_K))
    a = data.draw(numbers)
    y = conv.causal_convolution(u, K)
    close(y, np.convolve(u, K)[:L], size=L)
    close(conv.causal_convolution(a * u + v, K), a * y + conv.causal_convolution(v, K), size=L)
    if L == L_K:
        close(conv.causal_convolution(K, u), y, size=L)


@given(st.data(), st.integers(2, 30))
def test_convolution_is_causal_and_time_invariant(data, L):
    u, K = data.draw(arrays(L)), data.draw(arrays(L))
    cut = data.draw(st.integers(1, L - 1))
    y = conv.causal_convolution(u, K)
    changed = np.r_[u[:cut], data.draw(arrays(L - cut))]
    close(conv.causal_convolution(changed, K)[:cut], y[:cut], size=L)
    later = conv.causal_convolution(np.r_[np.zeros(cut), u], K)
    close(later, np.r_[np.zeros(cut), y], size=L)


@given(st.data(), sizes, sizes, lengths)
def test_convolution_of_channels_and_guises(data, H, B, L):
    u, K = data.draw(arrays(B, H, L)), data.draw(arrays(H, L))
    y = conv.causal_convolution(u, K)
    order = data.draw(st.permutations(range(H)))
    close(conv.causal_convolution(u[:, order], K[order]), y[:, order])
    close(conv.causal_convolution(u[0, 0], K[0]), y[0, 0], size=L)
    close(conv.causal_convolution(data.draw(guises(u)), data.draw(guises(K))), y)


@given(st.data(), matrices(), st.integers(1, 60))
def test_kernel_is_its_definition_in_any_coordinates(data, system, L):
    A, B, C, _ = system
    K = conv.kernel_from_ssm(A, B, C, L)
    x, want = B, []
    for _ in range(L):
        want.append(C @ x)
        x = A @ x
    close(K, want, size=len(A))
    shorter = data.draw(st.integers(1, L))
    close(conv.kernel_from_ssm(A, B, C, shorter), K[:shorter], size=len(A))
    T = data.draw(well_conditioned(len(A)))
    inverse = np.linalg.inv(T)
    close(
        conv.kernel_from_ssm(T @ A @ inverse, T @ B, C @ inverse, L),
        K,
        size=9 * len(A),
        tolerance=1e-11,
    )


# the discrete system


@given(runs())
def test_three_computations_agree(run):
    system, u, _ = run
    y, x = system.recurrence(u)
    state, size = np.zeros(system.N), len(u) * system.N
    for k in range(len(u)):
        out, state = system.step(u[k], state)
        close(out, y[k], size)
        close(state, x[k], size)
    close(system.convolve(u), y, size)


@given(st.data(), runs())
def test_recurrence_is_linear_in_input_and_state(data, run):
    system, u, x0 = run
    v, z0, a = data.draw(arrays(*u.shape)), data.draw(arrays(*x0.shape)), data.draw(numbers)
    y, x = system.recurrence(u, x0)
    y2, x2 = system.recurrence(v, z0)
    both = system.recurrence(a * u + v, a * x0 + z0)
    close(both[0], a * y + y2, size=len(u) * system.N)
    close(both[1], a * x + x2, size=len(u) * system.N)


@given(st.data(), runs())
def test_recurrence_is_causal_time_invariant_and_splits(data, run):
    system, u, x0 = run
    cut = data.draw(st.integers(0, len(u)))
    y, x = system.recurrence(u, x0)
    size = len(u) * system.N
    if 0 < cut < len(u):
        y1, x1 = system.recurrence(u[:cut], x0)
        y2, x2 = system.recurrence(u[cut:], x1[-1])
        close(x1, x[:cut], size)  # also causal: the rest was not there
        close(x2, x[cut:], size)
        close(np.vstack([y1, y2]), y, size)
    still = np.zeros((cut, system.M))
    y, _ = system.recurrence(u)
    close(system.recurrence(np.vstack([still, u]))[0], np.vstack([still @ system.D.T, y]), size)


@given(st.data(), runs())
def test_channels_and_coordinates_can_be_changed(data, run):
    system, u, x0 = run
    A, B, C, D = system.A, system.B, system.C, system.D
    y, x = system.recurrence(u, x0)
    n, m, p = (data.draw(st.permutations(range(k))) for k in (system.N, system.M, system.P))
    moved = DiscreteSSM(A[np.ix_(n, n)], B[np.ix_(n, m)], C[np.ix_(p, n)], D[np.ix_(p, m)], 0.5)
    y2, x2 = moved.recurrence(u[:, m], x0[n])
    close(y2, y[:, p], size=len(u) * system.N)
    close(x2, x[:, n], size=len(u) * system.N)
    close(moved.kernel(5), system.kernel(5)[:, p][:, :, m], size=system.N)
    T = data.draw(well_conditioned(system.N))
    inverse = np.linalg.inv(T)
    other = DiscreteSSM(T @ A @ inverse, T @ B, C @ inverse, D, 0.5)
    close(other.recurrence(u, T @ x0)[0], y, size=9 * len(u) * system.N)
    close(other.convolve(u), system.convolve(u), size=9 * len(u) * system.N)


@given(runs())
def test_discrete_system_is_scipys_with_the_output_read_later(run):
    system, u, x0 = run
    A, B, C, D = system.A, system.B, system.C, system.D
    y, _ = system.recurrence(u, x0)
    if np.iscomplexobj(A):  # dlsim drops imaginary parts: two real systems side by side
        real = np.block([[A.real, -A.imag], [A.imag, A.real]])
        A, B, C = real, np.vstack([B, 0 * B]), np.hstack([C, 0 * C])
        y, x0 = y.real, np.r_[x0, 0 * x0]
    _, want, _ = signal.dlsim((A, B, C @ A, C @ B + D, 0.5), u, x0=x0)
    close(y, want, size=len(u) * system.N)


@given(st.floats(1.0, 8.0), st.integers(1, 200))
def test_convolution_of_a_growing_system_keeps_its_first_samples(a, L):
    system, u = DiscreteSSM(a, 1.0, 1.0, dt=1.0), np.cos(np.arange(L))
    assume(L * np.log(a) < 700)
    y, _ = system.recurrence(u)
    np.testing.assert_allclose(system.convolve(u), y, rtol=1e-9, atol=1e-10)


@given(st.data(), st.one_of(discrete(), continuous()))
def test_copies_are_equal_read_only_and_independent(data, system):
    for other in (copy.copy(system), copy.deepcopy(system), pickle.loads(pickle.dumps(system))):
        assert other == system and hash(other) == hash(system) and other is not system
        for name in "ABCD":
            matrix = getattr(other, name)
            assert not matrix.flags.writeable
            assert not np.shares_memory(matrix, getattr(system, name))
    changed = np.array(system.A)
    changed.flat[data.draw(st.integers(0, changed.size - 1))] += 1
    parts = (changed, system.B, system.C, system.D)
    other = (
        DiscreteSSM(*parts, system.dt) if isinstance(system, DiscreteSSM) else ContinuousSSM(*parts)
    )
    assert other != system and system != "a system"


@given(st.data(), matrices())
def test_short_forms_are_the_matrices(data, system):
    A, B, C, D = system
    N, M, P = len(A), B.shape[1], len(C)
    short = [
        A.item() if N == 1 else A,
        B[:, 0] if M == 1 else B,
        C[0] if P == 1 else C,
        D[0] if P == 1 else D[:, 0] if M == 1 else D,
    ]
    assert ContinuousSSM(*short) == ContinuousSSM(A, B, C, D)
    assert DiscreteSSM(*short, dt=1.0) == DiscreteSSM(A, B, C, D, 1.0)
    for nothing in (None, 0, 0.0, np.zeros((P, M))):
        assert ContinuousSSM(A, B, C, nothing) == ContinuousSSM(A, B, C)
    hidden = [data.draw(guises(x)) for x in (A, B, C, D)]
    assert ContinuousSSM(*hidden) == ContinuousSSM(A, B, C, D)


@given(st.data(), runs())
def test_guises_of_a_signal_change_nothing(data, run):
    system, u, x0 = run
    y, x = system.recurrence(u, x0)
    have = system.recurrence(data.draw(guises(u)), data.draw(guises(x0)))
    close(have[0], y)
    close(have[1], x)
    close(system.convolve(data.draw(guises(u))), system.convolve(u))


@given(runs())
def test_swapped_arguments_of_a_step_are_refused_where_shapes_tell(run):
    system, u, x0 = run
    assume(system.N != system.M)
    with pytest.raises(ValueError, match="^u has shape"):
        system.step(x0, u[0])
    with pytest.raises(ValueError, match="^(u|x0) has shape"):
        system.recurrence(x0, u)


# the continuous system


@st.composite
def clocks(draw):
    gaps = draw(st.lists(st.floats(0.01, 2.0), max_size=12))
    return draw(st.floats(-5, 5)) + np.r_[0, np.cumsum(gaps)]


@given(st.data(), continuous(), clocks())
def test_simulation_is_linear_time_invariant_and_splits(data, system, t):
    u, v = data.draw(arrays(len(t), system.M)), data.draw(arrays(len(t), system.M))
    x0, z0, a = data.draw(arrays(system.N)), data.draw(arrays(system.N)), data.draw(numbers)
    states = ContinuousSSM(system.A, system.B, np.eye(system.N))
    y, x = system.simulate(u, t, x0), states.simulate(u, t, x0)
    close(y, x @ system.C.T + u @ system.D.T, size=10)
    both = system.simulate(a * u + v, t, a * x0 + z0)
    close(both, a * y + system.simulate(v, t, z0), size=10)
    close(system.simulate(u, t + 3.25, x0), y, size=10, tolerance=1e-11)  # times are rounded
    cut = data.draw(st.integers(0, len(t) - 1))
    close(states.simulate(u[cut:], t[cut:], x[cut]), x[cut:], size=10, tolerance=1e-11)
    close(states.simulate(u[: cut + 1], t[: cut + 1], x0), x[: cut + 1], size=10, tolerance=1e-11)


@given(st.data(), continuous(is_complex=False), st.integers(2, 20), st.floats(0.01, 1.0))
def test_simulation_is_scipys(data, system, L, dt):
    u, x0, t = data.draw(arrays(L, system.M)), data.draw(arrays(system.N)), dt * np.arange(L)
    want = signal.lsim((system.A, system.B, system.C, system.D), u, t, x0)[1]
    close(system.simulate(u, t, x0), want.reshape(L, system.P), size=10)


@given(
    st.data(), continuous(is_complex=False), st.lists(st.floats(-50, 50), min_size=1, max_size=5)
)
def test_responses_in_frequency_and_time(data, system, w):
    G = system.frequency_response(w)
    close(system.frequency_response(-np.array(w)), G.conj())
    for k in range(len(w)):
        resolvent = np.linalg.inv(1j * w[k] * np.eye(system.N) - system.A)
        close(G[k], system.C @ resolvent @ system.B + system.D, size=10)
    h = system.impulse_response(np.abs(w))
    close(h[0], system.C @ disc.exponential(system.A * abs(w[0])) @ system.B)
    dt = data.draw(st.floats(0.01, 1.0))
    close(
        system.discretize(dt, "dirac").kernel(8) - np.pad(system.D[None], [(0, 7), (0, 0), (0, 0)]),
        system.impulse_response(dt * np.arange(8)),
        size=4,
    )


# discretization


@given(matrices(decay=1.5), steps, st.sampled_from(list(SCIPY_NAME)), st.floats(0, 1))
def test_every_rule_that_scipy_has(system, dt, method, alpha):
    alpha = alpha if method == "gbt" else None
    A, B, C, D = system
    if np.iscomplexobj(A) and method == "foh":
        B, C, D = (x.astype(complex) for x in (B, C, D))  # SciPy's foh needs equal dtypes
    want = signal.cont2discrete((A, B, C, D), dt, SCIPY_NAME[method], alpha)[:4]
    for have, expected in zip(disc.discretize(A, B, C, D, dt, method, alpha), want):
        close(have, expected, size=dt, tolerance=1e-11)


@given(st.data(), matrices(decay=1.5), st.floats(1e-3, 3.0), st.sampled_from(disc.METHODS))
def test_rules_do_not_depend_on_coordinates_or_units(data, system, dt, method):
    A, B, C, D = system
    alpha = 0.3 if method == "gbt" else None
    Ab, Bb, Cb, Db = disc.discretize(A, B, C, D, dt, method, alpha)
    T = data.draw(well_conditioned(len(A)))
    inverse = np.linalg.inv(T)
    moved = disc.discretize(T @ A @ inverse, T @ B, C @ inverse, D, dt, method, alpha)
    for have, want in zip(moved, (T @ Ab @ inverse, T @ Bb, Cb @ inverse, Db)):
        close(have, want, size=10, tolerance=1e-11)
    if method != "dirac":  # which leaves B alone: its input is not a density
        seconds = disc.discretize(A / 60, B / 60, C, D, dt * 60, method, alpha)
        for have, want in zip(seconds, (Ab, Bb, Cb, Db)):
            close(have, want)


@given(matrices(decay=1.5), st.floats(1e-3, 3.0))
def test_two_short_steps_are_one_long_one(system, dt):
    A, B, _, _ = system
    Phi, Gamma, Gamma1 = disc.exponential_integrals(A, B, dt)
    twice = disc.exponential_integrals(A, B, 2 * dt)
    close(twice[0], Phi @ Phi)
    close(twice[1], Phi @ Gamma + Gamma)
    close(twice[2], Phi @ Gamma1 / 2 + (Gamma + Gamma1) / 2)


@st.composite
def stiff(draw):
    """A whose rates lie up to 16 powers of ten apart: triangular, decoupled, or defective."""
    rates = draw(st.lists(st.floats(-8, 8), min_size=2, max_size=4))
    A = -np.diag(10.0 ** np.array(rates))
    kind = draw(
        st.sampled_from(["diagonal", "lower", "upper", "rotation", "defective", "singular"])
    )
    if kind in ("lower", "upper"):
        A += A @ np.tril(draw(arrays(*A.shape)), -1)  # coupled as fast as the rate that receives
        A = A if kind == "lower" else A[::-1, ::-1]
    elif kind == "rotation":
        turn = draw(st.floats(0.1, 10))
        A = block_diag(A, [[-0.1, turn], [-turn, -0.1]])
    elif kind == "defective":
        A = A[0, 0] * (np.eye(4) - np.eye(4, k=1))
    elif kind == "singular":
        A[0] = 0
    return A


@given(stiff(), st.floats(-9, 2).map(lambda e: 10.0**e), st.booleans())
def test_holds_of_stiff_defective_and_singular_systems(A, dt, turned):
    """Against the same exponential in as many digits as the stiffness needs."""
    mpmath = pytest.importorskip("mpmath")
    assume(np.abs(A * dt).max() < 1e9)  # for the time that the truth takes
    A = A * np.exp(0.5j) if turned else A
    B, N = np.ones((len(A), 1)), len(A)
    E = np.zeros((N + 2, N + 2), dtype=A.dtype)
    with mpmath.workdps(60 + 2 * int(np.log10(1 + np.abs(A * dt).max()))):
        exact = mpmath.matrix(N + 2)
        for i, j in np.ndindex(N, N):
            exact[i, j] = mpmath.mpmathify(A[i, j]) * mpmath.mpf(dt)
        for i in range(N):
            exact[i, N] = mpmath.mpf(dt)
        exact[N, N + 1] = mpmath.mpf(1)
        E = np.array(mpmath.expm(exact).tolist()).astype(complex)
    Phi, Gamma, Gamma1 = disc.exponential_integrals(A, B, dt)
    for have, want in ((Phi, E[:N, :N]), (Gamma, E[:N, N:-1]), (Gamma1, E[:N, -1:])):
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-10 * np.abs(want).max())


# networks


@given(st.data(), sizes, sizes, st.integers(1, 15), st.sampled_from(cells.ACTIVATIONS))
def test_rnn_splits_and_its_units_can_be_permuted(data, N, M, L, activation):
    W, U, b = data.draw(arrays(N, N)) / N, data.draw(arrays(N, M)), data.draw(arrays(N))
    u, h0 = data.draw(arrays(L, M)), data.draw(arrays(N))
    h = cells.rnn(u, W, U, b, activation, h0)
    cut = data.draw(st.integers(1, L))
    first = cells.rnn(u[:cut], W, U, b, activation, h0)
    close(first, h[:cut], size=L)
    if cut < L:
        close(cells.rnn(u[cut:], W, U, b, activation, first[-1]), h[cut:], size=L)
    n = data.draw(st.permutations(range(N)))
    close(cells.rnn(u, W[np.ix_(n, n)], U[n], b[n], activation, h0[n]), h[:, n], size=L)
    J = cells.rnn_jacobians(W, h, activation)
    g = cells.gradient_norms(J)
    close(g, cells.jacobian_norms(W, h, activation))
    close(cells.gradient_norms(2 * J), g * 2.0 ** np.arange(L + 1))
    hidden = [data.draw(guises(x)) for x in (u, W, U, b)]
    close(cells.rnn(*hidden, activation, data.draw(guises(h0))), h)


@given(st.data(), sizes, sizes, st.integers(2, 10), st.sampled_from(["gru", "lstm"]))
def test_gated_cells_split_and_their_jacobians_are_slopes(data, N, M, L, name):
    gates = 3 if name == "gru" else 4
    weights = [
        data.draw(arrays(*shape))
        for shape in ((gates * N, M), (gates * N, N), (gates * N,), (gates * N,))
    ]
    u, start = data.draw(arrays(L, M)), [data.draw(arrays(N)) for _ in range(gates - 2)]

    def run(u, *start):
        return np.atleast_2d(getattr(cells, name)(u, *weights, *start)).reshape(-1, len(u), N)

    s = run(u, *start)  # (1 or 2, L, N)
    cut = data.draw(st.integers(1, L - 1))
    close(run(u[cut:], *run(u[:cut], *start)[:, -1]), s[:, cut:], size=L)
    assert np.abs(s[0]).max() <= max(1.0, np.abs(start[0]).max())
    hidden = [data.draw(guises(x)) for x in (u, *weights, *start)]
    close(np.reshape(getattr(cells, name)(*hidden), s.shape), s)
    J = getattr(cells, f"{name}_jacobians")(u, *weights, *start)[0]
    x, step = np.concatenate(start), 1e-6
    slopes = [
        (
            run(u[:1], *np.split(x + d, len(start))) - run(u[:1], *np.split(x - d, len(start)))
        ).ravel()
        / (2 * step)
        for d in step * np.eye(len(x))
    ]
    close(J, np.transpose(slopes), tolerance=1e-7)


@given(st.integers(1, 12), st.integers(0, 2**32))
def test_orthogonal_matrices_and_radii(N, seed):
    W = cells.orthogonal(N, seed)
    close(W.T @ W, np.eye(N))
    scaled = cells.with_spectral_radius(W, 0.5 + seed / 2**32)
    assert np.abs(np.linalg.eigvals(scaled)).max() == pytest.approx(0.5 + seed / 2**32)


# HiPPO


@st.composite
def memories(draw):
    """A measure, an even N, and arguments the measure takes, among them good extreme ones."""
    measure = draw(st.sampled_from(MEASURES))
    N = 2 * draw(st.integers(1, 5))
    some = {"theta": st.floats(0.1, 10)} if measure in ("legt", "fout", "chebt") else {}
    if measure == "glagt":
        some = {"alpha": st.floats(-0.9, 0.9), "beta": st.floats(0.01, 2)}
    return measure, N, draw(st.fixed_dictionaries({}, optional=some))


@given(st.data(), memories(), lengths, st.integers(1, 5))
def test_projection_is_linear_causal_and_keeps_a_subset(data, memory, L, every):
    measure, N, arguments = memory
    u, v, a = data.draw(arrays(L)), data.draw(arrays(L)), data.draw(numbers)
    dt = 0.01
    x = hippo.project(u, measure, N, dt, **arguments)
    size = 10 * L
    close(
        hippo.project(a * u + v, measure, N, dt, **arguments),
        a * x + hippo.project(v, measure, N, dt, **arguments),
        size,
    )
    cut = data.draw(st.integers(1, L))
    close(hippo.project(u[:cut], measure, N, dt, **arguments), x[:cut])
    close(hippo.project(u, measure, N, dt, every=every, **arguments), x[every - 1 :: every])
    close(hippo.project(data.draw(guises(u)), measure, N, dt, **arguments), x)
    if measure == "legs":
        close(x[:, 0], np.cumsum(u) / np.arange(1, L + 1))
        close(hippo.project(u, measure, N, 7.0), x)
    else:
        later = hippo.project(np.r_[np.zeros(3), u], measure, N, dt, **arguments)
        close(later[3:], x, size)


@given(st.data(), memories(), sizes)
def test_reconstruction_is_linear_and_takes_rounded_ends(data, memory, K):
    measure, N, arguments = memory
    x, z, a = data.draw(arrays(K, N)), data.draw(arrays(K, N)), data.draw(numbers)
    t = np.sort(data.draw(hnp.arrays(np.float64, 6, elements=st.floats(0, 0.99))))
    past = hippo.reconstruct(x, measure, t, **arguments)
    size = N * np.abs(hippo.basis(measure, N, t, **arguments)).max()
    close(
        hippo.reconstruct(a * x + z, measure, t, **arguments),
        a * past + hippo.reconstruct(z, measure, t, **arguments),
        size,
    )
    close(hippo.reconstruct(x[0], measure, t, **arguments), past[0], size)
    close(hippo.reconstruct(x, measure, t[2], **arguments), past[:, 2], size)
    close(
        hippo.reconstruct(data.draw(guises(x)), measure, data.draw(guises(t)), **arguments),
        past,
        size,
    )
    ends = [0.0] if arguments.get("alpha", 0) < 0 else [0.0, 1.0]
    rounded = [end + data.draw(st.floats(-4e-16, 4e-16)) for end in ends]
    close(
        hippo.basis(measure, N, rounded, **arguments),
        hippo.basis(measure, N, ends, **arguments),
        size=N**2,
        tolerance=1e-9 if measure != "glagt" else 1.0,
    )


@given(st.data(), st.sampled_from(["legs", "legt", "fout"]), st.integers(1, 8))
def test_what_was_projected_is_its_own_projection(data, measure, half):
    """The functions are orthonormal, so that to project twice is to project once."""
    N = 2 * half
    x = data.draw(arrays(N))
    z, w = np.polynomial.legendre.leggauss(60)
    t, w = (z + 1) / 2, w / 2
    again = hippo.basis(measure, N, t).T * w @ hippo.reconstruct(x, measure, t)
    if measure == "fout":
        x[1] = 0  # the sine of frequency zero
    close(again, x)


@given(memories(), st.floats(0.01, 100))
def test_a_longer_window_is_a_slower_clock(memory, theta):
    measure, N, _ = memory
    assume(measure in ("legt", "fout", "chebt"))
    for one, other in zip(hippo.transition(measure, N), hippo.transition(measure, N, theta=theta)):
        close(theta * other, one)


# bad input

SQUARE, ROWS, COLUMNS = -np.eye(3), np.ones((3, 2)), np.ones((2, 3))
GATES = {
    "u": np.ones((5, 2)),
    "weight_ih": np.ones((9, 2)),
    "weight_hh": np.ones((9, 3)),
    "bias_ih": np.ones(9),
    "bias_hh": np.ones(9),
    "h0": np.ones(3),
}
SYSTEM = {"A": SQUARE, "B": ROWS, "C": COLUMNS, "D": np.ones((2, 2))}
ONE, TWO = ContinuousSSM(**SYSTEM), DiscreteSSM(**SYSTEM, dt=1.0)
U, T = np.ones((5, 2)), np.arange(5.0)
CALLS = [  # function, good arguments, those of them that must be real
    (conv.causal_convolution, {"u": T, "K": T}, ""),
    (conv.kernel_from_ssm, {"A": SQUARE, "B": ROWS, "C": COLUMNS, "L": 4}, ""),
    (disc.discretize, {**SYSTEM, "dt": 0.1}, ""),
    (disc.discretize, {**SYSTEM, "dt": 0.1, "method": "gbt", "alpha": 0.5}, ""),
    (disc.exponential_integrals, {"A": SQUARE, "B": ROWS, "dt": 0.1}, ""),
    (disc.exponential, {"A": SQUARE}, ""),
    (ContinuousSSM, SYSTEM, ""),
    (DiscreteSSM, {**SYSTEM, "dt": 0.1}, ""),
    (ONE.simulate, {"u": U, "t": T, "x0": np.ones(3)}, "t"),
    (ONE.impulse_response, {"t": T}, "t"),
    (ONE.frequency_response, {"w": T}, "w"),
    (ONE.discretize, {"dt": 0.1, "method": "zoh"}, ""),
    (TWO.step, {"u": np.ones(2), "x": np.ones(3)}, ""),
    (TWO.recurrence, {"u": U, "x0": np.ones(3)}, ""),
    (TWO.convolve, {"u": U}, ""),
    (TWO.kernel, {"L": 4}, ""),
    (
        cells.rnn,
        {"u": U, "W": SQUARE, "U": ROWS, "b": np.ones(3), "activation": "tanh", "h0": np.ones(3)},
        "u W U b h0",
    ),
    (cells.rnn_jacobians, {"W": SQUARE, "h": np.ones((4, 3)), "activation": "relu"}, "W h"),
    (cells.jacobian_norms, {"W": SQUARE, "h": np.ones((4, 3)), "activation": "relu"}, "W h"),
    (cells.gradient_norms, {"jacobians": np.ones((4, 3, 3))}, "jacobians"),
    (cells.orthogonal, {"N": 3, "rng": 0}, ""),
    (cells.with_spectral_radius, {"W": SQUARE, "radius": 0.5}, "W"),
    (cells.gru, GATES, " ".join(GATES)),
    (cells.gru_jacobians, GATES, " ".join(GATES)),
    (
        cells.lstm,
        {
            **{
                key: np.ones((12, *value.shape[1:])) if value.shape[0] == 9 else value
                for key, value in GATES.items()
            },
            "c0": np.ones(3),
        },
        " ".join(GATES) + " c0",
    ),
    (hippo.transition, {"measure": "glagt", "N": 4, "alpha": 0.5, "beta": 0.1}, ""),
    (hippo.basis, {"measure": "legt", "N": 4, "t": T / 5, "theta": 2.0}, "t"),
    (
        hippo.project,
        {"u": T, "measure": "legt", "N": 4, "dt": 0.1, "method": "zoh", "every": 2, "theta": 2.0},
        "u",
    ),
    (hippo.project, {"u": T, "measure": "legs", "N": 4, "dt": 0.1}, "u"),
    (
        hippo.reconstruct,
        {"coefficients": T, "measure": "legt", "t": T / 5, "theta": 2.0},
        "coefficients t",
    ),
]


@st.composite
def spoiled(draw, value, real):
    """A value that is wrong in one way, in place of a good one."""
    if isinstance(value, str):
        return draw(st.sampled_from(["nothing", "", 3, None, ["zoh"], b"zoh"]))
    if isinstance(value, int):
        return draw(st.sampled_from([-1, 2.5, "3", True, 1j, [1, 2], np.array([1.5]), np.nan]))
    if isinstance(value, float):
        return draw(
            st.sampled_from(
                [np.nan, np.inf, -np.inf, -1e9, "1", 1j, True, [1.0, 2.0], np.ma.masked, object()]
            )
        )
    place = tuple(draw(st.integers(0, n - 1)) for n in value.shape)
    masked = np.ma.masked_array(value, mask=False)
    masked[place] = np.ma.masked
    holes = [np.array(value) for _ in range(3)]
    for hole, hollow in zip(holes, (np.nan, np.inf, -np.inf)):
        hole[place] = hollow
    return draw(
        st.sampled_from(
            [
                *holes,
                masked,
                np.zeros((1, 1, 1, 1)),
                np.empty((0, *value.shape[1:])),
                value.astype(str),
                value.astype("datetime64[s]"),
                "text",
                [[1.0], [1.0, 2.0]],
                {1: 2},
                object(),
                np.array([None, 1.0]),
                *([value * 1j] if real else []),
            ]
        )
    )


@given(st.data(), st.sampled_from(CALLS))
def test_bad_input_names_the_argument(data, call):
    function, good, must_be_real = call
    name = data.draw(st.sampled_from(sorted(good)))
    bad = data.draw(spoiled(good[name], name in must_be_real.split()))
    assume(function is not conv.causal_convolution or getattr(bad, "ndim", 0) != 4)  # welcome there
    with pytest.raises((ValueError, TypeError), match=rf"^{name} "):
        function(**{**good, name: bad})


@given(st.sampled_from(CALLS), st.sampled_from([1e-320, 1e-200, 1.0]))
def test_results_do_not_depend_on_the_error_state_of_the_caller(call, factor):
    function, good, _ = call
    arguments = {
        name: value * factor if isinstance(value, np.ndarray) and name != "t" else value
        for name, value in good.items()
    }

    def run():
        try:
            result = function(**arguments)
        except (ValueError, OverflowError) as error:
            return str(error)
        return result if isinstance(result, tuple) else (result,)

    want = run()
    with np.errstate(all="raise"):
        have = run()
    for x, y in zip(have, want):
        np.testing.assert_array_equal(x, y)


EXTREMES = [0.0, 5e-324, -1e-310, 1e-300, 1e-150, -1e-20, 1.0, -1.0, 1e20, -1e150, 1e300, -1.7e308]


@given(st.data(), st.sampled_from(CALLS))
def test_huge_and_tiny_numbers_give_finite_results_or_a_clear_error(data, call):
    function, good, _ = call
    arguments = dict(good)
    for name, value in good.items():
        if isinstance(value, np.ndarray) and name != "t" and data.draw(st.booleans()):
            arguments[name] = data.draw(
                hnp.arrays(np.float64, value.shape, elements=st.sampled_from(EXTREMES))
            )
        elif isinstance(value, float) and data.draw(st.booleans()):
            arguments[name] = data.draw(st.sampled_from([x for x in EXTREMES if x > 0]))
    try:
        result = function(**arguments)
    except (ValueError, OverflowError) as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert "expected" in message or "leaves the range of float64" in message
        return
    for x in result if isinstance(result, tuple) else [result]:
        if isinstance(x, (ContinuousSSM, DiscreteSSM)):
            continue  # checked when they are made
        assert np.isfinite(x).all()
