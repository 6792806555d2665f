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
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pickle
import tempfile
import zipfile

import torch

from ssm_core._checks import as_int, as_positive

__all__ = ["LAYOUTS", "Weights", "locate", "save"]

LAYOUTS = ("transformers", "state-spaces")

_CONFIG = "config.json"
# In the order in which they are looked for.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
            "pytorch_model.bin.index.json")
_EMBEDDING, _EMBEDDINGS, _HEAD = ("backbone.embedding.weight", "backbone.embeddings.weight",
                                  "lm_head.weight")

# Field of MambaConfig -> (field of transformers, what it is there where the file leaves it out).
_FIELDS = {
    "d_model": ("hidden_size", 768), "n_layer": ("num_hidden_layers", 32),
    "vocab_size": ("vocab_size", 50280), "norm_epsilon": ("layer_norm_epsilon", 1e-5),
    "residual_in_fp32": ("residual_in_fp32", True), "tie_embeddings": ("tie_word_embeddings", True),
    "initializer_range": ("initializer_range", 0.1),
    "eos_token_id": ("eos_token_id", 0),
}
_BLOCK_FIELDS = {
    "d_state": ("state_size", 16), "d_conv": ("conv_kernel", 4), "expand": ("expand", 2),
    "dt_rank": ("time_step_rank", "auto"), "dt_min": ("time_step_min", 0.001),
    "dt_max": ("time_step_max", 0.1), "dt_init": ("time_step_init_scheme", "random"),
    "dt_scale": ("time_step_scale", 1.0), "dt_init_floor": ("time_step_floor", 1e-4),
    "conv_bias": ("use_conv_bias", True), "bias": ("use_bias", False),
}
# Fields of the state-spaces layout that other models use: (name, value that leaves Mamba as it is).
_NEUTRAL = {"d_intermediate": 0, "attn_layer_idx": [], "attn_cfg": {}}


def locate(path):
    """Find a checkpoint: the fields of its MambaConfig, and the file of weights or of their index.

    Raises:
        ValueError: no such file or folder, a configuration that is no JSON or of another model.
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
        raise ValueError(f"{path} does not exist, expected a folder with a checkpoint, or its file "
                         "of weights (nothing is downloaded)")
    config = weights.parent / _CONFIG
    if not config.is_file():
        raise ValueError(f"{config} does not exist, expected the configuration of {weights.name}")
    published = _read_json(config)
    if "model_type" in published or "hidden_size" in published:
        return _from_transformers(published, config), weights
    return _from_state_spaces(published, config), weights


class Weights:
    """The tensors of a checkpoint, one file or shards; shapes are known before numbers are read."""

    def __init__(self, file):
        self.file = file
        self._open = contextlib.ExitStack()
        self._tensors = {}  # key: (shape, dtype, function that reads it, file)

    def __enter__(self):
        if self.file.name.endswith(".index.json"):
            self._add_shards(_read_json(self.file))
        else:
            self._add(self.file)
        if _EMBEDDINGS in self._tensors:
            if _EMBEDDING in self._tensors:
                raise ValueError(f"{self.file} holds {_EMBEDDING} and {_EMBEDDINGS}, expected one")
            self._tensors[_EMBEDDING] = self._tensors.pop(_EMBEDDINGS)
        return self

    def __exit__(self, *error):
        self._tensors.clear()
        self._open.close()

    @property
    def dtype(self):
        """The dtype of the embedding, which stands for that of the weights."""
        return self._tensors[_EMBEDDING][1]

    def check(self, expected, tied):
        """Compare keys and shapes with a state dict; a tied head may be there or not."""
        absent = [key for key in expected
                  if key not in self._tensors and not (tied and key == _HEAD)]
        extra = [key for key in self._tensors if key not in expected]
        if absent or extra:
            raise ValueError(f"{self.file} does not fit its configuration: "
                             + "; ".join(f"{what} {_few(keys)}" for what, keys in
                                         (("missing", absent), ("not expected", extra)) if keys))
        wrong = [f"{key} has shape {tuple(shape)}, expected {tuple(expected[key].shape)}"
                 for key, (shape, *_) in self._tensors.items()
                 if tuple(shape) != tuple(expected[key].shape)]
        if wrong:
            raise ValueError(f"{self.file} does not fit its configuration: {_few(wrong, '; ')}")
        whole = [f"{key} has dtype {dtype}" for key, (_, dtype, *_) in self._tensors.items()
                 if not dtype.is_floating_point]
        if whole:
            raise ValueError(f"{self.file}: {_few(whole)}, expected floating-point weights")

    @torch.no_grad()
    def copy_to(self, state, progress=None):
        """Read every tensor into a state dict of the same keys, which shares memory with a model."""
        sizes = {key: torch.Size(shape).numel() * dtype.itemsize
                 for key, (shape, dtype, *_) in self._tensors.items()}
        total, done = sum(sizes.values()), 0
        for key in sorted(self._tensors, key=lambda key: key == _HEAD):  # a tied head comes last
            _, _, read, file = self._tensors[key]
            tensor = _reading(file, read)
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{file} holds numbers in {key} that are not finite")
            tied = key == _HEAD and state[key].data_ptr() == state[_EMBEDDING].data_ptr()
            if tied and not torch.equal(tensor.to(state[key]), state[key]):
                raise ValueError(f"{file} holds a {_HEAD} that differs from {_EMBEDDING}, expected "
                                 "one matrix, as the configuration ties the two")
            state[key].copy_(tensor)
            done += sizes[key]
            if progress is not None:
                progress(done, total)

    def _add(self, file):
        """Add the tensors of one file; return their keys."""
        read = self._safetensors if file.suffix == ".safetensors" else _pytorch
        tensors = _reading(file, lambda: read(file))
        twice = [key for key in tensors if key in self._tensors]
        if twice:
            raise ValueError(f"{file} holds {_few(twice)}, which another shard holds too")
        self._tensors.update({key: (*entry, file) for key, entry in tensors.items()})
        return tensors.keys()

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
        """{key: (shape, dtype, function that reads it)}; the header alone is read."""
        handle = self._open.enter_context(_safetensors().safe_open(file, framework="pt"))
        keys = handle.keys()
        slices = {key: handle.get_slice(key) for key in keys}
        return {key: (part.get_shape(), _DTYPES.get(part.get_dtype(), torch.uint8),
                      lambda key=key: handle.get_tensor(key)) for key, part in slices.items()}


# Names of dtypes in the header of safetensors; weights have one of these.
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def save(state, fields, padded_vocab_size, folder, layout):
    """Write a state dict and the fields of its MambaConfig in a published layout."""
    folder = pathlib.Path(folder)
    transformers = layout == "transformers"
    name = "model.safetensors" if transformers else "pytorch_model.bin"
    others = [other for other in _WEIGHTS if other != name and (folder / other).exists()]
    if others:
        raise ValueError(f"{folder} already holds {_few(others)}, expected a folder without weights "
                         "in another format: it would not be clear which are read")
    if transformers:
        config = _to_transformers(fields, padded_vocab_size, state[_EMBEDDING].dtype)
    else:
        config = _to_state_spaces(fields)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    if transformers:
        if fields["tie_embeddings"]:
            del tensors[_HEAD]
        tensors[_EMBEDDINGS] = tensors.pop(_EMBEDDING)
    elif fields["tie_embeddings"]:
        tensors[_HEAD] = tensors[_EMBEDDING]

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        written = pathlib.Path(temporary)
        if transformers:
            _safetensors().torch.save_file(tensors, written / name, metadata={"format": "pt"})
        else:
            torch.save(tensors, written / name)
        text = json.dumps(config, indent=2) + "\n"
        (written / _CONFIG).write_text(text, encoding="utf-8")
        for file in (name, _CONFIG):
            os.replace(written / file, folder / file)


def _from_transformers(published, file):
    """The fields of MambaConfig from those of transformers' MambaForCausalLM."""
    kind = published.get("model_type", "mamba")
    if kind != "mamba":
        raise ValueError(f"{file} describes a model of type {kind!r}, expected 'mamba'")
    if published.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ValueError(f"{file} has hidden_act {published['hidden_act']!r}, expected 'silu'")

    def translated(names):
        return {ours: published.get(theirs, default) for ours, (theirs, default) in names.items()}

    fields, block = translated(_FIELDS), translated(_BLOCK_FIELDS)
    inner = int(as_positive(block["expand"], "expand") * as_int(fields["d_model"], "hidden_size"))
    if published.get("intermediate_size", inner) != inner:
        raise ValueError(f"{file} has intermediate_size {published['intermediate_size']}, expected "
                         f"expand * hidden_size = {inner}")
    return {**fields, "ssm_cfg": block, "pad_vocab_size_multiple": 1}


def _to_transformers(fields, padded_vocab_size, dtype):
    """The configuration of transformers' MambaForCausalLM."""
    if not fields["rms_norm"]:
        raise ValueError("rms_norm is False, expected True: the layout of transformers has no "
                         "LayerNorm")
    block = fields["ssm_cfg"]
    config = {theirs: block.get(ours, default) for ours, (theirs, default) in _BLOCK_FIELDS.items()}
    config.update({theirs: fields[ours] for ours, (theirs, _) in _FIELDS.items()})
    if config["time_step_rank"] == "auto":
        config["time_step_rank"] = -(-fields["d_model"] // 16)
    if config["expand"] != int(config["expand"]):
        raise ValueError(f"expand is {config['expand']}, expected a whole number: transformers "
                         "takes no other")
    config["expand"] = int(config["expand"])
    return {"architectures": ["MambaForCausalLM"], "model_type": "mamba", **config,
            "vocab_size": padded_vocab_size, "hidden_act": "silu",
            "intermediate_size": config["expand"] * config["hidden_size"],
            # It concerns the start of training only, but transformers 5 scales what it has loaded.
            "rescale_prenorm_residual": False,
            "torch_dtype": str(dtype).removeprefix("torch.")}


def _from_state_spaces(published, file):
    """The fields of MambaConfig from a configuration of the authors' package."""
    published = dict(published)
    for name, neutral in _NEUTRAL.items():
        value = published.pop(name, neutral)
        if value != neutral:
            raise ValueError(f"{file} has {name} {value!r}, expected {neutral!r}: a model of Mamba "
                             "blocks only")
    block = dict(published.get("ssm_cfg") or {})
    kind = block.pop("layer", "Mamba1")
    if kind != "Mamba1":
        raise ValueError(f"{file} has blocks of type {kind!r}, expected 'Mamba1'")
    absent = [name for name in ("d_model", "n_layer", "vocab_size") if name not in published]
    extra = sorted(set(published) - _STATE_SPACES - _OWN)
    if absent or extra:
        raise ValueError(f"{file} is not the configuration of a Mamba language model: "
                         + "; ".join(f"{what} {_few(names)}" for what, names in
                                     (("missing", absent), ("not expected", extra)) if names))
    return {**published, "ssm_cfg": block}


# The fields that the authors' package knows, and those that only this one has.
_STATE_SPACES = {"d_model", "n_layer", "vocab_size", "ssm_cfg", "rms_norm", "residual_in_fp32",
                 "fused_add_norm", "pad_vocab_size_multiple", "tie_embeddings"}
_OWN = {"norm_epsilon", "initializer_range", "rescale_prenorm_residual", "eos_token_id"}


def _to_state_spaces(fields):
    return {name: value for name, value in fields.items() if name in _STATE_SPACES | _OWN}


def _read_json(file):
    try:
        return dict(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:  # no UTF-8, no JSON, or no object
        raise ValueError(f"{file} holds no JSON object: {error}") from None


def _safetensors():
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("files in this format need the package safetensors: "
                                  "pip install safetensors", name=error.name) from None
    return safetensors


def _pytorch(file):
    """{key: (shape, dtype, function that reads it)} of a file written by torch.save."""
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
            isinstance(key, str) and isinstance(x, torch.Tensor) for key, x in content.items()):
        raise ValueError("it holds something other than tensors by name")
    return {key: (x.shape, x.dtype, lambda x=x: x) for key, x in content.items()}


def _reading(file, read):
    """Run a function that reads a file; what a damaged file raises becomes a ValueError."""
    try:
        return read()
    except ModuleNotFoundError:
        raise
    except pickle.UnpicklingError:
        raise ValueError(f"{file} holds more than tensors or is corrupt; nothing in it was "
                         "executed") from None
    except Exception as error:  # noqa: BLE001 safetensors and PyTorch raise many kinds
        raise ValueError(f"{file} is truncated, corrupt or not a file of weights: {error}") from None


def _few(items, separator=", "):
    """The first items of a list in words, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return separator.join(items[:5]) + more
