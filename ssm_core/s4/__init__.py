"""S4: structured state space layers, derived in the chapter of the same name.

================================  =================================================================
``dplr``, ``DPLR``                HiPPO matrices as diagonal plus low rank: kernels, recurrences
``s4d_modes``, ``Diagonal``       diagonal matrices to start from: kernels, recurrences
``Recurrence``                    a discretized system, one sample after another
``S4``, ``S4D``                   the layers
``Stepper``                       a layer that runs one sample at a time
``Block``, ``SequenceModel``      a deep network of them, and ``ModelStepper`` to run it
================================  =================================================================

:func:`ssm_core.optim.parameter_groups` sorts their parameters for an optimizer.
"""

from ssm_core.s4.diagonal import Diagonal, s4d_modes
from ssm_core.s4.dplr import DPLR, dplr
from ssm_core.s4.layer import S4, S4D
from ssm_core.s4.recurrence import Recurrence, Stepper
from ssm_core.s4.stack import Block, ModelStepper, SequenceModel

__all__ = [
    "DPLR",
    "S4",
    "S4D",
    "Block",
    "Diagonal",
    "ModelStepper",
    "Recurrence",
    "SequenceModel",
    "Stepper",
    "dplr",
    "s4d_modes",
]


def __dir__() -> list[str]:
    return __all__
