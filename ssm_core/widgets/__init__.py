"""Figures that compute in the page: sliders without a kernel.

A figure is a piece of HTML that carries all it needs, the charting library uPlot included, so the
same output works in the built book, from a file, offline, in Jupyter and in Colab. Its parts:

=======================  ==========================================================================
``catalogue.py``         what figures there are: title, description, controls, data
``arithmetic/*.js``      what they compute, free of the page; tests compare it with the library
``draw/NAME.js``         what figure NAME shows of that: ``figure(place, data)``
``panel.js``             one chart in the colours of the page
``page.html, .css, .js`` the frame: controls in, drawing and sentence out
``uplot/``               the charting library, unchanged, with its licence
=======================  ==========================================================================

All scripts of a figure stand in one function, so that a page may hold many figures and other
people's scripts. A test, or a reader's own script, may listen for ``ssm-drawn``: the figure sends it
after each drawing, with the values of the controls in ``detail``.
"""

import html
import importlib.resources
import json
import string
import textwrap
import zlib

from ssm_core._checks import as_choice
from ssm_core.widgets.catalogue import CATALOGUE

__all__ = ["CATALOGUE", "Widget", "widget"]


def widget(name, **start):
    """A figure of the book that computes in the page, with sliders for a reader to move.

    Args:
        name (str):  which figure; those of the chapters are called as their chapters
        **start:     where its controls stand at the beginning, by name

    Returns:
        Widget, which a notebook shows where it is the last line of a cell

    Raises:
        ValueError: an unknown figure, or a value outside the range of a control
        TypeError:  a control that the figure does not have

    Example:
        >>> widget("memory", tau=200)
        Interactive figure. An average and a window: sliders for the time constant and for
        the window; the weights of both by age, and both on the price of oil.
    """
    return Widget(name, **start)


class Widget:
    """What :func:`widget` returns: HTML for a page, a sentence for everything else."""

    def __init__(self, name, **start):
        self.name = as_choice(name, "name", CATALOGUE)
        self._entry = CATALOGUE[name]
        known = [control.name for control in self._entry.controls]
        if unknown := sorted(set(start) - set(known)):
            raise TypeError(f"{unknown[0]} is no control of {name!r}, which has {', '.join(known)}")
        self._controls = [control.html(start.get(control.name, control.start))
                          for control in self._entry.controls]

    def __repr__(self):
        return textwrap.fill(f"Interactive figure. {self._entry.title}: {self._entry.description}", 84)

    def _repr_html_(self):
        entry = self._entry
        scripts = [_read(f"arithmetic/{part}.js") for part in entry.arithmetic]
        styles = [_read("page.css")]
        if entry.charts:
            licence = _read("uplot/LICENSE")
            scripts = [f"/*\n{licence}\n*/", _read("uplot/uPlot.iife.min.js"), *scripts, _read("panel.js")]
            styles = [_read("uplot/uPlot.min.css"), *styles]
        parts = {
            "name": self.name,
            "title": html.escape(entry.title),
            "description": html.escape(entry.description),
            "controls": "\n".join(self._controls),
            "style": "\n".join(styles),
            "data": json.dumps(entry.data(), separators=(",", ":"), ensure_ascii=False),
            "script": "\n".join([*scripts, _read("page.js"), _read(f"draw/{self.name}.js")]),
        }
        identity = f"ssm-widget-{zlib.crc32(''.join(parts.values()).encode()):08x}"
        return string.Template(_read("page.html")).substitute(parts, id=identity)


def _read(file):
    return importlib.resources.files("ssm_core.widgets").joinpath(file).read_text("utf-8")
