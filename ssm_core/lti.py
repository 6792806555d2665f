r"""Linear time invariant state space models, in continuous and in discrete time.

:class:`ContinuousSSM` is x' = Ax + Bu, y = Cx + Du (eq-ssm), :class:`DiscreteSSM` the sequence
update it becomes on samples (eq-discrete-ssm). Both are immutable: their matrices are read-only
copies in float64 or complex128, also after ``copy`` and ``pickle``, and systems with equal
matrices are equal.

Signals have time first: inputs are (L, M) and outputs (L, P), for one channel also (L,). What
belongs to each pair of an output and an input, such as a kernel, is (..., P, M) for every system.
``from_scipy``, ``to_scipy``, ``from_control`` and ``to_control`` exchange systems with other packages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from ssm_core._checks import (
    Array,
    RealArray,
    as_array,
    as_int,
    as_positive,
    as_signal,
    as_state_space,
    as_times,
    finite_result,
    read_only,
    without_warnings,
)
from ssm_core._flow import LineFlow, affine_recurrence
from ssm_core._interchange import matrices_of, output_first, sample_time, update_first
from ssm_core.convolution import causal_convolution, kernel_from_ssm
from ssm_core.discretize import canonical_name, discretize, exponential, exponential_integrals

if TYPE_CHECKING:
    from scipy import signal

__all__ = ["ContinuousSSM", "DiscreteSSM"]

_MANY_STEPS = 100  # from here on the exponentials that LineFlow shares are fewer than the steps


@dataclass(frozen=True, init=False, repr=False, eq=False)
class _StateSpace:
    """Four matrices that fit each other: what both kinds of system share."""

    A: Array  # (N, N)
    B: Array  # (N, M)
    C: Array  # (P, N)
    D: Array  # (P, M)

    def __init__(
        self, A: ArrayLike, B: ArrayLike, C: ArrayLike, D: ArrayLike | None = None
    ) -> None:
        for name, matrix in zip("ABCD", as_state_space(A, B, C, D)):
            object.__setattr__(self, name, read_only(matrix))

    def _fields(self) -> tuple[Any, ...]:
        """The arguments that make this system."""
        return self.A, self.B, self.C, self.D

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made anew from the matrices, so that they too are read-only."""
        return type(self), self._fields()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, _StateSpace)
        return all(map(np.array_equal, self._fields(), other._fields()))

    def __hash__(self) -> int:
        # Python's numbers hash as they compare: 0.0 as -0.0, 1.0 as 1 + 0j.
        return hash(tuple(tuple(np.ravel(field).tolist()) for field in self._fields()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(N={self.N}, M={self.M}, P={self.P})"

    @property
    def N(self) -> int:
        """Size of the state."""
        return len(self.A)

    @property
    def M(self) -> int:
        """Number of inputs."""
        return self.B.shape[1]

    @property
    def P(self) -> int:
        """Number of outputs."""
        return len(self.C)

    @property
    def poles(self) -> Array:
        """The eigenvalues of A, complex (N,).

        A continuous system is stable if all lie left of the imaginary axis, a discrete one if all
        lie inside the unit circle.
        """
        return np.linalg.eigvals(self.A).astype(np.complex128)

    def _transfer(self, s: Array, w: RealArray, what: str) -> Array:
        """C (sI - A)^{-1} B (..., P, M) at points s (...), which belong to the frequencies w."""
        poles, rounding = self.poles, 8 * self.N * np.finfo(float).eps
        resolvent = s[..., None, None] * np.eye(self.N) - self.A  # (..., N, N)
        try:
            if (np.abs(s[..., None] - poles) <= rounding * np.abs(poles)).any():
                raise np.linalg.LinAlgError
            x = np.linalg.solve(resolvent, np.broadcast_to(self.B, (*w.shape, self.N, self.M)))
        except np.linalg.LinAlgError:
            raise ValueError(
                f"w holds a frequency at which {what} is an eigenvalue of A, expected "
                "frequencies at which the system has no pole"
            ) from None
        return self.C @ x

    def _initial_state(self, x0: ArrayLike | None) -> Array:
        """x0 as an array (N,), zero if it is None."""
        return np.zeros(self.N) if x0 is None else as_array(x0, "x0", (self.N,))

    def _signal(self, u: ArrayLike, length: int | None = None) -> tuple[Array, bool]:
        """u as an array (L, M), and whether it came as (L,)."""
        u = as_array(u, "u")
        return as_signal(u, "u", self.M, length=length), u.ndim == 1

    def _output(self, x: Array, u: Array, flat: bool) -> Array:
        """C x + D u for states (L, N) and inputs (L, M): (L, P), or (L,) where that is wanted."""
        y = finite_result(x @ self.C.T + u @ self.D.T, "the output")  # (L, P)
        return y[:, 0] if flat and self.P == 1 else y


@dataclass(frozen=True, init=False, repr=False, eq=False)
class ContinuousSSM(_StateSpace):
    r"""The system x' = Ax + Bu, y = Cx + Du in continuous time.

    Args:
        A (float64 or complex128): state matrix (N, N), per unit of time; a scalar if N = 1.
        B (float64 or complex128): input matrix (N, M), per unit of time; (N,) for one input.
        C (float64 or complex128): output matrix (P, N); (N,) for one output.
        D (float64 or complex128): direct term (P, M); zeros by default.

    Raises:
        ValueError: shapes that do not fit each other, masked entries, NaN or infinity.
        TypeError: arguments that are not numbers.

    Equation eq-ssm. Source: Kalman, "A new approach to linear filtering and prediction problems"
    (1960); Gu, Goel and Ré, "Efficiently Modeling Long Sequences with Structured State Spaces"
    (2022), section 2.1.

    Example:
        A mass of 1 on a spring of stiffness 40 with friction 5; the state is (position, velocity):

        >>> from ssm_core.lti import ContinuousSSM
        >>> spring = ContinuousSSM([[0, 1], [-40, -5]], [[0], [1]], [[1, 0]])
        >>> spring
        ContinuousSSM(N=2, M=1, P=1)
        >>> print(spring.poles.real)
        [-2.5 -2.5]
    """

    @classmethod
    def from_scipy(cls, *system: Any) -> ContinuousSSM:
        r"""A continuous system of SciPy, or what SciPy takes for one.

        Args:
            system: a ``scipy.signal.lti`` (``StateSpace``, ``TransferFunction``,
                ``ZerosPolesGain``), or numbers, as one tuple or one by one: ``num, den``, the
                coefficients of a transfer function, highest power first (``num`` (P, ·) for P
                outputs); or ``A, B, C, D``.

        Raises:
            ValueError: a discrete system, a numerator of higher degree than the denominator, or
                matrices that do not fit.
            TypeError: something that is not a linear system.

        Equation eq-ssm.

        Example:
            >>> from ssm_core.lti import ContinuousSSM
            >>> lag = ContinuousSSM.from_scipy([3.0], [1.0, 2.0])  # 3 / (s + 2)
            >>> print(lag.frequency_response(0.0).real)
            [[1.5]]
        """
        *matrices, dt = matrices_of(system)
        if dt is None or dt != 0:
            raise ValueError(
                f"the system is discrete (dt = {dt}), expected a continuous one: DiscreteSSM has "
                "the same methods"
            )
        return cls(*matrices)

    def to_scipy(self) -> signal.StateSpace:
        """This system as a ``scipy.signal.StateSpace`` in continuous time, with the same matrices.

        Example:
            >>> from ssm_core.lti import ContinuousSSM
            >>> t, y = ContinuousSSM(-1.0, 1.0, 1.0).to_scipy().step(T=[0.0, 1.0])
            >>> print(y.round(4))
            [0.     0.6321]
        """
        from scipy import signal

        return signal.StateSpace(self.A, self.B, self.C, self.D)

    @classmethod
    def from_control(cls, system: Any) -> ContinuousSSM:
        """A continuous ``StateSpace`` or ``TransferFunction`` of python-control, also MIMO.

        Args:
            system: the system of python-control. If it does not say whether it is continuous
                (``dt=None``), it is taken for a continuous one.

        Raises:
            ValueError: a discrete system, or an improper transfer function.
            TypeError: something that is not a linear system.

        Example:
            ``ContinuousSSM.from_control(control.tf([1], [1, 5, 40]))`` is a damped spring, and
            ``spring.to_control()`` is one for ``control.lqr``.
        """
        *matrices, dt = matrices_of((system,))
        return cls.from_scipy(*matrices) if dt is None else cls.from_scipy(system)

    def to_control(self) -> Any:
        """This system as a ``control.StateSpace`` in continuous time, with the same matrices.

        Raises:
            ImportError: python-control is not installed.
            TypeError: complex matrices, which python-control does not have.
        """
        return _control_system(self.A, self.B, self.C, self.D, 0)

    @without_warnings
    def simulate(
        self, u: ArrayLike | Callable[[float], ArrayLike], t: ArrayLike, x0: ArrayLike | None = None
    ) -> Array:
        r"""The response to an input, at the times ``t``.

        Samples are joined by straight lines and the response to that input is exact
        (eq-variation-of-constants solved step by step), on an even or an uneven grid. A function
        is integrated by an adaptive Runge–Kutta rule of order 8 to about 10 digits; where it
        jumps, put a time of ``t`` on the jump.

        Args:
            u (float64 or complex128, or callable): samples at the times t, (L,) or (L, M), or a
                function that takes one time and returns one number or (M,).
            t (float64): times (L,), increasing, in the unit of time of A. A step costs O(N²), also
                where all are different.
            x0 (float64 or complex128): state (N,) at ``t[0]``; zero by default.

        Returns:
            y (L,) if there is one output and ``u`` is (L,) or a function of one number, else
            (L, P). For the states themselves take C = I and D = 0.

        Raises:
            ValueError: wrong shapes, masked entries, NaN or infinity, times that do not increase.
            OverflowError: the system is unstable and leaves the range of float64.
            RuntimeError: the integrator gave up on the function ``u``.

        Equation eq-variation-of-constants.

        Example:
            A leaky integrator under a constant input is 1 - exp(-t):

            >>> from ssm_core.lti import ContinuousSSM
            >>> leaky = ContinuousSSM(-1.0, 1.0, 1.0)
            >>> print(leaky.simulate([1.0, 1.0, 1.0], [0.0, 1.0, 3.0]).round(4))
            [0.     0.6321 0.9502]
        """
        t = as_times(t, "t")
        x0 = self._initial_state(x0)
        if callable(u):
            inputs, flat = _sampled(u, t, self.M)  # (L, M)
            x = self._integrate(u, t, x0)
        else:
            inputs, flat = self._signal(u, length=len(t))
            x = self._follow_lines(inputs, t, x0)
        return self._output(finite_result(x, "the state"), inputs, flat)

    def _follow_lines(self, u: Array, t: RealArray, x0: Array) -> Array:
        """States (L, N) under an input (L, M) that is a straight line from sample to sample."""
        steps, which = _distinct_steps(t)
        if len(steps) > _MANY_STEPS:
            return self._flow_along_lines(u, np.diff(t), x0)
        Phi = np.empty((len(steps), self.N, self.N), dtype=self.A.dtype)
        w = np.empty((len(t) - 1, self.N), dtype=np.result_type(self.A, self.B, u))
        for i, dt in enumerate(steps):
            Phi[i], Gamma, Gamma1 = exponential_integrals(self.A, self.B, dt)
            k = np.flatnonzero(which == i)
            w[k] = u[k] @ (Gamma - Gamma1).T + u[k + 1] @ Gamma1.T
        return affine_recurrence(Phi, which, w, x0)

    def _flow_along_lines(self, u: Array, h: RealArray, x0: Array) -> Array:
        """The same for steps h (L - 1,) that hardly repeat: O(N²) each, without an exponential."""
        flow = LineFlow(self.A, self.B)
        x = np.empty((len(u), self.N, 1), dtype=np.result_type(self.A, self.B, u, x0))
        x[0, :, 0] = x0
        u = u[:, :, None]
        for k, dt in enumerate(h.tolist()):
            x[k + 1] = flow(dt, x[k], u[k], u[k + 1])
        return x[:, :, 0]

    def _integrate(self, u: Callable[[float], ArrayLike], t: RealArray, x0: Array) -> Array:
        """States (L, N) under an input that is a function of time."""
        if len(t) == 1:
            return x0[None, :]
        dtype = np.result_type(self.A, self.B, x0, _sample(u, t[0], self.M))
        solution = solve_ivp(
            lambda s, x: self.A @ x + self.B @ _sample(u, s, self.M),
            (t[0], t[-1]),
            x0.astype(dtype),
            method="DOP853",
            t_eval=t,
            rtol=1e-11,
            atol=1e-13,
            max_step=np.diff(t).max(),
        )
        if not solution.success:
            raise RuntimeError(f"the integrator stopped: {solution.message}")
        return solution.y.T

    @without_warnings
    def impulse_response(self, t: ArrayLike) -> Array:
        r"""The response to an impulse at time 0, C exp(At) B, without the impulse that D passes on.

        Args:
            t (float64): one time or times (K,), in the unit of time of A. Before 0 there is none.

        Returns:
            h (P, M) for one time, (K, P, M) for several, also for P = M = 1.

        Raises:
            ValueError: wrong shape, masked entries, NaN or infinity.
            OverflowError: the system is unstable and leaves the range of float64.

        Equation eq-impulse-response.

        Example:
            >>> from ssm_core.lti import ContinuousSSM
            >>> leaky = ContinuousSSM(-1.0, 1.0, 1.0)
            >>> print(leaky.impulse_response([-1.0, 0.0, 1.0])[:, 0, 0].round(4))
            [0.     1.     0.3679]
        """
        t = _scalar_or_row(t, "t")
        h = np.zeros((t.size, self.P, self.M), dtype=np.result_type(self.A, self.B, self.C))
        for k, time in enumerate(t.flat):
            if time >= 0:
                exponent = finite_result(self.A * time, "A t", "an entry of A, or t, is too large")
                h[k] = self.C @ exponential(exponent) @ self.B
        return finite_result(h, "the impulse response").reshape(*t.shape, self.P, self.M)

    @without_warnings
    def frequency_response(self, w: ArrayLike) -> Array:
        r"""What becomes of the input exp(iwt): C (iwI - A)^{-1} B + D.

        Args:
            w (float64): one angular frequency or several (K,), in radians per unit of time of A.

        Returns:
            G complex128 (P, M) for one frequency, (K, P, M) for several, also for P = M = 1.
            Its modulus is the gain, its angle the phase.

        Raises:
            ValueError: wrong shape, masked entries, NaN or infinity, or iw is an eigenvalue of A: a
                resonance without friction has no finite response.

        Equations eq-fourier, eq-frequency-response.

        Example:
            >>> from ssm_core.lti import ContinuousSSM
            >>> leaky = ContinuousSSM(-1.0, 1.0, 1.0)
            >>> print(abs(leaky.frequency_response([0.0, 1.0]))[:, 0, 0].round(4))
            [1.     0.7071]
        """
        w = _scalar_or_row(w, "w")
        G = self._transfer(1j * w, w, "iw") + self.D
        return finite_result(G, "the frequency response", "its gain is too large")

    @without_warnings
    def discretize(self, dt: float, method: str = "zoh", alpha: float | None = None) -> DiscreteSSM:
        r"""The discrete system x_k = Ab x_{k-1} + Bb u_k, y_k = C x_k + D u_k of this one.

        The sample u_k acts during the step that ends at t_k, so x_k approximates x(t_k) itself and
        C and D stay as they are: this is the rule of S4 and Mamba. (What SciPy, python-control and
        :func:`ssm_core.discretize.discretize` return belongs to another time convention;
        :meth:`DiscreteSSM.from_scipy` takes it over, also with ``prewarp_frequency``.) What u_k
        stands for depends on the rule:

        - ``euler``, ``backward_euler``, ``bilinear``, ``gbt``, ``zoh``: one value for the whole
          step from t_{k-1} to t_k. If the input is held at u_k, ``zoh`` is exact, ``bilinear``
          wrong by O(dt²), the others by O(dt). If it is smooth, u_k = u(t_k) makes all of them
          O(dt), since the input then runs half a step ahead; with u_k from the middle of the step,
          or the mean of its ends, ``bilinear``, ``gbt`` with alpha 1/2 and ``zoh`` are O(dt²) in
          the state.
        - ``foh``: the sample u(t_k). A straight line needs both its ends, so the state is extended
          by the last input, (x_k, u_k), of size N + M, and starts at (x, u) of one step before the
          first sample. Exact for inputs that are straight lines between samples, else O(dt²).
        - ``dirac``: the weight of an impulse at t_k, which x_k contains already. Exact for such
          trains: ``kernel(L)`` is the impulse response at 0, dt, 2 dt, … With u_k = dt u(t_k) it
          is a Riemann sum, O(dt).
        - ``impulse``: the same with the weight dt u_k, SciPy's rule of this name.

        Args:
            dt (float): step between samples, above 0, in the unit of time of A.
            method (str): ``euler``, ``backward_euler``, ``bilinear``, ``gbt``, ``zoh``, ``foh``,
                ``dirac``, or one of SciPy's names, as in :func:`ssm_core.discretize.discretize`.
            alpha (float): for ``gbt`` only, from 0 to 1.

        Raises:
            ValueError: ``dt`` not above 0, an unknown ``method``, ``alpha`` missing or too much,
                a step at which an implicit rule has no solution.

        Equations eq-discrete-ssm, eq-gbt, eq-zoh, eq-foh, eq-dirac. Source: Gu, Goel and Ré
        (2022), section 2.3.

        Example:
            >>> from ssm_core.lti import ContinuousSSM
            >>> leaky = ContinuousSSM(-1.0, 1.0, 1.0)
            >>> print(leaky.discretize(1.0, "bilinear").kernel(3)[:, 0, 0].round(4))
            [0.6667 0.2222 0.0741]
        """
        method = canonical_name(method)
        if method == "foh":
            return self._first_order_hold(dt, alpha)
        if method == "impulse":
            dirac = self.discretize(dt, "dirac", alpha)
            return DiscreteSSM(dirac.A, dirac.dt * self.B, self.C, self.D, dt)
        Ab, Bb, _, _ = discretize(self.A, self.B, self.C, self.D, dt, method, alpha)
        return DiscreteSSM(Ab, Bb, self.C, self.D, dt)

    def _first_order_hold(self, dt: float, alpha: float | None) -> DiscreteSSM:
        """foh on the state (x_k, u_k): the last input is remembered for the next straight line."""
        discretize(self.A, self.B, self.C, self.D, dt, "foh", alpha)  # the same checks
        Phi, Gamma, Gamma1 = exponential_integrals(self.A, self.B, dt)
        N, M, P = self.N, self.M, self.P
        Ab = np.block([[Phi, Gamma - Gamma1], [np.zeros((M, N + M))]])  # (N + M, N + M)
        Bb = np.vstack([Gamma1, np.eye(M)])  # (N + M, M)
        return DiscreteSSM(Ab, Bb, np.hstack([self.C, np.zeros((P, M))]), self.D, dt)


@dataclass(frozen=True, init=False, repr=False, eq=False)
class DiscreteSSM(_StateSpace):
    r"""The recurrence on samples, in the time convention of S4 and Mamba.

    .. math:: x_k = A x_{k-1} + B u_k, \qquad y_k = C x_k + D u_k

    The sample u_k enters the state first and the output is read from the new state, so y_k depends
    on u_k even where D = 0. ``step``, ``recurrence``, ``kernel`` and ``convolve`` all mean this.
    Before the first sample the state is x0, zero by default: if x0 is the state at time 0, sample
    k belongs to the time (k + 1) dt.

    .. warning::
        SciPy, python-control and :func:`ssm_core.discretize.discretize` read the output first and
        update afterwards: x_{k+1} = A x_k + B u_k, y_k = C x_k + D u_k. The same four matrices are
        two different systems there and here. :meth:`from_scipy`, :meth:`to_scipy`,
        :meth:`from_control` and :meth:`to_control` translate, with the same output sample by sample.

    Args:
        A (float64 or complex128): state matrix (N, N), per sample; a scalar if N = 1.
        B (float64 or complex128): input matrix (N, M); (N,) for one input.
        C (float64 or complex128): output matrix (P, N); (N,) for one output.
        D (float64 or complex128): direct term (P, M); zeros by default.
        dt (float): time from sample to sample, above 0; required. It only labels time: the
            matrices are those of the discrete system already.

    Raises:
        ValueError: shapes that do not fit each other, masked entries, NaN or infinity, ``dt`` not
            above 0.
        TypeError: arguments that are not numbers, or no ``dt``.

    Equation eq-discrete-ssm. Source: Gu, Goel and Ré (2022), section 2.3.

    Example:
        An exponential moving average, run as a recurrence and as a convolution:

        >>> from ssm_core.lti import DiscreteSSM
        >>> ema = DiscreteSSM(0.5, 0.5, 1.0, dt=1.0)
        >>> y, x = ema.recurrence([8.0, 8.0, 0.0])
        >>> print(y, ema.convolve([8.0, 8.0, 0.0]).round(12))
        [4. 6. 3.] [4. 6. 3.]
    """

    dt: float

    def __init__(
        self,
        A: ArrayLike,
        B: ArrayLike,
        C: ArrayLike,
        D: ArrayLike | None = None,
        dt: float | None = None,
    ) -> None:
        super().__init__(A, B, C, D)
        object.__setattr__(self, "dt", as_positive(dt, "dt"))  # refuses None: D may be left out

    def _fields(self) -> tuple[Any, ...]:
        return *super()._fields(), self.dt

    def __repr__(self) -> str:
        return f"DiscreteSSM(N={self.N}, M={self.M}, P={self.P}, dt={self.dt:g})"

    @classmethod
    @without_warnings
    def from_scipy(cls, *system: Any) -> DiscreteSSM:
        r"""A discrete system of SciPy, translated: the same output for every input and start.

        SciPy reads the output first, x_{k+1} = A x_k + B u_k, y_k = C x_k + D u_k (eq-output-first).
        The state here after sample k is SciPy's x_{k+1}, and x0 is the same in both. Where A is
        singular, or nearly so, the new state may not show an output C x_k any more; then that output
        is one more entry at the end of the state, which starts at any value. D changes too, unless
        all outputs are of this kind.

        Args:
            system: a ``scipy.signal.dlti`` (``StateSpace``, ``TransferFunction``,
                ``ZerosPolesGain``), or numbers, as one tuple or one by one: ``num, den, dt`` or
                ``A, B, C, D, dt``, as from ``cont2discrete`` or, with dt appended,
                :func:`ssm_core.discretize.discretize`.

        Raises:
            ValueError: a continuous system, an unspecified step, a numerator of higher degree than
                the denominator, or matrices that do not fit.
            TypeError: something that is not a linear system.

        Equations eq-output-first, eq-discrete-ssm.

        Example:
            The trapezoid rule on a leaky integrator, from the matrices that SciPy makes too:

            >>> from ssm_core.discretize import discretize
            >>> from ssm_core.lti import DiscreteSSM
            >>> Ab, Bb, Cb, Db = discretize(-1.0, 1.0, 1.0, 0.0, 1.0, "bilinear")
            >>> y, x = DiscreteSSM.from_scipy(Ab, Bb, Cb, Db, 1.0).recurrence([1.0, 1.0, 1.0])
            >>> print(y.round(4))
            [0.3333 0.7778 0.9259]
        """
        A, B, C, D, dt = matrices_of(system)
        if dt is not None and dt is not True and dt == 0:
            raise ValueError(
                "the system is continuous, expected a discrete one with its step, as in "
                "from_scipy(A, B, C, D, dt); ContinuousSSM has the same methods, and discretize"
            )
        return cls(*update_first(A, B, C, D), sample_time(dt))

    @without_warnings
    def to_scipy(self) -> signal.StateSpace:
        r"""This system as a ``scipy.signal.StateSpace`` in discrete time, with the same output.

        .. math:: x_{k+1} = A x_k + B u_k, \qquad y_k = C A\, x_k + (C B + D)\, u_k

        The state has the same size, and SciPy's x_{k+1} is the state here after sample k.

        Equation eq-output-first.

        Example:
            >>> from scipy.signal import dlsim
            >>> from ssm_core.lti import DiscreteSSM
            >>> ema = DiscreteSSM(0.5, 0.5, 1.0, dt=1.0)
            >>> t, y, x = dlsim(ema.to_scipy(), [8.0, 8.0, 0.0])
            >>> print(y[:, 0], ema.recurrence([8.0, 8.0, 0.0])[0])
            [4. 6. 3.] [4. 6. 3.]
        """
        from scipy import signal

        return signal.StateSpace(*output_first(self.A, self.B, self.C, self.D), dt=self.dt)

    @classmethod
    def from_control(cls, system: Any) -> DiscreteSSM:
        """A discrete ``StateSpace`` or ``TransferFunction`` of python-control, also MIMO.

        Python-control reads the output first, as SciPy does; the system is translated as
        :meth:`from_scipy` does it.

        Args:
            system: the system of python-control, with a step ``dt``.

        Raises:
            ValueError: a continuous system, an unspecified step, an improper transfer function.
            TypeError: something that is not a linear system.

        Equations eq-output-first, eq-discrete-ssm.

        Example:
            ``DiscreteSSM.from_control(control.c2d(plant, 0.1, "foh"))`` has the output of the plant
            for an input that is a straight line from sample to sample.
        """
        return cls.from_scipy(system)

    @without_warnings
    def to_control(self) -> Any:
        """This system as a ``control.StateSpace`` with the step dt, and with the same output.

        The matrices are those of :meth:`to_scipy`.

        Raises:
            ImportError: python-control is not installed.
            TypeError: complex matrices, which python-control does not have.

        Equation eq-output-first.
        """
        return _control_system(*output_first(self.A, self.B, self.C, self.D), self.dt)

    @without_warnings
    def frequency_response(self, w: ArrayLike) -> Array:
        r"""What becomes of the input exp(iw k dt): z C (zI - A)^{-1} B + D with z = exp(iw dt).

        Args:
            w (float64): one angular frequency or several (K,), in radians per unit of time of dt, as
                for the continuous system. (SciPy's ``dfreqresp`` takes radians per sample, w dt.)

        Returns:
            G complex128 (P, M) for one frequency, (K, P, M) for several, also for P = M = 1. It is
            the sum of ``kernel`` times exp(-iw j dt) over all lags j.

        Raises:
            ValueError: wrong shape, masked entries, NaN or infinity, or z is an eigenvalue of A: a
                resonance without friction has no finite response.

        Equations eq-kernel, eq-frequency-response.

        Example:
            >>> from ssm_core.lti import DiscreteSSM
            >>> ema = DiscreteSSM(0.5, 0.5, 1.0, dt=1.0)
            >>> print(abs(ema.frequency_response([0.0, 3.141592653589793]))[:, 0, 0].round(4))
            [1.     0.3333]
        """
        w = _scalar_or_row(w, "w")
        z = np.exp(1j * w * self.dt)
        G = z[..., None, None] * self._transfer(z, w, "exp(iw dt)") + self.D
        return finite_result(G, "the frequency response", "its gain is too large")

    @without_warnings
    def step(self, u: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
        r"""One sample: the output and the new state, from the new input and the last state.

        Args:
            u (float64 or complex128): new input, a scalar or (M,).
            x (float64 or complex128): last state (N,).

        Returns:
            ``(y, x)``: the output, a scalar if ``u`` is one and P = 1, else (P,); and the new
            state (N,). The state given is not changed.

        Raises:
            ValueError: wrong shapes, masked entries, NaN or infinity.

        Equation eq-discrete-ssm.

        Example:
            >>> from ssm_core.lti import DiscreteSSM
            >>> ema = DiscreteSSM(0.5, 0.5, 1.0, dt=1.0)
            >>> y, x = ema.step(8.0, [4.0])
            >>> print(y, x)
            6.0 [6.]
        """
        u, flat = _one_input(u, self.M)
        x = as_array(x, "x", (self.N,))
        x = finite_result(self.A @ x + self.B @ u, "the state")  # (N,)
        y = finite_result(self.C @ x + self.D @ u, "the output")  # (P,)
        return (y[0] if flat and self.P == 1 else y), x

    @without_warnings
    def recurrence(self, u: ArrayLike, x0: ArrayLike | None = None) -> tuple[Array, Array]:
        r"""Run the system over a signal, sample by sample: O(L N²) work, one state of memory.

        Args:
            u (float64 or complex128): input (L,) or (L, M).
            x0 (float64 or complex128): state (N,) before the first sample; zero by default.

        Returns:
            ``(y, x)``: output (L,) if ``u`` is (L,) and there is one output, else (L, P); the
            state after every sample (L, N). ``x[-1]`` is where to go on from.

        Raises:
            ValueError: wrong shapes, masked entries, NaN or infinity.
            OverflowError: the system is unstable and leaves the range of float64.

        Equation eq-discrete-ssm.

        Example:
            A signal in two parts, the second from where the first ended:

            >>> from ssm_core.lti import DiscreteSSM
            >>> ema = DiscreteSSM(0.5, 0.5, 1.0, dt=1.0)
            >>> y, x = ema.recurrence([8.0, 8.0])
            >>> y, x = ema.recurrence([0.0], x0=x[-1])
            >>> print(y)
            [3.]
        """
        u, flat = self._signal(u)  # (L, M)
        x0 = self._initial_state(x0)
        which = np.zeros(len(u), dtype=int)
        x = affine_recurrence(self.A[None], which, u @ self.B.T, x0)[1:]  # (L, N)
        return self._output(finite_result(x, "the state"), u, flat), x

    @without_warnings
    def kernel(self, L: int) -> Array:
        r"""The response to a unit impulse at sample 0: what ``convolve`` convolves with.

        .. math:: K_0 = C B + D, \qquad K_j = C A^j B

        Args:
            L (int): number of samples, at least 1.

        Returns:
            K (L, P, M), also for P = M = 1. D is in its first sample, so the convolution with K
            is the whole output; :func:`ssm_core.convolution.kernel_from_ssm` gives it without D.

        Raises:
            ValueError: L below 1.
            OverflowError: the system is unstable and leaves the range of float64.

        Equation eq-kernel. Source: Gu, Goel and Ré (2022), equation (5).

        Example:
            >>> from ssm_core.lti import DiscreteSSM
            >>> ema = DiscreteSSM(0.5, 0.5, 1.0, dt=1.0)
            >>> print(ema.kernel(4)[:, 0, 0])
            [0.5    0.25   0.125  0.0625]
        """
        L = as_int(L, "L")
        K = kernel_from_ssm(self.A, self.B, self.C, L)  # (L, P, M)
        K = K.astype(np.result_type(K, self.D))
        K[0] += self.D
        return finite_result(K, "the kernel")

    @without_warnings
    def convolve(self, u: ArrayLike) -> Array:
        r"""The output of ``recurrence`` from a zero state, computed all at once by FFT.

        FFT spreads its rounding error evenly over the signal. If an unstable system grows by more
        than a factor of 1000 over L samples, that error would bury the first ones, so the
        recurrence is run instead.

        Args:
            u (float64 or complex128): input (L,) or (L, M).

        Returns:
            y (L,) if ``u`` is (L,) and there is one output, else (L, P).

        Raises:
            ValueError: wrong shape, masked entries, NaN or infinity.
            OverflowError: the system is unstable and leaves the range of float64.

        Equation eq-causal-convolution. Source: Gu, Goel and Ré (2022), section 2.4.

        Example:
            >>> from ssm_core.lti import DiscreteSSM
            >>> ema = DiscreteSSM(0.5, 0.5, 1.0, dt=1.0)
            >>> print(ema.convolve([8.0, 8.0, 0.0]).round(12))
            [4. 6. 3.]
        """
        u, flat = self._signal(u)  # (L, M)
        if len(u) * np.log(max(np.abs(self.poles).max(), 1.0)) > np.log(1000):
            y = self.recurrence(u)[0]  # (L, P)
        else:
            K = self.kernel(len(u))  # (L, P, M)
            parts = causal_convolution(u.T, K.transpose(1, 2, 0))  # (P, M, L)
            y = finite_result(parts.sum(axis=1).T, "the output")  # (L, P)
        return y[:, 0] if flat and self.P == 1 else y


def _control_system(A: Array, B: Array, C: Array, D: Array, dt: float) -> Any:
    """The system as python-control has it."""
    try:
        from control import StateSpace
    except ImportError:
        raise ImportError("to_control needs python-control: pip install control") from None
    if any(map(np.iscomplexobj, (A, B, C, D))):
        raise TypeError(
            "the system is complex, expected real matrices: python-control has no other"
        )
    return StateSpace(A, B, C, D, dt, remove_useless_states=False)


def _distinct_steps(t: RealArray) -> tuple[RealArray, Array]:
    """The steps of a grid of times without repeats, and for each step which of them it is.

    Times carry a rounding error; steps that differ by no more than that count as one, and their
    mean stands for them.
    """
    h = finite_result(np.diff(t), "a step between times", "t spans too much")  # (L - 1,)
    rounding = 8 * np.finfo(float).eps * np.maximum(np.abs(t[:-1]), np.abs(t[1:]))
    which = np.zeros(len(h), dtype=int)
    group, smallest = -1, -np.inf
    for k in np.argsort(h):
        if h[k] - smallest > rounding[k]:
            group, smallest = group + 1, h[k]
        which[k] = group
    return np.bincount(which, weights=h) / np.bincount(which), which


def _scalar_or_row(value: ArrayLike, name: str) -> RealArray:
    """One real number or a row of them, as an array () or (K,)."""
    x = as_array(value, name, real=True)
    return x if x.ndim == 0 else as_array(x, name, ("K",), real=True)


def _one_input(value: ArrayLike, M: int) -> tuple[Array, bool]:
    """One sample of the input as (M,), and whether it came as a bare number."""
    u = as_array(value, "u")
    if u.shape == () and M == 1:
        return u.reshape(1), True
    return as_array(u, "u", (M,)), False


def _sample(u: Callable[[float], ArrayLike], time: float, M: int) -> Array:
    """The input, given as a function, at one time: (M,)."""
    return _one_input(u(time), M)[0]


def _sampled(u: Callable[[float], ArrayLike], t: RealArray, M: int) -> tuple[Array, bool]:
    """The input, given as a function, at times (L,): (L, M), and whether it is a bare number."""
    _, flat = _one_input(u(t[0]), M)
    return np.stack([_sample(u, time, M) for time in t]), flat
