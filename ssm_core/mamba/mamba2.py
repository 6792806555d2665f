r"""The Mamba-2 block: heads with one decay each, and all of Δ, B and C from one projection.

.. code-block:: text

    hidden ─ in_proj ─┬─ x, B, C ─ conv1d ─ SiLU ─ SSD ─┐
                      ├─ Δ ──────────────────────┘      × ─ norm ─ out_proj ─ out
                      └─ z ─ SiLU ──────────────────────┘

Names of parameters, layouts and the caches of inference are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssm_core._checks import as_flag, as_int, as_positive, as_real, as_step_range
from ssm_core.mamba._convolution import convolve, convolve_one
from ssm_core.mamba._mixer import Mixer, drawn_step_biases
from ssm_core.mamba._modules import widened
from ssm_core.scan import selective_state_update
from ssm_core.ssd import ssd_fn
from ssm_core.ssd._arguments import CHUNK_SIZES
from ssm_core.ssd.reference import step_sizes

__all__ = ["GatedRMSNorm", "Mamba2"]

_ANY_STEP = (0.0, math.inf)


class Mamba2(Mixer):
    r"""One Mamba-2 block, from hidden states (b, L, d_model) to hidden states of the same shape.

    One projection of the input makes a gate z, an input x, the weights B and C and the step Δ of each
    sample. x has d_inner = ``expand * d_model`` channels in ``d_inner / headdim`` heads; B and C have
    ``d_state`` numbers for each of ``ngroups`` groups of heads; Δ is one number a head. x, B and C
    pass through a causal convolution over ``d_conv`` samples, one filter per channel, and a SiLU.
    Each head then has a state S of shape (headdim, d_state) and one decay rate A:

    .. math::

        S_t = e^{\Delta_t A} S_{t-1} + \Delta_t x_t B_t^{\mathsf T}, \qquad
        y_t = S_t C_t + D x_t, \qquad
        \mathrm{out}_t = W \operatorname{RMSNorm}(y_t \cdot \operatorname{silu}(z_t))

    The mean square of the norm is taken within each group. At the start −A is uniform in
    ``A_init_range``, and Δ lies between ``dt_min`` and ``dt_max``: ``dt_bias`` is the inverse of
    softplus of steps drawn uniformly in log Δ.

    **Submodules.** ``forward`` and ``step`` call ``in_proj``, ``conv1d``, ``norm`` and ``out_proj``,
    so adapters, hooks, pruning, quantization and sharding of any of them take effect in both.
    ``step`` calls the block itself, so hooks of the block see steps too.

    **float32.** ``A_log``, ``D`` and ``dt_bias`` decide how fast a state decays. They stay in float32
    when the block is built in, or converted to, bfloat16 or float16, and are widened where they
    arrive in a lower precision by another way. States are float32. In float64 everything is float64.

    **Marks for training code.** ``A_log``, ``D`` and ``dt_bias`` should not decay: the class declares
    them in ``no_weight_decay``, and each carries ``_no_weight_decay = True``.

    Args:
        d_model: width of the hidden states.
        d_state: states for each channel of a head, n.
        d_conv: number of samples that the convolution sees.
        conv_init: the filters start uniform within ±conv_init; None is PyTorch's start.
        expand: inner channels over ``d_model``, whose product has to be a whole number.
        headdim: channels of a head, p; they divide the channels of the state space model.
        d_ssm: channels of the state space model. The other inner channels are a gated linear unit
            beside it. None takes all.
        ngroups: groups of heads that share B and C; they divide the heads.
        A_init_range: range of −A at the start, above 0.
        D_has_hdim: D has a weight for each channel rather than for each head.
        rmsnorm: whether there is a norm; without one the output is y · silu(z).
        norm_before_gate: normalize y and then multiply by silu(z), instead of the other way round.
        dt_min, dt_max: range of Δ at the start, above 0.
        dt_init_floor: lower limit of Δ at the start.
        dt_limit: least and largest Δ at any time.
        bias, conv_bias: whether ``in_proj`` and ``out_proj``, and the convolution, have biases.
        chunk_size: steps of a chunk, which change the speed and the rounding only. None, or a number
            that :func:`ssm_core.ssd.ssd_fn` does not take, leaves the choice to its backend.
        use_mem_eff_path: ignored; in the package of the paper's authors it chooses a kernel. Accepted
            so that code written for that package runs unchanged.
        layer_idx: ignored; in that package it finds the block's cache, which is an argument here.
        norm_eps: added to the mean square of the norm, which is fixed in that package.
        device, dtype: of the parameters.

    Raises:
        ValueError, TypeError: an argument out of its range or of the wrong kind, or sizes that do not
            divide each other; the message names it, says what came and what is expected.

    Equation eq-ssd-block. Source: Dao and Gu, "Transformers are SSMs: Generalized Models and
    Efficient Algorithms Through Structured State Space Duality" (2024), section 7.

    Example:
        >>> import torch
        >>> from ssm_core.mamba import Mamba2
        >>> block = Mamba2(d_model=8, d_state=16, headdim=4)  # four heads
        >>> hidden = torch.randn(2, 10, 8)
        >>> out = block(hidden)  # all at once
        >>> cache = block.allocate_inference_cache(2, max_seqlen=10)
        >>> steps = [block.step(hidden[:, t:t + 1], *cache)[0] for t in range(10)]  # one by one
        >>> torch.allclose(out, torch.cat(steps, dim=1), atol=1e-5)
        True
    """

    no_weight_decay = ("dt_bias", "A_log", "D")

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: float = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: Sequence[float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: Sequence[float] = _ANY_STEP,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int | None = None,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        *,
        norm_eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.d_model = as_int(d_model, "d_model")
        self.d_state = as_int(d_state, "d_state")
        self.d_conv = as_int(d_conv, "d_conv")
        self.d_inner = _inner_width(expand, self.d_model)
        self.headdim = as_int(headdim, "headdim")
        self.d_ssm = self.d_inner if d_ssm is None else as_int(d_ssm, "d_ssm")
        self.ngroups = as_int(ngroups, "ngroups")
        self.nheads = _heads(self.d_ssm, self.d_inner, self.headdim, self.ngroups)
        self.D_has_hdim = as_flag(D_has_hdim, "D_has_hdim")
        self.rmsnorm = as_flag(rmsnorm, "rmsnorm")
        self.dt_limit = _as_limits(dt_limit)
        self.chunk_size = None if chunk_size is None else as_int(chunk_size, "chunk_size")
        norm_before_gate = as_flag(norm_before_gate, "norm_before_gate")
        norm_eps = as_positive(norm_eps, "norm_eps")
        dt_min, dt_max = as_step_range(dt_min, dt_max)
        conv_bias, bias = as_flag(conv_bias, "conv_bias"), as_flag(bias, "bias")
        least, largest = _as_range(A_init_range, "A_init_range")

        like: dict[str, Any] = {"device": device, "dtype": dtype}
        wide_dtype = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        wide: dict[str, Any] = {"device": device, "dtype": wide_dtype}  # A_log, D, dt_bias
        selection = 2 * self.ngroups * self.d_state  # numbers in B and C
        self.conv_dim = self.d_ssm + selection
        self.in_proj = nn.Linear(
            self.d_model, 2 * self.d_inner + selection + self.nheads, bias=bias, **like
        )  # to z, x, B, C, dt, in this order, behind both halves of the gated linear unit
        self.conv1d = nn.Conv1d(
            self.conv_dim, self.conv_dim, self.d_conv, groups=self.conv_dim, bias=conv_bias, **like
        )
        if conv_init is not None:
            bound = as_positive(conv_init, "conv_init")
            nn.init.uniform_(self.conv1d.weight, -bound, bound)
        self.dt_bias = nn.Parameter(
            drawn_step_biases(self.nheads, dt_min, dt_max, dt_init_floor, **wide)
        )
        A = torch.empty(self.nheads, **wide).uniform_(least, largest)
        self.A_log = nn.Parameter(torch.log(A))  # (h,), A = -exp(·)
        self.D = nn.Parameter(torch.ones(self.d_ssm if self.D_has_hdim else self.nheads, **wide))
        if self.rmsnorm:
            self.norm = GatedRMSNorm(
                self.d_ssm, norm_eps, self.d_ssm // self.ngroups, norm_before_gate, **like
            )
        self.out_proj = nn.Linear(self.d_inner, self.d_model, bias=bias, **like)
        self._mark()

    def _state_sizes(self):
        return (
            {"channels": self.conv_dim, "d_conv": self.d_conv},
            {"nheads": self.nheads, "headdim": self.headdim, "d_state": self.d_state},
        )

    def _run(self, hidden_states, conv_state, ssm_state, packing):
        linear, z, xBC, dt = self._project(hidden_states)  # (b, L, ·)
        xBC, window = convolve(self.conv1d, self.d_conv, xBC.mT, conv_state, packing)
        x, B, C = self._split_heads(xBC.mT)
        y, last_state = ssd_fn(
            x,
            dt,
            -torch.exp(widened(self.A_log, x)),
            B,
            C,
            D=self._direct(x),
            z=None if self.rmsnorm else self._heads_of(z),
            dt_bias=widened(self.dt_bias, x),
            dt_softplus=True,
            dt_limit=self.dt_limit,
            initial_states=ssm_state,
            cu_seqlens=packing,
            return_final_states=True,
            chunk_size=self.chunk_size if self.chunk_size in CHUNK_SIZES else None,
        )
        return self._finish(linear, y, z), window, last_state

    def _step(self, hidden_states, conv_state, ssm_state):
        linear, z, xBC, dt = self._project(hidden_states)  # (b, ·)
        x, B, C = self._split_heads(convolve_one(self.conv1d, self.d_conv, xBC, conv_state))
        bias, each = widened(self.dt_bias, x), (self.nheads, self.headdim)
        limited = self.dt_limit != _ANY_STEP
        if limited:
            dt = step_sizes(dt, bias, True, *self.dt_limit, bias.dtype)
        D = self._direct(x)
        y = selective_state_update(
            ssm_state,
            x,
            dt[..., None].expand(x.shape),
            widened(self.A_log, x)[:, None, None].expand(*each, self.d_state),
            B,
            C,
            D if self.D_has_hdim else D[:, None].expand(each),
            None if self.rmsnorm else self._heads_of(z),
            dt_bias=None if limited else bias[:, None].expand(each),
            dt_softplus=not limited,
            A_is_log=True,
        )
        return self._finish(linear, y, z)

    def _project(self, hidden_states):
        """The input of the gated linear unit, z, x with B and C, and Δ before its bias."""
        sizes = [2 * (self.d_inner - self.d_ssm), self.d_ssm, self.conv_dim, self.nheads]
        return self.in_proj(hidden_states).split(sizes, dim=-1)

    def _split_heads(self, xBC):
        """x (…, h, p), B and C (…, g, n)."""
        states = self.ngroups * self.d_state
        x, B, C = xBC.split([self.d_ssm, states, states], dim=-1)
        groups = (self.ngroups, self.d_state)
        return self._heads_of(x), B.unflatten(-1, groups), C.unflatten(-1, groups)

    def _heads_of(self, x):
        return x.unflatten(-1, (self.nheads, self.headdim))

    def _direct(self, x):
        """D as a weight of x, (h,) or (h, p)."""
        D = widened(self.D, x)
        return self._heads_of(D) if self.D_has_hdim else D

    def _finish(self, linear, y, z):
        """The output of the block from that of the heads (…, h, p)."""
        y = y.flatten(-2)
        if self.rmsnorm:
            y = self.norm(y, z)
        if self.d_ssm < self.d_inner:
            gate, value = linear.chunk(2, dim=-1)
            y = torch.cat([functional.silu(gate) * value, y], dim=-1)
        return self.out_proj(y)

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, d_state={self.d_state}, d_conv={self.d_conv}, "
            f"d_inner={self.d_inner}, nheads={self.nheads}, headdim={self.headdim}, "
            f"ngroups={self.ngroups}"
        )


class GatedRMSNorm(nn.Module):
    """RMSNorm of y · silu(z), or of y and then times silu(z), over each group of channels.

    It is computed in float32 and returned in the dtype of y.
    """

    def __init__(
        self,
        width: int,
        eps: float,
        group_size: int,
        norm_before_gate: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        wide, gate = widened(y, y), functional.silu(widened(z, y))
        if not self.norm_before_gate:
            wide = wide * gate
        groups = wide.unflatten(-1, (-1, self.group_size))
        normed = functional.rms_norm(groups, (self.group_size,), eps=self.eps).flatten(-2)
        normed = normed * widened(self.weight, y)
        return (normed * gate if self.norm_before_gate else normed).to(y.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.weight.shape[0]}, eps={self.eps:g}, group_size={self.group_size}, "
            f"norm_before_gate={self.norm_before_gate}"
        )


def _inner_width(expand: Any, d_model: int) -> int:
    width = as_positive(expand, "expand") * d_model
    if width != int(width):
        raise ValueError(f"expand * d_model is {width:g}, expected a whole number")
    return int(width)


def _heads(d_ssm: int, d_inner: int, headdim: int, ngroups: int) -> int:
    """How many heads there are, or an error that says which sizes do not fit."""
    if d_ssm > d_inner:
        raise ValueError(f"d_ssm is {d_ssm}, expected at most expand * d_model = {d_inner}")
    if d_ssm % headdim:
        raise ValueError(f"headdim is {headdim}, expected a divisor of the {d_ssm} channels")
    heads = d_ssm // headdim
    if heads % ngroups:
        raise ValueError(f"ngroups is {ngroups}, expected a divisor of the {heads} heads")
    return heads


def _as_pair(value: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} is {value!r}, expected two numbers (least, largest)")
    return value[0], value[1]


def _as_range(value: Any, name: str) -> tuple[float, float]:
    least, largest = (as_positive(x, name) for x in _as_pair(value, name))
    if least > largest:
        raise ValueError(f"{name} is ({least:g}, {largest:g}), expected (least, largest) in order")
    return least, largest


def _as_limits(value: Any) -> tuple[float, float]:
    """Two numbers in order; the largest may be infinite."""
    low, high = _as_pair(value, "dt_limit")
    low = as_real(low, "dt_limit", low=0)
    high = math.inf if high == math.inf else as_real(high, "dt_limit", low=0)
    if low > high:
        raise ValueError(f"dt_limit is ({low:g}, {high:g}), expected (least, largest) in order")
    return low, high
