"""Live code with the real Pyodide in a real browser.

Pyodide's packages cannot be had from npm, so no cell here needs NumPy; tests/test_live.py runs whole
chapters, in Python as it is installed. Where Pyodide is missing most of this is skipped:

    python tools/pyodide.py --core _build/pyodide       (or PYODIDE=folder)
"""

import json
import os
import pathlib
import re

import pytest

from tests.test_book import ROOT
from tests.test_live import DECLARED, LIVE, LIVE_CHAPTERS

PYODIDE = pathlib.Path(os.environ.get("PYODIDE", ROOT / "_build" / "pyodide"))
TYPES = {
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".zip": "application/zip",
}
CORE = DECLARED["core"].format(version=DECLARED["version"])
ELSEWHERE = re.compile("^https://")
CHAPTER = "hippo"
BUTTON = "Run the code of this page"
OFFLINE = "Python could not be fetched. Are you offline? The page stays as it was."
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


class Live:
    """A chapter in a browser that gets Pyodide from a folder, as if that were the declared address."""

    def __init__(self, browser, address, html):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.asked, self.wrong = [], []
        self.scripts = html / "_static" / "live"
        self.reset()
        self.context.route(ELSEWHERE, lambda route: self.answer(route))
        self.context.route("**/environment.json", self.environment)
        self.context.route("**/cells.py", self.cells)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(60_000)
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.goto(f"{address}book/{CHAPTER}.html")
        self.start = self.tab.get_by_role("button", name=BUTTON)
        self.status = self.tab.locator(".live [role=status]")

    def reset(self):
        """What tests may change: the answer to requests for Pyodide, and which packages a start wants."""
        self.answer, self.packages = self.from_folder, []

    def from_folder(self, route):
        self.asked.append(route.request.url)
        file = PYODIDE / route.request.url.removeprefix(CORE)
        if not file.is_file():
            return route.fulfill(status=404)
        headers = {"access-control-allow-origin": "*", "content-type": TYPES[file.suffix]}
        route.fulfill(path=file, headers=headers)

    def environment(self, route):
        written = json.loads((self.scripts / "environment.json").read_text("utf-8"))
        route.fulfill(json={**written, "packages": self.packages})

    def cells(self, route):
        """Without Matplotlib a cell shows a picture through this name."""
        text = (self.scripts / "cells.py").read_text("utf-8")
        route.fulfill(
            body=f"{text}\nnamespace['picture'] = lambda data: shown.append(['png', data])\n"
        )

    def until(self, words):
        self.tab.wait_for_function(
            "(words) => document.querySelector('.live [role=status]').textContent.includes(words)",
            arg=words,
            polling=100,
        )

    def button(self, words, number):
        name = f"{words} cell {number}" if words == "Run" else f"{words} in cell {number}"
        return self.tab.get_by_role("button", name=name, exact=True)

    def field(self, number):
        return self.tab.get_by_label(f"Code of cell {number}", exact=True)

    def write(self, number, code):
        if not self.field(number).count():
            self.button("Edit", number).click()
        self.field(number).fill(code)

    def run(self, number, code):
        """Replace a cell's code, run it by the keyboard, and return what it shows."""
        self.write(number, code)
        self.field(number).press("Shift+Enter")
        self.until(f"Cell {number} has run.")
        return self.shown(number)

    def shown(self, number):
        return self.tab.locator(".cell > .live-output").nth(number - 1).inner_text().strip()


@pytest.fixture(scope="module")
def open_chapter(browser, address, html):
    """Opens a chapter that must not complain, whatever a test does with it."""
    pages = []

    def opened():
        pages.append(Live(browser, address, html))
        return pages[-1]

    yield opened
    for page in pages:
        page.context.close()
        assert not page.wrong


@pytest.fixture(scope="module")
def not_started(open_chapter):
    return open_chapter()


@pytest.fixture
def still(not_started):
    """A chapter whose Python has not started, whatever was tried before."""
    not_started.reset()
    return not_started


@pytest.fixture(scope="module")
def started(open_chapter):
    if not PYODIDE.is_dir():
        pytest.skip("no Pyodide: python tools/pyodide.py --core _build/pyodide")
    if LIVE["SERVED"].is_dir():
        pytest.skip("the book serves Pyodide itself")
    page = open_chapter()
    page.start.press("Enter")
    page.until("Python is ready.")
    return page


@pytest.fixture
def live(started):
    """A chapter with Python running, in which no cell is edited."""
    undo = started.tab.get_by_role("button", name="Undo edits")
    while undo.count():
        undo.first.click()
    return started


def test_the_chapters_that_can_have_a_button(html):
    found = {
        path.relative_to(html / "book").with_suffix("").as_posix()
        for path in html.glob("book/**/*.html")
        if "live/live.js" in path.read_text("utf-8")
    }
    assert found == set(LIVE_CHAPTERS)


def test_nothing_is_fetched_before_the_button_is_pressed(still):
    still.tab.evaluate("MathJax.startup.promise")
    assert still.asked == []
    words = still.status.inner_text()
    assert f"{DECLARED['megabytes']} MB" in words and ("this site" in words or "jsdelivr" in words)
    assert still.tab.locator(".cell .live-cell").count() == 0


def test_the_button_fetches_what_is_declared_and_makes_every_cell_live(live):
    assert sorted(live.asked) == sorted(CORE + name for name in DECLARED["integrity"])
    cells = len(LIVE["cells_of_page"](ROOT / "book" / f"{CHAPTER}.ipynb"))
    assert live.tab.locator(".cell .live-cell").count() == cells
    assert live.tab.evaluate("document.activeElement.textContent") == "Run all cells"


def test_cells_run_with_one_namespace_and_the_library(live):
    code = "import sys, ssm_core\nmore = 2\nprint('on', sys.platform)\nssm_core.__version__"
    assert live.run(1, code) == "on emscripten\n'0.1.0'"
    live.write(2, "more += 1\nmore")
    live.write(3, "more += 1\nmore")
    live.button("Run", 3).press("Enter")  # and with it cell 2, and not cell 1 again
    live.until("Cell 3 has run.")
    assert live.shown(2) == "3" and live.shown(3) == "4"
    live.button("Run", 2).press("Enter")
    live.until("Cell 2 has run.")
    assert live.shown(2) == "5"


def test_an_error_is_told_and_stops_the_cells_below(live):
    live.write(1, "def f():\n    return 1 / 0\nf()")
    live.button("Run", 2).click()
    live.until("Cell 1 ended in an error, so cell 2 did not run.")
    assert 'File "cell 1", line 2, in f\n' in live.shown(1)
    assert live.shown(1).endswith("ZeroDivisionError: division by zero")
    live.run(1, "1")
    assert live.shown(1) == "1"


def test_a_field_is_edited_by_keyboard_and_lets_go(live):
    live.button("Edit", 1).press("Enter")
    printed = live.tab.locator(".cell .highlight").first
    assert printed.is_hidden()
    live.field(1).fill("")
    live.tab.keyboard.type("for k in range(2):\nprint(k)")
    assert live.field(1).input_value() == "for k in range(2):\n    print(k)"
    live.tab.keyboard.press("Tab")
    assert live.tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Run cell 1"
    live.tab.keyboard.press("Tab")
    live.tab.keyboard.press("Enter")  # undo edits
    assert printed.is_visible() and live.field(1).count() == 0


def test_a_new_picture_takes_the_place_of_the_stored_one(live):
    figure = live.tab.locator(".cell_output figure:has(figcaption):has(img)").first
    image, caption = figure.locator("img"), figure.locator(".caption-text")
    before = caption.inner_text()
    alt = image.get_attribute("alt")
    number = 1 + image.evaluate("""(image) => [...document.querySelectorAll('.bd-article .cell_input')]
        .map((input) => input.closest('.cell')).indexOf(image.closest('.cell'))""")
    for above in range(1, number):
        live.write(above, "")
    live.run(number, f"picture('{PIXEL}')\npicture('{PIXEL}')")
    assert image.get_attribute("src").startswith("data:image/png")
    assert caption.inner_text() == before
    assert image.get_attribute("alt") == f"Figure that cell {number} drew" != alt
    assert live.tab.locator(".cell > .live-output img").count() == 1
    live.run(number, "print('no picture')")
    assert figure.is_hidden() and live.tab.locator(".cell > .live-output img").count() == 0
    live.run(number, f"picture('{PIXEL}')")
    assert figure.is_visible()


def test_html_runs_its_scripts(live):
    code = (
        "class Show:\n    def _repr_html_(self):\n"
        "        return '<b id=x>no</b><script>x.textContent = \"yes\"</script>'\nShow()"
    )
    assert live.run(1, code) == "yes"


def test_a_cell_without_end_can_be_stopped(live):
    live.run(1, "a = 1")
    live.write(2, "while True:\n    pass")
    live.button("Run", 2).click()
    live.until("Cell 2 of")
    live.button("Run", 1).click()
    live.until("Python is busy.")
    live.tab.get_by_role("button", name="Stop", exact=True).click()
    live.until("Stopped.")
    live.write(1, "'a' in globals()")
    live.button("Run", 1).click()  # starts Python again
    live.until("Cell 1 has run.")
    assert live.shown(1) == "False"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_narrow_window(live, scheme):
    live.tab.emulate_media(color_scheme=scheme)
    live.run(1, "print('wide ' * 100)")
    live.tab.set_viewport_size({"width": 390, "height": 900})
    over = live.tab.evaluate("document.documentElement.scrollWidth - innerWidth")
    live.tab.set_viewport_size({"width": 1280, "height": 900})
    assert over <= 0


# --- exercises --------------------------------------------------------------------------------------

VERDICT = """\
import types
check = types.ModuleType("ssm_book.exercises.made_up")
exec("def of(answer):\\n    raise AssertionError(f'weight is {answer}. Try a smaller one.')", check.__dict__)
check.of(3)"""


def exercise(page):
    """The first exercise of the chapter."""
    return page.tab.locator(".exercise").first


def pressed(page, words):
    exercise(page).get_by_role("button", name=words, exact=True).press("Enter")


def answer(page, code, words="Check"):
    """Write an answer, press a button, and return what stands below."""
    exercise(page).locator("textarea").fill(code)
    pressed(page, words)
    status = exercise(page).get_by_role("status")
    status.filter(has_text=re.compile("Right|Not right yet|ended in an error|has run")).wait_for()
    return status.inner_text(), exercise(page).locator(".live-output").inner_text().strip()


def test_an_exercise_can_be_started_where_it_stands(still):
    tools = exercise(still).locator(".exercise-tools")
    assert tools.get_by_role("button").all_inner_texts() == ["Run it here"]
    assert still.tab.locator(".exercise textarea").count() == 0


def test_an_answer_is_checked_and_its_tick_remembered(live):
    if exercise(live).get_by_role("button", name="Run it here").count():
        pressed(live, "Run it here")
        exercise(live).get_by_role("button", name="Check").wait_for()
    stub = exercise(live).locator("textarea").input_value()
    assert "check_" in stub and "import" in stub
    assert exercise(live).locator(".solved").count() == 0

    assert answer(live, VERDICT) == ("Not right yet.", "weight is 3. Try a smaller one.")
    status, told = answer(live, "1 / 0")
    assert status == "It ended in an error." and told.endswith(
        "ZeroDivisionError: division by zero"
    )
    assert answer(live, "only_here = 1\ncheck_it(only_here)", "Run") == ("It has run.", "")
    assert live.run(1, "'only_here' in globals()") == "False"
    assert answer(live, "print('✓ right for every step')") == ("Right.", "✓ right for every step")
    assert exercise(live).locator(".admonition-title .solved").inner_text().strip() == "✓"
    pressed(live, "Begin anew")
    assert exercise(live).locator("textarea").input_value() == stub


def test_another_page_of_the_browser_remembers(live):
    other = live.context.new_page()
    other.goto(live.tab.url)
    assert other.locator(".exercise").first.locator(".solved").count() == 1
    other.goto(live.tab.url.replace(CHAPTER, "exercises"))
    assert other.locator(".solved").count() == 1
    other.close()


def test_exercises_that_need_torch_lead_to_colab_and_are_ticked_by_hand(browser, address, html):
    tab = browser.new_page()
    tab.goto(f"{address}book/mamba.html")
    first = tab.locator(".exercise").first
    assert "colab" in first.get_by_role("link", name="Run it in Colab").get_attribute("href")
    first.get_by_role("button", name="I have solved it").press("Enter")
    assert first.locator(".solved").count() == 1
    first.get_by_role("button", name="Not solved after all").press("Enter")
    assert first.locator(".solved").count() == 0
    tab.close()


# --- what can go wrong ------------------------------------------------------------------------------


def text_of(page):
    """The article without the line that says what happens, and without its formulas, which are set when
    they come into view."""
    return page.tab.locator(".bd-article").evaluate("""(article) => {
        const copy = article.cloneNode(true), changing = "mjx-container, .math, .live [role=status]";
        for (const element of copy.querySelectorAll(changing)) element.remove();
        return copy.innerHTML;
    }""")


def stays_as_it_was(page, words):
    before = text_of(page)
    page.status.evaluate("(status) => { status.textContent = ''; }")  # of the start before
    page.start.click()
    page.until(words)
    assert page.start.is_visible()
    assert text_of(page) == before


def test_without_a_connection_the_page_stays_as_it_was(still):
    still.answer = lambda route: route.abort()
    stays_as_it_was(still, OFFLINE)


def test_a_file_that_is_another_is_refused(still):
    still.answer = lambda route: route.fulfill(
        body="export const loadPyodide = 1",
        content_type="text/javascript",
        headers={"access-control-allow-origin": "*"},
    )
    stays_as_it_was(still, OFFLINE)


def test_a_package_that_does_not_come_is_said(still):
    if not PYODIDE.is_dir():
        pytest.skip("no Pyodide: python tools/pyodide.py --core _build/pyodide")
    still.packages = ["numpy"]
    stays_as_it_was(still, OFFLINE)


def test_a_browser_without_webassembly_is_told_so(still):
    still.tab.evaluate("delete window.WebAssembly")
    stays_as_it_was(still, "This browser has no WebAssembly.")
    still.tab.reload()


def test_a_page_from_a_file_says_what_it_needs(browser, html):
    tab = browser.new_page()
    tab.goto((html / "book" / f"{CHAPTER}.html").as_uri())
    tab.get_by_role("button", name=BUTTON).click()
    assert "opened from a file" in tab.locator(".live [role=status]").inner_text()
    tab.close()
