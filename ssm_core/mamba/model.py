"""The language model of Mamba and Mamba-2: embedding, a stack of blocks on a float32 residual, and a head.

Names of modules and of the fields of :class:`MambaConfig` are those of the published checkpoints.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recompute

from ssm_core._checks import as_choice, as_flag, as_int, as_positive
from ssm_core._dispatch import is_transformed
from ssm_core._modules import is_plain
from ssm_core._tensors import Packing, as_device, as_packing, read_boundaries
from ssm_core.mamba import _operators, checkpoint, generation
from ssm_core.mamba._arguments import as_tokens, check_token_range
from ssm_core.mamba._mixer import InferenceCache, Mixer, option_defaults
from ssm_core.mamba._modules import widened
from ssm_core.mamba._stepping import MambaStepper
from ssm_core.mamba.block import Mamba
from ssm_core.mamba.mamba2 import Mamba2

__all__ = ["MambaConfig", "MambaLM"]

BLOCKS: dict[str, type[Any]] = {"Mamba1": Mamba, "Mamba2": Mamba2}  # what ssm_cfg may name


@dataclasses.dataclass(frozen=True)
class MambaConfig:
    """Sizes and options of a :class:`MambaLM`, with the names and defaults of the published ones.

    A configuration does not change; ``dataclasses.replace(config, ...)`` makes another one.

    Args:
        d_model: width of the residual stream.
        n_layer: number of blocks.
        vocab_size: number of tokens.
        ssm_cfg: ``"layer"``, the block: "Mamba1" for :class:`ssm_core.mamba.Mamba`, which it is
            unless something else is said, or "Mamba2" for :class:`ssm_core.mamba.Mamba2`; and
            arguments of the block that differ from its defaults.
        rms_norm: RMSNorm; False is LayerNorm.
        norm_epsilon: added to the mean square before its root.
        residual_in_fp32: keep the residual stream in float32 in models of lower precision.
        fused_add_norm: ignored; in the package of the paper's authors it chooses a kernel. Accepted
            so that published configurations load, and written again.
        pad_vocab_size_multiple: the embedding has ``vocab_size`` rows rounded up to this. The
            rows on top are not tokens: they are refused in the input, and the logits leave them out.
        tie_embeddings: the head shares the matrix of the embedding.
        initializer_range: standard deviation of the embedding at the start.
        rescale_prenorm_residual: start ``out_proj`` smaller by the root of ``n_layer``.
        eos_token_id: the token or tokens that end a text, where known.
        bos_token_id, pad_token_id: the tokens that begin and fill up a text, where known.

    Raises:
        ValueError, TypeError: a field out of its range, of the wrong kind, or an option in
            ``ssm_cfg`` that the block does not accept.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    section 4.2 and appendix E.2. Equation eq-mamba-parameters counts the weights.

    Example:
        >>> from ssm_core.mamba import MambaConfig
        >>> MambaConfig(d_model=64, n_layer=2, vocab_size=50277).padded_vocab_size
        50280
    """

    d_model: int
    n_layer: int
    vocab_size: int
    ssm_cfg: dict[str, Any] = dataclasses.field(default_factory=dict)
    rms_norm: bool = True
    norm_epsilon: float = 1e-5
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True
    initializer_range: float = 0.02
    rescale_prenorm_residual: bool = True
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for names, check in _FIELD_CHECKS.items():
            for name in names:
                object.__setattr__(self, name, check(getattr(self, name), name))
        name, known = self.block.__name__, option_defaults(self.block)
        unknown = sorted(map(str, set(self.ssm_cfg) - set(known) - {"layer"}))
        if unknown:
            raise ValueError(
                f"ssm_cfg holds {', '.join(unknown)}, expected options of the {name} "
                f"block: {', '.join(sorted(known))}"
            )
        try:
            self.make_block(device="meta")  # it checks each value
        except (TypeError, ValueError) as error:
            raise type(error)(f"ssm_cfg does not fit the {name} block: {error}") from None

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding, and of the head."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple

    @property
    def block(self) -> type[Any]:
        """The class of the blocks, which ``ssm_cfg["layer"]`` names."""
        return BLOCKS[self.ssm_cfg.get("layer", "Mamba1")]

    def make_block(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Mixer:
        """A block of a model with this configuration."""
        options = {name: value for name, value in self.ssm_cfg.items() if name != "layer"}
        return self.block(self.d_model, **options, device=device, dtype=dtype)


def _as_ssm_cfg(value, name):
    """A copy of a dict that names a block we have, or none."""
    if not isinstance(value, dict):
        raise TypeError(f"{name} is a {type(value).__name__}, expected a dict")
    as_choice(value.get("layer", "Mamba1"), f"{name}['layer']", tuple(BLOCKS))
    return dict(value)


def _as_token(value, name):
    return None if value is None else as_int(value, name, low=0)


def _as_tokens(value, name):
    """None, a token, or a list of tokens."""
    if isinstance(value, (list, tuple)):
        return [as_int(token, name, low=0) for token in value]
    return _as_token(value, name)


_FIELD_CHECKS = {
    ("d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple"): as_int,
    ("norm_epsilon", "initializer_range"): as_positive,
    (
        "rms_norm",
        "residual_in_fp32",
        "fused_add_norm",
        "tie_embeddings",
        "rescale_prenorm_residual",
    ): as_flag,
    ("ssm_cfg",): _as_ssm_cfg,
    ("eos_token_id",): _as_tokens,
    ("bos_token_id", "pad_token_id"): _as_token,
}


class MambaLM(nn.Module):
    """A language model of Mamba or Mamba-2 blocks: token numbers in, logits of the next one out.

    A block sees the normed residual stream, and its output is added to the stream. The stream is
    float32 whatever the dtype of the weights.

    Set ``gradient_checkpointing = True`` to keep one hidden state per block for the backward pass
    and compute the rest again: less memory, and one forward pass more.

    With ``config.tie_embeddings`` the head and the embedding are one parameter, and stay so through
    ``to_empty``, ``load_state_dict`` and ``load_state_dict(assign=True)``. A state dict whose head
    differs from its embedding is refused.

    Args:
        config: sizes and options.
        device, dtype: of the parameters. ``A_log``, ``D`` and the bias of Δ do not go below
            float32.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    section 3.4.

    Example:
        >>> import torch
        >>> from ssm_core.mamba import MambaConfig, MambaLM
        >>> model = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=32))
        >>> prompt = torch.tensor([[3, 1, 4, 1, 5]])
        >>> model(prompt).shape
        torch.Size([1, 5, 32])
        >>> model.generate(prompt, max_new_tokens=3).shape
        torch.Size([1, 8])
    """

    def __init__(
        self,
        config: MambaConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(config, MambaConfig):
            raise TypeError(f"config is a {type(config).__name__}, expected a MambaConfig")
        self.config = config
        self.gradient_checkpointing = False
        self.backbone = Backbone(config, device, dtype)
        self.lm_head = nn.Linear(
            config.d_model, config.padded_vocab_size, bias=False, device=device, dtype=dtype
        )
        self._initialize()
        self.tie_weights()
        self.register_load_state_dict_pre_hook(_check_tied)
        self.register_load_state_dict_post_hook(_tie_again)

    def forward(
        self,
        input_ids: Tensor,
        cache: dict[int, Any] | None = None,
        *,
        cu_seqlens: Tensor | Packing | None = None,
        num_last_tokens: int = 0,
    ) -> Tensor:
        """Return the logits of the token that follows each position.

        Args:
            input_ids (int64, int32 or uint8): tokens (b, L).
            cache: as ``allocate_inference_cache`` makes it, changed in place: a text in pieces
                gives the logits of one pass. No gradient flows between pieces.
            cu_seqlens (int32): boundaries (sequences + 1,) of texts packed into one row (b = 1); no
                text sees another. A cache then has one row per text.
            num_last_tokens: logits of that many last positions only; 0 is all of them. Of packed
                texts these are the last positions of each, which has at least so many.

        Returns:
            (dtype of the weights): logits (b, L or num_last_tokens, vocabulary), of packed texts
            with ``num_last_tokens`` (sequences, num_last_tokens, vocabulary), as a tensor. Other
            packages return an object with this tensor as its field ``logits``, and with columns
            for the rows that only fill up the embedding.

        Raises:
            ValueError, TypeError: wrong shapes, dtypes, devices, boundaries, or (on a CPU) tokens
                outside the vocabulary.
        """
        input_ids = as_tokens(input_ids, "input_ids", self.backbone.embedding.weight.device)
        last = as_int(num_last_tokens, "num_last_tokens", low=0)
        if cache is not None and (not isinstance(cache, dict) or len(cache) != self.config.n_layer):
            raise TypeError(
                f"cache is a {type(cache).__name__}, expected the dict that "
                "allocate_inference_cache returns, one entry per block"
            )
        packing = as_packing(
            cu_seqlens, input_ids.shape[0], input_ids.shape[1], "input_ids", input_ids.device
        )
        if input_ids.device.type == "cpu" and not (
            torch.compiler.is_compiling() or is_transformed()
        ):
            check_token_range(input_ids, self.config.vocab_size)
        hidden = self.backbone(input_ids, cache, packing, self.gradient_checkpointing)
        if last and packing is not None:
            hidden = hidden[0, _last_places(packing, last)]  # (sequences, last, d_model)
        elif last:
            hidden = hidden[:, -last:]
        return self._logits(hidden)

    def _logits(self, hidden):
        """Logits (..., vocabulary), in one piece, without the rows that only fill up the head."""
        size = self.config.vocab_size
        if self.config.padded_vocab_size == size:
            return self.lm_head(hidden)
        if is_plain(self.lm_head, nn.Linear) and self.lm_head.bias is None:
            return functional.linear(hidden, self.lm_head.weight[:size])
        return self.lm_head(hidden)[..., :size].contiguous()

    def generate(
        self,
        input_ids: Tensor | Sequence[Tensor],
        max_new_tokens: int,
        *,
        attention_mask: Tensor | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        stop_strings: str | bytes | Sequence[str | bytes] | None = None,
        tokenizer: Any = None,
        cache: dict[int, Any] | None = None,
        return_logprobs: bool = False,
        streamer: Any = None,
        generator: torch.Generator | None = None,
        cuda_graph: bool | None = None,
    ) -> Any:
        """Continue texts: the prompts through the scan, then one step per token.

        Memory and time per token do not depend on how long the text is. Prompts of several lengths
        are packed into one row, so each text comes out as it does alone. On a GPU the step is
        captured in a CUDA graph, and the graph is kept for the next call with the same batch size;
        on a CPU with Numba it is compiled, for some seconds in the first call on a machine. Both
        need a model that is made of plain modules: one with adapters, hooks or other modules in it
        takes its steps in PyTorch.

        Args:
            input_ids (int64, int32 or uint8): prompts of one length (b, L), L at least 1; or a list
                of prompts (L,), each with a length of its own.
            max_new_tokens: how many tokens to add, 0 or more.
            attention_mask: 1 for the tokens of prompts (b, L), 0 for what fills them up on the left
                or on the right; None if nothing does.
            temperature: 0 takes the most likely token; above 0, logits are divided by it and a
                token is drawn.
            top_k, top_p, min_p: as for :func:`ssm_core.mamba.sample`.
            repetition_penalty: logits of tokens that the prompt or the new text holds are divided by
                this where they are above 0, and multiplied where they are below; 1 leaves them.
            eos_token_id: a row ends with one of these; generation stops when every row has ended.
            pad_token_id: fills rows that have ended; None repeats the token that ended them.
            stop_strings: a row ends, too, where its new text holds one of these.
            tokenizer: has a method ``decode`` that turns a list of tokens into the text in which
                ``stop_strings`` are looked for; without it, tokens are bytes.
            cache: as ``allocate_inference_cache`` makes it: the state before the prompts, changed
                in place. It then has read each text but for the last token, with which the prompt
                of the next call begins: ``generate(text[:, -1:], 20, cache=cache)`` goes on.
            return_logprobs: return the log-probabilities of the new tokens too, those of the model
                itself, without penalty, temperature and selection.
            streamer: gets the prompt, then the tokens of each step, by its method ``put``, and
                ``end()``, as the streamers of transformers.
            generator: source of chance, on the device of the model.
            cuda_graph: capture the step; None does so on CUDA devices where the model is plain.

        Returns:
            ``input_ids`` and new tokens (b, L + new), each below ``vocab_size``, in the dtype of
            ``input_ids`` (int64 for uint8); a list of texts (L + new,) for a list, each up to its
            end. With ``return_logprobs`` a pair, the second (b, new) with 0 in rows that have
            ended, or a list of (new,).

        Raises:
            ValueError, TypeError: a wrong argument, which the message names.

        Source of the penalty: Keskar and others, "CTRL: A Conditional Transformer Language Model for
        Controllable Generation" (2019), section 4.1, with the sign rule of transformers.

        Example:
            >>> import torch
            >>> from ssm_core.mamba import MambaConfig, MambaLM
            >>> model = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=32))
            >>> prompts = [torch.tensor([3, 1]), torch.tensor([4, 1, 5, 9])]
            >>> [len(text) for text in model.generate(prompts, max_new_tokens=5)]
            [7, 9]
            >>> cache = model.allocate_inference_cache(1)
            >>> text = model.generate(prompts[0][None], 5, cache=cache)
            >>> model.generate(text[:, -1:], 5, cache=cache).shape  # goes on
            torch.Size([1, 6])
        """
        options = generation.Options(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            stop_strings=stop_strings,
            tokenizer=tokenizer,
            generator=generator,
            cuda_graph=cuda_graph,
        )
        return generation.generate(
            self,
            input_ids,
            attention_mask,
            max_new_tokens,
            options,
            cache=cache,
            return_logprobs=return_logprobs,
            streamer=streamer,
        )

    def stream(
        self,
        input_ids: Tensor | Sequence[Tensor],
        max_new_tokens: int,
        *,
        attention_mask: Tensor | None = None,
        cache: dict[int, Any] | None = None,
        **options: Any,
    ) -> Iterator[Tensor]:
        """Yield the tokens (b,) of each step as they come; arguments as for :meth:`generate`.

        The loop may be left at any token: a cache then has read all but the last one. A text of one
        row becomes readable by :func:`ssm_core.mamba.stream_text`.
        """
        prompts = generation.read_prompts(input_ids, attention_mask, self)
        steps = generation.run(self, prompts, max_new_tokens, generation.Options(**options), cache)
        return (step.tokens for step in steps)

    def stepper(self) -> MambaStepper:
        """The model as it is now, ready to read one token at a time: see :class:`MambaStepper`."""
        return MambaStepper(copy.deepcopy(self).eval().requires_grad_(False))

    def allocate_inference_cache(
        self,
        batch_size: int,
        max_seqlen: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> dict[int, InferenceCache]:
        """Return the state before the first token of every block, zeros: {block: (conv, ssm)}.

        Arguments as for :meth:`ssm_core.mamba.Mamba.allocate_inference_cache`.
        """
        mixers: list[Any] = [layer.mixer for layer in self.backbone.layers]
        return {
            i: mixer.allocate_inference_cache(batch_size, max_seqlen, dtype, device)
            for i, mixer in enumerate(mixers)
        }

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> MambaLM:
        """Load a published checkpoint from disk; nothing is downloaded and nothing unpickled.

        Both published layouts are read, of Mamba and of Mamba-2: ``config.json`` with
        ``pytorch_model.bin`` as the authors of the papers publish it, and the one of
        ``transformers``, ``config.json`` of ``MambaForCausalLM``, ``FalconMambaForCausalLM`` or
        ``Mamba2ForCausalLM`` with ``model.safetensors`` or ``pytorch_model.bin``, in one file or in
        shards with an index.

        Args:
            path: the folder, or the file of weights (or their index) in it.
            device: where the model goes.
            dtype: of the weights; by default that of the file.
            progress: called as ``progress(done, total)`` in bytes while weights load.

        Returns:
            the model, in evaluation mode.

        Raises:
            ValueError: no such file; a file that is truncated or corrupt; a configuration of another
                model; keys that are missing, not expected or of the wrong shape; numbers that are
                not finite; a device that is not there. The message names the file and the keys,
                and nothing is loaded.
            ModuleNotFoundError: safetensors is needed and not installed.
        """
        device = as_device(device)
        fields, weights = checkpoint.locate(path)
        try:
            model = cls(MambaConfig(**fields), device="meta")
        except (TypeError, ValueError) as error:
            raise ValueError(f"the configuration of {weights} does not fit: {error}") from None
        with checkpoint.Weights(weights) as tensors:
            tensors.check(model.state_dict(), tied=model.config.tie_embeddings)
            model.to(dtype or tensors.dtype).to_empty(device=device)
            tensors.copy_to(model.state_dict(), progress)
        return model.eval()

    def save_pretrained(self, folder: str | os.PathLike[str], layout: str = "transformers") -> None:
        """Write ``config.json`` and the weights; an interrupted call leaves no half-written file.

        ``generation_config.json`` comes with them: the tokens that begin, end and fill up a text, and
        for transformers the rows of the embedding that are not tokens. A head that differs from the embedding is
        written, and the configuration says so, whatever ``tie_embeddings`` says. The layout
        "state-spaces" has no field for ``initializer_range`` and ``rescale_prenorm_residual``,
        which concern the start of training only.

        Args:
            folder: made if it is not there.
            layout: "transformers": ``model.safetensors``, which ``transformers.MambaForCausalLM``
                (with ``mixer_rms_eps``, ``FalconMambaForCausalLM``; of Mamba-2,
                ``Mamba2ForCausalLM``) loads; "state-spaces": ``pytorch_model.bin`` as the authors of
                the papers publish it.

        Raises:
            ValueError: an unknown layout; a model that the layout cannot hold (in that of
                ``transformers`` LayerNorm, and of Mamba-2 two epsilons, another norm or none,
                ``d_ssm`` and ``D_has_hdim``; in the other ``mixer_rms_eps`` or another epsilon than
                1e-5); weights under other names than the published ones, as adapters leave them; a
                folder with weights in another format, which would be read instead.
        """
        layout = as_choice(layout, "layout", checkpoint.LAYOUTS)
        state = self.state_dict()
        checkpoint.check_state(state, MambaLM(self.config, device="meta").state_dict())
        checkpoint.save(
            state, dataclasses.asdict(self.config), self.config.padded_vocab_size, folder, layout
        )

    def tie_weights(self) -> None:
        """Let the head share the matrix of the embedding, if the configuration says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def extra_repr(self) -> str:
        config = self.config
        return (
            f"d_model={config.d_model}, n_layer={config.n_layer}, "
            f"vocab_size={config.vocab_size}, tie_embeddings={config.tie_embeddings}"
        )

    def _is_tied(self):
        """Whether head and embedding are one parameter now."""
        return self._has_plain_ends() and self.lm_head.weight is self.backbone.embedding.weight

    def _has_plain_ends(self):
        """Whether head and embedding have a parameter each of their own: adapters have none."""
        return (
            "weight" in self.lm_head._parameters and "weight" in self.backbone.embedding._parameters
        )

    def _apply(self, fn, recurse=True):
        """Convert or move the parameters; a shared one may come out as two."""
        tied = self._is_tied()
        super()._apply(fn, recurse)
        if tied:
            self.tie_weights()
        return self

    @torch.no_grad()
    def _initialize(self):
        """The start of the published models: zero biases but Δ's, a small embedding and out_proj."""
        nn.init.normal_(self.backbone.embedding.weight, std=self.config.initializer_range)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if module.bias is not None and not hasattr(module.bias, "_no_reinit"):
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Mixer) and self.config.rescale_prenorm_residual:
                module.out_proj.weight /= math.sqrt(self.config.n_layer)


def _check_tied(model, state, prefix, metadata, *_):
    """Refuse a state dict for a tied model whose head differs from its embedding.

    Of two matrices the last one loaded would silently replace the other. If numbers are copied, one
    name is enough to set the one parameter; if parameters are replaced, both names are needed.
    """
    if not model.config.tie_embeddings or not model._has_plain_ends():
        return
    embedding, head = f"{prefix}backbone.embedding.weight", f"{prefix}lm_head.weight"
    if embedding in state and head in state:
        a, b = state[embedding], state[head]
        if not _equal(a, b):
            raise ValueError(
                f"the state dict holds a {head} that differs from {embedding}, "
                "expected one matrix, as tie_embeddings is True; a model with "
                "tie_embeddings=False holds both"
            )
    elif metadata.get("assign_to_params_buffers"):
        for have, lacks in ((embedding, head), (head, embedding)):
            if have in state:
                state[lacks] = state[have]
                break


def _tie_again(model, incompatible_keys):
    """``load_state_dict(assign=True)`` sets two parameters where there was one."""
    embedding, head = model.backbone.embedding, model.lm_head
    if model._has_plain_ends() and _equal(embedding.weight, head.weight):
        model.tie_weights()


def _equal(a, b):
    """Whether two matrices hold the same numbers; on the device meta they hold none."""
    if a is b:
        return True
    if a.is_meta or b.is_meta:
        return a.is_meta and b.is_meta
    return a.shape == b.shape and torch.equal(a, b.to(a))


def _last_places(packing, last):
    """Indices (sequences, last) of the last tokens of each packed text."""
    cu_seqlens = packing.cu_seqlens
    if not torch.compiler.is_compiling():
        bounds = read_boundaries(cu_seqlens)
        shortest = min(stop - start for start, stop in zip(bounds, bounds[1:]))
        if shortest < last:
            raise ValueError(
                f"num_last_tokens is {last}, expected at most the length of the shortest text, "
                f"{shortest}"
            )
    return cu_seqlens[1:, None] - torch.arange(last, 0, -1, device=cu_seqlens.device)


class Backbone(nn.Module):
    """Embedding, blocks and last norm: tokens (b, L) to hidden states (b, L, d_model)."""

    def __init__(
        self,
        config: MambaConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model, **like)
        self.layers = nn.ModuleList(Layer(config, **like) for _ in range(config.n_layer))
        self.norm_f = _norm(config, like)

    def forward(
        self,
        input_ids: Tensor,
        cache: dict[int, Any] | None = None,
        packing: Packing | None = None,
        recomputed: bool = False,
    ) -> Tensor:
        """Run all blocks; with ``recomputed`` their inner tensors are not kept for the backward."""
        hidden = self.embedding(input_ids)  # (b, L, d_model)
        if self.residual_in_fp32:
            hidden = widened(hidden, hidden)
        residual = None
        recomputed = recomputed and cache is None and torch.is_grad_enabled()
        for i, layer in enumerate(self.layers):
            state = None if cache is None else cache[i]
            if recomputed:
                stream = hidden if residual is None else residual + hidden  # one tensor to keep
                hidden, residual = recompute(
                    layer, stream, None, state, packing, use_reentrant=False
                )
            else:
                hidden, residual = layer(hidden, residual, state, packing)
        return _add_and_norm(self.norm_f, hidden, residual)[0]


class Layer(nn.Module):
    """Norm and block. The sum with the residual stream (b, L, d_model) is left to the next layer,
    because there it takes one kernel together with the norm."""

    def __init__(
        self,
        config: MambaConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm = _norm(config, like)
        self.mixer = config.make_block(**like)

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None = None,
        cache: Any = None,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the output of the block and the stream that it is to be added to.

        Args:
            hidden: the output (b, L, d_model) of the layer before.
            residual: the stream that this is to be added to; None where hidden is the stream.
            cache, packing: as ``cache`` and ``cu_seqlens`` of :meth:`Mamba.forward`.
        """
        normed, residual = _add_and_norm(self.norm, hidden, residual)
        return self.mixer(normed, cache, cu_seqlens=packing), residual


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis, computed in float32, returned as the weight's dtype."""

    def __init__(
        self,
        width: int,
        eps: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        if _fuses(x):
            return cast(Tensor, _operators.add_norm(x, None, self.weight, self.eps))
        wide = widened(x, x)
        weight = widened(self.weight, x)
        return functional.rms_norm(wide, weight.shape, weight, self.eps).to(self.weight.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps:g}"


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed in float32, returned as the weight's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        wide = widened(x, x)
        return functional.layer_norm(
            wide, self.normalized_shape, widened(self.weight, x), widened(self.bias, x), self.eps
        ).to(self.weight.dtype)


def _add_and_norm(norm, hidden, residual):
    """The norm of hidden + residual, and that sum."""
    if residual is None:
        return norm(hidden), hidden
    if is_plain(norm, RMSNorm) and _fuses(residual):
        total, normed = _operators.add_norm(residual, hidden, norm.weight, norm.eps)
        return normed, total
    total = residual + hidden
    return norm(total), total


def _fuses(x):
    """Whether norms of x are kernels of ours; torch.compile makes its own of the lines above."""
    return _operators.fuses(x) and not torch.compiler.is_compiling()


def _norm(config, like):
    return (RMSNorm if config.rms_norm else LayerNorm)(
        config.d_model, eps=config.norm_epsilon, **like
    )
