"""What the Triton kernels take of a GPU, read from their machine code: no GPU is needed for that.

Triton compiles ahead of time for any target. The kernels and options are those that the launching
code picks for a shape, which runs here on tensors without data.
"""

import pathlib
import re
import subprocess

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from ssm_core.scan import triton as kernels

CUOBJDUMP = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16",
         torch.float16: "*fp16"}

if not isinstance(kernels._scan, JITFunction):
    pytest.skip("Triton runs its interpreter", allow_module_level=True)
if not CUOBJDUMP.exists():
    pytest.skip("this Triton brings no cuobjdump", allow_module_level=True)


@pytest.fixture
def launches(monkeypatch):
    """The kernels that get launched and their arguments, instead of a launch."""
    recorded = []
    monkeypatch.setattr(
        JITFunction, "run",
        lambda self, *args, grid, warmup, **options: recorded.append((self, args, options)))
    return recorded


@pytest.mark.parametrize(
    "arch, dtype, stack",
    [
        (90, torch.bfloat16, {"_scan": 0, "_edge": 8, "_carry": 0, "_scan_backward": 64}),
        # A T4: its 64 KB of shared memory and no bfloat16 in hardware.
        (75, torch.float16, {"_scan": 64, "_edge": 0, "_carry": 0, "_scan_backward": 128}),
    ],
)
def test_registers_and_shared_memory(arch, dtype, stack, launches, monkeypatch, tmp_path):
    """Nothing a step needs is spilled, and the resident warps are as many as the launch counts on.

    The backward kernel spills some addresses that it needs once in eight steps, and `_edge` one at its end.
    """
    monkeypatch.setattr(kernels, "_spans", lambda *_: (4, 512))
    launch_all(b=1, d=128, L=2048, n=16, dtype=dtype)
    seen = set()
    for kernel, args, options in launches:
        found = resources(kernel, args, options, arch, tmp_path)
        assert found["STACK"] <= stack[kernel.__name__], (kernel.__name__, found)
        assert found["SHARED"] <= 64 * 1024, (kernel.__name__, found)
        if kernel.__name__ in ("_scan", "_scan_backward"):
            resident = kernels.RESIDENT[kernel.__name__ == "_scan_backward"]
            assert found["REG"] * 32 * resident <= 65536, (kernel.__name__, found)
        seen.add(kernel.__name__)
    assert seen == set(stack)


def test_a_single_step_compiles(launches, tmp_path):
    """Triton makes a constant of a size that is 1, unless it is told not to."""
    launch_all(b=1, d=1, L=1, n=1, dtype=torch.float32)
    for kernel, args, options in launches:
        resources(kernel, args, options, 90, tmp_path)
    assert [kernel.__name__ for kernel, *_ in launches] == ["_scan", "_scan_backward"]


def launch_all(b, d, L, n, dtype):
    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    u, delta, z = (empty(b, d, L, dtype=dtype) for _ in range(3))
    B, C = (empty(b, 1, n, L, dtype=dtype) for _ in range(2))
    x = [u, delta, empty(d, n), B, C, empty(d), z, empty(d), True, None, None]
    saved = kernels.forward(*x, True)[2]
    kernels.backward(u, None, *x, saved)


def resources(kernel, args, options, arch, folder):
    """Registers a thread, stack in bytes a thread, shared memory in bytes a program."""
    names = kernel.arg_names
    given = dict(zip(names, args)) | {k: v for k, v in options.items() if k in names}
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value, specialized = given[parameter.name], not parameter.do_not_specialize
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None or (value == 1 and specialized):
            signature[parameter.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0 and specialized:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32),
                              options={k: v for k, v in options.items() if k not in names})
    path = folder / f"{kernel.__name__}.cubin"
    path.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run([CUOBJDUMP, "-res-usage", path], capture_output=True, encoding="utf-8",
                           check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    return found | {"SHARED": compiled.metadata.shared}
