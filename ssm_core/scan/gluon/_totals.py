"""Sums over partial results, all in one launch, in a fixed order."""

import triton
import triton.language as tl


@triton.jit
def _total(p, p_total, i, size, count, distance, BLOCK: tl.constexpr):
    """Block i of the sum over ``count`` rows of ``size`` elements, ``distance`` elements apart."""
    o = i.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = o < size
    total = tl.zeros([BLOCK], tl.float32)
    for j in range(0, count, 8):  # eight loads wait together
        for h in tl.static_range(8):
            row = (j + h).to(tl.int64) * distance
            total += tl.load(p + row + o, mask=here & (j + h < count), other=0.0)
    tl.store(p_total + o, total.to(p_total.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["n_BC", "count_BC", "n_A", "n_d", "count_A"])
def totals(p_parts_BC, p_dB, p_dC, p_parts_A, p_dA, p_parts_D, p_dD, p_parts_bias, p_dbias, n_BC,
           count_BC, n_A, n_d, count_A, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """dB and dC from (count_BC, 2, n_BC); dA, dD and dbias from count_A rows each."""
    n_BC, n_A = n_BC.to(tl.int64), n_A.to(tl.int64)
    if ALIGNED:  # so that the compiler can see it
        n_BC, n_A, n_d = n_BC // 16 * 16, n_A // 16 * 16, n_d // 16 * 16
    blocks_BC = tl.cdiv(n_BC, BLOCK).to(tl.int32)
    blocks_A, blocks_d = tl.cdiv(n_A, BLOCK).to(tl.int32), tl.cdiv(n_d, BLOCK)
    i = tl.program_id(0)
    if i < blocks_BC:
        _total(p_parts_BC, p_dB, i, n_BC, count_BC, 2 * n_BC, BLOCK)
    elif i < 2 * blocks_BC:
        _total(p_parts_BC + n_BC, p_dC, i - blocks_BC, n_BC, count_BC, 2 * n_BC, BLOCK)
    elif i < 2 * blocks_BC + blocks_A:
        _total(p_parts_A, p_dA, i - 2 * blocks_BC, n_A, count_A, n_A, BLOCK)
    elif i < 2 * blocks_BC + blocks_A + blocks_d:
        if p_dD is not None:
            _total(p_parts_D, p_dD, i - 2 * blocks_BC - blocks_A, n_d, count_A, n_d, BLOCK)
    else:
        if p_dbias is not None:
            _total(p_parts_bias, p_dbias, i - 2 * blocks_BC - blocks_A - blocks_d, n_d, count_A,
                   n_d, BLOCK)
