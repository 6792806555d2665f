"""What surrounds the chapters: glossary, bibliography, library, times, citation, the way to paper."""

import csv
import importlib
import pathlib
import re
import runpy
import subprocess

import pytest
import yaml

import ssm_core
from ssm_book.data import measurements

ROOT = pathlib.Path(__file__).parents[1]
BOOK = ROOT / "book"
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in (BOOK / "source").glob("*.md")}
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in BOOK.glob("*.md")}
LIBRARY = "\n".join(path.read_text(encoding="utf-8") for path in (BOOK / "api").glob("*.md"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
# Printed when nobody gave such numbers, and none was found.
WITHOUT_NUMBER = {"lee1932synthesis", "woodbury1950inverting"}


def terms_used(text):
    """The glossary terms that a text links to, in order."""
    roles = re.findall(r"\{term\}`([^`]+)`", text)
    return [re.fullmatch(r"(?:.*<)?([^>]+)>?", role, re.DOTALL).group(1) for role in roles]


def glossary():
    """Terms and their definitions."""
    entries = re.search(r"```\{glossary\}\n(.*?)\n```", PAGES["glossary"], re.DOTALL).group(1)
    return dict(entry.split("\n", 1) for entry in entries.split("\n\n"))


def bibliography():
    """Entries by key: a dictionary of fields."""
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\S+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return {
        key: dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\}", fields, re.MULTILINE))
        for key, fields in entries
    }


# glossary


def test_glossary_is_sorted_and_short():
    terms = list(glossary())
    assert 40 <= len(terms) <= 90
    assert terms == sorted(terms, key=str.lower)
    for term, definition in glossary().items():
        assert definition.startswith("  ") and "\n" not in definition, term
        assert len(definition) < 400, term


def test_each_term_is_linked_from_a_chapter():
    used = {term for text in SOURCES.values() for term in terms_used(text)}
    assert set(glossary()) == used


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_first_uses_are_linked_and_no_others(name):
    used = terms_used(SOURCES[name])
    assert used and len(used) == len(set(used))


# bibliography


def test_entries_have_numbers_that_lead_to_them():
    for key, fields in bibliography().items():
        known = {"doi", "eprint", "isbn", "url"} & fields.keys()
        assert bool(known) == (key not in WITHOUT_NUMBER), key
        assert re.fullmatch(r"10\.\d{4,}/\S+", fields.get("doi", "10.1000/x")), key
        assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "0000.00000")), key
        assert ("eprint" in fields) == (fields.get("archiveprefix") == "arXiv"), key
        assert fields.get("url", "https://").startswith("https://"), key
        digits = [int(d) for d in fields.get("isbn", "") if d.isdigit()]
        assert (sum(digits[::2]) + 3 * sum(digits[1::2])) % 10 == 0, key


def test_no_number_is_given_twice():
    numbers = [
        fields[kind]
        for fields in bibliography().values()
        for kind in ("doi", "eprint", "isbn")
        if kind in fields
    ]
    assert len(numbers) == len(set(numbers))


# library


@pytest.mark.parametrize("package", ["ssm_core", "ssm_book"])
def test_every_module_has_its_page(package):
    shown = set(re.findall(rf"automodule:: {package}\.(\w+)", LIBRARY))
    paths = (ROOT / package).iterdir()
    modules = {
        path.stem for path in paths if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    private = {module for module in modules if module.startswith("_")}
    assert shown == modules - private


def test_the_list_of_the_library_has_every_public_name():
    listed = re.findall(r"^   (\w+)$", PAGES["api"], re.MULTILINE)
    rooms = re.findall(r"currentmodule:: (ssm_core\.\w+)", PAGES["api"])
    public = {name for room in set(rooms) for name in importlib.import_module(room).__all__}
    assert sorted(listed) == sorted(public - {"METHODS"})


# times and citation


def test_times_of_all_chapters():
    with (BOOK / "times.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["chapter"] for row in rows) == sorted(f"{{doc}}`{name}`" for name in SOURCES)
    for row in rows:
        assert 0 < float(row["seconds"]) < (180 if "training" in row["chapter"] else 60)
        assert "cores" in row["measured on"]


def test_plots_of_measurements_are_shown_with_the_ranges_that_are_said():
    shown = re.findall(r"_static/plots/(\w+)\.\*", PAGES["benchmarks"])
    tool = runpy.run_path(str(ROOT / "tools" / "measurement_plots.py"))
    assert sorted(shown) == sorted(tool["PLOTS"])
    files = {path.name for path in (BOOK / "_static" / "plots").iterdir()}
    assert files == {f"{name}.{kind}" for name in shown for kind in ("svg", "png")}
    scan = [row["contenders"] for row in measurements("scan-h200")["rows"]]
    for kind in ("forward", "backward"):
        ratios = [
            row["mamba_ssm"]["seconds"][kind]["median"] / row["ours"]["seconds"][kind]["median"]
            for row in scan
        ]
        assert f"{min(ratios):.1f} and {max(ratios):.1f} times" in PAGES["benchmarks"]


def test_table_of_measurements_is_that_of_the_stored_ones():
    tool = runpy.run_path(str(ROOT / "tools" / "measurement_table.py"))
    with (BOOK / "benchmarks.csv").open(encoding="utf-8", newline="") as file:
        stored = [tuple(row) for row in csv.reader(file)]
    assert stored == [tool["HEADER"], *tool["rows"]()]
    files = {path.stem for path in ROOT.glob("*/results/*.json")}
    named = set(re.findall(r"`([a-z0-9-]+-(?:cpu|h\d+))`", PAGES["benchmarks"]))
    assert {name.partition("-")[0] for name in files} == {name.partition("-")[0] for name in named}
    assert named <= files


def test_citation_is_of_this_version():
    assert CITATION["title"] == CONFIG["title"]
    assert CITATION["version"] == ssm_core.__version__
    assert CITATION["url"] == CONFIG["html"]["baseurl"]
    assert CITATION["authors"] == [{"name": CONFIG["author"]}]

    entry = re.search(r"```bibtex\n(.*?)```", PAGES["cite"], re.DOTALL).group(1)
    fields = dict(re.findall(r"^\s*(\w+)\s*= \{(.*)\},$", entry, re.MULTILINE))
    plain = {name: re.sub(r"[{}]", "", value) for name, value in fields.items()}
    assert plain == {
        "author": CONFIG["author"],
        "title": CONFIG["title"],
        "year": CONFIG["copyright"],
        "version": ssm_core.__version__,
        "url": CITATION["url"],
    }


# paper


def need_tex(folder):
    command = ["/bin/sh", ROOT / "tools" / "need_tex.sh"]
    path = {"PATH": str(folder)}
    return subprocess.run(command, env=path, check=False, capture_output=True, encoding="utf-8")


def test_without_tex_the_message_says_what_to_install(tmp_path):
    run = need_tex(tmp_path)
    assert run.returncode == 1
    assert "missing: latexmk xelatex xindy" in run.stderr
    assert "apt-get install" in run.stderr and "MacTeX" in run.stderr


def test_with_tex_but_without_a_file_the_message_names_it(tmp_path):
    for program in ("latexmk", "xelatex", "xindy", "kpsewhich"):
        script = tmp_path / program
        script.write_text('#!/bin/sh\n[ "$1" != fncychap.sty ]\n', encoding="utf-8")
        script.chmod(0o755)
    run = need_tex(tmp_path)
    assert run.returncode == 1 and "missing: fncychap.sty\n" in run.stderr
    (tmp_path / "kpsewhich").write_text("#!/bin/sh\n", encoding="utf-8")
    assert need_tex(tmp_path).returncode == 0


def test_paper_has_the_numbers_of_the_pages():
    """Where both have been built: make book pdf."""
    labels = ROOT / "_build" / "latex" / "ssm-book.aux"
    pages = [ROOT / "_build" / "html" / "book" / f"{name}.html" for name in SOURCES]
    if not labels.exists() or not all(page.exists() for page in pages):
        pytest.skip("not built: make book pdf")
    paper = re.findall(
        r"\\newlabel\{(?:equation:)?book/[\w/-]+:((?:eq|fig)-[\w-]+)\}\{\{([\d.]+)\}",
        labels.read_text(encoding="utf-8"),
    )
    shown = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    equations = r'id="equation-(eq-[\w-]+)">\s*<span class="eqno">\(([\d.]+)\)'
    figures = r'href="#(fig-[\w-]+)"[^>]*><span class="std std-numref">Fig\. ([\d.]+)<'
    for label, number in re.findall(equations, shown) + re.findall(figures, shown):
        assert dict(paper)[label] == number, label
