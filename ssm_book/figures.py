"""One look for every figure of the book, and values for its text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from cycler import cycler

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


def use_style() -> None:
    """Give every later figure the look of the book: colours, sizes, grid, white background.

    Example:
        >>> import matplotlib as mpl
        >>> from ssm_book.figures import use_style
        >>> use_style()
        >>> mpl.rcParams["axes.spines.top"]
        False
    """
    mpl.rcParams.update(_STYLE)


def glue(name: str, value: Any, display: bool = True) -> None:
    """Name a value, so that the text of the book can show it: what ``myst_nb.glue`` does.

    Away from the book, as in Colab, ``myst_nb`` is not there and the text has its numbers already;
    then nothing happens.

    Args:
        name (str):      what the text calls it
        value:           a number, a string, a figure
        display (bool):  show the value below the cell, too

    Example:
        >>> from ssm_book.figures import glue
        >>> glue("slope", 1.5, display=False)
    """
    try:
        from myst_nb import glue as to_book
    except ImportError:
        return
    to_book(name, value, display)


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
    image = axes.imshow(matrix, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.grid(False)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    return image
