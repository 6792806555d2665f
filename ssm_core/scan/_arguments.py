"""Checks of the arguments of the selective scan, the same for every backend.

They look at types, shapes, dtypes and devices only, never at the numbers in a tensor: so they cost
nothing on a GPU, and torch.compile and torch.export trace through them. The exceptions are the
boundaries in cu_seqlens, which ``ssm_core._tensors.as_packing`` reads once, and the slots of a step,
which are read where the step runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssm_core._dispatch import signature
from ssm_core._tensors import (
    Packing,
    as_packing,
    check_devices,
    check_dtype,
    check_dtypes,
    check_flag,
    check_float,
    check_shape,
)

__all__ = ["Scan", "check_scan", "check_slots", "check_step", "check_writable", "state_dtype"]

_accepted: set[tuple] = set()  # signatures of scans that were found good
MOST_ACCEPTED = 1000  # a program that meets more is checked anew


class Scan(NamedTuple):
    """The arguments of a scan, checked, in the order in which operators and backends take them."""

    u: Tensor  # (b, d, L)
    delta: Tensor  # (b, d, L)
    A: Tensor  # (d, n)
    B: Tensor  # (b, g, n, L) or (d, n)
    C: Tensor  # (b, g, n, L) or (d, n)
    D: Tensor | None  # (d,)
    z: Tensor | None  # (b, d, L)
    delta_bias: Tensor | None  # (d,)
    delta_softplus: bool
    initial_state: Tensor | None  # (b or sequences, d, n), in the dtype of the states
    cu_seqlens: Tensor | None  # (sequences + 1,)


def state_dtype(u: Tensor) -> torch.dtype:
    """The dtype of decays and states: float64 for float64 input, else float32."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def check_scan(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    delta_bias: Any,
    delta_softplus: Any,
    return_last_state: Any,
    initial_state: Any,
    cu_seqlens: Any | Packing,
) -> Scan:
    """Return the arguments with B and C as (b, g, n, L) or (d, n), or raise."""
    check_flag(delta_softplus, "delta_softplus")
    check_flag(return_last_state, "return_last_state")
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    packing = None
    seen = signature(*tensors) if cu_seqlens is None else None
    if seen is None or seen not in _accepted:
        packing = _check_scan(*tensors, cu_seqlens)
        if seen is not None:
            if len(_accepted) == MOST_ACCEPTED:
                _accepted.clear()
            _accepted.add(seen)
    B, C = (M.unsqueeze(1) if M.ndim == 3 else M for M in (B, C))
    if initial_state is not None:
        initial_state = initial_state.to(state_dtype(u))
    boundaries = None if packing is None else packing.cu_seqlens
    return Scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, boundaries)


def _check_scan(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    delta_bias: Any,
    initial_state: Any,
    cu_seqlens: Any | Packing,
) -> Packing | None:
    check_float(u, "u")
    check_shape(u, "u", ("b", "d", "L"), (None, None, None))
    check_float(A, "A")
    check_shape(A, "A", ("d", "n"), (u.shape[1], None))
    (b, d, L), n = u.shape, A.shape[1]
    if d == 0 or n == 0:
        raise ValueError(f"u has {d} channels and A {n} states a channel, expected at least 1")
    for name, value in (("delta", delta), ("z", z)):
        if value is not None or name == "delta":
            check_float(value, name)
            check_shape(value, name, ("b", "d", "L"), (b, d, L))
    for name, value in (("D", D), ("delta_bias", delta_bias)):
        if value is not None:
            check_float(value, name)
            check_shape(value, name, ("d",), (d,))
    B = _check_projection(B, "B", (b, n, L), d)
    C = _check_projection(C, "C", (b, n, L), d)
    if B.ndim == C.ndim == 4 and B.shape[1] != C.shape[1]:
        raise ValueError(f"C has {C.shape[1]} groups, expected as many as B, {B.shape[1]}")
    packing = as_packing(cu_seqlens, b, L, "u", u.device)
    if initial_state is not None:
        check_float(initial_state, "initial_state")
        check_shape(
            initial_state,
            "initial_state",
            ("b" if packing is None else "sequences", "d", "n"),
            (b if packing is None else packing.sequences, d, n),
        )
    signals = {"u": u, "delta": delta, "B": B, "C": C, "z": z, "initial_state": initial_state}
    weights = {"A": A, "D": D, "delta_bias": delta_bias}
    check_dtypes(signals, weights)
    check_devices({**signals, **weights}, "u", u.device)
    return packing


def check_step(
    state: Any,
    x: Any,
    dt: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    z: Any,
    dt_bias: Any,
    dt_softplus: Any,
    state_batch_indices: Any,
    A_is_log: Any,
) -> tuple[Tensor, Tensor]:
    """Return B and C as (b, g, n), or raise."""
    check_flag(dt_softplus, "dt_softplus")
    check_flag(A_is_log, "A_is_log")
    check_float(x, "x")
    check_shape(x, "x", ("b", "d"), (None, None))
    check_float(A, "A")
    check_shape(A, "A", ("d", "n"), (x.shape[1], None))
    (b, d), n = x.shape, A.shape[1]
    check_float(state, "state")
    rows = b if state_batch_indices is None else None
    check_shape(state, "state", ("b" if rows is not None else "slots", "d", "n"), (rows, d, n))
    check_writable(state, "state")
    for name, value in (("dt", dt), ("z", z)):
        if value is not None or name == "dt":
            check_float(value, name)
            check_shape(value, name, ("b", "d"), (b, d))
    for name, value in (("D", D), ("dt_bias", dt_bias)):
        if value is not None:
            check_float(value, name)
            check_shape(value, name, ("d",), (d,))
    B, C = _check_projection(B, "B", (b, n), d), _check_projection(C, "C", (b, n), d)
    if B.shape[1] != C.shape[1]:
        raise ValueError(f"C has {C.shape[1]} groups, expected as many as B, {B.shape[1]}")
    if state_batch_indices is not None:
        check_dtype(state_batch_indices, "state_batch_indices", (torch.int32,), "int32")
        check_shape(state_batch_indices, "state_batch_indices", ("b",), (b,))
    check_dtypes(
        {"x": x, "state": state, "dt": dt, "B": B, "C": C, "z": z},
        {"A": A, "D": D, "dt_bias": dt_bias},
    )
    check_devices(
        {
            "state": state,
            "dt": dt,
            "A": A,
            "B": B,
            "C": C,
            "D": D,
            "z": z,
            "dt_bias": dt_bias,
            "state_batch_indices": state_batch_indices,
        },
        "x",
        x.device,
    )
    return B, C


def check_slots(state_batch_indices: Tensor, slots: int) -> None:
    """Check that the gather indices lie in the pool of states and that none comes twice."""
    used = [i for i in state_batch_indices.tolist() if i >= 0]
    if used and max(used) >= slots:
        raise ValueError(
            f"state_batch_indices holds {max(used)}, expected below the number of "
            f"states in the pool, {slots}"
        )
    if len(set(used)) < len(used):
        raise ValueError("state_batch_indices names a state twice, expected each at most once")


def check_writable(x: Tensor, name: str) -> None:
    """Check that x can change in place: each entry its own, and no gradient to be lost."""
    if any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride())):
        raise ValueError(
            f"{name} is expanded (strides {x.stride()}) and changes in place, "
            f"expected memory for each entry; pass {name}.clone()"
        )
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient, and none flows through a step; pass "
            f"{name}.detach(), or step under torch.no_grad()"
        )


def _check_projection(M: Any, name: str, sizes: tuple[int, ...], d: int) -> Tensor:
    """B or C: return (b, n, L) as (b, 1, n, L), the others as they are; in a step without L."""
    check_float(M, name)
    b, n, *L = sizes
    shape = tuple(M.shape)
    # By the number of axes first: sizes that may be symbolic are compared only where they must agree.
    if L and len(shape) == 2 and shape == (d, n):
        return M
    if len(shape) == len(sizes) and shape == sizes:
        return M.unsqueeze(1)
    if len(shape) != len(sizes) + 1 or (shape[0], *shape[2:]) != (b, n, *L):
        forms = ["(d, n)", "(b, n, L)", "(b, g, n, L)"] if L else ["(b, n)", "(b, g, n)"]
        known = f"b = {b}, d = {d}, n = {n}" + (f", L = {L[0]}" if L else "")
        raise ValueError(f"{name} has shape {shape}, expected {' or '.join(forms)} with {known}")
    if shape[1] == 0 or d % shape[1] != 0:
        raise ValueError(
            f"{name} has {shape[1]} groups, expected a divisor of the number of channels d = {d}"
        )
    return M
