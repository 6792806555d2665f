"""What the Triton kernels take of a GPU, read from their machine code: no GPU is needed for that.

Triton compiles ahead of time for any target. The kernels and options are those that the launching
code picks for a shape, which runs here on tensors without data.
"""

import pathlib
import re
import subprocess
from unittest import mock

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from ssm_core.scan import triton as kernels
from ssm_core.scan.triton import plan
from ssm_core.scan.triton.scan_forward import scan_forward

CUOBJDUMP = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
RUN = JITFunction.run

if not isinstance(scan_forward, JITFunction):
    pytest.skip("Triton runs its interpreter", allow_module_level=True)
if not CUOBJDUMP.exists():
    pytest.skip("this Triton brings no cuobjdump", allow_module_level=True)


@pytest.fixture
def launches(monkeypatch):
    """The kernels that get launched and their arguments, instead of a launch."""
    recorded = []
    monkeypatch.setattr(
        JITFunction,
        "run",
        lambda self, *args, grid, warmup, **options: recorded.append((self, args, options)),
    )
    return recorded


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


class Target:
    """In place of Triton's driver: a GPU that need not be there. Nothing is loaded or launched."""

    def __init__(self, arch):
        self.arch = arch

    def get_current_device(self):
        return "cuda", self.arch  # the key under which Triton keeps what it has compiled

    def get_current_target(self):
        return GPUTarget("cuda", self.arch, 32)

    def get_current_stream(self, device):
        return 0


def resources(kernel, args, options, arch, folder):
    """Registers a thread, stack in bytes a thread, shared memory in bytes a program."""
    with mock.patch.object(type(driver), "active", Target(arch), create=True):
        compiled = RUN(kernel, *args, grid=(1,), warmup=True, **options)
    path = folder / f"{kernel.__name__}.cubin"
    path.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run(
        [CUOBJDUMP, "-res-usage", path], capture_output=True, encoding="utf-8", check=True
    ).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    return found | {"SHARED": compiled.metadata.shared}
