"""The pieces that the Triton kernels of the scan, of Mamba and of S4 share.

In all kernels ``p_`` is a pointer, ``b_`` a block of numbers in registers, ``o_`` an offset, ``s_``
a stride and ``i_`` the index of a program. Trailing comments give shapes.

A thread that holds eight steps of one channel, a row of a block (P, 8), wants them one after the
other. ``tl.split`` takes the last axis apart, which lies inside a thread, so that ``columns`` and
``join_eight`` need no instruction and no traffic between threads.
"""

# ruff: noqa: RUF005 - kernels have no starred tuples

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def four_columns(block):
    """The columns of (P, 4): four blocks (P,)."""
    even, odd = tl.split(tl.reshape(block, [block.shape[0], 2, 2]))  # (P, 2) each
    c0, c2 = tl.split(even)
    c1, c3 = tl.split(odd)
    return c0, c1, c2, c3


@triton.jit
def columns(block):
    """The columns of (P, 8): eight blocks (P,)."""
    even, odd = tl.split(tl.reshape(block, [block.shape[0], 4, 2]))  # (P, 4) each
    c0, c2, c4, c6 = four_columns(even)
    c1, c3, c5, c7 = four_columns(odd)
    return c0, c1, c2, c3, c4, c5, c6, c7


@triton.jit
def join_four(c0, c1, c2, c3):
    """Four columns (P,) as one block again, (P, 4)."""
    return tl.reshape(tl.join(tl.join(c0, c2), tl.join(c1, c3)), [c0.shape[0], 4])


@triton.jit
def join_eight(c):
    """A tuple of eight columns (P,) as one block again, (P, 8)."""
    even = tl.join(tl.join(c[0], c[4]), tl.join(c[2], c[6]))  # (P, 2, 2)
    odd = tl.join(tl.join(c[1], c[5]), tl.join(c[3], c[7]))  # (P, 2, 2)
    return tl.reshape(tl.join(even, odd), [c[0].shape[0], 8])


@triton.jit
def zeros(SIZE: tl.constexpr, COUNT: tl.constexpr, dtype: tl.constexpr = tl.float32):
    """A tuple of COUNT blocks (SIZE,) of zeros, to add to."""
    blocks = ()
    for _ in tl.static_range(COUNT):
        blocks = blocks + (tl.zeros([SIZE], dtype),)
    return blocks


@triton.jit
def softplus(v):
    """log(1 + exp(v)) to 2.5e-7: log(1 + e) / e by a polynomial, where e = exp(-|v|) is in [0, 1]."""
    e = tl.exp2(tl.abs(v) * -LOG2E)
    p = 0.0051261019 * e - 0.029074065
    p = p * e + 0.0775161
    p = p * e - 0.13602248
    p = p * e + 0.19076881
    p = p * e - 0.24835399
    p = p * e + 0.3331812
    p = p * e - 0.49999446
    p = p * e + 0.99999994
    return tl.maximum(v, 0.0) + e * p


@triton.jit
def sigmoid(v):
    """1 / (1 + exp(-v)), without the division, which needs more steps for denominators above 2^126."""
    root = tl.rsqrt(1 + tl.exp2(v * -LOG2E))
    return root * root


@triton.jit
def load(p, here, FULL: tl.constexpr):
    """Load numbers, with 0 where ``here`` is false; FULL says that it is true everywhere."""
    if FULL:
        return tl.load(p)
    else:
        return tl.load(p, mask=here, other=0.0)


@triton.jit
def store(p, block, here, FULL: tl.constexpr):
    """Store a block in the dtype of the memory, where ``here`` is true; FULL as in ``load``."""
    if FULL:
        tl.store(p, block.to(p.dtype.element_ty))
    else:
        tl.store(p, block.to(p.dtype.element_ty), mask=here)
