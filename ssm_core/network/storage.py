"""A network on disk: ``config.json`` and ``model.safetensors`` in a folder."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ssm_core._tensors import as_device, dtype_name
from ssm_core.mamba.checkpoint import Weights

__all__ = ["load", "save"]

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_TYPE = "ssm_core.SequenceModel"
_LAYERS = {  # what a configuration may name, and where it is
    "S4": "ssm_core.s4",
    "S4D": "ssm_core.s4",
    "Mamba": "ssm_core.mamba",
    "Mamba2": "ssm_core.mamba",
}
_DTYPES = {dtype_name(x): x for x in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


def save(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write both files beside each other first, and move them to their places when they are whole."""
    from safetensors.torch import save_file

    config = {"model_type": _TYPE, **model.config, "dtype": dtype_name(model.decoder.weight.dtype)}
    try:
        text = json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise ValueError(f"ssm_cfg holds what cannot be written as JSON: {error}") from None
    tensors = {name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        written = pathlib.Path(temporary)
        save_file(tensors, written / _WEIGHTS)
        (written / _CONFIG).write_text(text, encoding="utf-8")
        for name in (_WEIGHTS, _CONFIG):
            os.replace(written / name, folder / name)


def load(
    kind: Callable[..., Any],
    folder: str | os.PathLike[str],
    ssm: Callable[..., nn.Module] | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Any:
    """The model in a folder. Shapes are compared before any number is read."""
    device, folder = as_device(device), pathlib.Path(folder)
    fields = _read_config(folder / _CONFIG)
    stored = _DTYPES.get(str(fields.pop("dtype", "")))
    name = fields.pop("ssm", None)
    if ssm is None:
        if not isinstance(name, str) or name not in _LAYERS:
            raise ValueError(
                f"{folder / _CONFIG} names the layer {name!r}, expected one of "
                f"{', '.join(_LAYERS)}, or what makes it as the argument ssm"
            )
        ssm = getattr(importlib.import_module(_LAYERS[name]), name)
    file = folder / _WEIGHTS
    if not file.is_file():
        raise ValueError(f"{file} does not exist, expected the weights of {_CONFIG}")
    try:
        with torch.device("meta"):  # no numbers are drawn that the file replaces
            model = kind(**fields, ssm=ssm, device=None, dtype=dtype or stored)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / _CONFIG} does not describe a network: {error}") from None
    with Weights(file) as weights:
        weights.check(model.state_dict(), tied=False)
        model.to_empty(device=device)
        weights.copy_to(model.state_dict())
    return model.eval()


def _read_config(file: pathlib.Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} does not exist, expected the configuration of a SequenceModel")
    try:
        fields = dict(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:  # no UTF-8, no JSON, or no object
        raise ValueError(f"{file} holds no JSON object: {error}") from None
    if fields.pop("model_type", None) != _TYPE:
        raise ValueError(f"{file} is not the configuration of a SequenceModel")
    return fields
