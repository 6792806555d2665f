"""Generation against its definition: each text alone, each token from one pass in float64."""

import copy
import itertools
import pickle
import queue
import threading

import pytest

torch = pytest.importorskip("torch")

from ssm_core.mamba import MambaConfig, MambaLM, MambaStepper, _stepping, sample, stream_text

V, NEW = 29, 12  # V is padded to 32
PROMPTS = [[5], [3, 1, 4, 1, 5, 9, 2, 6], [7, 7, 8], [20, 11, 12, 13, 28]]


def make(seed=0, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    model = MambaLM(
        MambaConfig(
            **{"d_model": 8, "n_layer": 2, "vocab_size": V, "tie_embeddings": False, **options}
        ),
        dtype=dtype,
    )
    with torch.no_grad():  # so that texts differ, and rounding decides nothing
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        model.lm_head.weight.normal_()
        model.backbone.embedding.weight.normal_()
    return model.eval()


@pytest.fixture(params=["compiled", "torch"])
def implementation(request, monkeypatch):
    """Steps compiled by Numba, and in PyTorch."""
    if request.param == "torch":
        monkeypatch.setattr(_stepping, "kernels", lambda: None)
    else:
        pytest.importorskip("numba")
    return request.param


def texts(prompts=PROMPTS):
    return [torch.tensor(prompt) for prompt in prompts]


def padded(prompts, side, fill=0):
    """Prompts as one tensor, and its mask."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), fill)
    mask = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if side == "left" else slice(len(prompt))
        ids[i, place], mask[i, place] = torch.tensor(prompt), 1
    return ids, mask


@torch.no_grad()
def definition(model, prompt, new, penalty=1.0, ends=(), stop=None, before=()):
    """One text, token by token, each from a pass over all of it: tokens and log-probabilities.

    ``before`` are tokens that a cache has read, which the penalty does not count.
    """
    text, said, logprobs = list(prompt), [], []
    for _ in range(new):
        logits = model(torch.tensor([[*before, *text]]))[0, -1]
        raw = logits.log_softmax(-1)
        for token in {*text}:
            value = logits[token]
            logits[token] = value * penalty if value < 0 else value / penalty
        token = int(logits.argmax())
        text.append(token)
        said.append(token)
        logprobs.append(float(raw[token]))
        if token in ends or (stop is not None and stop in bytes(said)):
            break
    return text, logprobs


# ------------------------------------------------------------------------------------ many texts


@pytest.mark.parametrize("options", [{}, {"ssm_cfg": {"mixer_rms_eps": 1e-6, "bias": True}}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_texts_of_several_lengths_come_out_as_alone(options, dtype, implementation):
    model = make(dtype=dtype, **options)
    expected = [definition(model, prompt, NEW)[0] for prompt in PROMPTS]
    got = model.generate(texts(), NEW)
    assert [text.tolist() for text in got] == expected
    assert len({tuple(text[-5:]) for text in expected}) > 1
    for side in ("left", "right"):
        ids, mask = padded(PROMPTS, side, fill=-100)  # what stands there is not read
        out = model.generate(ids, NEW, attention_mask=mask)
        assert torch.equal(out[:, : ids.shape[1]], ids)
        assert out[:, ids.shape[1] :].tolist() == [text[-NEW:] for text in expected]
        assert torch.equal(out, model.generate(ids, NEW, attention_mask=mask.bool()))


def test_lists_of_equal_lengths_and_none(implementation):
    model, ids = make(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    want = model.generate(ids, NEW)
    assert torch.equal(torch.stack(model.generate(list(ids), NEW)), want)
    assert torch.equal(model.generate(ids, NEW, attention_mask=torch.ones_like(ids)), want)
    assert model.generate([], NEW) == []
    assert [len(text) for text in model.generate(texts(), 0)] == [len(p) for p in PROMPTS]
    assert torch.equal(
        model.generate(texts(PROMPTS[:1]), 3)[0], model.generate(texts()[0][None], 3)[0]
    )


# ----------------------------------------------------------------------- options, and all together


CHOICES = {
    "penalty": (1.0, 1.7),
    "ends": ((), (20, 25)),
    "stop": (None, b"\x0c\x0f"),
    "cached": (False, True),
    "form": ("list", "left", "rectangle"),
}


@pytest.mark.parametrize(
    "choice",
    [dict(zip(CHOICES, values)) for values in itertools.product(*CHOICES.values())],
    ids=lambda choice: "-".join(map(str, choice.values())),
)
def test_options_together(choice, implementation):
    """Every combination equals the definition, text by text, and leaves the right state."""
    model, before = make(seed=1), [9, 17]
    prompts = [[5, 2], [3, 1], [7, 8]] if choice["form"] == "rectangle" else PROMPTS[:3]
    ends, penalty, stop = choice["ends"], choice["penalty"], choice["stop"]
    cache = None
    if choice["cached"]:
        cache = model.allocate_inference_cache(len(prompts))
        with torch.no_grad():
            model(torch.tensor([before] * len(prompts)), cache)
    expected = [
        definition(model, p, NEW, penalty, ends, stop, before if choice["cached"] else ())
        for p in prompts
    ]
    options = {
        "repetition_penalty": penalty,
        "eos_token_id": list(ends) or None,
        "stop_strings": stop,
        "return_logprobs": True,
        "cache": cache,
        "pad_token_id": 0,
    }
    if choice["form"] == "list":
        got, logprobs = model.generate(texts(prompts), NEW, **options)
        got = [text.tolist() for text in got]
    else:
        ids, mask = padded(prompts, "left")
        got, logprobs = model.generate(ids, NEW, attention_mask=mask, **options)
        lengths = [len(text) - len(prompt) for (text, _), prompt in zip(expected, prompts)]
        new = got[:, ids.shape[1] :].tolist()
        assert all(not any(row[n:]) for row, n in zip(new, lengths))  # filled up
        assert all(not row[n:].any() for row, n in zip(logprobs, lengths))
        got = [prompt + row[:n] for prompt, row, n in zip(prompts, new, lengths)]
        logprobs = [row[:n] for row, n in zip(logprobs, lengths)]
    for text, chances, (want, right) in zip(got, logprobs, expected):
        assert text == want
        torch.testing.assert_close(
            chances, torch.tensor(right, dtype=chances.dtype), rtol=1e-9, atol=1e-9
        )
    if cache is not None:
        for i, (want, _) in enumerate(expected):  # all but the last token has been read
            alone = model.allocate_inference_cache(1)
            with torch.no_grad():
                model(torch.tensor([[*before, *want[:-1]]]), alone)
            for block, states in alone.items():
                for state, right in zip(cache[block], states):
                    torch.testing.assert_close(state[i : i + 1], right, rtol=1e-9, atol=1e-9)


def test_the_options_are_met_in_these_texts():
    """Some rows end by a token, some by a string, at different times; the penalty changes texts."""
    model = make(seed=1)
    lengths = [
        [len(definition(model, p, NEW, penalty, ends, stop)[0]) - len(p) for p in PROMPTS[:3]]
        for penalty, ends, stop in (
            (1.0, (), None),
            (1.0, (20, 25), None),
            (1.0, (), b"\x0c\x0f"),
            (1.7, (20, 25), b"\x0c\x0f"),
        )
    ]
    assert lengths[0] == [NEW] * 3 and all(min(row) < NEW for row in lengths[1:])
    assert len({tuple(row) for row in lengths}) == 4


def test_a_text_goes_on_from_a_cache(implementation):
    model, ids = make(), torch.tensor(PROMPTS[1])[None]
    whole = model.generate(ids, 15)
    cache = model.allocate_inference_cache(1)
    part = model.generate(ids, 6, cache=cache)
    assert torch.equal(part, whole[:, : 8 + 6])
    rest = model.generate(part[:, -1:], 9, cache=cache)
    assert torch.equal(rest[:, 1:], whole[:, 8 + 6 :])
    # A second turn: what the model said last, and what the user says then.
    more = torch.tensor([[2, 2, 7]])
    said = model.generate(torch.cat([rest[:, -1:], more], 1), 5, cache=cache)
    assert said[0, 4:].tolist() == definition(model, [*whole[0].tolist(), 2, 2, 7], 5)[0][-5:]


def test_caches_cross_inference_mode(implementation):
    model, ids = make(), torch.tensor([PROMPTS[1]])
    whole = model.generate(ids, 8)
    for made, first in itertools.product((True, False), repeat=2):
        with torch.inference_mode(made):
            cache = model.allocate_inference_cache(1)
        with torch.inference_mode(first):
            text = model.generate(ids, 3, cache=cache)
        with torch.inference_mode(not first):
            rest = model.generate(text[:, -1:], 5, cache=cache)
        assert torch.equal(torch.cat([text, rest[:, 1:]], 1), whole)
    with torch.inference_mode():
        inside = make()
    assert torch.equal(inside.generate(ids, 8), whole)


def test_a_stream_that_is_left_keeps_its_place(implementation):
    model, prompts = make(), texts()
    whole = model.generate(prompts, NEW)
    cache = model.allocate_inference_cache(len(prompts))
    stream = model.stream(prompts, NEW, cache=cache)
    said = [next(stream) for _ in range(4)]
    stream.close()
    rest = model.generate(said[-1][:, None], NEW - 4, cache=cache)
    for i, text in enumerate(whole):
        assert [int(tokens[i]) for tokens in said] + rest[i, 1:].tolist() == text[-NEW:].tolist()


def test_drawn_tokens_keep_to_the_rules(implementation):
    """Every drawn token is one that the rules leave, at the probability that the model gave it."""
    model, prompts = make(), texts()
    options = {"temperature": 1.5, "top_k": 9, "top_p": 0.8, "min_p": 0.05}
    got, logprobs = model.generate(
        prompts,
        30,
        repetition_penalty=1.3,
        return_logprobs=True,
        generator=torch.manual_seed(0),
        **options,
    )
    least = []
    for text, chances, prompt in zip(got, logprobs, prompts):
        for t in range(len(prompt), len(text)):
            with torch.no_grad():
                logits = model(text[None, :t])[0, -1]
            torch.testing.assert_close(
                chances[t - len(prompt)], logits.log_softmax(-1)[text[t]], rtol=1e-9, atol=1e-9
            )
            for token in {*text[:t].tolist()}:
                logits[token] *= 1.3 if logits[token] < 0 else 1 / 1.3
            p = (logits / 1.5).softmax(-1)
            rank = int((p > p[text[t]]).sum())
            kept = p.sort(descending=True).values[:9]
            kept = kept / kept.sum()
            assert rank < 9 and kept[:rank].sum() < 0.8 and p[text[t]] >= 0.05 * p.max()
            least.append(rank)
    assert max(least) > 1  # it does draw
    again = model.generate(
        prompts, 30, repetition_penalty=1.3, generator=torch.manual_seed(0), **options
    )
    assert all(map(torch.equal, got, again))


# ------------------------------------------------------------------------------------ streaming


class Streamer:
    def __init__(self):
        self.said, self.ended = [], 0

    def put(self, tokens):
        self.said.append(tokens.tolist())

    def end(self):
        self.ended += 1


def test_a_streamer_gets_prompt_and_tokens():
    model, ids = make(), torch.tensor([PROMPTS[1]])
    for given in (ids, [ids[0]]):
        streamer = Streamer()
        out = model.generate(given, 5, streamer=streamer)[0]
        assert streamer.said == [ids.tolist(), *([token] for token in out[8:].tolist())]
        assert streamer.ended == 1
    with pytest.raises(ValueError, match="streamer is given with a list of 4 texts"):
        model.generate(texts(), 5, streamer=Streamer())


def test_a_streamer_of_transformers():
    streamers = pytest.importorskip("transformers.generation.streamers")

    class Letters:
        def decode(self, tokens, **_):
            return "".join(chr(97 + int(token)) for token in tokens)

    model, ids = make(), torch.tensor([PROMPTS[1]])
    streamer = streamers.TextIteratorStreamer(Letters(), skip_prompt=True, timeout=60)
    thread = threading.Thread(target=model.generate, args=(ids, 9), kwargs={"streamer": streamer})
    thread.start()
    try:
        said = "".join(streamer)
    except queue.Empty:  # pragma: no cover
        pytest.fail("the streamer was not ended")
    thread.join()
    assert said == Letters().decode(model.generate(ids, 9)[0, 8:])


TEXT = "Mé–雨🌧 go\ufffd!"


def test_text_of_bytes_comes_in_whole_characters():
    pieces = list(stream_text(TEXT.encode()))
    assert "".join(pieces) == TEXT and all(piece in TEXT for piece in pieces) and len(pieces) > 8
    assert "".join(stream_text(TEXT.encode()[3:], prompt=TEXT.encode()[:3])) == TEXT[2:]
    broken = [0xE2, 0x82, 65, 0xFF, 0xFF, 0xFF, 0xE2, 0x82, 0xAC, 0xC3]
    assert "".join(stream_text(broken)) == bytes(broken).decode(errors="replace")
    assert list(stream_text([])) == []
    assert "".join(stream_text(torch.tensor([[72], [105]]))) == "Hi"


def test_text_of_a_tokenizer_comes_in_whole_characters():
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, [])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    ids = tokenizer.encode(TEXT * 3).ids
    assert len(ids) == len(TEXT.encode()) * 3
    assert "".join(stream_text(ids, tokenizer)) == TEXT * 3
    assert "".join(stream_text(ids[5:], tokenizer, prompt=ids[:5])) == (TEXT * 3)[2:]


class Words:
    """A tokenizer that puts a space between words, as the older ones do."""

    WORDS = ("the", "cat", "sat", "on", "mat")

    def decode(self, tokens):
        return " ".join(self.WORDS[token % 5] for token in tokens)


def test_text_of_words_and_stop_strings_across_tokens():
    said = "".join(stream_text([0, 1, 2, 3, 0, 4] * 3, Words(), prompt=[3]))
    assert said == " " + Words().decode([0, 1, 2, 3, 0, 4] * 3)
    model = make()
    free = model.generate(texts(), 25)
    stopped = model.generate(texts(), 25, stop_strings=["cat sat", "mat"], tokenizer=Words())
    ended = 0
    for whole, text, prompt in zip(free, stopped, PROMPTS):
        new, n = whole[len(prompt) :].tolist(), len(text) - len(prompt)
        assert text.tolist() == [*prompt, *new[:n]]
        assert not any(stop in Words().decode(new[: n - 1]) for stop in ("cat sat", "mat"))
        if n < 25:
            ended += 1
            assert Words().decode(new[:n]).endswith(("cat sat", "mat"))
    assert ended


# ------------------------------------------------------------------------------------ steppers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ssm_cfg": {"bias": True, "conv_bias": False, "d_state": 5, "d_conv": 2}},
        {"ssm_cfg": {"mixer_rms_eps": 1e-3, "expand": 3}, "tie_embeddings": False},
        {"rms_norm": False},
    ],
)
def test_a_stepper_gives_the_logits_of_one_pass(dtype, options, implementation):
    model, ids = make(dtype=dtype, **options), torch.tensor([PROMPTS[1], PROMPTS[1][::-1]])
    with torch.no_grad():
        want = model(ids)
    stepper = model.stepper()
    compiled = implementation == "compiled" and dtype != torch.bfloat16
    assert (stepper._packed is not None) == (compiled and options.get("rms_norm", True))
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 0.1}[dtype]
    cache = stepper.allocate_inference_cache(2)
    for t in range(ids.shape[1]):
        logits, same = stepper.step(ids[:, t], cache)
        assert same is cache and not logits.requires_grad and logits.dtype == dtype
        torch.testing.assert_close(logits, want[:, t], rtol=tolerance, atol=tolerance)


def test_a_stepper_is_a_snapshot(implementation):
    model, token = make(), torch.tensor([3])
    stepper = model.stepper()

    def logits(stepper):
        return stepper.step(token, stepper.allocate_inference_cache(1))[0]

    before = logits(stepper)
    same = [copy.deepcopy(stepper), pickle.loads(pickle.dumps(stepper))]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    for other in (stepper, *same):
        assert torch.equal(logits(other), before)
    assert not torch.allclose(logits(model.stepper()), before)
    assert isinstance(stepper, MambaStepper) and "d_model=8" in repr(stepper)


def test_generation_follows_the_parameters(implementation):
    """Nothing that was computed from a parameter outlives the call."""
    model, ids = make(), torch.tensor([PROMPTS[1]])
    model.generate(ids, 5)
    for change in (
        lambda p: p.mul_(1.3),
        lambda p: setattr(p, "data", p.data * 1.1),
        lambda p: p.data.add_(0.05),
    ):
        with torch.no_grad():
            for parameter in model.parameters():
                change(parameter)
        assert model.generate(ids, NEW)[0].tolist() == definition(model, PROMPTS[1], NEW)[0]


def test_modules_that_are_not_plain_are_called(implementation):
    model, ids = make(), torch.tensor([PROMPTS[1]])
    layer = model.backbone.layers[1].mixer.x_proj
    layer.register_forward_hook(lambda module, inputs, y: -y)
    assert _stepping.pack(model) is None
    assert model.generate(ids, NEW)[0].tolist() == definition(model, PROMPTS[1], NEW)[0]


def test_two_steppers_of_one_cache_shape_and_what_does_not_fit(implementation):
    stepper = make().stepper()
    cache = stepper.allocate_inference_cache(2)
    good = torch.tensor([1, 2])
    for tokens, message in (
        (good[:, None], r"input_ids has shape \(2, 1\), expected \(b,\)"),
        (good + 27, "input_ids holds 29, expected tokens from 0 to 28"),
        (good - 2, "input_ids holds -1, expected tokens from 0 to 28"),
        (good[:1], "conv_state has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            stepper.step(tokens, cache)
    with pytest.raises(TypeError, match="cache is a list"):
        stepper.step(good, [cache])
    with pytest.raises(TypeError, match="input_ids has dtype float32"):
        stepper.step(good.float(), cache)
    assert all(not state.any() for states in cache.values() for state in states)
    # States in another order in memory run in PyTorch, to the same numbers.
    turned = {i: [x.mT.contiguous().mT for x in states] for i, states in cache.items()}
    turned = {i: tuple(states) for i, states in turned.items()}
    got, want = stepper.step(good, turned)[0], stepper.step(good, cache)[0]
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_a_sample_with_nan_is_refused():
    block = make().backbone.layers[0].mixer
    hidden = torch.zeros(1, 1, 8, dtype=torch.float64)
    hidden[0, 0, 3] = torch.nan
    with pytest.raises(ValueError, match="hidden_states holds NaN or infinity"):
        block.step(hidden, *block.allocate_inference_cache(1))


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"input_ids": [torch.tensor([1]), torch.tensor([[2]])]},
            ValueError,
            r"input_ids\[1\] has",
        ),
        (
            {"input_ids": [torch.tensor([1]), torch.tensor([])]},
            TypeError,
            r"input_ids\[1\] has dtype",
        ),
        (
            {"input_ids": [torch.tensor([1]), torch.tensor([1])[:0]]},
            ValueError,
            r"\[1\] has length 0",
        ),
        (
            {"input_ids": [torch.tensor([29])]},
            ValueError,
            "input_ids holds 29, expected tokens from",
        ),
        ({"attention_mask": torch.ones(2, 2)}, ValueError, r"attention_mask has shape \(2, 2\)"),
        ({"attention_mask": torch.tensor([[1, 0, 1]])}, ValueError, "with a gap"),
        ({"attention_mask": torch.tensor([[0, 0, 0]])}, ValueError, "a row with no token"),
        ({"attention_mask": torch.tensor([[2, 1, 1]])}, ValueError, "other numbers than 0 and 1"),
        ({"attention_mask": [[1, 1, 1]]}, TypeError, "attention_mask is a list"),
        ({"input_ids": texts(), "attention_mask": torch.ones(1, 3)}, ValueError, "list of texts"),
        ({"min_p": 0.1}, ValueError, "temperature is 0"),
        ({"min_p": 1.5, "temperature": 1}, ValueError, "min_p is 1.5"),
        ({"repetition_penalty": 0}, ValueError, "repetition_penalty is 0"),
        ({"pad_token_id": 29}, ValueError, "pad_token_id is 29"),
        ({"stop_strings": [3]}, TypeError, "stop_strings holds 3"),
        ({"stop_strings": ""}, TypeError, "stop_strings holds ''"),
        ({"stop_strings": b"x", "tokenizer": Words()}, TypeError, "stop_strings holds bytes"),
        ({"return_logprobs": 1}, TypeError, "return_logprobs is 1"),
        ({"cache": {}}, TypeError, "one entry per block"),
        ({"cache": make().allocate_inference_cache(2)}, ValueError, "cache holds a state of shape"),
    ],
)
def test_bad_requests_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        make().generate(
            **{"input_ids": torch.tensor([[1, 2, 3]]), "max_new_tokens": 2, **arguments}
        )


def test_stop_strings_need_bytes_or_a_tokenizer():
    with pytest.raises(ValueError, match="stop_strings needs a tokenizer: .* 300 tokens"):
        make(vocab_size=300).generate(torch.tensor([[1]]), 2, stop_strings="x")


LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]]))


@pytest.mark.parametrize(
    ("options", "probabilities"),
    [
        ({"min_p": 0.5}, [0, 0.4, 0, 0.3, 0]),
        ({"min_p": 0.0}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"min_p": 1.0}, [0, 1, 0, 0, 0]),
        ({"min_p": 0.3, "top_k": 2}, [0, 0.4, 0, 0.3, 0]),
        ({"min_p": 0.3, "top_p": 0.75}, [0, 0.4, 0, 0.3, 0.15]),
    ],
)
def test_the_share_of_the_likeliest(options, probabilities):
    n = 20_000
    drawn = sample(LOGITS.expand(n, -1), 1.0, **options, generator=torch.manual_seed(0))
    share = torch.bincount(drawn, minlength=5) / n
    expected = torch.tensor(probabilities) / sum(probabilities)
    assert (share - expected).abs().max() < 4 * 0.5 / n**0.5  # four standard deviations
    assert (share[expected == 0] == 0).all()


def test_sample_names_what_does_not_fit():
    for logits, error, message in (
        (LOGITS[0], ValueError, r"logits has shape \(5,\), expected \(b, vocabulary\)"),
        (LOGITS.long(), TypeError, "logits has dtype int64"),
        ([1.0], TypeError, "logits is a list"),
    ):
        with pytest.raises(error, match=message):
            sample(logits)
    with pytest.raises(ValueError, match="temperature is 0"):
        sample(LOGITS, top_k=3)
