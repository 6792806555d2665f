"""The notebooks for Colab and Binder: plain Markdown, the numbers of the book, runnable alone."""

import copy
import functools
import itertools
import pathlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

pytest.importorskip("jupyter_book")
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from ssm_book import figures
from tools import contents

ROOT = pathlib.Path(__file__).parents[1]
BUILT = ROOT / "_build" / "html" / "book"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
ADDRESS = CONFIG["repository"]["url"]
BOOK = CONFIG["html"]["baseurl"]
NOTEBOOKS = contents.notebooks()
CHAPTERS = [name for name in contents.chapters() if not name.endswith("-deeper")]


@pytest.fixture(scope="module")
def notebooks():
    """All notebooks that the launch buttons open, by chapter."""
    build = "from jupyter_book.cli.main import main; main()"
    options = ["-n", "-W", "--keep-going", "--builder", "custom", "--custom-builder", "notebooks"]
    command = [sys.executable, "-c", build, "build", str(ROOT), *options]
    run = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr[-3000:]
    folder = ROOT / "_build" / "notebooks" / "book"
    return {name: nbformat.read(folder / f"{name}.ipynb", as_version=4) for name in NOTEBOOKS}


def stored(name):
    return nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def tokens(notebook):
    """What Colab and JupyterLab see: Markdown with tables and formulas."""
    parser = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin)
    for text in prose(notebook):
        for token in parser.parse(text):
            yield token
            yield from token.children or []


def links(notebook):
    return [token.attrs["href"] for token in tokens(notebook) if token.type == "link_open"]


class Page(HTMLParser):
    """A built page: its text, and its identifiers and links."""

    def __init__(self, name):
        super().__init__()
        self.ids, self.links = set(), []
        self.text = (BUILT / f"{name}.html").read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.add(attributes.get("id"))
        self.links.append(attributes.get("href"))


@functools.cache
def page(name):
    """The built page of a chapter, if it has been built since the chapter changed."""
    built = BUILT / f"{name}.html"
    sources = list((ROOT / "book").glob(f"{name}.*"))
    if not built.exists() or any(s.stat().st_mtime > built.stat().st_mtime for s in sources):
        pytest.skip("the book has not been built from the chapters as they are: make book")
    return Page(name)


# what a reader sees


def syntax_left(notebook):
    """Directives, roles, labels and other things that only the book understands."""
    patterns = {
        "fence": r"^\{[\w:-]+\}",
        "text": r"\{[\w:-]+\}$|^\([\w-]+\)=|^%|:::|\{\{|\]\(|^:\w+:|\$\$",
        "html_block": r"^<(?!/?details>).*",
        "html_inline": r".*",
        "math_block_label": r".*",  # $$ (eq-…) after a formula
    }
    for token in tokens(notebook):
        found = re.search(patterns.get(token.type, r"(?!)"), token.info or token.content)
        if found:
            yield found[0]
    yield from re.findall(r"\\[\[(]", "\n".join(prose(notebook)))  # some begin a formula with it
    for cell in notebook.cells:
        yield from set(cell.metadata) - {"cellView", "jupyter"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_syntax_of_the_book_is_left(notebooks, name):
    assert not list(syntax_left(notebooks[name]))
    left_in_the_chapter = {*syntax_left(stored(name))}
    expected = {"{eq}", "{cite:t}", "{exercise}", "tags"} if name in CHAPTERS else {"tags"}
    assert expected <= left_in_the_chapter


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_formulas_are_closed_and_stand_alone(notebooks, name):
    for text in prose(notebooks[name]):
        displayed = re.findall(r"\$\$.*?\$\$", text, re.DOTALL)
        assert text.count("$$") == 2 * len(displayed)
        for formula in displayed:
            assert "\n\n" not in formula and "\n>" not in formula, formula
            assert formula.count(r"\begin") == formula.count(r"\end")
        rest = re.sub(r"\$\$.*?\$\$|```.*?```|`[^`]*`|\\\$", "", text, flags=re.DOTALL)
        assert rest.count("$") % 2 == 0, text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_code_and_outputs_are_those_of_the_chapter(notebooks, name):
    original, ours = code(stored(name)), code(notebooks[name])
    assert [cell.id for cell in ours] == [cell.id for cell in original]
    for before, now in zip(original, ours):
        assert re.sub(r"\A# @title .*\n", "", now.source) == before.source
        values = [o for o in before.outputs if "papermill" in str(o.get("data", {}).keys())]
        assert now.outputs == [output for output in before.outputs if output not in values]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_folded_code_has_a_title_and_solutions_are_folded(notebooks, name):
    hidden = [cell for cell in code(notebooks[name]) if cell.metadata.get("cellView") == "form"]
    assert all(re.match(r"# @title [A-Z].+\n", cell.source) for cell in hidden)
    folded = [
        c
        for c in code(stored(name))
        if {"hide-input", "hide-cell"} & set(c.metadata.get("tags", []))
    ]
    titles = [cell.source.splitlines()[0] for cell in hidden]
    of_solutions = [title for title in titles if "Solution" in title]
    assert len(titles) - len(of_solutions) <= len(folded) <= len(titles)
    exercises = "\n".join(prose(stored(name))).count("{exercise}")
    assert len({title for title in titles if "Solution" in title}) == exercises


# numbers and links of the book


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_numbers_are_those_of_the_book(notebooks, name):
    built, text = page(name), "\n".join(prose(notebooks[name]))
    equations = re.findall(r'<span class="eqno">\(([\d.]+)\)', built.text)
    assert equations or name not in CHAPTERS
    assert re.findall(r"\\tag\{([\d.]+)\}", text) == equations
    figures = re.findall(r'<span class="caption-number">Fig\. ([\d.]+)', built.text)
    assert figures or name not in CHAPTERS
    assert re.findall(r"^\*\*Fig\. ([\d.]+)\*\*", text, re.MULTILINE) == figures
    title = re.search(r'<h1><span class="section-number">(.*?)</span>', built.text)
    assert text.startswith(f"# {title[1] if title else ''}")
    headed = re.findall(r'caption-number">(Exercise|Theorem|Proposition) ([\d.]+)', built.text)
    ours = re.findall(r"^> \*\*(Exercise|Theorem|Proposition) ([\d.]+)\*\*", text, re.MULTILINE)
    assert ours == headed
    assert headed or name not in CHAPTERS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_lead_to_places_of_the_book(notebooks, name):
    places = {}
    for link in links(notebooks[name]):
        assert link.startswith("https://"), link
        if link.startswith(BOOK):
            path, _, identifier = link.removeprefix(BOOK).partition("#")
            target = path.removeprefix("book/").removesuffix(".html")
            if target not in places:
                places[target] = page(target).ids
            assert not identifier or identifier in places[target], link


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_buttons_open_the_notebook(name):
    owner = ADDRESS.removeprefix("https://github.com/")
    branch = CONFIG["repository"]["branch"]
    addresses = page(name).links
    colab = f"https://colab.research.google.com/github/{owner}/blob/{branch}/book/{name}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{owner}/{branch}?urlpath=lab/tree/book/{name}.ipynb"
    assert colab in addresses and binder in addresses


def test_the_repository_is_named_in_one_place():
    owner, name = ADDRESS.removeprefix("https://github.com/").split("/")
    assert f"https://{owner}.github.io/{name}/" == BOOK
    assert f'Repository = "{ADDRESS}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"repository-code: {ADDRESS}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    folders = (
        "ssm_core",
        "ssm_book",
        "tools",
        "tests",
        "benchmarks",
        "experiments",
        ".github",
        "book/source",
    )
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    text = [path for path in files if path.suffix in {".py", ".sh", ".yml", ".md", ".js"}]
    assert text and not [path for path in text if ADDRESS in path.read_text(encoding="utf-8")]


# they run


def test_the_first_cell_installs_neither_torch_nor_triton(notebooks):
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cells = {name: code(notebooks[name])[0].source for name in NOTEBOOKS}
    assert len(set(cells.values())) == 1
    wanted = re.search(rf'"ssm-core\[([\w,]*)\] @ git\+{ADDRESS}"', cells[NOTEBOOKS[0]])[1]
    extras = [project["optional-dependencies"][extra] for extra in wanted.split(",")]
    needed = itertools.chain(project["dependencies"], *extras)
    names = {re.match(r"[\w-]+", line)[0] for line in needed}
    assert names == {"numpy", "scipy", "matplotlib", "safetensors"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_chapters_import_what_the_first_cell_brings(name):
    imported = {
        match
        for cell in code(stored(name))
        for match in re.findall(r"^(?:from|import) (\w+)", cell.source, re.MULTILINE)
    }
    there = {"ssm_core", "ssm_book", "numpy", "scipy", "matplotlib", "torch", "triton", "IPython"}
    assert imported - sys.stdlib_module_names <= there


def test_values_for_the_text_need_no_book(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "myst_nb", None)
    figures.glue("slope", 1.5)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", [c for c in ("rnn", "discretization") if c in CHAPTERS])
def test_notebook_runs_alone_in_an_empty_folder(notebooks, name, tmp_path):
    resources = {"metadata": {"path": str(tmp_path)}}
    notebook = copy.deepcopy(notebooks[name])
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert not list(tmp_path.iterdir()), "it left something behind"


@pytest.mark.skipif(not shutil.which("git"), reason="without git")
def test_they_are_published_as_one_commit(notebooks, tmp_path):
    def git(*command):
        command = ["git", "-C", tmp_path, *command]
        return subprocess.run(
            command, check=True, capture_output=True, encoding="utf-8"
        ).stdout.split()

    branch = CONFIG["repository"]["branch"]
    git("init", "--quiet", "--bare")
    for _ in range(2):  # the second replaces the first
        command = ["sh", "tools/publish_notebooks.sh", str(tmp_path), branch]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert git("rev-list", "--count", branch) == ["1"]
    expected = ["README.md", "requirements.txt", *(f"book/{name}.ipynb" for name in NOTEBOOKS)]
    assert sorted(git("ls-tree", "-r", "--name-only", branch)) == sorted(expected)
    assert f"git+{ADDRESS}" in git("show", f"{branch}:requirements.txt")
    workflow = (ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8")
    assert f"publish_notebooks.sh origin {branch}\n" in workflow
