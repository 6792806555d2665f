"""Synthetic signals against the definition of each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.polynomial import legendre

from ssm_book import data

SYNTHETIC = {
    "random_walk_prices": lambda L, seed: data.random_walk_prices(L, seed),
    "smooth_signal": lambda L, seed: data.smooth_signal(L, seed),
    "rough_signal": lambda L, seed: data.rough_signal(L, 2.0, seed),
    "band_limited_noise": lambda L, seed: data.band_limited_noise(L, 0.1, 1.0, seed),
}


def legendre_error(signal, N):
    """RMS error of the least squares fit by N Legendre polynomials."""
    basis, _ = np.linalg.qr(legendre.legvander(np.linspace(-1, 1, len(signal)), N - 1))
    return np.sqrt(np.mean((signal - basis @ (basis.T @ signal)) ** 2))


# all of them


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


# random walk


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


# smooth signal


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


# rough signal


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
    np.testing.assert_allclose(
        data.rough_signal(L, 0, seed), white / white.std(), rtol=0, atol=1e-12
    )
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


# band-limited noise


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


def test_band_limited_noise_of_a_million_samples_takes_memory_in_proportion(with_peak_memory):
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
