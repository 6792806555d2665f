"""Triton compiles ahead of time for any target: what kernels take of a GPU, without one.

The kernels and options are those that the launching code picks for a shape, which runs on tensors
without data while ``recorded_launches`` keeps the launches.
"""

import pathlib
import re
import subprocess
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

CUOBJDUMP = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
RUN = JITFunction.run


def recorded_launches(monkeypatch):
    """A list that receives the kernels that get launched and their arguments, instead of a launch."""
    recorded = []
    monkeypatch.setattr(
        JITFunction,
        "run",
        lambda self, *args, grid, warmup, **options: recorded.append((self, args, options)),
    )
    return recorded


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


def compiled(kernel, args, options, arch):
    """The kernel as Triton compiles it for a target."""
    with mock.patch.object(type(driver), "active", Target(arch), create=True):
        return RUN(kernel, *args, grid=(1,), warmup=True, **options)


def resources(kernel, args, options, arch, folder):
    """Registers a thread, stack in bytes a thread, shared memory in bytes a program."""
    code = compiled(kernel, args, options, arch)
    path = folder / f"{kernel.__name__}.cubin"
    path.write_bytes(code.asm["cubin"])
    usage = subprocess.run(
        [CUOBJDUMP, "-res-usage", path], capture_output=True, encoding="utf-8", check=True
    ).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    return found | {"SHARED": code.metadata.shared}
