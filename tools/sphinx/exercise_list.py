"""``{exercise-list}``: all exercises of the book by chapter, as sphinx-exercise numbers them."""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from sphinx_exercise.nodes import exercise_subtitle


class exercise_list(nodes.General, nodes.Element):
    """Where the list goes once every chapter has been read."""


class ExerciseList(SphinxDirective):
    def run(self):
        self.env.exercise_pages.add(self.env.docname)
        return [exercise_list()]


def fill(app, doctree, docname):
    for place in list(doctree.findall(exercise_list)):
        place.replace_self(
            [part for page in chapters(app.env) for part in section(app, page, docname)]
        )


def chapters(env):
    """Pages with exercises, in the order of their numbers."""
    numbers = {
        page: kinds["exercise"] for page, kinds in env.toc_fignumbers.items() if "exercise" in kinds
    }
    return sorted(numbers, key=lambda page: min(numbers[page].values()))


def section(app, page, docname):
    """The chapter's title, and a list of its exercises: number, title, and the time it takes."""

    def link(text, anchor=""):
        uri = app.builder.get_relative_uri(docname, page) + anchor
        return nodes.reference("", *text, refuri=uri, internal=True)

    numbers = app.env.toc_fignumbers[page]["exercise"]
    entries = nodes.bullet_list()
    for label, number in sorted(numbers.items(), key=lambda entry: entry[1]):
        exercise = app.env.sphinx_exercise_registry[label]["node"]
        words = [nodes.Text("Exercise " + ".".join(map(str, number)) + ", "), *title(exercise)]
        line = nodes.paragraph("", "", link(words, f"#{label}"), nodes.Text(f" ({time(exercise)})"))
        entries += nodes.list_item("", line)
    chapter = [nodes.Text(f"{number[0]}. "), *(child.deepcopy() for child in app.env.titles[page])]
    return [nodes.section("", nodes.title("", "", link(chapter)), entries, ids=[anchor(page)])]


def anchor(page):
    """Where the exercises of a chapter begin in the list."""
    return "exercises-of-" + page.rpartition("/")[2]


def title(exercise):
    subtitle = next(exercise.findall(exercise_subtitle))
    return [child.deepcopy() for child in subtitle]


def time(exercise):
    """The first sentence of an exercise says how long it takes."""
    words = next(exercise.findall(nodes.paragraph)).astext().split(".")[0]
    return words[0].lower() + words[1:]


def start(app):
    if not hasattr(app.env, "exercise_pages"):
        app.env.exercise_pages = set()


def always(app, env, added, changed, removed):
    """The list is out of date as soon as any page is."""
    return env.exercise_pages


def forget(app, env, docname):
    env.exercise_pages.discard(docname)


def merge(app, env, docnames, other):
    env.exercise_pages |= other.exercise_pages


def setup(app):
    app.setup_extension("sphinx_exercise")
    app.add_node(exercise_list)
    app.add_directive("exercise-list", ExerciseList)
    app.connect("builder-inited", start)
    app.connect("env-get-outdated", always)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("doctree-resolved", fill)
    return {"parallel_read_safe": True}
