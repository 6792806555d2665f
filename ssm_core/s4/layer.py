r"""S4 and S4D as layers of a network: d_model independent systems side by side.

Both train as a convolution (``forward``) and run as a recurrence (``step``) with the same weights,
and both take the state before the first sample and return the one after the last, so that a signal
can come in pieces.

Parameters are float32 (float64 after ``.double()``). Kernels and steps are computed from them in
float64: kernels because phases and cancellation eat digits, steps because a rounded decay errs in
the same direction every time, while a rounded state errs at random. Signals pass in float32.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ssm_core._checks import as_choice, as_int, as_positive
from ssm_core._tensors import check_kind, check_shape, dtype_name
from ssm_core.s4.convolution import convolve
from ssm_core.s4.diagonal import Diagonal, s4d_modes
from ssm_core.s4.dplr import DPLR, dplr

__all__ = ["S4", "S4D", "parameter_groups"]

_SLOWEST = 1e-4  # least -Re Lambda to begin with: some measures have modes that do not decay


class _Layer(nn.Module):
    """What S4 and S4D share: all but the system itself, which `_system` builds from parameters."""

    # These change the memory itself; they learn slowly and do not decay.
    memory = ("log_dt", "log_decay", "frequency", "P", "B")

    def __init__(self, d_model, modes, B, *, bidirectional, dt_min, dt_max):
        super().__init__()
        self.d_model = as_int(d_model, "d_model")
        if not isinstance(bidirectional, bool):
            raise TypeError(f"bidirectional is {bidirectional!r}, expected True or False")
        dt_min, dt_max = as_positive(dt_min, "dt_min"), as_positive(dt_max, "dt_max")
        if dt_min > dt_max:
            raise ValueError(f"dt_min is {dt_min:g}, expected at most dt_max, {dt_max:g}")
        modes, B = torch.as_tensor(modes), torch.as_tensor(B)  # (n,), float64 or complex128
        self.bidirectional = bidirectional
        self.log_dt = nn.Parameter(
            torch.empty(d_model).uniform_(math.log(dt_min), math.log(dt_max)))
        self.log_decay = self._for_all(modes.real.neg().clamp_min(_SLOWEST).log())
        if modes.is_complex():
            self.frequency = self._for_all(modes.imag)
        self.B = self._for_all(torch.view_as_real(B) if B.is_complex() else B)
        self.C = nn.Parameter(
            torch.randn(1 + bidirectional, *self.B.shape) * (0.5 if modes.is_complex() else 1) ** 0.5)
        self.D = nn.Parameter(torch.randn(d_model))
        self._stepping = None, None

    def _for_all(self, x):
        """A parameter that begins as x in every channel."""
        return nn.Parameter(x.float().repeat(self.d_model, *[1] * x.ndim))

    def extra_repr(self):
        return f"d_model={self.d_model}, bidirectional={self.bidirectional}"

    # --- the system, in float64 ---

    def _system(self):
        raise NotImplementedError

    def _modes(self):
        """Lambda (d_model, n) in complex128."""
        decay = self.log_decay.double().exp()
        turn = self.frequency.double() if hasattr(self, "frequency") else torch.zeros_like(decay)
        return torch.complex(-decay, turn)

    def _double(self, x):
        """A parameter in complex128, whether it is stored as real numbers or as pairs of them."""
        if hasattr(self, "frequency"):
            return torch.view_as_complex(x.double())
        return x.double() + 0j

    # --- as a convolution ---

    def forward(self, u, state=None, *, return_state=True):
        """Send signals through the layer.

        Args:
            u (float32, or float64, bfloat16, float16): signals (B, L, d_model), L at least 1.
            state (complex64): the state before the first sample (B, d_model, n), as a call before
                returned it; zero if None. Not for a bidirectional layer, which has no first sample.
            return_state (bool): compute the state after the last sample, which costs about as much
                as the convolution. Training needs none.

        Returns:
            (y, state): y (B, L, d_model) in u's dtype; state (B, d_model, n), or None.

        Raises:
            ValueError: wrong shapes, or a state for a bidirectional layer.
            TypeError: u or state is no floating point or no complex tensor.
        """
        self._check(u, ("B", "L", "d_model"))
        if state is not None:
            self._check_state(state, len(u))
        with torch.autocast(u.device.type, enabled=False):
            system = self._system()
            signal, L = u.to(self.D.dtype), u.shape[1]
            y = convolve(signal, system.kernel(L).to(signal.dtype), self.D)
            before = None if state is None else state.to(system.B.dtype)
            if before is not None:
                y = y + system.response(before, L)[0].mT.to(y.dtype)
            if self.bidirectional or not return_state:
                return y.to(u.dtype), None
            after = system.last_state(signal.mT.double(), before)
        return y.to(u.dtype), after.to(self._state_dtype())

    def kernel(self, L):
        """The convolution kernels, without D: (d_model, L), or (2, d_model, L) if bidirectional.

        Of the two, the second looks into the future: its sample j weighs the input j steps ahead,
        from j = 1 on.
        """
        K = self._system().kernel(as_int(L, "L")).to(self.D.dtype)
        return K if self.bidirectional else K[0]

    # --- as a recurrence ---

    def setup_step(self):
        """Compute what `step` needs from the parameters now, and not at the first step.

        `step` notices a parameter that has changed since, and computes it again.
        """
        versions = [p._version for p in self.parameters()]
        with torch.no_grad():
            system = self._system()
            system.step(torch.zeros_like(system.B), torch.zeros_like(system.dt))  # what steps share
            self._stepping = versions, system

    @torch.no_grad()
    def step(self, u, state):
        """One sample, without gradients.

        Args:
            u (float32, or as in forward): samples (B, d_model).
            state (complex64): the state before them (B, d_model, n).

        Returns:
            (y, state): y (B, d_model) in u's dtype, and the state after them.

        Raises:
            ValueError: wrong shapes, or a bidirectional layer.
            TypeError: u or state is no floating point or no complex tensor.
        """
        self._check(u, ("B", "d_model"))
        self._check_state(state, len(u))
        if self._stepping[0] != [p._version for p in self.parameters()]:
            self.setup_step()
        system = self._stepping[1]
        x = system.step(state.to(system.B.dtype), u.double())
        y = system.output(x)[0] + self.D.double() * u.double()
        return y.to(u.dtype), x.to(self._state_dtype())

    def default_state(self, batch_size):
        """The state before anything has come in: zeros (B, d_model, n), complex64."""
        return torch.zeros(as_int(batch_size, "batch_size"), *self.log_decay.shape,
                           dtype=self._state_dtype(), device=self.D.device)

    def _state_dtype(self):
        return torch.complex128 if self.D.dtype == torch.float64 else torch.complex64

    def _apply(self, fn, recurse=True):
        self._stepping = None, None  # what was computed lies on the old device
        return super()._apply(fn, recurse)

    def _check(self, u, axes):
        check_kind(u, "u")
        if not u.is_floating_point():
            raise TypeError(f"u has dtype {dtype_name(u.dtype)}, expected a floating-point dtype")
        check_shape(u, "u", axes, (*[None] * (len(axes) - 1), self.d_model))
        if 0 in u.shape:
            raise ValueError(f"u has shape {tuple(u.shape)}, expected no empty axis")

    def _check_state(self, state, batch_size):
        if self.bidirectional:
            raise ValueError("a bidirectional layer sees the future: it takes whole signals, "
                             "without a state, and cannot step")
        check_kind(state, "state")
        if not state.is_complex():
            raise TypeError(f"state has dtype {dtype_name(state.dtype)}, expected a complex dtype")
        check_shape(state, "state", ("B", "d_model", "n"), (batch_size, *self.log_decay.shape))


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

    Raises:
        ValueError: an unknown measure, odd d_state, sizes or steps out of range
        TypeError: arguments of the wrong kind

    Book: eq-dplr, eq-s4-kernel, eq-s4-step. Source: Gu, Goel and Ré, "Efficiently Modeling Long
    Sequences with Structured State Spaces" (2022), section 3; Δ as in appendix C.

    Example:
        >>> layer = S4(d_model=2, d_state=16)
        >>> u = torch.randn(3, 100, 2)
        >>> y, state = layer(u)  # all at once
        >>> z, state = layer.step(u[:, 0], layer.default_state(3))  # or one by one
        >>> torch.allclose(y[:, 0], z, atol=1e-4)
        True
    """

    def __init__(self, d_model, d_state=64, measure="legs", *, bidirectional=False, dt_min=1e-3,
                 dt_max=1e-1):
        Lambda, P, B, _ = dplr(measure, _even(d_state))
        half = d_state // 2
        super().__init__(d_model, Lambda[:half], B[:half], bidirectional=bidirectional,
                         dt_min=dt_min, dt_max=dt_max)
        columns = torch.as_tensor(P[:half]).reshape(half, -1).mT.contiguous()  # (rank, n)
        self.P = self._for_all(torch.view_as_real(columns))

    def _system(self):
        return DPLR(self._modes(), self._double(self.P), self._double(self.B),
                    self._double(self.C), self.log_dt.double().exp())


class S4D(_Layer):
    r"""The S4D layer: in each channel a diagonal A, trained.

    Args:
        d_model (int):  channels, at least 1
        d_state (int):  size of the state of a channel in real numbers, N; even unless init is real
        init (str):     lin | inv | legs | real, as in :func:`ssm_core.s4.s4d_modes`
        discretization (str): zoh | bilinear
        bidirectional (bool): see the future too, by a second C; for whole sequences only
        dt_min, dt_max (float): Δ starts log-uniform between them; 1/Δ is a time scale in samples

    Raises:
        ValueError: an unknown init or discretization, odd d_state, sizes or steps out of range
        TypeError: arguments of the wrong kind

    Book: eq-s4d-kernel, eq-s4d-init. Source: Gu, Gupta, Goel and Ré, "On the Parameterization and
    Initialization of Diagonal State Space Models" (2022), section 3.

    Example:
        >>> layer = S4D(d_model=2, d_state=16, init="inv")
        >>> u = torch.randn(3, 100, 2)
        >>> y, state = layer(u[:, :60])
        >>> z, state = layer(u[:, 60:], state)  # the rest, from where it stopped
        >>> torch.allclose(torch.cat([y, z], dim=1), layer(u)[0], atol=1e-4)
        True
    """

    def __init__(self, d_model, d_state=64, init="lin", *, discretization="zoh",
                 bidirectional=False, dt_min=1e-3, dt_max=1e-1):
        modes = s4d_modes(init, d_state)
        B = dplr("legs", d_state)[2][: d_state // 2] if init == "legs" else torch.ones(
            len(modes), dtype=torch.as_tensor(modes).dtype)
        super().__init__(d_model, modes, B, bidirectional=bidirectional, dt_min=dt_min,
                         dt_max=dt_max)
        self.discretization = as_choice(discretization, "discretization", ("zoh", "bilinear"))

    def _system(self):
        return Diagonal(self._modes(), self._double(self.B), self._double(self.C),
                        self.log_dt.double().exp(), self.discretization)


def parameter_groups(model, lr, *, memory_lr=1e-3, weight_decay=0.0):
    """Parameters of a model in two groups for an optimizer.

    The parameters that make up the memory of S4 and S4D layers (Δ, Λ, P, B) learn at ``memory_lr``,
    if that is slower, and without weight decay: a large step there throws a trained memory away,
    and decay pulls it towards no meaningful value.

    Args:
        model (torch.nn.Module): any module with S4 and S4D layers in it
        lr (float):           learning rate of all other parameters, above 0
        memory_lr (float):    largest learning rate of the memory, above 0
        weight_decay (float): of all other parameters, at least 0

    Returns:
        list of two dicts for ``torch.optim`` (one where there is nothing in the other)

    Source: Gu, Goel and Ré (2022), appendix D.2.

    Example:
        >>> layer = S4D(d_model=4)
        >>> groups = parameter_groups(layer, lr=0.01, weight_decay=0.05)
        >>> [group["lr"] for group in groups]
        [0.01, 0.001]
    """
    lr, memory_lr = as_positive(lr, "lr"), as_positive(memory_lr, "memory_lr")
    memory = {id(getattr(layer, name)) for layer in model.modules() if isinstance(layer, _Layer)
              for name in layer.memory if hasattr(layer, name)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in memory], "lr": lr,
         "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in memory], "lr": min(lr, memory_lr),
         "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _even(d_state):
    if as_int(d_state, "d_state") % 2:
        raise ValueError(f"d_state is {d_state}, expected an even number: modes come in pairs")
    return d_state
