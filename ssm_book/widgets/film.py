"""A film of a memory at work: signal, reconstruction and coefficients while the samples come in."""

from __future__ import annotations

import html
import json
import string
import zlib

import numpy as np
import numpy.typing as npt

from ssm_book.widgets._files import read_text
from ssm_core._checks import as_array
from ssm_core.hippo import reconstruct

__all__ = ["MemoryFilm"]


class MemoryFilm:
    """A LegS memory at work: signal, reconstruction and coefficients while the samples come in.

    A notebook shows it as a small player (a button and a slider, both for the keyboard as well)
    that needs no network and takes its colours from the page. It stands still until somebody
    starts it, and without scripts it shows its last frame.

    Args:
        u (float64):             the signal, (L,)
        coefficients (float64):  (F, N), one row a frame, from ``project(u, "legs", N, dt,
                                 every=L // F)``
        unit (str):              of the signal, for the reading of the error (default none)

    Raises:
        ValueError: wrong shapes, non-finite numbers, more frames than samples

    Example:
        >>> import numpy as np
        >>> from ssm_book.widgets import MemoryFilm
        >>> from ssm_core.hippo import project
        >>> u = np.sin(np.arange(1000) / 100)
        >>> MemoryFilm(u, project(u, "legs", 8, 1.0, every=100))
        MemoryFilm(samples=1000, frames=10, coefficients=8)
    """

    _MOMENTS = (1 - np.cos(np.linspace(0, np.pi, 241))) / 2  # dense where polynomials are quick

    def __init__(self, u: npt.ArrayLike, coefficients: npt.ArrayLike, unit: str = "") -> None:
        u = as_array(u, "u", ("L",), real=True)
        coefficients = as_array(coefficients, "coefficients", ("F", "N"), real=True)
        frames, self._N = coefficients.shape
        if frames > len(u):
            raise ValueError(
                f"coefficients has {frames} rows, expected at most {len(u)}: one a "
                "frame, a frame every L // F samples"
            )
        self._L = len(u)
        steps = len(u) // frames * np.arange(1, frames + 1)
        low, high = u.min(), u.max()
        height = 800 / (high - low or 1.0)  # of 1000, so that overshoots have room

        def pixels(values):  # downwards, as screens count
            return np.round(900 - height * (values - low)).astype(int).tolist()

        where = _extremes(u)
        size = np.sqrt(np.abs(coefficients))
        size *= np.sign(coefficients) * 480 / (size.max() or 1.0)
        self._data = {
            "x": np.round(10_000 * (where + 1) / len(u)).astype(int).tolist(),
            "signal": pixels(u[where]),
            "now": np.round(10_000 * steps / len(u)).astype(int).tolist(),
            "moments": np.round(10_000 * self._MOMENTS).astype(int).tolist(),
            "past": pixels(reconstruct(coefficients, "legs", self._MOMENTS)),
            "state": np.round(size).astype(int).tolist(),
            "words": [
                f"After {k:,} of {len(u):,} samples: typical error "
                f"{_typical_error(c, u[:k]):.2g} {unit}".rstrip()
                for k, c in zip(steps.tolist(), coefficients)
            ],
        }

    def __repr__(self) -> str:
        return (
            f"MemoryFilm(samples={self._L}, frames={len(self._data['now'])}, "
            f"coefficients={self._N})"
        )

    def _repr_html_(self) -> str:
        film = self._data
        data = json.dumps(film, separators=(",", ":")).replace("</", "<\\/")
        now, moments = film["now"][-1], np.array(film["moments"])
        seen = [point for point in zip(film["x"], film["signal"]) if point[0] <= now]
        past = zip(np.round(moments * now / 10_000).astype(int).tolist(), film["past"][-1])
        words = film["words"][-1]
        return string.Template(read_text("film.html")).substitute(
            id=f"ssm-film-{zlib.crc32(data.encode()):08x}",
            N=self._N,
            end=len(film["now"]) - 1,
            label=f"Film: {self._N} numbers remember a signal of {self._L:,} samples",
            picture="The signal, and the curve that the numbers give back for its past",
            ahead=_line(zip(film["x"], film["signal"])),
            seen=_line(seen),
            past=_line(past),
            now=f"M{now} 0V1000",
            state="".join(
                f"M{n + 0.1} 500V{500 - h}h0.8V500z" for n, h in enumerate(film["state"][-1])
            ),
            words=html.escape(words),
            data=data,
        )


def _extremes(u, bins=600):
    """Where the lowest and the highest sample of each of ``bins`` pieces stand, in order."""
    edges = np.unique(np.linspace(0, len(u), bins + 1).astype(int))
    piece = [(a + u[a:b].argmin(), a + u[a:b].argmax()) for a, b in zip(edges, edges[1:])]
    return np.unique(np.r_[0, np.ravel(piece), len(u) - 1])


def _typical_error(coefficients, u):
    """Root mean square of what the coefficients of ``u`` leave unexplained, on 500 samples."""
    k = np.unique(np.linspace(0, len(u) - 1, 500).round().astype(int))
    return np.sqrt(np.mean((reconstruct(coefficients, "legs", (k + 0.5) / len(u)) - u[k]) ** 2))


def _line(points):
    return "M" + "L".join(f"{x} {y}" for x, y in points)
