"""How long the chapters are: words, code cells and figures of each page, against the guide in CONTRIBUTING.

    python tools/lengths.py          every page
    python tools/lengths.py memory   some of them

Words are those that a reader sees: paragraphs, lists, tables, boxes with their titles, and the captions of
figures. A link without words of its own counts as the title that it shows, a citation as one word. A formula
counts as one word, inline or displayed: counted symbol by symbol, pages with many of them come out at 3,600
to 3,900. Code, what it prints, words inside pictures and descriptions of pictures for those who cannot see
them, folded cells, exercises and what follows them do not count.
"""

import functools
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
    """Words of Markdown as a reader sees them, with a formula as one word."""
    text = re.sub(r"\$\$.*?\$\$( \(eq-[\w-]+\))?", " formula ", text, flags=re.DOTALL)
    text = re.sub(r"\$[^$\n]*\$", "formula", text)
    text = re.sub(r"^(`{3,}|:{3,})\{(admonition|prf:\w+)\}", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(`{3,}|:{3,}|:\w+:).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\([\w-]+\)=$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\{[\w:]+\}`([^`<]+?)\s*<[^`]*>`", r"\1", text)  # words <target>
    text = re.sub(r"\{(?:doc|ref)\}`([^`]*)`", lambda link: titles().get(link[1], link[1]), text)
    return len([word for word in text.split() if re.search(r"\w", word)])


@functools.cache
def titles() -> dict[str, str]:
    """What a link shows that has no words of its own: titles of pages, sections and exercises."""
    found = {}
    for path in BOOK.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        found[path.stem] = re.findall(r"^# (.*)$", text, re.MULTILINE)[0]
        found.update(re.findall(r"^\(([\w-]+)\)=\n+#+ (.*)$", text, re.MULTILINE))
        found.update(
            (label, title)
            for title, label in re.findall(r"\{exercise\} (.*)\n:label: ([\w-]+)", text)
        )
    return found


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in BOOK.glob("*.ipynb"))
    print(f"{'page':24}", *(f"{field:>9}" for field in Lengths._fields))
    for name in names:
        print(f"{name:24}", *(f"{count:9,}" for count in lengths(name)))


if __name__ == "__main__":
    main()
