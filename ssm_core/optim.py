"""Groups of parameters for an optimizer: one dialect for every layer of the library."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssm_core._checks import as_positive, as_real

__all__ = ["parameter_groups"]

# Norms, whose weights may have more than one axis, and tables of embeddings.
_UNDECAYED = nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag


def parameter_groups(
    model: nn.Module, lr: float, *, memory_lr: float = 1e-3, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Sort the parameters of a model into groups that an optimizer treats differently.

    ``memory``: the parameters that set what a state space layer remembers (Δ, Λ, P and B of S4 and
    S4D). They learn at ``memory_lr`` if that is slower, without weight decay: a large step there
    destroys a trained memory, and zero is not a meaningful value to pull them towards.

    ``no_decay``: biases, weights of norms and all other parameters with fewer than two axes,
    embeddings (and a head that shares the matrix of one), as is usual for language models, and
    those that a layer exempts, such as ``A_log`` of Mamba.

    ``decay``: everything else.

    A module declares its parameters by class attributes with their names, ``memory = ("log_dt",)``
    and ``no_weight_decay = ("A_log", "D")``. A parameter with the attribute ``_no_weight_decay`` set
    to True, as other packages mark it, is exempt too. A parameter that several modules share is
    listed once, and one declaration anywhere is enough.

    Args:
        model (torch.nn.Module): any module
        lr (float):           learning rate of all parameters but the memory, above 0
        memory_lr (float):    largest learning rate of the memory, above 0
        weight_decay (float): of the group ``decay``, at least 0

    Returns:
        list of at most three dicts for ``torch.optim``, with the keys ``name``, ``params``, ``lr``
        and ``weight_decay``. Frozen parameters and empty groups are left out.

    Raises:
        TypeError:  model is not a module, or a rate is not a number
        ValueError: a rate out of its range

    Book: chapter ``s4``, "One learning rate for all". Source: for the memory, Gu, Goel and Ré,
    "Efficiently Modeling Long Sequences with Structured State Spaces" (2022), appendix D.2.

    Example:
        >>> from ssm_core.optim import parameter_groups
        >>> from ssm_core.s4 import S4D
        >>> for group in parameter_groups(S4D(d_model=4), lr=0.01, weight_decay=0.05):
        ...     print(group["name"], len(group["params"]), group["lr"], group["weight_decay"])
        decay 1 0.01 0.05
        no_decay 1 0.01 0.0
        memory 4 0.001 0.0
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    lr, memory_lr = as_positive(lr, "lr"), as_positive(memory_lr, "memory_lr")
    weight_decay = as_real(weight_decay, "weight_decay", low=0.0)
    memory = _declared(model, "memory")
    exempt = _declared(model, "no_weight_decay") | {
        id(p)
        for module in model.modules()
        if isinstance(module, _UNDECAYED)
        for p in module.parameters(recurse=False)
    }
    groups: dict[str, dict[str, Any]] = {
        "decay": {"lr": lr, "weight_decay": weight_decay},
        "no_decay": {"lr": lr, "weight_decay": 0.0},
        "memory": {"lr": min(lr, memory_lr), "weight_decay": 0.0},
    }
    for p in model.parameters():  # each once, also if it is shared
        if not p.requires_grad:
            continue
        spared = p.ndim < 2 or id(p) in exempt or getattr(p, "_no_weight_decay", False)
        name = "memory" if id(p) in memory else "no_decay" if spared else "decay"
        groups[name].setdefault("params", []).append(p)
    return [{"name": name, **group} for name, group in groups.items() if "params" in group]


def _declared(model: nn.Module, attribute: str) -> set[int]:
    """Identities of the parameters that modules name in a class attribute.

    A parametrization (``torch.nn.utils.parametrize``) keeps what it trains of a parameter ``P``
    under ``parametrizations.P``.
    """
    return {
        id(p)
        for module in model.modules()
        for declared in getattr(module, attribute, ())
        for name, p in module.named_parameters()
        if name == declared or name.startswith(f"parametrizations.{declared}.")
    }
