"""Mamba and Mamba-2: the blocks, the language model, published checkpoints and fast generation.

==================  ==========================================================================
``Mamba``           the block, as a layer for any model
``Mamba2``          the block of Mamba-2, likewise
``MambaConfig``     sizes and options of a language model
``MambaLM``         the language model: ``forward``, ``generate``, ``from_pretrained``
``MambaStepper``    the language model, one token at a time
``sample``          the choice of a token from logits
``stream_text``     the text of tokens as they come
==================  ==========================================================================

``python -m ssm_core.mamba generate --model FOLDER --prompt TEXT`` continues a text.
"""

from __future__ import annotations

from ssm_core.mamba._stepping import MambaStepper
from ssm_core.mamba.block import Mamba
from ssm_core.mamba.generation import sample, stream_text
from ssm_core.mamba.mamba2 import Mamba2
from ssm_core.mamba.model import MambaConfig, MambaLM

__all__ = ["Mamba", "Mamba2", "MambaConfig", "MambaLM", "MambaStepper", "sample", "stream_text"]


def __dir__() -> list[str]:
    return __all__
