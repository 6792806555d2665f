"""Real data that ship with the package, in ``datasets/``: oil prices, handwritten digits, a novel."""

from __future__ import annotations

import importlib.resources
import zlib

import numpy as np
import numpy.typing as npt

from ssm_core._checks import as_choice

__all__ = ["handwritten_digits", "novel", "oil_prices"]

# CRC-32 of the lines joined by "\n", so that line endings do not matter.
_OIL_FILE, _OIL_CRC32 = "datasets/wti_spot_daily.csv", 1669311797
_DIGITS_FILE, _DIGITS_CRC32 = "datasets/handwritten_digits.csv", 89933393
_NOVEL_FILE, _NOVEL_CRC32 = "datasets/pride_and_prejudice.txt", 3047817808


def oil_prices() -> tuple[npt.NDArray[np.datetime64], npt.NDArray[np.float64]]:
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
        >>> from ssm_book.data import oil_prices
        >>> dates, prices = oil_prices()
        >>> peak = prices.argmax()
        >>> print(dates[peak], prices[peak])
        2008-07-03 145.31
    """
    lines = _shipped_text(_OIL_FILE, _OIL_CRC32).splitlines()
    dates, prices = zip(*(line.split(",") for line in lines[1:]))
    return np.array(dates, dtype="datetime64[D]"), np.array(prices, dtype=np.float64)


def handwritten_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
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
        >>> from ssm_book.data import handwritten_digits
        >>> images, labels = handwritten_digits()
        >>> print(labels[0], images[0].max())
        0 15
    """
    lines = _shipped_text(_DIGITS_FILE, _DIGITS_CRC32).splitlines()
    numbers = np.array([line.split(",") for line in lines], dtype=np.int64)  # (1797, 65)
    return numbers[:, :-1].reshape(-1, 8, 8).astype(np.uint8), numbers[:, -1]


def novel(part: str = "all") -> tuple[npt.NDArray[np.int64], str]:
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
        >>> from ssm_book.data import novel
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
    text = importlib.resources.files("ssm_book.data").joinpath(name).read_text(encoding="utf-8")
    text = "\n".join(text.splitlines())
    if zlib.crc32(text.encode()) != checksum:
        raise ValueError(
            f"{name} has {len(text)} characters and not the checksum of the file that ships with "
            "ssm_book, expected that file: install the package again"
        )
    return text
