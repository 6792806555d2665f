"""What the PDF needs beyond Jupyter Book."""

import pathlib

from docutils import nodes
from sphinx import addnodes
from sphinx_exercise.nodes import exercise_enumerable_node


def prepare(app, doctree, docname):
    if app.builder.format == "latex":
        find_glued_pictures(doctree)
        mark_exercises(doctree)
        end_numbers(doctree, app.env)


def find_glued_pictures(doctree):
    """A picture glued from another page has a path relative to the page; LaTeX knows one folder."""
    for image in doctree.findall(nodes.image):
        if image["uri"].startswith("../"):
            image["uri"] = pathlib.PurePosixPath(image["uri"]).name


def mark_exercises(doctree):
    """Give links to exercises, as in the titles of solutions, somewhere to arrive."""
    for exercise in list(doctree.findall(exercise_enumerable_node)):
        name = f"{exercise['docname']}:{exercise['label']}"
        mark = rf"\phantomsection\label{{\detokenize{{{name}}}}}"
        place = exercise.parent.index(exercise)
        exercise.parent.insert(place, nodes.raw("", mark, format="latex"))


def end_numbers(doctree, env):
    """The pages to look something up in have no numbers; LaTeX would go on counting."""
    unnumbered = env.found_docs - env.toc_secnumbers.keys()
    pages = doctree.findall(addnodes.start_of_file)
    if first := next((page for page in pages if page["docname"] in unnumbered), None):
        first.insert(0, nodes.raw("", r"\setcounter{secnumdepth}{-1}", format="latex"))


def setup(app):
    app.connect("doctree-resolved", prepare)
    return {"parallel_read_safe": True}
