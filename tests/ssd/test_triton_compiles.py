"""What the Triton kernels of SSD take of a GPU, read from their machine code: no GPU is needed."""

import itertools
import pathlib
import sys
import tempfile

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.runtime.jit import JITFunction

from ssm_core.ssd import triton as kernels
from ssm_core.ssd.triton import plan
from ssm_core.ssd.triton.pass_states import pass_states
from tests.triton_compiler import CUOBJDUMP, compiled, recorded_launches, resources

if not isinstance(pass_states, JITFunction):
    pytest.skip("Triton runs its interpreter", allow_module_level=True)
if not CUOBJDUMP.exists():
    pytest.skip("this Triton brings no cuobjdump", allow_module_level=True)

SHARED = {90: 227 * 1024, 80: 163 * 1024, 86: 99 * 1024}  # bytes that one program may have
SIZES = {torch.bfloat16: 2, torch.float16: 4, torch.float32: 4}  # bytes of a factor


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


def different(launches):
    """The launches without those of the forward pass that the backward pass repeats."""
    found = {}
    for kernel, args, options in launches:
        absent = tuple(x is None for x in args)
        found[kernel.__name__, absent, tuple(options.items())] = kernel, args, options
    return found.values()


@pytest.mark.parametrize("arch, spilled", [(90, 192), (80, 512)])
def test_registers_and_shared_memory(arch, spilled, launches, tmp_path):
    """At the sizes of Mamba-2 next to nothing is spilled, in bytes of a thread."""
    launch_all()
    seen = set()
    for kernel, args, options in different(launches):
        found = resources(kernel, args, options, arch, tmp_path)
        assert found["SHARED"] <= SHARED[86], (kernel.__name__, found)
        assert found["STACK"] <= spilled, (kernel.__name__, found)
        seen.add(kernel.__name__)
    assert seen == {
        "make_steps",
        "chunk_states",
        "pass_states",
        "chunk_outputs",
        "output_gradients",
        "input_gradients",
        "pair_gradients",
        "weight_gradients",
        "step_gradients",
    }


def taken(p, n, dtype, arch, launches, folder):
    """What each kernel takes of a GPU, by name, and the shared memory that the plan counts on."""
    launches.clear()
    launch_all(p=p, n=n, dtype=dtype)
    limit = plan.blocks_for(SIZES[dtype], n).kilobytes * 1024
    for kernel, args, options in different(launches):
        yield kernel.__name__, resources(kernel, args, options, arch, folder), limit


def test_shared_memory_is_what_the_plan_counts_on(launches, tmp_path):
    """A sample; ``python -m tests.ssd.test_triton_compiles`` goes through all sizes and targets."""
    of_all = taken(64, 128, torch.float32, 90, launches, tmp_path)
    for name, found, limit in itertools.islice(of_all, 4):  # the forward pass
        assert found["SHARED"] <= limit <= SHARED[86], (name, found)


def test_steps_too_far_apart_for_offsets_of_32_bits_are_copied():
    far = torch.empty(3, 2**25, 2, 16, device="meta").transpose(0, 1)
    assert kernels._in_one_piece(far).stride(1) == 2 * 16
    near = torch.empty(3, 2**10, 2, 16, device="meta").transpose(0, 1)
    assert kernels._in_one_piece(near) is near


def test_small_and_odd_sizes_compile(launches, tmp_path):
    """Triton makes a constant of a size that is 1, unless it is told not to."""
    launch_all(b=1, L=1, h=1, p=1, g=1, n=1, packed=True)
    for kernel, args, options in different(launches):
        resources(kernel, args, options, 90, tmp_path)


def test_rows_are_read_sixteen_bytes_at_a_time(launches):
    """Where rows begin at multiples of 16 bytes the compiler has to know it, also of slices."""
    launch_all()
    for kernel, args, options in different(launches):
        if "UNIT" in options:
            ptx = compiled(kernel, args, options, 90).asm["ptx"]
            assert "ld.global.b16" not in ptx and "st.global.b16" not in ptx, kernel.__name__


def main():
    """Print what all kernels take of all targets, or of those named, in all dtypes and sizes."""
    targets = [int(arch) for arch in sys.argv[1:]] or SHARED
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        launches = recorded_launches(patch)
        for arch, dtype, n, p in itertools.product(
            targets, SIZES, (16, 64, 128, 256), (32, 64, 128)
        ):
            for name, found, limit in taken(p, n, dtype, arch, launches, pathlib.Path(folder)):
                verdict = "" if found["SHARED"] <= limit <= SHARED[86] else "  TOO MUCH"
                print(f"sm_{arch} {dtype} p {p} n {n} {name}: {found}{verdict}", flush=True)


if __name__ == "__main__":
    main()
