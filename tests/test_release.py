"""A release goes out only when tag, version and changelog agree."""

import pathlib

import pytest

import ssm_core
from tools.release import notes

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "ssm_core").mkdir()
    (tmp_path / "ssm_core" / "__init__.py").write_text('__version__ = "0.2.0"\n', encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## Unreleased\n\n- later\n\n## [0.2.0] - 2026-12-01\n\n- faster\n\n"
        "## 0.1.0\n\n- first\n",
        encoding="utf-8",
    )
    return tmp_path


def test_notes_of_a_version(project):
    assert notes("v0.2.0", project) == "- faster"


@pytest.mark.parametrize("tag", ["v0.1.0", "0.2.0", "v0.2"])
def test_a_tag_that_is_not_the_version(project, tag):
    with pytest.raises(ValueError, match="v0.2.0"):
        notes(tag, project)


def test_a_version_without_notes(project):
    (project / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no section for 0.2.0"):
        notes("v0.2.0", project)


def test_the_version_is_found_in_this_project():
    with pytest.raises(ValueError, match=ssm_core.__version__):
        notes("v999", ROOT)
