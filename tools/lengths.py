"""How long the chapters are: words, code cells and figures of each page, against the guide in CONTRIBUTING.

    python tools/lengths.py          every page
    python tools/lengths.py memory   some of them

A formula counts as one word. Exercises, what follows them, and folded cells do not count.
"""

import pathlib
import re
import sys
from typing import NamedTuple

import nbformat

BOOK = pathlib.Path(__file__).resolve().parents[1] / "book"
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell", "check"}


class Lengths(NamedTuple):
    """What a reader meets before the exercises."""

    words: int
    cells: int  # visible code cells
    longest: int  # lines of the longest of them
    results: int  # visible cells that print or show something other than a picture
    checks: int  # folded cells of assertions
    machinery: int  # lines of assert, glue or note in visible cells


def lengths(name: str) -> Lengths:
    """Count a page of the book by its name, without the ending."""
    notebook = nbformat.read(BOOK / f"{name}.ipynb", as_version=4)
    stop = next(
        (
            i
            for i, cell in enumerate(notebook.cells)
            if cell.cell_type == "markdown"
            and re.search(r"^## Exercises", cell.source, re.MULTILINE)
        ),
        len(notebook.cells),
    )
    main = notebook.cells[: stop + 1]
    text = "\n".join(cell.source for cell in main if cell.cell_type == "markdown")
    text = re.split(r"^## Exercises", text, flags=re.MULTILINE)[0]
    code = [cell for cell in main if cell.cell_type == "code"]
    captions = [
        cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "") for cell in code
    ]
    visible = [cell for cell in code if not FOLDED & set(cell.metadata.get("tags", ()))]
    lines = [line for cell in visible for line in cell.source.splitlines()]
    return Lengths(
        words=count_words("\n".join([text, *captions])),
        cells=len(visible),
        longest=max((len(cell.source.splitlines()) for cell in visible), default=0),
        results=sum(
            any(output.output_type == "stream" for output in cell.outputs) for cell in visible
        ),
        checks=sum("check" in cell.metadata.get("tags", ()) for cell in code),
        machinery=sum(
            bool(re.search(r"\bassert\b|\b(glue|note)\(|display=False", line)) for line in lines
        ),
    )


def count_words(text: str) -> int:
    """Words of Markdown, with a formula as one word and without the names of directives."""
    text = re.sub(r"\$\$.*?\$\$( \(eq-[\w-]+\))?", " formula ", text, flags=re.DOTALL)
    text = re.sub(r"\$[^$\n]*\$", "formula", text)
    text = re.sub(r"^\s*(`{3,}|:{3,}|:\w+:).*$", "", text, flags=re.MULTILINE)
    return len([word for word in text.split() if re.search(r"\w", word)])


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in BOOK.glob("*.ipynb"))
    print(f"{'page':24}", *(f"{field:>9}" for field in Lengths._fields))
    for name in names:
        print(f"{name:24}", *(f"{count:9,}" for count in lengths(name)))


if __name__ == "__main__":
    main()
