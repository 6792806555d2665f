"""What counts as length: words before the exercises, a formula as one, and cells that a reader sees."""

import nbformat
import pytest

from tools import lengths

SOURCE = """
# Title of five words here

We have $x_k = A x_{k-1}$ and

$$
y = C x + D u
$$ (eq-one)

```{prf:theorem} Named
:label: thm-one

Three more words.
```
"""


def test_a_formula_is_a_word_and_directives_are_none():
    assert lengths.count_words(SOURCE) == 5 + 4 + 1 + 3


@pytest.mark.parametrize(
    "source, machinery",
    [
        ("assert x", 1),
        ("glue('a', 1)\nnote('b', 2)", 2),
        ("print(asserted)", 0),
        ("figure(display=False)", 1),
    ],
)
def test_machinery_is_found(source, machinery, tmp_path, monkeypatch):
    cell = nbformat.v4.new_code_cell(source)
    folded = nbformat.v4.new_code_cell("assert 1 < 2", metadata={"tags": ["check", "hide-cell"]})
    after = [
        nbformat.v4.new_markdown_cell("## Exercises\n\nmany words"),
        nbformat.v4.new_code_cell("assert x\nprint(1)"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell, folded, *after])
    nbformat.write(notebook, tmp_path / "page.ipynb")
    monkeypatch.setattr(lengths, "BOOK", tmp_path)
    found = lengths.lengths("page")
    assert (found.words, found.cells, found.checks, found.machinery) == (0, 1, 1, machinery)
