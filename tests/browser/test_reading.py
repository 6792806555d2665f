"""Aids to reading: the head of a chapter, code out of sight, where one is, the way back."""

import re

import pytest

from tests.browser.conftest import Page


@pytest.fixture(scope="module")
def chapter(browser, address):
    page = Page(browser, address, "book/hippo")
    yield page
    page.close()
    assert page.wrong == []


def preview(page, target, content):
    """What the preview of the first link to a target shows; again where the page moved meanwhile."""
    link = page.tab.locator(f"article a[href^='{target}']:visible").first
    shown = page.tab.locator(f"[data-tippy-root] {content}").first
    for _ in range(30):
        page.tab.mouse.move(0, 0)
        link.hover()
        page.tab.wait_for_timeout(1000)
        if shown.is_visible():
            break
    assert shown.is_visible()
    return shown


def in_contents(tab):
    """The entries of the contents that are marked as current."""
    return tab.locator("#pst-page-toc-nav a[aria-current]").all_inner_texts()


def test_the_head_says_what_the_chapter_asks(chapter):
    head = chapter.tab.locator(".chapter-head p")
    assert re.fullmatch(
        r"40 minutes · \d exercises · NumPy, SciPy · runs in this page or in Colab",
        head.inner_text(),
    )
    exercises = head.locator("a").first.get_attribute("href")
    assert chapter.tab.locator(exercises).locator("h2").inner_text().startswith("5.")


def test_sections_have_the_numbers_of_their_chapter(html):
    source = (html / "book" / "hippo.html").read_text("utf-8")
    numbers = re.findall(r'<h2><span class="section-number">([\d.]+)\. </span>', source)
    assert numbers == [f"5.{i}" for i in range(1, len(numbers) + 1)]
    deeper = (html / "book" / "hippo-deeper.html").read_text("utf-8")
    after = f"5.{len(numbers) + 1}"
    assert f'<h1><span class="section-number">{after}. </span>' in deeper
    assert f'<h2><span class="section-number">{after}.1. </span>' in deeper


def test_all_code_can_be_put_out_of_sight_and_stays_so(chapter, address):
    tab = chapter.tab
    code = tab.locator(".bd-article .cell:not(.solution *) > :is(.cell_input, .above-input)")
    button = tab.get_by_role("button", name="Hide all code")
    assert code.count() > 10 and all(cell.is_visible() for cell in code.all())
    pictures = tab.locator("article img:visible").count()
    button.press("Enter")
    tab.reload()
    assert not any(cell.is_visible() for cell in code.all())
    assert tab.locator("article img:visible").count() == pictures
    tab.get_by_role("button", name="Show all code").press("Enter")
    assert all(cell.is_visible() for cell in code.all())


def test_folds_say_what_they_hold(chapter):
    names = chapter.tab.locator("details.hide > summary").all_inner_texts()
    assert names[0] == "Imports"
    assert any(re.fullmatch(r"Code of Fig\. 5\.\d+", name) for name in names)
    assert not [name for name in names if "cell" in name]
    assert chapter.tab.locator("summary[aria-label]").count() == 0


def test_contents_follow_a_link_to_an_equation(chapter):
    chapter.tab.evaluate("location.hash = '#equation-eq-legs-update'")
    section = chapter.tab.evaluate(
        """() => document.getElementById("equation-eq-legs-update").closest("section")
            .querySelector("h2").firstChild.textContent"""
    )
    chapter.until(
        "(n) => document.querySelector('#pst-page-toc-nav a[aria-current]')?.textContent.trim().startsWith(n)",
        section,
    )
    assert len(in_contents(chapter.tab)) == 1


def test_a_bar_says_how_far_one_is_and_a_button_leads_back(chapter):
    tab = chapter.tab
    along = (
        "new DOMMatrix(getComputedStyle(document.querySelector('.reading-progress')).transform).a"
    )
    tab.evaluate("scrollTo({top: 8000, behavior: 'instant'})")
    chapter.until(f"{along} > 0.1")
    back = tab.get_by_role("button", name="Back to top")
    for _ in range(30):  # who scrolls up may want the top
        if back.is_visible():
            break
        tab.evaluate("scrollBy({top: -200, behavior: 'instant'})")
        tab.wait_for_timeout(100)
    back.click()
    chapter.until(f"scrollY === 0 && {along} === 0")
    chapter.until("!document.querySelector('#pst-page-toc-nav [aria-current]')")


@pytest.mark.parametrize("name", ["book/api", "book/benchmarks"])
def test_names_break_in_a_window_of_320_pixels(browser, address, name):
    page = Page(browser, address, name, look=("light", 320))
    page.until("document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_a_preview_of_a_formula_stays_in_a_narrow_window(browser, address):
    page = Page(browser, address, "book/rnn", look=("light", 390))
    formula = preview(page, "#equation-eq-rnn", "mjx-container")
    page.until("document.documentElement.scrollWidth <= innerWidth")
    left, right = formula.evaluate(
        "(e) => { const box = e.closest('.tippy-box').getBoundingClientRect(); return [box.left, box.right]; }"
    )
    assert 0 <= left < right <= 390
    page.close()


def test_a_preview_of_an_exercise_asks_for_no_font_of_icons(browser, address):
    page = Page(browser, address, "book/hippo")
    preview(page, "#ex-", ".admonition-title")
    page.ask("drawn")
    page.tab.evaluate("document.fonts.ready")
    assert not [url for url, _ in page.ask("loaded") if "fontawesome" in url]
    page.close()


def test_a_dark_page_is_printed_in_light_colours(browser, address):
    page = Page(browser, address, "book/rnn", look=("dark", 1280))
    page.tab.evaluate(
        """() => addEventListener("beforeprint", () => { window.paper = document.documentElement.dataset.theme; })"""
    )
    page.tab.pdf()
    page.until("document.documentElement.dataset.theme === 'dark'")
    assert page.tab.evaluate("paper") == "light"
    page.close()


def test_charts_keep_their_colours_where_the_system_chooses_all_others(browser, address):
    page = Page(browser, address, "book/mamba")
    ink = "all => all.map((key) => getComputedStyle(key).backgroundColor + getComputedStyle(key).color)"
    keys = page.tab.locator(".ssm-widget *")
    before = keys.evaluate_all(ink)
    page.tab.emulate_media(forced_colors="active")
    assert keys.evaluate_all(ink) == before
    page.close()
