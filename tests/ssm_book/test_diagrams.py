"""Diagrams: the same bytes each time, in both formats, with the words in reach of the drawing."""

from xml.etree import ElementTree

import pytest

from ssm_book.diagrams import Diagram


@pytest.fixture
def sheet():
    sheet = Diagram(10, 3)
    sheet.box((2, 1.5), "state $x_k$")
    sheet.cells((6, 2), [["#C44A00", None], [None, "#0060AA"]])
    sheet.arrow((3.3, 1.5), (5.8, 1.5), "step", dashed=True)
    return sheet


def test_svg_is_xml_and_does_not_change(sheet):
    assert ElementTree.fromstring(sheet.svg()).tag.endswith("svg")
    assert sheet.svg() == sheet.svg()


def test_png(sheet):
    assert sheet.png().startswith(b"\x89PNG")


def test_a_centimetre_is_a_centimetre(sheet):
    root = ElementTree.fromstring(sheet.svg())
    points = float(root.attrib["width"].removesuffix("pt"))
    assert points == pytest.approx(10 / 2.54 * 72)


def test_a_cell_shows_both_formats(sheet):
    assert sheet._repr_svg_() == sheet.svg()
    assert sheet._repr_png_() == sheet.png()
