"""The built book and a browser to open it in: for tests/browser and tools.screenshots.

CHROMIUM=path names another browser, BOOK_HTML=folder another build.
"""

import os
import pathlib
import shutil

from tools import contents

ROOT = pathlib.Path(__file__).resolve().parents[1]
HTML = pathlib.Path(os.environ.get("BOOK_HTML", ROOT / "_build" / "html"))
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def find():
    """The browser's path, or None."""
    names = os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"
    return next(filter(None, (shutil.which(name) for name in names if name)), None)


def launch(playwright):
    return playwright.chromium.launch(executable_path=find(), args=QUIET)


def pages():
    """The pages of the table of contents, such as ``book/rnn``, in order."""
    return ["book/index", *contents.pages()]
