"""The film of a memory at work: what it holds, and what it must not need."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ssm_book.data import smooth_signal
from ssm_book.widgets import MemoryFilm
from ssm_core.hippo import project, reconstruct

L, N, FRAMES = 2000, 16, 20


@pytest.fixture(scope="module")
def film():
    u = smooth_signal(L, seed=1)
    return MemoryFilm(u, project(u, "legs", N, 1.0, every=L // FRAMES), "metres")


def data_of(film):
    return json.loads(re.search(r"const film = (\{.*?\});", film._repr_html_()).group(1))


def test_it_holds_signal_reconstruction_and_coefficients(film):
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


def test_it_needs_no_network_and_is_light(film):
    page = film._repr_html_()
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=|\bfetch\b|\bimport\b", page)
    u = smooth_signal(10_000)
    full = MemoryFilm(u, project(u, "legs", 64, 1.0, every=80))
    assert len(full._repr_html_()) < 250_000


def test_it_has_names_for_those_who_cannot_see_it(film):
    found = []

    class Elements(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, dict(attributes)))

    Elements().feed(film._repr_html_())
    assert all("aria-label" in a for tag, a in found if tag in ("svg", "input"))
    assert [tag for tag, _ in found].count("button") == 1
    assert all(a["d"].startswith("M") for tag, a in found if tag == "path"), "no first picture"


def test_it_is_the_same_each_time_and_differs_with_the_signal(film):
    u = smooth_signal(L, seed=1)
    again = MemoryFilm(u, project(u, "legs", N, 1.0, every=L // FRAMES), "metres")
    assert again._repr_html_() == film._repr_html_()
    other = MemoryFilm(u, project(u, "legs", N, 1.0, every=L // 10), "metres")
    identity = re.compile(r'id="(ssm-film-\w+)"')
    assert identity.findall(other._repr_html_()) != identity.findall(film._repr_html_())


def test_it_of_awkward_input():
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
