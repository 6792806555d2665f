r"""Linear systems over steps of any length: e^{G h} v for thousands of different h.

One matrix exponential for each step costs O(N³). A step can be put together instead from a few
exponentials that all steps share, h = d_0 e + d_1 16 e + d_2 16² e + … + rest, with digits d_j
below 16 and a unit e that is small against G: each digit is one product of a matrix and a vector,
and a short power series does the rest. No eigenvectors are needed, which for the matrices of HiPPO
would lose all digits (their condition number is 10^15 for LegT with N = 32).
"""

from __future__ import annotations

import math

import numpy as np

from ssm_core._checks import Array
from ssm_core.discretize import _power_of_two, exponential

__all__ = ["Flow", "LineFlow", "affine_recurrence"]

_RADIX = 16
_SMALL = 8  # |G| e is at most 2^-8, so that
_TERMS = 5  # after this many terms the series is right to 2^-48 / 6! = 5e-18


class Flow:
    """The function (h, v) -> e^{G h} v, for h >= 0 and v (K, c), in O(K² c) after some calls."""

    def __init__(self, G: Array) -> None:
        K = len(G)
        norm = float(np.abs(G).sum(axis=0).max())
        self._unit = 2.0 ** (-_SMALL - math.frexp(norm)[1]) if norm else 1.0
        self._generator = G
        powers = [G * self._unit]
        for n in range(2, _TERMS + 1):
            powers.append(powers[0] @ powers[-1] / n)
        self._series = np.stack(powers).reshape(_TERMS * K, K)  # (G e)^n / n!
        self._jumps: dict[tuple[int, int], Array] = {}

    def __call__(self, h: float, v: Array) -> Array:
        rest = math.fmod(h, self._unit)  # exact, and so is the quotient by a power of two
        count = (h - rest) / self._unit
        if math.isinf(count):
            raise OverflowError(f"A dt leaves the range of float64: a step of {h:g} is too long")
        fraction = (rest / self._unit) ** np.arange(1, _TERMS + 1)  # (terms,)
        terms = (self._series @ v).reshape(_TERMS, -1)
        v = v + (fraction @ terms).reshape(v.shape)
        whole, place = int(count), 0
        while whole:
            whole, digit = divmod(whole, _RADIX)
            if digit:
                v = self._jump(place, digit) @ v
            place += 1
        return v

    def _jump(self, place: int, digit: int) -> Array:
        """e^{G h} for h = digit 16^place e."""
        if (place, digit) not in self._jumps:
            h = digit * float(_RADIX) ** place * self._unit
            self._jumps[place, digit] = exponential(self._generator * h)
        return self._jumps[place, digit]


class LineFlow:
    """The state of x' = A x + B u after a step of any length, u a straight line over the step.

    The input and its slope are part of the vector (slope, u, x), which then has no input of its
    own; in this order its generator is triangular where A is, which keeps the digits of slow modes.

    Args:
        A: (N, N).
        B: (N, M).
        growth: 0 for u = u0 + slope s. With 1, u is a straight line in e^s instead of s.
    """

    def __init__(self, A: Array, B: Array, growth: float = 0.0) -> None:
        N, M = B.shape
        self._M, self._growth = M, growth
        # Both scales keep every entry of the generator at the size of A, and cost no rounding.
        self._rate = _power_of_two(max(np.abs(A).sum(axis=0).max(), growth))
        self._scale = _power_of_two(np.abs(B).max() / self._rate)
        G = np.zeros((N + 2 * M, N + 2 * M), dtype=np.result_type(A, B))
        G[:M, :M] = growth * np.eye(M)
        G[M : 2 * M, :M] = self._rate * np.eye(M)
        G[2 * M :, M : 2 * M] = B / self._scale
        G[2 * M :, 2 * M :] = A
        self._flow = Flow(G)

    def __call__(self, h: float, x: Array, u0: Array, u1: Array) -> Array:
        """The state (N, c) after h, from x (N, c), with u going from u0 to u1, both (M, c)."""
        if h == 0:
            return x
        span = math.expm1(self._growth * h) / self._growth if self._growth else h
        slope = (u1 - u0) * (self._scale / (self._rate * span))
        return self._flow(h, np.concatenate([slope, u0 * self._scale, x]))[2 * self._M :]


def affine_recurrence(A: Array, which: Array, w: Array, x0: Array) -> Array:
    """The states x0, x_1, … (L + 1, …) of x_{k+1} = A[which[k]] x_k + w_k.

    x0 is (N,) and w (L, N); for several states side by side (N, c) and (L, N, c).
    """
    x = np.empty((len(w) + 1, *x0.shape), dtype=np.result_type(A, w, x0))
    x[0] = x0
    for k in range(len(w)):
        x[k + 1] = A[which[k]] @ x[k] + w[k]
    return x
