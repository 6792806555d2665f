r"""Diagonal state space models, S4D: A is diagonal, and its kernel one sum of exponentials.

:func:`s4d_modes` gives the eigenvalues to start from; :class:`Diagonal` is a batch of H systems
with a step size each, in PyTorch: its kernel, its recurrence, and the states at both ends of a
sequence.

Powers are exponentials of the exact logarithm, :math:`\bar\lambda^k = e^{k \log \bar\lambda}`, in
complex128: a phase of k Im λ Δ at k = 16384 has lost four of the seven digits of float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ssm_core._checks import as_choice, as_int
from ssm_core._dispatch import is_transformed
from ssm_core.s4.dplr import dplr
from ssm_core.s4.recurrence import Recurrence, check_system, check_tensor

__all__ = ["Diagonal", "s4d_modes"]

RULES = "zoh", "bilinear"


def s4d_modes(init: str, N: int) -> np.ndarray:
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
        TypeError:  N is not an integer

    Book: eq-s4d-init. Source: Gu, Gupta, Goel and Ré, "On the Parameterization and Initialization
    of Diagonal State Space Models" (2022), section 4.

    Example:
        >>> from ssm_core.s4 import s4d_modes
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


@dataclass(frozen=True, eq=False, repr=False)
class Diagonal:
    r"""H systems with a diagonal A side by side, with a step size each.

    The output is :math:`y = 2 \operatorname{Re}(C x)`, where the n modes stand for themselves and
    their conjugates; for real modes that is twice :math:`C x`.

    All tensors are on one device and of one precision: complex128 with float64, or complex64 with
    float32 where a device has no more. Shapes and dtypes are checked, numbers are not: reading
    them would make a GPU wait. Nothing is computed beforehand, so that every call works with the
    numbers that the tensors hold at that time.

    Args:
        Lambda (complex128): eigenvalues (H, n), Re < 0 (0 is allowed), per unit of time
        B (complex128):      input weights (H, n)
        C (complex128):      output weights (outputs, H, n), several outputs of one state
        dt (float64):        steps (H,), above 0, in units of time
        method (str):        zoh | bilinear

    Raises:
        TypeError:  an argument that is not a tensor, or of the wrong dtype
        ValueError: a wrong shape or device, or an unknown method

    Book: eq-s4d-kernel. Source: as :func:`s4d_modes`, section 3.

    Example:
        >>> import torch
        >>> from ssm_core.s4 import Diagonal, s4d_modes
        >>> modes = torch.tensor(s4d_modes("lin", 8))[None]
        >>> C = torch.ones(1, 1, 4, dtype=torch.complex128)
        >>> dt = torch.tensor([0.1], dtype=torch.float64)
        >>> system = Diagonal(modes, torch.ones_like(modes), C, dt, "zoh")
        >>> system
        Diagonal(H=1, n=4, outputs=1, method='zoh')
        >>> system.kernel(100).shape
        torch.Size([1, 1, 100])
    """

    Lambda: Tensor
    B: Tensor
    C: Tensor
    dt: Tensor
    method: str

    def __post_init__(self) -> None:
        as_choice(self.method, "method", RULES)
        check_system(self.Lambda, self.B, self.C, self.dt)

    def __repr__(self) -> str:
        outputs, H, n = self.C.shape
        return f"Diagonal(H={H}, n={n}, outputs={outputs}, method={self.method!r})"

    def kernel(self, L: int) -> Tensor:
        r"""Convolution kernels :math:`K_j = 2 \operatorname{Re} \sum_n C_n \bar B_n
        \bar\lambda_n^j`, float64 (outputs, H, L), for L of at least 1.

        Time O(N L), memory O(N √L + L), for each system (eq-s4d-split).
        """
        log_decay, B = self._discretized()
        return _decaying_sums(self.C * B, log_decay, as_int(L, "L"))

    def discretize(self) -> Recurrence:
        """The recurrence with a step of dt, for one sample after another."""
        log_decay, B = self._discretized()
        return Recurrence(torch.exp(log_decay), B, self.C)

    def step(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """One sample: u (..., H) and the state x (..., H, n) to (y, x), with y (outputs, ..., H).

        It discretizes at every call; for many steps take ``discretize()`` once.
        """
        return self.discretize().step(u, x)

    def last_state(self, u: Tensor, x: Tensor | None = None) -> Tensor:
        """The state after the signals u (b, H, L), begun at x (b, H, n) or at zero.

        Time O(N L), memory O(N √L) beside the signals.
        """
        check_tensor(u, "u", ("b", "H", "L"), self.Lambda.real)
        log_decay, B = self._discretized()
        L = as_int(u.shape[-1], "L")
        T, pieces = _tiling(L)
        within = _powers(log_decay, range(T - 1, -1, -1)) * B[..., None]  # (H, n, T)
        across = _powers(log_decay, range(T * (pieces - 1), -1, -T))  # (H, n, pieces)
        # Zeros in front leave a zero state as it is, and make the pieces whole.
        padded = torch.nn.functional.pad(u, (T * pieces - L, 0)).unflatten(-1, (pieces, T))
        ends = torch.einsum("hnt,bhit->bhni", within, padded.to(within.dtype))
        state = (ends * across).sum(-1)
        if x is None:
            return state
        check_tensor(x, "x", ("b", "H", "n"), self.Lambda, batch=len(u))
        return state + torch.exp(L * log_decay) * x

    def response(self, x: Tensor, L: int) -> Tensor:
        """What the state x (b, H, n) alone adds to the next L outputs, (outputs, b, H, L)."""
        check_tensor(x, "x", ("b", "H", "n"), self.Lambda)
        log_decay, _ = self._discretized()
        return _decaying_sums(self.C[:, None] * torch.exp(log_decay) * x, log_decay, as_int(L, "L"))

    def scan(self, u: Tensor, dt: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Signals u (b, H, L) whose samples come at uneven times, from x (b, H, n) or zero.

        Sample k comes dt (b, L) times the system's own step after the one before. Returns (y, x):
        y (outputs, b, H, L), and the state after the last sample.

        The recurrence is solved in pieces of time, each by ``linear_recurrence``. For gradients
        nothing of size b H n L is kept: the backward pass computes each piece again.
        """
        check_tensor(u, "u", ("b", "H", "L"), self.Lambda.real)
        if x is None:
            x = self.B.new_zeros(len(u), *self.B.shape)
        check_tensor(x, "x", ("b", "H", "n"), self.Lambda, batch=len(u))
        run: Any = _scan_piece
        if torch.is_grad_enabled() and not is_transformed():
            run = partial(checkpoint, _scan_piece, use_reentrant=False, preserve_rng_state=False)
        size = _PIECE if u.device.type == "cpu" else 32 * _PIECE
        steps = max(8, size // x.numel())
        ys = []
        for samples, times in zip(u.split(steps, dim=-1), dt.split(steps, dim=-1)):
            y, x = run(self, samples, times, x)
            ys.append(y)
        return torch.cat(ys, dim=-1), x

    def _stretched(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Decay and B of the steps dt (L, b, 1, 1), as multiples of the own one, (L, b, H, n)."""
        step = self.dt[:, None] * dt  # (L, b, H, 1)
        if self.method == "zoh":
            # Here expm1 is taken once, and its quotient has no singularity at a step of 0.
            Lambda = self.Lambda + _ALMOST_ZERO * (self.Lambda == 0)
            change = torch.expm1(Lambda * step)
            return 1 + change, change * (self.B / Lambda)
        half = self.Lambda * (step / 2)
        return (1 + half) / (1 - half), step / (1 - half) * self.B

    def _discretized(self) -> tuple[Tensor, Tensor]:
        """The logarithm of the decay in one step, and B of the sequence update, both (H, n)."""
        dt = self.dt[:, None]
        x = self.Lambda * dt
        if self.method == "zoh":
            return x, dt * _expm1_over(x) * self.B
        factor = (1 + x / 2) / (1 - x / 2)
        # It is 0 at x = -2. A logarithm of -inf would give NaN for its power 0, which is 1.
        return torch.log(factor + _ALMOST_ZERO * (factor == 0)), dt / (1 - x / 2) * self.B


def _scan_piece(system: Diagonal, u: Tensor, dt: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    decay, B = system._stretched(dt.T[..., None, None])  # (L, b, H, n)
    states = linear_recurrence(decay, B * u.movedim(-1, 0)[..., None], x)
    return 2 * torch.einsum("ohn,lbhn->obhl", system.C, states).real, states[-1]


def linear_recurrence(a: Tensor, b: Tensor, x: Tensor | None = None) -> Tensor:
    r"""All states of :math:`x_k = a_k x_{k-1} + b_k`, from x or zero, (L, …) in O(log L) steps.

    Two steps are one: :math:`x_{2i+1} = a_{2i+1} a_{2i} x_{2i-1} + (a_{2i+1} b_{2i} + b_{2i+1})`.
    That is the same problem for every second state, half as long; the others follow from these.

    Source: Blelloch, "Prefix Sums and Their Applications" (1990), section 1.4.
    """
    if x is not None:
        b = torch.cat([b[:1] + a[:1] * x, b[1:]])
    L = len(a)
    if L == 1:
        return b
    half = L // 2
    odd = linear_recurrence(a[1::2] * a[: L - 1 : 2], a[1::2] * b[: L - 1 : 2] + b[1::2])
    even = torch.cat([b[:1], a[2::2] * odd[: (L - 1) // 2] + b[2::2]])
    pairs = torch.stack([even[:half], odd], dim=1).flatten(0, 1)
    return pairs if L % 2 == 0 else torch.cat([pairs, even[-1:]])


# States at a time in a scan: 4 MB, which a CPU keeps in its cache. A GPU wants more work at a time.
_PIECE = 1 << 18

_ALMOST_ZERO = 1e-18  # its square is still a number of float32, which a division by it needs


def _expm1_over(x: Tensor) -> Tensor:
    """(exp(x) - 1) / x and its derivatives, also at x = 0."""
    small = (x.real.abs() < 0.01) & (x.imag.abs() < 0.01)
    series = torch.ones_like(x)
    for k in range(8, 1, -1):
        series = 1 + x * series / k
    return torch.where(small, series, torch.expm1(x) / torch.where(small, 1, x))


def _decaying_sums(weights: Tensor, log_decay: Tensor, L: int) -> Tensor:
    """2 Re of the sum over modes of weights (..., H, n) times their powers 0 to L - 1.

    With T near the root of L and j = i T + t, the power j is one of √L large ones times one of
    √L small ones, so that the sum over modes is a product of two small matrices.
    """
    T, pieces = _tiling(L)
    within = _powers(log_decay, range(T))  # (H, n, T)
    across = weights[..., None] * _powers(log_decay, range(0, T * pieces, T))  # (..., H, n, pieces)
    left = torch.cat([across.real, -across.imag], dim=-2).mT
    right = torch.cat([within.real, within.imag], dim=-2)
    return 2 * (left @ right).flatten(-2)[..., :L]


def _powers(log_decay: Tensor, steps: range) -> Tensor:
    """The factors of so many steps, for each number of a range, (H, n, len(steps))."""
    k = torch.arange(
        steps.start, steps.stop, steps.step, dtype=log_decay.real.dtype, device=log_decay.device
    )
    return torch.exp(log_decay[..., None] * k)


def _tiling(L: int) -> tuple[int, int]:
    """T near the root of L, and how many pieces of T cover L."""
    T = 1 << math.ceil(math.log2(L) / 2)
    return T, -(-L // T)
