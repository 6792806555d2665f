"""The way from a model to its compiled step on a CPU: who may take it, and what it reads.

``ssm_core.mamba._compiled`` holds the arithmetic, and needs Numba. Without it, on other devices, in
16 bits and for models with other modules or hooks, a token goes through the modules.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ssm_core._modules import is_plain
from ssm_core._tensors import check_kind, check_shape
from ssm_core.mamba._arguments import as_tokens, check_token_range
from ssm_core.mamba.block import Mamba, StepProjection
from ssm_core.mamba.mamba2 import GatedRMSNorm, Mamba2

__all__ = ["MambaStepper", "TokenStep", "pack"]

# A block whose largest matrix has more numbers than this is left to PyTorch's matrix products,
# where those have several threads: the compiled step has one.
MOST_FOR_ONE_THREAD = 2**20


@functools.cache
def kernels() -> Any:
    """The compiled functions, or None where there is no Numba that works."""
    try:
        from ssm_core.mamba import _compiled
    except ImportError:
        return None
    return _compiled


class BlockStep(NamedTuple):
    """What the compiled step of a block reads."""

    kernel: str  # the name of the function
    weights: tuple[Any, ...]  # its arguments but stream and states
    states: tuple[tuple[int, ...], ...]  # shapes of conv_state and ssm_state for one text


class TokenStep(NamedTuple):
    """What the compiled step reads: the memory of the parameters themselves."""

    dtype: torch.dtype
    embedding: np.ndarray
    blocks: list[BlockStep]
    end: tuple[Any, ...]  # weight and epsilon of the last norm, weight of the head

    def __call__(self, tokens: Tensor, cache: Mapping[int, Any]) -> Tensor:
        """Read one token (b,) of each text; logits (b, vocabulary). The cache changes in place."""
        stream = self.embedding[tokens.numpy()]  # a copy
        for i, block in enumerate(self.blocks):
            step = getattr(kernels(), block.kernel)
            step(stream, *block.weights, *(state.numpy() for state in cache[i]))
        logits = np.empty((len(stream), len(self.end[-1])), stream.dtype)
        kernels().step_head(stream, *self.end, logits)
        return torch.from_numpy(logits)

    def fits(self, cache: Mapping[int, Any], rows: int) -> bool:
        """Whether these are states of so many texts that can change in place here."""
        if not isinstance(cache, dict) or len(cache) != len(self.blocks):
            return False
        for i, block in enumerate(self.blocks):
            for state, shape in zip(cache[i], block.states):
                if (
                    state.dtype != self.dtype
                    or state.device.type != "cpu"
                    or state.shape != (rows, *shape)
                    or not state.is_contiguous()
                ):
                    return False
        return True


@dataclass(frozen=True, eq=False, repr=False)
class MambaStepper:
    """A :class:`MambaLM` that reads one token at a time, with the parameters it had when this was
    made.

    Made by ``model.stepper()``: a copy of the model, without gradients. It does not follow the
    model's parameters: after training on, make a new one. With Numba, a token on a CPU takes one
    compiled call for each block. ``generate`` and ``stream`` do the same without a copy.

    A prompt goes faster through ``model(prompt, cache)``, which reads it at once.

    Example:
        >>> import torch
        >>> from ssm_core.mamba import MambaConfig, MambaLM, sample
        >>> stepper = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=32)).stepper()
        >>> cache, tokens = stepper.allocate_inference_cache(3), torch.tensor([1, 2, 3])
        >>> for _ in range(5):
        ...     logits, cache = stepper.step(tokens, cache)
        ...     tokens = sample(logits, temperature=0.8, top_k=10)
        >>> logits.shape
        torch.Size([3, 32])
    """

    model: Any

    @torch.no_grad()
    def step(self, input_ids: Tensor, cache: dict[int, Any]) -> tuple[Tensor, dict[int, Any]]:
        """Read one token of each text.

        Args:
            input_ids (int64, int32 or uint8): tokens (b,).
            cache: the state before them, changed in place.

        Returns:
            (logits, cache): logits (b, vocabulary) of the tokens that follow, and the cache that was
            given.

        Raises:
            ValueError, TypeError: wrong shapes or dtypes, or (on a CPU) tokens outside the
                vocabulary.
        """
        check_kind(input_ids, "input_ids")
        check_shape(input_ids, "input_ids", ("b",), (None,))
        if self._packed is None or not self._packed.fits(cache, len(input_ids)):
            return self.model(input_ids[:, None], cache)[:, 0], cache
        tokens = as_tokens(input_ids[:, None], "input_ids", torch.device("cpu"))
        check_token_range(tokens, self.model.config.vocab_size)
        return self._packed(tokens[:, 0], cache), cache

    def allocate_inference_cache(self, batch_size: int) -> dict[int, Any]:
        """The state before the first token of each text."""
        return self.model.allocate_inference_cache(batch_size)

    @functools.cached_property
    def _packed(self) -> TokenStep | None:
        return pack(self.model)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles find the memory of their own parameters."""
        return MambaStepper, (self.model,)

    def __repr__(self) -> str:
        config = self.model.config
        return f"MambaStepper(d_model={config.d_model}, n_layer={config.n_layer})"


def pack(model: Any) -> TokenStep | None:
    """The compiled step of a model, or None where it does not run or would not pay."""
    parameters = list(model.parameters())
    dtype = parameters[0].dtype
    if dtype not in (torch.float32, torch.float64) or any(
        p.device.type != "cpu" or p.dtype != dtype or not p.is_contiguous() for p in parameters
    ):
        return None
    layers = list(model.backbone.layers)
    if not all(map(_is_plain_layer, layers)) or not _has_plain_ends(model):
        return None
    largest = max(layer.mixer.in_proj.weight.numel() for layer in layers)
    if largest > MOST_FOR_ONE_THREAD and torch.get_num_threads() > 1:
        return None
    if kernels() is None:
        return None
    norm, vocabulary = model.backbone.norm_f, model.config.vocab_size
    return TokenStep(
        dtype,
        _array(model.backbone.embedding.weight),
        [_block(layer) for layer in layers],
        (_array(norm.weight), norm.eps, _array(model.lm_head.weight)[:vocabulary]),
    )


def _has_plain_ends(model):
    from ssm_core.mamba.model import Backbone, MambaLM, RMSNorm  # they import this module

    return (
        is_plain(model, MambaLM)
        and is_plain(model.backbone, Backbone)
        and is_plain(model.backbone.embedding, nn.Embedding)
        and is_plain(model.backbone.norm_f, RMSNorm)
        and is_plain(model.lm_head, nn.Linear)
        and model.lm_head.bias is None
    )


def _is_plain_layer(layer):
    from ssm_core.mamba.model import Layer, RMSNorm

    block = layer.mixer
    return (
        is_plain(layer, Layer)
        and is_plain(layer.norm, RMSNorm)
        and (_is_plain_mamba(block) or _is_plain_mamba2(block))
        and is_plain(block.conv1d, nn.Conv1d)
        and is_plain(block.in_proj, nn.Linear)
        and is_plain(block.out_proj, nn.Linear)
    )


def _is_plain_mamba(block):
    return (
        is_plain(block, Mamba)
        and is_plain(block.dt_proj, StepProjection)
        and is_plain(block.x_proj, nn.Linear)
        and block.x_proj.bias is None
    )


def _is_plain_mamba2(block):
    return (
        is_plain(block, Mamba2)
        and block.d_ssm == block.d_inner
        and (not block.rmsnorm or is_plain(block.norm, GatedRMSNorm))
    )


def _block(layer):
    block = layer.mixer
    kernel, inner = (
        ("step_mamba", _inside_mamba) if type(block) is Mamba else ("step_mamba2", _inside_mamba2)
    )
    weights = (
        _array(layer.norm.weight),
        layer.norm.eps,
        _array(block.in_proj.weight),
        _array(block.in_proj.bias, block.D),
        _array(block.conv1d.weight)[:, 0],
        _array(block.conv1d.bias, block.D),
        *inner(block),
        _array(block.out_proj.weight),
        _array(block.out_proj.bias, block.D),
    )
    return BlockStep(kernel, weights, tuple(tuple(x.values()) for x in block._state_sizes()))


def _inside_mamba(block):
    return (
        _array(block.x_proj.weight),
        _array(block.dt_proj.weight),
        _array(block.dt_proj.bias),
        _array(block.A_log),
        _array(block.D),
        -1.0 if block.mixer_rms_eps is None else block.mixer_rms_eps,
    )


def _inside_mamba2(block):
    norm = block.norm if block.rmsnorm else None
    return (
        _array(block.dt_bias),
        *block.dt_limit,
        _array(block.A_log),
        _array(block.D),
        _array(None if norm is None else norm.weight, block.D),
        1.0 if norm is None else norm.eps,
        block.d_ssm if norm is None else norm.group_size,
        norm is not None and norm.norm_before_gate,
    )


def _array(parameter, like=None):
    """The memory of a parameter; nothing in the dtype of ``like`` where there is no parameter."""
    return like.new_empty(0).numpy() if parameter is None else parameter.detach().numpy()
