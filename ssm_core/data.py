r"""Signals to remember, compress and filter, tasks that take a memory to solve, digits, a novel.

Beside them :func:`measurements`, the times and sizes that the chapters show.

=========================== ====================================================================
:func:`oil_prices`          real: daily spot price of crude oil, 1986 to 2019
:func:`random_walk_prices`  synthetic: a price that moves by chance alone
:func:`smooth_signal`       synthetic: a few sines and bumps that a handful of numbers describe
:func:`rough_signal`        synthetic: noise of any roughness, from white to smooth
:func:`band_limited_noise`  synthetic: noise without any frequency above a cutoff
:func:`selective_copying`   task: repeat the tokens that are scattered among blanks
:func:`induction_heads`     task: say what followed the trigger the last time
:func:`associative_recall`  task: say which value came with a key
:func:`handwritten_digits`  real: small images of digits that 13 people wrote
:func:`novel`               real: the characters of a novel, 1813
=========================== ====================================================================

A task gives ``inputs`` (batch, L) and ``targets`` (batch, K), tokens as whole numbers: a model reads
the inputs, and what it says at the last K positions is compared with the targets.

Nothing is downloaded. Every synthetic signal and task takes a ``seed``: the same seed gives the same
numbers, up to the last bits of the elementary functions of a platform, for as long as NumPy keeps
the stream of its default generator. A ``numpy.random.Generator`` is accepted in its place.
"""

from __future__ import annotations

import importlib.resources
import json
import pathlib
import zlib

import numpy as np

from ssm_core._checks import as_choice, as_generator, as_int, as_positive, as_real

__all__ = [
    "associative_recall",
    "band_limited_noise",
    "handwritten_digits",
    "induction_heads",
    "measurements",
    "novel",
    "oil_prices",
    "random_walk_prices",
    "rough_signal",
    "selective_copying",
    "smooth_signal",
]

TRADING_DAYS_PER_YEAR = 252

_OIL_FILE = "datasets/wti_spot_daily.csv"
_OIL_CRC32 = 1669311797  # of the lines joined by "\n", so that line endings do not matter
_DIGITS_FILE = "datasets/handwritten_digits.csv"
_DIGITS_CRC32 = 89933393
_NOVEL_FILE = "datasets/pride_and_prejudice.txt"
_NOVEL_CRC32 = 3047817808  # again


def oil_prices():
    """Daily spot price of a barrel of West Texas Intermediate crude oil, 1986 to 2019.

    Real data: 8,321 trading days. Days without a price (weekends, holidays) are left out and
    nothing is filled in, so neighbouring samples are one to five calendar days apart. Prices are
    dollars of the day, not corrected for inflation.

    Returns:
        dates (datetime64[D]): strictly increasing (L,).
        prices (float64): US dollars per barrel (L,).

    Raises:
        ValueError: the file that ships with the package is damaged.

    Source: U.S. Energy Information Administration, "Crude Oil Prices: West Texas Intermediate (WTI)
    - Cushing, Oklahoma", series DCOILWTICO of FRED, Federal Reserve Bank of St. Louis. Public
    domain, as a work of the United States government.

    Example:
        >>> dates, prices = oil_prices()
        >>> peak = prices.argmax()
        >>> print(dates[peak], prices[peak])
        2008-07-03 145.31
    """
    lines = _shipped_text(_OIL_FILE, _OIL_CRC32).splitlines()
    dates, prices = zip(*(line.split(",") for line in lines[1:]))
    return np.array(dates, dtype="datetime64[D]"), np.array(prices, dtype=np.float64)


def measurements(name):
    """Stored measurements of the benchmark suite: times, sizes, and the machine they came from.

    A chapter cannot time a graphics card that its reader does not have, and a time taken while the
    book is built says little. So the chapters show what ``python -m benchmarks`` has written once.

    Args:
        name (str): benchmark and device, such as ``"hippo-cpu"``.

    Returns:
        dict: ``machine`` (processor, date), ``software`` (versions), and what was measured.

    Raises:
        ValueError: there are no measurements of that name; the message lists those there are.
        TypeError: the name is no text.

    Example:
        >>> measurements("hippo-cpu")["setup"]["N"]
        256
    """
    package = importlib.resources.files("ssm_core")
    folder = package.joinpath("measurements")  # in an installed package
    if not folder.is_dir():  # in the repository, beside the package
        folder = pathlib.Path(str(package)).parent / "benchmarks" / "results"
    files = {file.name: file for file in folder.iterdir()} if folder.is_dir() else {}
    names = sorted(file.removesuffix(".json") for file in files if file.endswith(".json"))
    name = as_choice(name, "name", names or ["(no measurements are installed)"])
    return json.loads(files[f"{name}.json"].read_text(encoding="utf-8"))


def random_walk_prices(L, seed=0, *, volatility=0.2, start=100.0):
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


def smooth_signal(L, seed=0):
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


def rough_signal(L, exponent, seed=0):
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


def band_limited_noise(L, cutoff, dt=1.0, seed=0):
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


def selective_copying(batch, length=4096, tokens=16, vocab=16, seed=0, *, scattered=True):
    r"""Task: repeat the tokens that stood among blanks, in their order.

    ``tokens`` positions out of ``length`` hold a token drawn from 1 to vocab − 2, all others the
    blank 0. Then the marker vocab − 1 asks once for each token::

        0 0 5 0 3 0 0 0 1 0 7 7 7  ->  5 3 1      (length 10, tokens 3, vocab 8)

    Where the tokens stand is drawn anew for each sequence, so that a filter that is the same at all
    times cannot know which inputs to keep. With ``scattered=False`` they stand at the start, and
    a fixed delay solves the task.

    Args:
        batch (int): sequences, at least 1.
        length (int): positions before the markers, at least ``tokens``.
        tokens (int): tokens to remember, at least 1.
        vocab (int): numbers in use: blank, marker, and at least one token, so 3 or more.
        seed (int or numpy.random.Generator): same seed, same sequences.
        scattered (bool): tokens at random positions, or at the start.

    Returns:
        inputs (int64): (batch, length + tokens).
        targets (int64): the tokens in their order (batch, tokens).

    Raises:
        ValueError: a number below its bound, more tokens than positions.
        TypeError: an argument of the wrong kind.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    section 4.1.1, with the defaults of its experiment; after Jing et al., "Gated Orthogonal
    Recurrent Units: On Learning to Forget" (2019).

    Example:
        >>> inputs, targets = selective_copying(1, length=10, tokens=3, vocab=8, seed=0)
        >>> print(*inputs[0], "->", *targets[0])
        6 4 0 0 0 0 0 0 0 4 7 7 7 -> 6 4 4
    """
    batch, tokens = as_int(batch, "batch"), as_int(tokens, "tokens")
    length = as_int(length, "length", low=tokens)
    vocab = as_int(vocab, "vocab", low=3)
    rng = as_generator(seed, "seed")
    targets = rng.integers(1, vocab - 1, (batch, tokens))  # (batch, tokens)
    positions = np.arange(tokens)[None]  # (1, tokens)
    if scattered:
        positions = np.sort(_distinct(rng, batch, length, tokens), axis=1)  # (batch, tokens)
    inputs = np.zeros((batch, length + tokens), dtype=np.int64)  # (batch, length + tokens)
    np.put_along_axis(inputs, np.broadcast_to(positions, targets.shape), targets, axis=1)
    inputs[:, length:] = vocab - 1
    return inputs, targets


def induction_heads(batch, length=256, vocab=16, seed=0):
    r"""Task: say what followed the trigger when it came before.

    Random tokens from 0 to vocab − 2; the trigger vocab − 1 stands once among them, at a random
    place, and again at the end::

        4 1 7 3 6 2 0 5 3 7  ->  3                (length 10, vocab 8)

    Args:
        batch (int): sequences, at least 1.
        length (int): length of a sequence, both triggers included, at least 3.
        vocab (int): numbers in use, at least 2.
        seed (int or numpy.random.Generator): same seed, same sequences.

    Returns:
        inputs (int64): (batch, length).
        targets (int64): the token after the first trigger (batch, 1).

    Raises:
        ValueError: a number below its bound.
        TypeError: an argument of the wrong kind.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023),
    section 4.1.2, with the defaults of its training; after Olsson et al., "In-context Learning and
    Induction Heads" (2022).

    Example:
        >>> inputs, targets = induction_heads(1, length=10, vocab=8, seed=0)
        >>> print(*inputs[0], "->", *targets[0])
        5 4 3 1 2 7 0 0 1 7 -> 0
    """
    batch, length = as_int(batch, "batch"), as_int(length, "length", low=3)
    vocab = as_int(vocab, "vocab", low=2)
    rng = as_generator(seed, "seed")
    inputs = rng.integers(0, vocab - 1, (batch, length))  # (batch, length)
    place = rng.integers(0, length - 2, (batch, 1))  # (batch, 1), of the first trigger
    np.put_along_axis(inputs, place, vocab - 1, axis=1)
    inputs[:, -1] = vocab - 1
    return inputs, np.take_along_axis(inputs, place + 1, axis=1)


def associative_recall(batch, pairs=8, vocab=32, queries=1, seed=0):
    r"""Task: say which value came with a key.

    Pairs of a key and a value, each key once, then some of the keys again. Keys are the lower half
    of the vocabulary, values the upper half::

        2 7 0 4 3 7 3 2  ->  7 7                  (pairs 3, queries 2, vocab 8)

    Args:
        batch (int): sequences, at least 1.
        pairs (int): pairs to remember, from 1 to vocab / 2, as no key comes twice.
        vocab (int): numbers in use, keys and values, at least 2.
        queries (int): keys asked for, different ones, from 1 to ``pairs``.
        seed (int or numpy.random.Generator): same seed, same sequences.

    Returns:
        inputs (int64): (batch, 2 · pairs + queries).
        targets (int64): the value of each key asked for (batch, queries).

    Raises:
        ValueError: a number outside its bounds.
        TypeError: an argument of the wrong kind.

    Source: Ba et al., "Using Fast Weights to Attend to the Recent Past" (2016), section 4.1; with
    several queries Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language
    Models" (2023).

    Example:
        >>> inputs, targets = associative_recall(1, pairs=3, vocab=8, queries=2, seed=0)
        >>> print(*inputs[0], "->", *targets[0])
        3 4 2 7 1 6 1 3 -> 6 4
    """
    batch, vocab = as_int(batch, "batch"), as_int(vocab, "vocab", low=2)
    pairs, queries = as_int(pairs, "pairs"), as_int(queries, "queries")
    keys_there_are = vocab // 2
    if pairs > keys_there_are:
        raise ValueError(f"pairs is {pairs}, expected at most half of vocab, {keys_there_are}")
    if queries > pairs:
        raise ValueError(f"queries is {queries}, expected at most pairs, {pairs}")
    rng = as_generator(seed, "seed")
    keys = _distinct(rng, batch, keys_there_are, pairs)  # (batch, pairs)
    values = rng.integers(keys_there_are, vocab, (batch, pairs))  # (batch, pairs)
    asked = _distinct(rng, batch, pairs, queries)  # (batch, queries)
    told = np.stack([keys, values], axis=-1).reshape(batch, 2 * pairs)  # (batch, 2 · pairs)
    inputs = np.concatenate([told, np.take_along_axis(keys, asked, axis=1)], axis=1)
    return inputs, np.take_along_axis(values, asked, axis=1)


def handwritten_digits():
    """Images of 8 by 8 pixels, each a digit from 0 to 9.

    Real data: 1,797 digits that 13 people wrote on forms, scanned, centred and made small. A pixel
    counts the black ones of 16 in the scan.

    Returns:
        images (uint8): grey levels from 0 (paper) to 16 (ink), (1797, 8, 8).
        labels (int64): which digit it is, (1797,).

    Raises:
        ValueError: the file that ships with the package is damaged.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (1998), UCI
    Machine Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0.

    Example:
        >>> images, labels = handwritten_digits()
        >>> print(labels[0], images[0].max())
        0 15
    """
    lines = _shipped_text(_DIGITS_FILE, _DIGITS_CRC32).splitlines()
    numbers = np.array([line.split(",") for line in lines], dtype=np.int64)  # (1797, 65)
    return numbers[:, :-1].reshape(-1, 8, 8).astype(np.uint8), numbers[:, -1]


def novel(part="all"):
    r"""The characters of *Pride and Prejudice* as numbers, for a language model of letters.

    Real text: 684,767 characters, 75 different ones. Lines end with a line feed after some 70
    characters, as in the file.

    Args:
        part (str): "all"; "train", the first nine tenths; "test", the last tenth.

    Returns:
        characters (int64): places in the alphabet (L,).
        alphabet (str): every character that occurs in the novel, once, sorted.

    Raises:
        ValueError: another part, or the file that ships with the package is damaged.

    Source: Jane Austen, *Pride and Prejudice* (1813). Public domain: the author died in 1817.

    Example:
        >>> characters, alphabet = novel()
        >>> print("".join(alphabet[i] for i in characters[51:122]))
        It is a truth universally acknowledged, that a single man in possession
    """
    part = as_choice(part, "part", ("all", "train", "test"))
    text = _shipped_text(_NOVEL_FILE, _NOVEL_CRC32)
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8)  # (L,)
    used, characters = np.unique(codes, return_inverse=True)
    cut = len(characters) * 9 // 10
    piece = {"all": slice(None), "train": slice(cut), "test": slice(cut, None)}[part]
    return characters[piece].astype(np.int64), bytes(used).decode("ascii")


def _shipped_text(name, checksum):
    """A text that ships with the package, with line endings ``\n``, if it is undamaged."""
    text = importlib.resources.files("ssm_core").joinpath(name).read_text(encoding="utf-8")
    text = "\n".join(text.splitlines())
    if zlib.crc32(text.encode()) != checksum:
        raise ValueError(
            f"{name} has {len(text)} characters and not the checksum of the file that ships with "
            "ssm_core, expected that file: install the package again"
        )
    return text


def _distinct(rng, rows, size, count):
    """Draw ``count`` different numbers below ``size`` in random order for each row: (rows, count)."""
    order = rng.random((rows, size))  # (rows, size)
    drawn = np.argpartition(order, count - 1, axis=1)[:, :count]  # (rows, count), a random set
    rank = np.argsort(np.take_along_axis(order, drawn, axis=1), axis=1)
    return np.take_along_axis(drawn, rank, axis=1)


def _filtered_noise(L, gain, seed):
    """White noise times ``gain`` (L // 2 + 1,) at each frequency, mean 0 and variance 1: (L,)."""
    white = as_generator(seed, "seed").standard_normal(L)  # (L,)
    spectrum = gain * np.fft.rfft(white)  # (L // 2 + 1,)
    spectrum[0] = 0.0
    signal = np.fft.irfft(spectrum, n=L)  # (L,)
    return signal / np.sqrt(np.mean(signal**2))
