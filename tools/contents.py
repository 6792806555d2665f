"""The pages of the book in the order of its table of contents."""

import pathlib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pages(root: pathlib.Path = ROOT) -> list[str]:
    """All pages but the first, each chapter followed by the pages that go deeper: book/memory, …"""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [
        page["file"]
        for part in contents["parts"]
        for chapter in part["chapters"]
        for page in (chapter, *chapter.get("sections", ()))
    ]


def notebooks(root: pathlib.Path = ROOT) -> list[str]:
    """The names of the pages that are notebooks: memory, memory-deeper, recipes/classify, …"""
    return [page.removeprefix("book/") for page in pages(root) if (root / f"{page}.ipynb").exists()]


def chapters(root: pathlib.Path = ROOT) -> list[str]:
    """The names of the chapters and of the pages that go deeper: memory, memory-deeper, …"""
    return [name for name in notebooks(root) if not name.startswith("recipes/")]
