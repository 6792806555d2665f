r"""State space duality, the sequence layer of Mamba-2: one scalar decay a head and step.

======================================  ==========================================================
``ssd_fn``                              the layer over a sequence
``ssd_matrix``                          the matrix that it multiplies by, for small lengths
``mamba_chunk_scan_combined``           the published call, for code that changes its import
======================================  ==========================================================

The backends are ``reference``, a loop in plain autograd, and ``chunk`` (PyTorch, any device) and
``triton`` (GPU, on trial), which cut time into chunks, compute inside them with matrix products, and have a
backward of their own. ``ssm_core.ssd.chunk`` has the algorithm, ``ssm_core.ssd._backends`` says what
a backend is. One step for inference is ``ssm_core.scan.selective_state_update``.

**Derivatives.** All backends have gradients. Derivatives of gradients need ``backend="reference"``;
the other backends refuse them. Forward mode and the transforms of ``torch.func`` run the reference
whatever the backend, because they need a definition in plain PyTorch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssm_core._dispatch import has_gradient, is_transformed, needs_definition, needs_operator
from ssm_core._tensors import Packing
from ssm_core.ssd import _operators, reference
from ssm_core.ssd._arguments import check_ssd
from ssm_core.ssd._backends import load_backend, pick_backend
from ssm_core.ssd._published import mamba_chunk_scan_combined
from ssm_core.ssd.matrix import ssd_matrix

__all__ = ["mamba_chunk_scan_combined", "ssd_fn", "ssd_matrix"]


def __dir__() -> list[str]:
    return __all__


def ssd_fn(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    initial_states: Tensor | None = None,
    cu_seqlens: Tensor | Packing | None = None,
    return_final_states: bool = False,
    chunk_size: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Run the recurrence of Mamba-2 over a sequence, with gradients for every tensor.

    .. math::

        S_t = e^{\Delta_t A} S_{t-1} + \Delta_t x_t B_t^{\mathsf T}, \qquad
        y_t = (S_t C_t + D x_t) \cdot \operatorname{silu}(z_t)

    for each of h heads, whose state :math:`S_t` is a matrix (p, n) and whose decay is one number.
    :math:`\Delta_t` is ``dt`` plus ``dt_bias``, through softplus if asked for, and then within
    ``dt_limit``. Decays are exponentials of sums of :math:`\Delta_t A`, never of differences of
    cumulative sums in the dtype of the states: large decays give 0 and no NaN. The same arguments give the same bits in every
    run on a device, and offsets are 64 bits wide.

    Args:
        x (float32, bfloat16, float16 or float64): input (b, L, h, p). L = 0 gives an empty output.
        dt (as x): steps (b, L, h), in the units of time of 1/A.
        A (float32): decay rate of each head (h,), usually below 0.
        B, C (as x): input and output weights (b, L, g, n) for g groups of h/g neighbouring heads.
        D (float32): weight of the direct path, (h,) or (h, p), or None for none.
        z (as x): gate (b, L, h, p); the output is multiplied by silu(z).
        dt_bias (float32): added to dt before softplus (h,).
        dt_softplus (bool): send dt through softplus, log(1 + exp(dt)).
        dt_limit: least and largest step; what is beyond becomes the limit and has no gradient. The
            default sets steps below 0 to 0.
        initial_states (float32): states before the first step (b, h, p, n); zeros if None. Gradients
            flow into them, and out of the final states.
        cu_seqlens (int32): boundaries (sequences + 1,) of sequences that are packed into one row:
            sequence i is x[:, cu_seqlens[i]:cu_seqlens[i + 1]], and no state passes a boundary. The
            batch is then 1, the states are (sequences, h, p, n), and a sequence without samples
            returns the states it began with.
        return_final_states (bool): return the states after the last step too.
        chunk_size (int): steps of a chunk: 16, 32, 64, 128 or 256, or None for the backend's choice.
            It changes the speed and the rounding; triton takes shorter ones where long ones do not fit.
        backend (str): "auto", "reference", "chunk" or "triton". Auto takes chunk. The kernels of
            triton have not run on a GPU since they were rewritten (``benchmarks/NOTES.md``), so they
            run only where they are asked for; they take steps of one sign.

        x, dt, z, B, C may differ in dtype, except that float64 stands for all or none; decays and
        states are float32, or float64 for float64. In bfloat16, triton rounds the factors of its
        matrix products, the state at the start of a chunk among them, to bfloat16, and adds in
        float32.

    Returns:
        y (b, L, h, p) in x's dtype, or (y, final_states) with final_states (b, h, p, n) in float32,
        or float64 for float64 input.

    Raises:
        ValueError: a wrong shape, device, limit, chunk size, backend or boundary.
        TypeError: something that is not a tensor, or a dtype that is not taken, such as a complex one.

    Equations eq-ssd, eq-ssd-chunk. Source: Dao and Gu, "Transformers are SSMs: Generalized Models
    and Efficient Algorithms Through Structured State Space Duality" (2024), sections 3 and 6.

    Example:
        >>> import torch
        >>> from ssm_core.ssd import ssd_fn
        >>> x, dt, one = torch.ones(1, 3, 1, 1), torch.ones(1, 3, 1), torch.ones(1, 3, 1, 1)
        >>> A = -torch.log(torch.tensor([2.0]))  # each step halves the state
        >>> y, states = ssd_fn(x, dt, A, one, one, return_final_states=True)
        >>> y.flatten()
        tensor([1.0000, 1.5000, 1.7500])
        >>> ssd_fn(x, dt, A, one, one, initial_states=states).flatten()  # go on from there
        tensor([1.8750, 1.9375, 1.9688])
    """
    given = check_ssd(
        x,
        dt,
        A,
        B,
        C,
        D,
        z,
        dt_bias,
        dt_softplus,
        dt_limit,
        initial_states,
        cu_seqlens,
        return_final_states,
        chunk_size,
    )
    backend = pick_backend(backend, x, B.shape[3])
    floats = (x, dt, A, B, C, D, z, dt_bias, initial_states)
    if backend == "reference" or is_transformed() or needs_definition(*floats):
        y, states = reference.ssd(*given)
    elif needs_operator(*floats):
        y, states = torch.ops.ssm_core.ssd(*given, backend)
    elif has_gradient(*floats):
        y, states = _operators.StateSpaceDual.apply(*given, backend)
    else:
        y, states = load_backend(backend).forward(*given)
    return (y, states) if return_final_states else y
