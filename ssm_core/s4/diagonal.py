r"""Diagonal state space models, S4D: A is diagonal, and its kernel one sum of exponentials.

:func:`s4d_modes` gives the eigenvalues to start from; :class:`Diagonal` is a batch of H systems,
discretized, in PyTorch: kernel, one step, and the states at both ends of a sequence.

Powers are exponentials of the exact logarithm, :math:`\bar\lambda^k = e^{k \log \bar\lambda}`, in
complex128: a phase of k Im λ Δ at k = 16384 has lost four of the seven digits of float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ssm_core._checks import as_choice, as_int
from ssm_core.s4.dplr import dplr

__all__ = ["Diagonal", "s4d_modes"]


def s4d_modes(init, N):
    r"""Eigenvalues of a diagonal A to begin training with.

    ========  =================================================================================
    lin       :math:`-\tfrac12 + i \pi n`: the frequencies of a Fourier basis on a unit window
    inv       :math:`-\tfrac12 + i \tfrac N\pi \left(\tfrac{N}{2n + 1} - 1\right)`: many slow, few
              fast
    legs      those of the normal part of HiPPO-LegS, which ``inv`` approximates
    real      :math:`-(n + 1)`: no oscillation
    ========  =================================================================================

    Args:
        init (str): lin | inv | legs | real
        N (int):    size of the state in real numbers, at least 1; even unless ``init`` is real

    Returns:
        complex128 (N/2,), one of each conjugate pair, with Im >= 0; for ``real`` float64 (N,). Per
        unit of time.

    Raises:
        ValueError: an unknown init, N below 1, or odd where modes come in pairs
        TypeError:  N is no integer

    Book: eq-s4d-init. Source: Gu, Gupta, Goel and Ré, "On the Parameterization and Initialization
    of Diagonal State Space Models" (2022), section 4.

    Example:
        >>> s4d_modes("lin", 6).round(2)
        array([-0.5+0.j  , -0.5+3.14j, -0.5+6.28j])
    """
    as_choice(init, "init", _MODES)
    N = as_int(N, "N")
    if init != "real" and N % 2:
        raise ValueError(f"N is {N}, expected an even number: modes come in conjugate pairs")
    return _MODES[init](N)


_MODES = {
    "lin": lambda N: -0.5 + 1j * np.pi * np.arange(N // 2),
    "inv": lambda N: -0.5 + 1j * N / np.pi * (N / (2 * np.arange(N // 2) + 1) - 1),
    "legs": lambda N: dplr("legs", N)[0][: N // 2],
    "real": lambda N: -(np.arange(N) + 1.0),
}


@dataclass(eq=False)
class Diagonal:
    r"""H systems with a diagonal A side by side, discretized.

    The output is :math:`y = 2 \operatorname{Re}(C x)`, where the n modes stand for themselves and
    their conjugates; for real modes that is twice :math:`C x`.

    Args:
        Lambda (complex128): eigenvalues (H, n), Re < 0, per unit of time
        B (complex128):      input weights (H, n)
        C (complex128):      output weights (outputs, H, n), several outputs of one state
        dt (float64):        steps (H,), above 0, in units of time
        method (str):        zoh | bilinear

    Book: eq-s4d-kernel. Source: as :func:`s4d_modes`, section 3.

    Example:
        >>> modes = torch.tensor(s4d_modes("lin", 8))[None]
        >>> C = torch.ones(1, 1, 4, dtype=torch.complex128)
        >>> dt = torch.tensor([0.1], dtype=torch.float64)
        >>> Diagonal(modes, torch.ones_like(modes), C, dt, "zoh").kernel(100).shape
        torch.Size([1, 1, 100])
    """

    Lambda: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    dt: torch.Tensor
    method: str

    def __post_init__(self):
        x = self.Lambda * self.dt[:, None]  # (H, n)
        if self.method == "zoh":
            self._log_decay, hold = x, torch.expm1(x) / self.Lambda
        else:
            self._log_decay, hold = torch.log((1 + x / 2) / (1 - x / 2)), self.dt[:, None] / (1 - x / 2)
        self._decay = torch.exp(self._log_decay)  # of one step
        self._input = hold * self.B  # B of the sequence update

    def kernel(self, L):
        r"""Convolution kernels :math:`K_j = 2 \operatorname{Re} \sum_n C_n \bar B_n
        \bar\lambda_n^j`, float64 (outputs, H, L).

        Time O(N L), memory O(N √L + L), for each system (eq-s4d-split).
        """
        return self._decaying_sums(self.C * self._input, L)

    def step(self, x, u):
        """The state after one more sample: x (..., H, n) and u (..., H) to x."""
        return self._decay * x + self._input * u[..., None]

    def output(self, x):
        """What the state x (..., H, n) shows: 2 Re(C x), (outputs, ..., H)."""
        return 2 * torch.einsum("ohn,...hn->o...h", self.C, x).real

    def last_state(self, u, x=None):
        """The state after the signals u (batch, H, L), begun at x (batch, H, n) or at zero.

        Time O(N L), memory O(N √L) beside the signals.
        """
        L = u.shape[-1]
        T, pieces = _tiling(L)
        within = self._powers(range(T - 1, -1, -1)) * self._input[..., None]  # (H, n, T)
        across = self._powers(range(T * (pieces - 1), -1, -T))  # (H, n, pieces)
        # Zeros in front leave a zero state as it is, and make the pieces whole.
        u = torch.nn.functional.pad(u, (T * pieces - L, 0)).unflatten(-1, (pieces, T))
        ends = torch.einsum("hnt,bhit->bhni", within, u.to(within.dtype))
        state = (ends * across).sum(-1)
        return state if x is None else state + torch.exp(L * self._log_decay) * x

    def response(self, x, L):
        """What the state x (batch, H, n) alone adds to the next L outputs, (outputs, batch, H, L)."""
        return self._decaying_sums(self.C[:, None] * self._decay * x, L)

    def _decaying_sums(self, weights, L):
        """2 Re of the sum over modes of weights (..., H, n) times their powers 0 to L - 1.

        With T near the root of L and j = i T + t, the power j is one of √L large ones times one of
        √L small ones, so that the sum over modes is a product of two small matrices.
        """
        T, pieces = _tiling(L)
        within = self._powers(range(T))  # (H, n, T)
        across = weights[..., None] * self._powers(range(0, T * pieces, T))  # (..., H, n, pieces)
        left = torch.cat([across.real, -across.imag], dim=-2).mT
        right = torch.cat([within.real, within.imag], dim=-2)
        return 2 * (left @ right).flatten(-2)[..., :L]

    def _powers(self, steps):
        """The factors of so many steps, for each number of a range, (H, n, len(steps))."""
        k = torch.arange(steps.start, steps.stop, steps.step, dtype=self.dt.dtype,
                         device=self.dt.device)
        return torch.exp(self._log_decay[..., None] * k)


def _tiling(L):
    """T near the root of L, and how many pieces of T cover L."""
    T = 1 << math.ceil(math.log2(L) / 2)
    return T, -(-L // T)
