"""Equations and the functions that compute them point at each other.

A docstring names an equation of the book by its label, as in "Equation eq-zoh". On the page of the
library the label becomes a link to the equation, and below the equation stands the name of each
function, class or method whose docstring names it. In the code of a chapter the number takes the place
of the label.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

LABEL = re.compile(r"\beq-[a-z0-9-]*[a-z0-9]")


def link_labels(app, doctree):
    """Turn labels in docstrings into links, and note who names which equation."""
    if next(doctree.findall(addnodes.desc), None) is None:
        return  # no docstrings here
    for text in list(doctree.findall(nodes.Text)):
        labels = list(LABEL.finditer(text))
        if not labels or isinstance(text.parent, (nodes.FixedTextElement, nodes.literal)):
            continue
        parts, end = [], 0
        for match in labels:
            parts += [nodes.Text(text[end : match.start()]), link("math", "eq", match.group())]
            end = match.end()
        where = documented(text)
        if where is not None:
            functions = app.env.equation_functions.setdefault(app.env.docname, {})
            for match in labels:
                functions.setdefault(match.group(), {})[where] = None  # a set that keeps its order
        text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def documented(node):
    """The (module, name) whose docstring holds the node; None in the docstring of a module."""
    while node is not None and not isinstance(node, addnodes.desc):
        node = node.parent
    return node and (node[0]["module"], node[0]["fullname"])


def link(domain, kind, target, text=None):
    shown = nodes.literal("", text or target, classes=["xref", domain])
    return addnodes.pending_xref(
        "", shown, refdomain=domain, reftype=kind, reftarget=target, refwarn=True
    )


class NameFunctions(SphinxPostTransform):
    """Below each equation, the functions that name it."""

    default_priority = 5  # before links are resolved

    def run(self):
        by_page = self.env.equation_functions.values()
        for equation in list(self.document.findall(nodes.math_block)):
            functions = [f for page in by_page for f in page.get(equation.get("label"), ())]
            if functions:
                line = nodes.paragraph("", "In code: ", classes=["in-code"])
                for i, (module, name) in enumerate(functions):
                    line += nodes.Text(", " if i else "")
                    line += link("py", "obj", f"{module}.{name}", name)
                equation.parent.insert(equation.parent.index(equation) + 1, line)


class NumberCode(SphinxPostTransform):
    """In code that a page shows, numbers in the place of labels."""

    default_priority = 190
    formats = ("html",)

    def run(self):
        for code in list(self.document.findall(nodes.literal_block)):
            if "cell_input" in code.parent.get("classes", ()):
                text = re.sub(rf"\(?{LABEL.pattern}\)?", self.numbered, code.astext())
                code.rawsource, code.children = text, [nodes.Text(text)]

    def numbered(self, found):
        label = LABEL.search(found[0])[0]
        page, _ = self.env.get_domain("math").equations.get(label, (None, None))
        numbers = self.env.toc_fignumbers.get(page, {}).get("displaymath", {})
        number = numbers.get(f"equation-{label}")
        return f"({'.'.join(map(str, number))})" if number else found[0]


def start(app):
    if not hasattr(app.env, "equation_functions"):
        app.env.equation_functions = {}  # page: {label: {(module, name): None}}


def forget(app, env, docname):
    env.equation_functions.pop(docname, None)


def merge(app, env, docnames, other):
    env.equation_functions.update(other.equation_functions)


def setup(app):
    app.connect("builder-inited", start)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("doctree-read", link_labels)
    app.add_post_transform(NameFunctions)
    app.add_post_transform(NumberCode)
    return {"parallel_read_safe": True}
