"""The Triton kernels of the Cauchy sums without a GPU: their logic in Triton's interpreter, and
what they take of a GPU from their machine code."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from tests.scan import test_triton_compiles as compiled


def test_kernels_in_the_interpreter():
    cases = pathlib.Path(__file__).with_name("interpreted_cauchy.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=cases.parents[2], text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.returncode == 0, run.stdout


launches = compiled.launches


@pytest.mark.parametrize("arch", [90, 75])
@pytest.mark.parametrize("K", [4, 12])  # rank 1; rank 2 and two outputs
def test_nothing_is_spilled(arch, K, launches, monkeypatch, tmp_path):
    from ssm_core.s4 import triton as kernels

    monkeypatch.setitem(compiled.TYPES, torch.float64, "*fp64")
    a = torch.empty(2, K, 32, dtype=torch.float64, device="meta")
    poles = torch.empty(2, 32, dtype=torch.complex128, device="meta")
    s = torch.empty(1025, dtype=torch.complex128, device="meta")
    kernels.sums_backward(kernels.sums(a, a, poles, s), a, a, poles, s)
    assert [kernel.__name__ for kernel, _, _ in launches] == ["_sums", "_sums_backward"]
    for kernel, args, options in launches:
        found = compiled.resources(kernel, args, options, arch, tmp_path)
        assert found["STACK"] == 0 and found["REG"] <= 200 and found["SHARED"] == 0, found
