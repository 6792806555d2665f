"""What the Triton kernels take of a GPU, read from their machine code: no GPU is needed for that.

``tests.triton_compiler`` says how.
"""

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.runtime.jit import JITFunction

from ssm_core.scan import triton as kernels
from ssm_core.scan.triton import plan
from ssm_core.scan.triton.scan_forward import scan_forward
from tests.triton_compiler import CUOBJDUMP, recorded_launches, resources

if not isinstance(scan_forward, JITFunction):
    pytest.skip("Triton runs its interpreter", allow_module_level=True)
if not CUOBJDUMP.exists():
    pytest.skip("this Triton brings no cuobjdump", allow_module_level=True)


@pytest.fixture
def launches(monkeypatch):
    return recorded_launches(monkeypatch)


@pytest.mark.parametrize(
    "arch, dtype, stack",
    [
        (
            90,
            torch.bfloat16,
            {"scan_forward": 0, "sum_span": 8, "carry_across_spans": 0, "scan_backward": 64},
        ),
        # A T4: its 64 KB of shared memory and no bfloat16 in hardware.
        (
            75,
            torch.float16,
            {"scan_forward": 64, "sum_span": 0, "carry_across_spans": 0, "scan_backward": 128},
        ),
    ],
)
def test_registers_and_shared_memory(arch, dtype, stack, launches, monkeypatch, tmp_path):
    """Nothing a step needs is spilled, and the resident warps are as many as the launch counts on.

    The backward kernel spills some addresses that it needs once in eight steps, and `sum_span` one at its end.
    """
    monkeypatch.setattr(plan, "cut_into_spans", lambda *_: (4, 512))
    launch_all(b=1, d=128, L=2048, n=16, dtype=dtype)
    seen = set()
    for kernel, args, options in launches:
        found = resources(kernel, args, options, arch, tmp_path)
        assert found["STACK"] <= stack[kernel.__name__], (kernel.__name__, found)
        assert found["SHARED"] <= 64 * 1024, (kernel.__name__, found)
        if kernel.__name__ in ("scan_forward", "scan_backward"):
            resident = plan.TUNING.resident[kernel.__name__ == "scan_backward"]
            assert found["REG"] * 32 * resident <= 65536, (kernel.__name__, found)
        seen.add(kernel.__name__)
    assert seen == set(stack)


def test_a_single_step_compiles(launches, tmp_path):
    """Triton makes a constant of a size that is 1, unless it is told not to."""
    launch_all(b=1, d=1, L=1, n=1, dtype=torch.float32)
    for kernel, args, options in launches:
        resources(kernel, args, options, 90, tmp_path)
    assert [kernel.__name__ for kernel, *_ in launches] == ["scan_forward", "scan_backward"]


def launch_all(b, d, L, n, dtype):
    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    u, delta, z = (empty(b, d, L, dtype=dtype) for _ in range(3))
    B, C = (empty(b, 1, n, L, dtype=dtype) for _ in range(2))
    x = [u, delta, empty(d, n), B, C, empty(d), z, empty(d), True, None, None]
    saved = kernels.forward(*x, True)[2]
    kernels.backward(u, None, *x, saved)
