"""Solutions open with a click on their title, and identifiers occur once on a page.

sphinx-exercise links the title of a solution to its exercise, where the title is the button of a fold,
and gives the contents of all exercises and of all solutions the same two identifiers.
"""

from docutils import nodes
from sphinx_exercise.nodes import solution_node

REPEATED = {"exercise-content", "solution-content"}


def mend(app, doctree, docname):
    if app.builder.format != "html":
        return  # paper has no folds
    for solution in doctree.findall(solution_node):
        for link in list(solution[0].findall(nodes.reference)):
            link.replace_self(link.children)
    for section in doctree.findall(nodes.section):
        section["ids"] = [name for name in section["ids"] if name not in REPEATED]


def setup(app):
    app.connect("doctree-resolved", mend, priority=900)  # after sphinx-exercise
    return {"parallel_read_safe": True}
