"""The O(N) step of LegS: a triangular solve that is one running sum, run for all n at once.

Written out for the scaled coefficients v_n = x_n / sqrt(2n + 1), one step of size h is

    y_n     = (v_n + alpha h r_n) / (1 + alpha h (n + 1))
    v_n     = y_n + (1 - alpha) h (r_n - (n + 1) y_n)
    r_{n+1} = r_n - (2n + 1) y_n,        r_0 = the new sample

where r_n is what the first n coefficients leave unexplained of the newest sample. The chain runs
over n within a step, and each v_n over the steps: coefficient n can take step k as soon as
coefficient n - 1 has taken it. So at tick k + n all N coefficients move side by side, each one
step behind the coefficient before it, and nothing waits. For N = 3 and L = 3, each entry is the
step that is taken:

    tick     0   1   2   3   4

    n = 0    1   2   3   .   .
    n = 1    .   1   2   3   .
    n = 2    .   .   1   2   3

The L + N - 1 ticks are the columns. A dot is an idle coefficient, which takes a step of size 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ssm_core._checks import RealArray, finite_result

compiled: Callable[..., Any] | None
try:
    from ssm_core._compiled import compiled
except ImportError:  # no Numba
    compiled = None


def advance_legs(
    x: RealArray, u: RealArray, h: RealArray, alpha: float, every: int
) -> tuple[RealArray, RealArray]:
    """LegS over samples u (L,) by steps of sizes h (L,), eq-legs-update, from coefficients x (N,).

    Returns:
        Coefficients (L // every, N) after each ``every``-th sample, and (N,) after the last one.
    """
    N, L = len(x), len(u)
    scale = np.sqrt(2 * np.arange(N) + 1)
    v = x / scale
    out = np.empty((L // every, N))
    if 2 * L < N:  # ticks would be idle for the most part
        _run_in_order(u, h, alpha, v, every, out)
    else:
        v = v[::-1].copy()
        idle = np.zeros(N - 1)  # steps of size 0 before the first sample and after the last one
        _run(np.append(u, idle), np.concatenate([idle, h, idle]), alpha, v, every, out)
        v = v[::-1]
    why = "the rule is unstable for this N"
    return finite_result(out, "the array of coefficients", why), finite_result(v * scale, "x", why)


def _run(
    u: RealArray, h: RealArray, alpha: float, v: RealArray, every: int, out: RealArray
) -> None:
    # Coefficients stand in reverse order, n = N - 1 ... 0, so that the steps h of one tick, a
    # column of the picture read upwards, are a slice of h, and v, r and h advance together:
    #
    #     place i      0      1      2
    #     n            2      1      0
    #     step size  h[k]  h[k+1]  h[k+2]     at tick k
    K, N = out.shape
    scale = np.sqrt(2 * np.arange(N - 1, -1, -1) + 1)
    r = np.zeros(N + 1)
    for tick in range(len(u)):
        r[N] = u[tick]
        _advance(v, r, h[tick : tick + N], alpha)
        behind = N - 1 - tick  # place i has now taken step i + 1 - behind
        for i in range((behind - 1) % every, N, every):
            k = (i - behind) // every
            if 0 <= k < K:
                out[k, N - 1 - i] = scale[i] * v[i]


def _run_in_order(
    u: RealArray, h: RealArray, alpha: float, v: RealArray, every: int, out: RealArray
) -> None:
    """The same for a few samples: one step after the other, n = 0 ... N - 1 in each."""
    scale = np.sqrt(2 * np.arange(len(v)) + 1)
    for k in range(len(u)):
        r = u[k]
        for n in range(len(v)):
            y = (v[n] + alpha * h[k] * r) / (1 + alpha * h[k] * (n + 1))
            v[n] = y + (1 - alpha) * h[k] * (r - (n + 1) * y)
            r = r - (2 * n + 1) * y
        if (k + 1) % every == 0:
            out[(k + 1) // every - 1] = scale * v


def _advance_in_numpy(v: RealArray, r: RealArray, h: RealArray, alpha: float) -> None:
    """One tick in NumPy: each coefficient takes its own next step, in place."""
    n = np.arange(len(v) - 1, -1, -1)
    y = (v + alpha * h * r[1:]) / (1 + alpha * h * (n + 1))
    v[:] = y + (1 - alpha) * h * (r[1:] - (n + 1) * y)
    r[:-1] = r[1:] - (2 * n + 1) * y


def _advance_compiled(v: RealArray, r: RealArray, h: RealArray, alpha: float) -> None:
    """The same tick as a loop that Numba turns into vector instructions without temporaries."""
    N = len(v)
    for i in range(N):
        n = N - 1 - i
        y = (v[i] + alpha * h[i] * r[i + 1]) / (1 + alpha * h[i] * (n + 1))
        v[i] = y + (1 - alpha) * h[i] * (r[i + 1] - (n + 1) * y)
        r[i] = r[i + 1] - (2 * n + 1) * y


if compiled is None:
    _advance = _advance_in_numpy
else:
    _advance = compiled()(_advance_compiled)
    _run = compiled()(_run)
    _run_in_order = compiled()(_run_in_order)
