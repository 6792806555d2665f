"""``python -m ssm_core.mamba generate``."""

import os
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from ssm_core.mamba import MambaConfig, MambaLM
from ssm_core.mamba import __main__ as command
from ssm_core.mamba.__main__ import main

PROMPT = "Mé–雨🌧 go"  # no two bytes are the same


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(command, "_PATIENCE", 600.0)


@pytest.fixture
def folder(tmp_path):
    """A model with a tokenizer of single bytes: most characters of the prompt take several tokens."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, [])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    torch.manual_seed(0)
    MambaLM(MambaConfig(16, 2, 256, tie_embeddings=False)).save_pretrained(tmp_path)
    return tmp_path


def generate(folder, *more, prompt=PROMPT):
    return main(["generate", "--model", str(folder), "--prompt", prompt, "--device", "cpu", *more])


def repeat(folder):
    """Make the model say the prompt over and over: each byte is followed by the one after it."""
    ids = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(PROMPT + "\n").ids
    assert len(ids) > len(PROMPT) + 5
    assert len({*ids}) == len(ids)  # no byte is followed by two
    model = MambaLM(MambaConfig(256, 1, 256, tie_embeddings=False))
    with torch.no_grad():
        model.backbone.embedding.weight.copy_(torch.eye(256))
        model.backbone.layers[0].mixer.out_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for now, then in zip(ids, [*ids[1:], ids[0]]):
            model.lm_head.weight[then, now] = 1
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return len(ids)


def test_text_is_printed_whole_though_tokens_are_parts_of_letters(folder, capsys):
    n = repeat(folder)
    assert generate(folder, "--max-new-tokens", str(2 * n)) == 0
    out, err = capsys.readouterr()
    assert out == f"{PROMPT}\n{PROMPT}\n{PROMPT}\n"
    assert "loading" in err and err.endswith(" MB\n")


def test_the_text_comes_bit_by_bit(folder, monkeypatch):
    repeat(folder)
    pieces = []

    class Screen:
        def write(self, text):
            pieces.append(text)

        def flush(self):
            pieces.append(None)

    monkeypatch.setattr(sys, "stdout", Screen())
    assert generate(folder, "--max-new-tokens", "25") == 0
    said = [piece for piece in pieces if piece]
    assert len(said) > 15 and said[0] == PROMPT  # each character is shown when it is there
    before = [pieces[:i].count(None) for i, piece in enumerate(pieces) if piece]
    assert before == list(range(len(said)))  # and nothing waits for the next


def as_bytes(folder, **options):
    """Make the model one of bytes, without a tokenizer."""
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    model = MambaLM(MambaConfig(16, 2, **{"vocab_size": 256, "tie_embeddings": False} | options))
    model.save_pretrained(folder)
    return model


def test_a_model_of_bytes_needs_no_tokenizer(folder, capsys):
    model = as_bytes(folder)
    assert generate(folder, "--max-new-tokens", "40") == 0
    want = model.generate(torch.tensor([list(PROMPT.encode())]), 40)[0].tolist()
    assert capsys.readouterr().out == bytes(want).decode(errors="replace") + "\n"
    with_end = bytes(want[: len(PROMPT.encode()) + 11])
    stop = with_end[-1:].decode("latin-1")
    if stop.isascii():
        assert generate(folder, "--max-new-tokens", "40", "--stop", stop) == 0
        assert capsys.readouterr().out.endswith(stop + "\n")


def test_other_models_need_one(folder, capsys):
    as_bytes(folder, vocab_size=257)
    assert generate(folder) == 1
    err = capsys.readouterr().err
    assert "error: tokenizer.json does not exist beside the weights, expected the" in err
    assert "as its 257 tokens are not bytes" in err


def test_a_first_token_that_takes_long_is_explained(folder, capsys, monkeypatch):
    repeat(folder)
    monkeypatch.setattr(command, "_PATIENCE", 0.0)
    real = MambaLM.stream

    def slow(*arguments, **options):
        for token in real(*arguments, **options):
            time.sleep(0.2)
            yield token

    monkeypatch.setattr(MambaLM, "stream", slow)
    assert generate(folder, "--max-new-tokens", "2") == 0
    out, err = capsys.readouterr()
    assert "the first run on a machine also compiles" in err and out.startswith(PROMPT)


def test_text_ends_at_a_stop_string(folder, capsys):
    repeat(folder)
    assert generate(folder, "--max-new-tokens", "200", "--stop", "雨🌧", "--stop", "xyz") == 0
    assert capsys.readouterr().out == f"{PROMPT}\nMé–雨🌧\n"


def test_the_help_says_what_is_needed(capsys):
    with pytest.raises(SystemExit) as done:
        main(["generate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0
    for words in ("tokenizer.json", "bytes", "Nothing is downloaded", "example: python -m"):
        assert words in shown


def test_draws_repeat_with_their_seed(folder, capsys):
    options = ("--max-new-tokens", "30", "--temperature", "1", "--top-k", "50", "--top-p", "0.9")
    said = []
    for seed in ("1", "1", "2"):
        assert generate(folder, *options, "--seed", seed, "--dtype", "bfloat16") == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "tokenizer.json").write_text("{}", encoding="utf-8"),
            "tokenizer.json is not a tokenizer",
        ),
        (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "truncated, corrupt"),
    ],
)
def test_what_is_missing_is_named(folder, capsys, damage, message):
    damage(folder)
    assert generate(folder) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_named(folder, capsys):
    assert generate(folder, "--device", "cuda") == 1
    assert "device is 'cuda', which cannot be used here: " in capsys.readouterr().err


def test_bad_options_are_named(folder, capsys):
    assert generate(folder, "--top-k", "5") == 1
    assert "temperature is 0" in capsys.readouterr().err
    assert generate(folder, prompt="") == 1
    assert "prompt holds no token" in capsys.readouterr().err


def test_the_command_runs_as_a_module(folder):
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "ssm_core.mamba",
            "generate",
            "--model",
            folder,
            "--prompt",
            "a",
            "--max-new-tokens",
            "3",
        ],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(b"a") and run.stdout.endswith(b"\n")


def test_a_terminal_of_few_letters_shows_what_it_can(folder):
    n = repeat(folder)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "ssm_core.mamba",
            "generate",
            "--model",
            folder,
            "--prompt",
            PROMPT,
            "--max-new-tokens",
            str(n),
        ],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "cp1252"},
    )
    assert run.returncode == 0, run.stderr
    shown = PROMPT.encode("cp1252", errors="replace")
    assert shown.count(b"?") == 2 and run.stdout.split() == (2 * (shown + b"\n")).split()
