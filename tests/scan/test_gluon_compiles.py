"""What the Gluon kernels take of a GPU, read from their machine code, and what happens without them.

No GPU is needed: Triton compiles ahead of time for any target. The kernels and options are those that
the launching code picks for a shape, which runs here on tensors without data.
"""

import importlib
import pathlib
import re
import subprocess
import sys
import types

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from ssm_core.scan import gluon
from ssm_core.scan import triton as portable
from ssm_core.scan.triton import plan

CUOBJDUMP = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
}
OPTIONAL = "D", "z", "delta_bias", "initial_state"


@pytest.fixture
def launch(monkeypatch):
    """The launching module, if this Triton has the Gluon that the kernels are written in."""
    module = gluon._kernels()
    if module is None:
        pytest.skip("this Triton has no Gluon that the kernels know")
    if not isinstance(module.scan_forward, JITFunction):
        pytest.skip("Triton runs its interpreter")
    if not CUOBJDUMP.exists():
        pytest.skip("this Triton brings no cuobjdump")
    monkeypatch.setattr(
        module, "selection", lambda *_: torch.empty(6, 32, 4, dtype=torch.int32, device="meta")
    )
    return module


@pytest.fixture
def launches(launch, monkeypatch):
    """The kernels that get launched and their arguments, instead of a launch."""
    recorded = []
    monkeypatch.setattr(
        JITFunction,
        "run",
        lambda self, *args, grid, warmup, **options: recorded.append((self, args, options)),
    )
    return recorded


@pytest.mark.parametrize(
    "arch, shape, dtypes, options",
    [  # dtypes of u, delta, z and of B, C
        (90, (1, 1, 128, 2048, 16), (torch.bfloat16, torch.bfloat16), {"spans": 4}),
        (80, (1, 2, 70, 333, 5), (torch.float16, torch.float32), {"spans": 4}),
        (80, (1, 1, 64, 256, 8), (torch.float32, torch.bfloat16), {"packed": True}),
        (90, (2, 1, 3, 1, 1), (torch.bfloat16, torch.bfloat16), {"without": OPTIONAL}),
    ],
)
def test_registers_and_shared_memory(
    arch, shape, dtypes, options, launch, launches, monkeypatch, tmp_path
):
    """The inner loops spill nothing but addresses, and programs fit as often as spans count on."""
    spans = options.get("spans", 1)
    monkeypatch.setattr(launch, "cut_into_spans", lambda *_: (spans, 512))
    launch_all(
        launch,
        *shape,
        *dtypes,
        packed=options.get("packed", False),
        without=options.get("without", ()),
    )
    seen = [kernel.__name__ for kernel, *_ in launches]
    edges = ["sum_span"] * (spans > 1)
    assert seen == [*edges, "scan_forward", *edges, "scan_backward", "totals"]
    compiled = {}
    for kernel, args, launch_options in launches:
        found = resources(kernel, args, launch_options, arch, tmp_path)
        if kernel.__name__ == "scan_backward":
            assert found["REG"] * 32 * launch.WARPS <= 65536, found
        assert found["SHARED"] <= 56 * 1024, (kernel.__name__, found)  # four times in an H100
        compiled[kernel.__name__] = found
    if shape[4] == 16:
        assert compiled["scan_forward"]["STACK"] == compiled["sum_span"]["STACK"] == 0, compiled
        assert compiled["scan_backward"]["STACK"] <= 192, compiled


def test_the_most_states_fit_into_the_shared_memory_that_is_asked_for(
    launch, launches, tmp_path, monkeypatch
):
    """64 states where a program may have 128 KB, 32 elsewhere (96 KB)."""
    monkeypatch.setattr(launch, "cut_into_spans", lambda *_: (1, 2048))
    for n, limit in ((32, 96), (64, 128)):
        launches.clear()
        launch_all(launch, 1, 1, 32, 2048, n, torch.float32, torch.float32)
        kernel, args, options = next(x for x in launches if x[0].__name__ == "scan_backward")
        assert resources(kernel, args, options, 80, tmp_path)["SHARED"] <= limit * 1024


def launch_all(launch, b, groups, d, L, n, dtype, weight_dtype, packed=False, without=()):
    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    u, delta, z = (empty(b, d, L, dtype=dtype) for _ in range(3))
    B, C = (empty(b, groups, n, L, dtype=weight_dtype) for _ in range(2))
    cuts = empty(5, dtype=torch.int32) if packed else None
    x = {
        "u": u,
        "delta": delta,
        "A": empty(d, n),
        "B": B,
        "C": C,
        "D": empty(d),
        "z": z,
        "delta_bias": empty(d),
        "delta_softplus": "delta_bias" not in without,
        "initial_state": empty(4 if packed else b, d, n),
        "cu_seqlens": cuts,
    }
    x |= dict.fromkeys(without)
    _, last, saved = launch.forward(*x.values(), True)
    launch.backward(u, last, *x.values(), saved)


def resources(kernel, args, options, arch, folder):
    """Registers a thread, stack in bytes a thread, shared memory in bytes a program."""
    names = kernel.arg_names
    given = dict(zip(names, args)) | {k: v for k, v in options.items() if k in names}
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None:
            signature[parameter.name], constants[(i,)] = "constexpr", value
        else:
            signature[parameter.name] = "i32"
    source = ASTSource
    if kernel.is_gluon():
        source = importlib.import_module("triton.experimental.gluon._runtime").GluonASTSource
    compiled = triton.compile(
        source(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", arch, 32),
        options={k: v for k, v in options.items() if k not in names},
    )
    path = folder / f"{kernel.__name__}.cubin"
    path.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run(
        [CUOBJDUMP, "-res-usage", path], capture_output=True, encoding="utf-8", check=True
    ).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", usage)}
    return found | {"SHARED": compiled.metadata.shared}


# --- without these kernels -----------------------------------------------------------------------


def a_gpu(monkeypatch, major=9, shared=227 * 1024):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda _: types.SimpleNamespace(major=major, minor=0, shared_memory_per_block_optin=shared),
    )
    return torch.device("cuda", 0)


def most_states(device):
    return gluon._most_states.__wrapped__(device)


@pytest.mark.parametrize("most, served", [(0, False), (64, True)])
def test_saved_states_are_those_of_the_kernels_that_serve(most, served, launch, monkeypatch):
    """Where Gluon serves no call, the portable kernels save their own states only."""
    monkeypatch.setattr(gluon, "_most_states", lambda _: most)
    u = types.SimpleNamespace(shape=(2, 64, 128), device=torch.device("cuda", 0))
    A, B = torch.empty(64, 16), torch.empty(2, 1, 16, 128)
    assert gluon.covers(u, A, B, B) is gluon.supports(u.device, 16) is served
    states = 2 * 128 // (16 if served else plan.TUNING.chunk)
    assert portable.saved_shape(u, A, None) == (states, 64, 16)


def test_devices_that_are_served(launch, monkeypatch):
    assert not gluon.supports(torch.device("cpu"), 16)
    assert most_states(a_gpu(monkeypatch)) == 64
    assert most_states(a_gpu(monkeypatch, major=8, shared=99 * 1024)) == 32
    assert most_states(a_gpu(monkeypatch, major=7)) == 0
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert most_states(a_gpu(monkeypatch)) == 0


@pytest.mark.parametrize(
    "missing", ["triton.experimental.gluon", "triton.experimental.gluon.language.nvidia.ampere"]
)
def test_a_triton_without_gluon(missing, monkeypatch):
    """An older Triton lacks the language or a part of it: these kernels then serve no device."""
    for name in list(sys.modules):
        if name.startswith("ssm_core.scan.gluon._"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    without = gluon._kernels.__wrapped__
    assert without() is None
    monkeypatch.setattr(gluon, "_kernels", without)
    assert most_states(a_gpu(monkeypatch)) == 0


def test_kernels_that_fail_are_given_up(monkeypatch):
    """A Triton newer than those we know may refuse a kernel: one warning, and no second attempt."""

    def refuse(u):
        raise AttributeError("no such function")

    def run_out(u):
        raise torch.cuda.OutOfMemoryError

    kernels = types.SimpleNamespace(forward=run_out, backward=refuse)
    monkeypatch.setattr(gluon, "_failures", [])
    monkeypatch.setattr(gluon, "_kernels", lambda: kernels)
    u = torch.empty(1)
    with pytest.raises(torch.cuda.OutOfMemoryError):  # nothing that other kernels could mend
        gluon.forward(u)
    with pytest.warns(RuntimeWarning, match="no such function"):
        assert gluon.backward(u) is None
    assert gluon.backward(u) is None and gluon.forward(u) is None
