"""S4: structured state space layers, derived in the chapter of the same name.

================================  =================================================================
``dplr``, ``DPLR``                HiPPO matrices as diagonal plus low rank; kernels and steps
``s4d_modes``, ``Diagonal``       diagonal matrices to start from; kernels and steps
``S4``, ``S4D``                   the layers
``parameter_groups``              learning rates for an optimizer
``Block``, ``SequenceModel``      a deep network of them
================================  =================================================================
"""

from ssm_core.s4.diagonal import Diagonal, s4d_modes
from ssm_core.s4.dplr import DPLR, dplr
from ssm_core.s4.layer import S4, S4D, parameter_groups
from ssm_core.s4.stack import Block, SequenceModel

__all__ = ["DPLR", "S4", "S4D", "Block", "Diagonal", "SequenceModel", "dplr", "parameter_groups",
           "s4d_modes"]
