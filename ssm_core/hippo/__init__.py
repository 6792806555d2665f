"""HiPPO: memories that are optimal for a measure, and online compression with them."""

from __future__ import annotations

from ssm_core.hippo.measures import basis, transition
from ssm_core.hippo.projection import Memory, project, reconstruct

__all__ = ["Memory", "basis", "project", "reconstruct", "transition"]
