"""Systems of SciPy and python-control and back, against the programs that run them there."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import signal

from ssm_core.discretize import METHODS, discretize
from ssm_core.lti import ContinuousSSM, DiscreteSSM

DT = 0.1
U = np.random.default_rng(0).normal(size=(60, 2))


def continuous(seed=0, N=4, M=2, P=3, singular=False):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, N)) - 2 * np.eye(N)
    if singular:
        A[:, 0] = 0
    return ContinuousSSM(
        A, rng.normal(size=(N, M)), rng.normal(size=(P, N)), rng.normal(size=(P, M))
    )


def discrete(seed=0, N=4, M=2, P=3, singular=False):
    system = continuous(seed, N, M, P, singular)
    return DiscreteSSM(system.A / 5, system.B, system.C, system.D, DT)


def matrices(system):
    return system.A, system.B, system.C, system.D


def control():
    return pytest.importorskip("control")


# discrete systems: two time conventions


@pytest.mark.parametrize("singular", [False, True])
@pytest.mark.parametrize("method", [*METHODS, "tustin", "impulse"])
def test_every_rule_runs_as_dlsim_runs_it(method, singular):
    """With inputs, outputs and a direct term of several channels, from any initial state."""
    system = continuous(singular=singular)
    four = discretize(*matrices(system), DT, method, 0.3 if method == "gbt" else None)
    x0 = np.array([1.0, -2.0, 0.5, 3.0])
    _, want, states = signal.dlsim((*four, DT), U, x0=x0)
    ours = DiscreteSSM.from_scipy(*four, DT)
    y, x = ours.recurrence(U, x0=np.append(x0, np.zeros(ours.N - 4)))
    assert_allclose(y, want, rtol=0, atol=1e-12 * np.abs(want).max())
    assert_allclose(x[:-1, :4], states[1:], rtol=0, atol=1e-12 * np.abs(states).max())
    assert_allclose(ours.convolve(U), ours.recurrence(U)[0], rtol=0, atol=1e-12)
    assert ours.N == 4


@pytest.mark.parametrize(
    "A",
    [
        np.zeros((3, 3)),
        np.eye(3, k=1),
        np.diag([0.9, 0.5, 0.0]),
        np.diag([0.9, 1e-7, 1e-300]),
        np.ones((3, 3)) / 4,
    ],
)
@pytest.mark.parametrize("C", [np.eye(3), np.ones((1, 3)), [[1.0, 0.0, 0.0]]])
def test_an_output_that_the_new_state_does_not_show_is_carried_along(A, C):
    B, D = np.arange(6.0).reshape(3, 2) - 2, np.ones((len(C), 2))
    x0 = np.array([1.0, 2.0, -3.0])
    want = signal.dlsim((A, B, C, D, DT), U, x0=x0)[1]
    ours = DiscreteSSM.from_scipy(A, B, C, D, DT)
    y, _ = ours.recurrence(U, x0=np.append(x0, np.full(ours.N - 3, 7.0)))  # 7: any value will do
    assert_allclose(y, want, rtol=0, atol=1e-12)
    assert 3 <= ours.N <= 3 + len(C)


def test_a_delay_needs_one_more_state():
    delay = DiscreteSSM.from_scipy(0.0, 1.0, 1.0, 0.0, 1.0)
    assert delay.N == 2
    assert_array_equal(delay.recurrence([1.0, 2.0, 3.0])[0], [0, 1, 2])


def test_the_same_four_matrices_are_another_system():
    """The fault that the conversion is for: first-order hold, run in the wrong loop."""
    system, u = continuous(M=1, P=1), np.sin(np.arange(60) / 5)
    four = discretize(*matrices(system), DT, "foh")
    want = system.simulate(u, DT * np.arange(60))
    scale = np.abs(want).max()
    start = np.linalg.solve(np.eye(4), -_gamma1(system) @ u[:1])  # SciPy's state is x - Gamma1 u
    right = DiscreteSSM.from_scipy(*four, DT).recurrence(u, start)[0]
    wrong = DiscreteSSM(*four, DT).recurrence(u, start)[0]
    assert np.abs(right - want).max() < 1e-13 * scale
    assert np.abs(wrong - want).max() > 1e-2 * scale


def _gamma1(system):
    from ssm_core.discretize import exponential_integrals

    return exponential_integrals(system.A, system.B, DT)[2]


@pytest.mark.parametrize("singular", [False, True])
def test_to_scipy_gives_the_same_output(singular):
    ours = discrete(singular=singular)
    theirs = ours.to_scipy()
    assert theirs.dt == DT and theirs.A.shape == (4, 4)
    x0 = np.array([1.0, -2.0, 0.5, 3.0])
    y, x = ours.recurrence(U, x0)
    _, want, states = signal.dlsim(theirs, U, x0=x0)
    assert_allclose(y, want, rtol=0, atol=1e-13)
    assert_allclose(x[:-1], states[1:], rtol=0, atol=1e-13)


@pytest.mark.parametrize("singular", [False, True])
def test_there_and_back_has_the_same_size_and_output(singular):
    ours = discrete(singular=singular)
    back = DiscreteSSM.from_scipy(ours.to_scipy())
    assert back.N == ours.N and back.dt == ours.dt
    assert_allclose(back.kernel(30), ours.kernel(30), rtol=0, atol=1e-12)


def test_complex_systems_go_both_ways():
    ours = DiscreteSSM(np.diag([0.5 + 0.2j, 0.0]), [1.0, 1.0], [1.0, 1j], 0.3, DT)
    theirs = ours.to_scipy()
    assert theirs.A.dtype == np.complex128
    assert_allclose(DiscreteSSM.from_scipy(theirs).kernel(9), ours.kernel(9), rtol=0, atol=1e-14)


@pytest.mark.filterwarnings("ignore::scipy.signal.BadCoefficients")
@pytest.mark.parametrize(
    "system",
    [
        signal.dlti([1.0, 0.5], [1.0, -0.3, 0.2], dt=DT),
        signal.dlti([0.5], [0.2, 0.3 + 0j], 2.0, dt=DT),
        signal.cont2discrete(([1.0], [1.0, 2.0, 3.0]), DT),
        signal.cont2discrete(([[1.0, 0.0], [0.5, 1.0]], [1.0, 2.0, 3.0]), DT),
    ],
)
def test_transfer_functions(system):
    ours = DiscreteSSM.from_scipy(system)
    want = signal.dlsim(system, U[:, :1])[1]
    assert_allclose(ours.recurrence(U[:, :1])[0], want, rtol=0, atol=1e-12)


def test_numbers_come_as_one_tuple_or_one_by_one():
    four = matrices(discrete())
    assert DiscreteSSM.from_scipy(*four, DT) == DiscreteSSM.from_scipy((*four, DT))
    assert DiscreteSSM.from_scipy([1.0], [1.0, -0.5], DT) == DiscreteSSM.from_scipy(
        ([1.0], [1.0, -0.5], DT)
    )
    assert ContinuousSSM.from_scipy(*four) == ContinuousSSM.from_scipy(four)


# continuous systems


def test_continuous_systems_keep_their_matrices():
    ours = continuous()
    theirs = ours.to_scipy()
    assert theirs.dt is None and ContinuousSSM.from_scipy(theirs) == ours
    t = np.linspace(0, 3, 60)
    assert_allclose(ours.simulate(U, t), signal.lsim(theirs, U, t)[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "system", [signal.lti([2.0, 1.0], [1.0, 2.0, 3.0]), signal.lti([-1.0], [-2.0, -3.0], 4.0)]
)
def test_continuous_transfer_functions(system):
    w = np.array([0.0, 0.3, 5.0])
    have = ContinuousSSM.from_scipy(system).frequency_response(w)[:, 0, 0]
    assert_allclose(have, signal.freqresp(system, w)[1], rtol=1e-12)


def test_a_gain_without_a_state():
    assert_array_equal(ContinuousSSM.from_scipy([3.0], [1.0]).simulate([1.0, 2.0], [0, 1]), [3, 6])


# python-control, where it is installed


def test_control_runs_the_discrete_system():
    ct, ours = control(), discrete(singular=True)
    theirs = ours.to_control()
    want = ct.forced_response(theirs, inputs=U.T).outputs.T
    assert theirs.dt == DT
    assert_allclose(ours.recurrence(U)[0], want, rtol=0, atol=1e-12)
    assert_allclose(DiscreteSSM.from_control(theirs).recurrence(U)[0], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["zoh", "foh", "tustin", "euler", "backward_diff"])
def test_control_discretizes(method):
    ct, system = control(), continuous()
    theirs = ct.c2d(system.to_control(), DT, method)
    four = discretize(*matrices(system), DT, method)
    for have, want in zip(four, (theirs.A, theirs.B, theirs.C, theirs.D)):
        assert_allclose(have, want, rtol=0, atol=1e-13)
    want = ct.forced_response(theirs, inputs=U.T).outputs.T
    assert_allclose(DiscreteSSM.from_control(theirs).recurrence(U)[0], want, rtol=0, atol=1e-11)


def test_control_prewarps_as_we_do():
    ct, system = control(), continuous()
    theirs = ct.c2d(system.to_control(), DT, "tustin", prewarp_frequency=7.0)
    four = discretize(*matrices(system), DT, "tustin", prewarp_frequency=7.0)
    for have, want in zip(four, (theirs.A, theirs.B, theirs.C, theirs.D)):
        assert_allclose(have, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dt", [0, None, DT])
def test_control_transfer_functions_of_several_inputs_and_outputs(dt):
    ct = control()
    theirs = ct.tf(
        [[[1.0], [2.0, 1.0]], [[3.0], [4.0, 1.0]], [[1.0, 0.0], [5.0]]],
        [[[1.0, 0.5], [1.0, 0.2]], [[1.0, 0.5], [1.0, 0.3, 0.1]], [[1.0, 0.4], [1.0]]],
        dt,
    )
    kind = DiscreteSSM if dt else ContinuousSSM
    ours = kind.from_control(theirs)
    w = np.array([0.1, 1.0, 9.0])
    points = np.exp(1j * w * dt) if dt else 1j * w
    want = np.stack([theirs(s) for s in points])
    assert_allclose(ours.frequency_response(w), want, rtol=1e-11)
    if not dt:
        assert ours.N == 6  # equal denominators share their states; a mere gain has an idle one


def test_control_continuous_both_ways():
    ct, ours = control(), continuous()
    theirs = ours.to_control()
    assert theirs.dt == 0 and ContinuousSSM.from_control(theirs) == ours
    w = np.array([0.5, 3.0])
    assert_allclose(np.stack([theirs(1j * s) for s in w]), ours.frequency_response(w), rtol=1e-11)
    gain = ContinuousSSM.from_control(ct.ss([], [], [], [[5.0]]))
    assert_array_equal(gain.frequency_response(1.0), [[5]])


def test_control_has_no_complex_systems():
    control()
    with pytest.raises(TypeError, match="the system is complex, expected real matrices"):
        DiscreteSSM(0.5j, 1.0, 1.0, dt=1.0).to_control()


def test_without_control(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "control", None)
    with pytest.raises(ImportError, match="pip install control"):
        continuous().to_control()


# bad input


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: DiscreteSSM.from_scipy(signal.lti(1.0, [1.0, 1.0])), ValueError, "continuous"),
        (lambda: DiscreteSSM.from_scipy(1.0, 1.0, 1.0, 0.0), ValueError, r"A, B, C, D, dt"),
        (lambda: ContinuousSSM.from_scipy(discrete().to_scipy()), ValueError, "dt = 0.1"),
        (lambda: DiscreteSSM.from_scipy(signal.dlti(1.0, [1.0, 0.5])), ValueError, "dt = True"),
        (lambda: DiscreteSSM.from_scipy(1.0, 1.0, 1.0, 0.0, -1.0), ValueError, "dt is -1"),
        (lambda: ContinuousSSM.from_scipy([1.0, 0, 0], [1.0, 2.0]), ValueError, "numerator"),
        (lambda: ContinuousSSM.from_scipy("spring"), TypeError, "system is a str"),
        (lambda: ContinuousSSM.from_scipy(), ValueError, "system has 0 parts"),
        (lambda: ContinuousSSM.from_scipy(np.eye(2), 1, 1, 0), ValueError, "B has shape"),
        (lambda: DiscreteSSM.from_scipy(np.nan, 1, 1, 0, 1), ValueError, "A holds nan"),
    ],
)
def test_bad_systems_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
