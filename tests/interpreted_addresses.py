"""Triton's interpreter reads and writes wherever a kernel points. Here it has to stay inside arguments."""

import numpy as np
import pytest
from triton.runtime import interpreter


def _extent(tensor):
    """The addresses of the first element of a tensor and behind its last."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    size = (last + 1) * tensor.element_size() if tensor.numel() else 0
    return tensor.data_ptr(), tensor.data_ptr() + size


def _check(pointers, mask, extents):
    addresses = np.broadcast_to(pointers.data, mask.data.shape)[mask.data].astype(np.int64)
    size = pointers.get_element_ty().primitive_bitwidth // 8
    inside = np.zeros(addresses.shape, bool)
    for first, end in extents:
        inside |= (addresses >= first) & (addresses + size <= end)
    if not inside.all():
        raise IndexError(f"{(~inside).sum()} of {inside.size} addresses are outside the arguments")


@pytest.fixture(autouse=True)
def addresses_checked(monkeypatch):
    """Each load and store of a kernel must stay inside one of the tensors that the kernel was given."""
    extents = []
    executor, builder = interpreter.GridExecutor, interpreter.InterpreterBuilder
    prepare, load = executor._init_args_hst, builder.create_masked_load
    store = builder.create_masked_store

    def checked_prepare(self, args, kwargs):
        args, kwargs = prepare(self, args, kwargs)
        extents[:] = [_extent(x) for x in (*args, *kwargs.values()) if hasattr(x, "data_ptr")]
        return args, kwargs

    def checked_load(self, pointers, mask, *others, **options):
        _check(pointers, mask, extents)
        return load(self, pointers, mask, *others, **options)

    def checked_store(self, pointers, value, mask, *others, **options):
        _check(pointers, mask, extents)
        return store(self, pointers, value, mask, *others, **options)

    monkeypatch.setattr(executor, "_init_args_hst", checked_prepare)
    monkeypatch.setattr(builder, "create_masked_load", checked_load)
    monkeypatch.setattr(builder, "create_masked_store", checked_store)
