"""The look of the figures: colours that everyone can tell apart and read."""

import pathlib
import re

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from ssm_book import figures

ROOT = pathlib.Path(__file__).parents[2]


def in_the_dark(colours):
    """What the filter of book.css makes of colours between 0 and 1: invert, then turn the hue."""
    css = (ROOT / "book" / "_static" / "book.css").read_text("utf-8")
    amount = float(re.search(r"filter: invert\((.*?)\) hue-rotate\(180deg\)", css).group(1))
    grey = np.array([0.213, 0.715, 0.072])  # of the W3C's hue-rotate
    return np.clip(
        (amount + (1 - 2 * amount) * colours) @ (2 * np.outer(grey, np.ones(3)) - np.eye(3)), 0, 1
    )


# Names of colours, those for words first.
NAMES = "BLUE", "ORANGE", "GREEN", "PINK", "AMBER", "GREY", "SKY"

# What eyes that lack one kind of cone make of light: Machado, Oliveira and Fernandes (2009), table 1.
SIGHT = {
    "all cones": np.eye(3),
    "no long": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no middle": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no short": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(colours):
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def luminance(colours):
    return linear(colours) @ [0.2126, 0.7152, 0.0722]


def lab(light):
    """CIELAB coordinates of linear red, green and blue, where 2 is a difference that one just sees."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = np.cbrt(np.clip(light, 0, 1) @ to_xyz.T / to_xyz.sum(1)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.fixture(params=[np.asarray, in_the_dark])
def look(request):
    """What a theme of the book makes of colours."""
    return request.param


def palette():
    return np.array([to_rgb(getattr(figures, name)) for name in NAMES])


def test_words_in_the_colours_of_figures_can_be_read(look):
    ground, ink = luminance(look(np.ones(3))), luminance(look(palette()))
    contrast = (np.maximum(ink, ground) + 0.05) / (np.minimum(ink, ground) + 0.05)
    assert contrast[:-1].min() > 4.5 and contrast[-1] > 3  # words; lines and areas


@pytest.mark.parametrize("cones", SIGHT)
def test_colours_stay_apart_for_every_eye(look, cones):
    seen = lab(linear(look(palette())) @ np.transpose(SIGHT[cones]))
    apart = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(len(seen), 1)]
    assert apart.min() > 9


# --- values for the text --------------------------------------------------------------------------


def test_a_tolerance_is_stored_with_the_number(monkeypatch):
    pytest.importorskip("myst_nb")
    format_display_data = pytest.importorskip("IPython.core.formatters").format_display_data
    glued = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, value, display: glued.update({name: value}))
    figures.glue("slope", 1.5, tolerance=0.25)
    figures.glue("steps", np.float64(2.5), tolerance=1)
    figures.glue("exact", 3)
    assert [format_display_data(glued[name]) for name in ("slope", "steps")] == [
        ({"text/plain": "1.5"}, {"tolerance": 0.25}),
        ({"text/plain": "2.5"}, {"tolerance": 1}),
    ]
    assert glued["exact"] == 3


@pytest.mark.parametrize(
    "value, tolerance, error, message",
    [
        (1.0, -0.1, ValueError, "tolerance is -0.1, expected a finite number"),
        (1.0, np.nan, ValueError, "tolerance is nan, expected a finite number"),
        (1.0, np.inf, ValueError, "tolerance is inf, expected a finite number"),
        ("slow", 0.1, TypeError, "value is a str, expected an int or a float"),
    ],
)
def test_a_tolerance_is_checked(value, tolerance, error, message):
    with pytest.raises(error, match=message):
        figures.glue("name", value, False, tolerance)
