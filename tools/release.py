"""Check that a tag, the version and the changelog agree, and print what the changelog says of it.

python tools/release.py v0.2.0
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]


def notes(tag: str, root: pathlib.Path = ROOT) -> str:
    """What the changelog says of the version that ``tag`` names.

    Raises:
        ValueError: the tag is not the version of the library, or the changelog has no such section.
    """
    source = (root / "ssm_core" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1]
    if tag != f"v{version}":
        raise ValueError(
            f"the tag is {tag}, and ssm_core.__version__ is {version}: expected v{version}"
        )
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    for section in sections:
        title, _, text = section.partition("\n")
        if title.split()[0].strip("[]") == version:
            return text.strip()
    raise ValueError(f"CHANGELOG.md has no section for {version}: rename Unreleased")


if __name__ == "__main__":
    try:
        print(notes(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"{error}")
