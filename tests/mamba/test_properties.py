"""What holds for every block and every model, on sizes, lengths and options drawn at random."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import assume, given
from hypothesis import strategies as st

from ssm_core.mamba import Mamba, Mamba2, MambaConfig, MambaLM, generation

DTYPES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 6e-2}

sizes = st.integers(1, 4)
lengths = st.integers(0, 12)
seeds = st.integers(0, 2**31)


@st.composite
def blocks(draw, dtype=torch.float64):
    """A block of any small size, with parameters away from their special values at the start."""
    options = {
        "d_model": draw(st.integers(1, 9)),
        "d_state": draw(sizes),
        "d_conv": draw(st.integers(1, 6)),
        "expand": draw(st.sampled_from([1, 1.5, 2, 3])),
        "dt_rank": draw(st.sampled_from(["auto", 1, 3])),
        "bias": draw(st.booleans()),
        "conv_bias": draw(st.booleans()),
        "mixer_rms_eps": draw(st.sampled_from([None, 1e-6, 0.1])),
    }
    return changed(draw, lambda: Mamba(**options, dtype=torch.float64)).to(dtype)


@st.composite
def mamba2_options(draw):
    """A width and options of a Mamba-2 block of any small size."""
    ngroups, heads, headdim = (draw(st.integers(1, 3)) for _ in range(3))
    d_ssm = ngroups * heads * headdim
    expand = draw(st.sampled_from([1, 2]))
    return (d_ssm + draw(st.integers(0, 3))) if expand == 1 else d_ssm, {
        "expand": expand,
        "headdim": headdim,
        "ngroups": ngroups,
        "d_ssm": d_ssm,
        "d_state": draw(sizes),
        "d_conv": draw(st.integers(1, 6)),
        "D_has_hdim": draw(st.booleans()),
        "rmsnorm": draw(st.booleans()),
        "norm_before_gate": draw(st.booleans()),
        "dt_limit": draw(st.sampled_from([(0.0, float("inf")), (0.2, 0.8)])),
        "bias": draw(st.booleans()),
        "conv_bias": draw(st.booleans()),
    }


@st.composite
def blocks_of_both_kinds(draw):
    if draw(st.booleans()):
        return draw(blocks())
    d_model, options = draw(mamba2_options())
    return changed(draw, lambda: Mamba2(d_model, **options, dtype=torch.float64))


def changed(draw, make):
    """A block with parameters away from their special values at the start."""
    torch.manual_seed(draw(seeds))
    block = make()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return block


@st.composite
def models(draw):
    torch.manual_seed(draw(seeds))
    d_model, ssm_cfg = draw(st.integers(1, 9)), {"d_state": draw(sizes), "d_conv": draw(sizes)}
    if draw(st.booleans()):
        d_model, options = draw(mamba2_options())
        ssm_cfg = {"layer": "Mamba2", **options}
    model = MambaLM(
        MambaConfig(
            d_model,
            draw(st.integers(1, 3)),
            draw(st.integers(1, 20)),
            ssm_cfg,
            rms_norm=draw(st.booleans()),
            pad_vocab_size_multiple=draw(st.integers(1, 8)),
            tie_embeddings=draw(st.booleans()),
        ),
        dtype=torch.float64,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def signal(block, b, L, seed):
    generator = torch.Generator().manual_seed(seed)
    dtype = block.in_proj.weight.dtype
    return torch.randn(b, L, block.d_model, generator=generator, dtype=torch.float64).to(dtype)


def text(model, b, L, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (b, L), generator=generator)


def close(got, want, tolerance=1e-10):
    """Equal beside the largest value."""
    assert got.shape == want.shape
    scale = float(want.detach().abs().max()) if want.numel() else 0.0
    assert not got.numel() or float((got - want).detach().abs().max()) <= tolerance * (1 + scale)


def cut(draw, L):
    """Lengths of pieces, empty ones too, that make up L."""
    places = sorted(draw(st.lists(st.integers(0, L), max_size=4)))
    return [int(x) for x in np.diff([0, *places, L])]


# --- the block ------------------------------------------------------------------------------------


@given(st.data(), sizes, lengths, seeds)
def test_steps_pieces_and_one_pass_agree(data, b, L, seed):
    block = data.draw(blocks_of_both_kinds())
    hidden = signal(block, b, L, seed)
    whole, pieces, steps = (block.allocate_inference_cache(b, L) for _ in range(3))
    with torch.set_grad_enabled(data.draw(st.booleans())):
        want = block(hidden, whole)
        close(block(hidden), want)
        close(torch.cat([block(x, pieces) for x in hidden.split(cut(data.draw, L), 1)], 1), want)
    for t in range(L):
        close(block.step(hidden[:, t : t + 1], *steps)[0], want[:, t : t + 1])
    for cache in (pieces, steps):
        close(cache[0], whole[0])
        close(cache[1], whole[1])


@given(st.data(), lengths, seeds)
def test_packed_sequences_are_separate_ones(data, L, seed):
    block = data.draw(blocks_of_both_kinds())
    row, pieces = signal(block, 1, L, seed), cut(data.draw, L)
    n, bounds = len(pieces), torch.tensor(np.cumsum([0, *pieces]), dtype=torch.int32)
    cache = block.allocate_inference_cache(n, 0)
    for state in cache:
        state.normal_(generator=torch.Generator().manual_seed(seed))
    starts = [[state[i : i + 1].clone() for state in cache] for i in range(n)]
    parts = row.split(pieces, 1)
    close(block(row, cu_seqlens=bounds), torch.cat([block(part) for part in parts], 1))
    want = torch.cat([block(part, start) for part, start in zip(parts, starts, strict=True)], 1)
    close(block(row, cache, cu_seqlens=bounds), want)
    for i, start in enumerate(starts):
        close(cache[0][i : i + 1], start[0])
        close(cache[1][i : i + 1], start[1])


@given(st.data(), sizes, st.integers(1, 12), seeds)
def test_a_block_is_causal_and_rows_do_not_meet(data, b, L, seed):
    block = data.draw(blocks_of_both_kinds())
    hidden, t = signal(block, b, L, seed), data.draw(st.integers(0, L - 1))
    want = block(hidden)
    changed = hidden.clone()
    changed[:, t:] = signal(block, b, L - t, seed + 1)
    close(block(changed)[:, :t], want[:, :t])
    order = torch.tensor(data.draw(st.permutations(range(b))))
    close(block(hidden[order]), want[order])
    for i in range(b):
        close(block(hidden[i : i + 1]), want[i : i + 1])


@given(st.data(), sizes, lengths, seeds)
def test_strides_and_views_change_nothing(data, b, L, seed):
    block = data.draw(blocks_of_both_kinds())
    hidden = signal(block, b, L, seed)
    want = block(hidden)
    wide = torch.full((L, b + 1, 2 * block.d_model), torch.nan, dtype=torch.float64)
    view = wide[:, 1:, ::2].transpose(0, 1)
    view.copy_(hidden)
    before = wide.clone()
    close(block(view), want)
    assert torch.equal(wide.nan_to_num(7), before.nan_to_num(7))
    close(block(hidden[:1].expand(b, -1, -1)), want[:1].expand(b, -1, -1))


@given(st.data(), st.sampled_from([*DTYPES]), sizes, lengths, seeds)
def test_every_precision_is_near_the_exact_numbers(data, dtype, b, L, seed):
    block = data.draw(blocks(dtype))
    hidden = signal(block, b, L, seed)
    out = block(hidden)
    assert out.dtype == dtype
    cache = block.allocate_inference_cache(b, L)
    assert cache[1].dtype == torch.promote_types(dtype, torch.float32)
    steps = [block.step(hidden[:, t : t + 1], *cache)[0] for t in range(L)]
    assert all(y.dtype == dtype for y in steps)
    exact = block.double()(hidden.double())
    assume(not exact.numel() or exact.abs().max() < 100)
    for got in (out, torch.cat([out[:, :0], *steps], 1)):
        error = (got.double() - exact).norm() / (exact.norm() + exact.numel() ** 0.5)
        assert not exact.numel() or error < DTYPES[dtype]


@given(st.data(), sizes, st.integers(1, 8), seeds)
def test_gradients_do_not_depend_on_the_way(data, b, L, seed):
    """Of one pass, and of the same sequences packed into one row."""
    block = data.draw(blocks_of_both_kinds())
    hidden, weight = signal(block, b, L, seed), signal(block, b, L, seed + 1)

    def gradients(run):
        x = hidden.clone().requires_grad_()
        return torch.autograd.grad((run(x) * weight).sum(), [x, *block.parameters()])

    bounds = torch.arange(0, b * L + 1, L, dtype=torch.int32)

    def packed(x):
        return block(x.reshape(1, b * L, -1), cu_seqlens=bounds).view_as(x)

    for got, want in zip(gradients(packed), gradients(block), strict=True):
        close(got, want, 1e-9)


# --- the model ------------------------------------------------------------------------------------


@given(st.data(), sizes, st.integers(1, 10), seeds)
def test_a_model_in_every_way(data, b, L, seed):
    """Pieces, causality, rows, and recomputation."""
    model = data.draw(models())
    ids = text(model, b, L, seed)
    want = model(ids)
    assert want.shape == (b, L, model.config.vocab_size)
    cache = model.allocate_inference_cache(b, 0)
    with torch.no_grad():
        close(torch.cat([model(x, cache) for x in ids.split(cut(data.draw, L), 1)], 1), want)
    last = data.draw(st.integers(1, L))
    close(model(ids, num_last_tokens=last), want[:, -last:])
    t = data.draw(st.integers(0, L - 1))
    close(model(torch.cat([ids[:, :t], text(model, b, L - t, seed + 1)], 1))[:, :t], want[:, :t])
    order = torch.tensor(data.draw(st.permutations(range(b))))
    close(model(ids[order]), want[order])
    model.gradient_checkpointing = True
    assert torch.equal(model(ids), want)


@given(st.data(), st.integers(1, 10), seeds)
def test_packed_texts_are_separate_ones(data, L, seed):
    model = data.draw(models())
    row, pieces = text(model, 1, L, seed), cut(data.draw, L)
    bounds = torch.tensor(np.cumsum([0, *pieces]), dtype=torch.int32)
    close(model(row, cu_seqlens=bounds), torch.cat([model(x) for x in row.split(pieces, 1)], 1))


@given(st.data(), sizes, st.integers(1, 6), st.integers(0, 6), seeds)
def test_greedy_generation_is_a_loop_of_argmax(data, b, L, new, seed):
    model = data.draw(models())
    prompt = ids = text(model, b, L, seed)
    for _ in range(new):
        logits = model(ids)[:, -1, : model.config.vocab_size]
        top = logits.topk(min(2, logits.shape[1])).values
        assume((top[:, 0] - top[:, -1] > 1e-6).all() or logits.shape[1] == 1)  # no tie
        ids = torch.cat([ids, logits.argmax(-1)[:, None]], 1)
    assert torch.equal(model.generate(prompt, new), ids)
    ends = data.draw(st.lists(st.integers(0, 20), max_size=3))
    stopped = model.generate(prompt, new, eos_token_id=ends or None)
    for row, free in zip(stopped.tolist(), ids.tolist(), strict=True):
        end = next((i for i in range(L, len(free)) if free[i] in ends), len(free) - 1)
        assert row[: end + 1] == free[: end + 1] and len({*row[end:]}) <= 1
    assert stopped.shape[1] <= L + new and stopped.max() < model.config.vocab_size


@given(st.data(), sizes, seeds, st.floats(0.1, 10))
def test_drawn_tokens_are_among_the_allowed_ones(data, b, seed, temperature):
    vocabulary = data.draw(st.integers(1, 12))
    logits = torch.randn(b, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    top_k = data.draw(st.none() | st.integers(1, 14))
    top_p = data.draw(st.none() | st.floats(0.01, 1))
    rng = torch.Generator().manual_seed(seed)
    tokens = generation.sample(logits, temperature, top_k=top_k, top_p=top_p, generator=rng)
    p = (logits.double() / temperature).softmax(-1)
    if top_k is not None:
        least = p.sort(dim=-1, descending=True).values[:, min(top_k, vocabulary) - 1, None]
        p = p * (p >= least - 1e-12)
        p = p / p.sum(-1, keepdim=True)
    for row, token in zip(p, tokens, strict=True):
        assert row[token] > 0
        if top_p is not None:  # what is likelier does not fill the share yet
            assert row[row > row[token]].sum() < top_p + 1e-5


@given(st.data())
def test_bad_tensors_are_refused_with_a_sentence(data):
    block = data.draw(blocks_of_both_kinds())
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = data.draw(
        st.sampled_from([torch.float64, torch.float32, torch.int64, torch.complex64, torch.bool])
    )
    assume(not (len(shape) == 3 and shape[2] == block.d_model and dtype == torch.float64))
    with pytest.raises((ValueError, TypeError), match=r"^hidden_states .*expected"):
        block(torch.zeros(shape, dtype=dtype))
