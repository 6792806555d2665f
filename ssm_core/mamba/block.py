r"""The Mamba block: a gated selective scan behind a short convolution.

.. code-block:: text

    hidden ─ in_proj ─┬─ x ─ conv1d ─ SiLU ─┬──────────────── scan ── × ── out_proj ─ out
                      │                     └─ x_proj ─ Δ, B, C ─┘    │
                      └─ z ───────────────────────────────── SiLU ────┘

Names of parameters, layouts and the caches of inference are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssm_core._checks import as_choice, as_flag, as_int, as_positive, as_step_range
from ssm_core._modules import is_plain
from ssm_core._tensors import Packing, as_packing, check_finite
from ssm_core.mamba import _operators
from ssm_core.mamba._arguments import check_tensor
from ssm_core.mamba._modules import keep_wide, widened
from ssm_core.scan import selective_scan_fn, selective_state_update

__all__ = ["Mamba"]


class Mamba(nn.Module):
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
        log_dt = torch.empty(self.d_inner, **wide).uniform_(math.log(dt_min), math.log(dt_max))
        dt = torch.exp(log_dt).clamp(min=as_positive(dt_init_floor, "dt_init_floor"))
        self.dt_proj.bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        n = torch.arange(1, self.d_state + 1, **wide)
        self.A_log = nn.Parameter(torch.log(n).repeat(self.d_inner, 1))  # (d_inner, n), A = -exp(·)
        self.D = nn.Parameter(torch.ones(self.d_inner, **wide))
        self._mark()
        self.register_load_state_dict_post_hook(_mark_again)

    def forward(
        self,
        hidden_states: Tensor,
        cache: Sequence[Tensor] | None = None,
        *,
        cu_seqlens: Tensor | Packing | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, InferenceCache]:
        """Run the block over a sequence.

        Args:
            hidden_states (dtype of the weights): input (b, L, d_model); L = 0 gives an empty output.
            cache: ``(conv_state, ssm_state)``, as ``allocate_inference_cache`` makes it or as a
                tuple: the state before the first sample. Both change in place to the state after the last one, so a
                sequence in pieces gives the numbers of one pass. No gradient flows from one piece
                into the one before.
            cu_seqlens (int32): boundaries (sequences + 1,) of sequences packed into one row (b = 1);
                neither convolution nor state crosses one. A cache then has one row per sequence.
            return_state: leave the cache as it is and return the state after the last sample beside
                the output; gradients flow through both. So do S4 and S4D, and so a
                :class:`ssm_core.network.SequenceModel` runs the block.

        Returns:
            (dtype of the weights): output (b, L, d_model), or with ``return_state`` the output and
            ``(conv_state, ssm_state)``. Inside ``torch.autocast`` the dtype of autocast.

        Raises:
            ValueError, TypeError: a tensor of the wrong shape, dtype or device.
        """
        device = self._check_hidden(hidden_states)
        b, L, _ = hidden_states.shape
        packing = as_packing(cu_seqlens, b, L, "hidden_states", device)
        conv_state = ssm_state = initial_state = None
        if cache is not None:
            rows = b if packing is None else packing.sequences
            conv_state, ssm_state = self._check_cache(cache, rows, device)
            if L == 1 and packing is None and not torch.is_grad_enabled():
                if return_state:
                    conv_state, ssm_state = conv_state.clone(), ssm_state.clone()
                y = self._step(hidden_states[:, 0], conv_state, ssm_state)[:, None]
                return (y, InferenceCache(conv_state, ssm_state)) if return_state else y
            initial_state = ssm_state if return_state else ssm_state.clone()

        x, z = self._project(hidden_states)  # (b, d_inner, L)
        x, window = self._convolve(x, conv_state, packing)
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
            initial_state=initial_state,
            cu_seqlens=packing,
        )
        out = self.out_proj(y.transpose(1, 2))
        if return_state:
            return out, InferenceCache(window.clone(), last_state)  # it may be a view of the row
        if conv_state is not None and ssm_state is not None:
            conv_state.copy_(window.detach())
            ssm_state.copy_(last_state.detach())
        return out

    @torch.no_grad()
    def step(
        self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one sample: a constant amount of work and memory. For inference, without gradients.

        Args:
            hidden_states (dtype of the weights): one sample of each row (b, 1, d_model).
            conv_state: the last d_conv inputs of the convolution (b, d_inner, d_conv).
            ssm_state: the state of the scan (b, d_inner, n). Both change in place.

        Returns:
            (y, conv_state, ssm_state): the output (b, 1, d_model), and the states that were given.

        Raises:
            ValueError, TypeError: a tensor of the wrong shape, dtype or device, or (on a CPU) a
                sample with NaN or infinity, which the state would keep.
        """
        check_tensor(
            hidden_states,
            "hidden_states",
            ("b", "1", "d_model"),
            (None, 1, self.d_model),
            device=None,
        )
        check_finite(hidden_states, "hidden_states")
        cache = InferenceCache(conv_state, ssm_state)
        return self(hidden_states, cache), conv_state, ssm_state

    def allocate_inference_cache(
        self,
        batch_size: int,
        max_seqlen: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> InferenceCache:
        """Return the state before the first sample: zeros, whose size does not depend on a length.

        Args:
            batch_size: rows b.
            max_seqlen: ignored; caches of attention need it, and other packages pass it.
            dtype: of both states; by default the convolution's is that of the weights and the scan's
                float32 (float64 in a float64 model).
            device: of both states; by default that of the weights.

        Returns:
            (conv_state, ssm_state): (b, d_inner, d_conv) and (b, d_inner, n).
        """
        b, device = as_int(batch_size, "batch_size", low=0), device or self.A_log.device
        wide = torch.promote_types(self.A_log.dtype, torch.float32)
        return InferenceCache(
            torch.zeros(
                b, self.d_inner, self.d_conv, device=device, dtype=dtype or self.conv1d.weight.dtype
            ),
            torch.zeros(b, self.d_inner, self.d_state, device=device, dtype=dtype or wide),
        )

    def default_state(self, batch_size: int) -> InferenceCache:
        """Return the state before the first sample, as ``allocate_inference_cache`` does."""
        return self.allocate_inference_cache(batch_size, max_seqlen=1)

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
        """One sample (b, d_model) of each row: output (b, d_model); both states change in place."""
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)  # (b, d_inner)
        x = self._convolve_one(x, conv_state)
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

    def _convolve(self, x, conv_state, packing):
        """SiLU of the causal convolution of x (b, d_inner, L), and its last d_conv inputs.

        d_conv earlier samples stand in front of each sequence. The first output belongs to the last
        of those, so it is dropped.
        """
        k, L = self.d_conv, x.shape[-1]
        if packing is None:
            if k <= _operators.MOST_TAPS and _operators.fuses(x) and self._has_plain_filters():
                weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
                return _operators.convolve(x, weight, bias, conv_state)
            if conv_state is None:
                conv_state = x.new_zeros(*x.shape[:2], k)
            padded = torch.cat([conv_state.to(x.dtype), x], dim=-1)  # (b, d_inner, k + L)
            return functional.silu(self._filter(padded)[..., 1:]), padded[..., -k:]

        places, before, last = _padded_places(packing, k)
        padded = x.new_zeros(1, self.d_inner, L + before.numel()).index_copy(-1, places, x)
        if conv_state is not None:
            states = conv_state.to(x.dtype).transpose(0, 1).reshape(1, self.d_inner, -1)
            padded = padded.index_copy(-1, before.flatten(), states)
        out = functional.silu(self._filter(padded)[..., places - k + 1])
        return out, padded[0][:, last].transpose(0, 1)

    def _convolve_one(self, x, conv_state):
        """The same for one sample x (b, d_inner); conv_state moves on by one."""
        if _operators.fuses(x) and self._has_plain_filters():
            weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
            return _operators.convolve_one(conv_state, x, weight, bias)
        window = torch.cat([conv_state[..., 1:], x[..., None].to(conv_state.dtype)], dim=-1)
        conv_state.copy_(window)
        return functional.silu(self._filter(window.to(x.dtype))[..., 0])

    def _filter(self, padded):
        """One filter per channel over padded (b, d_inner, T): (b, d_inner, T - d_conv + 1)."""
        if padded.device.type != "cpu" or not self._has_plain_filters():
            return self.conv1d(padded)
        # On a CPU shifted products take a third of the time of conv1d, and less in low precision.
        weight, bias = self.conv1d.weight, self.conv1d.bias
        T = padded.shape[-1] - self.d_conv + 1
        wide = widened(padded, padded)
        y = torch.zeros_like(wide[..., :T]) if bias is None else bias[:, None].to(wide.dtype)
        for j in range(self.d_conv):
            y = torch.addcmul(y, wide[..., j : j + T], weight[:, :, j].to(wide.dtype))
        return y.to(padded.dtype)

    def _has_plain_filters(self):
        return is_plain(self.conv1d, nn.Conv1d) and self.conv1d.weight.shape == (
            self.d_inner,
            1,
            self.d_conv,
        )

    def _apply(self, fn, recurse=True):
        super()._apply(keep_wide(self, ("A_log", "D"), fn), recurse)
        self._mark()
        return self

    def __setstate__(self, state):
        """Restore a copied block; PyTorch does not copy the marks of parameters."""
        super().__setstate__(state)
        self._mark()

    def _mark(self):
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True
        if isinstance(self.dt_proj, StepProjection):
            self.dt_proj.bias._no_reinit = True

    def _check_hidden(self, hidden_states):
        """Check the input; return the device of the block."""
        device = self.A_log.device
        check_tensor(
            hidden_states,
            "hidden_states",
            ("b", "L", "d_model"),
            (None, None, self.d_model),
            device=device,
        )
        if (
            is_plain(self.in_proj, nn.Linear)
            and hidden_states.dtype != self.in_proj.weight.dtype
            and not torch.is_autocast_enabled(device.type)
        ):
            raise TypeError(
                f"hidden_states has dtype {hidden_states.dtype}, expected "
                f"{self.in_proj.weight.dtype}, that of the weights"
            )
        return device

    def _check_cache(self, cache, rows, device):
        if not isinstance(cache, (InferenceCache, tuple, list)) or len(cache) != 2:
            raise TypeError(f"cache is a {type(cache).__name__}, expected (conv_state, ssm_state)")
        conv_state, ssm_state = cache[0], cache[1]  # which older torch.compile traces
        check_tensor(
            conv_state,
            "conv_state",
            ("rows", "d_inner", "d_conv"),
            (rows, self.d_inner, self.d_conv),
            device=device,
        )
        check_tensor(
            ssm_state,
            "ssm_state",
            ("rows", "d_inner", "n"),
            (rows, self.d_inner, self.d_state),
            device=device,
        )
        return conv_state, ssm_state

    def extra_repr(self) -> str:
        falcon = "" if self.mixer_rms_eps is None else f", mixer_rms_eps={self.mixer_rms_eps:g}"
        return (
            f"d_model={self.d_model}, d_state={self.d_state}, d_conv={self.d_conv}, "
            f"d_inner={self.d_inner}, dt_rank={self.dt_rank}{falcon}"
        )


class InferenceCache(Sequence[Tensor]):
    """The pair ``(conv_state, ssm_state)``, which wrappers of modules pass on as it is.

    Mixed precision of FSDP casts each tensor in the arguments of a module into a copy, in tuples,
    lists and dicts too. What the block wrote into a copy would be lost, so this is none of them.
    """

    def __init__(self, conv_state: Tensor, ssm_state: Tensor) -> None:
        self.conv_state, self.ssm_state = conv_state, ssm_state

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.conv_state, self.ssm_state))

    def __getitem__(self, index: Any) -> Any:
        return (self.conv_state, self.ssm_state)[index]

    def __len__(self) -> int:
        return 2


class StepProjection(nn.Linear):
    """The linear map to Δ. Its bias stays in float32, and so does the sum with it."""

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self.weight)
        return widened(y, x) + widened(self.bias, x)

    def _apply(self, fn, recurse=True):
        return super()._apply(keep_wide(self, ("bias",), fn), recurse)


def _mark_again(block, incompatible_keys):
    """Marks are attributes of parameters, which ``load_state_dict(assign=True)`` replaces."""
    block._mark()


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


def _padded_places(packing, k):
    """Indices into a row that keeps room for k earlier samples in front of each packed sequence.

    .. code-block:: text

        packed row, cu_seqlens 0 3 5     a0 a1 a2 b0 b1
        padded row, k = 2           ·  · a0 a1 a2  ·  · b0 b1
        places                           2  3  4        7  8
        before                      0  1           5  6
        last                                3  4        7  8

    Returns:
        places (L,) of the samples, and for each sequence (sequences, k) the room before it and its
        last k columns, which reach into that room where the sequence is shorter than k.
    """
    cu_seqlens, device = packing.cu_seqlens, packing.cu_seqlens.device
    t = torch.arange(packing.length, dtype=torch.int32, device=device)
    sequence = torch.searchsorted(cu_seqlens[1:], t, right=True)  # (L,), of each sample
    room = k * torch.arange(packing.sequences + 1, device=device)  # in front of earlier sequences
    starts, ends = cu_seqlens[:-1] + room[:-1], cu_seqlens[1:] + room[1:]
    columns = torch.arange(k, device=device)
    return t + (sequence + 1) * k, starts[:, None] + columns, ends[:, None] - k + columns
