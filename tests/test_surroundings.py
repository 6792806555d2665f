"""What programs must not take for granted: encodings, folders, disks, and packages that are optional."""

from __future__ import annotations

import ast
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ROOT.iterdir()
    if folder.name[0] not in "._" and folder.is_dir()
    for path in sorted(folder.rglob("*.py"))
]


def run(code, *, cwd=ROOT, python=(), **environment):
    """What a new interpreter prints, in an environment with some changes; it must not fail."""
    done = subprocess.run(
        [sys.executable, *python, "-c", code],
        cwd=cwd,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    error = done.stderr.decode(errors="replace")
    assert done.returncode == 0, error
    return done.stdout.decode(environment.get("PYTHONIOENCODING", "utf-8")), error


# --- encodings ------------------------------------------------------------------------------------


def opens_text_by_locale(call):
    """Whether a call reads or writes text in whatever encoding the system prefers."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    given = {keyword.arg for keyword in call.keywords}
    if "encoding" in given:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in ("run", "check_output", "Popen"):
        return bool(given & {"text", "universal_newlines"})
    if name in ("open", "fdopen"):
        module = getattr(getattr(call.func, "value", None), "id", "")
        mode = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
        return module not in ("tarfile", "Image") and not any("b" in str(value) for value in mode)
    return False


@pytest.mark.parametrize(
    "code, found",
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("path.open('w', encoding='utf-8')", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
    ],
)
def test_text_without_an_encoding_is_found(code, found):
    assert opens_text_by_locale(ast.parse(code).body[0].value) == found


def test_text_is_read_and_written_as_utf8():
    places = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_text_by_locale(node)
    ]
    assert len(SOURCES) > 100 and places == []


NARROW = [
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("terminal", NARROW, ids=["cp1252", "ascii", "LC_ALL=C"])
def test_a_right_answer_passes_on_any_terminal(terminal):
    said, _ = run(
        "from ssm_book.exercises import check_delay_row\n"
        "from ssm_core.hippo import basis\n"
        "check_delay_row(lambda N, fraction: basis('legt', N, 1 - fraction))\n"
        "from ssm_book.exercises._report import passed\n"
        r"passed('B follows \u0394')",
        **terminal,
    )
    first, second = said.splitlines()
    assert first == "OK: a delay line of N numbers, with a tap wherever you like"
    assert second == r"OK: B follows \N{GREEK CAPITAL LETTER DELTA}"


def test_nothing_else_prints_letters_that_a_terminal_may_lack():
    """Programs print their help, in which ``__doc__`` stands, and progress: in ASCII."""
    places = []
    for path in SOURCES:
        if path.parts[len(ROOT.parts)] == "tests":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        spoken = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", ""))
            in ("print", "add_argument", "add_parser", "ArgumentParser")
        ]
        if "description=__doc__" in ast.unparse(tree).replace(" ", ""):
            spoken.append(tree.body[0])
        places += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in spoken
            if not ast.unparse(node).isascii()
        ]
    (only,) = places
    assert "_report.py" in only  # which says the same in ASCII where it must


# --- where a program runs -------------------------------------------------------------------------


def test_the_working_directory_does_not_matter(tmp_path):
    said, _ = run(
        "from ssm_book import data\n"
        "print(len(data.oil_prices()[1]), data.measurements('hippo-cpu')['setup']['N'])",
        cwd=tmp_path,
    )
    assert said == "8321 256\n"
    assert list(tmp_path.iterdir()) == []


# --- what is optional, when it is broken ----------------------------------------------------------

NEEDS_NUMBA = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs Numba")
MEMORY = (
    "import numpy as np\nfrom ssm_core.hippo import project\n"
    "print(project(np.sin(np.arange(200.0)), 'legs', 8, 1.0, every=200).round(6).tolist())"
)


@pytest.fixture(scope="module")
def remembered():
    return run(MEMORY)[0]


@pytest.mark.parametrize(
    "failure",
    ["ImportError('Numba needs NumPy 2.2 or less')", "SystemError('initialization failed')"],
)
def test_a_broken_numba_is_as_good_as_none(failure, tmp_path, remembered):
    (tmp_path / "numba.py").write_text(f"raise {failure}\n", encoding="utf-8")
    said, error = run(MEMORY, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert said == remembered
    assert ("Numba is installed but cannot be imported" in error) == ("ImportError" not in failure)


@NEEDS_NUMBA
@pytest.mark.skipif(sys.platform == "win32", reason="the limit is one of Unix")
def test_a_full_disk_costs_nothing_but_the_cache(tmp_path, remembered):
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    said, _ = run(full + MEMORY, NUMBA_CACHE_DIR=str(tmp_path))
    assert said == remembered
    assert all(path.stat().st_size == 0 for path in tmp_path.rglob("*.nb?"))


@NEEDS_NUMBA
def test_a_damaged_cache_is_compiled_anew(tmp_path, remembered):
    cache = tmp_path / "cache"
    run(MEMORY, NUMBA_CACHE_DIR=str(cache))
    kept = list(cache.rglob("*.nb?"))
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:-20])
    for _ in range(2):  # the second run finds what the first has written
        assert run(MEMORY, NUMBA_CACHE_DIR=str(cache))[0] == remembered


@NEEDS_NUMBA
def test_a_cache_folder_that_is_a_file_is_passed_over(tmp_path, remembered):
    (tmp_path / "cache").write_text("", encoding="utf-8")
    (tmp_path / "home").write_text("", encoding="utf-8")
    said, _ = run(
        MEMORY,
        NUMBA_CACHE_DIR=str(tmp_path / "cache"),
        HOME=str(tmp_path / "home"),
        XDG_CACHE_HOME=str(tmp_path / "home"),
    )
    assert said == remembered


def test_numerics_need_numpy_and_scipy_only(remembered):
    missing = "matplotlib", "torch", "numba", "safetensors", "triton"
    said, _ = run(f"import sys\nsys.modules.update(dict.fromkeys({missing}))\n" + MEMORY)
    assert said == remembered


def test_a_comma_for_decimals_changes_nothing(remembered):
    said, _ = run(
        "import locale\n"
        "for name in ('de_DE.UTF-8', 'de_DE', 'fr_FR.UTF-8', 'German'):\n"
        "    try:\n"
        "        locale.setlocale(locale.LC_ALL, name)\n"
        "    except locale.Error:\n"
        "        continue\n"
        "    break\n" + MEMORY
    )
    assert said == remembered
