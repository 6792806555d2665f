"""What the library does where Triton is missing or broken."""

import os
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from ssm_core import _gpu

ASK = """
import types
import torch
from ssm_core.scan import triton  # imports in any case
from ssm_core.scan._backends import pick_backend
u = types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
print(pick_backend("auto", u), pick_backend("auto", u))
try:
    pick_backend("triton", u)
except ValueError as error:
    print(error)
"""


def test_a_broken_triton_is_passed_over_with_one_warning(tmp_path):
    """As where its compiled part does not fit the system."""
    (tmp_path / "triton.py").write_text(
        "raise OSError('libtriton.so: wrong ELF class')", encoding="utf-8"
    )
    root = str(pathlib.Path(_gpu.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", ASK],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), root])},
    )
    assert run.stdout.splitlines() == [
        "reference reference",
        "backend is 'triton', and the package triton is not installed or does not work",
    ]
    assert run.stderr.count("RuntimeWarning") == 1
    assert "does not work (OSError: libtriton.so: wrong ELF class)" in run.stderr


def test_without_a_compiler_one_warning_says_so(monkeypatch):
    """Triton compiles its driver when it first meets a GPU, and raises where it finds no compiler."""
    triton = pytest.importorskip("triton")

    class Driver:
        @property
        def active(self):
            raise RuntimeError("Failed to find C compiler. Please specify via CC")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton.runtime, "driver", Driver())
    with pytest.warns(RuntimeWarning, match="does not work .*Failed to find C compiler") as said:
        assert not _gpu._try_triton.__wrapped__()
    assert len(said) == 1


def test_a_missing_triton_needs_no_warning(monkeypatch, recwarn):
    monkeypatch.setattr(_gpu, "find_spec", lambda name: None)
    assert not _gpu._try_triton.__wrapped__()
    assert not recwarn


def test_compiled_programs_ask_once():
    """The question is answered while torch.compile traces, and breaks no graph."""

    @torch.compile(fullgraph=True, backend="eager")
    def f(x):
        return x + 1 if _gpu.has_triton() else x + 2

    assert f(torch.zeros(())) == (1 if _gpu.has_triton() else 2)


def test_aligned():
    x = torch.arange(9, dtype=torch.float32)
    same, moved, none, strided = _gpu.aligned(x, x[1:], None, x[::2])
    assert same is x and none is None
    assert moved.data_ptr() % 16 == 0 and torch.equal(moved, x[1:])
    assert strided.is_contiguous() and torch.equal(strided, x[::2])


class Code:
    """What Triton returns from a launch: compiled code, which launches again."""

    def __init__(self, calls):
        self.calls = calls

    def __getitem__(self, grid):
        return lambda *arguments, stream: self.calls.append((grid, arguments, stream))


class Kernel:
    """A kernel of Triton (x, y, size, BLOCK) that counts how often it is looked up."""

    arg_names = ("x", "y", "size", "BLOCK")

    def __init__(self):
        self.looked_up, self.calls = [], []

    def __getitem__(self, grid):
        def call(*arguments, **options):
            self.looked_up.append((grid, arguments, options))
            return Code(self.calls)

        return call


@pytest.fixture
def launched(monkeypatch):
    monkeypatch.setattr(_gpu, "_compiled", {})
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 7, raising=False)
    kernel, x = Kernel(), torch.empty(4)

    def launch(y=None, size=3, BLOCK=16):
        _gpu.launch(kernel, 2, x, y, size, BLOCK=BLOCK, num_warps=1)
        return len(kernel.looked_up)

    return launch, kernel, x


def test_a_kernel_is_looked_up_once(launched):
    """Constants follow the arguments, options of the compiler do not, and nothing is launched twice."""
    launch, kernel, x = launched
    assert launch() == launch(size=5) == 1
    assert kernel.looked_up == [((2,), (x, None, 3), {"BLOCK": 16, "num_warps": 1})]
    assert kernel.calls == [((2, 1, 1), (x, None, 5, 16), 7)]


@pytest.mark.parametrize(
    "other",
    [
        {"y": torch.empty(1)},
        {"y": torch.empty(1, dtype=torch.bfloat16)},
        {"size": 2**31},
        {"BLOCK": 32},
    ],
)
def test_other_code_for_other_kinds_of_arguments(other, launched):
    launch, kernel, _ = launched
    assert [launch(), launch(**other), launch(), launch(**other)] == [1, 2, 2, 2]
    assert len(kernel.calls) == 2


def test_an_interpreted_kernel_is_called_each_time(launched, monkeypatch):
    launch, *_ = launched
    monkeypatch.setattr(Code, "__new__", lambda *_: None)
    assert [launch(), launch()] == [1, 2]
