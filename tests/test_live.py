"""Live code: which chapters have it, what the button fetches, and the cells as a page runs them."""

import base64
import hashlib
import json
import re
import runpy
import subprocess
import sys
import zipfile

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.test_book import NOTEBOOKS, ROOT

LIVE = runpy.run_path(str(ROOT / "tools" / "sphinx" / "live.py"))
DECLARED = runpy.run_path(str(ROOT / "tools" / "pyodide.py"))["declared"]()
FOLDER = ROOT / "book" / "_static" / "live"


def is_live(name):
    return LIVE["is_live"](ROOT / "book" / f"{name}.ipynb", DECLARED["packages"])


LIVE_CHAPTERS = [name for name in NOTEBOOKS if is_live(name)]

# --- which chapters -----------------------------------------------------------------------------


def test_chapters_of_numpy_are_live_and_those_of_torch_are_not():
    assert {"continuous", "discretization", "hippo", "memory"} <= set(LIVE_CHAPTERS)
    assert not {"s4", "mamba", "selective_scan"} & set(LIVE_CHAPTERS)
    assert not LIVE["is_live"](ROOT / "book" / "index.md", DECLARED["packages"])


@pytest.mark.parametrize(
    "code, packages",
    [
        ("import json, os.path", set()),
        ("import numpy.linalg as la\nfrom scipy import signal", {"numpy", "scipy"}),
        ("def f():\n    import torch", {"torch"}),
        ("import ssm_core", set()),
        ("from ssm_core import lti", {"numpy", "scipy"}),
        ("from ssm_core.hippo import project", {"numpy", "scipy"}),  # Numba is optional
        ("from ssm_book.exercises import check_ringing", {"numpy", "scipy"}),
        ("from ssm_book.figures import use_style", {"cycler", "matplotlib", "numpy"}),
    ],
)
def test_what_code_needs(code, packages):
    assert LIVE["needs"](code) == packages


@pytest.mark.parametrize("module", ["s4", "scan", "mamba"])
def test_torch_is_found_behind_the_library(module):
    assert "torch" in LIVE["needs"](f"from ssm_core import {module}")


# --- what is fetched ----------------------------------------------------------------------------


def test_the_environment_is_pinned():
    assert re.fullmatch(r"\d+\.\d+\.\d+", DECLARED["version"])
    for key in ("core", "packages_from"):
        assert DECLARED[key].startswith("https://") and DECLARED[key].endswith("/")
        assert "{version}" in DECLARED[key]
    for name in (
        "pyodide.mjs",
        "pyodide.asm.mjs",
        "pyodide.asm.wasm",
        "python_stdlib.zip",
        "pyodide-lock.json",
    ):
        digest = base64.b64decode(DECLARED["integrity"][name].removeprefix("sha256-"))
        assert len(digest) == hashlib.sha256().digest_size


@pytest.mark.skipif(LIVE["SERVED"].is_dir(), reason="Pyodide is served by the book: make live")
def test_a_page_gets_the_environment():
    got = LIVE["environment"](DECLARED, "x.whl")
    assert got["core"] == f"https://cdn.jsdelivr.net/npm/pyodide@{DECLARED['version']}/"
    assert got["wheel"] == "x.whl" and got["integrity"] == DECLARED["integrity"]
    (asked,) = re.findall(r"function load\(\{ (.*?) \}", script("worker.js"))
    assert {*asked.split(", "), "integrity"} == set(got)


def script(name):
    return (FOLDER / name).read_text("utf-8")


def test_the_scripts_name_no_other_address():
    assert not re.search(r"https?://", script("live.js") + script("worker.js") + script("cells.py"))


# --- how cells run ------------------------------------------------------------------------------


@pytest.fixture
def run():
    function = runpy.run_path(str(FOLDER / "cells.py"))["run"]
    return lambda code, name="cell 1", **how: json.loads(function(code, name, **how))


def test_cells_share_their_names_and_show_what_a_notebook_shows(run):
    assert run("a = 6\nprint('six')\nprint(a)") == [["text", "six\n6\n"]]
    assert run("a * 7") == [["text", "42\n"]]
    assert run("a * 7;") == run("None") == run("") == run("# nothing") == []
    assert run("class H:\n    def _repr_html_(self):\n        return '<b>'\nH()") == [
        ["html", "<b>"]
    ]
    assert run("class D:\n    def _repr_png_(self):\n        return b'PNG'\nD()") == [
        ["png", base64.b64encode(b"PNG").decode()]
    ]
    assert run("import sys\nprint('careful', file=sys.stderr)") == [["text", "careful\n"]]
    assert run("__name__") == [["text", "'__main__'\n"]]


def test_an_error_is_told_as_python_tells_it(run):
    run("def f(x):\n    return 1 / x", "cell 3")
    (before, (kind, told)) = run("print('before')\nf(0)", "cell 4")
    assert before == ["text", "before\n"] and kind == "error"
    assert told.startswith(
        'Traceback (most recent call last):\n  File "cell 4", line 2, in <module>'
    )
    assert 'File "cell 3", line 2, in f\n    return 1 / x\n' in told
    assert told.endswith("ZeroDivisionError: division by zero\n")
    assert "cells.py" not in told + run("if")[0][1]
    assert run("if")[0][1].endswith("SyntaxError: invalid syntax\n")
    assert run("raise SystemExit")[0][0] == "error"
    assert run("print(1)") == [["text", "1\n"]]


def test_an_answer_sees_the_cells_and_leaves_nothing_behind(run):
    run("a = 6")
    assert run("b = a * 7\ndef f():\n    return b\nf()", "Exercise 1", alone=True) == [
        ["text", "42\n"]
    ]
    assert run("'b' in globals(), 'f' in globals()") == [["text", "(False, False)\n"]]
    assert run("a = 7", alone=True) == [] and run("a") == [["text", "6\n"]]


def test_a_wrong_answer_gets_the_words_of_its_check(run):
    check = "from ssm_book.exercises import check_weight\n"
    ((kind, told),) = run(f"{check}check_weight(lambda half_life, dt: 0.5)", alone=True)
    assert kind == "verdict" and told.startswith("weight(20, 1) is 0.5.")
    right = f"{check}check_weight(lambda half_life, dt: 1 - 0.5 ** (dt / half_life))"
    ((kind, told),) = run(right, alone=True)
    assert kind == "text" and told.startswith("✓ ")
    assert run("assert False, 'my own'")[0][0] == "error"
    ((kind, told),) = run(f"{check}check_weight(lambda half_life, dt: 1 / 0)", alone=True)
    assert kind == "error" and told.endswith("ZeroDivisionError: division by zero\n")


def test_figures_appear_where_they_are_shown(run):
    two = "import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()\nprint('between')\nplt.plot([2]);"
    kinds, contents = zip(*run(two))
    assert kinds == ("png", "text", "png")
    assert base64.b64decode(contents[0]).startswith(b"\x89PNG")
    assert run("len(plt.get_fignums())") == [["text", "0\n"]]


def stubs(name):
    """The stubs of the exercises of a chapter, by label."""
    text = (ROOT / "book" / "source" / f"{name}.md").read_text("utf-8")
    return re.findall(
        r"^:label: (ex-[\w-]+)$.*?^~~~python\n(.*?)^~~~", text, re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("name", [name for name in LIVE_CHAPTERS if not name.endswith("-deeper")])
def test_a_stub_runs_by_itself_and_is_told_what_it_lacks(name, run):
    if name.startswith("recipes/"):
        pytest.skip("recipes have no exercises")
    assert len(stubs(name)) >= 5
    for label, code in stubs(name):
        assert len(re.findall(r"^check_\w+\(.*\)$", code, re.MULTILINE)) == 1, label
        kind, told = run(code, label, alone=True)[-1]
        assert kind in ("verdict", "error"), label
        assert not re.search(r"ImportError|ModuleNotFoundError|check_\w+. is not defined", told), (
            told
        )


PYTHON = """
import importlib.abc, json, runpy, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("torch", "triton", "IPython", "myst_nb", "nbformat"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Absent())
run = runpy.run_path(sys.argv[1])["run"]
for number, code in enumerate(json.load(sys.stdin), start=1):
    print(run(code, f"cell {number}"))
"""  # It has Numba, which no browser has: without it a chapter only takes longer.


def run_in_a_new_python(cells, folder):
    """What each of some cells shows, where the library is that of a folder."""
    done = subprocess.run(
        [sys.executable, "-c", PYTHON, str(FOLDER / "cells.py")],
        cwd=folder,
        input=json.dumps(cells),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(shown) == len(cells)
    for outputs in shown:
        errors = [content for kind, content in outputs if kind == "error"]
        assert not errors, errors[0]
    return shown


def test_the_wheel_is_the_whole_library(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    assert wheel.endswith("-py3-none-any.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    cells = [
        "from ssm_book import data, figures, widgets\nfigures.__file__",
        "assert len(data.oil_prices()[1]) > 8000 and data.measurements('duality-cpu')",
        "widgets.widget('hippo')",
    ]
    here, _, [[kind, figure]] = run_in_a_new_python(cells, tmp_path)
    assert str(tmp_path) in here[0][1]
    assert kind == "html" and "<script>" in figure


@pytest.mark.parametrize("name", LIVE_CHAPTERS)
def test_a_live_chapter_runs_without_what_a_browser_lacks(name):
    cells = LIVE["cells_of_page"](ROOT / "book" / f"{name}.ipynb")
    shown = run_in_a_new_python([cell.source for cell in cells], ROOT)
    for cell, outputs in zip(cells, shown):
        kinds = [kind for kind, _ in outputs]
        stored = [set(output.get("data", {})) for output in cell.outputs]
        assert kinds.count("png") == sum("image/png" in kind for kind in stored), cell.source
        assert kinds.count("html") == sum("text/html" in kind for kind in stored), cell.source
        if "nbval-ignore-output" not in cell.metadata.get("tags", []):
            assert words(outputs) == stored_words(cell), cell.source


def words(outputs):
    return "".join(content for kind, content in outputs if kind == "text").strip()


def stored_words(cell):
    """Printed text, and last values that are shown as text."""
    texts = [
        output.text if output.output_type == "stream" else output.data["text/plain"] + "\n"
        for output in cell.outputs
        if output.output_type == "stream" or set(output.data) == {"text/plain"}
    ]
    return "".join(texts).strip()
