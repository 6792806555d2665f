"""Synthetic signals: prices that move by chance, curves of sines and bumps, noise of any spectrum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ssm_core._checks import as_generator, as_int, as_positive, as_real

__all__ = ["band_limited_noise", "random_walk_prices", "rough_signal", "smooth_signal"]

TRADING_DAYS_PER_YEAR = 252


def random_walk_prices(
    L: int, seed: int | np.random.Generator = 0, *, volatility: float = 0.2, start: float = 100.0
) -> npt.NDArray[np.float64]:
    r"""Synthetic daily prices whose logarithm is a random walk.

    .. math:: p_{k+1} = p_k \, e^{\sigma \xi_k}, \qquad
              \sigma = \frac{\text{volatility}}{\sqrt{252}}, \quad \xi_k \sim \mathcal N(0, 1)

    Nothing about the next step follows from the past, and the median price stays at ``start``.

    Args:
        L (int): samples, one a trading day, at least 1.
        seed (int or numpy.random.Generator): same seed, same prices.
        volatility (float): standard deviation of the logarithm of the price after one year of 252
            trading days, above 0. That of :func:`oil_prices` is 0.40.
        start (float): the first price, above 0.

    Returns:
        prices (float64): in the units of ``start``, all positive (L,).

    Raises:
        ValueError: ``L`` below 1, ``volatility`` or ``start`` not finite or not above 0, or so large
            or small that a price leaves the range of float64.
        TypeError: an argument of the wrong kind.

    Source: Samuelson, "Rational Theory of Warrant Pricing" (1965), for the geometric random walk.

    Example:
        >>> import numpy as np
        >>> from ssm_book.data import random_walk_prices
        >>> prices = random_walk_prices(10_000, seed=1)
        >>> yearly = np.diff(np.log(prices)).std() * 252**0.5
        >>> print(prices[0], yearly.round(2))
        100.0 0.2
    """
    L = as_int(L, "L")
    rng = as_generator(seed, "seed")
    volatility = as_positive(volatility, "volatility")
    start = as_positive(start, "start")
    sigma = volatility / np.sqrt(TRADING_DAYS_PER_YEAR)
    log_price = np.zeros(L)  # (L,), relative to start
    log_price[1:] = np.cumsum(sigma * rng.standard_normal(L - 1))
    with np.errstate(over="ignore", under="ignore"):
        prices = start * np.exp(log_price)  # (L,)
    if not (np.isfinite(prices) & (prices > 0)).all():
        raise ValueError(
            f"volatility is {volatility:g} and start is {start:g}, expected values for which all "
            f"{L} prices stay within the range of float64"
        )
    return prices


def smooth_signal(L: int, seed: int | np.random.Generator = 0) -> npt.NDArray[np.float64]:
    r"""Synthetic smooth signal: four sines and three bumps, drawn by the seed.

    A function of time on [0, 1), sampled at t = k / L. The seed alone chooses the function: twice
    the samples show the same curve twice as finely. The sines have 1 to 8 periods, the bumps (Gauss
    curves) a standard deviation of 0.02 to 0.06. Infinitely differentiable, so that few polynomial
    coefficients describe it: 64 leave an error below one percent.

    Args:
        L (int): samples, at least 1.
        seed (int or numpy.random.Generator): same seed, same curve.

    Returns:
        signal (float64): without units, within [-1, 1] (L,).

    Raises:
        ValueError: ``L`` below 1.
        TypeError: an argument of the wrong kind.

    Source: made for this book.

    Example:
        >>> import numpy as np
        >>> from ssm_book.data import smooth_signal
        >>> coarse, fine = smooth_signal(100, seed=3), smooth_signal(10_000, seed=3)
        >>> print(np.array_equal(coarse, fine[::100]))
        True
    """
    L = as_int(L, "L")
    rng = as_generator(seed, "seed")
    sines, bumps = 4, 3
    weight = rng.uniform(0.5, 1.5, sines + bumps)
    weight /= weight.sum()  # so that no sum of them leaves [-1, 1]
    periods = rng.uniform(1, 8, sines)
    phase = rng.uniform(0, 2 * np.pi, sines)
    centre = rng.uniform(0.1, 0.9, bumps)
    width = rng.uniform(0.02, 0.06, bumps)
    sign = rng.choice([-1.0, 1.0], bumps)

    t = np.arange(L) / L  # (L,)
    signal = np.zeros(L)
    for i in range(sines):
        signal += weight[i] * np.sin(2 * np.pi * periods[i] * t + phase[i])
    for i in range(bumps):
        signal += weight[sines + i] * sign[i] * np.exp(-0.5 * ((t - centre[i]) / width[i]) ** 2)
    return signal


def rough_signal(
    L: int, exponent: float, seed: int | np.random.Generator = 0
) -> npt.NDArray[np.float64]:
    r"""Synthetic noise whose power falls with frequency as a power law: one number sets roughness.

    .. math:: |X(f)|^2 \propto f^{-\beta}

    ========  =======================================================
    exponent  looks like
    ========  =======================================================
    0         white noise, no sample knows its neighbour
    1         1/f noise
    2         a random walk, as rough as a price
    4         the integral of a random walk, smooth to the eye
    6         smoother still: two derivatives that are continuous
    ========  =======================================================

    The best approximation by a polynomial with N coefficients leaves a root mean square error that
    falls as :math:`N^{-(\beta - 1)/2}` for :math:`\beta > 1`: slowly for a rough signal, fast for a
    smooth one.

    White noise is multiplied by :math:`f^{-\beta/2}` in the frequency domain. The same seed takes
    the same white noise for every exponent, so that the signals of a family share their ups and
    downs. The signal is periodic: its end joins its beginning.

    Args:
        L (int): samples, at least 2.
        exponent (float): beta, from 0 (roughest) to 6 (smoothest).
        seed (int or numpy.random.Generator): same seed, same signal.

    Returns:
        signal (float64): without units, mean 0, variance 1 over the L samples (L,).

    Raises:
        ValueError: ``L`` below 2, ``exponent`` not from 0 to 6.
        TypeError: an argument of the wrong kind.

    Source: Timmer and König, "On generating power law noise" (1995).

    Example:
        >>> import numpy as np
        >>> from ssm_book.data import rough_signal
        >>> for exponent in (0, 2, 4):  # how far does a sample lie from the one before?
        ...     print(exponent, np.diff(rough_signal(10_000, exponent)).std().round(2))
        0 1.41
        2 0.03
        4 0.0
    """
    L = as_int(L, "L", low=2)
    exponent = as_real(exponent, "exponent", low=0, high=6)
    k = np.arange(L // 2 + 1, dtype=np.float64)  # (L // 2 + 1,), periods in the whole signal
    k[0] = 1.0  # _filtered_noise drops the mean
    return _filtered_noise(L, k ** (-exponent / 2), seed)


def band_limited_noise(
    L: int, cutoff: float, dt: float = 1.0, seed: int | np.random.Generator = 0
) -> npt.NDArray[np.float64]:
    r"""Synthetic white noise with every frequency above a cutoff removed.

    Between its samples the signal is known as well: it is a sum of sines with frequencies up to
    ``cutoff``. A memory that follows those follows all of it. The signal is periodic: its end joins
    its beginning. Computed by FFT in O(L log L), a million samples in about a tenth of a second.

    Args:
        L (int): samples, at least 2.
        cutoff (float): highest frequency, in periods per unit of time (hertz if ``dt`` is in
            seconds), from 1 / (L dt), one period in the whole signal, to 1 / (2 dt), half the
            sampling rate.
        dt (float): time between samples, above 0.
        seed (int or numpy.random.Generator): same seed, same white noise before the filter.

    Returns:
        signal (float64): without units, mean 0, variance 1 over the L samples (L,).

    Raises:
        ValueError: ``L`` below 2, ``dt`` not above 0, ``cutoff`` outside its range.
        TypeError: an argument of the wrong kind.

    Source: Oppenheim and Schafer, *Discrete-Time Signal Processing* (3rd ed.), section 4.2, for the
    range of the cutoff; the use as a test of memory follows Gu, Dao, Ermon, Rudra and Ré, "HiPPO:
    Recurrent Memory with Optimal Polynomial Projections" (2020).

    Example:
        >>> import numpy as np
        >>> from ssm_book.data import band_limited_noise
        >>> x = band_limited_noise(1000, cutoff=5.0, dt=0.01, seed=0)  # 10 seconds
        >>> power = abs(np.fft.rfft(x)) ** 2
        >>> print(bool(power[51:].sum() < 1e-20 * power.sum()))  # beyond 50 periods
        True
    """
    L = as_int(L, "L", low=2)
    cutoff = as_positive(cutoff, "cutoff")
    dt = as_positive(dt, "dt")
    periods = cutoff * dt * L * (1 + 1e-12)  # so that rounding drops no frequency at the cutoff
    if not 1 <= periods <= (L / 2) * (1 + 1e-11):
        raise ValueError(
            f"cutoff is {cutoff:g}, expected a frequency from 1 / (L dt) = {1 / (L * dt):g} "
            f"to 1 / (2 dt) = {1 / (2 * dt):g}"
        )
    k = np.arange(L // 2 + 1)  # (L // 2 + 1,), periods in the whole signal
    return _filtered_noise(L, (k <= periods).astype(np.float64), seed)


def _filtered_noise(L, gain, seed):
    """White noise times ``gain`` (L // 2 + 1,) at each frequency, mean 0 and variance 1: (L,)."""
    white = as_generator(seed, "seed").standard_normal(L)  # (L,)
    spectrum = gain * np.fft.rfft(white)  # (L // 2 + 1,)
    spectrum[0] = 0.0
    signal = np.fft.irfft(spectrum, n=L)  # (L,)
    return signal / np.sqrt(np.mean(signal**2))
