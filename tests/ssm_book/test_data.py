"""ssm_book.data against facts about its real data and the definition of each signal and task."""

from __future__ import annotations

import csv
import doctest
import importlib.resources
import itertools
import json
import pathlib
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from numpy.polynomial import legendre

from ssm_book import data
from ssm_book.data import files, measured, signals, tasks

SYNTHETIC = {
    "random_walk_prices": lambda L, seed: data.random_walk_prices(L, seed),
    "smooth_signal": lambda L, seed: data.smooth_signal(L, seed),
    "rough_signal": lambda L, seed: data.rough_signal(L, 2.0, seed),
    "band_limited_noise": lambda L, seed: data.band_limited_noise(L, 0.1, 1.0, seed),
}


def with_peak_memory(make):
    """What ``make()`` returns, and the most bytes that were allocated meanwhile."""
    tracemalloc.start()
    try:
        return make(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def legendre_error(signal, N):
    """RMS error of the least squares fit by N Legendre polynomials."""
    basis, _ = np.linalg.qr(legendre.legvander(np.linspace(-1, 1, len(signal)), N - 1))
    return np.sqrt(np.mean((signal - basis @ (basis.T @ signal)) ** 2))


# ---------------------------------------------------------------------------- oil prices


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
    text = importlib.resources.files("ssm_book.data").joinpath("datasets/README.md").read_text("utf-8")
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


# ---------------------------------------------------------------------------- measurements


def test_measurements_of_the_repository_are_the_files():
    folder = pathlib.Path(__file__).parents[2] / "benchmarks" / "results"
    for path in folder.glob("*.json"):
        found = data.measurements(path.stem)
        assert found == json.loads(path.read_text(encoding="utf-8"))
        assert found["machine"]["processor"] and found["software"]["torch"]
    assert data.measurements("hippo-cpu") is not data.measurements("hippo-cpu")


def test_measurements_of_an_installed_package_come_first(monkeypatch, tmp_path):
    for folder in ("benchmarks/results", "ssm_book/results"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "some-gpu.json").write_text(json.dumps({"from": folder}), encoding="utf-8")
    (tmp_path / "ssm_book/results/.gitkeep").touch()
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path / package)
    assert data.measurements("some-gpu") == {"from": "ssm_book/results"}
    (tmp_path / "ssm_book/results").rename(tmp_path / "elsewhere")
    assert data.measurements("some-gpu") == {"from": "benchmarks/results"}


@pytest.mark.parametrize("name", ["hippo", "hippo-cpu.json", "../results/hippo-cpu", "", ".gitkeep"])
def test_measurements_that_do_not_exist(name):
    with pytest.raises(ValueError, match=r"name is '.*', expected one of: .*hippo-cpu"):
        data.measurements(name)
    with pytest.raises(TypeError, match="name is None, expected one of"):
        data.measurements(None)


def test_measurements_where_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path / package)
    with pytest.raises(ValueError, match="no measurements are installed"):
        data.measurements("hippo-cpu")


# ---------------------------------------------------------------------------- all synthetic ones


@pytest.mark.parametrize("make", SYNTHETIC.values(), ids=SYNTHETIC.keys())
@pytest.mark.parametrize("L", [13, 63, 10_000, 10_007])  # also odd and prime
def test_synthetic_signals_repeat_by_seed(make, L):
    x = make(L, 3)
    assert x.dtype == np.float64 and x.shape == (L,) and np.isfinite(x).all()
    assert np.array_equal(x, make(L, 3))
    assert np.array_equal(x, make(L, np.int64(3)))
    assert np.array_equal(x, make(L, np.random.default_rng(3)))
    assert not np.allclose(x, make(L, 4))


@pytest.mark.parametrize("make", SYNTHETIC.values(), ids=SYNTHETIC.keys())
def test_synthetic_signals_leave_the_global_generator_alone(make):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    make(100, 0)
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("make", SYNTHETIC.values(), ids=SYNTHETIC.keys())
@pytest.mark.parametrize(
    ("L", "seed", "error", "message"),
    [
        (0, 0, ValueError, "L is 0"),
        (-5, 0, ValueError, "L is -5"),
        (100.0, 0, TypeError, "L is 100.0"),
        (True, 0, TypeError, "L is True"),
        ("100", 0, TypeError, "L is '100'"),
        (100, -1, ValueError, "seed is -1"),
        (100, None, TypeError, "seed is None"),
        (100, 0.5, TypeError, "seed is 0.5"),
    ],
)
def test_synthetic_signals_refuse_bad_length_and_seed(make, L, seed, error, message):
    with pytest.raises(error, match=f"{message}, expected"):
        make(L, seed)


# ---------------------------------------------------------------------------- random walk


def test_random_walk_prices_have_the_volatility_they_name():
    L = 100_000
    for volatility in (0.1, 0.4):
        prices = data.random_walk_prices(L, 7, volatility=volatility, start=50)
        assert prices[0] == 50 and (prices > 0).all()
        steps = np.diff(np.log(prices))
        assert steps.std() * np.sqrt(252) == pytest.approx(volatility, rel=5 / np.sqrt(2 * L))
        lag1 = np.corrcoef(steps[1:], steps[:-1])[0, 1]
        assert abs(lag1) < 5 / np.sqrt(L)  # no memory in the steps
    assert data.random_walk_prices(1, start=7.0).tolist() == [7.0]


def test_random_walk_prices_have_the_same_path_for_every_volatility():
    calm = np.log(data.random_walk_prices(1000, 2, volatility=0.1, start=1))
    wild = np.log(data.random_walk_prices(1000, 2, volatility=0.3, start=1))
    np.testing.assert_allclose(wild, 3 * calm, rtol=1e-12, atol=1e-14)


def test_the_volatility_of_oil_is_what_the_docstring_says():
    _, prices = data.oil_prices()
    assert round(np.diff(np.log(prices)).std() * np.sqrt(252), 2) == 0.40
    assert "is 0.40" in data.random_walk_prices.__doc__


@pytest.mark.parametrize("name", ["volatility", "start"])
@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf])
def test_random_walk_prices_refuse_bad_parameters(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*expected"):
        data.random_walk_prices(10, **{name: value})


@pytest.mark.parametrize(
    "parameters",
    [{"volatility": 1e6}, {"start": 1.7e308, "volatility": 2}, {"start": 5e-324, "volatility": 2}],
)
def test_random_walk_prices_refuse_to_leave_float64(parameters):
    with pytest.raises(ValueError, match="volatility is .* and start is .*range of float64"):
        data.random_walk_prices(5000, **parameters)


# ---------------------------------------------------------------------------- smooth signal


@pytest.mark.parametrize("seed", range(20))
def test_smooth_signal_is_one_curve_within_bounds(seed):
    fine = data.smooth_signal(10_000, seed)
    assert np.array_equal(fine[::10], data.smooth_signal(1000, seed))
    assert np.abs(fine).max() <= 1
    assert 0.1 < fine.std() < 0.5


def test_64_coefficients_hold_a_smooth_signal():
    for seed in range(20):
        x = data.smooth_signal(2000, seed)
        assert legendre_error(x, 64) < 0.01 * x.std()
        assert legendre_error(x, 16) > 0.01 * x.std()  # and fewer do not: it is no toy


# ---------------------------------------------------------------------------- rough signal


def power_in_octaves(x):
    """Mean power of the frequencies in each octave, and the middle of the octave."""
    power = np.abs(np.fft.rfft(x)) ** 2
    edges = 2 ** np.arange(3, int(np.log2(len(power))))
    pairs = list(itertools.pairwise(edges))
    return np.array([a * 1.5 for a, _ in pairs]), np.array([power[a:b].mean() for a, b in pairs])


@pytest.mark.parametrize("exponent", [0, 1, 1.5, 2, 3, 4, 6])
def test_rough_signal_has_the_spectral_slope_it_names(exponent):
    middle, power = power_in_octaves(data.rough_signal(2**16, exponent, seed=1))
    slope = np.polyfit(np.log(middle), np.log(power), 1)[0]
    assert -slope == pytest.approx(exponent, abs=0.15)


@pytest.mark.parametrize("L", [2, 3, 100, 10_007])
@pytest.mark.parametrize("exponent", [0, 2.5, 6])
def test_rough_signal_has_mean_0_and_variance_1(L, exponent):
    x = data.rough_signal(L, exponent)
    assert abs(x.mean()) < 1e-12
    assert x.var() == pytest.approx(1, abs=1e-12)


def test_rough_signal_with_exponent_0_is_white_noise_and_one_of_2_its_running_sum():
    L, seed = 4096, 5
    white = np.random.default_rng(seed).standard_normal(L)
    white -= white.mean()
    np.testing.assert_allclose(data.rough_signal(L, 0, seed), white / white.std(),
                               rtol=0, atol=1e-12)
    # differences undo the integration where the grid is fine: at low frequency, up to a phase
    steps = np.diff(data.rough_signal(L, 2, seed), append=data.rough_signal(L, 2, seed)[0])
    ratio = np.abs(np.fft.rfft(steps))[1:100] / np.abs(np.fft.rfft(white))[1:100]
    np.testing.assert_allclose(ratio, ratio[0], rtol=2e-3)


@pytest.mark.parametrize("exponent", [2, 3, 4])
def test_rough_signal_is_approximated_at_the_rate_the_docstring_says(exponent):
    sizes = np.array([8, 16, 32, 64, 128])
    errors = np.zeros((20, len(sizes)))
    for seed in range(20):
        x = data.rough_signal(4096, exponent, seed)
        errors[seed] = [legendre_error(x, N) for N in sizes]
    rms = np.sqrt((errors**2).mean(axis=0))
    slope = np.polyfit(np.log(sizes), np.log(rms), 1)[0]
    assert slope == pytest.approx(-(exponent - 1) / 2, abs=0.2)


@pytest.mark.parametrize("exponent", [-0.1, 6.5, np.nan])
def test_rough_signal_refuses_other_exponents(exponent):
    with pytest.raises(ValueError, match="exponent is .*expected a finite number from 0 to 6"):
        data.rough_signal(100, exponent)


# ---------------------------------------------------------------------------- band-limited noise


@pytest.mark.parametrize("L", [100, 101, 4096, 10_007])
@pytest.mark.parametrize("dt", [1e-3, 1.0, 3.7])
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.37])  # of the sampling rate
def test_band_limited_noise_has_no_power_above_the_cutoff(L, dt, fraction):
    x = data.band_limited_noise(L, fraction / dt, dt, seed=2)
    power = np.abs(np.fft.rfft(x)) ** 2
    above = np.fft.rfftfreq(L, dt) > fraction / dt * (1 + 1e-9)
    assert power[above].max() < 1e-24 * power.sum()
    assert (power[1:][~above[1:]] > 1e-9 * power.sum() / L).all()  # and none is missing below
    assert abs(x.mean()) < 1e-12
    assert x.var() == pytest.approx(1, abs=1e-12)


def test_band_limited_noise_is_flat_in_the_band():
    power = np.abs(np.fft.rfft(data.band_limited_noise(2**16, 0.25, seed=1))) ** 2
    band = power[1 : 2**14 + 1].reshape(16, -1).mean(axis=1)
    np.testing.assert_allclose(band, band.mean(), rtol=0.15)  # 1024 frequencies in each part


def test_band_limited_noise_keeps_both_ends_of_the_range():
    L, dt = 1000, 0.1
    one = data.band_limited_noise(L, 1 / (L * dt), dt, seed=0)  # a single sine
    t = np.arange(L) / L
    fit = np.stack([np.sin(2 * np.pi * t), np.cos(2 * np.pi * t)], axis=1)
    assert np.linalg.norm(one - fit @ np.linalg.lstsq(fit, one, rcond=None)[0]) < 1e-12 * L
    full = data.band_limited_noise(L, 1 / (2 * dt), dt, seed=0)  # white noise less its mean
    np.testing.assert_allclose(full, data.rough_signal(L, 0, seed=0), rtol=0, atol=1e-12)


def test_band_limited_noise_of_a_million_samples_takes_memory_in_proportion():
    x, peak = with_peak_memory(lambda: data.band_limited_noise(10**6, 0.01))
    assert x.shape == (10**6,)
    power = np.abs(np.fft.rfft(x)) ** 2
    assert power[10_001:].sum() < 1e-20 * power.sum()
    assert peak < 12 * x.nbytes


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"cutoff": 0.0}, "cutoff"),
        ({"cutoff": -1.0}, "cutoff"),
        ({"cutoff": np.nan}, "cutoff"),
        ({"cutoff": 0.51}, "cutoff"),
        ({"cutoff": 0.009}, "cutoff"),
        ({"cutoff": 0.1, "dt": 0.0}, "dt"),
        ({"cutoff": 0.1, "dt": -1.0}, "dt"),
        ({"cutoff": 0.1, "dt": np.inf}, "dt"),
    ],
)
def test_band_limited_noise_refuses_what_cannot_be(arguments, name):
    with pytest.raises(ValueError, match=f"{name} is .*expected"):
        data.band_limited_noise(100, **arguments)


# ---------------------------------------------------------------------------- tasks

TASKS = {
    "selective_copying": lambda batch, seed: data.selective_copying(batch, 50, 5, 9, seed),
    "induction_heads": lambda batch, seed: data.induction_heads(batch, 20, 7, seed),
    "associative_recall": lambda batch, seed: data.associative_recall(batch, 6, 20, 3, seed),
}


@pytest.mark.parametrize("make", TASKS.values(), ids=TASKS)
def test_tasks_follow_their_seed(make):
    one, same, other = make(40, 3), make(40, np.random.default_rng(3)), make(40, 4)
    for a, b, c in zip(one, same, other):
        assert a.dtype == np.int64 and a.flags.owndata and a.shape == b.shape == c.shape
        assert np.array_equal(a, b) and not np.array_equal(a, c)
    rng = np.random.default_rng(0)  # a generator goes on: the next batch is another
    assert not np.array_equal(make(40, rng)[0], make(40, rng)[0])
    before = np.random.get_state()[1].copy()
    make(2, 0)
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize(("length", "tokens", "vocab"), [(50, 5, 9), (5, 5, 3), (4096, 16, 16)])
def test_selective_copying_asks_for_the_tokens_in_their_order(length, tokens, vocab):
    inputs, targets = data.selective_copying(60, length, tokens, vocab, seed=1)
    assert inputs.shape == (60, length + tokens) and targets.shape == (60, tokens)
    assert (inputs[:, length:] == vocab - 1).all()
    for row, target in zip(inputs[:, :length], targets):
        assert row[row != 0].tolist() == target.tolist()
    assert {*np.unique(targets).tolist()} == {*range(1, vocab - 1)}


def test_selective_copying_scatters_evenly_and_independently():
    inputs, _ = data.selective_copying(20_000, 10, 3, 9, seed=2)
    here = inputs[:, :10] != 0
    np.testing.assert_allclose(here.mean(axis=0), 0.3,
                               rtol=0, atol=0.015)  # 4.6 standard deviations
    together = here.T.astype(float) @ here / len(here)
    pairs = together[~np.eye(10, dtype=bool)]
    np.testing.assert_allclose(pairs, 3 / 10 * 2 / 9, rtol=0, atol=0.009)
    tokens = inputs[:, :10][here]
    np.testing.assert_allclose(np.bincount(tokens)[1:] / len(tokens), 1 / 7, rtol=0, atol=0.007)


def test_copying_that_is_not_scattered_is_a_fixed_delay():
    inputs, targets = data.selective_copying(30, 20, 4, 9, seed=3, scattered=False)
    assert np.array_equal(inputs[:, :4], targets) and (inputs[:, 4:20] == 0).all()


@pytest.mark.parametrize(("length", "vocab"), [(20, 7), (3, 2), (256, 16)])
def test_induction_heads_ask_what_followed_the_trigger(length, vocab):
    inputs, targets = data.induction_heads(200, length, vocab, seed=1)
    assert inputs.shape == (200, length) and targets.shape == (200, 1)
    for row, target in zip(inputs, targets):
        first, last = np.flatnonzero(row == vocab - 1)
        assert last == length - 1 and first < length - 2
        assert row[first + 1] == target[0] < vocab - 1
        assert 0 <= row.min()


def test_induction_heads_put_the_trigger_anywhere():
    inputs, targets = data.induction_heads(20_000, 12, 6, seed=2)
    places = (inputs == 5).argmax(axis=1)
    np.testing.assert_allclose(np.bincount(places) / 20_000, np.full(10, 0.1), rtol=0, atol=0.01)
    np.testing.assert_allclose(np.bincount(targets[:, 0]) / 20_000, np.full(5, 0.2),
                               rtol=0, atol=0.013)


@pytest.mark.parametrize(("pairs", "vocab", "queries"), [(6, 20, 3), (8, 16, 8), (1, 2, 1), (3, 9, 1)])
def test_associative_recall_asks_for_the_value_of_a_key(pairs, vocab, queries):
    inputs, targets = data.associative_recall(100, pairs, vocab, queries, seed=1)
    assert inputs.shape == (100, 2 * pairs + queries) and targets.shape == (100, queries)
    half = vocab // 2
    for row, target in zip(inputs, targets):
        keys, values, asked = row[: 2 * pairs : 2], row[1 : 2 * pairs : 2], row[2 * pairs :]
        known = dict(zip(keys.tolist(), values.tolist()))
        assert len(known) == pairs and len({*asked.tolist()}) == queries
        assert [known[key] for key in asked.tolist()] == target.tolist()
        assert 0 <= keys.min() and keys.max() < half <= values.min() and values.max() < vocab


def test_associative_recall_draws_keys_and_queries_evenly():
    inputs, _ = data.associative_recall(20_000, 3, 8, 2, seed=2)
    for column in (0, 2, 4, 6, 7):
        np.testing.assert_allclose(np.bincount(inputs[:, column]) / 20_000, np.full(4, 0.25),
                                   rtol=0, atol=0.014)
    place = (inputs[:, :6:2] == inputs[:, 6:7]).argmax(axis=1)
    np.testing.assert_allclose(np.bincount(place) / 20_000, np.full(3, 1 / 3), rtol=0, atol=0.015)


@pytest.mark.parametrize(
    ("make", "numbers"),
    [
        (lambda: data.selective_copying(64, 4096, 16, 16), 64 * 4096),
        (lambda: data.induction_heads(8, 2**18, 16), 8 * 2**18),
        (lambda: data.associative_recall(64, 256, 8192, 64), 64 * 4096),  # each row orders all keys
    ],
)
def test_long_tasks_take_memory_in_proportion(make, numbers):
    (inputs, targets), peak = with_peak_memory(make)
    assert inputs.shape[0] == targets.shape[0] and inputs.dtype == targets.dtype == np.int64
    assert peak < 6 * 8 * numbers


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (data.selective_copying, {"batch": 0}, "batch is 0"),
        (data.selective_copying, {"batch": 1, "length": 9, "tokens": 10}, "length is 9.*at least 10"),
        (data.selective_copying, {"batch": 1, "vocab": 2}, "vocab is 2"),
        (data.induction_heads, {"batch": 1, "length": 2}, "length is 2"),
        (data.induction_heads, {"batch": 1, "vocab": 1}, "vocab is 1"),
        (data.associative_recall, {"batch": 1, "pairs": 9, "vocab": 17}, "pairs is 9.*of vocab, 8"),
        (data.associative_recall, {"batch": 1, "pairs": 3, "queries": 4}, "queries is 4.*pairs, 3"),
        (data.associative_recall, {"batch": 1, "queries": 0}, "queries is 0"),
    ],
)
def test_tasks_refuse_what_cannot_be(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


# ---------------------------------------------------------------------------- the digits


def test_digits_look_like_digits():
    images, labels = data.handwritten_digits()
    assert images.shape == (1797, 8, 8) and images.dtype == np.uint8 and images.max() == 16
    assert labels.shape == (1797,) and set(labels) == set(range(10))
    assert np.bincount(labels).min() > 170
    means = np.stack([images[:1500][labels[:1500] == digit].mean(0) for digit in range(10)])
    nearest = np.square(images[1500:, None] - means).sum((2, 3)).argmin(1)
    assert (nearest == labels[1500:]).mean() > 0.8  # images and labels belong together


def test_damaged_digits_load_nothing(monkeypatch, tmp_path):
    text = importlib.resources.files("ssm_book.data").joinpath(files._DIGITS_FILE).read_text("utf-8")
    (tmp_path / "datasets").mkdir()
    (tmp_path / files._DIGITS_FILE).write_text(text.replace("16", "15", 1), encoding="utf-8")
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match="handwritten_digits"):
        data.handwritten_digits()


# ---------------------------------------------------------------------------- the novel


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
    (whole, alphabet), (train, a), (test, b) = (data.novel(part) for part in ("all", "train", "test"))
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


# ---------------------------------------------------------------------------- the module


def test_examples_in_the_docstrings_run():
    modules = files, measured, signals, tasks
    results = [doctest.testmod(module, globs={}) for module in modules]
    assert sum(r.attempted for r in results) >= 30 and not any(r.failed for r in results)


def test_importing_data_loads_neither_torch_nor_pandas_nor_matplotlib():
    code = (
        "import sys, ssm_book.data; "
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"
