"""``python -m ssm_core.mamba generate --model FOLDER --prompt TEXT``: continue a text.

The folder holds a checkpoint in either published layout and, beside it, ``tokenizer.json``.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import sys

import torch

from ssm_core.mamba import MambaLM


def main(arguments=None):
    """Run the command; return the exit status: 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        tokenizer, decoder = _load_tokenizer(pathlib.Path(options.model))
        model = MambaLM.from_pretrained(
            options.model,
            device=options.device or _best_device(),
            dtype=options.dtype and getattr(torch, options.dtype),
            progress=_show_progress,
        )
        _generate(model, tokenizer, decoder, options)
    except (ValueError, TypeError, ModuleNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="python -m ssm_core.mamba", description=__doc__)
    commands = parser.add_subparsers(required=True)
    generate = commands.add_parser("generate", help="continue a text")
    generate.add_argument(
        "--model",
        required=True,
        metavar="PATH",
        help="folder of a checkpoint, or its file of weights",
    )
    generate.add_argument("--prompt", required=True, help="the text to continue")
    generate.add_argument("--max-new-tokens", type=int, default=100, metavar="N")
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
    generate.add_argument("--seed", type=int, help="repeat a draw")
    generate.add_argument("--device", help="cuda, mps or cpu; by default the best there is")
    generate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights; by default that of the file",
    )
    return parser


def _load_tokenizer(path):
    """The tokenizer beside the weights, and what turns a stream of tokens into text."""
    file = (path if path.is_dir() else path.parent) / "tokenizer.json"
    try:
        from tokenizers import Tokenizer, decoders
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reading tokenizer.json needs the package tokenizers: pip install tokenizers",
            name=error.name,
        ) from None
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist, expected the tokenizer that the model was trained "
            "with (EleutherAI/gpt-neox-20b for the models published by state-spaces)"
        )
    try:
        return Tokenizer.from_file(str(file)), decoders.DecodeStream(skip_special_tokens=True)
    except Exception as error:  # noqa: BLE001 tokenizers raises plain Exception
        raise ValueError(f"{file} is not a tokenizer: {error}") from None


def _generate(model, tokenizer, decoder, options):
    """Print the prompt, then the text of each token as soon as it is known."""
    prompt = tokenizer.encode(options.prompt).ids
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
        eos_token_id=model.config.eos_token_id,
        generator=generator,
    )
    for token in prompt:  # a decoder may join what follows to what was
        decoder.step(tokenizer, token)
    print(options.prompt, end="", flush=True)
    for token in tokens:
        print(decoder.step(tokenizer, int(token)) or "", end="", flush=True)
    print()


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
