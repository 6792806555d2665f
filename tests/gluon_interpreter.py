"""An interpreter for the Gluon kernels, which Triton has none for: Gluon's functions on torch tensors.

``install()`` imports the kernels with it in place of Triton's Gluon, and of Triton's own language, in
which the kernel ``totals`` is written. Programs run one after the other. Layouts are ignored, since
the kernels compute the same numbers in any of them. What a kernel must not rely on is made to show:
loads and stores are checked against the memory's bounds, shared memory begins as NaN, and an
asynchronous copy leaves NaN until it has been waited for. Tensor-core products take their operands
from the lanes as the hardware does, and round them likewise.
"""

import importlib
import inspect
import itertools
import sys
import types

import pytest
import torch
import triton

_program = [0]
_copies = []


class Pointer:
    """Memory of a tensor, and an offset or a block of offsets."""

    def __init__(self, memory, offset=0):
        self.memory, self.offset = memory, offset
        self.dtype = types.SimpleNamespace(element_ty=memory.dtype)

    def __add__(self, offset):
        return Pointer(self.memory, self.offset + offset)

    def positions(self, mask):
        offset = torch.as_tensor(self.offset)
        here = torch.ones_like(offset, dtype=torch.bool) if mask is None else mask
        offset, here = torch.broadcast_tensors(offset, torch.as_tensor(here))
        inside = (offset >= 0) & (offset < self.memory.numel())
        assert inside[here].all(), "memory beside an argument is touched"
        return offset.long(), here


def load(pointer, mask=None, other=0.0):
    offset, here = pointer.positions(mask)
    if not pointer.memory.numel():
        return torch.full(offset.shape, other, dtype=pointer.memory.dtype)
    values = pointer.memory[torch.where(here, offset, 0)]
    return torch.where(here, values, torch.as_tensor(other, dtype=values.dtype))


def store(pointer, value, mask=None):
    offset, here = pointer.positions(mask)
    value = torch.as_tensor(value).to(pointer.memory.dtype).expand(offset.shape)
    pointer.memory[offset[here]] = value[here]


class Shared:
    """Shared memory, or a part of it."""

    def __init__(self, memory):
        self.memory = memory

    def index(self, i):
        return Shared(self.memory[int(i)])

    def load(self, layout=None):
        return self.memory.clone()

    def store(self, value):
        assert value.shape == self.memory.shape
        self.memory.copy_(value)

    def reinterpret(self, dtype, shape, layout, _semantic=None):
        return Shared(self.memory.view(shape))


def allocate_shared_memory(dtype, shape, layout):
    return Shared(torch.full(shape, float("nan"), dtype=dtype))


def async_load(shared, pointer):
    shared.memory.fill_(float("nan"))
    _copies.append((shared, pointer))


def wait_group(left):
    assert left == 0
    for shared, pointer in _copies:
        shared.store(load(pointer))
    _copies.clear()


class Kernel:
    """A function of a kernel, or a kernel: ``kernel[grid](...)`` runs all programs."""

    def __init__(self, function):
        self.function, self.__name__ = function, function.__name__
        self.parameters = inspect.signature(function).parameters
        function.__globals__["range"] = _range  # whose numbers are tensors, as in a kernel

    def __call__(self, *args, **options):
        return self.function(*args, **options)

    def __getitem__(self, grid):
        return lambda *args, **options: self._run(grid, args, options)

    def _run(self, grid, args, options):
        given = dict(zip(self.parameters, args))
        given |= {name: value for name, value in options.items() if name in self.parameters}
        for name, value in given.items():
            if isinstance(value, torch.Tensor):
                assert value.is_contiguous() and value.data_ptr() % 16 == 0
                given[name] = Pointer(value.view(-1))
            elif isinstance(value, int) and self.parameters[name].annotation is not constexpr:
                given[name] = torch.tensor(value, dtype=torch.int32)
        for program in itertools.product(*map(range, grid)):
            _program[0] = program[0]
            _copies.clear()
            self.function(**given)


def _range(*bounds):
    return (torch.tensor(i, dtype=torch.int32) for i in range(*map(int, bounds)))


def jit(function=None, **_):
    return Kernel if function is None else Kernel(function)


def constexpr(value):
    return value


def inline_asm_elementwise(asm, constraints, args, **_):
    if asm.startswith("ex2"):
        return torch.exp2(args[0])
    if asm.startswith("rcp"):
        return 1 / args[0]
    if asm.startswith("cvt.rn.bf16x2"):
        low, high = (x.bfloat16().view(torch.int16).int() for x in args)
        return low & 0xFFFF | high << 16
    assert "mma.sync" in asm
    return _product(asm, args[:4], args[4:6], args[6:])


def _product(asm, a, b, c):
    """D = A B + C, each thread holding its share in registers, (warps, 32) each."""
    wide = "m16n8k16" in asm

    def numbers(x):  # (warps, 32, numbers in a register)
        if wide:
            return torch.stack([x << 16, x & -65536], -1).view(torch.float32)
        return (x & -8192)[..., None].view(torch.float32)

    each = 2 if wide else 1
    r, q, k = torch.arange(32) // 4, torch.arange(32) % 4, torch.arange(each)
    rows, columns = r[:, None].expand(32, each), q[:, None] * each + k
    A = torch.zeros(len(c[0]), 16, 8 * each)
    B = torch.zeros(len(c[0]), 8 * each, 8)
    for i, x in enumerate(a):
        A[:, rows + i % 2 * 8, columns + i // 2 * 4 * each] = numbers(x)
    for i, x in enumerate(b):
        B[:, columns + i * 4 * each, rows] = numbers(x)
    D = A @ B
    return tuple(c[i] + D[:, r + i // 2 * 8, 2 * q + i % 2] for i in range(4))


def _to(x, dtype, *args, bitcast=False, _plain=torch.Tensor.to, **options):
    return x.view(dtype) if bitcast else _plain(x, dtype, *args, **options)


def _layout(*_, **__):
    return None


def _both(function):
    return lambda a, b: function(*torch.broadcast_tensors(*map(torch.as_tensor, (a, b))))


def install():
    """Import the kernels with this module in place of Triton's Gluon."""
    padded = types.SimpleNamespace(with_identity_for=_layout)
    language = types.ModuleType("triton.experimental.gluon.language")
    language.__dict__.update(
        _core=types.SimpleNamespace(builtin=lambda f: f),
        constexpr=constexpr,
        float32=torch.float32,
        int32=torch.int32,
        int64=torch.int64,
        BlockedLayout=_layout,
        SliceLayout=_layout,
        DistributedLinearLayout=_layout,
        SwizzledSharedLayout=_layout,
        PaddedSharedLayout=padded,
        program_id=lambda axis: torch.tensor(_program[axis], dtype=torch.int32),
        arange=lambda start, end, layout=None: torch.arange(start, end, dtype=torch.int32),
        zeros=lambda shape, dtype, layout=None: torch.zeros(shape, dtype=dtype),
        static_range=range,
        load=load,
        store=store,
        allocate_shared_memory=allocate_shared_memory,
        inline_asm_elementwise=inline_asm_elementwise,
        fma=lambda a, b, c: a * b + c,
        abs=torch.abs,
        cdiv=lambda a, b: (a + b - 1) // b,
        minimum=_both(torch.minimum),
        maximum=_both(torch.maximum),
        where=torch.where,
        sum=lambda x, axis: x.sum(axis),
        max=lambda x, axis: x.amax(axis),
        expand_dims=torch.unsqueeze,
        broadcast=torch.broadcast_tensors,
        reshape=torch.reshape,
        permute=torch.permute,
        join=lambda a, b: torch.stack([a, b], -1),
        split=lambda x: x.unbind(-1),
        convert_layout=lambda x, layout, assert_trivial=False: x,
    )
    package = types.ModuleType("triton.experimental.gluon")
    package.jit, package.constexpr_function, package.language = jit, lambda f: f, language
    ampere = types.ModuleType("triton.experimental.gluon.language.nvidia.ampere")
    ampere.async_copy = types.SimpleNamespace(
        async_load=async_load, wait_group=wait_group, commit_group=lambda: None
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in (package, language, ampere):
            patch.setitem(sys.modules, module.__name__, module)
        patch.setitem(sys.modules, "triton.language", language)
        patch.setattr(triton, "language", language)
        patch.setattr(triton, "jit", jit)
        importlib.import_module("ssm_core.scan.gluon._launch")
    torch.Tensor.to = _to
