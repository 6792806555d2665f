"""A keyboard is enough: it reaches everything, opens every fold, and moves every control."""

from tests.browser.conftest import nothing

WHOLE = {"book/index", "book/hippo", "book/api/lti"}  # elsewhere the frame of the page is the same


def test_reaches_everything_and_shows_where_it_is(page):
    page.ask("watchFocus", "body" if page.name in WHOLE else "article")
    for _ in range(3):  # contents that unfold on the way need more than one round
        for _ in range(page.ask("asked") + 10):
            page.tab.keyboard.down("Tab")  # and held: each time the focus moves on
        page.tab.keyboard.up("Tab")
        if not page.ask("missed"):
            break
    nothing(page.ask("missed"), "not reached:")
    nothing(page.ask("unmarked"), "the focus cannot be seen on:")


def moves(field):
    """Keys that each move a control."""
    kind, index, at_end = field.evaluate("(f) => [f.type, f.selectedIndex, f.value === f.max]")
    if kind == "checkbox":
        return ["Space", "Space"]
    if kind == "select-one":
        return ["ArrowUp" if index else "ArrowDown"]
    return ["ArrowLeft" if at_end else "ArrowRight", "Home", "End"]


def test_every_control_changes_its_figure(page):
    for figure in page.tab.locator("figure.ssm-widget").all():
        for field in figure.locator("[data-control] :is(input, select)").all():
            start = field.input_value()
            page.ask("drawn")  # what the control before it has changed on its return
            for key in moves(field):
                before = state(figure)
                field.press(key)
                page.ask("drawn")
                drawn, picture, summary = state(figure)
                where = f"{field.get_attribute('name')} {key}"
                assert drawn == before[0] + 1, where
                assert picture != before[1], where
                assert len(summary) > 30, where
            if field.get_attribute("type") == "range":
                field.fill(start)  # a slider at its end may leave others without effect


def state(figure):
    """How often a figure has been drawn, what it shows and what it says."""
    return (
        int(figure.get_attribute("data-drawn")),
        figure.evaluate("(figure) => probes.picture(figure)"),
        figure.locator(".summary[role=status]").inner_text(),
    )


def test_the_film_runs(page):
    for film in page.tab.locator(".ssm-film").all():
        button, slider, words = (film.locator(part) for part in ("button", "input", "output"))
        last = words.inner_text()
        slider.press("Home")
        assert words.inner_text() != last
        button.press("Enter")
        assert button.inner_text() == "Pause"
        page.until("(slider) => slider.value > 2", slider.element_handle())
        button.press("Enter")
        assert button.inner_text() == "Play"
        slider.press("End")
