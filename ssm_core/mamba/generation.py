"""Generation: the prompts through the scan, then one step per token.

On a GPU the step is captured in a CUDA graph, on a CPU it is compiled by Numba, where the model is
made of plain modules.
"""

from __future__ import annotations

import codecs
import dataclasses
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssm_core._checks import as_flag, as_int, as_positive, as_real
from ssm_core._modules import is_plain
from ssm_core._tensors import check_kind, check_shape
from ssm_core.mamba import _stepping
from ssm_core.mamba._arguments import as_tokens, check_tensor, check_token_range

__all__ = ["Options", "generate", "read_prompts", "run", "sample", "stream_text"]

# The captured step of each model, kept while no generation uses it.
_captured: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


# --- what is asked for --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of ``MambaLM.generate`` and ``stream`` that say how, checked."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    stop_strings: str | bytes | Sequence[str | bytes] | None = None
    tokenizer: Any = None
    generator: torch.Generator | None = None
    cuda_graph: bool | None = None

    def __post_init__(self) -> None:
        _check_sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.generator)
        as_positive(self.repetition_penalty, "repetition_penalty")
        for end in self.ends:
            as_int(end, "eos_token_id", low=0)
        if self.pad_token_id is not None:
            as_int(self.pad_token_id, "pad_token_id", low=0)

    @property
    def ends(self) -> list[int]:
        """The tokens that end a text."""
        if self.eos_token_id is None:
            return []
        if isinstance(self.eos_token_id, (list, tuple)):
            return list(self.eos_token_id)
        return [self.eos_token_id]  # type: ignore[list-item]


def _check_sampling(temperature, top_k, top_p, min_p, generator):
    as_real(temperature, "temperature", low=0)
    if temperature == 0 and (top_k, top_p, min_p) != (None, None, None):
        raise ValueError(
            "temperature is 0, which takes the most likely token, expected a "
            "temperature above 0 where top_k, top_p or min_p is given"
        )
    if top_k is not None:
        as_int(top_k, "top_k")
    if top_p is not None and as_positive(top_p, "top_p") > 1:
        raise ValueError(f"top_p is {top_p:g}, expected a probability above 0 and at most 1")
    if min_p is not None:
        as_real(min_p, "min_p", low=0, high=1)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator is a {type(generator).__name__}, expected a torch.Generator")


class Prompts(NamedTuple):
    """Texts to continue: of one length (b, L), or packed (1, L) with their boundaries."""

    tokens: Tensor
    cu_seqlens: Tensor | None
    rows: int

    def owners(self) -> Tensor:
        """The row that each token belongs to, in the shape of tokens."""
        device = self.tokens.device
        if self.cu_seqlens is None:
            return torch.arange(self.rows, device=device)[:, None].expand_as(self.tokens)
        lengths = self.cu_seqlens.diff()
        return torch.arange(self.rows, device=device).repeat_interleave(lengths)[None]


def read_prompts(input_ids: Any, attention_mask: Any, model: Any) -> Prompts:
    """Check prompts: a tensor (b, L) with or without a mask, or a list of texts (L,)."""
    device = model.backbone.embedding.weight.device
    if isinstance(input_ids, (list, tuple)) and all(map(torch.is_tensor, input_ids)):
        if attention_mask is not None:
            raise ValueError("attention_mask is given with a list of texts, expected None")
        for i, text in enumerate(input_ids):
            check_shape(text, f"input_ids[{i}]", ("L",), (None,))
        texts = [
            as_tokens(text[None], f"input_ids[{i}]", device)[0] for i, text in enumerate(input_ids)
        ]
        prompts = _pack(texts, device)
    else:
        input_ids = as_tokens(input_ids, "input_ids", device)
        if input_ids.shape[1] == 0:
            raise ValueError("input_ids has length 0, expected a prompt of at least one token")
        prompts = Prompts(input_ids, None, len(input_ids))
        if attention_mask is not None:
            mask = _as_mask(attention_mask, input_ids)
            texts = [text[kept] for text, kept in zip(input_ids, mask)]
            prompts = prompts if mask.all() else _pack(texts, device)
    check_token_range(prompts.tokens, model.config.vocab_size)
    return prompts


def _pack(texts, device):
    lengths = [len(text) for text in texts]
    if 0 in lengths:
        raise ValueError(
            f"input_ids[{lengths.index(0)}] has length 0, expected a prompt of at least one token"
        )
    if not texts:
        return Prompts(torch.empty(0, 1, dtype=torch.int64, device=device), None, 0)
    if len({*lengths}) == 1:
        return Prompts(torch.stack(texts), None, len(texts))
    bounds = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    return Prompts(torch.cat(texts)[None], bounds, len(texts))


def _as_mask(attention_mask, input_ids):
    """The mask as booleans, of which each row is one run."""
    check_kind(attention_mask, "attention_mask")
    check_shape(attention_mask, "attention_mask", ("b", "L"), tuple(input_ids.shape))
    mask = attention_mask.to(input_ids.device)
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("attention_mask holds other numbers than 0 and 1")
    mask = mask.bool()
    edges = nn.functional.pad(mask.int(), (1, 1)).diff(dim=1)
    if ((edges == 1).sum(1) != 1).any():
        raise ValueError(
            "attention_mask marks a row with no token or with a gap, expected the tokens of a "
            "text in one piece, padded on the left or on the right"
        )
    return mask


# --- choosing a token -----------------------------------------------------------------------------


@torch.no_grad()
def sample(
    logits: Tensor,
    temperature: float = 0.0,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose a token for each row of logits, as ``MambaLM.generate`` does.

    What is left out by one rule stays out: first come the temperature, then ``top_k``, ``top_p`` and
    ``min_p``, as in transformers.

    Args:
        logits (float32, float64, bfloat16, float16): scores (b, vocabulary); -inf rules out a token.
        temperature: 0 takes the most likely token; above 0, logits are divided by it and a token is
            drawn.
        top_k: draw from the k most likely tokens only.
        top_p: draw from the fewest tokens whose probability is at least this, in (0, 1].
        min_p: draw from tokens at least this share as likely as the most likely one, 0 to 1.
        generator: source of chance, on the device of logits.

    Returns:
        (int64): tokens (b,).

    Raises:
        ValueError, TypeError: a wrong argument, which the message names.

    Example:
        >>> import torch
        >>> from ssm_core.mamba import sample
        >>> sample(torch.tensor([[0.1, 2.0, 0.3], [0.0, 1.0, 5.0]]))
        tensor([1, 2])
    """
    check_tensor(logits, "logits", ("b", "vocabulary"), (None, None), device=None)
    _check_sampling(temperature, top_k, top_p, min_p, generator)
    return _draw(logits, temperature, top_k, top_p, min_p, generator)


def _draw(logits, temperature, top_k, top_p, min_p, generator):
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
    probability = logits.softmax(-1)
    if min_p is not None:
        least = min_p * probability.amax(-1, keepdim=True)
        probability = probability.masked_fill(probability < least, 0)
    return torch.multinomial(probability, 1, generator=generator)[:, 0]


def _penalized(logits, seen, penalty):
    """Logits of the tokens in ``seen`` (b, vocabulary) divided by the penalty, or multiplied by it
    where they are below 0."""
    lowered = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, lowered, logits)


# --- the loop -------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What one step adds to b texts."""

    tokens: Tensor  # (b,); a row that has ended gets the token that fills it up
    logprobs: Tensor | None  # (b,) of the chosen tokens; 0 in rows that have ended
    going: Tensor  # (b,) bool: which rows had not ended before


def run(
    model: Any,
    prompts: Prompts,
    max_new_tokens: int,
    options: Options,
    cache: Mapping[int, Any] | None = None,
    logprobs: bool = False,
) -> Iterator[Step]:
    """Check what is left to check; return the iterator over steps."""
    new, device = as_int(max_new_tokens, "max_new_tokens", low=0), prompts.tokens.device
    graph = _takes_graph(model, device, options.cuda_graph)
    if cache is not None:
        _check_cache(cache, model, prompts.rows)
    stops = _Stops(options, prompts.rows, model.config.vocab_size)
    if options.pad_token_id is not None and options.pad_token_id >= model.config.vocab_size:
        raise ValueError(
            f"pad_token_id is {options.pad_token_id}, expected a token below "
            f"{model.config.vocab_size}"
        )
    return _steps(model, prompts, new, options, cache, logprobs, stops, graph)


def _takes_graph(model, device, asked):
    if asked and device.type != "cuda":
        raise ValueError(f"cuda_graph is True and the model is on {device}, expected a CUDA device")
    plain = device.type == "cuda" and all(map(_can_be_recorded, model.modules()))
    if asked and not plain:
        raise ValueError(
            "cuda_graph is True and the model holds modules with hooks or of other "
            "classes, expected plain ones: a graph would replay what they did once"
        )
    return plain if asked is None else asked


def _check_cache(cache, model, rows):
    wanted = model.allocate_inference_cache(rows, device="meta")
    if not isinstance(cache, dict) or cache.keys() != wanted.keys():
        raise TypeError(
            f"cache is a {type(cache).__name__}, expected the dict that "
            "allocate_inference_cache returns, one entry per block"
        )
    for block, states in wanted.items():
        for have, want in zip(cache[block], states):
            check_kind(have, "cache")
            if have.shape != want.shape:
                raise ValueError(
                    f"cache holds a state of shape {tuple(have.shape)}, expected "
                    f"{tuple(want.shape)} for {rows} texts"
                )


def _can_be_recorded(module: nn.Module) -> bool:
    """Whether a module computes the same in every call: it is one of this package or of PyTorch's
    layers without state beside its parameters, and nothing watches it."""
    kind = type(module)
    ours = kind.__module__.startswith("ssm_core.mamba.")
    known = ours or kind in (nn.Linear, nn.Conv1d, nn.Embedding, nn.ModuleList)
    return known and is_plain(module, kind)


def _steps(model, prompts, new, options, cache, logprobs, stops, graph):
    """Yield new tokens, one step at a time; the cache gets what each row has read when it ends."""
    b, device = prompts.rows, prompts.tokens.device
    if new == 0 or b == 0:
        return
    step = _borrow(model, b, device) if graph else _PlainStep(model, b, device)
    ends = torch.tensor(options.ends, dtype=torch.int64, device=device)
    going = torch.ones(b, dtype=torch.bool, device=device)
    tokens = None
    try:
        logits = step.prefill(model, prompts, cache)
        seen = _seen(prompts, logits) if options.repetition_penalty != 1 else None
        for i in range(new):
            if i:
                logits = step(model, tokens)
            chosen = _choose(logits, seen, options)
            fill = tokens if options.pad_token_id is None else options.pad_token_id
            tokens = chosen if i == 0 else torch.where(going, chosen, fill)
            chances = _logprobs(logits, tokens, going) if logprobs else None
            yield Step(tokens.to(prompts.tokens.dtype), chances, going)
            if seen is not None:
                seen.scatter_(1, tokens[:, None], True)
            if len(ends) or stops:
                ending = going & (torch.isin(tokens, ends) | stops.found(tokens))
                step.keep(cache, ending)
                going = going & ~ending
                if not bool(going.any()):
                    return
    finally:
        if tokens is not None:
            step.keep(cache, going)
        if graph:
            _captured[model] = step


def _choose(logits, seen, options):
    if seen is not None:
        logits = _penalized(logits, seen, options.repetition_penalty)
    return _draw(
        logits, options.temperature, options.top_k, options.top_p, options.min_p, options.generator
    )


def _seen(prompts, logits):
    """Which tokens (b, vocabulary) stand in each prompt."""
    seen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    seen[prompts.owners(), prompts.tokens.long()] = True
    return seen


def _logprobs(logits, tokens, going):
    """The logarithm of the probability that the model gave each token; 0 where a row has ended."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = wide.gather(1, tokens[:, None])[:, 0] - wide.logsumexp(1)
    return torch.where(going, chosen, 0)


def generate(
    model: Any,
    input_ids: Any,
    attention_mask: Any,
    max_new_tokens: int,
    options: Options,
    *,
    cache: Mapping[int, Any] | None,
    return_logprobs: bool,
    streamer: Any,
) -> Any:
    """What ``MambaLM.generate`` returns, whose arguments these are."""
    as_flag(return_logprobs, "return_logprobs")
    prompts = read_prompts(input_ids, attention_mask, model)
    steps = run(model, prompts, max_new_tokens, options, cache, return_logprobs)
    texts = list(input_ids) if isinstance(input_ids, (list, tuple)) else None
    if streamer is not None:
        steps = _streamed(streamer, texts, input_ids, steps)
    tokens, logprobs, going = _stacked(list(steps), prompts)
    if texts is None:
        sequences = torch.cat([input_ids.to(tokens.dtype), tokens], dim=1)
        return (sequences, logprobs) if return_logprobs else sequences
    lengths = going.sum(1).tolist()  # a text in a list ends where it has ended
    ended = [
        torch.cat([text.to(tokens.dtype), row[:n]]) for text, row, n in zip(texts, tokens, lengths)
    ]
    return (ended, [row[:n] for row, n in zip(logprobs, lengths)]) if return_logprobs else ended


def _stacked(steps, prompts):
    """Tokens, log-probabilities and what had not ended before, each (b, new)."""
    if not steps:
        nothing = prompts.tokens.new_empty(prompts.rows, 0)
        return nothing, nothing.float(), nothing.bool()
    tokens, logprobs, going = zip(*steps)
    return (
        torch.stack(tokens, 1),
        None if logprobs[0] is None else torch.stack(logprobs, 1),
        torch.stack(going, 1),
    )


def _streamed(streamer, texts, input_ids, steps):
    """Pass on prompts and tokens to a streamer of transformers, which has ``put`` and ``end``."""
    if texts is not None and len(texts) != 1:
        raise ValueError(
            f"streamer is given with a list of {len(texts)} texts, expected a list of one, or "
            "input_ids as one tensor"
        )
    try:
        streamer.put((input_ids if texts is None else texts[0][None]).cpu())
        for step in steps:
            streamer.put(step.tokens.cpu())
            yield step
    finally:
        streamer.end()


class _Stops:
    """Which rows have said one of the strings that end a text."""

    MARGIN = 8  # tokens before a string, which a tokenizer may need to decode it as in the text

    def __init__(self, options, rows, vocabulary):
        given = options.stop_strings
        given = [] if given is None else [given] if isinstance(given, (str, bytes)) else given
        self.strings, self.tokenizer = list(given), options.tokenizer
        self.texts: list[list[int]] = [[] for _ in range(rows)]
        if not self.strings:
            return
        for string in self.strings:
            if not isinstance(string, (str, bytes)) or not string:
                raise TypeError(f"stop_strings holds {string!r}, expected strings or bytes")
        if self.tokenizer is None:
            _check_bytes(vocabulary, "stop_strings")
            self.strings = [x.encode() if isinstance(x, str) else x for x in self.strings]
        elif any(isinstance(string, bytes) for string in self.strings):
            raise TypeError("stop_strings holds bytes, expected strings where a tokenizer is given")
        longest = max(len(x.encode() if isinstance(x, str) else x) for x in self.strings)
        self.tail = longest + self.MARGIN

    def __bool__(self):
        return bool(self.strings)

    def found(self, tokens):
        """Read one token of each text (b,)."""
        if not self.strings:
            return torch.zeros_like(tokens, dtype=torch.bool)
        for text, token in zip(self.texts, tokens.tolist()):
            text.append(token)
        return torch.tensor([self._ends(text) for text in self.texts], device=tokens.device)

    def _ends(self, text):
        tail = text[-self.tail :]
        said = bytes(tail) if self.tokenizer is None else self.tokenizer.decode(tail)
        return any(string in said for string in self.strings)


def _check_bytes(vocabulary, name):
    if vocabulary > 256:
        raise ValueError(
            f"{name} needs a tokenizer: the vocabulary has {vocabulary} tokens, and only up to "
            "256 can be bytes"
        )


class _PlainStep:
    """The state of b texts that a model reads."""

    def __init__(self, model, b, device):
        self.cache = model.allocate_inference_cache(b, device=device)
        self.compiled = None  # looked for when the first step is taken

    @torch.no_grad()
    def prefill(self, model, prompts, before=None):
        """Read prompts from the start, or from the states in ``before``: logits of their last
        tokens (b, vocabulary)."""
        for block, states in self.cache.items():
            for place, state in enumerate(states):
                state.copy_(before[block][place]) if before is not None else state.zero_()
        return self._read(model, prompts.tokens, prompts.cu_seqlens)

    def __call__(self, model, tokens):
        """Read one token of each text (b,): logits of the next (b, vocabulary)."""
        if self.compiled is None:
            self.compiled = _stepping.pack(model) or False
        if self.compiled:
            return self.compiled(tokens, self.cache)
        return self._read(model, tokens[:, None])

    @torch.no_grad()
    def _read(self, model, input_ids, cu_seqlens=None):
        # What autocast has cached would be gone when a graph is replayed.
        with torch.autocast(input_ids.device.type, enabled=False):
            logits = model(input_ids, self.cache, cu_seqlens=cu_seqlens, num_last_tokens=1)
        return logits[:, -1]

    @torch.inference_mode()  # where a cache that was made in it may change too
    def keep(self, cache, rows):
        """Write the states of some rows (b,) into a cache, if there is one."""
        if cache is not None:
            for block, states in self.cache.items():
                for have, state in zip(cache[block], states):
                    have[rows] = state[rows].to(have.dtype)


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
                    self._read(model, self.tokens[:, None])
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.logits = self._read(model, self.tokens[:, None])

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


# --- text -----------------------------------------------------------------------------------------


def stream_text(
    tokens: Iterable[Any], tokenizer: Any = None, *, prompt: Sequence[int] | Tensor = ()
) -> Iterator[str]:
    """Yield the text of tokens as they come, in whole characters.

    A character may take several tokens, and its text comes with the last of them. Bytes that are no
    UTF-8 come as U+FFFD.

    Args:
        tokens: numbers or tensors of one token, such as ``model.stream(prompt, n)`` with one row.
        tokenizer: what turns a list of tokens into text by its method ``decode``, as those of the
            packages ``tokenizers`` and ``transformers``; None takes tokens for bytes.
        prompt: the tokens before, if what follows may be joined to them.

    Example:
        >>> from ssm_core.mamba import stream_text
        >>> list(stream_text([72, 195, 164, 33]))
        ['H', 'ä', '!']
    """
    if tokenizer is None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(bytes(map(int, prompt)))
        pieces = (decoder.decode(bytes([int(token)])) for token in tokens)
        yield from filter(None, pieces)
        yield from filter(None, [decoder.decode(b"", final=True)])
        return
    # A token is decoded in the company of those before it, as some put a space between words.
    before = [int(token) for token in prompt][-_CONTEXT:]
    said = tokenizer.decode(before).rstrip(_UNKNOWN)
    pending: list[int] = []
    for token in tokens:
        pending.append(int(token))
        text = tokenizer.decode(before + pending)
        if text.endswith(_UNKNOWN) and len(pending) < _LONGEST:
            continue  # the character is not complete
        if len(text) > len(said):
            yield text[len(said) :]
        before, pending = (before + pending)[-_CONTEXT:], []
        said = tokenizer.decode(before)
    if pending:
        yield tokenizer.decode(before + pending)[len(said) :]


_CONTEXT = 8  # tokens before a new one
_LONGEST = 4  # bytes, and so tokens, of one character
_UNKNOWN = "\ufffd"
