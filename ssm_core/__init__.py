"""State space models, from the mass on a spring to the selective scan.

The library under the book: each chapter derives and shows, this package computes. The modules, in
the order of the chapters:

========================  ==========================================================
``ssm_core.rnn``          recurrences with a nonlinearity, gradient norms through time
``ssm_core.discretize``   from x' = Ax + Bu to a sequence update, every rule
``ssm_core.convolution``  causal convolution by FFT, kernels from (A, B, C)
``ssm_core.lti``          ``ContinuousSSM`` and ``DiscreteSSM``
``ssm_core.hippo``        A and B for a long memory, online compression
``ssm_core.s4``           structured state space layers, S4 and S4D (PyTorch)
``ssm_core.scan``         the selective scan on CPU and GPU (PyTorch)
``ssm_core.ssd``          state space duality, the layer of Mamba-2, on CPU and GPU (PyTorch)
``ssm_core.mamba``        the Mamba block, language models, checkpoints (PyTorch)
``ssm_core.network``      networks of all these layers, for signals and tokens (PyTorch)
``ssm_core.optim``        groups of parameters for an optimizer (PyTorch)
========================  ==========================================================

``import ssm_core`` loads none of them, nor what they need; ``ssm_core.lti`` and the others are
imported when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imports below are lazy: this tells editors and type checkers what there is
    from ssm_core import (
        convolution,
        discretize,
        hippo,
        lti,
        mamba,
        network,
        optim,
        rnn,
        s4,
        scan,
        ssd,
    )

__version__ = "0.1.0"

__all__ = [
    "convolution",
    "discretize",
    "hippo",
    "lti",
    "mamba",
    "network",
    "optim",
    "rnn",
    "s4",
    "scan",
    "ssd",
]


def __getattr__(name: str) -> Any:
    """Import a module of the package the first time it is asked for (PEP 562)."""
    if name in __all__:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
