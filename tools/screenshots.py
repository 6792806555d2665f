"""Look at the built book: a picture of each page, and what a reader's browser would complain about.

    python tools/screenshots.py FOLDER [PAGE …]

opens the pages of _build/html in headless Chromium, light and dark, 1280 and 390 pixels wide,
writes the pictures to FOLDER and reports console errors, requests that fail or leave the page,
formulas that were not set, and pages wider than the window. Needs the Python package playwright and
Debian's chromium (or any other: CHROMIUM=path).
"""

import os
import pathlib
import sys

from playwright.sync_api import sync_playwright

HTML = pathlib.Path(__file__).resolve().parents[1] / "_build" / "html"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
LOCAL = ("file:", "data:", "blob:")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def look(browser, page_file, folder, scheme, width):
    """Open one page, save its picture, and return what is wrong with it."""
    wrong = []
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(LOCAL) else wrong.append(r.url))
    page.on("requestfailed", lambda r: wrong.append(f"{r.url} did not load"))
    page.goto(page_file.as_uri())
    page.wait_for_timeout(500)
    page.evaluate("window.MathJax ? MathJax.startup.promise : null")
    if unset := page.locator("mjx-merror").count():
        wrong.append(f"{unset} formulas not set")
    over = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    if over > 0:
        wrong.append(f"{over} pixels wider than the window")
    page.screenshot(path=folder / f"{page_file.stem}-{scheme}-{width}.png", full_page=True)
    page.close()
    return wrong


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    names = sys.argv[2:] or sorted(path.stem for path in (HTML / "book").glob("*.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        for name in names:
            for scheme in ("light", "dark"):
                for width in (1280, 390):
                    wrong = look(browser, HTML / "book" / f"{name}.html", folder, scheme, width)
                    print(f"{name:16} {scheme:6} {width:5}  {'; '.join(wrong) or 'fine'}")


if __name__ == "__main__":
    main()
