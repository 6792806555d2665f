"""What touches a formula stays on its line, and its place is kept until it is set.

MathJax makes a box of a formula, and a browser breaks lines on both sides of a box: before a comma,
within "k-th", after an opening bracket. It sets a formula when a reader comes near; by then the text
around it should stand where it will stay. So each formula says about how wide or how high it will be.
"""

import html
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


INLINE = re.compile(r'<span class="math notranslate nohighlight">(\\\(.*?\\\))</span>', re.DOTALL)
DISPLAYED = re.compile(r'<div class="(math[^"]*)"((?: id="[^"]*")?)>(.*?)</div>', re.DOTALL)
NARROW = re.compile(r"\\[,;:!> ]|\\(?:quad|qquad)")
NOT_SET = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|mathrm|mathbf|mathcal|text|operatorname|t?frac|sqrt|bar|hat|tilde)\b"
    r"|\\(?:begin|end)\{\w+\*?\}|[{}\s&^_]"
)
HIGH = re.compile(r"\\(?:d?frac|sum|int|prod|Bigl?|left)\b")


def keep_places(app, pagename, templatename, context, doctree):
    body = context.get("body")
    if body:
        body = INLINE.sub(
            lambda m: (
                f'<span class="math notranslate nohighlight" style="--em: {width(m[1]):.2g}">{m[1]}</span>'
            ),
            body,
        )
        context["body"] = DISPLAYED.sub(
            lambda m: f'<div class="{m[1]}"{m[2]} style="--em: {height(m[3]):.2g}">{m[3]}</div>',
            body,
        )


def width(tex):
    """About how wide a formula is, in em."""
    tex = html.unescape(tex)[2:-2]
    small = len(re.findall(r"[_^](?:\{|\S)", tex))
    tex = NOT_SET.sub("", re.sub(r"\\t?frac\s*(\{[^{}]*\}|\w)", "", NARROW.sub("", tex)))
    return max(0.5, 0.62 * len(re.sub(r"\\[a-zA-Z]+|\\.", "x", tex)) - 0.15 * small)


def height(tex):
    """About how high a displayed formula is with the space around it, in em."""
    rows = re.split(r"\\\\(?![a-zA-Z])", html.unescape(tex))
    return 2 + sum(2.6 if HIGH.search(row) else 1.4 for row in rows)


def setup(app):
    app.connect("html-page-context", keep_places)
    app.add_post_transform(KeepTogether)
    return {"parallel_read_safe": True}
