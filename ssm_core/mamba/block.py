r"""The Mamba block: a gated selective scan behind a short convolution.

.. code-block:: text

    hidden ─ in_proj ─┬─ x ─ conv1d ─ SiLU ─┬──────────────── scan ── × ── out_proj ─ out
                      │                     └─ x_proj ─ Δ, B, C ─┘    │
                      └─ z ───────────────────────────────── SiLU ────┘

Names of parameters, layouts and the caches of inference are those of the published checkpoints.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssm_core._checks import as_choice, as_flag, as_int, as_positive, as_step_range
from ssm_core._modules import is_plain
from ssm_core.mamba import _operators
from ssm_core.mamba._convolution import convolve, convolve_one
from ssm_core.mamba._mixer import Mixer, drawn_step_biases
from ssm_core.mamba._modules import keep_wide, widened
from ssm_core.scan import selective_scan_fn, selective_state_update

__all__ = ["Mamba"]


class Mamba(Mixer):
    r"""One Mamba block, from hidden states (b, L, d_model) to hidden states of the same shape.

    Two projections of the input, x and z, have ``expand * d_model`` channels. x passes through a
    causal convolution over ``d_conv`` samples, one filter per channel, and a SiLU. From the result
    u the block computes the step Δ, the input weights B and the output weights C of each sample
    (this is the selection). A scan with ``d_state`` states per channel turns u into y, and silu(z)
    gates y:

    .. math::

        x_t = e^{\Delta_t A} x_{t-1} + \Delta_t B_t u_t, \qquad
        y_t = (C_t x_t + D u_t) \cdot \operatorname{silu}(z_t)

    At the start A is −1, −2, …, −d_state in every channel, and Δ lies between ``dt_min`` and
    ``dt_max``: the bias of ``dt_proj`` is the inverse of softplus of steps drawn uniformly in log Δ.

    **Submodules.** ``forward`` and ``step`` call ``in_proj``, ``conv1d``, ``x_proj``, ``dt_proj``
    and ``out_proj``, so adapters, hooks, pruning, quantization and sharding of any of them take
    effect in both. ``step`` calls the block itself, so hooks of the block see steps too.

    **float32.** ``A_log``, ``D`` and ``dt_proj.bias`` decide how fast a state decays. They stay in
    float32 when the block is built in, or converted to, bfloat16 or float16. The scan computes with
    states in float32 and widens parameters that arrive in a lower precision by another way (mixed
    precision of FSDP, ``functional_call``, ``load_state_dict(assign=True)``). In float64 everything
    is float64.

    **Marks for training code.** ``A_log`` and ``D`` should not decay: the class declares them in
    ``no_weight_decay``, and each carries ``_no_weight_decay = True``. ``dt_proj.bias`` carries
    ``_no_reinit = True``: code that sets all biases to zero should leave it alone.

    Args:
        d_model: width of the hidden states.
        d_state: states per channel, n.
        d_conv: number of samples that the convolution sees.
        expand: inner channels over ``d_model``; d_inner = int(expand * d_model).
        dt_rank: width of the bottleneck before Δ; "auto" is d_model / 16, rounded up.
        dt_min, dt_max: range of Δ at the start, above 0.
        dt_init: weights of ``dt_proj``: "random", uniform within ±dt_rank^−½ · dt_scale, or
            "constant", that bound itself.
        dt_scale: see ``dt_init``.
        dt_init_floor: lower limit of Δ at the start.
        conv_bias, bias: whether the convolution, and ``in_proj`` and ``out_proj``, have biases.
        use_fast_path: ignored; in the package of the paper's authors it chooses a kernel. Accepted
            so that code written for that package runs unchanged.
        layer_idx: ignored; in that package it finds the block's cache, which is an argument here.
        mixer_rms_eps: with a number, Δ (before ``dt_proj``), B and C are divided by their root mean
            square, to whose square this number is added, as Falcon-Mamba does; None leaves them.
        device, dtype: of the parameters.

    Raises:
        ValueError, TypeError: an argument out of its range or of the wrong kind; the message names
            it, says what came and what is expected.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    sections 3.2, 3.4 and 3.6, algorithm 2. Equations eq-mamba-block, eq-mamba-step-init and
    eq-selective-scan. ``mixer_rms_eps``: Zuo et al., "Falcon Mamba: The First Competitive
    Attention-free 7B Language Model" (2024).

    Example:
        >>> import torch
        >>> from ssm_core.mamba import Mamba
        >>> block = Mamba(d_model=8, d_state=4)
        >>> hidden = torch.randn(2, 10, 8)
        >>> out = block(hidden)  # all at once
        >>> cache = block.allocate_inference_cache(2, max_seqlen=10)
        >>> steps = [block.step(hidden[:, t:t + 1], *cache)[0] for t in range(10)]  # one by one
        >>> torch.allclose(out, torch.cat(steps, dim=1), atol=1e-6)
        True
    """

    no_weight_decay = ("A_log", "D")

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        *,
        mixer_rms_eps: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model = as_int(d_model, "d_model")
        self.d_state = as_int(d_state, "d_state")
        self.d_conv = as_int(d_conv, "d_conv")
        self.d_inner = as_int(int(as_positive(expand, "expand") * self.d_model), "d_inner")
        self.dt_rank = (
            math.ceil(self.d_model / 16)
            if isinstance(dt_rank, str) and as_choice(dt_rank, "dt_rank", ["auto"])
            else as_int(dt_rank, "dt_rank")
        )
        self.mixer_rms_eps = (
            None if mixer_rms_eps is None else as_positive(mixer_rms_eps, "mixer_rms_eps")
        )
        dt_min, dt_max = as_step_range(dt_min, dt_max)
        conv_bias, bias = as_flag(conv_bias, "conv_bias"), as_flag(bias, "bias")

        like: dict[str, Any] = {"device": device, "dtype": dtype}
        wide_dtype = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        wide: dict[str, Any] = {"device": device, "dtype": wide_dtype}  # A_log, D, the bias of Δ
        self.in_proj = nn.Linear(self.d_model, 2 * self.d_inner, bias=bias, **like)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, self.d_conv, groups=self.d_inner, bias=conv_bias, **like
        )
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * self.d_state, bias=False, **like)
        self.dt_proj = StepProjection(self.dt_rank, self.d_inner, **like)
        self.out_proj = nn.Linear(self.d_inner, self.d_model, bias=bias, **like)

        bound = self.dt_rank**-0.5 * as_positive(dt_scale, "dt_scale")
        if as_choice(dt_init, "dt_init", ("random", "constant")) == "random":
            nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        else:
            nn.init.constant_(self.dt_proj.weight, bound)
        self.dt_proj.bias = nn.Parameter(
            drawn_step_biases(self.d_inner, dt_min, dt_max, dt_init_floor, **wide)
        )
        n = torch.arange(1, self.d_state + 1, **wide)
        self.A_log = nn.Parameter(torch.log(n).repeat(self.d_inner, 1))  # (d_inner, n), A = -exp(·)
        self.D = nn.Parameter(torch.ones(self.d_inner, **wide))
        self._mark()

    def _state_sizes(self):
        return (
            {"d_inner": self.d_inner, "d_conv": self.d_conv},
            {"d_inner": self.d_inner, "n": self.d_state},
        )

    def _run(self, hidden_states, conv_state, ssm_state, packing):
        x, z = self._project(hidden_states)  # (b, d_inner, L)
        x, window = convolve(self.conv1d, self.d_conv, x, conv_state, packing)
        dt, bias, B, C = self._select(x)
        y, last_state = selective_scan_fn(
            x,
            dt,
            -torch.exp(widened(self.A_log, x)),
            B,
            C,
            widened(self.D, x),
            z,
            delta_bias=bias,
            delta_softplus=True,
            return_last_state=True,
            initial_state=ssm_state,
            cu_seqlens=packing,
        )
        return self.out_proj(y.transpose(1, 2)), window, last_state

    def _project(self, hidden_states):
        """x and z, both (b, d_inner, L)."""
        fused = _operators.fuses(hidden_states) and hidden_states.shape[0] != 1
        if not fused or not is_plain(self.in_proj, nn.Linear):
            return _channels_first(self.in_proj, hidden_states).chunk(2, dim=1)
        # Two products leave each in one piece, as the scan reads z: it needs no copy.
        both = [_mix_channels(half, hidden_states.mT) for half in self.in_proj.weight.chunk(2)]
        if self.in_proj.bias is not None:
            both = [y + half[:, None] for y, half in zip(both, self.in_proj.bias.chunk(2))]
        return both

    def _select(self, x):
        """Of x (b, d_inner, L): Δ (b, d_inner, L), the bias that the scan adds to Δ, or None where
        it is in Δ already, B and C (b, n, L)."""
        plain = is_plain(self.x_proj, nn.Linear) and self.x_proj.bias is None
        selection = _mix_channels(self.x_proj.weight, x) if plain else self.x_proj(x.mT).mT
        dt, B, C = self._split(selection, dim=1)
        if is_plain(self.dt_proj, StepProjection):
            return _mix_channels(self.dt_proj.weight, dt), widened(self.dt_proj.bias, x), B, C
        return self.dt_proj(dt.mT).mT, None, B, C

    def _split(self, selection, dim):
        """What Δ is made of, B and C, along one axis of what ``x_proj`` returned."""
        parts = selection.split([self.dt_rank, self.d_state, self.d_state], dim=dim)
        if self.mixer_rms_eps is None:
            return parts
        return [_divided_by_rms(part, self.mixer_rms_eps, dim) for part in parts]

    def _step(self, hidden_states, conv_state, ssm_state):
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)  # (b, d_inner)
        x = convolve_one(self.conv1d, self.d_conv, x, conv_state)
        dt, B, C = self._split(self.x_proj(x), dim=-1)
        if is_plain(self.dt_proj, StepProjection):  # the bias is added in float32, with the rest
            dt, bias = functional.linear(dt, self.dt_proj.weight), widened(self.dt_proj.bias, x)
        else:
            dt, bias = self.dt_proj(dt), None
        y = selective_state_update(
            ssm_state,
            x,
            dt,
            widened(self.A_log, x),
            B,
            C,
            widened(self.D, x),
            z,
            dt_bias=bias,
            dt_softplus=True,
            A_is_log=True,
        )
        return self.out_proj(y)

    def _mark(self):
        super()._mark()
        if isinstance(self.dt_proj, StepProjection):
            self.dt_proj.bias._no_reinit = True

    def extra_repr(self) -> str:
        falcon = "" if self.mixer_rms_eps is None else f", mixer_rms_eps={self.mixer_rms_eps:g}"
        return (
            f"d_model={self.d_model}, d_state={self.d_state}, d_conv={self.d_conv}, "
            f"d_inner={self.d_inner}, dt_rank={self.dt_rank}{falcon}"
        )


class StepProjection(nn.Linear):
    """The linear map to Δ. Its bias stays in float32, and so does the sum with it."""

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.weight)
        return widened(y, x) + widened(self.bias, x)

    def _apply(self, fn, recurse=True):
        return super()._apply(keep_wide(self, ("bias",), fn), recurse)


def _channels_first(linear, x):
    """A linear map of x (b, L, in), (b, out, L); time is contiguous, as the scan reads it, where the
    map is a plain matrix."""
    if not is_plain(linear, nn.Linear):
        return linear(x).mT
    b, L, width = x.shape
    y = linear.weight @ x.reshape(b * L, width).T  # (out, b L)
    if linear.bias is not None:
        y = y + linear.bias[:, None]
    return y.view(y.shape[0], b, L).transpose(0, 1)


def _mix_channels(weight, x):
    """A linear map of x (b, in, L) to (b, out, L), contiguous. An expanded weight costs no memory."""
    return torch.bmm(weight.expand(x.shape[0], -1, -1), x)


def _divided_by_rms(x, eps, dim):
    """x over its root mean square along one axis, computed in float32, in the dtype of x."""
    wide = widened(x, x)
    return (wide * torch.rsqrt(wide.square().mean(dim, keepdim=True) + eps)).to(x.dtype)
