"""Checks: cells with the tag ``check``, folded, and counted at the foot of their page.

A chapter proves what it says, and a reader comes for what it says. So a cell that only asserts is
closed until somebody opens it. It begins with a comment, which is the title of the fold:

    ```{code-cell} ipython3
    :tags: [check]
    # Check: three ways to the same average
    assert np.allclose(y, z)
    ```

``tools/notebooks.py`` turns the tag into the folds of Jupyter Book, JupyterLab and Colab.
"""

import ast

from docutils import nodes


def count_assertions(source: str) -> int:
    """How many assertions a cell makes."""
    return sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source)))


def add_count(app, doctree, docname):
    """Say at the foot of a page how many assertions its check cells hold."""
    cells = [
        cell for cell in doctree.findall(nodes.container) if "tag_check" in cell.get("classes", ())
    ]
    total = sum(
        count_assertions(code.astext())
        for cell in cells
        for code in cell.findall(nodes.literal_block)
        if "cell_input" in code.parent["classes"]
    )
    sections = [node for node in doctree.children if isinstance(node, nodes.section)]
    if not total or not sections:
        return
    text = (
        f"{total} checks ran when this page was made. They stand in the folds named “Check”, "
        "beside what they prove."
    )
    sections[0] += nodes.paragraph(text, text, classes=["check-count"])


def setup(app):
    app.connect("doctree-resolved", add_count)
    return {"parallel_read_safe": True}
