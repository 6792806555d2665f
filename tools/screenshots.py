"""Look at the built book: a picture of each page, light and dark, 1280 and 390 pixels wide.

    python -m tools.screenshots FOLDER [PAGE ...]         PAGE is a name such as rnn

What a browser complains about, and what can be measured, is a matter of tests/browser.
"""

import argparse
import pathlib

from playwright.sync_api import sync_playwright

from tools import chromium


def main():
    files = {
        page.removeprefix("book/"): chromium.HTML / f"{page}.html" for page in chromium.pages()
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=", ".join(files))
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        for name in arguments.pages or files:
            page = browser.new_page()
            page.goto(files[name].resolve().as_uri())
            page.evaluate("window.MathJax?.startup.promise")
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                for width in (1280, 390):
                    page.set_viewport_size({"width": width, "height": 900})
                    page.wait_for_timeout(300)  # for charts to take their new size
                    path = folder / f"{name}-{scheme}-{width}.png"
                    page.screenshot(path=path, full_page=True)
                    print(path)
            page.close()


if __name__ == "__main__":
    main()
