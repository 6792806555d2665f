"""``python -m ssm_core.mamba generate --model FOLDER --prompt TEXT``: continue a text.

The folder holds a checkpoint in either published layout and, beside it, ``tokenizer.json``. Without
that file, a model of at most 256 tokens reads and writes bytes.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import sys
import threading

import torch

from ssm_core.mamba import MambaLM, stream_text


def main(arguments=None):
    """Run the command; return the exit status: 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        tokenizer = _load_tokenizer(pathlib.Path(options.model))
        model = MambaLM.from_pretrained(
            options.model,
            device=options.device or _best_device(),
            dtype=options.dtype and getattr(torch, options.dtype),
            progress=_show_progress,
        )
        _generate(model, tokenizer, options)
    except (ValueError, TypeError, ModuleNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m ssm_core.mamba", description="Run a Mamba language model from a checkpoint."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    generate = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continue a text and print it as it comes. Nothing is downloaded.",
        epilog="""example: python -m ssm_core.mamba generate --model ~/mamba-130m --prompt "Once upon
        a time" --temperature 0.8 --top-p 0.95""",
    )
    generate.add_argument(
        "--model",
        required=True,
        metavar="PATH",
        help="folder of a checkpoint in either published layout, or its file of weights. The "
        "tokenizer.json beside it is used; without one, a model of at most 256 tokens reads and "
        "writes bytes",
    )
    generate.add_argument("--prompt", required=True, help="the text to continue")
    generate.add_argument(
        "--max-new-tokens", type=int, default=100, metavar="N", help="how many to add (100)"
    )
    generate.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 (default) takes the likeliest token, above 0 draws one",
    )
    generate.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    generate.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="draw from the likeliest tokens that make up probability P",
    )
    generate.add_argument(
        "--min-p",
        type=float,
        metavar="P",
        help="draw from tokens at least P times as likely as the likeliest",
    )
    generate.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="above 1, make tokens that the text holds already less likely (1)",
    )
    generate.add_argument(
        "--stop", action="append", metavar="TEXT", help="stop after this text; may come repeatedly"
    )
    generate.add_argument("--seed", type=int, help="repeat a draw")
    generate.add_argument("--device", help="cuda, mps or cpu; by default the best there is")
    generate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights; by default that of the file",
    )
    return parser


def _load_tokenizer(path):
    """The tokenizer beside the weights, or None where there is none."""
    file = (path if path.is_dir() else path.parent) / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reading tokenizer.json needs the package tokenizers: pip install tokenizers",
            name=error.name,
        ) from None
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 tokenizers raises plain Exception
        raise ValueError(f"{file} is not a tokenizer: {error}") from None


def _encode(text, tokenizer, model):
    """The tokens of a text, which are its bytes where there is no tokenizer."""
    if tokenizer is not None:
        return tokenizer.encode(text).ids
    if model.config.vocab_size > 256:
        raise ValueError(
            "tokenizer.json does not exist beside the weights, expected the tokenizer that the model "
            f"was trained with, as its {model.config.vocab_size} tokens are not bytes "
            "(EleutherAI/gpt-neox-20b for the models published by state-spaces)"
        )
    return list(text.encode())


def _generate(model, tokenizer, options):
    """Print the prompt, then the text of the tokens as soon as it is known."""
    prompt = _encode(options.prompt, tokenizer, model)
    if not prompt:
        raise ValueError("prompt holds no token, expected some text")
    device = model.lm_head.weight.device
    generator = None
    if options.seed is not None:
        generator = torch.Generator(device).manual_seed(options.seed)
    tokens = model.stream(
        torch.tensor([prompt], device=device),
        options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        eos_token_id=model.config.eos_token_id,
        stop_strings=options.stop,
        tokenizer=tokenizer,
        generator=generator,
    )
    print(options.prompt, end="", flush=True)
    for piece in stream_text(_patiently(tokens), tokenizer, prompt=prompt):
        print(piece, end="", flush=True)
    print()


def _patiently(tokens):
    """The same tokens; a sentence on stderr if the first two take long: the first reads the prompt,
    the second is the first step, and both may have to be compiled."""
    message = "\n(reading the prompt; the first run on a machine also compiles for some seconds)"
    timer = threading.Timer(_PATIENCE, print, [message], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        for i, token in enumerate(tokens):
            if i == 1:
                timer.cancel()
            yield token
    finally:
        timer.cancel()


_PATIENCE = 2.0  # seconds


def _best_device():
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _show_progress(done, total):
    """One line on stderr that counts up while the weights load."""
    end = "\n" if done == total else ""
    print(
        f"\rloading {done / 1e6:,.0f} of {total / 1e6:,.0f} MB",
        end=end,
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):  # a model may write what the terminal cannot show
        sys.stdout.reconfigure(errors="replace")
    sys.exit(main())
