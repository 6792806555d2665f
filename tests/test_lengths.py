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
    assert lengths.count_words(SOURCE) == 5 + 4 + 1 + 1 + 3  # the theorem has a name


def test_what_a_reader_sees_counts(monkeypatch):
    monkeypatch.setattr(lengths, "titles", lambda: {"other": "Another page: with a title"})
    assert lengths.count_words("(sec-one)=\n## Two words") == 2
    assert lengths.count_words("See {doc}`other` and {ref}`this one <sec-one>`.") == 2 + 5 + 2
    assert lengths.count_words("{term}`Legendre polynomials <Legendre polynomial>`") == 2
    box = "```{admonition} A title\n:class: tip\n\n- one item\n\n| a | b |\n| --- | --- |\n```"
    assert lengths.count_words(box) == 2 + 2 + 2
    assert lengths.count_words("{cite:t}`somebody2020` found it") == 3


def test_links_show_the_titles_of_the_book():
    assert lengths.titles()["continuous-deeper"] == "Continuous state space models, in depth"
    assert lengths.titles()["ex-s4-circle"] == "The right circle"


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
