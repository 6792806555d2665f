"""Online compression: keep the coefficients of a signal current as its samples come in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ssm_core._checks import (
    RealArray,
    as_array,
    as_choice,
    as_int,
    as_positive,
    as_real,
    as_times,
    finite_result,
    without_warnings,
)
from ssm_core.discretize import METHODS, canonical_name
from ssm_core.hippo.measures import basis, transition
from ssm_core.hippo.steps import FAMILY, even_steps, legs_steps, uneven_steps

_RULES = tuple(method for method in METHODS if method != "gbt")
_LEGS_RULES = (*FAMILY, "zoh", "foh")


class Memory:
    r"""A HiPPO memory that takes samples as they come in, one by one or in blocks.

    Sample k stands for the signal between :math:`t_{k-1}` and :math:`t_k`. With ``dt`` the samples
    are ``dt`` apart and the first one ends at time dt. With times, the memory begins at ``start``,
    by default at the first time; then the first sample has no length, and counts only as the
    beginning of the first straight line (``foh``). Before it begins, a memory that fades or has a
    window is at rest.

    The rule says what is between two samples. ``zoh`` holds the newer one and ``foh`` draws a
    straight line; for these inputs both are exact at any steps, also for ``legs``. ``bilinear``,
    ``euler`` and ``backward_euler`` approximate the held input; for ``legs`` they take O(N) instead
    of O(N²). For uneven samples of a smooth signal ``foh`` is by far the most accurate rule; the
    default, ``bilinear``, is the cheapest.

    Args:
        measure (str): ``legs``, ``legt``, ``lagt``, ``glagt``, ``fout`` or ``chebt``.
        N (int): number of coefficients of each channel, at least 1; even for ``fout``.
        dt (float): time between samples, above 0, in the units of theta. Without it every update
            needs times, except for ``legs``, which has no time scale and then takes steps of 1.
        method (str): for ``legs`` ``euler``, ``bilinear``, ``backward_euler``, ``zoh`` or ``foh``;
            otherwise any method of :func:`ssm_core.discretize.discretize` but ``gbt``.
        channels (int): number of signals that are kept side by side; one, without an axis of its
            own, by default.
        start (float): where times begin, at most the first one; only without ``dt``.
        theta, alpha, beta (float): arguments of the measure, as in
            :func:`ssm_core.hippo.transition`.

    Raises:
        ValueError: an unknown measure or method, a value out of range.
        TypeError: an argument that the measure does not take.

    Equations eq-hippo-ode, eq-legs-update, eq-zoh, eq-foh. Source: Gu et al., "HiPPO: Recurrent
    Memory with Optimal Polynomial Projections" (2020), section 2.4 and appendix E (the O(N) step).

    Example:
        A mean over uneven times: 3 lasts three times as long as 1.

        >>> from ssm_core.hippo import Memory
        >>> memory = Memory("legs", 4, method="zoh", start=0.0)
        >>> x = memory.update(1.0, t=1.0)
        >>> x = memory.update([3.0, 3.0], t=[2.0, 4.0])
        >>> print(x[-1, 0].round(12), memory.time)
        2.5 4.0
    """

    def __init__(
        self,
        measure: str,
        N: int,
        dt: float | None = None,
        method: str = "bilinear",
        *,
        channels: int | None = None,
        start: float | None = None,
        theta: float | None = None,
        alpha: float | None = None,
        beta: float | None = None,
    ) -> None:
        A, B = transition(measure, N, theta=theta, alpha=alpha, beta=beta)
        rules = _LEGS_RULES if measure == "legs" else _RULES
        method = as_choice(canonical_name(method), "method", rules)
        if dt is not None and start is not None:
            raise ValueError(f"start is {start!r}, expected None: with dt a memory begins at 0")
        self._dt = None if dt is None else as_positive(dt, "dt")
        self._channels = None if channels is None else as_int(channels, "channels")
        self.measure, self.N, self.method = measure, len(A), method
        self._arguments = {"theta": theta, "alpha": alpha, "beta": beta}
        if measure == "legs":
            self._rule = legs_steps(A, B, method)
        elif self._dt is not None:
            self._rule = even_steps(A, B, self._dt, method)
        else:
            self._rule = uneven_steps(A, B, method)
        # Where the memory begins and, after the first sample, where it is: in samples with a dt.
        self._span = np.zeros(1) if start is None else np.full(1, as_real(start, "start"))
        if dt is None and start is None:
            self._span = np.empty(0)  # the first time says it
        self._x = np.zeros((self.N, channels or 1))  # (N, c)
        self._last = np.zeros(channels or 1)  # (c,)

    def __repr__(self) -> str:
        return f"Memory({self.measure!r}, N={self.N}, method={self.method!r})"

    @property
    def coefficients(self) -> RealArray:
        """The newest coefficients (N,), or (channels, N)."""
        return self._outside(self._x).copy()

    @property
    def time(self) -> float | None:
        """The time of the newest sample; None before the first one if that sets the beginning."""
        return None if len(self._span) == 0 else float(self._span[-1]) * (self._dt or 1.0)

    @property
    def state(self) -> dict[str, RealArray]:
        """The arrays that a memory needs to go on from here, which ``np.savez`` takes as they are.

        ``x`` (N, channels) are the coefficients, ``last`` (channels,) is the newest sample, ``span``
        holds the times at which the memory begins and where it is, in samples if there is a ``dt``;
        before the first sample it is shorter. To go on, assign all three to the ``state`` of a
        memory made with the same arguments.
        """
        return {"x": self._x.copy(), "last": self._last.copy(), "span": self._span.copy()}

    @state.setter
    def state(self, state: Mapping[str, ArrayLike]) -> None:
        missing = [name for name in ("x", "last", "span") if name not in state]
        if missing:
            raise ValueError(f"state has no {missing[0]!r}, expected the arrays x, last and span")
        x = as_array(state["x"], "state['x']", self._x.shape, real=True)
        last = as_array(state["last"], "state['last']", self._last.shape, real=True)
        span = as_array(state["span"], "state['span']", real=True)
        if span.shape not in ((0,), (1,), (2,)) or (np.diff(span) < 0).any():
            raise ValueError(f"state['span'] is {span}, expected at most two increasing times")
        self._x, self._last, self._span = x.copy(), last.copy(), span.copy()

    @without_warnings
    def update(self, u: ArrayLike, t: ArrayLike | None = None) -> RealArray:
        """Take in one sample or a block of them.

        Args:
            u (float64): one sample, a number or (channels,); or a block in the order of time, (L,)
                or (L, channels). A block costs far less than its samples one by one.
            t (float64): the time of the sample, or times (L,), after those that came before. Only
                without ``dt``.

        Returns:
            float64, the coefficients after each sample: (N,) or (channels, N) for one sample,
            (L, N) or (L, channels, N) for a block.

        Raises:
            ValueError: wrong shape, masked entries, NaN or infinity, times that repeat or decrease,
                ``t`` missing or too much. The memory is then as before.
            TypeError: a signal that is not real.
            OverflowError: the coefficients leave the range of float64.

        Example:
            >>> from ssm_core.hippo import Memory
            >>> memory = Memory("legt", 8, dt=0.1, theta=1.0, channels=2)
            >>> memory.update([1.0, 2.0]).shape, memory.update([[1.0, 2.0]] * 5).shape
            ((2, 8), (5, 2, 8))
        """
        u = as_array(u, "u", real=True)
        single = u.ndim == (0 if self._channels is None else 1)
        states = self._take(u[None] if single else u, t, single, 1)
        return states[0] if single else states

    def reconstruct(self, t: ArrayLike, theta: float | None = None) -> RealArray:
        """The past that the memory holds, as :func:`ssm_core.hippo.reconstruct` reads it.

        Args:
            t (float64): fractions of the past (T,), or one fraction: 0 the oldest moment, 1 now.
            theta (float): for ``lagt`` and ``glagt``: how far back t = 0 lies, 1 by default. Windows
                have a length of their own.

        Returns:
            float64 (T,) or (channels, T); without the last axis if t is one number.

        Example:
            >>> from ssm_core.hippo import Memory
            >>> memory = Memory("legs", 4)
            >>> x = memory.update([5.0, 5.0, 5.0])
            >>> print(memory.reconstruct([0.0, 1.0]).round(12))
            [5. 5.]
        """
        own = {**self._arguments}
        if theta is not None:
            if own["theta"] is not None:
                raise ValueError(f"theta is {theta!r}, expected None: the window has its own")
            own["theta"] = theta
        return reconstruct(self.coefficients, self.measure, t, **own)

    def _take(self, u: RealArray, t: ArrayLike | None, single: bool, every: int) -> RealArray:
        """Take in a block and return the coefficients after each ``every``-th sample."""
        c = self._channels
        shape = ("L",) if c is None else ("L", c)
        u = as_array(u, "u", shape, real=True).reshape(len(u), -1)  # (L, c)
        span, times = self._times(len(u), t, single)
        start = np.append(span[-1], times[:-1]) - span[0]
        end = times - span[0]
        # The other measures are at rest before they begin; LegS has nothing but its samples.
        first = self.measure == "legs" and len(self._span) < 2
        states, x = self._rule(self._x, u[0] if first else self._last, u, start, end, every)
        self._x, self._last = x.copy(), u[-1].copy()
        self._span = np.array([span[0], times[-1]])
        return self._outside(states)

    def _times(self, L: int, t: ArrayLike | None, single: bool) -> tuple[RealArray, RealArray]:
        """The span before new samples, and their times (L,), in the memory's own units."""
        if t is None:
            if self._dt is None and self.measure != "legs":
                raise ValueError("t is None, expected times: this memory has no dt")
            span = self._span if len(self._span) else np.zeros(1)
            return span, span[-1] + np.arange(1.0, L + 1)
        if self._dt is not None:
            raise ValueError(f"t was given, expected None: the samples are dt = {self._dt:g} apart")
        t = as_array(t, "t", () if single else (L,), real=True)
        times = as_times(t.reshape(L), "t")
        if len(self._span) == 0:
            return times[:1], times
        if times[0] < self._span[-1] or (len(self._span) == 2 and times[0] == self._span[-1]):
            raise ValueError(
                f"t begins at {times[0]:.17g}, expected times after {self._span[-1]:.17g}, "
                "where the memory is"
            )
        return self._span, times

    def _outside(self, x: RealArray) -> RealArray:
        """Coefficients (..., N, c) as they are returned: (..., c, N), or (..., N)."""
        return x[..., 0] if self._channels is None else np.swapaxes(x, -1, -2)


@without_warnings
def project(
    u: ArrayLike,
    measure: str,
    N: int,
    dt: float | None = None,
    method: str = "bilinear",
    every: int = 1,
    *,
    t: ArrayLike | None = None,
    start: float | None = None,
    theta: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> RealArray:
    r"""Compress a signal online: the N coefficients after each sample.

    Sample k stands for the signal between :math:`t_{k-1}` and :math:`t_k`, with
    :math:`t_k = k\,dt` or the times given. For ``legs`` the system is time-varying and each step
    costs O(N); it freezes 1/t at :math:`t_k - a\,h`, where h is the step and a is 0, 1/2, 1 for
    ``euler``, ``bilinear``, ``backward_euler``. With this choice the first coefficient is the exact
    running mean. The other measures are time-invariant: with ``dt`` they are discretized once, and a
    step costs O(N²). To go on with a signal later, keep a :class:`Memory`.

    Args:
        u (float64): signal (L,), or M signals side by side (L, M).
        measure (str): ``legs``, ``legt``, ``lagt``, ``glagt``, ``fout`` or ``chebt``.
        N (int): number of coefficients, at least 1; even for ``fout``.
        dt (float): time between samples, above 0, in the units of theta; or give ``t``. ``legs``
            has no time scale of its own: its coefficients do not depend on ``dt``.
        method (str): for ``legs`` ``euler``, ``bilinear``, ``backward_euler``, ``zoh`` or ``foh``,
            otherwise any method of :func:`ssm_core.discretize.discretize` but ``gbt``. The default,
            ``bilinear``, is of second order; Euler's error is visible on smooth signals. ``zoh`` and
            ``foh`` are exact for inputs that are held, or straight lines, between samples, at O(N²).
        every (int): keep only the coefficients after each ``every``-th sample, to save memory;
            1 by default.
        t (float64): times (L,) of the samples in place of ``dt``, increasing, evenly spaced or not.
        start (float): with ``t``, where the memory begins; by default at the first time, which
            leaves the first sample without a length.
        theta, alpha, beta (float): arguments of the measure, as in
            :func:`ssm_core.hippo.transition`.

    Returns:
        float64 (L // every, N), or (L // every, M, N): row i holds the coefficients after sample
        (i + 1) ``every``.

    Raises:
        ValueError: wrong shape, masked entries, NaN or infinity, an unknown measure or method, a
            value out of range, times that repeat or decrease, both of ``dt`` and ``t`` or neither.
        TypeError: an argument that the measure does not take, or a signal that is not real.
        OverflowError: the rule is unstable for this N or ``dt``, and the coefficients leave the
            range of float64.

    Equations eq-projection, eq-hippo-ode; for ``legs`` eq-legs-projection, eq-legs-update and
    eq-legs-residual. Source: Gu et al., "HiPPO: Recurrent Memory with Optimal Polynomial
    Projections" (2020), section 2.4 and appendix E (the O(N) step).

    Example:
        >>> from ssm_core.hippo import project
        >>> print(project([1.0, 2.0, 3.0], "legs", N=2, dt=1.0)[:, 0])
        [1.  1.5 2. ]
    """
    u = as_array(u, "u", real=True)
    if u.ndim not in (1, 2) or 0 in u.shape:
        raise ValueError(f"u has shape {u.shape}, expected (L,) or (L, M)")
    if (dt is None) == (t is None):
        came = "neither dt nor t was given" if dt is None else "dt and t were both given"
        raise ValueError(f"{came}, expected one of them")
    channels = None if u.ndim == 1 else u.shape[1]
    memory = Memory(
        measure, N, dt, method,
        channels=channels, start=start, theta=theta, alpha=alpha, beta=beta,
    )  # fmt: skip
    return memory._take(u, t, False, as_int(every, "every"))


@without_warnings
def reconstruct(
    coefficients: ArrayLike,
    measure: str,
    t: ArrayLike,
    *,
    theta: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
) -> RealArray:
    """The past that the coefficients remember, at chosen moments.

    Args:
        coefficients (float64): states (..., N), such as (K, N) of one signal over time.
        measure (str): ``legs``, ``legt``, ``lagt``, ``glagt``, ``fout`` or ``chebt``.
        t (float64): fractions of the past (T,), or one fraction, in [0, 1] up to rounding: 0 the
            oldest moment, 1 now. For ``legs`` after k samples, the middle of sample j = 0 … k - 1
            lies at (j + 1/2) / k of the past.
        theta (float): length of the past, above 0, in units of time; 1 by default; not for
            ``legs``.
        alpha, beta (float): for ``glagt`` only, as in :func:`ssm_core.hippo.transition`.

    Returns:
        float64 (..., T), such as (K, T); without the last axis if t is one number.

    Raises:
        ValueError: wrong shape, masked entries, NaN or infinity, an unknown measure, t outside
            [0, 1], or t = 1 for ``glagt`` with alpha < 0, whose functions are infinite there.
        TypeError: an argument that the measure does not take, or complex numbers.
        OverflowError: the result leaves the range of float64.

    Equation eq-reconstruction. Source: Gu et al., "HiPPO: Recurrent Memory with Optimal Polynomial
    Projections" (2020), section 2.2.

    Example:
        >>> from ssm_core.hippo import reconstruct
        >>> print(reconstruct([5.0, 0.0], "legs", [0.0, 0.5, 1.0]))
        [5. 5. 5.]
    """
    coefficients = as_array(coefficients, "coefficients", (..., "N"), real=True)
    N = coefficients.shape[-1]
    functions = basis(measure, N, t, theta=theta, alpha=alpha, beta=beta)  # (T, N) or (N,)
    return finite_result(coefficients @ functions.T, "the past", "coefficients are too large")
