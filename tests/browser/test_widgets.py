"""Figures that compute: what to try, play and reset, what one takes hold of, and that nothing jumps."""

import json

import pytest

from tests.browser.conftest import LOOKS


def figures(page):
    return page.tab.locator("figure.ssm-widget").all()


def values(figure):
    """Where the controls stand; two frames later, so that a drawing that was asked for has been made."""
    return figure.evaluate(
        """async (figure) => {
            await probes.drawn();
            const field = (e) => (e.type === "checkbox" ? e.checked : e.value);
            return [...figure.querySelectorAll("input, select")].map(field);
        }"""
    )


def reset(figure):
    figure.locator("[type=reset]").press("Enter")


DRAWN_BY_CLICK = """(button) => new Promise((done) => {
    const figure = button.closest("figure");
    figure.addEventListener("ssm-drawn", ({detail}) => done(detail), {once: true});
    button.click();
})"""


def test_what_to_try_sets_the_controls_and_reset_undoes_it(page):
    for figure in figures(page):
        reset(figure)  # whatever was tried before
        start = values(figure)
        presets = figure.locator("[data-preset]").all()
        assert len(presets) >= 2
        seen = [start]
        for preset in presets:
            drawn = preset.evaluate(DRAWN_BY_CLICK)
            for name, value in json.loads(preset.get_attribute("data-preset")).items():
                if isinstance(value, list):
                    assert [k for k, mark in enumerate(drawn[name]) if mark] == value
                else:  # a slider with equal factors stands at the nearest of its numbers
                    exact = isinstance(value, str)
                    assert drawn[name] == (value if exact else pytest.approx(value, rel=0.07))
            assert values(figure) not in seen, preset.inner_text()
            seen.append(values(figure))
            assert preset.get_attribute("aria-pressed") == "true"
            assert figure.locator("[aria-pressed=true]").count() == 1
        reset(figure)
        assert values(figure) == start
        assert figure.locator("[aria-pressed=true]").count() == 0


def test_time_steps_and_plays(page):
    for figure in figures(page):
        player = figure.locator(".player")
        if not player.count():
            continue
        slider = figure.locator(f"input[name={player.get_attribute('data-plays')}]")
        back, play, on = player.locator("button").all()
        slider.press("Home")
        low = slider.input_value()
        on.press("Enter")
        assert slider.input_value() != low
        back.press("Enter")
        assert slider.input_value() == low
        slider.press("End")
        play.press("Enter")  # begins anew
        assert play.inner_text() == "Pause"
        page.until("([s, low]) => Number(s.value) > Number(low)", [slider.element_handle(), low])
        play.press("Enter")
        assert play.inner_text() == "Play" and float(slider.input_value()) < float(
            slider.get_attribute("max")
        )
        play.press("Enter")
        slider.press("ArrowRight")  # whoever moves the slider stops the run
        assert play.inner_text() == "Play"
        reset(figure)


HELD = {  # where to press, as shares of a plot's width and height, and what must change
    "continuous": ((0.5, 0.3), ["k", "b"]),
    "discretization": ((0.5, 0.2), ["dt"]),
    "duality": ((0.3, 0.5), ["k"]),
    "hippo": ((0.3, 0.5), ["now"]),
    "memory": ((0.5, 0.5), ["W"]),
    "s4": ((0.8, 0.5), ["n"]),
    "mamba": ((0.5, 0.5), ["wanted"]),
    "training": ((0.8, 0.5), ["tokens"]),
    "ssd": ((0.5, 0.5), ["Q"]),
}


def test_a_plot_can_be_taken_hold_of(page):
    for figure in figures(page):
        name = figure.get_attribute("data-widget")
        assert figure.locator(".drag, .click").count() > 0 or name not in HELD
        if name not in HELD:
            continue
        (x, y), changed = HELD[name]
        before = control_values(figure)
        plot = figure.locator(".u-over").first
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        plot.click(position={"x": x * box["width"], "y": y * box["height"]})
        after = control_values(figure)
        assert [key for key in after if after[key] != before[key]] == sorted(
            changed, key=list(after).index
        )
        reset(figure)


def control_values(figure):
    values(figure)
    return figure.evaluate(
        """(figure) => Object.fromEntries([...figure.querySelectorAll("[data-control]")].map((control) =>
            [control.dataset.control, [...control.querySelectorAll("input, select")].map((e) => `${e.value} ${e.checked}`).join()]))"""
    )


def test_sliders_are_long_and_stay_in_the_frame(page):
    for look in LOOKS[:2]:
        page.show(*look)
        for figure in figures(page):
            for slider in figure.locator("input[type=range]").all():
                assert slider.bounding_box()["width"] >= 240


@pytest.mark.parametrize("look", LOOKS[:2])
def test_nothing_jumps_while_a_control_moves(page, look):
    page.show(*look)
    for figure in figures(page):
        heights = figure.evaluate(
            """async (figure) => {
                const heights = new Set(), form = figure.querySelector("form");
                const note = async () => { await probes.drawn(); heights.add(figure.offsetHeight); };
                const fields = [...figure.querySelectorAll("input[type=range], select")];
                const ends = (field) => (field.options ? [...field.options].map(({value}) => value)
                    : [field.min, (Number(field.min) + Number(field.max)) / 2, field.max]);
                await note();
                for (const field of fields) {
                    for (const value of ends(field)) {
                        form.reset();
                        field.value = value;
                        field.dispatchEvent(new Event("input", {bubbles: true}));
                        await note();
                    }
                }
                for (const preset of figure.querySelectorAll("[data-preset]")) {
                    preset.click();
                    await note();
                }
                form.reset();
                return [...heights];
            }"""
        )
        assert len(heights) == 1, (figure.get_attribute("data-widget"), heights)
