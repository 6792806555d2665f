"""Each page of the book: it loads in silence, sets its formulas, fits, and can be read."""

import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tests.browser.conftest import LOOKS, Page, nothing
from tools import chromium

HUES = "red", "yellow", "green", "cyan", "blue", "magenta"
WIDGETS = 500_000  # bytes at most, on one page
FIGURE = re.compile(r'<(figure|div) class="ssm-(?:widget|film)".*?</script>\s*</\1>', re.DOTALL)


def test_fits_the_window(page):
    for look in LOOKS:
        page.show(*look)
        # Formulas are set when they come near: for a moment one may still have its old width.
        page.until("document.documentElement.scrollWidth <= innerWidth")
        nothing(page.ask("beyond"), f"too wide, {look}:")


def test_formulas_are_set(page):
    nothing(page.ask("unset"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(page, scheme):
    page.show(scheme, 1280)
    nothing(page.ask("faintText"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_stand_out(page, scheme):
    page.show(scheme, 1280)
    for figure in page.tab.locator("article img, .ssm-widget canvas, .ssm-film svg").all():
        figure.scroll_into_view_if_needed()
        figure.evaluate("(e) => e.decode?.()")  # pictures load when they are near
        pixels = plt.imread(io.BytesIO(figure.screenshot()))
        problems = faint(pixels, scheme)
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        behind = luminance(255 * np.array(figure.evaluate("(e) => probes.ground(e.parentElement)")))
        if abs(np.median(luminance(255 * rim[:, :3])) - behind) > 0.01:
            problems.append("another ground than the page")
        nothing(problems, figure.evaluate("(e) => e.alt || e.outerHTML.slice(0, 200)"))


def faint(pixels, scheme):
    """What of a picture is hard to see: its ground, its strongest ink, or the full tone of a hue."""
    packed = np.round(255 * pixels[..., :3]).astype(int) @ [1 << 16, 1 << 8, 1]
    packed, counts = np.unique(packed, return_counts=True)
    colours = packed[:, None] >> [16, 8, 0] & 255
    light = luminance(colours)
    ground = light[counts.argmax()]
    contrast = (np.maximum(light, ground) + 0.05) / (np.minimum(light, ground) + 0.05)
    problems = []
    if (ground < 0.5) != (scheme == "dark"):
        problems.append(f"on a ground of luminance {ground:.2f}")
    if (best := quantile(contrast, counts, 0.999)) < 4.5:
        problems.append(f"the strongest ink has {best:.1f}")
    vivid = np.ptp(colours, axis=1) > 60  # neither grey nor a pale area
    largest = np.sort(counts[vivid])[-8:].sum()
    if 0.1 * counts.sum() < counts[vivid].sum() > 2 * largest:
        return problems  # a heat map, whose tones are what it says
    for hue, name in enumerate(HUES):
        here = vivid & (np.round(hues(colours) / 60) % 6 == hue)
        if counts[here].sum() > 0.001 * counts.sum():
            best = quantile(contrast[here], counts[here], 0.9)
            if best < 3:
                problems.append(f"{name} has {best:.1f}")
    return problems


def luminance(colours):
    c = colours / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def hues(colours):
    """Degrees around the colour wheel, red 0, green 120, blue 240."""
    r, g, b = colours.T / 255
    return np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)) % 360


def quantile(values, counts, share):
    order = values.argsort()
    upto = counts[order].cumsum()
    return values[order][np.searchsorted(upto, share * upto[-1])]


def test_the_button_switches_the_theme(page):
    theme = "document.documentElement.dataset.theme"
    charts = page.tab.locator(".ssm-widget canvas")
    before = charts.evaluate_all("(all) => all.map((chart) => chart.toDataURL())")
    button = page.tab.locator(".theme-switch-button:visible")
    while page.tab.evaluate("document.documentElement.dataset.mode") != "dark":
        button.click()
    assert page.tab.evaluate(theme) == "dark"
    page.ask("drawn")
    after = charts.evaluate_all("(all) => all.map((chart) => chart.toDataURL())")
    assert all(old != new for old, new in zip(before, after))
    while page.tab.evaluate("document.documentElement.dataset.mode") != "auto":
        button.click()
    assert page.tab.evaluate(theme) == "light"


def test_weight(page, html, record_property):
    loaded = dict(page.ask("loaded"))
    source = (html / f"{page.name}.html").read_text("utf-8")
    widgets = sum(len(figure.group().encode()) for figure in FIGURE.finditer(source))
    images = sum(size for address, size in loaded.items() if "/_images/" in address)
    text = len(source.encode()) - widgets
    theme = sum(size for address, size in loaded.items() if "/_static/" in address)
    record_property("weight", (page.name, text, widgets, images, theme))
    assert widgets < WIDGETS


def test_no_font_of_icons_is_loaded(page):
    assert not [address for address, _ in page.ask("loaded") if "fontawesome" in address]


def test_opens_from_a_file(browser, html):
    first, second = chromium.pages()[:2]
    page = Page(browser, f"{html.resolve().as_uri()}/", first, look=("dark", 390))
    assert page.ask("unset") == []
    page.tab.locator("a.right-next").click()
    page.tab.wait_for_load_state()
    assert page.tab.url.endswith(f"/{second}.html")
    page.tab.evaluate("MathJax.startup.promise")
    assert page.ask("unset") == []
    assert page.tab.locator(".ssm-widget").count() == page.tab.locator("[data-drawn]").count() > 0
    assert page.wrong == []
    page.close()
