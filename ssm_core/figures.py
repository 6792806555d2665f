"""One look for every figure of the book, a film of a memory at work, and figures to play with."""

import html
import importlib.resources
import json
import string
import zlib

import matplotlib as mpl
import numpy as np
from cycler import cycler

from ssm_core._checks import as_array
from ssm_core.hippo import reconstruct
from ssm_core.widgets import widget

__all__ = ["MemoryFilm", "glue", "heatmap", "use_style", "widget"]

# The hues of Okabe and Ito, which stay apart under every kind of colour blindness, so dark that words
# in these colours can be read, in light and in dark. SKY is for lines and areas only. The book's dark
# mode inverts lightness and keeps the hue, so that "the blue line" stays blue.
BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY = (
    "#0060AA",
    "#C44A00",
    "#1E8450",
    "#A83E80",
    "#2A8FC8",
    "#664400",
    "#5A5A5A",
)

_STYLE = {
    "figure.figsize": (7.2, 3.2),
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.bbox": "standard",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY]),
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "image.cmap": "RdBu_r",
    "animation.html": "jshtml",
}


def use_style():
    """Give every later figure the look of the book: colours, sizes, grid, white background.

    Example:
        >>> use_style()
        >>> mpl.rcParams["axes.spines.top"]
        False
    """
    mpl.rcParams.update(_STYLE)


def glue(name, value, display=True):
    """Name a value, so that the text of the book can show it: what ``myst_nb.glue`` does.

    Away from the book, as in Colab, ``myst_nb`` is not there and the text has its numbers already;
    then nothing happens.

    Args:
        name (str):      what the text calls it
        value:           a number, a string, a figure
        display (bool):  show the value below the cell, too

    Example:
        >>> glue("slope", 1.5, display=False)
    """
    try:
        from myst_nb import glue as to_book
    except ImportError:
        return
    to_book(name, value, display)


def heatmap(axes, matrix, limit=None, label=None):
    """Draw a matrix around zero: blue below, red above, white where it is zero.

    Args:
        axes (matplotlib.axes.Axes):  where to draw
        matrix (float64):             (rows, columns)
        limit (float):                the value of full colour, > 0 (default: the
                                      largest modulus of an entry)
        label (str):                  text beside the colour bar

    Returns:
        matplotlib.image.AxesImage

    Example:
        >>> import matplotlib.pyplot as plt
        >>> image = heatmap(plt.figure().subplots(), [[0.0, 1.0], [-2.0, 0.0]])
        >>> image.get_clim()
        (-2.0, 2.0)
    """
    limit = limit or float(np.abs(matrix).max())
    image = axes.imshow(matrix, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.grid(False)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    return image


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
        >>> from ssm_core.hippo import project
        >>> u = np.sin(np.arange(1000) / 100)
        >>> MemoryFilm(u, project(u, "legs", 8, 1.0, every=100))
        MemoryFilm(samples=1000, frames=10, coefficients=8)
    """

    _MOMENTS = (1 - np.cos(np.linspace(0, np.pi, 241))) / 2  # dense where polynomials are quick

    def __init__(self, u, coefficients, unit=""):
        u = as_array(u, "u", ("L",), real=True)
        coefficients = as_array(coefficients, "coefficients", ("F", "N"), real=True)
        frames, self._N = coefficients.shape
        if frames > len(u):
            raise ValueError(f"coefficients has {frames} rows, expected at most {len(u)}: one a "
                             "frame, a frame every L // F samples")
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

    def __repr__(self):
        return (f"MemoryFilm(samples={self._L}, frames={len(self._data['now'])}, "
                f"coefficients={self._N})")

    def _repr_html_(self):
        film = self._data
        data = json.dumps(film, separators=(",", ":")).replace("</", "<\\/")
        now, moments = film["now"][-1], np.array(film["moments"])
        seen = [point for point in zip(film["x"], film["signal"]) if point[0] <= now]
        past = zip(np.round(moments * now / 10_000).astype(int).tolist(), film["past"][-1])
        words = film["words"][-1]
        return string.Template(_template()).substitute(
            id=f"ssm-film-{zlib.crc32(data.encode()):08x}",
            N=self._N,
            end=len(film["now"]) - 1,
            label=f"Film: {self._N} numbers remember a signal of {self._L:,} samples",
            picture="The signal, and the curve that the numbers give back for its past",
            ahead=_line(zip(film["x"], film["signal"])),
            seen=_line(seen),
            past=_line(past),
            now=f"M{now} 0V1000",
            state="".join(f"M{n + 0.1} 500V{500 - h}h0.8V500z"
                          for n, h in enumerate(film["state"][-1])),
            words=html.escape(words),
            data=data,
        )


def _template():
    return importlib.resources.files("ssm_core").joinpath("figures_film.html").read_text("utf-8")


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
