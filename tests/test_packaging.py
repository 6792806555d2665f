"""What is published: the wheel, the source distribution, and what they say about themselves."""

import email
import pathlib
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

import ssm_core

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
REPOSITORY, BOOK = CONFIG["repository"]["url"], CONFIG["html"]["baseurl"]
RESULTS = [
    path
    for room in ("benchmarks", "experiments")
    for path in (ROOT / room / "results").glob("*.json")
]


def build(builder, root, folder):
    (path,) = builder(str(root)).build(directory=str(folder), versions=["standard"])
    return pathlib.Path(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(WheelBuilder, ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(SdistBuilder, ROOT, folder)) as archive:
        archive.extractall(folder / "unpacked")
    (root,) = (folder / "unpacked").iterdir()
    return root


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def files(folder):
    """Names of the files that belong to the project below a folder, seen from the folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def contents(wheel):
    """Names of the files of a wheel, without its own description."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_has_both_packages_and_the_measurements_and_nothing_else(wheel):
    packages = {
        f"{package}/{name}"
        for package in ("ssm_core", "ssm_book")
        for name in files(ROOT / package)
    }
    assert contents(wheel) == packages | {f"ssm_book/results/{path.name}" for path in RESULTS}
    assert {"ssm_core/py.typed", "ssm_book/py.typed"} <= packages


def test_the_sdist_has_the_library_its_tests_and_nothing_of_the_book(unpacked_sdist):
    names = files(unpacked_sdist)
    assert {name.partition("/")[0] for name in names} == {
        "ssm_core",
        "ssm_book",
        "benchmarks",
        "experiments",
        "tests",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "pyproject.toml",
        "requirements.txt",
        ".gitignore",  # the build reads it
    }
    needs_the_book = re.compile(r"_config\.yml|_toc\.yml|ROOT / \"(book|tools)\"")
    tests = [unpacked_sdist / name for name in names if re.match(r"tests/.*\.py$", name)]
    assert len(tests) > 30
    assert not [path for path in tests if needs_the_book.search(path.read_text(encoding="utf-8"))]


def test_the_wheel_made_from_the_sdist_is_the_same(wheel, unpacked_sdist, tmp_path):
    assert contents(build(WheelBuilder, unpacked_sdist, tmp_path)) == contents(wheel)


def test_the_installed_wheel_works_alone(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    there = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    packages = pathlib.Path(sysconfig.get_path("purelib", "venv", there))
    install = ["-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([sys.executable, *install, str(wheel)], check=True)
    (packages / "numpy.pth").write_text(
        sysconfig.get_path("purelib"), encoding="utf-8"
    )  # and SciPy, from here
    code = """
import ssm_core, ssm_book, sys
from ssm_book import data, exercises, widgets
assert ssm_core.__file__.startswith(sys.prefix) and ssm_book.__file__.startswith(sys.prefix)
assert ssm_core.hippo.transition("legs", 4)[0].shape == (4, 4)
assert len(data.oil_prices()[1]) == 8321 and data.measurements("hippo-cpu")["setup"]["N"] == 256
assert "<script>" in widgets.widget("hippo")._repr_html_()
"""
    subprocess.run([python, "-I", "-c", code], check=True, cwd=tmp_path)


def test_metadata_is_complete(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("ssm-core", ssm_core.__version__)
    assert metadata["License-Expression"] == "MIT" and metadata["Keywords"] and metadata["Summary"]
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert urls["Repository"] == REPOSITORY and urls["Issues"] == f"{REPOSITORY}/issues"
    assert urls["Homepage"] == BOOK and urls["Documentation"] == f"{BOOK}book/api.html"
    assert urls["Changelog"] == f"{REPOSITORY}/blob/main/CHANGELOG.md"
    assert (ROOT / "book" / "api.md").exists() and (ROOT / "CHANGELOG.md").exists()
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert not any("License ::" in line for line in metadata.get_all("Classifier"))  # PEP 639


def test_links_of_the_readme_work_where_the_package_is_published():
    links = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    inside = f"{REPOSITORY}/blob/main/"
    picture = f"{REPOSITORY}/main/".replace("github.com", "raw.githubusercontent.com")
    page = f"{BOOK}book/"
    assert links and all(link.startswith("https://") for link in links)
    for link in links:
        for prefix in (inside, picture):
            if link.startswith(prefix):
                assert (ROOT / link.removeprefix(prefix)).is_file(), link
        if link.startswith(page):
            name = link.removeprefix(page).removesuffix(".html")
            assert any((ROOT / "book" / f"{name}{kind}").is_file() for kind in (".md", ".ipynb")), (
                link
            )


def test_requirements_install_the_library_with_all_its_extras(metadata):
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (library,) = (line for line in lines if line.startswith("-e "))
    extras = set(re.findall(r"\w+", library.partition("[")[2]))
    assert extras == {*metadata.get_all("Provides-Extra")} - {"torch"}  # part of gpu and mamba
    tools = [Requirement(line) for line in lines if line[:1].isalpha()]
    below = {tool.name for tool in tools if "<" in str(tool.specifier)}
    assert {"jupyter-book", "myst-nb", "sphinx", "sphinx-book-theme", "sphinx-exercise"} <= below
    both = {Requirement(line).name for line in metadata.get_all("Requires-Dist")}
    assert not both & {tool.name for tool in tools}  # a range stands in one file only
