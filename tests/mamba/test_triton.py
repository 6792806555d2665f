"""The Triton kernels of the Mamba block without a GPU: their logic in Triton's interpreter, and
what they take of a GPU from their machine code."""

import pathlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tests.scan import test_triton_compiles as compiled
from tests.triton_interpreter import run_interpreted


def test_kernels_in_the_interpreter():
    run_interpreted(pathlib.Path(__file__).with_name("interpreted_kernels.py"))


launches = compiled.launches
ARCHITECTURES = [(90, torch.bfloat16), (80, torch.bfloat16), (75, torch.float16)]


@pytest.mark.parametrize("arch, dtype", ARCHITECTURES)
def test_nothing_is_spilled(arch, dtype, launches, tmp_path):
    """A prompt and a step of a model with 768 channels; 48 registers leave a processor well filled.

    Shared memory is for sums across warps only: where layouts fit, nothing is exchanged.
    """
    from ssm_core.mamba import triton as kernels

    def empty(*shape, dtype=dtype):
        return torch.empty(*shape, dtype=dtype, device="meta")

    state, weight, bias = empty(2, 1536, 4), empty(1536, 4), empty(1536)
    kernels.convolve(empty(2, 1536, 2048), weight, bias, state)
    kernels.convolve_one(state, empty(2, 3072)[:, :1536], weight, bias)
    kernels.add_norm(empty(2, 1, 768, dtype=torch.float32), empty(2, 1, 768), empty(768), 1e-5)
    names = [kernel.__name__ for kernel, _, _ in launches]
    assert names == ["_convolve", "_convolve_one", "_add_norm"]
    for kernel, args, options in launches:
        found = compiled.resources(kernel, args, options, arch, tmp_path)
        assert found["STACK"] == 0 and found["REG"] <= 48, found
        assert found["SHARED"] <= 32, found


@pytest.mark.parametrize("arch, dtype", ARCHITECTURES)
def test_the_step_of_the_scan_compiles(arch, dtype, launches, tmp_path):
    """Rows that lie apart, decay rates as logarithms."""
    from ssm_core.scan import triton as kernels

    def empty(*shape, dtype=dtype):
        return torch.empty(*shape, dtype=dtype, device="meta")

    def wide(*shape):
        return empty(*shape, dtype=torch.float32)

    x, z = empty(2, 3072).chunk(2, dim=-1)
    dt, B, C = empty(2, 1600).split([1536, 32, 32], dim=-1)
    kernels.state_update(
        wide(2, 1536, 32),
        x,
        dt,
        wide(1536, 32),
        B[:, None],
        C[:, None],
        wide(1536),
        z,
        wide(1536),
        True,
        None,
        True,
    )
    ((kernel, args, options),) = launches
    assert kernel.__name__ == "scan_step"
    found = compiled.resources(kernel, args, options, arch, tmp_path)
    assert found["STACK"] == 0 and found["REG"] <= 40 and found["SHARED"] <= 64, found
