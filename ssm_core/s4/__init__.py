"""S4: structured state space layers, derived in the chapter of the same name.

================================  =================================================================
``dplr``, ``DPLR``                HiPPO matrices as diagonal plus low rank: kernels, recurrences
``s4d_modes``, ``Diagonal``       diagonal matrices to start from: kernels, recurrences
``Recurrence``                    a discretized system, one sample after another
``S4``, ``S4D``                   the layers
``Stepper``                       a layer that runs one sample at a time
================================  =================================================================

:class:`ssm_core.network.SequenceModel` is a deep network of them, which can be imported from here
as well; :func:`ssm_core.optim.parameter_groups` sorts their parameters for an optimizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssm_core.s4.diagonal import Diagonal, s4d_modes
from ssm_core.s4.dplr import DPLR, dplr
from ssm_core.s4.layer import S4, S4D
from ssm_core.s4.recurrence import Recurrence, Stepper

if TYPE_CHECKING:  # where the function below finds them
    from ssm_core.network import Block as Block
    from ssm_core.network import ModelStepper as ModelStepper
    from ssm_core.network import SequenceModel as SequenceModel

__all__ = ["DPLR", "S4", "S4D", "Diagonal", "Recurrence", "Stepper", "dplr", "s4d_modes"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """``Block``, ``ModelStepper`` and ``SequenceModel``, which live in a room that knows Mamba too."""
    if name in ("Block", "ModelStepper", "SequenceModel"):
        from ssm_core import network

        return getattr(network, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
