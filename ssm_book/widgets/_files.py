"""The files that a figure is put together from: HTML, CSS and JavaScript beside this module."""

from __future__ import annotations

import importlib.resources


def read_text(file: str) -> str:
    """The text of a file of ``ssm_book.widgets``, such as ``"draw/rnn.js"``."""
    return importlib.resources.files("ssm_book.widgets").joinpath(file).read_text("utf-8")
