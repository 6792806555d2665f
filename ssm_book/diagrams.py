"""Drawings of boxes and arrows: block diagrams, shapes of tensors, which thread holds what.

A diagram is drawn in centimetres on a white sheet and shown as SVG, sharp at every size; paper and
Colab get a PNG of the same drawing. Its colours are those of the figures, which the book's dark mode
turns over.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from ssm_book.figures import BLUE, GREY

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Diagram"]

INK = "#222222"
CENTIMETRE = 1 / 2.54  # in inches


class Diagram:
    """A sheet of paper to draw boxes, arrows and labels on.

    Points are (x, y) in centimetres, from the lower left corner. In a notebook the sheet shows itself
    when it is the last expression of a cell; ``ssm_book.figures.glue`` takes it, too.

    Args:
        width (float):  centimetres, > 0; the text of a page is about 19 wide
        height (float): centimetres, > 0

    Example:
        >>> from ssm_book.diagrams import Diagram
        >>> sheet = Diagram(9, 2)
        >>> left = sheet.box((1.5, 1), "state $x_{k-1}$")
        >>> right = sheet.box((7.0, 1), "state $x_k$", colour="#C44A00")
        >>> sheet.arrow((2.7, 1), (5.8, 1), "step")
        >>> sheet.svg().lstrip().startswith("<?xml")
        True
    """

    def __init__(self, width: float, height: float):
        self._figure = Figure(figsize=(width * CENTIMETRE, height * CENTIMETRE), dpi=150)
        self._figure.set_layout_engine("none")
        FigureCanvasAgg(self._figure)
        #: the matplotlib.axes.Axes below, in centimetres, for everything that has no method here
        self.axes = self._figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()

    def box(
        self,
        centre: tuple[float, float],
        text: str = "",
        width: float = 2.4,
        height: float = 0.9,
        colour: str = BLUE,
        fill: bool = True,
        size: float = 10,
    ) -> tuple[float, float]:
        """Draw a rectangle with a word in it.

        Args:
            centre (float, float): where its middle is
            text (str):            may contain ``$formulas$`` and line breaks
            width, height (float): in centimetres
            colour (str):          of the edge, and, paler, of the inside
            fill (bool):           False: leave the inside white
            size (float):          of the letters, in points

        Returns:
            (float, float): its middle
        """
        x, y = centre
        corner = (x - width / 2, y - height / 2)
        inside = mpl.colors.to_rgba(colour, 0.13) if fill else (1.0, 1.0, 1.0, 1.0)
        self.axes.add_patch(
            Rectangle(corner, width, height, facecolor=inside, edgecolor=colour, lw=1.3)
        )
        self.label(centre, text, size=size)
        return centre

    def cells(
        self,
        corner: tuple[float, float],
        colours: Sequence[Sequence[str | None]],
        side: float = 0.4,
    ) -> None:
        """Draw a tensor as a grid of small squares.

        Args:
            corner (float, float): the upper left corner
            colours:               rows of colours from top to bottom; None leaves a square white
            side (float):          of a square, in centimetres
        """
        for i, row in enumerate(colours):
            for j, colour in enumerate(row):
                place = (corner[0] + j * side, corner[1] - (i + 1) * side)
                inside = mpl.colors.to_rgba(colour, 0.25) if colour else (1.0, 1.0, 1.0, 1.0)
                self.axes.add_patch(
                    Rectangle(place, side, side, facecolor=inside, edgecolor=colour or GREY, lw=0.9)
                )

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        text: str = "",
        colour: str = INK,
        bend: float = 0.0,
        dashed: bool = False,
    ) -> None:
        """Draw an arrow, and a word above its middle.

        Args:
            start, end (float, float): the two points
            text (str):                beside the middle
            colour (str):              of the line and the word
            bend (float):              how far the arrow bulges, as a share of its length
            dashed (bool):             a broken line
        """
        self.axes.add_patch(
            FancyArrowPatch(
                start,
                end,
                arrowstyle="-|>",
                mutation_scale=11,
                color=colour,
                lw=1.3,
                linestyle="--" if dashed else "-",
                shrinkA=0,
                shrinkB=0,
                connectionstyle=f"arc3,rad={bend}",
            )
        )
        if text:
            middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.28)
            self.label(middle, text, colour=colour, size=9)

    def label(
        self,
        place: tuple[float, float],
        text: str,
        colour: str = INK,
        size: float = 10,
        align: str = "center",
    ) -> None:
        """Write a word.

        Args:
            place (float, float): where; the word is centred on that height
            text (str):           may contain ``$formulas$`` and line breaks
            colour (str):         of the letters
            size (float):         of the letters, in points
            align (str):          "left", "center" or "right": which end of the word is at the place
        """
        self.axes.text(*place, text, color=colour, size=size, ha=align, va="center")

    def svg(self) -> str:
        """The drawing as SVG, the same bytes each time."""
        file = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": "ssm", "svg.fonttype": "path"}):
            self._figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return file.getvalue()

    def png(self) -> bytes:
        """The drawing as PNG, two pixels to a point."""
        file = io.BytesIO()
        self._figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        return file.getvalue()

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_png_(self) -> bytes:
        return self.png()
