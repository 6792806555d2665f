r"""S4 and S4D as layers of a network: d_model independent systems side by side.

Both train as a convolution (``forward``) and run as a recurrence (``step``) with the same
parameters, and both take the state before the first sample and return the one after the last, so
that a signal can come in pieces.

**Precision.** Parameters may have any floating-point dtype, by whatever way they got it
(``.bfloat16()``, a sharded model, ``functional_call``): they are widened where they are used.
Kernels and steps are computed from them in float64: kernels because phases and cancellation cost
digits, steps because a rounded decay errs in the same direction every time, while a rounded state
errs at random. On a device without float64 (Apple's MPS) it is float32. Signals pass in float32, or
in float64 where the signal or the parameters have it, and outputs have the dtype of the input.
Parameters in bfloat16 are rounded to 8 bits, Δ too, which stretches time by up to 2 %: keep them in
float32, with autocast around, where that matters.

**No layer keeps what it has computed.** ``forward``, ``kernel`` and ``step`` work from the
parameters as they are at that time. For many steps with the same parameters, ``stepper()`` computes
once and returns the result as an object of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssm_core._checks import as_choice, as_flag, as_int, as_step_range
from ssm_core._tensors import (
    Packing,
    as_packing,
    check_finite,
    check_kind,
    check_shape,
    dtype_name,
    no_autocast,
    read_boundaries,
    widest_float,
)
from ssm_core.lti import ContinuousSSM, DiscreteSSM
from ssm_core.s4.conversion import modes_of, real_matrices
from ssm_core.s4.convolution import convolve
from ssm_core.s4.diagonal import RULES, Diagonal, s4d_modes
from ssm_core.s4.dplr import DPLR, dplr
from ssm_core.s4.packed import groups, packed
from ssm_core.s4.recurrence import Stepper, check_intervals, check_signal, check_state

__all__ = ["S4", "S4D"]

_SLOWEST = 1e-4  # least -Re Lambda to begin with: some measures have modes that do not decay


class _Layer(nn.Module):
    """What S4 and S4D share: all but the system itself, which ``_system`` builds from parameters.

    A complex parameter is stored as real pairs (..., 2). A layer with real modes has no pairs, and
    ``frequency`` is None.
    """

    # These set the memory itself; ssm_core.optim.parameter_groups lets them learn slowly.
    memory = ("log_dt", "log_decay", "frequency", "P", "B")

    log_dt: nn.Parameter  # (d_model,)
    log_decay: nn.Parameter  # (d_model, n)
    frequency: nn.Parameter | None  # (d_model, n)
    B: nn.Parameter  # (d_model, n, 2) or (d_model, n)
    C: nn.Parameter  # (1 or 2, d_model, n, 2) or (1 or 2, d_model, n)
    D: nn.Parameter  # (d_model,)

    def __init__(
        self, d_model: int, d_state: int, *, bidirectional: bool, dt_min: float, dt_max: float
    ) -> None:
        super().__init__()
        self.d_model, self.d_state = as_int(d_model, "d_model"), as_int(d_state, "d_state")
        self.bidirectional = as_flag(bidirectional, "bidirectional")
        self.dt_min, self.dt_max = as_step_range(dt_min, dt_max)

    def _make_parameters(self, device: Any, dtype: torch.dtype | None) -> None:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            kind = dtype_name(dtype) if isinstance(dtype, torch.dtype) else repr(dtype)
            raise TypeError(f"dtype is {kind}, expected a real floating-point dtype")

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        start = self._start()
        self.log_dt = parameter(self.d_model)
        for name, x in start.items():
            self.register_parameter(name, None if x is None else parameter(self.d_model, *x.shape))
        self.C = parameter(1 + self.bidirectional, *self.B.shape)
        self.D = parameter(self.d_model)
        self._initialize(start)

    def reset_parameters(self) -> None:
        """Give all parameters new values to start from, as a new layer has them."""
        self._initialize(self._start())

    @torch.no_grad()
    def _initialize(self, start: dict[str, np.ndarray | None]) -> None:
        nn.init.uniform_(self.log_dt, math.log(self.dt_min), math.log(self.dt_max))
        for name, x in start.items():
            if x is not None:
                getattr(self, name).copy_(torch.as_tensor(x))  # the same in every channel
        nn.init.normal_(self.C, std=1.0 if self.frequency is None else 0.5**0.5)
        nn.init.normal_(self.D)

    def _start(self) -> dict[str, np.ndarray | None]:
        """What log_decay, frequency, B and P start from in each channel."""
        raise NotImplementedError

    # --- the system, in the widest dtype of the device ---

    def _system(self) -> Diagonal | DPLR:
        raise NotImplementedError

    def _wide(self, x: Tensor) -> Tensor:
        return x.to(widest_float(x.device))

    def _step_size(self) -> Tensor:
        return self._wide(self.log_dt).exp()  # (d_model,)

    def _modes(self) -> Tensor:
        """Lambda (d_model, n)."""
        decay = self._wide(self.log_decay).exp()
        turn = torch.zeros_like(decay) if self.frequency is None else self._wide(self.frequency)
        return torch.complex(-decay, turn)

    def _complex(self, x: Tensor) -> Tensor:
        """A parameter as complex numbers, whether it is stored as real numbers or as pairs."""
        x = self._wide(x)
        return (
            torch.complex(x, torch.zeros_like(x))
            if self.frequency is None
            else torch.view_as_complex(x.contiguous())
        )

    def _signal_dtype(self, *others: torch.dtype) -> torch.dtype:
        """The dtype in which signals pass: that of the parameters and others, at least float32."""
        dtype = torch.promote_types(self.D.dtype, torch.float32)
        for other in others:
            dtype = torch.promote_types(dtype, other)
        return dtype

    # --- as a convolution ---

    def forward(
        self,
        u: Tensor,
        state: Tensor | None = None,
        *,
        return_state: bool = False,
        cu_seqlens: Tensor | Packing | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Send signals through the layer.

        Args:
            u (float32, float64, bfloat16, float16): signals (b, L, d_model), L at least 1
            state (complex64, complex128): the state before the first sample (b, d_model, n), as a
                call before returned it; zero if None. A bidirectional layer has no such state.
            return_state (bool): return the state after the last sample too, which costs about as
                much as the convolution; training does not need it
            cu_seqlens (int32): boundaries (sequences + 1,) of sequences that are packed into one
                row (b = 1); none sees another, and states have one row per sequence. Sequences of
                similar length run side by side as a batch (with states, those of equal length), for
                which the boundaries are read, and a GPU has to finish what it does.

        Returns:
            y (b, L, d_model) in u's dtype, or (y, state) with the state (b, d_model, n) in
            complex64, or in complex128 where u or the parameters are float64.

        Raises:
            ValueError: wrong shapes, a tensor on another device, or a state asked of or given to a
                bidirectional layer
            TypeError: u is not a real floating-point tensor, or state not a complex one
        """
        return self._send(u, state, None, return_state, cu_seqlens)

    def _send(
        self,
        u: Tensor,
        state: Tensor | None,
        dt: Tensor | None,
        return_state: bool,
        cu_seqlens: Tensor | Packing | None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        check_signal(u, ("b", "L", "d_model"), self.d_model, self.D.device)
        packing = as_packing(cu_seqlens, u.shape[0], u.shape[1], "u", u.device)
        if state is not None or return_state:
            self._check_causal()
        if state is not None:
            check_state(state, u.shape[0] if packing is None else packing.sequences, self.log_decay)
        if dt is not None:
            check_intervals(dt, u)
        with no_autocast(u.device):
            system = self._system()
            signal = u.to(self._signal_dtype(u.dtype))
            before = None if state is None else state.to(system.B.dtype)
            times = None if dt is None else dt.to(system.dt.dtype)
            run = self._run if packing is None else partial(self._run_packed, packing)
            y, after = run(system, signal, before, times, return_state)
        if after is None:
            return y.to(u.dtype)
        return y.to(u.dtype), after.to(self._signal_dtype(u.dtype, torch.complex64))

    def _run(
        self,
        system: Any,
        signal: Tensor,
        before: Tensor | None,
        dt: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs (b, L, d_model) and, if asked for, the state after them."""
        dtype, L = signal.dtype, signal.shape[1]
        if dt is not None:
            y, after = system.scan(signal.mT.to(system.dt.dtype), dt, before)
            return y[0].mT.to(dtype) + self.D.to(dtype) * signal, after if return_state else None
        if L == 1 and before is not None:  # one sample
            y, after = system.step(signal[:, 0].to(system.dt.dtype), before)
            y = y[0] + self._wide(self.D) * signal[:, 0]
            return y.to(dtype)[:, None], after if return_state else None
        y = convolve(signal, system.kernel(L).to(dtype), self.D.to(dtype))
        if before is not None:
            y = y + system.response(before, L)[0].mT.to(dtype)
        if not return_state:
            return y, None
        return y, system.last_state(signal.mT.to(system.dt.dtype), before)

    def _run_packed(
        self,
        packing: Packing,
        system: Any,
        signal: Tensor,
        before: Tensor | None,
        dt: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The same of a packed row (1, L, d_model), group by group."""
        parts: list[tuple[Any, Tensor]] = []
        states: list[Any] = []
        equal = return_state or before is not None
        bounds = read_boundaries(packing.cu_seqlens)
        for group in groups(bounds, signal.device, equal=equal):
            y, after = self._run(
                system,
                group.unpack(signal[0]),
                None if before is None else before[group.sequences],
                None if dt is None else group.unpack(dt[0]),
                return_state,
            )
            parts.append((group, y))
            states.append(after)
        y = packed(parts)[None]
        if not return_state:
            return y, None
        first = system.B.new_zeros(packing.sequences, *self.log_decay.shape)
        where = torch.cat([group.sequences for group, _ in parts])
        return y, (first if before is None else before).index_copy(0, where, torch.cat(states))

    def kernel(self, L: int) -> Tensor:
        """The convolution kernels, without D: (d_model, L), or (2, d_model, L) if bidirectional.

        Of the two, the second looks into the future: its sample j weighs the input j steps ahead,
        from j = 1 on.

        Args:
            L (int): length, at least 1

        Returns:
            float32, or float64 where the parameters are.
        """
        with no_autocast(self.D.device):
            K = self._system().kernel(as_int(L, "L")).to(self._signal_dtype())
        return K if self.bidirectional else K[0]

    # --- as a recurrence ---

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One sample, from the parameters as they are now.

        The system is discretized again at each call, and gradients flow as in ``forward``. To run
        many samples with the same parameters, take ``stepper()`` once and call its ``step``.

        Args:
            u (as in forward): samples (b, d_model)
            state (complex64, complex128): the state before them (b, d_model, n)

        Returns:
            (y, state): y (b, d_model) in u's dtype, and the state after the samples.

        Raises:
            ValueError, TypeError: as ``forward``.
        """
        self._check_causal()
        check_signal(u, ("b", "d_model"), self.d_model, self.D.device)
        check_state(state, u.shape[0], self.log_decay)
        check_finite(u, "u")
        y, state = self._send(u[:, None], state, None, True, None)
        return y[:, 0], state

    @torch.no_grad()
    def stepper(self) -> Stepper:
        """The recurrence of the layer as it is now, computed once: see :class:`Stepper`.

        Raises:
            ValueError: a bidirectional layer.
        """
        self._check_causal()
        with no_autocast(self.D.device):
            return Stepper(
                self._system().discretize().snapshot(),
                self._wide(self.D).clone(),
                self._signal_dtype(torch.complex64),
            )

    def default_state(self, batch_size: int) -> Tensor:
        """The state before the first sample: zeros (b, d_model, n).

        complex64, or complex128 where the parameters are float64.
        """
        return torch.zeros(
            as_int(batch_size, "batch_size"),
            *self.log_decay.shape,
            dtype=self._signal_dtype(torch.complex64),
            device=self.D.device,
        )

    # --- as systems of single channels ---

    def to_discrete(self, channel: int) -> DiscreteSSM:
        """One channel as it steps now, a system of real matrices in NumPy: poles, deployment.

        Args:
            channel (int): from 0 to d_model - 1

        Returns:
            DiscreteSSM of N = d_state, with the Δ of the channel as its ``dt``. Its output is that
            of the layer, D included: both are in the time convention of
            :class:`ssm_core.lti.DiscreteSSM`, in which the new state has seen the new input.

        Raises:
            ValueError: a channel that is not there, or a bidirectional layer

        Example:
            >>> import torch
            >>> from ssm_core.s4 import S4D
            >>> layer, u = S4D(d_model=2, d_state=8), torch.randn(1, 50, 2)
            >>> y, _ = layer.to_discrete(1).recurrence(u[0, :, 1])
            >>> torch.allclose(torch.tensor(y).float(), layer(u)[0, :, 1], atol=1e-5)
            True
        """
        channel = self._as_channel(channel)
        with torch.no_grad(), no_autocast(self.D.device):
            steps, dt = self._system().discretize(), self._step_size()[channel].item()
        left, right = (None if x is None else x[channel] for x in (steps.left, steps.right))
        modes = steps.decay[channel], steps.B[channel], steps.C[0, channel]
        A, B, C = real_matrices(*modes, left, right, real=self.frequency is None)
        return DiscreteSSM(A, B, C, self.D[channel].item(), dt)

    def to_continuous(self, channel: int) -> ContinuousSSM:
        """One channel before it is discretized, a system of real matrices in NumPy.

        Discretized with the Δ of the channel by the layer's rule (bilinear for S4) it is
        ``to_discrete(channel)``. Arguments and errors as there.
        """
        channel = self._as_channel(channel)
        with torch.no_grad(), no_autocast(self.D.device):
            system = self._system()
        P = system.P[channel] if isinstance(system, DPLR) else None
        modes = system.Lambda[channel], system.B[channel], system.C[0, channel]
        A, B, C = real_matrices(
            *modes, P, None if P is None else P.conj(), real=self.frequency is None
        )
        return ContinuousSSM(A, B, C, self.D[channel].item())

    def _as_channel(self, channel: int) -> int:
        self._check_causal()
        channel = as_int(channel, "channel", low=0)
        if channel >= self.d_model:
            raise ValueError(f"channel is {channel}, expected one from 0 to {self.d_model - 1}")
        return channel

    def _check_causal(self) -> None:
        if self.bidirectional:
            raise ValueError(
                "a bidirectional layer sees the future: it takes whole signals, "
                "without a state or dt, and cannot step"
            )


class S4(_Layer):
    r"""The S4 layer: in each channel a HiPPO matrix as diagonal plus low rank, trained.

    Λ, P, B, C, D and Δ are parameters of each channel. A starts as the HiPPO matrix of ``measure``
    without the 1/t of LegS, so that the memory is the exponentially fading one, stretched by 1/Δ.

    Args:
        d_model (int):  channels, at least 1
        d_state (int):  size of the state of a channel in real numbers, N, even
        measure (str):  legs | legt | lagt | glagt | fout
        bidirectional (bool): see the future too, by a second C; for whole sequences only
        dt_min, dt_max (float): Δ starts log-uniform between them; 1/Δ is a time scale in samples
        device, dtype:  of the parameters, as in ``torch.nn``

    Raises:
        ValueError: an unknown measure, odd d_state, sizes or steps out of range
        TypeError: arguments of the wrong kind

    Book: eq-dplr, eq-s4-kernel, eq-s4-step. Source: Gu, Goel and Ré, "Efficiently Modeling Long
    Sequences with Structured State Spaces" (2022), section 3; Δ as in appendix C.

    Example:
        >>> import torch
        >>> from ssm_core.s4 import S4
        >>> layer = S4(d_model=2, d_state=16)
        >>> u = torch.randn(3, 100, 2)
        >>> y = layer(u)  # all at once
        >>> z, state = layer.step(u[:, 0], layer.default_state(3))  # or one by one
        >>> torch.allclose(y[:, 0], z, atol=1e-4)
        True
    """

    P: nn.Parameter  # (d_model, rank, n, 2)

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        measure: str = "legs",
        *,
        bidirectional: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            d_model, d_state, bidirectional=bidirectional, dt_min=dt_min, dt_max=dt_max
        )
        if self.d_state % 2:
            raise ValueError(f"d_state is {d_state}, expected an even number: modes come in pairs")
        self.measure = measure
        self._make_parameters(device, dtype)

    def _start(self) -> dict[str, np.ndarray | None]:
        half = self.d_state // 2
        Lambda, P, B, _ = (x[:half] for x in dplr(self.measure, self.d_state))
        return {
            **_start_of_modes(Lambda),
            "B": _pairs(B),
            "P": _pairs(P.reshape(half, -1).T),
        }  # (rank, n, 2)

    def _system(self) -> DPLR:
        return DPLR(
            self._modes(),
            self._complex(self.P),
            self._complex(self.B),
            self._complex(self.C),
            self._step_size(),
        )

    def extra_repr(self) -> str:
        return (
            f"{self.d_model}, d_state={self.d_state}, measure={self.measure!r}, "
            f"bidirectional={self.bidirectional}"
        )


class S4D(_Layer):
    r"""The S4D layer: in each channel a diagonal A, trained.

    Args:
        d_model (int):  channels, at least 1
        d_state (int):  size of the state of a channel in real numbers, N; even unless init is real
        init (str):     lin | inv | legs | real, as in :func:`ssm_core.s4.s4d_modes`
        discretization (str): zoh | bilinear
        bidirectional (bool): see the future too, by a second C; for whole sequences only
        dt_min, dt_max (float): Δ starts log-uniform between them; 1/Δ is a time scale in samples
        device, dtype:  of the parameters, as in ``torch.nn``

    Raises:
        ValueError: an unknown init or discretization, odd d_state, sizes or steps out of range
        TypeError: arguments of the wrong kind

    Book: eq-s4d-kernel, eq-s4d-init. Source: Gu, Gupta, Goel and Ré, "On the Parameterization and
    Initialization of Diagonal State Space Models" (2022), section 3.

    Example:
        >>> import torch
        >>> from ssm_core.s4 import S4D
        >>> layer = S4D(d_model=2, d_state=16, init="inv")
        >>> u = torch.randn(3, 100, 2)
        >>> y, state = layer(u[:, :60], return_state=True)
        >>> z = layer(u[:, 60:], state)  # the rest, from where it stopped
        >>> torch.allclose(torch.cat([y, z], dim=1), layer(u), atol=1e-4)
        True
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        init: str = "lin",
        *,
        discretization: str = "zoh",
        bidirectional: bool = False,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            d_model, d_state, bidirectional=bidirectional, dt_min=dt_min, dt_max=dt_max
        )
        self.init = init
        self.discretization = as_choice(discretization, "discretization", RULES)
        self._make_parameters(device, dtype)

    @classmethod
    def from_ssm(
        cls,
        systems: ContinuousSSM | DiscreteSSM | Sequence[ContinuousSSM | DiscreteSSM],
        dt: float | None = None,
        *,
        discretization: str = "zoh",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> S4D:
        """A layer whose channels are given systems, to begin training with or to run in a network.

        Args:
            systems: one system of one input and one output per channel, or a single one. A is real
                and diagonalizable, its eigenvalues decay.
            dt (float): step between samples in the unit of time of a ContinuousSSM; None for a
                DiscreteSSM, which has its own
            discretization (str): zoh | bilinear. A ContinuousSSM gives the outputs of
                ``system.discretize(dt, discretization)``, a DiscreteSSM its own with either.
            device, dtype: of the parameters; float64 keeps all digits

        Raises:
            ValueError: a system with several inputs or outputs, with complex matrices, that is not
                stable or not diagonalizable, or for zoh the eigenvalue 0 of a pure delay
            TypeError:  something that is not a system, or no ``dt`` for a ContinuousSSM

        Example:
            >>> import torch
            >>> from ssm_core.lti import DiscreteSSM
            >>> from ssm_core.s4 import S4D
            >>> layer = S4D.from_ssm(DiscreteSSM(0.5, 0.5, 1.0, dt=1.0))  # an average that fades
            >>> layer(torch.tensor([8.0, 8.0, 0.0])[None, :, None])[0, :, 0].detach().round(decimals=4)
            tensor([4., 6., 3.])
        """
        channels = modes_of(systems, dt, as_choice(discretization, "discretization", RULES))
        n = len(channels[0].Lambda)
        layer = cls(len(channels), 2 * n, discretization=discretization, device=device, dtype=dtype)
        Lambda, B, C, D, steps = (np.stack(values) for values in zip(*channels))
        values = {
            "log_dt": np.log(steps),
            "log_decay": np.log(-Lambda.real),
            "frequency": Lambda.imag,
            "B": _pairs(B),
            "C": _pairs(C)[None],
            "D": D,
        }
        with torch.no_grad():
            for name, value in values.items():
                getattr(layer, name).copy_(torch.as_tensor(value))
        return layer

    def _start(self) -> dict[str, np.ndarray | None]:
        modes = s4d_modes(self.init, self.d_state)
        if self.init == "real":
            return {**_start_of_modes(modes), "B": np.ones(len(modes))}
        B = (
            dplr("legs", self.d_state)[2][: len(modes)]
            if self.init == "legs"
            else np.ones(len(modes), dtype=complex)
        )
        return {**_start_of_modes(modes), "B": _pairs(B)}

    def _system(self) -> Diagonal:
        return Diagonal(
            self._modes(),
            self._complex(self.B),
            self._complex(self.C),
            self._step_size(),
            self.discretization,
        )

    def forward(
        self,
        u: Tensor,
        state: Tensor | None = None,
        *,
        return_state: bool = False,
        dt: Tensor | None = None,
        cu_seqlens: Tensor | Packing | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        r"""Send signals through the layer, on an even grid or with a time step for each sample.

        With ``dt`` the system of each mode is discretized for each sample,

        .. math:: x_k = e^{\lambda \Delta d_k} x_{k-1}
                  + \frac{e^{\lambda \Delta d_k} - 1}{\lambda} B u_k ,

        which is exact for an input that is held at :math:`u_k` since the sample before
        (``discretization="bilinear"`` has its rule in place of this one). A scan over time computes
        it in float64, with O(d_model · d_state) work a sample. The convolution, without ``dt``, is
        far cheaper: 45 times on a CPU, for 64 channels of 64 states.

        Args:
            u (float32, float64, bfloat16, float16): signals (b, L, d_model), L at least 1
            state (complex64, complex128): the state before the first sample (b, d_model, n), as a
                call before returned it; zero if None. A bidirectional layer has no such state.
            return_state (bool): return the state after the last sample too
            dt (floating point): time since the sample before (b, L), at least 0, as a multiple of
                the sampling step for which Δ stands: ones are the layer without ``dt``. The first
                is the time since the sample that ``state`` has seen last; before a signal that
                begins, take the typical step, 1. With 0, a sample at the time of the one before,
                u does not enter the state.
            cu_seqlens (int32): boundaries (sequences + 1,) of sequences that are packed into one
                row, as in :class:`S4`

        Returns:
            y (b, L, d_model) in u's dtype, or (y, state), as :class:`S4` does.

        Raises:
            ValueError: wrong shapes, a tensor on another device, (on a CPU) a step that is negative
                or not finite, or a state or ``dt`` for a bidirectional layer
            TypeError: u or dt is not a real floating-point tensor, or state not a complex one

        Source: for the exact step of a diagonal system at uneven times, Smith, Warrington and
        Linderman, "Simplified State Space Layers for Sequence Modeling" (2023), section 6.3.

        Example:
            >>> import torch
            >>> from ssm_core.s4 import S4D
            >>> layer = S4D(d_model=2, d_state=16)
            >>> u, times = torch.randn(1, 50, 2), torch.rand(1, 50).cumsum(1)
            >>> y = layer(u, dt=times.diff(dim=1, prepend=times[:, :1] - 1))
            >>> y.shape
            torch.Size([1, 50, 2])
        """
        if dt is not None:
            self._check_causal()
        return self._send(u, state, dt, return_state, cu_seqlens)

    def step(self, u: Tensor, state: Tensor, dt: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One sample, from the parameters as they are now, as ``S4.step``.

        Args:
            u (as in forward): samples (b, d_model)
            state (complex64, complex128): the state before them (b, d_model, n)
            dt (floating point): time since the sample before (b,), as in ``forward``; 1 if None
        """
        if dt is None:
            return super().step(u, state)
        self._check_causal()
        check_signal(u, ("b", "d_model"), self.d_model, self.D.device)
        check_kind(dt, "dt")
        check_shape(dt, "dt", ("b",), (u.shape[0],))
        check_state(state, u.shape[0], self.log_decay)
        check_finite(u, "u")
        y, state = self._send(u[:, None], state, dt[:, None], True, None)
        return y[:, 0], state

    def extra_repr(self) -> str:
        return (
            f"{self.d_model}, d_state={self.d_state}, init={self.init!r}, "
            f"discretization={self.discretization!r}, bidirectional={self.bidirectional}"
        )


def _start_of_modes(modes: np.ndarray) -> dict[str, np.ndarray | None]:
    return {
        "log_decay": np.log(np.maximum(-modes.real, _SLOWEST)),
        "frequency": modes.imag.copy() if np.iscomplexobj(modes) else None,
    }


def _pairs(x: np.ndarray) -> np.ndarray:
    """Complex numbers (...,) as real pairs (..., 2)."""
    return np.stack([x.real, x.imag], axis=-1)
