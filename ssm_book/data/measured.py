"""Stored measurements: what the benchmarks and the training studies have written once.

A chapter cannot time a graphics card that its reader does not have, and a time taken while the book
is built means little. So the chapters show what ``python -m benchmarks`` and ``python -m
experiments`` wrote: one JSON file a measurement. This module is the only place that knows where the
files are:

- in an installed package, in the folder ``results`` of ``ssm_book``, where the build puts them;
- in a checkout, where that folder does not exist, in ``benchmarks/results`` and
  ``experiments/results`` beside ``ssm_book``.
"""

from __future__ import annotations

import importlib.resources
import json
import pathlib
from typing import Any

from ssm_core._checks import as_choice

__all__ = ["measurements"]


def measurements(name: str) -> dict[str, Any]:
    """Stored measurements: times, sizes, training runs, and the machine they came from.

    Args:
        name (str): benchmark and device, such as ``"hippo-cpu"``.

    Returns:
        dict: ``machine`` (processor, date), ``software`` (versions), and what was measured.

    Raises:
        ValueError: there are no measurements of that name; the message lists those there are.
        TypeError: the name is not a string.

    Example:
        >>> from ssm_book.data import measurements
        >>> measurements("hippo-cpu")["setup"]["N"]
        256
    """
    files = {
        file.name.removesuffix(".json"): file
        for folder in _folders()
        for file in folder.iterdir()
        if file.name.endswith(".json")
    }
    name = as_choice(name, "name", sorted(files) or ["(no measurements are installed)"])
    return json.loads(files[name].read_text(encoding="utf-8"))


def _folders():
    """The folders of stored measurements that exist: the installed one, or those of the checkout."""
    package = importlib.resources.files("ssm_book")
    if (installed := package.joinpath("results")).is_dir():
        return [installed]
    checkout = pathlib.Path(str(package)).parent
    folders = [checkout / room / "results" for room in ("benchmarks", "experiments")]
    return [folder for folder in folders if folder.is_dir()]
