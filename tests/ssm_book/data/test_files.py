"""Real data against facts about them."""

from __future__ import annotations

import csv
import importlib.resources

import numpy as np
import pytest

from ssm_book import data
from ssm_book.data import files

# oil prices


def test_oil_prices_are_what_the_series_says():
    dates, prices = data.oil_prices()
    assert dates.dtype == np.dtype("datetime64[D]") and prices.dtype == np.float64
    assert dates.shape == prices.shape == (8321,)
    assert dates[0] == np.datetime64("1986-01-02") and dates[-1] == np.datetime64("2019-01-03")
    known = {  # as published
        "1986-01-02": 25.56,
        "1986-03-31": 10.25,  # the lowest
        "1991-01-16": 32.25,  # the day before the Gulf war
        "1991-01-17": 21.48,  # the largest fall in one day, a third
        "1998-12-10": 10.82,
        "2008-07-03": 145.31,  # the highest
        "2016-02-11": 26.19,
        "2019-01-03": 46.92,
    }
    for day, price in known.items():
        assert prices[dates == np.datetime64(day)] == [price]
    assert prices.min() == 10.25 and prices.max() == 145.31
    assert dates[1:][np.diff(np.log(prices)).argmin()] == np.datetime64("1991-01-17")


def test_oil_prices_have_no_gap_filled_and_no_bad_value():
    dates, prices = data.oil_prices()
    gaps = np.diff(dates).astype(int)
    assert gaps.min() == 1 and gaps.max() == 5
    assert np.is_busday(dates).all()
    weekdays = np.busday_count(dates[0], dates[-1] + 1)
    assert weekdays == 8611 and weekdays - len(dates) == 290  # days without a price
    assert np.isfinite(prices).all() and (prices > 0).all()
    assert np.array_equal(np.round(prices, 2), prices)


def test_oil_file_read_by_another_parser_gives_the_same():
    resource = importlib.resources.files("ssm_book.data").joinpath("datasets/wti_spot_daily.csv")
    with resource.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    dates, prices = data.oil_prices()
    assert [row["date"] for row in rows] == [str(day) for day in dates]
    assert [float(row["dollars_per_barrel"]) for row in rows] == prices.tolist()


def test_oil_file_ships_with_its_source_and_licence():
    text = (
        importlib.resources.files("ssm_book.data").joinpath("datasets/README.md").read_text("utf-8")
    )
    for fact in ("DCOILWTICO", "Energy Information Administration", "public domain", "8,321"):
        assert fact in text


def test_oil_prices_return_fresh_arrays():
    dates, prices = data.oil_prices()
    dates[:], prices[:] = np.datetime64("2000-01-01"), 0.0
    dates, prices = data.oil_prices()
    assert dates[0] == np.datetime64("1986-01-02") and prices[0] == 25.56


@pytest.mark.parametrize(
    "damage", [lambda text: text[:1000], lambda text: text.replace("145.31", "145.32")]
)
def test_damaged_oil_file_loads_nothing(monkeypatch, tmp_path, damage):
    original = importlib.resources.files("ssm_book.data").joinpath("datasets/wti_spot_daily.csv")
    (tmp_path / "datasets").mkdir()
    copy = tmp_path / "datasets" / "wti_spot_daily.csv"
    text = original.read_text(encoding="utf-8")
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)

    copy.write_bytes(text.replace("\n", "\r\n").encode())  # other line endings are no damage
    assert len(data.oil_prices()[1]) == 8321
    copy.write_bytes(damage(text).encode())
    with pytest.raises(ValueError, match="wti_spot_daily.csv.*install the package again"):
        data.oil_prices()


# the digits


def test_digits_look_like_digits():
    images, labels = data.handwritten_digits()
    assert images.shape == (1797, 8, 8) and images.dtype == np.uint8 and images.max() == 16
    assert labels.shape == (1797,) and set(labels) == set(range(10))
    assert np.bincount(labels).min() > 170
    means = np.stack([images[:1500][labels[:1500] == digit].mean(0) for digit in range(10)])
    nearest = np.square(images[1500:, None] - means).sum((2, 3)).argmin(1)
    assert (nearest == labels[1500:]).mean() > 0.8  # images and labels belong together


def test_damaged_digits_load_nothing(monkeypatch, tmp_path):
    text = (
        importlib.resources.files("ssm_book.data").joinpath(files._DIGITS_FILE).read_text("utf-8")
    )
    (tmp_path / "datasets").mkdir()
    (tmp_path / files._DIGITS_FILE).write_text(text.replace("16", "15", 1), encoding="utf-8")
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match="handwritten_digits"):
        data.handwritten_digits()


# the novel


def test_the_novel_begins_and_ends_as_everyone_knows():
    characters, alphabet = data.novel()
    assert characters.dtype == np.int64 and characters.shape == (684_767,) and len(alphabet) == 75
    assert list(alphabet) == sorted({*alphabet})
    assert {*np.unique(characters).tolist()} == {*range(75)}
    text = "".join(np.array([*alphabet])[characters])
    assert text.startswith("PRIDE AND PREJUDICE\n\nBy Jane Austen\n")
    assert text.endswith("had been the means of uniting them.")
    assert text.count("\nChapter ") == 61 and text.count("Darcy") > 400
    assert "684,767 characters, 75 different" in data.novel.__doc__


def test_parts_of_the_novel_make_up_the_whole():
    (whole, alphabet), (train, a), (test, b) = (
        data.novel(part) for part in ("all", "train", "test")
    )
    assert a == b == alphabet
    assert np.array_equal(np.concatenate([train, test]), whole)
    assert len(test) / len(whole) == pytest.approx(0.1, abs=1e-5)
    with pytest.raises(ValueError, match="part is 'valid', expected one of: all, train, test"):
        data.novel("valid")


def test_a_damaged_novel_loads_nothing(monkeypatch, tmp_path):
    text = importlib.resources.files("ssm_book.data").joinpath("datasets/pride_and_prejudice.txt")
    copy = tmp_path / "datasets" / "pride_and_prejudice.txt"
    copy.parent.mkdir()
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    copy.write_bytes(text.read_bytes().replace(b"\n", b"\r\n"))  # no damage
    assert len(data.novel()[0]) == 684_767
    copy.write_bytes(text.read_bytes().replace(b"Darcy", b"Harry"))
    with pytest.raises(ValueError, match="not the checksum of the file that ships"):
        data.novel()
