"""Figures that compute in the page: sliders without a kernel.

A figure is a piece of HTML that carries all it needs, the charting library uPlot included, so the
same output works in the built book, from a file, offline, in Jupyter and in Colab. Its parts:

========================  =========================================================================
``catalogue.py``          what figures there are: title, description, controls, what to try, data
``arithmetic/*.js``       what they compute, free of the page; tests compare it with the library
``draw/NAME.js``          what figure NAME shows of that: ``figure(place, data, set)``
``panel.js``              one chart in the colours of the page
``page.html, .css, .js``  the frame: controls in, drawing and sentence out
``uplot/``                the charting library, unchanged, with its licence
``film.py, .html``        the film of a memory at work, which is drawn without uPlot
========================  =========================================================================

All scripts of a figure stand in one function, so that a page may hold many figures and other
people's scripts. A test, or a reader's own script, may listen for ``ssm-drawn``: the figure sends it
after each drawing, with the values of the controls in ``detail``.
"""

from __future__ import annotations

import html
import json
import string
import textwrap
import zlib

from ssm_book.widgets._files import read_text
from ssm_book.widgets.catalogue import CATALOGUE
from ssm_book.widgets.film import MemoryFilm
from ssm_core._checks import as_choice

__all__ = ["CATALOGUE", "MemoryFilm", "Widget", "widget"]


def widget(name: str, **start: float | str) -> Widget:
    """A figure of the book that computes in the page, with sliders for a reader to move.

    Args:
        name (str):  which figure; each chapter's figure has the chapter's name
        **start:     where its controls stand at the beginning, by name

    Returns:
        Widget, which a notebook shows where it is the last line of a cell

    Raises:
        ValueError: an unknown figure, or a value outside the range of a control
        TypeError:  a control that the figure does not have

    Example:
        >>> from ssm_book.widgets import widget
        >>> widget("memory", tau=200)
        Interactive figure. An average and a window: sliders for the time constant and for
        the window; the weights of both by age, and both on the price of oil.
    """
    return Widget(name, **start)


class Widget:
    """What :func:`widget` returns: HTML for a page, a sentence for everything else."""

    def __init__(self, name: str, **start: float | str) -> None:
        self.name = as_choice(name, "name", CATALOGUE)
        self._entry = CATALOGUE[name]
        known = [control.name for control in self._entry.controls]
        if unknown := sorted(set(start) - set(known)):
            raise TypeError(
                f"{unknown[0]} is not a control of {name!r}, which has {', '.join(known)}"
            )
        at = {c.name: start.get(c.name, c.start) for c in self._entry.controls}
        self._controls = [c.html(at[c.name]) for c in self._entry.controls if not plays(c)]
        self._player = [c.html(at[c.name]) for c in self._entry.controls if plays(c)]

    def __repr__(self) -> str:
        return textwrap.fill(
            f"Interactive figure. {self._entry.title}: {self._entry.description}", 84
        )

    def _repr_html_(self) -> str:
        entry = self._entry
        scripts = [read_text(f"arithmetic/{part}.js") for part in entry.arithmetic]
        styles = [read_text("page.css")]
        if entry.charts:
            licence = read_text("uplot/LICENSE")
            scripts = [
                f"/*\n{licence}\n*/",
                read_text("uplot/uPlot.iife.min.js"),
                *scripts,
                read_text("panel.js"),
            ]
            styles = [read_text("uplot/uPlot.min.css"), *styles]
        parts = {
            "name": self.name,
            "title": html.escape(entry.title),
            "description": html.escape(entry.description),
            "presets": "".join(preset(*item) for item in entry.presets.items()),
            "controls": "\n".join(self._controls),
            "player": "\n".join(self._player),
            "style": "\n".join(styles),
            "data": json.dumps(entry.data(), separators=(",", ":"), ensure_ascii=False),
            "script": "\n".join(
                [*scripts, read_text("page.js"), read_text(f"draw/{self.name}.js")]
            ),
        }
        identity = f"ssm-widget-{zlib.crc32(''.join(parts.values()).encode()):08x}"
        return string.Template(read_text("page.html")).substitute(parts, id=identity)


def plays(control: object) -> bool:
    """Whether a control is a slider through time, which stands below the plots."""
    return getattr(control, "play", None) is not None


def preset(words: str, values: dict) -> str:
    """A button that sets some controls, and all others to their start."""
    text = html.escape(json.dumps(values), quote=True)
    return f'<button type="button" data-preset="{text}">{html.escape(words)}</button>'
