"""The address of the repository: one place says it, everything else follows."""

import pathlib
import shutil
import subprocess

from tools import address

ROOT = pathlib.Path(__file__).parents[1]
COPY = "https://github.com/someone/a-copy", "https://someone.github.io/a-copy/"


def test_everything_follows_the_declared_address():
    assert address.stored() == address.declared()


def test_a_copy_has_its_own_address_everywhere(tmp_path):
    for path in [*address.followers(), ROOT / "_config.yml"]:
        place = tmp_path / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    old = address.stored(tmp_path)
    config = tmp_path / "_config.yml"
    config.write_text(address.changed(config.read_text("utf-8"), old, COPY), "utf-8")
    assert address.declared(tmp_path) == COPY
    behind = address.follow(tmp_path)
    assert {"README.md", "pyproject.toml", "CITATION.cff", "book/cite.md", "book/rnn.ipynb"} <= {
        *behind
    }
    assert address.stored(tmp_path) == COPY
    assert address.follow(tmp_path) == []
    for path in address.followers(tmp_path):
        text = path.read_text("utf-8")
        assert not any(name in text for name in ("ssm-book/ssm-book", "ssm-book.github.io")), path
    assert f"git+{COPY[0]}" in (tmp_path / "book" / "rnn.ipynb").read_text("utf-8")


def test_no_other_file_names_the_repository():
    command = ["git", "-C", str(ROOT), "grep", "-lE", r"ssm-book/ssm-book|ssm-book\\.github\\.io"]
    run = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    if run.returncode:
        return  # not a checkout
    known = {path.relative_to(ROOT).as_posix() for path in address.followers()}
    assert set(run.stdout.split()) <= known | {"_config.yml", "tests/test_address.py"}
