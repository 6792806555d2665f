"""Checkpoints on disk: the two published layouts, read with care and written whole.

=================  =================================================  ============================
layout             files                                              key of the embedding
=================  =================================================  ============================
``state-spaces``   ``config.json``, ``pytorch_model.bin``             backbone.embedding.weight
``transformers``   ``config.json``, ``model.safetensors``, or         backbone.embeddings.weight
                   shards and ``model.safetensors.index.json``
=================  =================================================  ============================

Either kind of key is read from either kind of file. Nothing is unpickled: a file of PyTorch is read
by ``torch.load(weights_only=True)``. Shapes are compared before any number is read.

What a layout has no field for goes to ``generation_config.json``, which the authors' package does
not read: there the tokens that begin, end and fill up a text. ``transformers`` reads it and finds the rows of the embedding that
are not tokens under ``suppress_tokens``, so that it does not generate them either.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from ssm_core._checks import as_int, as_positive
from ssm_core.mamba._mixer import option_defaults
from ssm_core.mamba.block import Mamba
from ssm_core.mamba.mamba2 import Mamba2

__all__ = ["LAYOUTS", "Weights", "check_state", "locate", "save"]

LAYOUTS = ("transformers", "state-spaces")

_CONFIG, _GENERATION = "config.json", "generation_config.json"
# In the order in which they are looked for.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_EMBEDDING, _EMBEDDINGS, _HEAD = (
    "backbone.embedding.weight",
    "backbone.embeddings.weight",
    "lm_head.weight",
)

# Field of MambaConfig -> (field of transformers, its value where the file leaves it out).
_FIELDS = {
    "d_model": ("hidden_size", 768),
    "n_layer": ("num_hidden_layers", 32),
    "vocab_size": ("vocab_size", 50280),
    "norm_epsilon": ("layer_norm_epsilon", 1e-5),
    "residual_in_fp32": ("residual_in_fp32", True),
    "tie_embeddings": ("tie_word_embeddings", True),
    "initializer_range": ("initializer_range", 0.1),
    "eos_token_id": ("eos_token_id", 0),
    "bos_token_id": ("bos_token_id", 0),
    "pad_token_id": ("pad_token_id", 0),
}
_BLOCK_FIELDS = {
    "d_state": ("state_size", 16),
    "d_conv": ("conv_kernel", 4),
    "expand": ("expand", 2),
    "dt_rank": ("time_step_rank", "auto"),
    "dt_min": ("time_step_min", 0.001),
    "dt_max": ("time_step_max", 0.1),
    "dt_init": ("time_step_init_scheme", "random"),
    "dt_scale": ("time_step_scale", 1.0),
    "dt_init_floor": ("time_step_floor", 1e-4),
    "conv_bias": ("use_conv_bias", True),
    "bias": ("use_bias", False),
}
# The same of Mamba-2. A chunk of theirs is a matter of speed: None, our choice, stands for 256.
_MAMBA2_FIELDS = {
    "d_state": ("state_size", 128),
    "d_conv": ("conv_kernel", 4),
    "expand": ("expand", 2),
    "headdim": ("head_dim", 64),
    "ngroups": ("n_groups", 8),
    "dt_min": ("time_step_min", 0.001),
    "dt_max": ("time_step_max", 0.1),
    "dt_init_floor": ("time_step_floor", 1e-4),
    "dt_limit": ("time_step_limit", (0.0, math.inf)),
    "conv_bias": ("use_conv_bias", True),
    "bias": ("use_bias", False),
    "chunk_size": ("chunk_size", 256),
}
_CHUNK = 256
_INFINITY = {"__float__": "Infinity"}  # as transformers 5 writes it, which reads the JSON of others
# What the fields of a Mamba-2 model are where the file leaves them out, unlike those of Mamba.
_MAMBA2_DEFAULTS = {
    "hidden_size": 4096,
    "num_hidden_layers": 64,
    "vocab_size": 32768,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
# The models that transformers has, by model_type: in Falcon's, Δ, B and C are divided by their rms.
_ARCHITECTURES = {
    "mamba": "MambaForCausalLM",
    "falcon_mamba": "FalconMambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
}
_FALCON_EPSILON = ("mixer_rms_eps", 1e-6)

# Options of a Mamba-2 block that transformers has no field for, with the one value that it knows.
_MAMBA2_FIXED = {"rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False, "d_ssm": None}

_SPECIAL = ("eos_token_id", "bos_token_id", "pad_token_id")

# The rows of the embedding are the vocabulary in transformers; a field of our own holds ours.
_UNPADDED = "unpadded_vocab_size"

# The fields of MambaConfig in the authors' package. Those that it gives to other models than ours
# have one value here, and the epsilon of norms, which it has no field for, is always the same.
_STATE_SPACES = (
    "d_model",
    "d_intermediate",
    "n_layer",
    "vocab_size",
    "ssm_cfg",
    "attn_layer_idx",
    "attn_cfg",
    "rms_norm",
    "residual_in_fp32",
    "fused_add_norm",
    "pad_vocab_size_multiple",
    "tie_embeddings",
)
_NEUTRAL: dict[str, Any] = {"d_intermediate": 0, "attn_layer_idx": [], "attn_cfg": {}}
_STATE_SPACES_EPSILON = 1e-5
# Options of our blocks that it has no argument for, with the value that its blocks compute with.
_STATE_SPACES_OPTIONS: dict[str, Any] = {"mixer_rms_eps": None, "norm_eps": _STATE_SPACES_EPSILON}


def locate(path: str | os.PathLike[str]) -> tuple[dict[str, Any], pathlib.Path]:
    """Find a checkpoint: the fields of its MambaConfig, and the file of weights or of their index.

    Raises:
        ValueError: no such file or folder, a configuration that is not JSON or of another model.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        found = [path / name for name in _WEIGHTS if (path / name).is_file()]
        if not found:
            raise ValueError(f"{path} holds no weights, expected one of: {', '.join(_WEIGHTS)}")
        weights = found[0]
    elif path.is_file():
        weights = path
    else:
        raise ValueError(
            f"{path} does not exist, expected a folder with a checkpoint, or its file "
            "of weights (nothing is downloaded)"
        )
    config = weights.parent / _CONFIG
    if not config.is_file():
        raise ValueError(f"{config} does not exist, expected the configuration of {weights.name}")
    published = _read_json(config)
    if "model_type" in published or "hidden_size" in published:
        return _from_transformers(published, config), weights
    generation = weights.parent / _GENERATION
    special = _read_json(generation) if generation.is_file() else {}
    tokens = {name: special.get(name) for name in _SPECIAL}
    return {**_from_state_spaces(published, config), **tokens}, weights


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint, before its numbers are read."""

    shape: torch.Size
    dtype: torch.dtype
    read: Callable[[], Tensor]
    file: pathlib.Path

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


@final
class Weights:
    """The tensors of a checkpoint, one file or shards; shapes are known before numbers are read."""

    def __init__(self, file: pathlib.Path) -> None:
        self.file = file
        self._open = contextlib.ExitStack()
        self._entries: dict[str, Entry] = {}

    def __enter__(self) -> Weights:
        try:
            self._read_headers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._entries.clear()
        self._open.close()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embedding, which stands for that of the weights."""
        return self._entries[_EMBEDDING].dtype

    def check(self, expected: Mapping[str, Tensor], tied: bool) -> None:
        """Compare keys and shapes with a state dict; a tied head may be there or not."""
        absent = [
            key for key in expected if key not in self._entries and not (tied and key == _HEAD)
        ]
        extra = [key for key in self._entries if key not in expected]
        if absent or extra:
            raise ValueError(f"{self.file} does not fit its configuration: {_amiss(absent, extra)}")
        wrong = [
            f"{key} has shape {tuple(entry.shape)}, expected {tuple(expected[key].shape)}"
            for key, entry in self._entries.items()
            if entry.shape != expected[key].shape
        ]
        if wrong:
            raise ValueError(f"{self.file} does not fit its configuration: {_few(wrong, '; ')}")
        whole = [
            f"{key} has dtype {entry.dtype}"
            for key, entry in self._entries.items()
            if not entry.dtype.is_floating_point
        ]
        if whole:
            raise ValueError(f"{self.file}: {_few(whole)}, expected floating-point weights")

    @torch.no_grad()
    def copy_to(
        self, state: Mapping[str, Tensor], progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Read every tensor into a state dict of the same keys, which shares memory with a model."""
        total, done = sum(entry.nbytes for entry in self._entries.values()), 0
        for key in sorted(self._entries, key=lambda key: key == _HEAD):  # a tied head comes last
            entry = self._entries[key]
            tensor = _reading(entry.file, entry.read)
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{entry.file} holds numbers in {key} that are not finite")
            tied = key == _HEAD and state[key].data_ptr() == state[_EMBEDDING].data_ptr()
            if tied and not torch.equal(tensor.to(state[key]), state[key]):
                raise ValueError(
                    f"{entry.file} holds a {_HEAD} that differs from {_EMBEDDING}, "
                    "expected one matrix, as the configuration ties the two"
                )
            state[key].copy_(tensor)
            done += entry.nbytes
            if progress is not None:
                progress(done, total)

    def _read_headers(self):
        if self.file.name.endswith(".index.json"):
            self._add_shards(_read_json(self.file))
        else:
            self._add(self.file)
        if _EMBEDDINGS in self._entries:
            if _EMBEDDING in self._entries:
                raise ValueError(f"{self.file} holds {_EMBEDDING} and {_EMBEDDINGS}, expected one")
            self._entries[_EMBEDDING] = self._entries.pop(_EMBEDDINGS)

    def _add(self, file):
        """Add the tensors of one file; return their keys."""
        read = self._safetensors if file.suffix == ".safetensors" else _pytorch
        entries = _reading(file, lambda: read(file))
        twice = [key for key in entries if key in self._entries]
        if twice:
            raise ValueError(f"{file} holds {_few(twice)}, which another shard holds too")
        self._entries.update(entries)
        return entries.keys()

    def _add_shards(self, index):
        places = index.get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ValueError(f"{self.file} has no weight_map, expected the file of every key")
        for name in sorted({*map(str, places.values())}):
            file = self.file.parent / name
            if file.parent != self.file.parent or not file.is_file():
                raise ValueError(f"{self.file} names {name}, expected a file that lies beside it")
            listed = {key for key, place in places.items() if place == name}
            wrong = sorted(listed.symmetric_difference(self._add(file)))
            if wrong:
                raise ValueError(f"{file} and {self.file.name} disagree about {_few(wrong)}")

    def _safetensors(self, file):
        """{key: Entry}; the header alone is read."""
        handle = self._open.enter_context(_safetensors().safe_open(file, framework="pt"))
        slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 not a dict
        return {
            key: Entry(
                torch.Size(part.get_shape()),
                _DTYPES.get(part.get_dtype(), torch.uint8),
                lambda key=key: handle.get_tensor(key),
                file,
            )
            for key, part in slices.items()
        }


# Names of dtypes in the header of safetensors; weights have one of these.
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def check_state(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Check that a state dict can be published: the names, the shapes and whole tensors of it."""
    absent, extra = [k for k in expected if k not in state], [k for k in state if k not in expected]
    if absent or extra:
        raise ValueError(
            f"the model does not hold the published weights: {_amiss(absent, extra)} "
            "(merge adapters, remove parametrizations first)"
        )
    for key, tensor in state.items():
        if type(tensor) is not Tensor or tensor.is_meta:
            kind = "on the device meta" if tensor.is_meta else f"a {type(tensor).__name__}"
            raise ValueError(
                f"{key} is {kind}, expected a tensor that holds its numbers (gather "
                "shards, bring back what is offloaded first)"
            )
        if tensor.shape != expected[key].shape:
            raise ValueError(
                f"{key} has shape {tuple(tensor.shape)}, expected "
                f"{tuple(expected[key].shape)}, as the configuration says"
            )


def save(
    state: Mapping[str, Tensor],
    fields: dict[str, Any],
    padded_vocab_size: int,
    folder: str | os.PathLike[str],
    layout: str,
) -> None:
    """Write a state dict and the fields of its MambaConfig in a published layout."""
    folder = pathlib.Path(folder)
    transformers = layout == "transformers"
    name = "model.safetensors" if transformers else "pytorch_model.bin"
    others = [other for other in _WEIGHTS if other != name and (folder / other).exists()]
    if others:
        raise ValueError(
            f"{folder} already holds {_few(others)}, expected a folder without weights "
            "in another format: it would not be clear which are read"
        )
    # What is written computes what the model computes, even if the two were untied since.
    tied = fields["tie_embeddings"] and torch.equal(state[_HEAD], state[_EMBEDDING])
    fields = {**fields, "tie_embeddings": tied}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    if tied:
        tensors[_HEAD] = tensors[_EMBEDDING]
    elif tensors[_HEAD].data_ptr() == tensors[_EMBEDDING].data_ptr():
        tensors[_HEAD] = tensors[_HEAD].clone()
    if transformers:
        config = _to_transformers(fields, padded_vocab_size, state[_EMBEDDING].dtype)
        tensors[_EMBEDDINGS] = tensors.pop(_EMBEDDING)
        if tied:
            del tensors[_HEAD]
    else:
        config = _to_state_spaces(fields)
    texts = {_CONFIG: config, _GENERATION: _to_generation(fields, padded_vocab_size)}

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        written = pathlib.Path(temporary)
        if transformers:
            _safetensors().torch.save_file(tensors, written / name, metadata={"format": "pt"})
        else:
            torch.save(tensors, written / name)
        for file, content in texts.items():
            text = json.dumps(content, indent=2) + "\n"
            (written / file).write_text(text, encoding="utf-8")
        for file in (name, *texts):
            os.replace(written / file, folder / file)


def _to_generation(fields, padded_vocab_size):
    """What transformers should know when it generates."""
    padding = list(range(fields["vocab_size"], padded_vocab_size))
    found = {name: fields[name] for name in _SPECIAL} | {"suppress_tokens": padding or None}
    return {name: value for name, value in found.items() if value is not None}


def _from_transformers(published, file):
    """The fields of MambaConfig from those of transformers' models."""
    kind = published.get("model_type", "mamba")
    if kind not in _ARCHITECTURES:
        raise ValueError(
            f"{file} describes a model of type {kind!r}, expected one of: "
            f"{', '.join(_ARCHITECTURES)}"
        )
    if published.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ValueError(f"{file} has hidden_act {published['hidden_act']!r}, expected 'silu'")

    mamba2 = kind == "mamba2"

    def translated(names):
        return {
            ours: published.get(theirs, (_MAMBA2_DEFAULTS if mamba2 else {}).get(theirs, default))
            for ours, (theirs, default) in names.items()
        }

    fields, block = translated(_FIELDS), translated(_MAMBA2_FIELDS if mamba2 else _BLOCK_FIELDS)
    d_model = as_int(fields["d_model"], "hidden_size")
    inner = int(as_positive(block["expand"], "expand") * d_model)
    found = as_int(published.get("intermediate_size", inner), "intermediate_size")
    if kind == "falcon_mamba":
        name, default = _FALCON_EPSILON
        block[name] = published.get(name, default)
        block["expand"] = found / d_model  # the published 7B says expand 16, and means 2
    elif found != inner:
        raise ValueError(
            f"{file} has intermediate_size {found}, expected expand * hidden_size = {inner}"
        )
    if mamba2:
        block = _mamba2_block(block, fields["norm_epsilon"], published, inner, file)
    rows = as_int(fields["vocab_size"], "vocab_size")
    fields["vocab_size"] = as_int(published.get(_UNPADDED, rows), _UNPADDED)
    return {**fields, "ssm_cfg": block, "pad_vocab_size_multiple": _multiple(fields, rows, file)}


def _mamba2_block(block, epsilon, published, inner, file):
    """The options of a Mamba-2 block, whose norm has the epsilon of the model in transformers."""
    heads = as_int(published.get("num_heads", 128), "num_heads")
    if heads * as_int(block["headdim"], "head_dim") != inner:
        raise ValueError(
            f"{file} has num_heads {heads} and head_dim {block['headdim']}, expected the product "
            f"expand * hidden_size = {inner}"
        )
    limits = block["dt_limit"]
    if isinstance(limits, (list, tuple)):
        limits = [math.inf if x == _INFINITY else x for x in limits]
    if block["chunk_size"] == _CHUNK:
        del block["chunk_size"]
    return {"layer": "Mamba2", **block, "dt_limit": limits, "norm_eps": epsilon}


def _multiple(fields, rows, file):
    """A multiple to which the vocabulary is rounded up to give this many rows."""
    tokens = fields["vocab_size"]
    if tokens > rows:
        raise ValueError(f"{file} has {_UNPADDED} {tokens}, expected at most the vocab_size {rows}")
    if tokens == rows:
        return 1
    return next((m for m in range(2, rows + 1) if -(-tokens // m) * m == rows), rows)


def _to_transformers(fields, padded_vocab_size, dtype):
    """The configuration of transformers' model of the same blocks."""
    if not fields["rms_norm"]:
        raise ValueError(
            "rms_norm is False, expected True: the layout of transformers has no LayerNorm"
        )
    mamba2 = fields["ssm_cfg"].get("layer") == "Mamba2"
    kind, block = (_to_mamba2 if mamba2 else _to_mamba)(fields)
    if block["expand"] != int(block["expand"]):
        raise ValueError(
            f"expand is {block['expand']}, expected a whole number: transformers takes no other"
        )
    block["expand"] = int(block["expand"])
    padded = {_UNPADDED: fields["vocab_size"]} if fields["vocab_size"] != padded_vocab_size else {}
    return {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        **{theirs: fields[ours] for ours, (theirs, _) in _FIELDS.items()},
        **block,
        **padded,
        "vocab_size": padded_vocab_size,
        "hidden_act": "silu",
        "intermediate_size": block["expand"] * fields["d_model"],
        # It concerns the start of training only, but transformers 5 scales what it has loaded.
        "rescale_prenorm_residual": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _to_mamba(fields):
    """The model_type of a model of Mamba blocks, and the fields of a block."""
    options = {**option_defaults(Mamba), **fields["ssm_cfg"]}
    block = {theirs: options[ours] for ours, (theirs, _) in _BLOCK_FIELDS.items()}
    if block["time_step_rank"] == "auto":
        block["time_step_rank"] = -(-fields["d_model"] // 16)
    name, _ = _FALCON_EPSILON
    if options[name] is None:
        return "mamba", block
    return "falcon_mamba", {**block, name: options[name]}


def _to_mamba2(fields):
    """The same of Mamba-2 blocks."""
    options = {**option_defaults(Mamba2), **fields["ssm_cfg"]}
    fixed = {**_MAMBA2_FIXED, "norm_eps": fields["norm_epsilon"]}  # one epsilon for all norms
    for name, value in fixed.items():
        if options[name] != value:
            raise ValueError(
                f"{name} is {options[name]}, expected {value}: the layout of transformers has no "
                "other"
            )
    block = {theirs: options[ours] for ours, (theirs, _) in _MAMBA2_FIELDS.items()}
    block["chunk_size"] = block["chunk_size"] or _CHUNK
    if tuple(block["time_step_limit"]) == (0.0, math.inf):  # their default; JSON has no infinity
        del block["time_step_limit"]
    heads = int(options["expand"] * fields["d_model"]) // options["headdim"]
    return "mamba2", {**block, "num_heads": heads}


def _from_state_spaces(published, file):
    """The fields of MambaConfig from a configuration of the authors' package."""
    absent = [name for name in ("d_model", "n_layer", "vocab_size") if name not in published]
    extra = sorted(set(published) - {*_STATE_SPACES})
    if absent or extra:
        raise ValueError(
            f"{file} is not the configuration of a Mamba language model: {_amiss(absent, extra)}"
        )
    for name, neutral in _NEUTRAL.items():
        value = published.get(name, neutral)
        if value != neutral:
            raise ValueError(
                f"{file} has {name} {value!r}, expected {neutral!r}: a model of Mamba blocks only"
            )
    fields = {name: value for name, value in published.items() if name not in _NEUTRAL}
    return {**fields, "ssm_cfg": published.get("ssm_cfg") or {}}


def _to_state_spaces(fields):
    """The configuration of the authors' package: exactly the fields that it accepts."""
    if fields["norm_epsilon"] != _STATE_SPACES_EPSILON:
        raise ValueError(
            f"norm_epsilon is {fields['norm_epsilon']:g}, expected "
            f"{_STATE_SPACES_EPSILON:g}: the layout state-spaces has no other"
        )
    block = dict(fields["ssm_cfg"])
    for name, neutral in _STATE_SPACES_OPTIONS.items():
        value = block.pop(name, neutral)
        if value != neutral:
            raise ValueError(
                f"{name} is {value:g}, expected {neutral}: the layout state-spaces has no other"
            )
    if block.get("chunk_size", 0) is None:
        del block["chunk_size"]
    known = {**fields, **_NEUTRAL, "ssm_cfg": block}
    return {name: known[name] for name in _STATE_SPACES}


def _amiss(absent, extra):
    """Names that are missing and names that are not expected, in words."""
    return "; ".join(
        f"{what} {_few(names)}"
        for what, names in (("missing", absent), ("not expected", extra))
        if names
    )


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        return dict(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:  # no UTF-8, no JSON, or no object
        raise ValueError(f"{file} holds no JSON object: {error}") from None


def _safetensors():
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "files in this format need the package safetensors: pip install safetensors",
            name=error.name,
        ) from None
    return safetensors


def _pytorch(file):
    """{key: Entry} of a file written by torch.save."""
    if zipfile.is_zipfile(file):  # PyTorch itself does not look at the checksums
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of its part {damaged} is wrong")
    options = {"map_location": "cpu", "weights_only": True}
    try:
        content = torch.load(file, mmap=True, **options)
    except RuntimeError:  # the format before PyTorch 1.6 cannot be mapped into memory
        content = torch.load(file, **options)
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(x, torch.Tensor) for key, x in content.items()
    ):
        raise ValueError("it holds something other than tensors by name")
    return {key: Entry(x.shape, x.dtype, lambda x=x: x, file) for key, x in content.items()}


def _reading(file, read):
    """Run a function that reads a file; what a damaged file raises becomes a ValueError."""
    try:
        return read()
    except ModuleNotFoundError:
        raise
    except pickle.UnpicklingError:
        raise ValueError(
            f"{file} holds more than tensors or is corrupt; nothing in it was executed"
        ) from None
    except Exception as error:  # noqa: BLE001 safetensors and PyTorch raise many kinds
        raise ValueError(
            f"{file} is truncated, corrupt or not a file of weights: {error}"
        ) from None


def _few(items: Iterable[str], separator: str = ", ") -> str:
    """The first items of a list in words, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return separator.join(items[:5]) + more
