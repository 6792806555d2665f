"""Look at the built book: a picture of each page, light and dark, 1280 and 390 pixels wide.

    python tools/screenshots.py FOLDER [PAGE …]

What a browser complains about, and what can be measured, is a matter of tests/browser.
"""

import pathlib
import sys

import chromium
from playwright.sync_api import sync_playwright


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    files = {pathlib.PurePosixPath(page).name: chromium.HTML / f"{page}.html"
             for page in chromium.pages()}
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        for name in sys.argv[2:] or files:
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
