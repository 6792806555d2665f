"""Steps of states with heads, (b, h, p, n), as steps of h p channels."""

from __future__ import annotations

from typing import Any

from ssm_core._tensors import check_float, check_shape
from ssm_core.scan._arguments import check_writable

__all__ = ["fold_heads"]


def fold_heads(
    state: Any, x: Any, dt: Any, A: Any, B: Any, D: Any, z: Any, dt_bias: Any, pooled: bool
) -> tuple[Any, ...]:
    """Return state (b, h p, n), x, dt (b, h p), A (h p, n), D (h p,), z, dt_bias, or raise.

    The state is a view where its strides allow that, else a copy. What is expanded over the channels
    of a head, as one decay of Mamba-2 is, gets memory for each of them.
    """
    check_float(state, "state")
    check_writable(state, "state")
    check_float(x, "x")
    check_shape(x, "x", ("b", "h", "p"), (None, *state.shape[1:3]))
    (b, h, p), n = x.shape, state.shape[3]
    if not pooled:
        check_shape(state, "state", ("b", "h", "p", "n"), (b, h, p, n))
    check_float(B, "B")
    check_shape(B, "B", ("b", "g", "n"), (b, None, n))
    if B.shape[1] == 0 or h % B.shape[1] != 0:
        raise ValueError(
            f"B has {B.shape[1]} groups, expected a divisor of the number of heads h = {h}"
        )
    for name, value, axes, sizes in (
        ("dt", dt, ("b", "h", "p"), (b, h, p)),
        ("A", A, ("h", "p", "n"), (h, p, n)),
        ("D", D, ("h", "p"), (h, p)),
        ("z", z, ("b", "h", "p"), (b, h, p)),
        ("dt_bias", dt_bias, ("h", "p"), (h, p)),
    ):
        if value is not None or name in ("dt", "A"):
            check_float(value, name)
            check_shape(value, name, axes, sizes)
    x, dt, z, state = (None if M is None else M.flatten(1, 2) for M in (x, dt, z, state))
    A, D, dt_bias = (None if M is None else M.flatten(0, 1) for M in (A, D, dt_bias))
    return state, x, dt, A, D, z, dt_bias
