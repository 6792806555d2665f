"""What the blocks have in common: their cache, and the ways in which they are called.

A block computes in ``_run`` (a sequence) and ``_step`` (one sample). What surrounds the computation
is here: checks, the states before and after, and what stays in float32.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core._checks import as_int, as_positive
from ssm_core._modules import is_plain
from ssm_core._tensors import Packing, as_packing, check_finite
from ssm_core.mamba._arguments import check_tensor
from ssm_core.mamba._modules import keep_wide

__all__ = ["InferenceCache", "Mixer", "drawn_step_biases", "option_defaults"]


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


class Mixer(nn.Module):
    """A block with a short convolution and a state space model, and the cache of both.

    Subclasses have the submodules ``in_proj`` and ``conv1d``, the parameters that ``no_weight_decay``
    names, which stay in float32, and the three methods below that are not implemented here.
    """

    no_weight_decay: tuple[str, ...] = ()
    d_model: int
    A_log: Tensor
    in_proj: Any
    conv1d: Any

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_mark_again)

    def _state_sizes(self) -> tuple[dict[str, int], dict[str, int]]:
        """The axes behind the batch of conv_state and of ssm_state, with their sizes."""
        raise NotImplementedError

    def _run(
        self,
        hidden_states: Tensor,
        conv_state: Tensor | None,
        ssm_state: Tensor | None,
        packing: Packing | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A sequence (b, L, d_model): the output, and both states after it, as new tensors or views
        of new tensors."""
        raise NotImplementedError

    def _step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> Tensor:
        """One sample (b, d_model) of each row: output (b, d_model); both states change in place."""
        raise NotImplementedError

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
                tuple: the state before the first sample. Both change in place to the state after
                the last one, so a sequence in pieces gives the numbers of one pass. No gradient
                flows from one piece into the one before.
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

        out, window, last_state = self._run(hidden_states, conv_state, initial_state, packing)
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
            conv_state, ssm_state: the state before it, as ``allocate_inference_cache`` makes it.
                Both change in place.

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
            (conv_state, ssm_state): the last d_conv inputs of each channel of the convolution
            (b, channels, d_conv), and the states: (b, d_inner, n) for Mamba, (b, nheads, headdim,
            d_state) for Mamba2.
        """
        b, device = as_int(batch_size, "batch_size", low=0), device or self.A_log.device
        wide = torch.promote_types(self.A_log.dtype, torch.float32)
        conv, ssm = self._state_sizes()
        return InferenceCache(
            torch.zeros(b, *conv.values(), device=device, dtype=dtype or self.conv1d.weight.dtype),
            torch.zeros(b, *ssm.values(), device=device, dtype=dtype or wide),
        )

    def default_state(self, batch_size: int) -> InferenceCache:
        """Return the state before the first sample, as ``allocate_inference_cache`` does."""
        return self.allocate_inference_cache(batch_size, max_seqlen=1)

    def _apply(self, fn, recurse=True):
        super()._apply(keep_wide(self, self.no_weight_decay, fn), recurse)
        self._mark()
        return self

    def __setstate__(self, state):
        """Restore a copied block; PyTorch does not copy the marks of parameters."""
        super().__setstate__(state)
        self._mark()

    def _mark(self):
        """Mark what should not decay, as other training code expects it."""
        for name in self.no_weight_decay:
            getattr(self, name)._no_weight_decay = True

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
        conv, ssm = self._state_sizes()
        for state, name, sizes in ((conv_state, "conv_state", conv), (ssm_state, "ssm_state", ssm)):
            check_tensor(state, name, ("rows", *sizes), (rows, *sizes.values()), device=device)
        return conv_state, ssm_state


def option_defaults(block: type[Mixer]) -> dict[str, Any]:
    """The arguments of a block that a configuration may set, with their defaults."""
    others = ("d_model", "layer_idx", "device", "dtype")
    parameters = inspect.signature(block).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in others}


def drawn_step_biases(
    count: int, dt_min: float, dt_max: float, dt_init_floor: float, **like: Any
) -> Tensor:
    """Biases of Δ at the start: the inverse of softplus of steps that are uniform in log Δ."""
    log_dt = torch.empty(count, **like).uniform_(math.log(dt_min), math.log(dt_max))
    dt = torch.exp(log_dt).clamp(min=as_positive(dt_init_floor, "dt_init_floor"))
    return dt + torch.log(-torch.expm1(-dt))


def _mark_again(block, incompatible_keys):
    """Marks are attributes of parameters, which ``load_state_dict(assign=True)`` replaces."""
    block._mark()
