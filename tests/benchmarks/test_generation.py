"""The benchmark of generation: it runs through where it is small, and its Transformer is one."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from benchmarks import generation
from benchmarks.generation import ON_CPU, Transformer

SMALL = dataclasses.replace(
    ON_CPU, d_model=16, n_layer=2, vocabulary=40, prompt=40, new=5, batches=(1, 2)
)


def make(**options):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layer": 2, "heads": 2, "vocabulary": 40, "longest": 20, **options}
    return Transformer(**sizes, dtype=torch.float64)


def text(b=2, L=12):
    return torch.randint(40, (b, L), generator=torch.manual_seed(1))


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def test_it_runs_through(transformers, monkeypatch):
    monkeypatch.setattr(generation, "REPEATS", 2)
    results = generation.run(SMALL)
    names = {"ours", "transformer", "transformers_mamba", "transformers_neox"}
    assert [row["batch"] for row in results["rows"]] == [1, 2]
    for row in results["rows"]:
        assert set(row["contenders"]) == names
        for times in row["contenders"].values():
            assert times["runs"] == 2 and times["total"]["min"] > times["prefill"]["min"] > 0
            assert times["tokens_per_second"] == pytest.approx(
                row["batch"] * SMALL.new / times["total"]["median"]
            )
        assert row["contenders"]["ours"]["ours_over_this"] == 1
    assert results["setup"]["dtype"] == "float32" and set(results["setup"]["parameters"]) == names
    assert "transformers_mamba" in results["checks"]
    pytest.importorskip("matplotlib")
    figure = generation.figure(results | {"machine": {"processor": "a processor"}})
    assert len(figure.axes[0].lines) == 4


def test_models_that_disagree_are_not_timed(transformers, monkeypatch):
    monkeypatch.setattr(
        generation, "_their_mamba", lambda mamba, like: generation._neox(SMALL, like)
    )
    with pytest.raises(AssertionError, match="differ by more than 0.0001: {'transformers_mamba'"):
        generation.run(SMALL)


def test_what_takes_too_long_or_too_much_is_left_out(monkeypatch):
    monkeypatch.setattr(generation, "TOO_LONG", 0.0)

    def large(prompt, new, seen):
        if len(prompt) > 1:
            raise torch.OutOfMemoryError
        return small(prompt, new, seen)

    def small(prompt, new, seen):
        for _ in range(new):
            seen()

    contenders = {"ours": small, "large": large}
    first, second = generation._rows(SMALL, contenders)
    assert "total" in first["contenders"]["large"]
    assert second["contenders"]["large"]["left_out"].startswith("took ")
    monkeypatch.setattr(generation, "TOO_LONG", 10.0)
    second = generation._rows(SMALL, contenders)[1]["contenders"]
    assert second["large"] == {"left_out": "out of memory"} and "total" in second["ours"]


@torch.no_grad()
def test_steps_of_the_transformer_give_what_one_pass_gives():
    model, ids = make(), text()
    whole = model(ids)
    for L in (1, 2, 7):
        cache = model.allocate_cache(2, 20)
        pieces = [model(ids[:, :L], cache)]
        pieces += [model(ids[:, t : t + 1], cache, start=t) for t in range(L, 12)]
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(model(ids, last=True), whole[:, -1:], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(model(ids[:, :1]), whole[:, :1], rtol=1e-11, atol=1e-12)


def test_rotary_positions_are_relative():
    rotation = make(longest=60).rotation
    generator = torch.manual_seed(2)
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=generator)

    def score(query, key):
        q_at, k_at = (
            torch.addcmul(x * rotation[0, at], x.roll(4), rotation[1, at])
            for x, at in ((q, query), (k, key))
        )
        return q_at @ k_at

    torch.testing.assert_close(score(8, 3), score(45, 40), rtol=1e-5, atol=1e-5)
    assert (score(8, 3) - score(9, 3)).abs() > 1e-2


@torch.no_grad()
def test_its_tokens_are_the_likeliest():
    model, prompt = make(), text(L=6)
    tokens = generation._Cached(model)(prompt, 8, lambda: None)
    ids = prompt
    for _ in range(8):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(tokens, ids)
