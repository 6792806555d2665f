"""The comparison of stored notebooks with a new run: what a tolerance forgives, and what nothing does."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys

import nbformat
import pytest

from tests.test_book import ROOT

FIRST = "from ssm_book.figures import glue"
HIDDEN = "application/papermill.record/text/plain"


def glued(name, text, tolerance=None):
    """The output that a notebook stores for a glued value."""
    metadata = {"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}}
    if tolerance is not None:
        metadata["tolerance"] = tolerance
    return nbformat.v4.new_output("display_data", {HIDDEN: text}, metadata=metadata)


def printed(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


TWO = "glue('a', 1.0, False, 0.5); glue('b', 2.0, False, 0.5)"
CELLS = {  # what is run, what is stored, and whether they agree
    "the same": ("glue('a', 97.0, False, 2.0)", [glued("a", "97.0", 2.0)], True),
    "below, within": ("glue('a', 97.0, False, 2.0)", [glued("a", "99", 2.0)], True),
    "above, within": ("glue('a', 1.5, False, 0.1)", [glued("a", "1.4", 0.1)], True),
    "just outside": ("glue('a', 1.5, False, 0.1)", [glued("a", "1.39", 0.1)], False),
    "far outside": ("glue('a', 97.0, False, 2.0)", [glued("a", "94.9", 2.0)], False),
    "not a number": ("glue('a', float('nan'), False, 2.0)", [glued("a", "97.0", 2.0)], False),
    "no tolerance": ("glue('a', 97.0, False)", [glued("a", "97.1")], False),
    "another name": ("glue('b', 97.0, False, 2.0)", [glued("a", "97.0", 2.0)], False),
    "another name, exact": ("glue('b', 97.0, False)", [glued("a", "97.0")], False),
    "tolerance widened": ("glue('a', 97.0, False, 9.0)", [glued("a", "94.0", 2.0)], False),
    "tolerance added": ("glue('a', 97.0, False, 9.0)", [glued("a", "97.0")], False),
    "tolerance taken away": ("glue('a', 97.0, False)", [glued("a", "97.0", 2.0)], False),
    "two values": (TWO, [glued("a", "1.2", 0.5), glued("b", "1.8", 0.5)], True),
    "two values, exchanged": (TWO, [glued("a", "2.0", 0.5), glued("b", "1.0", 0.5)], False),
    "one is not stored": (TWO, [glued("a", "1.0", 0.5)], False),
    "one is not glued": (
        "glue('a', 1.0, False, 0.5)",
        [glued("a", "1.0", 0.5), glued("b", "2.0", 0.5)],
        False,
    ),
    "nothing is stored": ("glue('a', 1.0, False, 0.5)", [], False),
    "a word": ("glue('a', 'slow', False)", [glued("a", "'slow'")], True),
    "another word": ("glue('a', 'slow', False)", [glued("a", "'fast'")], False),
    "print": ("print(0.1)", [printed("0.1\n")], True),
    "another print": ("print(0.1)", [printed("0.2\n")], False),
    "print beside a glued value": (
        "print(0.1); glue('a', 1.0, False, 0.5)",
        [printed("0.2\n"), glued("a", "1.2", 0.5)],
        False,
    ),
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The cells that fail, from one run of a notebook that has them all."""
    pytest.importorskip("myst_nb")
    folder = tmp_path_factory.mktemp("book")
    cells = [nbformat.v4.new_code_cell(FIRST, execution_count=1)]
    for source, outputs, _ in CELLS.values():
        cells.append(
            nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=len(cells) + 1)
        )
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "some.ipynb")
    for name in ("conftest.py", "times.csv"):
        shutil.copy(ROOT / "book" / name, folder)
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # not ours, which is above
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-rA", folder],
        capture_output=True,
        check=False,
        encoding="utf-8",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    results = re.findall(r"^(PASSED|FAILED) .*::Cell (\d+)", done.stdout, re.MULTILINE)
    assert len(results) == len(cells), done.stdout + done.stderr
    return {int(number) for result, number in results if result == "FAILED"}


@pytest.mark.parametrize("case", CELLS)
def test_what_is_accepted(case, failed):
    agrees = CELLS[case][2]
    number = list(CELLS).index(case) + 1  # the import is number 0
    assert (number not in failed) == agrees


def test_a_missing_cell_is_found(tmp_path):
    """A cell that the notebook lacks is not run, so it is the sources that tell."""
    tool = runpy.run_path(str(ROOT / "tools" / "notebooks.py"))
    tool["problems"].__globals__["BOOK"] = tmp_path
    (tmp_path / "source").mkdir()
    shutil.copy(ROOT / "book" / "source" / "rnn.md", tmp_path / "source")
    notebook = tool["read_source"]("rnn")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def problems():
        for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
            cell.execution_count = count
        nbformat.write(notebook, tmp_path / "rnn.ipynb")
        return tool["problems"]("rnn")

    assert problems() == []
    notebook.cells.remove(code[5])
    assert problems() == ["rnn: the notebook is not the one of its source"]
