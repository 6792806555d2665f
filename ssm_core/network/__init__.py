"""Networks for signals and tokens: blocks of S4, S4D, Mamba, Mamba-2 or a layer of your own.

====================  =============================================================================
``SequenceModel``     the network: classifies sequences, or maps a sequence to a sequence
``ModelStepper``      a network that runs one sample at a time
``Block``             one residual block around a layer
====================  =============================================================================

**What a layer must provide.** A network knows its layers by these names alone:

``d_model``
    how many channels it has, an integer.
``forward(u, state=None, *, return_state=False, cu_seqlens=None, dt=None)``
    signals (b, L, d_model) to signals of the same shape, or ``(y, state)``. All arguments but ``u``
    may be missing. The network looks at the signature once, when it is made, and refuses what a
    layer does not take by name. ``state`` is what the layer returned before, and must not change in
    place where ``return_state`` is True; ``cu_seqlens`` are the boundaries (sequences + 1,) of
    sequences packed into one row; ``dt`` (b, L) is the time since the sample before.
``default_state(batch_size)``
    the state before the first sample, for networks that step.
``stepper()``
    if there is one: an object with ``step(u, state) -> (y, state)`` for u (b, d_model), and
    ``default_state``, that has computed what all steps share. Without it a step is ``forward`` of
    one sample.

A layer that looks ahead must take zeros after the last sample of a sequence for its end, as
convolutions do, or cannot be used with ``lengths``.
"""

from __future__ import annotations

from ssm_core.network.block import Block
from ssm_core.network.model import ModelStepper, SequenceModel

__all__ = ["Block", "ModelStepper", "SequenceModel"]


def __dir__() -> list[str]:
    return __all__
