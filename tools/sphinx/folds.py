"""Folds are named after what they hold: the figure that their code draws, or the function it defines.

A cell may name its fold itself, with ``code_prompt_show``, and checks do (see ``checks.py``). The name
is what somebody hears who cannot see the page: the label of MyST-NB, the same on every fold, goes.
"""

import re

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode, depart_HideCellInput, visit_HideCellInput
from sphinx.transforms.post_transforms import SphinxPostTransform


class NameFolds(SphinxPostTransform):
    default_priority = 190  # before MyST-NB folds
    formats = ("html",)

    def run(self):
        for cell in self.document.findall(nodes.container):
            if cell.get("nb_element") == "cell_code" and "{type}" in cell.get("prompt_show", ""):
                figure = next(cell.findall(nodes.figure), None)
                name = fold_name(cell[0].astext(), figure and self.label(figure))
                cell["prompt_show"] = cell["prompt_hide"] = name

    def label(self, figure):
        numbers = self.env.toc_fignumbers[self.env.docname]["figure"][figure["ids"][0]]
        return self.config.numfig_format["figure"] % ".".join(map(str, numbers))


def fold_name(code, figure):
    """What to call a fold with this code, which draws the figure with that label, or None."""
    if figure:
        return f"Code of {figure}"
    defined = re.search(r"^(?:def|class) (\w+)", code, re.MULTILINE)
    return f"Code of {defined[1]}" if defined else "Code"


def visit(writer, node):
    start = len(writer.body)
    visit_HideCellInput(writer, node)
    writer.body[start:] = [
        part.replace(' aria-label="Toggle hidden content"', "") for part in writer.body[start:]
    ]


def setup(app):
    app.setup_extension("myst_nb")
    app.add_post_transform(NameFolds)
    app.add_node(HideCodeCellNode, override=True, html=(visit, depart_HideCellInput))
    return {"parallel_read_safe": True}
