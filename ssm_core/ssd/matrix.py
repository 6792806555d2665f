"""The matrix that an SSD layer is: 1-semiseparable, masked by decays."""

from __future__ import annotations

import torch
from torch import Tensor

from ssm_core._tensors import no_autocast
from ssm_core.ssd._arguments import check_matrix, state_dtype

__all__ = ["segment_sums", "ssd_matrix"]


def ssd_matrix(dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    r"""The matrix M of each head with :math:`y = M x`, for lengths small enough to look at.

    .. math::

        M_{ij} = C_i^{\mathsf T} B_j \, \Delta_j \, e^{A (\Delta_{j+1} + \dots + \Delta_i)}
        \quad (i \ge j), \qquad M_{ij} = 0 \quad (i < j)

    Args:
        dt (float32, bfloat16, float16 or float64): steps (b, L, h), as the recurrence takes them: no
            bias, softplus or limit is applied.
        A (float32): decay rate of each head (h,).
        B, C (as dt): input and output weights (b, L, g, n), each group for h/g neighbouring heads.

    Returns:
        M (b, h, L, L) in float32, or float64 for float64. It has L² entries a head and is made of
        (L, L) arrays: for plots and checks, not for computing.

    Raises:
        ValueError, TypeError: as :func:`ssd_fn`.

    Equation eq-ssd-matrix. Source: Dao and Gu, "Transformers are SSMs: Generalized Models and
    Efficient Algorithms Through Structured State Space Duality" (2024), section 3.

    Example:
        >>> import torch
        >>> from ssm_core.ssd import ssd_matrix
        >>> dt, one = torch.ones(1, 3, 1), torch.ones(1, 3, 1, 1)
        >>> A = -torch.log(torch.tensor([2.0]))  # each step halves the state
        >>> ssd_matrix(dt, A, one, one)
        tensor([[[[1.0000, 0.0000, 0.0000],
                  [0.5000, 1.0000, 0.0000],
                  [0.2500, 0.5000, 1.0000]]]])
    """
    check_matrix(dt, A, B, C)
    dtype, heads = state_dtype(dt), dt.shape[2] // B.shape[2]
    steps = dt.to(dtype).transpose(1, 2)  # (b, h, L)
    with no_autocast(dt.device):
        scores = torch.einsum("bign,bjgn->bgij", C.to(dtype), B.to(dtype))
    decays = torch.exp(segment_sums(steps * A[:, None]))  # (b, h, L, L)
    return scores.repeat_interleave(heads, dim=1) * decays * steps[..., None, :]


def segment_sums(a: Tensor) -> Tensor:
    """S (…, Q, Q) with S_ij = a_{j+1} + … + a_i for i ≥ j, and −∞ above the diagonal.

    Each is a sum of its own. A difference of two cumulative sums would be cheaper and loses what the
    sums have in common: with large decays all digits, and ∞ − ∞ is NaN.
    """
    Q = a.shape[-1]
    lower = torch.ones(Q, Q, dtype=torch.bool, device=a.device).tril()
    terms = torch.where(lower.tril(-1), a[..., :, None], 0)
    return torch.where(lower, terms.cumsum(-2), -torch.inf)
