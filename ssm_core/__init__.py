"""State space models, from the mass on a spring to the selective scan.

The library behind the book: each chapter derives and shows, this package computes. Modules in the
order of the story:

========================  ==========================================================
``ssm_core.rnn``          recurrences with a nonlinearity, gradient norms through time
``ssm_core.discretize``   from x' = Ax + Bu to a sequence update, every rule
``ssm_core.convolution``  causal convolution by FFT, kernels from (A, B, C)
``ssm_core.lti``          ``ContinuousSSM`` and ``DiscreteSSM``
``ssm_core.hippo``        A and B for a long memory, online compression
``ssm_core.s4``           structured state space layers, S4 and S4D (PyTorch)
``ssm_core.scan``         the selective scan on CPU and GPU (PyTorch)
``ssm_core.mamba``        the Mamba block, language models, checkpoints (PyTorch)
``ssm_core.data``         signals, prices, synthetic tasks: all offline, all seeded
``ssm_core.figures``      one look for every figure
``ssm_core.exercises``    the checks behind the exercises
========================  ==========================================================

``import ssm_core`` loads none of them, nor what they need; ``ssm_core.lti`` and the others are
imported when they are first asked for.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_MODULES = ("rnn", "discretize", "convolution", "lti", "hippo", "s4", "scan", "mamba", "data",
            "figures", "exercises")

__all__ = ["__version__"]


def __getattr__(name: str):
    """Import a module of the package the first time it is asked for (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
