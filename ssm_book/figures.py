"""One look for every figure of the book, and values for its text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from cycler import cycler
from matplotlib.colors import LinearSegmentedColormap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["glue", "heatmap", "use_style"]

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

# For matrices: blue below zero, red above, white at zero. The ends are no darker than lines are, so that
# in dark mode, which turns white into black, they do not fade.
_AROUND_ZERO = LinearSegmentedColormap.from_list("ssm-book", [BLUE, "white", "#C02A1D"])

_STYLE: dict[str, Any] = {
    "figure.figsize": (7.2, 3.2),
    "figure.dpi": 200,  # twice the pixels of a page, whose inch has 96
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
    "image.cmap": "ssm-book",
    "animation.html": "jshtml",
}


def use_style() -> None:
    """Give every later figure the look of the book: colours, sizes, grid, white background.

    Example:
        >>> import matplotlib as mpl
        >>> from ssm_book.figures import use_style
        >>> use_style()
        >>> mpl.rcParams["axes.spines.top"]
        False
    """
    if _AROUND_ZERO.name not in mpl.colormaps:
        mpl.colormaps.register(_AROUND_ZERO)
    mpl.rcParams.update(_STYLE)


def glue(name: str, value: Any, display: bool = True, tolerance: float = 0.0) -> None:
    """Name a value, so that the text of the book can show it: what ``myst_nb.glue`` does.

    Outputs of the stored notebooks are compared to the letter with those of a new run. A number that
    another machine may compute otherwise, because it comes from training or is ill-conditioned,
    declares by how much: the comparison then accepts any value within ``tolerance`` of the stored
    one. The text beside it must be true of all of them.

    Away from the book, as in Colab, ``myst_nb`` is not there and the text has its numbers already;
    then nothing happens.

    Args:
        name (str):        what the text calls it
        value:             a number, a string, a figure
        display (bool):    show the value below the cell, too
        tolerance (float): largest difference between two runs, in the unit of ``value``, >= 0

    Raises:
        ValueError: a tolerance that is negative or not finite
        TypeError: a tolerance for a value that is not an int or a float

    Example:
        >>> from ssm_book.figures import glue
        >>> glue("slope", 1.5, display=False)
        >>> glue("accuracy", 97.0, display=False, tolerance=3.0)
    """
    if not 0 <= tolerance < float("inf"):
        raise ValueError(
            f"tolerance is {tolerance!r}, expected a finite number that is not negative"
        )
    if tolerance and not isinstance(value, (int, float)):
        raise TypeError(
            f"value is a {type(value).__name__}, expected an int or a float, since there "
            "is a tolerance"
        )
    try:
        from myst_nb import glue as to_book
    except ImportError:
        return
    to_book(name, _Approximate(value, tolerance) if tolerance else value, display)


class _Approximate:
    """A number that a notebook stores with its tolerance, in the metadata of the output."""

    def __init__(self, value: float, tolerance: float):
        self.value = float(value) if isinstance(value, float) else value  # of NumPy: a plain one
        self.tolerance = tolerance

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, str], dict[str, float]]:
        return {"text/plain": repr(self.value)}, {"tolerance": self.tolerance}


def heatmap(
    axes: Axes, matrix: npt.ArrayLike, limit: float | None = None, label: str | None = None
) -> AxesImage:
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
        >>> from ssm_book.figures import heatmap
        >>> image = heatmap(plt.figure().subplots(), [[0.0, 1.0], [-2.0, 0.0]])
        >>> image.get_clim()
        (-2.0, 2.0)
    """
    limit = limit or float(np.abs(matrix).max())
    image = axes.imshow(matrix, cmap=_AROUND_ZERO, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.grid(False)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    return image
