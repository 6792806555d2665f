"""The Triton kernels around the FFTs without a GPU, as ``test_triton_cauchy`` for the sums."""

import pathlib

import pytest
import torch

pytest.importorskip("triton")

from tests.scan import test_triton_compiles as compiled
from tests.triton_interpreter import run_interpreted


def test_kernels_in_the_interpreter():
    run_interpreted(pathlib.Path(__file__).with_name("interpreted_convolution.py"))


launches = compiled.launches


@pytest.mark.parametrize("arch", [90, 75])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_spilled(arch, dtype, launches, tmp_path):
    from ssm_core.s4 import triton_convolution as kernels

    u = torch.empty(128, 784, 128, dtype=dtype, device="meta")
    turn = torch.empty(784, dtype=dtype.to_complex(), device="meta")
    z = kernels.wind(u, turn)
    kernels.unwind(z, turn, 784)
    kernels.product_backward(z, z, z[0])
    for kernel, args, options in launches:
        found = compiled.resources(kernel, args, options, arch, tmp_path)
        print(kernel.__name__, found)
        assert found["STACK"] == 0 and found["REG"] <= 128, (kernel.__name__, found)
        assert found["SHARED"] <= 2 * 2048 * dtype.itemsize + 2048, (kernel.__name__, found)
    assert len(launches) == 3
