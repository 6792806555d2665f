"""One rule, one way to step: what carries the coefficients of a memory over its samples.

A rule is made once for a memory and called for each block of samples,

    states, x = rule(x, last, u, start, end, every)

with coefficients x (N, c) of c channels, the last sample (c,) before the block, samples u (L, c),
the times (L,) at which each of their steps starts and ends, counted from where the memory begins.
It returns the states (L // every, N, c) after each ``every``-th sample and the last one (N, c).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import lapack, schur

from ssm_core._checks import RealArray, finite_result
from ssm_core._flow import LineFlow, affine_recurrence
from ssm_core.hippo.legs_update import advance_legs
from ssm_core.lti import ContinuousSSM

__all__ = ["FAMILY", "Rule", "even_steps", "legs_steps", "uneven_steps"]

Rule = Callable[
    [RealArray, RealArray, RealArray, RealArray, RealArray, int], tuple[RealArray, RealArray]
]

# The weight alpha of the new state in each rule of the family (I - alpha h A) x_new = ...
FAMILY = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}


def even_steps(A: RealArray, B: RealArray, dt: float, method: str) -> Rule:
    """A time-invariant memory with equal steps: discretized once, by any rule."""
    N = len(A)
    system = ContinuousSSM(A, B, np.zeros((1, N))).discretize(dt, method)

    def steps(
        x: RealArray, last: RealArray, u: RealArray, start: RealArray, end: RealArray, every: int
    ) -> tuple[RealArray, RealArray]:
        if method == "foh":  # its state is extended by the last input
            x = np.concatenate([x, last[None]])
        which = np.zeros(len(u), dtype=int)
        states = affine_recurrence(system.A[None], which, system.B * u[:, None], x)[1:, :N]
        return _kept(states, every)

    return steps


def uneven_steps(A: RealArray, B: RealArray, method: str) -> Rule:
    """A time-invariant memory with steps of any length, O(N²) each."""
    step = _implicit_step(A, B, FAMILY[method]) if method in FAMILY else _exact_step(A, B, method)

    def steps(
        x: RealArray, last: RealArray, u: RealArray, start: RealArray, end: RealArray, every: int
    ) -> tuple[RealArray, RealArray]:
        states = np.empty((len(u), *x.shape))
        for k, h in enumerate((end - start).tolist()):
            x = states[k] = step(h, x, last[None], u[k : k + 1])
            last = u[k]
        return _kept(states, every)

    return steps


def _exact_step(
    A: RealArray, B: RealArray, method: str
) -> Callable[[float, RealArray, RealArray, RealArray], RealArray]:
    """zoh, foh or dirac over one step, from x (N, c), with samples (1, c) at its two ends."""
    flow = LineFlow(A, B)
    if method == "zoh":
        return lambda h, x, last, u: flow(h, x, u, u)
    if method == "foh":
        return flow
    return lambda h, x, last, u: flow(h, x, 0 * u, 0 * u) + B * u


def _implicit_step(
    A: RealArray, B: RealArray, alpha: float
) -> Callable[[float, RealArray, RealArray, RealArray], RealArray]:
    """euler, bilinear or backward_euler: in the Schur form of A every step is a triangular solve."""
    T, Q = schur(A, output="complex")
    b, back = Q.conj().T @ B, np.ascontiguousarray(Q.conj().T)
    diagonal = np.arange(len(A))

    def step(h: float, x: RealArray, last: RealArray, u: RealArray) -> RealArray:
        y = back @ x + (alpha * h * b) * u
        if alpha:
            implicit = (-alpha * h) * T
            implicit[diagonal, diagonal] += 1
            y, _ = lapack.ztrtrs(implicit, y)
        return (Q @ (y + ((1 - alpha) * h) * (T @ y + b * u))).real

    return step


def legs_steps(A: RealArray, B: RealArray, method: str) -> Rule:
    """LegS, whose window is all of the past: (A x + B u) / t, O(N) or, where exact, O(N²) a step."""
    return _legs_in_family(FAMILY[method]) if method in FAMILY else _legs_exact(A, B, method)


def _legs_in_family(alpha: float) -> Rule:
    """Steps that freeze 1/t at t = end - alpha h, all channels one after the other."""

    def steps(
        x: RealArray, last: RealArray, u: RealArray, start: RealArray, end: RealArray, every: int
    ) -> tuple[RealArray, RealArray]:
        h = end - start
        # The first sample with a length is all there is: a constant, and so a step of size 0.
        first = int((start == 0).sum())
        if first:
            x = np.zeros_like(x)
            x[0] = u[first - 1]
        sizes = np.where(start == 0, 0, h / (end - alpha * h))
        rows = [advance_legs(x[:, i], u[:, i], sizes, alpha, every) for i in range(u.shape[1])]
        kept, newest = zip(*rows)
        states = kept[0][..., None] if len(rows) == 1 else np.stack(kept, axis=-1)
        if first == 2 and every == 1:  # before it came a sample without a length
            states[0, 0] = u[0]
        return states, np.stack(newest, axis=-1)

    return steps


def _legs_exact(A: RealArray, B: RealArray, method: str) -> Rule:
    """Steps in the time log t, in which LegS is time-invariant, under an input held or a line.

    A straight line in t is one in e^s, s = log t.
    """
    flow = LineFlow(A, B, growth=1.0)

    def steps(
        x: RealArray, last: RealArray, u: RealArray, start: RealArray, end: RealArray, every: int
    ) -> tuple[RealArray, RealArray]:
        states = np.empty((len(u), *x.shape))
        logarithms = np.log1p((end - start) / np.where(start > 0, start, 1)).tolist()
        for k, h in enumerate(logarithms):
            u0, u1 = (last if method == "foh" else u[k]), u[k]
            if start[k] == 0:
                x = np.zeros_like(x)
                x[0] = (u0 + u1) / 2
                x[1:2] = (u1 - u0) / (2 * np.sqrt(3))
            else:
                x = flow(h, x, u0[None], u1[None])
            states[k], last = x, u[k]
        return _kept(states, every)

    return steps


def _kept(states: RealArray, every: int) -> tuple[RealArray, RealArray]:
    """Every so many of the states, and the last one."""
    finite_result(states, "the state")
    return states[every - 1 :: every], states[-1]
