"""Write the address of the repository, which stands in _config.yml, wherever else it is needed.

    python tools/address.py            README, package, citation and first cells follow _config.yml
    python tools/address.py --check    which of them do not?

The lines ``repository: url`` and ``html: baseurl`` of _config.yml say where the repository and the
pages are. Launch buttons, links into the repository and the footer read them when the book is built.
"""

import argparse
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLLOWERS = ("README.md", "pyproject.toml", "CITATION.cff", "book/**/*.md", "book/**/*.ipynb")


def declared(root=ROOT):
    """The addresses of the repository and of the pages, as _config.yml has them."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    return config["repository"]["url"], config["html"]["baseurl"]


def stored(root=ROOT):
    """The same two, as the package has them."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    return tuple(
        re.search(rf'^{kind} = "(.*)"$', text, re.MULTILINE)[1]
        for kind in ("Repository", "Homepage")
    )


def followers(root=ROOT):
    """The files that have to follow."""
    return [path for pattern in FOLLOWERS for path in sorted(root.glob(pattern))]


def changed(text, old, new):
    """A text with the new addresses in place of the old ones."""
    raw = [url.replace("github.com", "raw.githubusercontent.com") for url in (old[0], new[0])]
    for before, after in (raw, (old[0], new[0])):  # "a/book", not the beginning of "a/books"
        text = re.sub(rf"{re.escape(before)}(?![\w-])", after, text)
    return text.replace(old[1], new[1])


def follow(root=ROOT, write=True):
    """Bring the followers up to date; the names of those that were not."""
    old, new = stored(root), declared(root)
    behind = []
    for path in followers(root):
        text = path.read_text(encoding="utf-8")
        if (following := changed(text, old, new)) != text:
            behind.append(path.relative_to(root).as_posix())
            if write:
                path.write_text(following, encoding="utf-8")
    return behind


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    behind = follow(write=not check)
    print(*behind, sep="\n")
    sys.exit(bool(check and behind))


if __name__ == "__main__":
    main()
