"""Text from language models of one size: Mamba, ours and that of transformers, and Transformers.

Every contender reads b prompts and adds tokens to each, always the likeliest one. Throughput is b
times the new tokens over the time of prompt and new tokens together, as in figure 8 of the paper of
Mamba; beside it stand the time until the first token is there, and the time of each one after it.
Weights are random: they set no speed.

======================  ===========================================================================
``ours``                ``MambaLM.generate``, its step captured in a CUDA graph
``ours_plain``          the same without a graph
``transformer``         a Transformer with half as many layers, since one has attention and an MLP:
                        a cache of keys and values, and a CUDA graph for each length of it
``transformers_mamba``  ``MambaForCausalLM`` with the weights of ours, as it runs where no kernels
                        for it are installed
``transformers_neox``   ``GPTNeoXForCausalLM`` of the sizes of ``transformer``, with the cache and
                        the fused attention that its ``generate`` takes by default
======================  ===========================================================================

All are checked in float32 with short prompts before anything is timed: both kinds of Mamba give the
same logits, a Transformer with a cache gives those of one pass, and all tokens are the likeliest.
"""

import dataclasses
import importlib
import tempfile
import time

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import gpu
from benchmarks.record import summary
from ssm_core.mamba import MambaConfig, MambaLM

REPEATS = 3
ENOUGH = 3.0  # seconds: a contender that has run so long at one batch size is not run again
TOO_LONG = 15.0  # seconds: one that took so long is left out at larger batch sizes
CHECKED = {"batch": 2, "prompt": 33, "new": 9}
TOLERANCE = 1e-4  # of logits in float32, relative


@dataclasses.dataclass(frozen=True)
class Size:
    """What is measured: a Mamba of ``d_model`` and ``n_layer``, Transformers of half the layers."""

    d_model: int
    n_layer: int
    heads: int
    vocabulary: int
    prompt: int
    new: int
    batches: tuple
    dtype: torch.dtype
    device: str


ON_CUDA = Size(
    768,
    24,
    12,
    50280,
    prompt=2048,
    new=128,
    batches=(1, 2, 4, 8, 16, 32, 64, 128),
    dtype=torch.bfloat16,
    device="cuda",
)
ON_CPU = Size(64, 4, 2, 256, prompt=64, new=16, batches=(1, 4), dtype=torch.float32, device="cpu")


def run(size=None):
    """Check every contender, then time it at every batch size on this machine's best device."""
    size = size or (ON_CUDA if torch.cuda.is_available() else ON_CPU)
    with torch.no_grad():
        checks = _checks(size)
        contenders, parameters = _contenders(size, size.dtype)
        rows = _rows(size, contenders)
    cuda = size.device == "cuda"
    return {
        **({"device": gpu.model()} if cuda else {}),
        "setup": {
            **dataclasses.asdict(size),
            "dtype": str(size.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "parameters": parameters,
            "repeats": REPEATS,
            "enough": ENOUGH,
            "too_long": TOO_LONG,
            "units": "seconds",
            "transformers": getattr(_transformers(), "__version__", "not installed"),
        },
        "checks": checks,
        "rows": rows,
    }


# --- the contenders: functions of (prompt (b, L), new, seen), which call seen after each token ----


def _contenders(size, dtype):
    """The contenders by name, and how many parameters each one's model has."""
    like = {"device": size.device, "dtype": dtype}
    mamba = _mamba(size, like)
    models = {"ours": mamba, "ours_plain": mamba, "transformer": _transformer(size, like)}
    contenders = {
        "ours": _Ours(mamba, cuda_graph=None),
        "ours_plain": _Ours(mamba, cuda_graph=False),
        "transformer": _Cached(models["transformer"]),
    }
    if size.device == "cpu":  # where there are no graphs, both are the same
        del models["ours_plain"], contenders["ours_plain"]
    if _transformers():
        models |= {
            "transformers_mamba": _their_mamba(mamba, like),
            "transformers_neox": _neox(size, like),
        }
        contenders |= {name: _Theirs(models[name]) for name in models if name not in contenders}
    return contenders, {
        name: sum(p.numel() for p in model.parameters()) for name, model in models.items()
    }


def _transformers():
    try:
        return importlib.import_module("transformers")
    except (ImportError, OSError):  # OSError: built for another PyTorch
        return None


def _mamba(size, like):
    torch.manual_seed(0)
    return MambaLM(MambaConfig(size.d_model, size.n_layer, size.vocabulary), **like).eval()


def _transformer(size, like):
    torch.manual_seed(0)
    return Transformer(
        size.d_model, size.n_layer // 2, size.heads, size.vocabulary, size.prompt + size.new, **like
    ).eval()


def _their_mamba(mamba, like):
    with tempfile.TemporaryDirectory() as folder:
        mamba.save_pretrained(folder)
        model = _transformers().MambaForCausalLM.from_pretrained(folder, dtype=like["dtype"])
    return model.to(like["device"]).eval()


def _neox(size, like):
    transformers = _transformers()
    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.d_model,
        num_hidden_layers=size.n_layer // 2,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.d_model,
        max_position_embeddings=size.prompt + size.new,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    return transformers.GPTNeoXForCausalLM(config).to(**like).eval()


class _Ours:
    def __init__(self, model, cuda_graph):
        self.model, self.options = model, {"cuda_graph": cuda_graph}

    def __call__(self, prompt, new, seen):
        tokens = [prompt]
        for chosen in self.model.stream(prompt, new, **self.options):
            tokens.append(chosen[:, None])
            seen()
        return torch.cat(tokens, dim=1)

    def logits(self, ids):
        return self.model(ids)


class _Theirs:
    """A model of transformers and its own loop."""

    def __init__(self, model):
        self.model = model
        model.generation_config.eos_token_id = None  # all run to the end
        model.generation_config.pad_token_id = 0

    def __call__(self, prompt, new, seen):
        def after_each(ids, scores, **_):
            seen()
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        return self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=new,
            stopping_criteria=[after_each],
        )

    def logits(self, ids):
        return self.model(ids, use_cache=False).logits


class _Cached:
    """A :class:`Transformer`; cache and graphs are kept while the sizes stay."""

    def __init__(self, model):
        self.model, self.sizes, self.decoder = model, None, None

    def __call__(self, prompt, new, seen):
        sizes = (*prompt.shape, new)
        if sizes != self.sizes:
            self.decoder = None  # its memory is free before the next one's is taken
            self.sizes, self.decoder = sizes, _Decoder(self.model, *sizes)
        tokens = [prompt, self.decoder.prefill(prompt)]
        seen()
        for position in range(prompt.shape[1], prompt.shape[1] + new - 1):
            tokens.append(self.decoder.step(position))
            seen()
        return torch.cat(tokens, dim=1)

    def logits(self, ids):
        return self.model(ids)

    def release(self):
        self.sizes = self.decoder = None


# --- a Transformer ------------------------------------------------------------------------------


class Transformer(nn.Module):
    """A decoder as most are built now: norms first, rotary positions, tied embeddings.

    What Mamba is compared with should differ from it in the architecture alone. So this one reads
    its prompt by fused attention, writes keys and values in place, and its step is captured.
    """

    def __init__(self, d_model, n_layer, heads, vocabulary, longest, device=None, dtype=None):
        super().__init__()
        like = {"device": device, "dtype": dtype}
        self.embedding = nn.Embedding(vocabulary, d_model, **like)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(_Layer(d_model, heads, like) for _ in range(n_layer))
        self.norm = nn.LayerNorm(d_model, **like)
        width = d_model // heads
        frequency = 10_000.0 ** (-torch.arange(0, width, 2, device=device) / width)
        angle = torch.arange(longest, device=device)[:, None] * frequency  # (longest, width / 2)
        rotation = torch.stack(
            [
                torch.cat([angle.cos(), angle.cos()], dim=-1),
                torch.cat([-angle.sin(), angle.sin()], dim=-1),
            ]
        )
        self.register_buffer("rotation", rotation.to(dtype or torch.get_default_dtype()))

    def forward(self, ids, cache=None, start=0, last=False):
        """Logits (b, L, vocabulary) of texts, or of one more token at ``start`` with a cache."""
        x = self.embedding(ids)  # (b, L, d_model)
        rotation = self.rotation[:, start : start + ids.shape[1], None]  # (2, L, 1, width)
        for i, layer in enumerate(self.layers):
            x = layer(x, rotation, None if cache is None else cache[i], start)
        return functional.linear(self.norm(x[:, -1:] if last else x), self.embedding.weight)

    def allocate_cache(self, b, longest):
        """Keys and values of all layers: (n_layer, 2, b, heads, longest, width)."""
        heads, width = self.layers[0].heads, self.rotation.shape[-1]
        return self.embedding.weight.new_zeros(len(self.layers), 2, b, heads, longest, width)


class _Layer(nn.Module):
    def __init__(self, d_model, heads, like):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = (nn.LayerNorm(d_model, **like) for _ in range(2))
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False, **like)
        self.out = nn.Linear(d_model, d_model, bias=False, **like)
        self.up = nn.Linear(d_model, 4 * d_model, bias=False, **like)
        self.down = nn.Linear(4 * d_model, d_model, bias=False, **like)

    def forward(self, x, rotation, cache, start):
        x = x + self.out(self._attention(self.norm_attention(x), rotation, cache, start))
        return x + self.down(functional.gelu(self.up(self.norm_mlp(x))))

    def _attention(self, x, rotation, cache, start):
        b, L, d_model = x.shape
        qk, v = (
            self.qkv(x).view(b, L, 3 * self.heads, -1).split([2 * self.heads, self.heads], dim=2)
        )
        turned = qk.roll(qk.shape[-1] // 2, dims=-1)
        q, k = torch.addcmul(qk * rotation[0], turned, rotation[1]).chunk(2, dim=2)
        q, k, v = (M.transpose(1, 2) for M in (q, k, v))  # (b, heads, L, width)
        if cache is not None:
            cache[0, :, :, start : start + L], cache[1, :, :, start : start + L] = k, v
        if L > 1:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = _attend_to_all(q, *cache[:, :, :, : start + 1]) if cache is not None else v
        return y.transpose(1, 2).reshape(b, L, d_model)


def _attend_to_all(q, k, v):
    """One query a text, for which flash attention splits the keys among processors.

    cuDNN would plan anew for each of the lengths.
    """
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(backends):
        return functional.scaled_dot_product_attention(q, k, v)


class _Decoder:
    """The cache of b texts, and on CUDA a graph for each position of the new tokens.

    A graph has fixed shapes. One for all positions would need a mask and read the whole cache,
    which rules flash attention out.
    """

    def __init__(self, model, b, L, new):
        self.model, self.graphs = model, {}
        self.cache = model.allocate_cache(b, L + new)
        self.tokens = torch.zeros(b, 1, dtype=torch.int64, device=self.cache.device)
        if self.cache.is_cuda:
            self._capture(range(L, L + new - 1))

    def prefill(self, prompt):
        self._read(prompt, 0)
        return self.tokens.clone()

    def step(self, position):
        if self.graphs:
            self.graphs[position].replay()
        else:
            self._read(self.tokens, position)
        return self.tokens.clone()

    def _read(self, ids, start):
        logits = self.model(ids, self.cache, start, last=True)
        self.tokens.copy_(logits[:, -1].argmax(-1, keepdim=True))

    def _capture(self, positions):
        """Record all steps into one pool of memory; nothing in it outlives its replay."""
        pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            for _ in range(3):  # workspaces are allocated here
                self._read(self.tokens, positions[0])
            torch.cuda.synchronize()
            for position in positions:
                # Not torch.cuda.graph, which may collect garbage each time.
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(pool=pool)
                self._read(self.tokens, position)
                graph.capture_end()
                self.graphs[position] = graph
        torch.cuda.synchronize()


# --- checks -------------------------------------------------------------------------------------


def _checks(size):
    """Errors in float32: logits of models that should agree, and tokens that are not the likeliest.

    How far the logits of chosen tokens lie below the largest is given in standard deviations of
    the logits; two that are nearly equal may change places.
    """
    contenders, _ = _contenders(size, torch.float32)
    b, L, new = CHECKED.values()
    checks = {"transformer_steps": _error_of_steps(contenders["transformer"].model, size)}
    if "transformers_mamba" in contenders:
        ids = _prompt(size, b, L)
        checks["transformers_mamba"] = _distance(
            contenders["transformers_mamba"].logits(ids), contenders["ours"].logits(ids)
        )
    for name, contender in contenders.items():
        tokens = contender(_prompt(size, b, L), new, lambda: None)
        checks[f"{name}_tokens"] = _shortfall(
            contender.logits(tokens[:, :-1])[:, -new:], tokens[:, -new:]
        )
    wrong = {name: error for name, error in checks.items() if not error < TOLERANCE}
    if wrong:
        raise AssertionError(f"these differ by more than {TOLERANCE:g}: {wrong}")
    return checks


def _error_of_steps(transformer, size):
    """Logits of prompt and steps with a cache against those of one pass without."""
    b, L, new = CHECKED.values()
    ids = _prompt(size, b, L + new)
    cache = transformer.allocate_cache(b, L + new)
    pieces = [transformer(ids[:, :L], cache)]
    pieces += [transformer(ids[:, t : t + 1], cache, start=t) for t in range(L, L + new)]
    return _distance(torch.cat(pieces, dim=1), transformer(ids))


def _distance(got, want):
    return ((got - want).norm() / want.norm()).item()


def _shortfall(logits, tokens):
    chosen = logits.gather(-1, tokens[..., None])[..., 0]
    return ((logits.amax(-1) - chosen).max() / logits.std()).item()


# --- time ---------------------------------------------------------------------------------------


def _rows(size, contenders):
    rows, longest = [], dict.fromkeys(contenders, 0.0)
    for b in size.batches:
        prompt, row = _prompt(size, b, size.prompt), {}
        for name, contender in contenders.items():
            if longest[name] > TOO_LONG:
                row[name] = {"left_out": f"took {longest[name]:.0f} s at a smaller batch size"}
                continue
            row[name] = _measured(contender, prompt, size.new, warmed=longest[name] > ENOUGH)
            longest[name] = row[name].get("total", {}).get("max", longest[name])
            print("  ", b, name, row[name], flush=True)
        rows.append({"batch": b, "contenders": _beside_ours(row)})
    return rows


def _prompt(size, b, L):
    generator = torch.Generator().manual_seed(b)
    return torch.randint(size.vocabulary, (b, L), generator=generator).to(size.device)


def _measured(contender, prompt, new, warmed):
    """Throughput and times of a contender, or why it has none; its first run does not count.

    ``warmed``: it is so slow that no first run is needed, after one at another batch size.
    """
    try:
        if not warmed:
            contender(prompt, new, lambda: None)
        runs = _runs(contender, prompt, new)
    except torch.OutOfMemoryError:
        return {"left_out": "out of memory"}
    finally:
        if hasattr(contender, "release"):
            contender.release()
        if prompt.is_cuda:
            torch.cuda.empty_cache()
    times = {kind: summary([run[kind] for run in runs]) for kind in runs[0]}
    return {
        "tokens_per_second": len(prompt) * new / times["total"]["median"],
        "runs": len(runs),
        **times,
    }


def _runs(contender, prompt, new):
    runs = []
    while len(runs) < REPEATS and sum(run["total"] for run in runs) < ENOUGH:
        runs.append(_timed(contender, prompt, new))
    return runs


def _timed(contender, prompt, new):
    """Seconds of one run, until the first token, and of each token after it.

    The clock is the processor's, since issuing the work is part of it, with one wait for the GPU
    after the first token and one at the end.
    """
    wait = torch.cuda.synchronize if prompt.is_cuda else lambda: None
    first = []

    def seen():
        if not first:
            wait()
            first.append(time.perf_counter())

    wait()
    start = time.perf_counter()
    contender(prompt, new, seen)
    wait()
    end = time.perf_counter()
    return {
        "total": end - start,
        "prefill": first[0] - start,
        "token": (end - first[0]) / (new - 1),
    }


def _beside_ours(row):
    """Add how many times the throughput of each contender ours is."""
    ours = row["ours"].get("tokens_per_second")
    for times in row.values():
        if ours and "tokens_per_second" in times:
            times["ours_over_this"] = ours / times["tokens_per_second"]
    return row


# --- a picture of a stored result ----------------------------------------------------------------


def figure(results):
    """Throughput against batch size, a line for each contender."""
    from matplotlib import pyplot as plt  # here, since measuring needs no Matplotlib

    from ssm_book.figures import use_style

    use_style()
    fig, axes = plt.subplots(figsize=(7.2, 4))
    setup, rows = results["setup"], results["rows"]
    for name in rows[0]["contenders"]:
        points = [
            (row["batch"], row["contenders"][name]["tokens_per_second"])
            for row in rows
            if "tokens_per_second" in row["contenders"][name]
        ]
        if points:
            axes.loglog(*zip(*points), marker="o", base=2, label=name.replace("_", " "))
    axes.set_xticks([row["batch"] for row in rows])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("batch size")
    axes.set_ylabel("new tokens a second")
    axes.set_title(
        f"Prompt {setup['prompt']:,}, {setup['new']} new tokens, {setup['dtype']}, "
        + (results["machine"]["processor"] if setup["device"] == "cpu" else setup["device"]),
        fontsize=9,
    )
    axes.legend()
    return fig
