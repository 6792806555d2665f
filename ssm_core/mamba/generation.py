"""Generation: the prompt through the scan, then one step per token, captured in a CUDA graph."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ssm_core._checks import as_int, as_positive, as_real
from ssm_core.mamba._arguments import check_token_range, check_tokens
from ssm_core.mamba._modules import is_plain

__all__ = ["stream"]

# The captured step of each model, kept while no generation uses it.
_captured: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def stream(
    model: Any,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | list[int] | None = None,
    generator: torch.Generator | None = None,
    cuda_graph: bool | None = None,
) -> Iterator[Tensor]:
    """Check the arguments, which are those of ``MambaLM.generate``; return the iterator of tokens."""
    check_tokens(input_ids, model.backbone.embedding.weight.device)
    if input_ids.shape[1] == 0:
        raise ValueError("input_ids has length 0, expected a prompt of at least one token")
    check_token_range(input_ids, model.config.padded_vocab_size)
    new = as_int(max_new_tokens, "max_new_tokens", low=0)
    temperature = as_real(temperature, "temperature", low=0)
    if temperature == 0 and (top_k is not None or top_p is not None):
        raise ValueError(
            "temperature is 0, which takes the most likely token, expected a "
            "temperature above 0 where top_k or top_p is given"
        )
    top_k = None if top_k is None else as_int(top_k, "top_k")
    if top_p is not None and as_positive(top_p, "top_p") > 1:
        raise ValueError(f"top_p is {top_p:g}, expected a probability above 0 and at most 1")
    ends = [] if eos_token_id is None else eos_token_id
    ends = [
        as_int(end, "eos_token_id", low=0)
        for end in (ends if isinstance(ends, (list, tuple)) else [ends])
    ]
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator is a {type(generator).__name__}, expected a torch.Generator")
    if cuda_graph and not input_ids.is_cuda:
        raise ValueError(
            f"cuda_graph is True and the model is on {input_ids.device}, expected a CUDA device"
        )
    plain = input_ids.is_cuda and all(_can_be_recorded(module) for module in model.modules())
    if cuda_graph and not plain:
        raise ValueError(
            "cuda_graph is True and the model holds modules with hooks or of other "
            "classes, expected plain ones: a graph would replay what they did once"
        )
    graph = plain if cuda_graph is None else cuda_graph

    def choose(logits):
        logits = logits[:, -1, : model.config.vocab_size]  # (b, vocabulary)
        return sample(logits, temperature, top_k, top_p, generator).to(input_ids.dtype)

    return _tokens(model, input_ids, new, choose, ends, graph)


def _can_be_recorded(module: nn.Module) -> bool:
    """Whether a module computes the same in every call: it is one of this package or of PyTorch's
    layers without state beside its parameters, and nothing watches it."""
    kind = type(module)
    ours = kind.__module__.startswith("ssm_core.mamba.")
    known = ours or kind in (nn.Linear, nn.Conv1d, nn.Embedding, nn.ModuleList)
    return known and is_plain(module, kind)


@torch.no_grad()
def sample(
    logits: Tensor,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose a token for each row of logits (b, vocabulary): tokens (b,)."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None:
        ordered, order = logits.sort(dim=-1, descending=True)
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability  # of all tokens that are more likely
        before[:, 0] = 0  # the likeliest stays
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
        logits = torch.empty_like(ordered).scatter_(-1, order, ordered)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def _tokens(model, input_ids, new, choose, ends, graph):
    """Yield new tokens (b,), one step at a time."""
    b, device = input_ids.shape[0], input_ids.device
    if new == 0 or b == 0:
        return
    step = _borrow(model, b, device) if graph else _PlainStep(model, b, device)
    ended, ends = torch.zeros(b, dtype=torch.bool, device=device), torch.tensor(ends, device=device)
    tokens = None
    try:
        for i in range(new):
            chosen = choose(step.prefill(model, input_ids) if i == 0 else step(model, tokens))
            tokens = chosen if i == 0 else torch.where(ended, tokens, chosen)
            yield tokens
            if len(ends):
                ended = ended | torch.isin(tokens, ends)
                if bool(ended.all()):
                    return
    finally:
        if graph:
            _captured[model] = step


class _PlainStep:
    """The state of b texts that a model reads."""

    def __init__(self, model, b, device):
        self.cache = model.allocate_inference_cache(b, max_seqlen=0, device=device)

    def prefill(self, model, input_ids):
        """Start anew: read the prompt (b, L) and return the logits of its last token (b, 1, ·)."""
        for conv_state, ssm_state in self.cache.values():
            conv_state.zero_()
            ssm_state.zero_()
        return self._read(model, input_ids)

    def __call__(self, model, tokens):
        """Read one token of each text (b,) and return the logits of the next (b, 1, ·)."""
        return self._read(model, tokens[:, None])

    @torch.no_grad()
    def _read(self, model, input_ids):
        # What autocast has cached would be gone when a graph is replayed.
        with torch.autocast(input_ids.device.type, enabled=False):
            return model(input_ids, self.cache, num_last_tokens=1)


class _CapturedStep(_PlainStep):
    """The same with the step recorded once as a CUDA graph and replayed: one launch a token.

    The graph reads the weights, the state and the token at fixed addresses.
    """

    @torch.inference_mode(False)  # it may serve outside of it later
    def __init__(self, model, b, device):
        super().__init__(model, b, device)
        self.weights = _addresses(model)
        self.tokens = torch.zeros(b, dtype=torch.int64, device=self.cache[0][0].device)
        with torch.cuda.device(self.tokens.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # kernels are compiled and workspaces allocated here
                for _ in range(3):
                    super().__call__(model, self.tokens)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.logits = super().__call__(model, self.tokens)

    def __call__(self, model, tokens):
        self.tokens.copy_(tokens)
        self.graph.replay()
        return self.logits

    def fits(self, model, b):
        """Whether the recorded graph still stands for this model and batch size."""
        return len(self.tokens) == b and self.weights == _addresses(model)


def _borrow(model, b, device):
    """The captured step of a model, recorded anew if its batch size or its weights are others.

    It leaves the store until it is given back, so that two generations at a time do not write into
    one state.
    """
    step = _captured.pop(model, None)
    return step if step is not None and step.fits(model, b) else _CapturedStep(model, b, device)


def _addresses(model):
    return [(p.data_ptr(), p.dtype) for p in model.parameters()]
