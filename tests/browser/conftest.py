"""The built book in headless Chromium, one page at a time.

Where there is no Chromium or no build these tests are skipped, unless BROWSER_TESTS=required.
"""

import functools
import http.server
import os
import pathlib
import threading

import pytest

from tools import chromium

LOOKS = [("light", 1280), ("light", 390), ("dark", 390), ("dark", 1280)]
FOLDS = (
    "details.hint:not([open]) > summary",
    "details:not(.hint, [open]) > summary",
    ".toggle-button-hidden",
)
PROBES = pathlib.Path(__file__).with_name("probes.js")


def nothing(problems, where=""):
    assert not problems, "\n".join([f"{where}", *problems])


def need(there, reason):
    if there:
        return
    if os.environ.get("BROWSER_TESTS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def html():
    """The folder of the built book."""
    need((chromium.HTML / "index.html").exists(), "no built book: make book")
    return chromium.HTML


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    need(chromium.find(), "no Chromium: apt-get install chromium, or CHROMIUM=path")
    with sync_api.sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        yield browser
        browser.close()


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(html):
    """Where a server of this machine shows the book."""
    handler = functools.partial(Handler, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Page:
    """An open page, and what is wrong with it."""

    def __init__(self, browser, address, name, look=LOOKS[0]):
        self.name = name
        self.wrong = []
        self.look = None
        own = (address, "data:", "blob:")
        self.tab = tab = browser.new_page()
        tab.set_default_timeout(60_000)
        tab.add_init_script(path=PROBES)
        tab.on(
            "console", lambda m: m.type == "error" and self.wrong.append(f"{m.text} {m.location}")
        )
        tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        tab.on("request", lambda r: r.url.startswith(own) or self.wrong.append(f"asks {r.url}"))
        tab.on("requestfailed", lambda r: self.wrong.append(f"{r.url}: {r.failure}"))
        tab.on("response", lambda r: r.status < 400 or self.wrong.append(f"{r.url}: {r.status}"))
        self.show(*look)
        tab.goto(f"{address}{name}.html")
        tab.evaluate("window.MathJax?.startup.promise")
        # Colours are measured as they are in the end, not on their way there.
        still = "animation: none !important; transition: none !important"
        tab.add_style_tag(content=f"*, ::before, ::after {{ {still} }}")

    def show(self, scheme, width):
        if self.look == (scheme, width):
            return
        self.look = scheme, width
        self.tab.emulate_media(color_scheme=scheme)
        self.tab.set_viewport_size({"width": width, "height": 900})
        self.tab.evaluate("window.probes?.drawn()")

    def unfold(self):
        """Open every fold: one of each kind by keyboard, and those like it by script."""
        for kind in FOLDS:
            folds = self.tab.locator(kind)
            if folds.count():
                folds.first.press("Enter")
            folds.evaluate_all("(folds) => folds.forEach((fold) => fold.click())")
            assert folds.count() == 0

    def ask(self, question, *arguments):
        return self.tab.evaluate(f"(a) => probes.{question}(...a)", arguments)

    def until(self, condition, argument=None):
        """Wait until a condition holds; asked by the clock, since a hidden page draws no frames."""
        self.tab.wait_for_function(condition, arg=argument, polling=100)

    def close(self):
        self.tab.close()


@pytest.fixture(scope="session", params=chromium.pages())
def opened(request, browser, address):
    """Each page of the book once: all tests of a page run before the next is opened."""
    page = Page(browser, address, request.param)
    page.unfold()
    yield page
    page.close()


@pytest.fixture
def page(opened):
    """An open page, wide and light, that must not complain whatever a test does with it."""
    opened.show(*LOOKS[0])
    opened.tab.evaluate(
        "document.activeElement?.blur()"
    )  # a link that skips to the text covers buttons
    yield opened
    wrong, opened.wrong = opened.wrong, []
    nothing(wrong)
