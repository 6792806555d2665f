"""What the Triton kernels of SSD take of a GPU, read from their machine code: no GPU is needed."""

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.runtime.jit import JITFunction

from ssm_core.ssd import triton as kernels
from ssm_core.ssd.triton.pass_states import pass_states
from tests.triton_compiler import CUOBJDUMP, recorded_launches, resources

if not isinstance(pass_states, JITFunction):
    pytest.skip("Triton runs its interpreter", allow_module_level=True)
if not CUOBJDUMP.exists():
    pytest.skip("this Triton brings no cuobjdump", allow_module_level=True)

SHARED = {90: 227 * 1024, 80: 163 * 1024}  # bytes that one program may have


@pytest.fixture
def launches(monkeypatch):
    return recorded_launches(monkeypatch)


def launch_all(b=2, L=256, h=8, p=64, g=1, n=128, dtype=torch.bfloat16, packed=False, z=True):
    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    x, dt, B, C = (empty(b, L, *size, dtype=dtype) for size in ((h, p), (h,), (g, n), (g, n)))
    cuts = empty(b + 1, dtype=torch.int32) if packed else None
    given = (x, dt, empty(h), B, C, empty(h), x if z else None, empty(h), True, 0.0, float("inf"))
    given = (*given, empty(b, h, p, n), cuts, None)
    kernels.forward(*given)
    kernels.backward(x, None, *given)


@pytest.mark.parametrize("arch", [90, 80])
def test_registers_and_shared_memory(arch, launches, tmp_path):
    """At the sizes of Mamba-2 nothing is spilled but by the kernel of the gradients."""
    launch_all()
    seen = set()
    for kernel, args, options in launches:
        found = resources(kernel, args, options, arch, tmp_path)
        assert found["SHARED"] <= SHARED[arch], (kernel.__name__, found)
        if kernel.__name__ != "chunk_gradients":
            assert found["STACK"] <= 128, (kernel.__name__, found)
        seen.add(kernel.__name__)
    assert seen == {
        "chunk_states",
        "pass_states",
        "chunk_outputs",
        "chunk_gradients",
        "weight_gradients",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_fit(dtype, launches, tmp_path):
    launch_all(dtype=dtype)
    for kernel, args, options in launches:
        found = resources(kernel, args, options, 80, tmp_path)
        assert found["SHARED"] <= SHARED[80], (kernel.__name__, found)


def test_small_and_odd_sizes_compile(launches, tmp_path):
    """Triton makes a constant of a size that is 1, unless it is told not to."""
    launch_all(b=1, L=1, h=1, p=1, g=1, n=1, dtype=torch.float32, z=False)
    launch_all(b=1, L=50, h=6, p=80, g=2, n=20, packed=True)
    for kernel, args, options in launches:
        resources(kernel, args, options, 90, tmp_path)
