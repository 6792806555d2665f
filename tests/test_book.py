"""What every chapter promises its readers, checked on the stored notebooks."""

import ast
import pathlib
import re
import runpy

import nbformat
import pytest
import snowballstemmer

from tools.contents import chapters, notebooks, pages
from tools.lengths import lengths

ROOT = pathlib.Path(__file__).parents[1]
PAGES = pages()
NOTEBOOKS = notebooks()  # chapters, the pages that go deeper, recipes
CHAPTERS = [name for name in chapters() if not name.endswith("-deeper")]
RECIPES = [name for name in NOTEBOOKS if name.startswith("recipes/")]
TOOL = runpy.run_path(str(ROOT / "tools" / "notebooks.py"))
SOURCES = TOOL["sources"]()


def code_cells(name):
    notebook = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(name):
    notebook = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def source_of_the_library():
    paths = sorted((ROOT / "ssm_core").rglob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def labels(text):
    """Labels of displayed equations."""
    return re.findall(r"\$\$\s*\((eq-[\w-]+)\)", text)


def test_every_source_is_a_chapter_of_the_book():
    assert sorted(NOTEBOOKS) == SOURCES
    assert sorted(chapters()) == sorted([*CHAPTERS, *(f"{name}-deeper" for name in CHAPTERS)])
    assert all((ROOT / f"{p}.ipynb").exists() or (ROOT / f"{p}.md").exists() for p in PAGES)


@pytest.mark.parametrize("name", SOURCES)
def test_notebook_is_its_source_and_has_run(name):
    assert TOOL["problems"](name) == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_are_short(name):
    long = [cell.source for cell in code_cells(name) if len(cell.source.splitlines()) > 40]
    assert not long, f"over 40 lines:\n{long[0]}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_code_fits_the_page(name):
    shown = [c for c in code_cells(name) if "hide-input" not in c.metadata.get("tags", [])]
    wide = [line for cell in shown for line in cell.source.splitlines() if len(line) > 84]
    assert not wide, "over 84 columns:\n" + "\n".join(wide)


@pytest.mark.parametrize("name", CHAPTERS)
def test_claims_are_checked(name):
    asserts = [
        node
        for cell in code_cells(name)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Assert)
    ]
    assert len(asserts) >= 8
    constant = [node for node in asserts if isinstance(node.test, ast.Constant)]
    assert not constant, "an assertion that cannot fail"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_have_caption_and_alternative_text(name):
    drawn = [
        cell
        for cell in code_cells(name)
        if any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]
    assert drawn or name in RECIPES, "a chapter without a picture"
    for cell in drawn:
        options = cell.metadata.get("mystnb", {})
        assert options.get("figure", {}).get("caption"), cell.source
        assert options.get("figure", {}).get("name"), cell.source
        assert options.get("image", {}).get("alt"), cell.source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_clean(name):
    for cell in code_cells(name):
        for output in cell.outputs:
            assert output.get("name") != "stderr", f"a warning is stored:\n{output.text}"
            text = output.get("data", {}).get("text/plain", "")
            assert "object at 0x" not in text, f"a stray object is shown:\n{cell.source}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_glued_values_can_be_compared(name):
    """Each is compared with a new run, and none to digits that rounding may change."""
    for cell in code_cells(name):
        glued = [output for output in cell.outputs if "scrapbook" in output.get("metadata", {})]
        assert not glued or "nbval-ignore-output" not in cell.metadata.get("tags", []), cell.source
        for output in glued:
            number = re.fullmatch(r"-?\d+\.(\d+)", [*output.data.values()][-1])
            assert not number or len(number[1]) <= 4, f"round it: {output.metadata.scrapbook.name}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_is_whole(name):
    text = prose(name)
    for heading in ("In short", "Pitfalls", "Summary", "Exercises", "Where next"):
        assert re.search(rf"^## {heading}$", text, re.MULTILINE), f"no section {heading!r}"
    assert "{cite:" in text
    assert any("ssm_core" in cell.source for cell in code_cells(name))


@pytest.mark.parametrize("name", CHAPTERS)
def test_main_line_can_be_read_in_half_an_hour(name):
    page = lengths(name)
    assert page.words <= 3500
    assert page.cells <= 30
    assert page.longest <= 40
    assert page.results >= 10
    assert page.machinery == 0, "assert, glue or note in a cell that the reader sees"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_short_shows_its_result_and_checks_it(name):
    page = lengths(name)
    assert page.words <= 600
    assert page.cells <= 8
    assert page.results >= 1 and page.checks >= 1
    assert page.machinery == 0, "assert, glue or note in a cell that the reader sees"


@pytest.mark.parametrize(
    "asked", ["classification", "irregular", "anomaly", "resume", "stream", "LoRA", "SciPy"]
)
def test_the_search_finds_a_recipe(asked):
    stem = snowballstemmer.stemmer("english").stemWord  # as the search of the pages does it
    found = [
        name for name in RECIPES if stem(asked.lower()) in map(stem, words(prose(name).lower()))
    ]
    assert found


def words(text):
    return re.findall(r"\w+", text)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_check_cells_say_what_they_check_and_assert(name):
    for cell in code_cells(name):
        if "check" in cell.metadata.get("tags", []):
            assert cell.source.startswith("# Check: ")
            assert "assert " in cell.source


EXERCISE = re.compile(
    r"^(`{3,})\{exercise\} [^\n]+\n:label: (?P<label>\S+)\n(?P<text>.*?)^\1$"
    r"\s+^```\{hints\} (?P=label)\n(?P<hints>.*?)^```$"
    r"\s+^`{4,}\{solution-start\} (?P=label)\n:class: dropdown\n",
    re.MULTILINE | re.DOTALL,
)
STUB = re.compile(r"^~~~python\n((?:from|import|def) .*?\.\.\..*?)^~~~$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", CHAPTERS)
def test_each_exercise_has_a_stub_a_check_three_hints_and_a_solution(name):
    text = prose(name)
    exercises = list(EXERCISE.finditer(text))
    assert len(exercises) == text.count("{exercise}") == text.count("{solution-end}") >= 4
    ran = "\n".join(cell.source for cell in code_cells(name))
    for exercise in exercises:
        assert re.match(r"\n\*?[A-Z][a-z -]+\.", exercise["text"]), "no time"
        stub = STUB.search(exercise["text"]).group(1)
        check = re.search(r"^(check_\w+)\((\w+)\)$", stub, re.MULTILINE)
        assert check.group(2) == re.search(r"^def (\w+)\(", stub, re.MULTILINE).group(1)
        assert f"import {check.group(1)}\n" in stub
        assert f"{check.group(1)}(" in ran.replace(f"import {check.group(1)}", "")
        hints = re.findall(r"^(\d)\. (.+)$", exercise["hints"], re.MULTILINE)
        assert [level for level, _ in hints] == ["1", "2", "3"]
        assert all(20 < len(hint) < 360 for _, hint in hints)


def test_labels_of_equations_are_unique():
    found = [label for name in NOTEBOOKS for label in labels(prose(name))]
    assert len(found) == len(set(found))


def test_the_library_names_only_equations_that_exist():
    found = [label for name in NOTEBOOKS for label in labels(prose(name))]
    named = set(re.findall(r"\beq-[a-z0-9-]*[a-z0-9]", source_of_the_library()))
    assert named <= set(found)


def test_bibliography_holds_what_is_cited():
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    keys = set(re.findall(r"^@\w+\{(\S+),", bibliography, re.MULTILINE))
    text = "\n".join(prose(name) for name in NOTEBOOKS)
    text += "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))
    groups = re.findall(r"\{cite:\w+\}`([^`]+)`", text)
    cited = {key.strip() for group in groups for key in group.split(",")}
    assert cited <= keys
