r"""The Mamba block: a gated selective scan behind a short convolution.

.. code-block:: text

    hidden ─ in_proj ─┬─ x ─ conv1d ─ SiLU ─┬──────────────── scan ── × ── out_proj ─ out
                      │                     └─ x_proj ─ Δ, B, C ─┘    │
                      └─ z ───────────────────────────────── SiLU ────┘

Names of parameters, layouts and the caches of inference are those of the published checkpoints.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from ssm_core._checks import as_choice, as_int, as_positive
from ssm_core._tensors import check_boundaries, check_device, check_packed
from ssm_core.mamba import _operators
from ssm_core.mamba._arguments import check_tensor
from ssm_core.scan import selective_scan_fn, selective_state_update

__all__ = ["Mamba"]


class Mamba(nn.Module):
    r"""One Mamba block, from hidden states (b, L, d_model) to hidden states of the same shape.

    Two projections of the input, x and z, have ``expand * d_model`` channels. x passes a causal
    convolution over ``d_conv`` samples, one filter a channel, and a SiLU; from the result u come
    the step Δ, the input weights B and the output weights C of every sample (this is the selection),
    and a scan with ``d_state`` states a channel makes y of them, which silu(z) gates:

    .. math::

        x_t = e^{\Delta_t A} x_{t-1} + \Delta_t B_t u_t, \qquad
        y_t = (C_t x_t + D u_t) \cdot \operatorname{silu}(z_t)

    At the start A is −1, −2, …, −d_state in every channel, and Δ lies between ``dt_min`` and
    ``dt_max``: the bias of ``dt_proj`` is the inverse of softplus of steps drawn evenly in log Δ.

    **float32.** ``A_log``, ``D`` and ``dt_proj.bias`` decide how fast a state decays. They stay in
    float32 when the block is built in, or converted to, bfloat16 or float16, and the scan computes
    with states in float32. In float64 everything is float64.

    **Marks for training code.** ``A_log`` and ``D`` carry ``_no_weight_decay = True``: leave them
    out of weight decay, as norms and biases usually are. ``dt_proj.bias`` carries
    ``_no_reinit = True``: code that zeroes all biases should leave it alone.

    Args:
        d_model (int): width of the hidden states.
        d_state (int): states a channel, n.
        d_conv (int): samples that the convolution sees.
        expand (float): inner channels over ``d_model``; d_inner = int(expand * d_model).
        dt_rank (int or "auto"): width of the bottleneck before Δ; "auto" is d_model / 16, rounded
            up.
        dt_min, dt_max (float): range of Δ at the start, above 0.
        dt_init (str): weights of ``dt_proj``: "random", uniform within ±dt_rank^−½ · dt_scale, or
            "constant", that bound itself.
        dt_scale (float): see ``dt_init``.
        dt_init_floor (float): no Δ starts below it.
        conv_bias, bias (bool): biases of the convolution, and of ``in_proj`` and ``out_proj``.
        use_fast_path, layer_idx: accepted, so that code written for the package of the paper's
            authors runs unchanged; what is fastest runs by itself, and caches are arguments.
        device, dtype: of the parameters.

    Raises:
        ValueError, TypeError: an argument out of its range or of the wrong kind; the message names
            it, says what came and what is expected.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    sections 3.2, 3.4 and 3.6, algorithm 2. Equations eq-mamba-block, eq-mamba-step-init and
    eq-selective-scan.

    Example:
        >>> import torch
        >>> block = Mamba(d_model=8, d_state=4)
        >>> hidden = torch.randn(2, 10, 8)
        >>> out = block(hidden)  # all at once
        >>> cache = block.allocate_inference_cache(2, max_seqlen=10)
        >>> steps = [block.step(hidden[:, t:t + 1], *cache)[0] for t in range(10)]  # one by one
        >>> torch.allclose(out, torch.cat(steps, dim=1), atol=1e-6)
        True
    """

    def __init__(self, d_model, d_state=16, d_conv=4, expand=2, dt_rank="auto", dt_min=0.001,
                 dt_max=0.1, dt_init="random", dt_scale=1.0, dt_init_floor=1e-4, conv_bias=True,
                 bias=False, use_fast_path=True, layer_idx=None, device=None, dtype=None):
        super().__init__()
        self.d_model = as_int(d_model, "d_model")
        self.d_state = as_int(d_state, "d_state")
        self.d_conv = as_int(d_conv, "d_conv")
        self.d_inner = as_int(int(as_positive(expand, "expand") * self.d_model), "d_inner")
        self.dt_rank = (math.ceil(self.d_model / 16) if isinstance(dt_rank, str)
                        and as_choice(dt_rank, "dt_rank", ["auto"]) else as_int(dt_rank, "dt_rank"))
        dt_min, dt_max = as_positive(dt_min, "dt_min"), as_positive(dt_max, "dt_max")
        if dt_min > dt_max:
            raise ValueError(f"dt_min is {dt_min:g}, expected at most dt_max, {dt_max:g}")

        like = {"device": device, "dtype": dtype}
        wide = {"device": device,  # A_log, D and the bias of Δ
                "dtype": torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)}
        self.in_proj = nn.Linear(self.d_model, 2 * self.d_inner, bias=bias, **like)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, self.d_conv, groups=self.d_inner,
                                bias=conv_bias, **like)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * self.d_state, bias=False, **like)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner, **like)
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

    def forward(self, hidden_states, cache=None, *, cu_seqlens=None):
        """Run the block over a sequence.

        Args:
            hidden_states (dtype of the weights): input (b, L, d_model); L = 0 gives an empty output.
            cache (tuple): ``(conv_state, ssm_state)`` as ``allocate_inference_cache`` makes it, the
                state before the first sample. Both change in place to the state after the last one,
                so that a sequence in pieces gives the numbers of one pass. No gradient flows from
                one piece into the one before.
            cu_seqlens (int32): boundaries (sequences + 1,) of sequences packed into one row (b = 1);
                neither convolution nor state crosses one. A cache then has one row a sequence.

        Returns:
            (dtype of the weights): output (b, L, d_model). Inside ``torch.autocast`` the dtype of
            autocast.

        Raises:
            ValueError, TypeError: a tensor of the wrong shape, dtype or device.
        """
        weight = self.in_proj.weight
        check_tensor(hidden_states, "hidden_states", ("b", "L", "d_model"),
                     (None, None, self.d_model), device=weight.device)
        self._check_dtype(hidden_states)
        b, L, _ = hidden_states.shape
        rows, conv_state, ssm_state = b, None, None
        if cu_seqlens is not None:
            rows = check_packed(cu_seqlens, b, "hidden_states")
            check_device(cu_seqlens, "cu_seqlens", weight.device, "the model")
            if not torch.compiler.is_compiling():
                check_boundaries(cu_seqlens, L)
        if cache is not None:
            conv_state, ssm_state = self._check_cache(cache, rows)
            if L == 1 and cu_seqlens is None and not torch.is_grad_enabled():
                return self.step(hidden_states, conv_state, ssm_state)[0]

        x, z = self._project(hidden_states)  # (b, d_inner, L)
        x, window = self._convolve(x, conv_state, cu_seqlens)
        selection = _mix_channels(self.x_proj.weight, x)  # (b, rank + 2 n, L)
        dt, B, C = selection.split([self.dt_rank, self.d_state, self.d_state], dim=1)
        dt = _mix_channels(self.dt_proj.weight, dt)  # (b, d_inner, L)
        y, last_state = selective_scan_fn(
            x, dt, -torch.exp(self.A_log), B, C, self.D, z, delta_bias=self.dt_proj.bias,
            delta_softplus=True, return_last_state=True,
            initial_state=None if ssm_state is None else ssm_state.clone(), cu_seqlens=cu_seqlens)
        if cache is not None:
            conv_state.copy_(window.detach())
            ssm_state.copy_(last_state.detach())
        return self.out_proj(y.transpose(1, 2))

    @torch.no_grad()
    def step(self, hidden_states, conv_state, ssm_state):
        """Take one sample: a constant amount of work and memory. For inference, without gradients.

        Args:
            hidden_states (dtype of the weights): one sample of each row (b, 1, d_model).
            conv_state: the last d_conv inputs of the convolution (b, d_inner, d_conv).
            ssm_state: the state of the scan (b, d_inner, n). Both change in place.

        Returns:
            (y, conv_state, ssm_state): the output (b, 1, d_model), and the states that were given.

        Raises:
            ValueError, TypeError: a tensor of the wrong shape, dtype or device.
        """
        check_tensor(hidden_states, "hidden_states", ("b", "1", "d_model"), (None, 1, self.d_model),
                     device=self.in_proj.weight.device)
        self._check_dtype(hidden_states)
        self._check_cache((conv_state, ssm_state), hidden_states.shape[0])
        x, z = self.in_proj(hidden_states[:, 0]).chunk(2, dim=-1)  # (b, d_inner)
        x = self._convolve_one(x, conv_state)
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = functional.linear(dt, self.dt_proj.weight)  # the bias is added in float32
        y = selective_state_update(ssm_state, x, dt, self.A_log, B, C, self.D, z,
                                   dt_bias=self.dt_proj.bias, dt_softplus=True, A_is_log=True)
        return self.out_proj(y)[:, None], conv_state, ssm_state

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        """Return the state before the first sample: zeros, of a size that no length changes.

        Args:
            batch_size (int): rows b.
            max_seqlen (int): accepted as caches of attention need it; nothing depends on it.
            dtype: of both states; by default the convolution's is that of the weights and the scan's
                float32 (float64 in a float64 model).

        Returns:
            (conv_state, ssm_state): (b, d_inner, d_conv) and (b, d_inner, n).
        """
        b, device = as_int(batch_size, "batch_size", low=0), self.conv1d.weight.device
        return (torch.zeros(b, self.d_inner, self.d_conv, device=device,
                            dtype=dtype or self.conv1d.weight.dtype),
                torch.zeros(b, self.d_inner, self.d_state, device=device,
                            dtype=dtype or self.A_log.dtype))

    def _project(self, hidden_states):
        """x and z, both (b, d_inner, L) with time contiguous."""
        weight, bias = self.in_proj.weight, self.in_proj.bias
        if hidden_states.shape[0] == 1 or not _operators.fuses(hidden_states):
            return _channels_first(self.in_proj, hidden_states).chunk(2, dim=1)
        # Two products leave each in one piece, as the scan reads z: it needs no copy.
        both = [_mix_channels(half, hidden_states.mT) for half in weight.chunk(2)]
        if bias is not None:
            both = [y + half[:, None] for y, half in zip(both, bias.chunk(2))]
        return both

    def _convolve(self, x, conv_state, cu_seqlens):
        """SiLU of the causal convolution of x (b, d_inner, L), and its last d_conv inputs.

        d_conv samples from before stand in front of each sequence, and so the first of the outputs,
        which belongs to the last of those, is dropped.
        """
        k, L = self.d_conv, x.shape[-1]
        if cu_seqlens is None:
            if k <= _operators.MOST_TAPS and _operators.fuses(x):
                weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
                return _operators.convolve(x, weight, bias, conv_state)
            if conv_state is None:
                conv_state = x.new_zeros(*x.shape[:2], k)
            padded = torch.cat([conv_state.to(x.dtype), x], dim=-1)  # (b, d_inner, k + L)
            return functional.silu(self._filter(padded)[..., 1:]), padded[..., -k:]

        # One long row: k earlier samples, the first sequence, k earlier samples, the second …
        sequences = cu_seqlens.shape[0] - 1
        t = torch.arange(L, dtype=torch.int32, device=x.device)
        sequence = torch.searchsorted(cu_seqlens[1:], t, right=True)  # (L,)
        where = t + (sequence + 1) * k  # (L,)
        offsets = torch.arange(k, device=x.device)
        starts = cu_seqlens[:-1] + k * torch.arange(sequences, device=x.device)
        ends = cu_seqlens[1:] + k * torch.arange(1, sequences + 1, device=x.device)
        padded = x.new_zeros(1, self.d_inner, L + sequences * k).index_copy(-1, where, x)
        if conv_state is not None:
            before = conv_state.to(x.dtype).transpose(0, 1).reshape(1, self.d_inner, -1)
            padded = padded.index_copy(-1, (starts[:, None] + offsets).flatten(), before)
        window = padded[0][:, ends[:, None] - k + offsets].transpose(0, 1)
        return functional.silu(self._filter(padded)[..., where - k + 1]), window

    def _convolve_one(self, x, conv_state):
        """The same for one sample x (b, d_inner); conv_state moves on by one."""
        if _operators.fuses(x):
            weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
            return _operators.convolve_one(conv_state, x, weight, bias)
        window = torch.cat([conv_state[..., 1:], x[..., None].to(conv_state.dtype)], dim=-1)
        conv_state.copy_(window)
        return functional.silu(self._filter(window.to(x.dtype))[..., 0])

    def _filter(self, padded):
        """One filter a channel over padded (b, d_inner, T): (b, d_inner, T - d_conv + 1)."""
        weight, bias = self.conv1d.weight, self.conv1d.bias
        if padded.device.type != "cpu":
            return functional.conv1d(padded, weight, bias, groups=self.d_inner)
        # On a CPU shifted products take a third of the time of conv1d, and less in low precision.
        T = padded.shape[-1] - self.d_conv + 1
        wide = padded.to(self.A_log.dtype)
        y = torch.zeros_like(wide[..., :T]) if bias is None else bias[:, None]
        for j in range(self.d_conv):
            y = torch.addcmul(y, wide[..., j:j + T], weight[:, :, j].to(wide.dtype))
        return y.to(padded.dtype)

    def _apply(self, fn, recurse=True):
        """Convert or move the parameters; those that set the decay do not go below float32."""
        wide = [x for p in (self.A_log, self.D, self.dt_proj.bias) for x in (p, p.grad)]

        def careful(x):
            new = fn(x)
            if new.itemsize < 4 and any(x is kept for kept in wide):
                new = x.to(device=new.device, dtype=torch.float32)
            return new

        super()._apply(careful, recurse)
        self._mark()
        return self

    def __setstate__(self, state):
        """Restore a copied block; PyTorch does not copy the marks of parameters."""
        super().__setstate__(state)
        self._mark()

    def _mark(self):
        self.A_log._no_weight_decay = True
        self.D._no_weight_decay = True
        self.dt_proj.bias._no_reinit = True

    def _check_dtype(self, hidden_states):
        dtype = self.in_proj.weight.dtype
        if hidden_states.dtype != dtype and not torch.is_autocast_enabled(hidden_states.device.type):
            raise TypeError(f"hidden_states has dtype {hidden_states.dtype}, expected {dtype}, "
                            "that of the weights")

    def _check_cache(self, cache, rows):
        if not isinstance(cache, (tuple, list)) or len(cache) != 2:
            raise TypeError(f"cache is a {type(cache).__name__}, expected (conv_state, ssm_state)")
        device = self.in_proj.weight.device
        for state, name, last in zip(cache, ("conv_state", "ssm_state"),
                                     (self.d_conv, self.d_state)):
            check_tensor(state, name, ("rows", "d_inner", "d_conv" if name == "conv_state" else "n"),
                         (rows, self.d_inner, last), device=device)
        return cache

    def extra_repr(self):
        return f"d_model={self.d_model}, d_state={self.d_state}, d_conv={self.d_conv}"


def _channels_first(linear, x):
    """A linear map of x (b, L, in), laid out (b, out, L) with time contiguous, as the scan reads it."""
    b, L, width = x.shape
    y = linear.weight @ x.reshape(b * L, width).T  # (out, b L)
    if linear.bias is not None:
        y = y + linear.bias[:, None]
    return y.view(y.shape[0], b, L).transpose(0, 1)


def _mix_channels(weight, x):
    """A linear map of x (b, in, L) to (b, out, L), contiguous. An expanded weight costs no memory."""
    return torch.bmm(weight.expand(x.shape[0], -1, -1), x)
