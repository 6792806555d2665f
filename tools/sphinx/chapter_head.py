"""What a chapter asks of its reader: minutes, exercises, packages, and where its code runs.

Below the title of every chapter stands a line such as "40 minutes · 6 exercises · NumPy, SciPy · runs in
this page or in Colab", with a button that puts all code out of sight. The first page says the same
on its cards: ``{chapter-facts}`hippo` ``.

Everything comes from the notebook. A chapter says how long it takes to read ("Reading takes about forty
minutes"); for a page in depth, which does not, the words and the visible cells are counted.
"""

import html
import re
import sys
from pathlib import Path
from typing import NamedTuple

import live
import nbformat
from docutils import nodes
from sphinx.util.docutils import SphinxRole

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tools import lengths

NUMBERS = {
    word: n
    for n, word in enumerate(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], 1
    )
}
NUMBERS |= {"ten": 10, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
SAYS_MINUTES = re.compile(r"Reading takes about (?:(an hour)|([a-z]+)(?:-([a-z]+))? minutes)")
PACKAGES = {"numpy": "NumPy", "scipy": "SciPy", "torch": "PyTorch", "triton": "Triton"}


class Facts(NamedTuple):
    minutes: int
    exercises: int
    packages: list  # as people write them
    live: bool  # whether the code runs in the page


class chapter_head(nodes.General, nodes.Element):
    """The line below the title."""


class ChapterFacts(SphinxRole):
    """Minutes, packages and where they run, of the chapter that is named."""

    def run(self):
        path = Path(self.env.srcdir, Path(self.env.docname).parent, f"{self.text}.ipynb")
        self.env.note_dependency(str(path))
        facts = read(path, self.config.live_python["packages"])
        where = ["in the page"] if facts.live else []
        line = f"{facts.minutes} minutes · {', '.join([*facts.packages, *where])}"
        return [nodes.emphasis("", line)], []


def read(path, packages_of_the_page):
    """The facts of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    needed = live.needs("\n".join(cell.source for cell in live.cells_of_page(path)))
    return Facts(
        minutes=said_minutes(text) or counted_minutes(path),
        exercises=len(re.findall(r"^`{3,}\{exercise\}", text, re.MULTILINE)),
        packages=[name for package, name in PACKAGES.items() if package in needed],
        live=live.is_live(path, packages_of_the_page),
    )


def said_minutes(text):
    """The minutes that the opening names in words, or None."""
    said = SAYS_MINUTES.search(text)
    if said is None:
        return None
    hour, *words = said.groups()
    return 60 if hour else sum(NUMBERS[word] for word in words if word)


def counted_minutes(path):
    """Minutes to the nearest five; the rate is that of the minutes which the chapters name."""
    counted = lengths.lengths(path.relative_to(lengths.BOOK).with_suffix("").as_posix())
    return 5 * round((counted.words / 110 + 0.6 * counted.cells) / 5)


def add_head(app, doctree, docname):
    path = Path(app.env.doc2path(docname))
    title = next(doctree.findall(nodes.title), None)
    if app.builder.format != "html" or path.suffix != ".ipynb" or title is None:
        return
    facts = read(path, app.config.live_python["packages"])
    section = next((s["ids"][0] for s in doctree.findall(nodes.section) if is_exercises(s)), None)
    head = chapter_head("", facts=facts, exercises=section, notebook=colab(app.config, docname))
    title.parent.insert(title.parent.index(title) + 1, head)


def is_exercises(section):
    return section[0].astext() == "Exercises"


def colab(config, docname):
    """Where the launch button of the theme leads."""
    options = config.html_theme_options
    repository = options["repository_url"].removeprefix("https://github.com/")
    branch = options["repository_branch"]
    return f"{options['launch_buttons']['colab_url']}/github/{repository}/blob/{branch}/{docname}.ipynb"


def write_head(writer, node):
    facts = node["facts"]
    items = [f"{facts.minutes} minutes"]
    if facts.exercises:
        plural = "s" if facts.exercises > 1 else ""
        items.append(f'<a href="#{node["exercises"]}">{facts.exercises} exercise{plural}</a>')
    items.append(", ".join(facts.packages))
    here = "runs in this page or " if facts.live else "runs "
    items.append(f'{here}in <a href="{html.escape(node["notebook"])}">Colab</a>')
    writer.body.append(
        f'<div class="chapter-head{" runs-here" if facts.live else ""}">\n<p>{" · ".join(items)}</p>\n'
        '<button type="button" class="hide-code pst-js-only">Hide all code</button>\n</div>\n'
    )
    raise nodes.SkipNode


def setup(app):
    app.setup_extension("live")
    app.add_node(chapter_head, html=(write_head, None))
    app.add_role("chapter-facts", ChapterFacts())
    app.connect("doctree-resolved", add_head)
    app.add_js_file(  # before anything is drawn
        None,
        body='if (localStorage.getItem("code") === "hidden") document.documentElement.dataset.code = "hidden";',
    )
    app.add_js_file("reading.js", loading_method="defer")
    return {"parallel_read_safe": True}
