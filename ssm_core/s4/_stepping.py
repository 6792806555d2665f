"""The way from steppers to their compiled step: who may take it, and what it reads.

``ssm_core.s4._compiled`` holds the arithmetic, and needs Numba. Without it, on other devices, with
gradients, in traces and for modules that are not the plain ones, steps run in PyTorch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ssm_core._dispatch import has_gradient, in_forward_mode, is_transformed, needs_operator
from ssm_core._modules import is_plain
from ssm_core._tensors import check_finite

__all__ = ["NetworkStep", "Systems", "pack_network", "pack_systems", "runs_compiled", "step_layer"]


@functools.cache
def kernels() -> Any:
    """The compiled functions, or None where there is no Numba that works."""
    try:
        from ssm_core.s4 import _compiled
    except ImportError:
        return None
    return _compiled


def runs_compiled(u: Tensor, *states: Tensor) -> bool:
    """Whether the compiled step is for these samples and states: it has no derivatives."""
    return (
        u.dtype in (torch.float32, torch.float64)
        and not needs_operator(u, *states)
        and not has_gradient(u, *states)
        and not is_transformed()
        and not in_forward_mode()
    )


# --- layers -----------------------------------------------------------------------------------


class Systems(NamedTuple):
    """Discretized systems as arrays: modes (…, H, 6, n), left and right (…, H, r, 2, n), D (…, H)."""

    modes: np.ndarray
    left: np.ndarray
    right: np.ndarray
    D: np.ndarray


def pack_systems(recurrence: Any, D: Tensor) -> Systems | None:
    """What the compiled step of a layer reads; None where it does not run."""
    tensors = [recurrence.decay, recurrence.B, recurrence.C, D]
    tensors += [x for x in (recurrence.left, recurrence.right) if x is not None]
    fits = D.device.type == "cpu" and D.dtype == torch.float64 and len(recurrence.C) == 1
    if not fits or any(x.requires_grad for x in tensors) or needs_operator(*tensors):
        return None
    if kernels() is None:
        return None
    decay, B, C = (x.numpy() for x in tensors[:3])
    low_rank = [
        np.zeros((len(decay), 0, 2, decay.shape[1])) if x is None else _planes(x.numpy(), 2)
        for x in (recurrence.left, recurrence.right)
    ]
    modes = np.concatenate([_planes(x, 1) for x in (decay, B, 2 * C[0])], axis=1)
    return Systems(modes, low_rank[0], low_rank[1], D.numpy())


def step_layer(
    systems: Systems, u: Tensor, state: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """One sample (b, H) of a layer: y, and the state in dtype."""
    y, after = torch.empty_like(u, memory_format=torch.contiguous_format), _like(state, dtype)
    finite = kernels().step_layer(
        u.detach().numpy(), _pairs(state), *systems, _pairs(after), y.numpy()
    )
    if not finite:
        check_finite(u, "u")
    return y, after


def _planes(x: np.ndarray, axis: int) -> np.ndarray:
    """Real and imaginary parts along a new axis."""
    return np.stack([x.real, x.imag], axis=axis)


def _pairs(state: Tensor) -> np.ndarray:
    """Complex numbers (…, n) as real ones (…, 2 n), which share their memory."""
    array = state.detach().contiguous().numpy()
    return array.view(array.real.dtype)


def _like(state: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(state.shape, dtype=dtype)


# --- a network of them ------------------------------------------------------------------------


class NetworkStep(NamedTuple):
    """What the compiled step of a network reads: see ``_compiled.step_network``."""

    systems: Systems
    blocks: tuple[np.ndarray, ...]
    ends: tuple[Any, ...]
    d_output: int

    def __call__(
        self, u: Tensor, states: Sequence[Tensor], dtype: torch.dtype
    ) -> tuple[Tensor, list[Tensor]]:
        """One sample (b, d_input) and a state for each block: y (b, d_output), and states in dtype."""
        y = torch.empty(len(u), self.d_output, dtype=u.dtype)
        before = torch.stack(list(states))
        after = _like(before, dtype)
        finite = kernels().step_network(
            u.detach().numpy(),
            _pairs(before),
            self.systems,
            self.blocks,
            self.ends,
            _pairs(after),
            y.numpy(),
        )
        if not finite:
            check_finite(u, "u")
        return y, list(after.unbind(0))


def pack_network(model: Any, layers: Sequence[Systems | None]) -> NetworkStep | None:
    """The step of an encoder, blocks of norm, layer and mixing, a norm and a decoder.

    None where one of them is not a plain module, or where layers are not alike.
    """
    packed = [x for x in layers if x is not None]
    parts = [model.encoder, model.norm, model.decoder]
    parts += [part for block in model.blocks for part in (block.norm, *block.mix)]
    if len(packed) < len(layers) or not all(map(_is_known, parts)):
        return None
    if len({tuple(x.shape for x in systems) for systems in packed}) != 1:
        return None
    dtype = model.encoder.weight.dtype
    weights = [p for part in parts for p in part.parameters()]
    narrow = dtype not in (torch.float32, torch.float64)
    if narrow or any(p.dtype != dtype or p.device.type != "cpu" for p in weights):
        return None
    linear = [block.mix[2] for block in model.blocks]
    norms = [block.norm for block in model.blocks]
    blocks = (*_stacked(norms), np.array([norm.eps for norm in norms]), *_stacked(linear))
    ends = (*_arrays(model.encoder), *_arrays(model.norm), model.norm.eps, *_arrays(model.decoder))
    systems = Systems(*(np.stack(x) for x in zip(*packed)))
    return NetworkStep(systems, blocks, ends, model.d_output)


def _is_known(module: nn.Module) -> bool:
    """Whether the compiled step computes what this module does in evaluation mode."""
    if isinstance(module, nn.Dropout1d):
        return not module.training and is_plain(module, type(module))
    if type(module) in (nn.Linear, nn.LayerNorm) and module.bias is None:
        return False
    exact = getattr(module, "approximate", "none") == "none"
    return exact and any(
        is_plain(module, kind) for kind in (nn.Linear, nn.LayerNorm, nn.GELU, nn.GLU)
    )


def _arrays(module: Any) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = module.weight.detach().contiguous(), module.bias.detach().contiguous()
    return weight.numpy(), bias.numpy()


def _stacked(modules: Sequence[nn.Module]) -> tuple[np.ndarray, np.ndarray]:
    weights, biases = zip(*map(_arrays, modules))
    return np.stack(weights), np.stack(biases)
