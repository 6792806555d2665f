"""One residual block, and what it asks of the layer in it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core._checks import as_int
from ssm_core.network.layout import Layout

__all__ = ["Block", "ChannelDropout"]


class ChannelDropout(nn.Dropout1d):
    """Drop channels, each for a whole sequence: (b, L, d_model), while the module trains.

    A convolution as long as the sequence averages out what is dropped sample by sample. A channel
    that is dropped from the first sample to the last stays missing.

    Args:
        p (float): share of the channels that are dropped, 0 to 1; the others are scaled up

    Source: Tompson and others, "Efficient Object Localization Using Convolutional Networks" (2015),
    there for images.
    """

    def forward(self, u: Tensor) -> Tensor:
        return super().forward(u.mT).mT


class Block(nn.Module):
    """One residual block: norm, SSM, GELU, dropout, gated linear unit, dropout.

    Args:
        ssm (torch.nn.Module): an S4, S4D, Mamba or Mamba2 layer, or another one that
                               provides what :mod:`ssm_core.network` lists
        dropout (float):       share of the channels that are dropped while training, 0 to 1, each
                               for a whole sequence
        reverse (torch.nn.Module): a second layer, which reads each sequence from its end to its
                               beginning; its output is added to that of ``ssm``
        device, dtype:         of the norm and the linear unit, as in ``torch.nn``

    Raises:
        TypeError, ValueError: a layer that lacks what every layer must provide

    Source: Gu, Goel and Ré, "Efficiently Modeling Long Sequences with Structured State Spaces"
    (2022), section 3.4; the gated unit as in Gu, Gupta, Goel and Ré (2022), appendix B.

    Example:
        >>> import torch
        >>> from ssm_core.network import Block
        >>> from ssm_core.s4 import S4
        >>> block = Block(S4(d_model=8, d_state=16))
        >>> block(torch.randn(2, 50, 8)).shape
        torch.Size([2, 50, 8])
    """

    ssm: Any  # the layer
    reverse: Any  # the layer that reads from the end, or None

    def __init__(
        self,
        ssm: nn.Module,
        dropout: float = 0.0,
        *,
        reverse: nn.Module | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.takes = _options_of(ssm, "ssm")
        d_model = as_int(ssm.d_model, "ssm.d_model")
        if reverse is not None:
            self.takes &= _options_of(reverse, "reverse")
            if reverse.d_model != d_model:
                raise ValueError(f"reverse.d_model is {reverse.d_model}, expected {d_model}")
        self.norm = nn.LayerNorm(d_model, device=device, dtype=dtype)
        self.ssm = ssm
        self.reverse = reverse
        self.mix = nn.Sequential(
            nn.GELU(),
            ChannelDropout(dropout),
            nn.Linear(d_model, 2 * d_model, device=device, dtype=dtype),
            nn.GLU(),
            ChannelDropout(dropout),
        )

    def forward(
        self,
        u: Tensor,
        state: Any = None,
        *,
        return_state: bool = False,
        dt: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Signals (b, L, d_model) to the same shape, and the state of the layer if asked for.

        Args:
            u (dtype of the parameters): signals (b, L, d_model)
            state: the state of the layer before the first sample; the initial one if None
            return_state (bool): return the state after the last sample too
            dt (floating point): time since the sample before (b, L), for layers that take it
            layout: how sequences lie in the batch, for a network; whole rows if None
        """
        layout = Layout() if layout is None else layout
        options = layout.options()
        if dt is not None:
            options["dt"] = dt
        self._check_options(options, state is not None or return_state)
        x = layout.hide(self.norm(u))
        if state is None and not return_state:
            y = self.ssm(x, **options)
        else:
            y, state = self.ssm(x, state, return_state=True, **options)
        _check_output(y, x, self.ssm)
        if self.reverse is not None:
            if dt is not None:
                options["dt"] = layout.turned_steps(dt)
            y = y + layout.turned(self.reverse(layout.turned(x), **options))
        out = u + self.mix(y)
        return (out, state) if return_state else out

    def step(
        self, u: Tensor, state: Any, stepper: Any = None, dt: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """One sample (b, d_model) to the same shape, and the state after it.

        The layer computes its step from its parameters at each call, unless a stepper made by it is
        given. ``dt`` (b,) is the time since the sample before, for layers that take it.
        """
        if stepper is None:
            steps = None if dt is None else dt[:, None]
            y, state = self(u[:, None], state, return_state=True, dt=steps)
            return y[:, 0], state
        y, state = stepper.step(self.norm(u), state)
        return u + self.mix(y), state

    def _check_options(self, options: dict[str, Any], states: bool) -> None:
        """Refuse what the layer does not take."""
        wanted = {*options, *(("return_state",) if states else ())}
        for name in sorted(wanted - self.takes):
            raise ValueError(
                f"{type(self.ssm).__name__}.forward takes no argument {name}, which this call needs"
            )
        if states and self.reverse is not None:
            raise ValueError(
                "a bidirectional block sees the future: it takes whole signals, without a state, "
                "and cannot step"
            )


def _options_of(layer: Any, name: str) -> frozenset[str]:
    """Check a layer; which of the arguments that a layer may take are in its signature."""
    kind = type(layer).__name__
    if not isinstance(layer, nn.Module):
        raise TypeError(f"{name} is a {kind}, expected a layer such as S4, S4D or Mamba")
    if not hasattr(layer, "d_model"):
        raise TypeError(
            f"{name} is a {kind} without d_model, expected a layer with d_model and "
            "forward(u, state=None, *, return_state=False), as ssm_core.network describes it"
        )
    parameters = inspect.signature(layer.forward).parameters
    optional = {"return_state", "cu_seqlens", "dt"}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return frozenset(optional)
    return frozenset(optional & set(parameters))


def _check_output(y: Any, x: Tensor, layer: nn.Module) -> None:
    if not isinstance(y, Tensor) or y.shape != x.shape:
        what = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise TypeError(
            f"{type(layer).__name__} returned {what}, expected a tensor of shape "
            f"{tuple(x.shape)}, as that of its input"
        )
