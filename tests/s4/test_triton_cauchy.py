"""The Triton kernels of the Cauchy sums without a GPU: their logic in Triton's interpreter, and
what they take of a GPU from their machine code."""

import pathlib

import pytest
import torch

pytest.importorskip("triton")

from tests.scan import test_triton_compiles as compiled
from tests.triton_interpreter import run_interpreted


def test_kernels_in_the_interpreter():
    run_interpreted(pathlib.Path(__file__).with_name("interpreted_cauchy.py"))


launches = compiled.launches


@pytest.mark.parametrize("arch", [90, 75])
@pytest.mark.parametrize("K", [4, 12])  # rank 1; rank 2 and two outputs
def test_nothing_is_spilled(arch, K, launches, tmp_path):
    from ssm_core.s4 import triton as kernels

    a = torch.empty(2, K, 32, dtype=torch.float64, device="meta")
    poles = torch.empty(2, 32, dtype=torch.complex128, device="meta")
    s = torch.empty(1025, dtype=torch.complex128, device="meta")
    kernels.sums_backward(kernels.sums(a, a, poles, s), a, a, poles, s)
    assert [kernel.__name__ for kernel, _, _ in launches] == ["_sums", "_sums_backward"]
    for kernel, args, options in launches:
        found = compiled.resources(kernel, args, options, arch, tmp_path)
        assert found["STACK"] == 0 and found["REG"] <= 200 and found["SHARED"] == 0, found
