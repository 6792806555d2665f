"""One look for every figure of the book."""

import matplotlib as mpl
import numpy as np
from cycler import cycler

# Okabe and Ito's palette, which keeps its differences under every kind of colour blindness, in an
# order whose first colours also differ in lightness. The book's dark mode inverts lightness and
# keeps the hue, so that "the blue line" stays blue.
BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#6E6E6E",
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
