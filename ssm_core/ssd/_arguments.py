"""Checks of the arguments of SSD, the same for every backend.

They look at types, shapes, dtypes and devices only, never at the numbers in a tensor; the boundaries
in cu_seqlens, which ``ssm_core._tensors.as_packing`` reads once, are the exception.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from ssm_core._checks import as_int
from ssm_core._tensors import (
    Packing,
    as_packing,
    check_devices,
    check_dtypes,
    check_flag,
    check_float,
    check_shape,
)
from ssm_core.scan._arguments import state_dtype

__all__ = ["SSD", "check_matrix", "check_ssd", "state_dtype"]

CHUNK_SIZES = (16, 32, 64, 128, 256)


class SSD(NamedTuple):
    """The arguments of SSD, checked, in the order in which operators and backends take them."""

    x: Tensor  # (b, L, h, p)
    dt: Tensor  # (b, L, h)
    A: Tensor  # (h,)
    B: Tensor  # (b, L, g, n)
    C: Tensor  # (b, L, g, n)
    D: Tensor | None  # (h,) or (h, p)
    z: Tensor | None  # (b, L, h, p)
    dt_bias: Tensor | None  # (h,)
    dt_softplus: bool
    dt_min: float
    dt_max: float
    initial_states: Tensor | None  # (b or sequences, h, p, n), in the dtype of the states
    cu_seqlens: Tensor | None  # (sequences + 1,)
    chunk_size: int | None


def check_ssd(
    x: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    dt_bias: Any,
    dt_softplus: Any,
    dt_limit: Any,
    initial_states: Any,
    cu_seqlens: Any | Packing,
    return_final_states: Any,
    chunk_size: Any,
) -> SSD:
    """Return the arguments, or raise."""
    check_flag(dt_softplus, "dt_softplus")
    check_flag(return_final_states, "return_final_states")
    dt_min, dt_max = _check_limits(dt_limit)
    if chunk_size is not None and as_int(chunk_size, "chunk_size") not in CHUNK_SIZES:
        choices = ", ".join(map(str, CHUNK_SIZES))
        raise ValueError(f"chunk_size is {chunk_size}, expected None or one of: {choices}")
    check_float(x, "x")
    check_shape(x, "x", ("b", "L", "h", "p"), (None,) * 4)
    b, L, h, p = x.shape
    n = _check_system(dt, A, B, C, (b, L, h))
    if h == 0 or p == 0:
        raise ValueError(f"x has {h} heads of {p} channels, expected at least 1 of each")
    if z is not None:
        check_float(z, "z")
        check_shape(z, "z", ("b", "L", "h", "p"), (b, L, h, p))
    if dt_bias is not None:
        check_float(dt_bias, "dt_bias")
        check_shape(dt_bias, "dt_bias", ("h",), (h,))
    if D is not None:
        check_float(D, "D")
        if (D.ndim != 2 and tuple(D.shape) != (h,)) or (D.ndim == 2 and tuple(D.shape) != (h, p)):
            raise ValueError(
                f"D has shape {tuple(D.shape)}, expected (h,) or (h, p) with h = {h}, p = {p}"
            )
    packing = as_packing(cu_seqlens, b, L, "x", x.device)
    if initial_states is not None:
        check_float(initial_states, "initial_states")
        rows = b if packing is None else packing.sequences
        check_shape(
            initial_states,
            "initial_states",
            ("b" if packing is None else "sequences", "h", "p", "n"),
            (rows, h, p, n),
        )
    signals = {"x": x, "dt": dt, "B": B, "C": C, "z": z, "initial_states": initial_states}
    weights = {"A": A, "D": D, "dt_bias": dt_bias}
    check_dtypes(signals, weights)
    check_devices({**signals, **weights}, "x", x.device)
    if initial_states is not None:
        initial_states = initial_states.to(state_dtype(x))
    boundaries = None if packing is None else packing.cu_seqlens
    return SSD(
        x,
        dt,
        A,
        B,
        C,
        D,
        z,
        dt_bias,
        dt_softplus,
        dt_min,
        dt_max,
        initial_states,
        boundaries,
        chunk_size,
    )


def check_matrix(dt: Any, A: Any, B: Any, C: Any) -> None:
    """Raise unless these are dt (b, L, h), A (h,), B and C (b, L, g, n)."""
    check_float(dt, "dt")
    check_shape(dt, "dt", ("b", "L", "h"), (None,) * 3)
    _check_system(dt, A, B, C, dt.shape)
    check_dtypes({"dt": dt, "B": B, "C": C}, {"A": A})
    check_devices({"A": A, "B": B, "C": C}, "dt", dt.device)


def _check_system(dt: Any, A: Any, B: Any, C: Any, sizes: Any) -> int:
    """Check dt, A, B and C for b, L, h; return n."""
    b, L, h = sizes
    check_float(dt, "dt")
    check_shape(dt, "dt", ("b", "L", "h"), (b, L, h))
    check_float(A, "A")
    check_shape(A, "A", ("h",), (h,))
    check_float(B, "B")
    check_shape(B, "B", ("b", "L", "g", "n"), (b, L, None, None))
    g, n = B.shape[2:]
    if n == 0:
        raise ValueError("B has no states (n = 0), expected at least 1")
    if g == 0 or h % g != 0:
        raise ValueError(f"B has {g} groups, expected a divisor of the number of heads h = {h}")
    check_float(C, "C")
    check_shape(C, "C", ("b", "L", "g", "n"), (b, L, g, n))
    return n


def _check_limits(dt_limit: Any) -> tuple[float, float]:
    """The least and the largest step, in order; infinity is allowed."""
    try:
        low, high = map(float, dt_limit)
    except (TypeError, ValueError):
        raise TypeError(
            f"dt_limit is {dt_limit!r}, expected two numbers (least, largest)"
        ) from None
    if not low <= high or low == math.inf:
        raise ValueError(f"dt_limit is ({low:g}, {high:g}), expected (least, largest) in order")
    return low, high
