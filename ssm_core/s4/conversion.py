r"""Between layers and single systems: a channel as real matrices, and matrices as modes.

A layer keeps one of each pair of conjugate modes and takes :math:`y = 2 \operatorname{Re}(C x)`. As
a system of real numbers its state is :math:`(\operatorname{Re} x, \operatorname{Im} x)`. The other
way a matrix is diagonalized; a real eigenvalue becomes a mode with half its output weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ssm_core._checks import Array, RealArray, as_positive
from ssm_core.lti import ContinuousSSM, DiscreteSSM

__all__ = ["Modes", "modes_of", "real_matrices"]


class Modes(NamedTuple):
    """What a channel of a diagonal layer holds."""

    Lambda: Array  # (n,), per unit of time
    B: Array  # (n,)
    C: Array  # (n,)
    D: float
    dt: float


def real_matrices(
    diagonal: Tensor, B: Tensor, C: Tensor, left: Tensor | None, right: Tensor | None, real: bool
) -> tuple[RealArray, RealArray, RealArray]:
    """A (N, N), B (N,), C (N,) of one channel on (Re x, Im x), or on x where modes are real.

    Args:
        diagonal, B, C (complex): modes and weights (n,)
        left, right (complex):    low-rank part (r, n), as in ``Recurrence``, or None
        real (bool):              all of them are real, and N is n
    """
    a, b, c = (x.numpy(force=True) for x in (diagonal, B, C))
    A = np.block([[np.diag(a.real), -np.diag(a.imag)], [np.diag(a.imag), np.diag(a.real)]])
    if left is not None and right is not None:
        into, seen = left.numpy(force=True), 2 * right.numpy(force=True)
        A -= np.vstack([into.real.T, into.imag.T]) @ np.hstack([seen.real, -seen.imag])
    N = len(a) if real else 2 * len(a)
    return (
        A[:N, :N],
        np.concatenate([b.real, b.imag])[:N],
        2 * np.concatenate([c.real, -c.imag])[:N],
    )


def modes_of(
    systems: ContinuousSSM | DiscreteSSM | Sequence[ContinuousSSM | DiscreteSSM],
    dt: float | None,
    method: str,
) -> list[Modes]:
    """The modes of each system, of as many modes each: shorter ones get some that do nothing."""
    several = [systems] if isinstance(systems, (ContinuousSSM, DiscreteSSM)) else list(systems)
    if not several:
        raise ValueError("systems is empty, expected at least one, one for each channel")
    found = [_modes(system, dt, method, i) for i, system in enumerate(several)]
    n = max(len(modes.Lambda) for modes in found)
    return [
        Modes(
            np.pad(modes.Lambda, (0, n - len(modes.Lambda)), constant_values=-1.0),
            np.pad(modes.B, (0, n - len(modes.B))),
            np.pad(modes.C, (0, n - len(modes.C))),
            modes.D,
            modes.dt,
        )
        for modes in found
    ]


def _modes(system: ContinuousSSM | DiscreteSSM, dt: float | None, method: str, i: int) -> Modes:
    name = f"system {i}"
    if not isinstance(system, (ContinuousSSM, DiscreteSSM)):
        kind = type(system).__name__
        raise TypeError(f"{name} is a {kind}, expected a ContinuousSSM or a DiscreteSSM")
    if (system.M, system.P) != (1, 1):
        raise ValueError(
            f"{name} has M = {system.M} and P = {system.P}, expected 1 input, 1 output"
        )
    if any(np.iscomplexobj(x) for x in (system.A, system.B, system.C, system.D)):
        raise ValueError(f"{name} has complex matrices, expected real ones")
    poles, V = np.linalg.eig(system.A)
    condition = np.linalg.cond(V)
    if not condition < 1e8:
        raise ValueError(
            f"{name} has no basis of eigenvectors (its condition is {condition:.1g}), expected a "
            "diagonalizable A"
        )
    b, c = np.linalg.solve(V, system.B[:, 0].astype(complex)), system.C[0] @ V
    one = poles.imag >= 0  # of each pair of conjugates
    poles, b = poles[one].astype(complex), b[one]
    c = np.where(poles.imag > 0, c[one], c[one] / 2)
    if isinstance(system, ContinuousSSM):
        Lambda, step = poles, as_positive(dt, "dt")
    else:
        if dt is not None:
            raise ValueError(f"dt is {dt!r}, expected None: a DiscreteSSM has its own")
        step = system.dt
        Lambda, b = _continuous(poles, b, step, method, name)
    if not (Lambda.real < 0).all():
        raise ValueError(f"{name} is not stable, expected eigenvalues that decay")
    return Modes(Lambda, b, c, float(system.D[0, 0]), step)


def _continuous(poles: Array, b: Array, dt: float, method: str, name: str) -> tuple[Array, Array]:
    """Modes and input weights that the rule of a layer turns into these of a step."""
    if not (np.abs(poles) < 1).all():
        raise ValueError(f"{name} is not stable, expected eigenvalues inside the unit circle")
    if method == "bilinear":
        Lambda = 2 / dt * (poles - 1) / (poles + 1)
        return Lambda, b * (1 - Lambda * dt / 2) / dt
    if (poles == 0).any():
        raise ValueError(
            f"{name} has the eigenvalue 0, a pure delay, expected others: no decay is that fast"
        )
    Lambda = np.log(poles) / dt
    return Lambda, b * Lambda / (poles - 1)
