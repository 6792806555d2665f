"""The Mamba language model: embedding, a stack of blocks on a float32 residual, and a head.

Names of modules and of the fields of :class:`MambaConfig` are those of the published checkpoints.
"""

from __future__ import annotations

import dataclasses
import inspect
import math

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recompute

from ssm_core._checks import as_choice, as_int, as_positive
from ssm_core._tensors import check_boundaries, check_device, check_packed
from ssm_core.mamba import _operators, checkpoint, generation
from ssm_core.mamba._arguments import check_token_range, check_tokens
from ssm_core.mamba.block import Mamba

__all__ = ["MambaConfig", "MambaLM"]

_BLOCK_OPTIONS = set(inspect.signature(Mamba).parameters) - {"d_model", "device", "dtype", "layer_idx"}


@dataclasses.dataclass
class MambaConfig:
    """Sizes and options of a :class:`MambaLM`, with the names and defaults of the published ones.

    Args:
        d_model (int): width of the residual stream.
        n_layer (int): number of blocks.
        vocab_size (int): number of tokens.
        ssm_cfg (dict): arguments of :class:`ssm_core.mamba.Mamba` that differ from its defaults.
        rms_norm (bool): RMSNorm; False is LayerNorm.
        norm_epsilon (float): added to the mean square before its root.
        residual_in_fp32 (bool): keep the residual stream in float32 in models of lower precision.
        fused_add_norm (bool): accepted as published; it chooses a kernel there and nothing here.
        pad_vocab_size_multiple (int): the embedding has ``vocab_size`` rows rounded up to this. The
            rows on top are no tokens, and ``generate`` never returns them.
        tie_embeddings (bool): the head shares the matrix of the embedding.
        initializer_range (float): standard deviation of the embedding at the start.
        rescale_prenorm_residual (bool): start ``out_proj`` smaller by the root of ``n_layer``.
        eos_token_id (int, list or None): the tokens that end a text, where known.

    Raises:
        ValueError, TypeError: a field out of its range, of the wrong kind, or an unknown option in
            ``ssm_cfg``.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    section 4.2 and appendix E.2. Equation eq-mamba-parameters counts the weights.

    Example:
        >>> MambaConfig(d_model=64, n_layer=2, vocab_size=50277).padded_vocab_size
        50280
    """

    d_model: int
    n_layer: int
    vocab_size: int
    ssm_cfg: dict = dataclasses.field(default_factory=dict)
    rms_norm: bool = True
    norm_epsilon: float = 1e-5
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True
    initializer_range: float = 0.02
    rescale_prenorm_residual: bool = True
    eos_token_id: int | list[int] | None = None

    def __post_init__(self):
        for name in ("d_model", "n_layer", "vocab_size", "pad_vocab_size_multiple"):
            setattr(self, name, as_int(getattr(self, name), name))
        for name in ("norm_epsilon", "initializer_range"):
            setattr(self, name, as_positive(getattr(self, name), name))
        for name in ("rms_norm", "residual_in_fp32", "fused_add_norm", "tie_embeddings",
                     "rescale_prenorm_residual"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {getattr(self, name)!r}, expected True or False")
        if not isinstance(self.ssm_cfg, dict):
            raise TypeError(f"ssm_cfg is a {type(self.ssm_cfg).__name__}, expected a dict")
        unknown = sorted(map(str, set(self.ssm_cfg) - _BLOCK_OPTIONS))
        if unknown:
            raise ValueError(f"ssm_cfg holds {', '.join(unknown)}, expected options of the Mamba "
                             f"block: {', '.join(sorted(_BLOCK_OPTIONS))}")

    @property
    def padded_vocab_size(self):
        """Rows of the embedding and columns of the logits."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple


class MambaLM(nn.Module):
    """A language model of Mamba blocks: token numbers in, logits of the next token out.

    A block sees the normed residual stream, and what it returns is added to the stream. The stream
    is float32 whatever the dtype of the weights.

    Set ``gradient_checkpointing = True`` to keep one hidden state a block for the backward pass and
    compute the rest again: less memory, and one forward pass more.

    Args:
        config (MambaConfig): sizes and options.
        device, dtype: of the parameters. ``A_log``, ``D`` and the bias of Δ do not go below
            float32.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    section 3.4.

    Example:
        >>> import torch
        >>> model = MambaLM(MambaConfig(d_model=16, n_layer=2, vocab_size=32))
        >>> prompt = torch.tensor([[3, 1, 4, 1, 5]])
        >>> model(prompt).shape
        torch.Size([1, 5, 32])
        >>> model.generate(prompt, max_new_tokens=3).shape
        torch.Size([1, 8])
    """

    def __init__(self, config, device=None, dtype=None):
        super().__init__()
        if not isinstance(config, MambaConfig):
            raise TypeError(f"config is a {type(config).__name__}, expected a MambaConfig")
        self.config = config
        self.gradient_checkpointing = False
        self.backbone = Backbone(config, device, dtype)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False,
                                 device=device, dtype=dtype)
        self._initialize()
        self.tie_weights()

    def forward(self, input_ids, cache=None, *, cu_seqlens=None, num_last_tokens=0):
        """Return the logits of the token that follows each position.

        Args:
            input_ids (int64 or int32): tokens (b, L).
            cache (dict): as ``allocate_inference_cache`` makes it, changed in place: a text in
                pieces gives the logits of one pass. No gradient flows between pieces.
            cu_seqlens (int32): boundaries (sequences + 1,) of texts packed into one row (b = 1); no
                text sees another. A cache then has one row a text.
            num_last_tokens (int): logits of that many last positions only; 0 is all of them.

        Returns:
            logits (dtype of the weights): (b, L or num_last_tokens, padded vocabulary).

        Raises:
            ValueError, TypeError: wrong shapes, dtypes, devices, boundaries, or (on a CPU) tokens
                outside the vocabulary.
        """
        table = self.backbone.embedding.weight
        check_tokens(input_ids, table.device)
        last = as_int(num_last_tokens, "num_last_tokens", low=0)
        if cache is not None and (not isinstance(cache, dict) or len(cache) != self.config.n_layer):
            raise TypeError(f"cache is a {type(cache).__name__}, expected the dict that "
                            "allocate_inference_cache returns, one entry a block")
        if not torch.compiler.is_compiling():
            if table.device.type == "cpu":
                check_token_range(input_ids, table.shape[0])
            if cu_seqlens is not None:
                check_packed(cu_seqlens, input_ids.shape[0], "input_ids")
                check_device(cu_seqlens, "cu_seqlens", table.device, "the model")
                check_boundaries(cu_seqlens, input_ids.shape[1])
        hidden = self.backbone(input_ids, cache, cu_seqlens, self.gradient_checkpointing)
        return self.lm_head(hidden[:, -last:] if last else hidden)

    def generate(self, input_ids, max_new_tokens, *, temperature=0.0, top_k=None, top_p=None,
                 eos_token_id=None, generator=None, cuda_graph=None):
        """Continue texts: the prompt through the scan, then one step a token.

        Memory and time a token do not depend on how long the text is. On a GPU the step is captured
        in a CUDA graph; the graph is kept for the next call with the same batch size.

        Args:
            input_ids (int64 or int32): prompts of one length (b, L), L at least 1.
            max_new_tokens (int): how many tokens to add, 0 or more.
            temperature (float): 0 takes the most likely token; above 0, logits are divided by it and
                a token is drawn.
            top_k (int): draw from the k most likely tokens only.
            top_p (float): draw from the fewest tokens whose probability is at least this, in (0, 1].
            eos_token_id (int or list): a row ends with one of these and is filled up with it;
                generation stops when every row has ended.
            generator (torch.Generator): source of chance, on the device of the model.
            cuda_graph (bool): capture the step; None does so on CUDA devices.

        Returns:
            tokens: prompt and new tokens (b, L + new), in the dtype of ``input_ids``.

        Raises:
            ValueError, TypeError: a wrong argument, which the message names.
        """
        new = generation.stream(self, input_ids, max_new_tokens, temperature=temperature,
                                top_k=top_k, top_p=top_p, eos_token_id=eos_token_id,
                                generator=generator, cuda_graph=cuda_graph)
        return torch.cat([input_ids, *(tokens[:, None] for tokens in new)], dim=1)

    def stream(self, input_ids, max_new_tokens, **options):
        """Yield the tokens (b,) of each step as they come; arguments as for :meth:`generate`."""
        return generation.stream(self, input_ids, max_new_tokens, **options)

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        """Return the state before the first token of every block: {block: (conv, ssm)}, zeros."""
        return {i: layer.mixer.allocate_inference_cache(batch_size, max_seqlen, dtype)
                for i, layer in enumerate(self.backbone.layers)}

    @classmethod
    def from_pretrained(cls, path, *, device=None, dtype=None, progress=None):
        """Load a published checkpoint from disk; nothing is downloaded and nothing unpickled.

        Both published layouts are read: ``config.json`` with ``pytorch_model.bin`` as the authors
        of the paper publish it, and the one of ``transformers``, ``config.json`` of
        ``MambaForCausalLM`` with ``model.safetensors`` or ``pytorch_model.bin``, in one file or in
        shards with an index.

        Args:
            path (str or pathlib.Path): the folder, or the file of weights (or their index) in it.
            device: where the model goes.
            dtype: of the weights; by default that of the file.
            progress (callable): called as ``progress(done, total)`` in bytes while weights load.

        Returns:
            MambaLM: in evaluation mode.

        Raises:
            ValueError: no such file; a file that is truncated or corrupt; a configuration of another
                model; keys that are missing, not expected or of the wrong shape; numbers that are
                not finite. The message names the file and the keys, and nothing is loaded.
            ModuleNotFoundError: safetensors is needed and not installed.
        """
        fields, weights = checkpoint.locate(path)
        try:
            model = cls(MambaConfig(**fields), device="meta")
        except (TypeError, ValueError) as error:
            raise ValueError(f"the configuration of {weights} does not fit: {error}") from None
        with checkpoint.Weights(weights) as tensors:
            tensors.check(model.state_dict(), tied=model.config.tie_embeddings)
            model.to(dtype or tensors.dtype).to_empty(device=device or torch.get_default_device())
            model.tie_weights()
            tensors.copy_to(model.state_dict(), progress)
        return model.eval()

    def save_pretrained(self, folder, layout="transformers"):
        """Write ``config.json`` and the weights; an interrupted call leaves no half-written file.

        Args:
            folder (str or pathlib.Path): made if it is not there.
            layout (str): "transformers": ``model.safetensors``, which
                ``transformers.MambaForCausalLM.from_pretrained`` loads; "state-spaces":
                ``pytorch_model.bin`` as the authors of the paper publish it.

        Raises:
            ValueError: an unknown layout; a model that ``transformers`` cannot hold (LayerNorm); a
                folder with weights in another format, which would be read instead.
        """
        layout = as_choice(layout, "layout", checkpoint.LAYOUTS)
        checkpoint.save(self.state_dict(), dataclasses.asdict(self.config),
                        self.config.padded_vocab_size, folder, layout)

    def tie_weights(self):
        """Let the head share the matrix of the embedding, if the configuration says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    @torch.no_grad()
    def _initialize(self):
        """The start of the published models: zero biases but Δ's, a small embedding and out_proj."""
        nn.init.normal_(self.backbone.embedding.weight, std=self.config.initializer_range)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if module.bias is not None and not hasattr(module.bias, "_no_reinit"):
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Mamba) and self.config.rescale_prenorm_residual:
                module.out_proj.weight /= math.sqrt(self.config.n_layer)


class Backbone(nn.Module):
    """Embedding, blocks and last norm: tokens (b, L) to hidden states (b, L, d_model)."""

    def __init__(self, config, device=None, dtype=None):
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        like = {"device": device, "dtype": dtype}
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model, **like)
        self.layers = nn.ModuleList(Layer(config, like) for _ in range(config.n_layer))
        self.norm_f = _norm(config, like)

    def forward(self, input_ids, cache=None, cu_seqlens=None, recomputed=False):
        """Run all blocks; with ``recomputed`` their inner tensors are not kept for the backward."""
        residual = self.embedding(input_ids)  # (b, L, d_model)
        if self.residual_in_fp32:
            residual = residual.to(torch.promote_types(residual.dtype, torch.float32))
        if self._may_join(residual):
            return self._joined(residual, cache, cu_seqlens)
        recomputed = recomputed and cache is None and torch.is_grad_enabled()
        for i, layer in enumerate(self.layers):
            state = None if cache is None else cache[i]
            if recomputed:
                residual = recompute(layer, residual, state, cu_seqlens, use_reentrant=False)
            else:
                residual = layer(residual, state, cu_seqlens)
        return self.norm_f(residual)

    def _may_join(self, residual):
        """Whether sums may be joined with the norms after them: not where a hook watches either."""
        if not _fuses(residual) or not isinstance(self.norm_f, RMSNorm):
            return False
        watched = [self.norm_f, *(m for layer in self.layers for m in (layer, layer.norm))]
        return not any(m._forward_hooks or m._forward_pre_hooks for m in watched)

    def _joined(self, residual, cache, cu_seqlens):
        """All blocks and the last norm, with one pass over the stream from a block to the next."""
        hidden = self.layers[0].norm(residual)
        norms = [*(layer.norm for layer in self.layers[1:]), self.norm_f]
        for i, (layer, norm) in enumerate(zip(self.layers, norms)):
            state = None if cache is None else cache[i]
            added = layer.mixer(hidden, state, cu_seqlens=cu_seqlens)
            residual, hidden = _operators.add_norm(residual, added, norm.weight, norm.eps)
        return hidden


class Layer(nn.Module):
    """Norm and block, added to the residual stream (b, L, d_model)."""

    def __init__(self, config, like):
        super().__init__()
        self.norm = _norm(config, like)
        self.mixer = Mamba(config.d_model, **config.ssm_cfg, **like)

    def forward(self, residual, state, cu_seqlens):
        return residual + self.mixer(self.norm(residual), state, cu_seqlens=cu_seqlens)


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis, computed in float32, returned as the weight's dtype."""

    def __init__(self, width, eps, device=None, dtype=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))

    def forward(self, x):
        if _fuses(x):
            return _operators.add_norm(x, None, self.weight, self.eps)
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(wide)
        return functional.rms_norm(x.to(wide), weight.shape, weight, self.eps).to(self.weight.dtype)


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed in float32, returned as the weight's dtype."""

    def forward(self, x):
        wide = torch.promote_types(x.dtype, torch.float32)
        return functional.layer_norm(x.to(wide), self.normalized_shape, self.weight.to(wide),
                                     self.bias.to(wide), self.eps).to(self.weight.dtype)


def _fuses(x):
    """Whether norms of x are kernels of ours; torch.compile makes its own of the lines above."""
    return _operators.fuses(x) and not torch.compiler.is_compiling()


def _norm(config, like):
    return (RMSNorm if config.rms_norm else LayerNorm)(config.d_model, eps=config.norm_epsilon,
                                                       **like)
