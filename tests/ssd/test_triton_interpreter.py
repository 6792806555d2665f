"""The logic of the Triton kernels of SSD, without a GPU: what they compute in Triton's interpreter."""

import pathlib

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from tests.triton_interpreter import run_interpreted


def test_kernels_in_the_interpreter():
    run_interpreted(pathlib.Path(__file__).with_name("interpreted_kernels.py"))
