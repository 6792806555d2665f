"""Live code: chapters that need NumPy and its kin, and no more, run in the reader's browser.

A page of such a chapter loads ``book/_static/live/live.js``, which makes a button; its first lines say
how it works. Which chapters these are follows from what their code imports. What the button fetches
is said in ``_config.yml``, under ``live_python``, and written to ``environment.json`` beside the script,
with a wheel of ``ssm_core`` and ``ssm_book`` as they are now. Where ``make live`` has put Pyodide into
``book/_static/pyodide``, the book takes it from there and asks nobody else.
"""

import ast
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from hatchling.builders.wheel import WheelBuilder
from sphinx.builders.html import StandaloneHTMLBuilder

ROOT = Path(__file__).resolve().parents[2]
OURS = ("ssm_core", "ssm_book")  # in one wheel
SERVED = ROOT / "book" / "_static" / "pyodide"


def is_live(path, packages):
    """Whether a page can run with these packages and the wheel of the library."""
    if Path(path).suffix != ".ipynb":
        return False
    cells = cells_of_page(path)
    return bool(cells) and needs("\n".join(c.source for c in cells)) <= set(packages)


def cells_of_page(path):
    """The code cells that the page shows, open or folded: not the one for Colab."""

    def shown(cell):
        return not {"remove-cell", "remove-input"} & set(cell.metadata.get("tags", []))

    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code" and shown(cell)]


def needs(code):
    """The packages that a piece of code imports, and those that the library imports for it."""
    packages, seen = set(), set()
    waiting = [name for node in ast.walk(ast.parse(code)) for name in imported(node)]
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        if name in seen:
            continue
        seen.add(name)
        if top in OURS:
            waiting.append(name.rpartition(".")[0] or top)
            module = ROOT.joinpath(*name.split("."))
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file.exists():
                    tree = ast.parse(file.read_text("utf-8"))
                    waiting += [name for node in run_by_import(tree) for name in imported(node)]
        elif top not in sys.stdlib_module_names:
            packages.add(top)
    return packages


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):  # each name may be a module too
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def run_by_import(tree):
    """The parts of a module that importing it needs: no functions, nothing it can do without."""
    for node in ast.iter_child_nodes(tree):
        optional = isinstance(node, ast.Try) and any(
            isinstance(handler.type, ast.Name) and handler.type.id == "ImportError"
            for handler in node.handlers
        )
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not optional and not for_types and not isinstance(node, ast.FunctionDef):
            yield node
            yield from run_by_import(node)


def environment(declared, wheel):
    """What a page fetches once its button has been pressed; addresses are relative to the script's."""

    def address(key):
        return (
            "../pyodide/" if SERVED.is_dir() else declared[key].format(version=declared["version"])
        )

    return {
        "core": address("core"),
        "packages": declared["packages"],
        "packagesFrom": address("packages_from"),
        "integrity": declared["integrity"],
        "wheel": wheel,
    }


def add_button(app, pagename, templatename, context, doctree):
    declared = app.config.live_python
    if doctree is None:
        return
    live = is_live(app.env.doc2path(pagename), declared["packages"])
    exercises = pagename in exercise_pages(app.env)
    if live or exercises:
        app.add_css_file("live/live.css")
    if live:
        host = urlsplit(environment(declared, None)["core"]).hostname or "this site"
        app.add_js_file(
            "live/live.js",
            loading_method="defer",
            **{"data-host": host, "data-megabytes": str(declared["megabytes"])},
        )
    if exercises:  # after live.js, which it uses where there is one
        app.add_js_file("live/exercises.js", loading_method="defer", priority=900)


def exercise_pages(env):
    """The chapters that have exercises, and the pages that list them."""
    numbered = {page for page, kinds in env.toc_fignumbers.items() if "exercise" in kinds}
    return numbered | getattr(env, "exercise_pages", set())


def write_environment(app, error):
    if error or not isinstance(app.builder, StandaloneHTMLBuilder):
        return
    folder = Path(app.outdir, "_static", "live")
    for old in folder.glob("*.whl"):
        old.unlink()
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    text = json.dumps(environment(app.config.live_python, Path(wheel).name), indent=2)
    folder.joinpath("environment.json").write_text(text + "\n", "utf-8")


def setup(app):
    app.add_config_value("live_python", None, "html", [dict])
    app.connect("html-page-context", add_button)
    app.connect("build-finished", write_environment)
    return {"parallel_read_safe": True}
