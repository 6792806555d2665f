"""Sums over the 32 channels of a warp, by tensor cores: the gradients of B and C.

Each lane has a number for each of eight steps; wanted is the sum over lanes for each step. That is a
product with a matrix of zeros and ones, and the numbers stay where they are. The second operand of an
``mma`` instruction is a matrix of eight columns, of which lane 4 r + q holds a few rows of column r.
A first operand with ones in row s adds up what the four lanes of each column have for one step, and
puts the sums into row s of the result. A second product takes that result as its first operand, adds
its eight columns, and collects four states: lane 4 r + q receives step r of state q.

Without EXACT, the first products round the numbers to bfloat16, which is what the gradients of
bfloat16 inputs are rounded to in the end. With EXACT they are in tf32, which keeps 11 bits of a
number; the rest of each number follows in a product of its own.
"""

# ruff: noqa: RUF005 - kernels have no starred tuples

import functools

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_core.scan.gluon import _layouts as layouts
from ssm_core.scan.gluon._layouts import CHANNELS
from ssm_core.scan.gluon._registers import split_four, zeros

_OPERANDS = "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$0, $1, $2, $3}; }"
_START = "{ mov.b32 $0, $10; mov.b32 $1, $11; mov.b32 $2, $12; mov.b32 $3, $13; mma.sync.aligned."
_BFLOAT16 = gl.constexpr(_START + "m16n8k16.row.col.f32.bf16.bf16.f32 " + _OPERANDS)
_TF32 = gl.constexpr(_START + "m16n8k8.row.col.f32.tf32.tf32.f32 " + _OPERANDS)
_REGISTERS = gl.constexpr("=&f,=&f,=&f,=&f,r,r,r,r,r,r,f,f,f,f")
_PACK = gl.constexpr("cvt.rn.bf16x2.f32 $0, $2, $1;")
_UPPER = gl.constexpr(-(1 << 13))  # the bits of a float32 that tf32 keeps


@functools.cache
def selection(device, exact):
    """The matrices of ones as lanes hold them, int32 (6, 32, 4).

    The first four put steps 2 i and 2 i + 1 into rows 2 i and 2 i + 1, of the upper half of the result
    if they come in the first register of the second operand, and of its lower half if they come in
    the other one (bfloat16); or they take one step from each register (tf32). The other two have
    eight columns, of which column j selects column j of the result. All of them come from memory
    since the compiler would put zeros that it knows together anew for each product.
    """
    ones = torch.arange(32)[:, None] // 4 == torch.arange(8)  # (lanes, rows)
    table = torch.zeros(6, 32, 4, dtype=torch.int32)
    for i in range(4):
        if exact:
            table[i, :, 0], table[i, :, 2] = ones[:, 2 * i], ones[:, 2 * i + 1]
        else:
            both = 0x3F80 * ones[:, 2 * i] + 0x3F800000 * ones[:, 2 * i + 1]  # two bfloat16
            table[i, :, 0] = table[i, :, 3] = both
    table[4], table[5] = ones[:, :4], ones[:, 4:]
    table[0 if exact else 4 :] *= 0x3F800000  # 1 as float32
    return table.to(device)


@gluon.jit
def load_selection(p, WARPS: gl.constexpr):
    """Four quadruples and eight single columns, int32."""
    BLOCK: gl.constexpr = layouts.columns_of(WARPS, 4)
    o_c = gl.arange(0, CHANNELS, layout=gl.SliceLayout(0, gl.SliceLayout(2, BLOCK)))
    o_j = gl.arange(0, 4, layout=gl.SliceLayout(0, gl.SliceLayout(1, BLOCK)))
    o = (gl.zeros([WARPS, CHANNELS, 4], gl.int32, BLOCK)
         + gl.expand_dims(gl.expand_dims(o_c, 0), 2) * 4 + gl.expand_dims(gl.expand_dims(o_j, 0), 1))
    rows = ()
    for i in gl.static_range(4):
        rows = rows + (split_four(gl.load(p + i * 128 + o)),)
    columns = split_four(gl.load(p + 512 + o)) + split_four(gl.load(p + 640 + o))
    return rows, columns


@gluon.jit
def product(KIND: gl.constexpr, a, b0, b1, c):
    """a b + c with c (16, 8); operands as bits."""
    return gl.inline_asm_elementwise(
        KIND, _REGISTERS, [a[0], a[1], a[2], a[3], b0, b1, c[0], c[1], c[2], c[3]],
        dtype=(gl.float32, gl.float32, gl.float32, gl.float32), is_pure=True, pack=1)


@gluon.jit
def bits(x):
    return x.to(gl.int32, bitcast=True)


@gluon.jit
def rest(x):
    """What tf32 cannot hold of x."""
    return x - (bits(x) & _UPPER).to(gl.float32, bitcast=True)


@gluon.jit
def pack(x0, x1):
    """Two numbers as bfloat16 in one register."""
    return gl.inline_asm_elementwise(_PACK, "=r,f,f", [x0, x1], dtype=gl.int32, is_pure=True, pack=1)


@gluon.jit
def sum_four_lanes(of_B, of_C, rows, EXACT: gl.constexpr):
    """Eight columns each, summed over groups of four lanes: (8 steps of B, then of C; 8 groups)."""
    WARPS: gl.constexpr = of_B[0].shape[0]
    if not EXACT:
        c = zeros(4, WARPS)
        for i in gl.static_range(4):
            c = product(_BFLOAT16, rows[i], pack(of_B[2 * i], of_B[2 * i + 1]),
                        pack(of_C[2 * i], of_C[2 * i + 1]), c)
        return c
    else:
        B, C = zeros(4, WARPS), zeros(4, WARPS)
        for i in gl.static_range(4):
            B = product(_TF32, rows[i], bits(of_B[2 * i]), bits(of_B[2 * i + 1]), B)
            C = product(_TF32, rows[i], bits(of_C[2 * i]), bits(of_C[2 * i + 1]), C)
            B = product(_TF32, rows[i], bits(rest(of_B[2 * i])), bits(rest(of_B[2 * i + 1])), B)
            C = product(_TF32, rows[i], bits(rest(of_C[2 * i])), bits(rest(of_C[2 * i + 1])), C)
        return B[0], B[1], C[0], C[1]


@gluon.jit
def add_state(c, of_B, of_C, rows, columns, m: gl.constexpr, EXACT: gl.constexpr):
    """Add eight steps of state m of four, for B and for C, to what lanes collect.

    Then lane 4 r + q has c[0] + c[2] of B, and c[1] + c[3] of C, for step r and state q.
    """
    s = sum_four_lanes(of_B, of_C, rows, EXACT)
    c = product(_TF32, (bits(s[0]), bits(s[1]), bits(s[2]), bits(s[3])), columns[2 * m],
                columns[2 * m + 1], c)
    if EXACT:
        c = product(_TF32, (bits(rest(s[0])), bits(rest(s[1])), bits(rest(s[2])), bits(rest(s[3]))),
                    columns[2 * m], columns[2 * m + 1], c)
    return c
