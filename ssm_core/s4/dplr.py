r"""Diagonal plus low rank: the form in which S4 can afford a HiPPO matrix.

A HiPPO matrix A cannot be diagonalised in floating point: the eigenvectors of LegS have a condition
number of 8e10 at N = 16. But A + P Pᵀ is normal for a P of one or two columns, so it has unitary
eigenvectors V, and A = V (Λ − P P*) V* (eq-dplr) with every digit kept.

:func:`dplr` finds that form in NumPy. :class:`DPLR` is a batch of H systems in it with a step size
each, in PyTorch: its kernel, its recurrence by the bilinear rule, and the states at both ends of a
sequence.

A real system has its modes in conjugate pairs. One of each pair says it all: a :class:`DPLR` with
state size N works on N/2 modes and takes twice the real part. It computes in complex128; layers
round the results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssm_core._checks import as_choice, as_int
from ssm_core.hippo import transition
from ssm_core.s4.generating import kernel_from_sums
from ssm_core.s4.recurrence import Recurrence, check_system, check_tensor

__all__ = ["DPLR", "dplr"]


def dplr(
    measure: str, N: int, **measure_args: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    r"""Diagonal plus low-rank form of a HiPPO matrix: A = V (diag(Lambda) - P P*) V*.

    The symmetric part of each of these matrices is :math:`-c I - P P^T` with one column in P, or
    two for ``legt``. What is left, :math:`A + P P^T`, is skew up to :math:`-c I`; so its
    eigenvectors are unitary, and the Hermitian solver finds them to full precision.

    Args:
        measure (str):  legs | legt | lagt | glagt | fout. (``chebt`` has no such form: the
                        derivative is not skew under its weight.)
        N (int):        number of coefficients, at least 1; even for ``fout``
        measure_args:   as :func:`ssm_core.hippo.transition`; for ``glagt`` with ``alpha`` = 0,
                        since only then the matrix has this form

    Returns:
        (Lambda, P, B, V): complex128. Lambda (N,) eigenvalues of the normal part, per unit of
        time; P (N,), or (N, 2) for ``legt``, and B (N,) in the basis of the eigenvectors; V (N, N)
        unitary. The first half of the modes has Im Lambda >= 0 in rising order, the second half
        holds their conjugates in the same order, and for odd N a real mode is last. Each
        eigenvector has the phase that makes its entry of B real and not negative.

    Raises:
        ValueError: a measure without this form, or as :func:`ssm_core.hippo.transition`

    Book: eq-dplr, eq-s4-nplr. Source: Gu, Goel and Ré, "Efficiently Modeling Long Sequences with
    Structured State Spaces" (2022), section 3.2, theorem 1 and appendix C.1.

    Example:
        >>> import numpy as np
        >>> from ssm_core.hippo import transition
        >>> from ssm_core.s4 import dplr
        >>> Lambda, P, B, V = dplr("legs", 4)
        >>> A = V @ (np.diag(Lambda) - np.outer(P, P.conj())) @ V.conj().T
        >>> bool(np.abs(A - transition("legs", 4)[0]).max() < 1e-14)
        True
    """
    as_choice(measure, "measure", _LOW_RANK)
    A, b = transition(measure, N, **measure_args)
    p, shift = _LOW_RANK[measure](len(A), **measure_args)
    turn = A + p @ p.T + shift * np.eye(len(A))  # skew: it turns the state and keeps its length
    frequencies, V = _conjugate_pairs((turn - turn.T) / 2)
    overlap = V.conj().T @ b[:, 0]
    V = V * np.exp(1j * np.angle(overlap))
    P = V.conj().T @ p
    return -shift + 1j * frequencies, P[:, 0] if P.shape[1] == 1 else P, np.abs(overlap) + 0j, V


def _conjugate_pairs(skew):
    """Eigenvalues i w and unitary eigenvectors of a real skew matrix, as modes, conjugates, rest."""
    w, V = np.linalg.eigh(-1j * skew)
    still = np.abs(w) <= len(w) * np.finfo(float).eps * np.abs(w).max()
    turning = w > 0
    turning[still] = False
    # Modes that do not turn span a real space. Its real basis is joined to pairs, too.
    basis = np.linalg.svd(np.hstack([V[:, still].real, V[:, still].imag]))[0][:, : still.sum()]
    pairs = basis.shape[1] // 2
    standing = (basis[:, :pairs] + 1j * basis[:, pairs : 2 * pairs]) / np.sqrt(2)
    half = np.hstack([standing, V[:, turning]])
    w_half = np.concatenate([np.zeros(pairs), w[turning]])
    rest = basis[:, 2 * pairs :]
    return (
        np.concatenate([w_half, -w_half, np.zeros(rest.shape[1])]),
        np.hstack([half, half.conj(), rest]),
    )


# --- P and c of each measure: A + A^T = -2 (c I + P P^T) ------------------------------------------


def _legs(N):
    return np.sqrt(np.arange(N) + 0.5)[:, None], 0.5


def _legt(N, theta=1.0):
    n = np.arange(N)[:, None]
    return np.sqrt((2 * n + 1) / theta) * (n % 2 == [0, 1]), 0.0


def _lagt(N):
    return np.full((N, 1), np.sqrt(0.5)), 0.0


def _glagt(N, alpha=0.0, beta=0.01):
    if alpha != 0:
        raise ValueError(
            f"alpha is {alpha:g}, expected 0: only then is the matrix of 'glagt' "
            "normal plus low rank"
        )
    return np.full((N, 1), np.sqrt(0.5)), beta / 2


def _fout(N, theta=1.0):
    newest = np.where(np.arange(N) % 2 == 0, np.sqrt(2), 0.0)
    newest[0] = 1.0
    return newest[:, None] * np.sqrt(2 / theta), 0.0


_LOW_RANK = {"legs": _legs, "legt": _legt, "lagt": _lagt, "glagt": _glagt, "fout": _fout}


# --- a batch of systems ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class DPLR:
    r"""H systems A = Λ − P P* side by side, with a step size each, for the bilinear rule.

    With one of each pair of conjugate modes the output is :math:`y = 2 \operatorname{Re}(C x)`.

    All tensors are on one device and of one precision: complex128 with float64, or complex64 with
    float32 where a device has no more. Shapes and dtypes are checked, numbers are not: reading
    them would make a GPU wait. Nothing is computed beforehand, so that every call works with the
    numbers that the tensors hold at that time.

    Args:
        Lambda (complex128): eigenvalues of the normal part (H, n), n = N/2, Re < 0 (0 is allowed),
                             per unit of time
        P (complex128):      low-rank part (H, r, n)
        B (complex128):      input weights (H, n)
        C (complex128):      output weights (outputs, H, n), several outputs of one state
        dt (float64):        steps (H,), above 0, in units of time

    Raises:
        TypeError:  an argument that is not a tensor, or of the wrong dtype
        ValueError: a wrong shape or device

    Source: Gu, Goel and Ré, "Efficiently Modeling Long Sequences with Structured State Spaces"
    (2022), section 3 and appendix C.3.

    Example:
        >>> import torch
        >>> from ssm_core.s4 import DPLR, dplr
        >>> modes = [torch.tensor(x[..., :2]) for x in dplr("legs", 4)[:3]]  # one of each pair
        >>> Lambda, P, B = modes[0][None], modes[1][None, None], modes[2][None]
        >>> C = torch.ones(1, 1, 2, dtype=torch.complex128)
        >>> system = DPLR(Lambda, P, B, C, torch.tensor([0.1], dtype=torch.float64))
        >>> system
        DPLR(H=1, n=2, outputs=1, rank=1)
        >>> system.kernel(100).shape
        torch.Size([1, 1, 100])
    """

    Lambda: Tensor
    P: Tensor
    B: Tensor
    C: Tensor
    dt: Tensor

    def __post_init__(self) -> None:
        check_system(self.Lambda, self.B, self.C, self.dt)
        check_tensor(self.P, "P", ("H", "r", "n"), self.Lambda)

    def __repr__(self) -> str:
        outputs, H, n = self.C.shape
        return f"DPLR(H={H}, n={n}, outputs={outputs}, rank={self.P.shape[1]})"

    def kernel(self, L: int) -> Tensor:
        r"""Convolution kernels :math:`K_j = C \bar A^j \bar B`, float64 (outputs, H, L), L at least 1.

        The generating function :math:`\hat K(z) = \sum_j K_j z^j` at one point z costs O(N)
        (eq-s4-kernel). It is evaluated at 2L points of the circle of radius r < 1, and an inverse
        FFT gives :math:`r^j K_j` (eq-s4-circle). Time O(N L), memory O(N + L), for each system.

        Book: eq-s4-generating, eq-s4-resolvent, eq-s4-kernel, eq-s4-circle, eq-s4-radius. Source:
        as the class.
        """
        poles = self.Lambda * self.dt[:, None]
        # Rows P* and C, columns P and B: all the sums that Woodbury's identity asks for. A term w
        # and its conjugate are (2 Re(w) s - 2 Re(w p*)) / ((s - p)(s - p*)).
        rows = torch.cat([self.P.conj(), self.C.transpose(0, 1)], dim=1)
        columns = torch.cat([self.P, self.B[:, None]], dim=1) * (2 * self.dt[:, None, None])
        weights = (rows[:, :, None] * columns[:, None]).flatten(1, 2)
        a, b = weights.real, -(weights * poles.conj()[:, None]).real
        return kernel_from_sums(a, b, poles, as_int(L, "L"), self.P.shape[1])

    def discretize(self) -> Recurrence:
        r"""The recurrence with a step of dt, for one sample after another; a step costs O(N).

        With :math:`\bar A = -I + 2 (I - \tfrac{\Delta}{2} A)^{-1}` one Woodbury solve makes it
        (eq-s4-step).
        """
        half = 1 / (1 - self.Lambda * (self.dt / 2)[:, None])  # (H, n)
        scaled = self.P * half[:, None]  # (H, r, n)
        small = 2 * torch.einsum("hrn,hsn->hrs", self.P.conj(), scaled).real  # P* half P
        small = small + torch.diag_embed((2 / self.dt)[:, None].expand(small.shape[:2]))
        inverse = torch.linalg.inv_ex(small).inverse.to(scaled.dtype)  # small never is singular
        spread = torch.einsum("hsr,hsn->hrn", inverse, scaled)
        pushed = half * self.dt[:, None] * self.B  # what an input of 1 does if P is 0
        seen = 2 * torch.einsum("hrn,hn->hr", self.P.conj(), pushed).real
        B = pushed - torch.einsum("hrn,hr->hn", spread, seen.to(pushed.dtype))
        return Recurrence(2 * half - 1, B, self.C, spread, 2 * self.P.conj() * half[:, None])

    def step(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """One sample: u (..., H) and the state x (..., H, n) to (y, x), with y (outputs, ..., H).

        It discretizes at every call; for many steps take ``discretize()`` once.
        """
        return self.discretize().step(u, x)

    def last_state(self, u: Tensor, x: Tensor | None = None) -> Tensor:
        """The state after the signals u (b, H, L), begun at x (b, H, n) or at zero.

        Whole pieces of T samples go by in one product each, with T near the root of L, and what is
        left over step by step. Time O(N L), memory O(N² + N T) beside the signals.
        """
        check_tensor(u, "u", ("b", "H", "L"), self.Lambda.real)
        if x is None:
            x = self.B.new_zeros(len(u), *self.B.shape)
        check_tensor(x, "x", ("b", "H", "n"), self.Lambda, batch=len(u))
        L = as_int(u.shape[-1], "L")
        recurrence = self.discretize()
        *powers, giant = _powers(recurrence, L)
        impulses = _as_real(recurrence.B)[..., None]
        for power in powers:  # (H, N, T): what an impulse T - 1, …, 1, 0 steps ago has become
            impulses = torch.cat([power @ impulses, impulses], dim=-1)
        T = impulses.shape[-1]
        whole = L - L % T
        state = _as_real(x)
        for piece in u[..., :whole].unflatten(-1, (whole // T, T)).unbind(-2):
            state = _apply(giant, state) + _apply(impulses, piece)
        x = _as_complex(state)
        for sample in u[..., whole:].unbind(-1):
            x = recurrence.advance(sample, x)
        return x

    def response(self, x: Tensor, L: int) -> Tensor:
        """What the state x (b, H, n) alone adds to the next L outputs, (outputs, b, H, L).

        Time O(N L), memory O(N² + N T), with T near the root of L.
        """
        check_tensor(x, "x", ("b", "H", "n"), self.Lambda)
        L = as_int(L, "L")
        recurrence = self.discretize()
        *powers, giant = _powers(recurrence, L)
        seen = _as_real(2 * self.C.conj())[..., None, :]  # (outputs, H, 1, N): 2 Re(C x)
        for power in powers:  # (outputs, H, T, N): C, C A, …, C A^(T - 1)
            seen = torch.cat([seen, seen @ power], dim=-2)
        states = [_as_real(recurrence.advance(None, x))]
        for _ in range(1, -(-L // seen.shape[-2])):
            states.append(_apply(giant, states[-1]))
        y = torch.einsum("ohtn,bhin->obhit", seen, torch.stack(states, dim=-2))
        return y.flatten(-2)[..., :L]


def _powers(recurrence: Recurrence, L: int) -> list[Tensor]:
    """The matrix of a step on (Re x, Im x), and its powers 2, 4, … up to T near the root of L."""
    B = recurrence.B
    units = torch.eye(2 * B.shape[-1], dtype=B.real.dtype, device=B.device)
    moved = recurrence.advance(None, _as_complex(units)[:, None])
    powers = [_as_real(moved).permute(1, 2, 0)]  # (H, N, N)
    for _ in range(math.ceil(math.log2(L) / 2)):
        powers.append(powers[-1] @ powers[-1])
    return powers


def _apply(matrices: Tensor, x: Tensor) -> Tensor:
    """One matrix (H, M, N) for each channel of x (b, H, N)."""
    return torch.einsum("hmn,bhn->bhm", matrices, x)


def _as_real(x: Tensor) -> Tensor:
    """Modes (..., n) as real numbers (..., 2n)."""
    return torch.view_as_real(x).flatten(-2)


def _as_complex(x: Tensor) -> Tensor:
    """Real numbers (..., 2n) as modes (..., n)."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
