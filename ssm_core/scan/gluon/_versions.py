"""The parts of Gluon that changed their names between Triton 3.5 and 3.9.

Gluon is experimental, so that each release of Triton may change it. All differences that the kernels
meet are settled here; everything else in this package uses one set of names.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

commit_group, wait_group = async_copy.commit_group, async_copy.wait_group

# Copies from global to shared memory that run beside the arithmetic: renamed in Triton 3.9.
async_load = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared

# Rows of shared memory some banks apart: from Triton 3.6 on.
HAS_PADDING = hasattr(getattr(gl, "PaddedSharedLayout", None), "with_identity_for")


@gl._core.builtin
def view(shared, shape, layout, _semantic=None):
    """The same shared memory, as floats of another shape and layout (renamed in Triton 3.9)."""
    reinterpret = getattr(shared, "reinterpret", None) or shared._reinterpret
    return reinterpret(gl.float32, shape, layout, _semantic=_semantic)


@gluon.constexpr_function
def shared_layout(shape, pads):
    """Row-major shared memory; each (interval, padding) of ``pads`` moves what follows by some banks."""
    order = list(range(len(shape)))[::-1]
    if HAS_PADDING and pads:
        return gl.PaddedSharedLayout.with_identity_for(pads, shape, order)
    return gl.SwizzledSharedLayout(1, 1, 1, order)
