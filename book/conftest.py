"""How `pytest --nbval` compares stored outputs with new ones.

Everything is compared to the letter, with one exception: a number that was glued with a tolerance
(`ssm_book.figures.glue`) may differ from the stored one by as much. What is glued is also compared
by its name, which nbval alone would not look at.
"""

from __future__ import annotations

import csv
import pathlib

import pytest
from nbformat import NotebookNode
from nbval.plugin import IPyNbCell, IPyNbFile

TIMES = pathlib.Path(__file__).with_name("times.csv")
HIDDEN = "application/papermill.record/"  # before the type of what a cell glues and does not show
DRAWING = "image/svg+xml"  # a picture like the PNGs that nbval skips by itself
ROUNDING = 1e-9  # |1.5 - 1.4| is a little more than 0.1


def name_of(output):
    """What a glued value is called; None for every other output."""
    return output.get("metadata", {}).get("scrapbook", {}).get("name")


def tolerance_of(output):
    return output["metadata"].get("tolerance", 0.0)


def number_in(output):
    (text,) = output["data"].values()
    return float(text)


def accepted(new, stored):
    """Whether two glued outputs are numbers within one and the same tolerance, not zero."""
    tolerance = tolerance_of(stored)
    return (tolerance > 0 and tolerance_of(new) == tolerance
            and abs(number_in(new) - number_in(stored)) <= tolerance + ROUNDING)


def settled(new, stored):
    """The new outputs, where an accepted number is replaced by the stored one."""
    glued = {name_of(output): output for output in stored if name_of(output)}
    return [glued[name_of(output)] if name_of(output) in glued
            and accepted(output, glued[name_of(output)]) else output for output in new]


def named(outputs, skipped):
    """Outputs whose glued values carry their name and tolerance where nbval compares.

    A glued page of HTML is a film, compared by its text as pictures are.
    """
    for output in outputs:
        if name_of(output) is None:
            yield output
            continue
        kinds = {kind.removeprefix(HIDDEN): value for kind, value in output["data"].items()}
        yield NotebookNode(output_type=output.output_type, data={
            f"{kind} of {name_of(output)!r}, tolerance {tolerance_of(output):g}": value
            for kind, value in kinds.items() if kind not in (*skipped, "text/html")
        })


class Cell(IPyNbCell):
    """A cell of a notebook, and the comparison of its outputs."""

    def compare_outputs(self, test, ref, skip_compare=None):
        skipped = (*(skip_compare or self.parent.skip_compare), DRAWING)
        return super().compare_outputs(
            list(named(settled(test, ref), skipped)), list(named(ref, skipped)), skipped)


class Notebook(IPyNbFile):
    """A notebook of such cells."""

    def collect(self):
        for cell in super().collect():
            yield Cell.from_parent(self, name=cell.name, cell_num=cell.cell_num, cell=cell.cell,
                                   options=cell.options)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(parent):
    found = yield
    return [Notebook.from_parent(parent, path=file.path) if isinstance(file, IPyNbFile) else file
            for file in found]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Chapters that take long begin first, so that two processes end together."""
    with TIMES.open(encoding="utf-8", newline="") as file:
        seconds = {row["chapter"][len("{doc}`"):-1]: float(row["seconds"])
                   for row in csv.DictReader(file)}
    items.sort(key=lambda item: -seconds.get(item.path.stem, 0))
