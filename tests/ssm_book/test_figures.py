"""The look of the figures, and the film: what it holds, and what it must not need."""

import json
import pathlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from ssm_book import figures
from ssm_book.data import smooth_signal
from ssm_book.widgets import MemoryFilm
from ssm_core.hippo import project, reconstruct

ROOT = pathlib.Path(__file__).parents[2]
L, N, FRAMES = 2000, 16, 20


def in_the_dark(colours):
    """What the filter of book.css makes of colours between 0 and 1: invert, then turn the hue."""
    css = (ROOT / "book" / "_static" / "book.css").read_text("utf-8")
    amount = float(re.search(r"filter: invert\((.*?)\) hue-rotate\(180deg\)", css).group(1))
    grey = np.array([0.213, 0.715, 0.072])  # of the W3C's hue-rotate
    return np.clip((amount + (1 - 2 * amount) * colours) @ (2 * np.outer(grey, np.ones(3)) - np.eye(3)), 0, 1)


# Names of colours, those for words first.
NAMES = "BLUE", "ORANGE", "GREEN", "PINK", "AMBER", "GREY", "SKY"

# What eyes that lack one kind of cone make of light: Machado, Oliveira and Fernandes (2009), table 1.
SIGHT = {
    "all cones": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998]],
    "no middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                  [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                 [0.004733, 0.691367, 0.303900]],
}


def linear(colours):
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def luminance(colours):
    return linear(colours) @ [0.2126, 0.7152, 0.0722]


def lab(light):
    """CIELAB coordinates of linear red, green and blue, where 2 is a difference that one just sees."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
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


@pytest.fixture(scope="module")
def film():
    u = smooth_signal(L, seed=1)
    return MemoryFilm(u, project(u, "legs", N, 1.0, every=L // FRAMES), "metres")


def data_of(film):
    return json.loads(re.search(r"const film = (\{.*?\});", film._repr_html_()).group(1))


def test_film_holds_signal_reconstruction_and_coefficients(film):
    u = smooth_signal(L, seed=1)
    c = project(u, "legs", N, 1.0, every=L // FRAMES)
    data = data_of(film)
    assert len(data["now"]) == len(data["past"]) == len(data["state"]) == FRAMES
    assert data["now"][-1] == 10_000

    height = 800 / (u.max() - u.min())  # the scale on which 0 to 1000 are drawn, from the top
    moments = np.array(data["moments"]) / 10_000
    for frame in (3, FRAMES - 1):
        past = 900 - height * (reconstruct(c[frame], "legs", moments) - u.min())
        np.testing.assert_allclose(data["past"][frame], past, rtol=0, atol=3)
        size = np.sign(c[frame]) * np.sqrt(abs(c[frame]) / abs(c).max()) * 480
        np.testing.assert_allclose(data["state"][frame], size, rtol=0, atol=0.51)
    where = np.array(data["x"]) / 10_000 * L - 1
    signal = 900 - height * (np.interp(where, np.arange(L), u) - u.min())
    np.testing.assert_allclose(data["signal"], signal, rtol=0, atol=1)
    assert re.fullmatch(r"After 100 of 2,000 samples: typical error \S+ metres", data["words"][0])


def test_film_needs_no_network_and_is_light(film):
    page = film._repr_html_()
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=|\bfetch\b|\bimport\b", page)
    u = smooth_signal(10_000)
    full = MemoryFilm(u, project(u, "legs", 64, 1.0, every=80))
    assert len(full._repr_html_()) < 250_000


def test_film_has_names_for_those_who_cannot_see_it(film):
    found = []

    class Elements(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, dict(attributes)))

    Elements().feed(film._repr_html_())
    assert all("aria-label" in a for tag, a in found if tag in ("svg", "input"))
    assert [tag for tag, _ in found].count("button") == 1
    assert all(a["d"].startswith("M") for tag, a in found if tag == "path"), "no first picture"


def test_film_is_the_same_each_time_and_differs_with_the_signal(film):
    u = smooth_signal(L, seed=1)
    again = MemoryFilm(u, project(u, "legs", N, 1.0, every=L // FRAMES), "metres")
    assert again._repr_html_() == film._repr_html_()
    other = MemoryFilm(u, project(u, "legs", N, 1.0, every=L // 10), "metres")
    identity = re.compile(r'id="(ssm-film-\w+)"')
    assert identity.findall(other._repr_html_()) != identity.findall(film._repr_html_())


def test_film_of_awkward_input():
    assert "unit &lt;b&gt;" in MemoryFilm([1.0, 2.0], [[1.0]], "unit <b>")._repr_html_()
    assert "</b>" not in MemoryFilm([1.0, 2.0], [[1.0]], "</b>")._repr_html_()
    flat = data_of(MemoryFilm(np.full(10, 3.0), np.zeros((5, 2))))
    assert set(flat["signal"]) == {900} and not np.any(flat["state"])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: MemoryFilm([[1.0]], [[1.0]]), "u has shape"),
        (lambda: MemoryFilm([1.0], [1.0]), "coefficients has shape"),
        (lambda: MemoryFilm([1.0], [[1.0], [1.0]]), "coefficients has 2 rows"),
        (lambda: MemoryFilm([np.nan], [[1.0]]), "u holds nan"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
