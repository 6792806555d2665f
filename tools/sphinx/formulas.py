"""What touches a formula stays on its line.

MathJax makes a box of a formula, and a browser breaks lines on both sides of a box: before a comma,
within "k-th", after an opening bracket.
"""

import re

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform


class KeepTogether(SphinxPostTransform):
    default_priority = 900  # when the text is final
    formats = ("html",)

    def run(self):
        for formula in list(self.document.findall(nodes.math)):
            siblings, at = formula.parent, formula.parent.index(formula)
            before = taken(siblings, at - 1, r"\S+\Z") if at else ""
            after = taken(siblings, at + 1, r"\A\S+") if at + 1 < len(siblings) else ""
            if before or after:
                parts = nodes.Text(before), formula.deepcopy(), nodes.Text(after)
                formula.replace_self(nodes.inline("", "", *parts, classes=["together"]))


def taken(siblings, at, pattern):
    """Take what matches out of a text among the siblings, and return it."""
    text = siblings[at]
    match = re.search(pattern, text) if isinstance(text, nodes.Text) else None
    if match is None:
        return ""
    siblings[at] = nodes.Text(text[: match.start()] + text[match.end() :])
    return match.group()


def setup(app):
    app.add_post_transform(KeepTogether)
    return {"parallel_read_safe": True}
