"""Blocks of eight steps as columns in registers, and the functions of one element.

A column is (WARPS, 32) with one element a thread. Taking a block apart into columns, or joining
columns into a block, moves nothing between threads.
"""

# ruff: noqa: RUF005 - kernels have no starred tuples

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_core.scan.gluon import _layouts as layouts
from ssm_core.scan.gluon._layouts import CHANNELS
from ssm_core.scan.gluon._versions import view

LOG2E = gl.constexpr(1.4426950408889634)
LN2 = gl.constexpr(0.6931471805599453)
_EXP2 = gl.constexpr("ex2.approx.ftz.f32 $0, $1;")
_RECIPROCAL = gl.constexpr("rcp.approx.ftz.f32 $0, $1;")


@gluon.jit
def exp2(x):
    return gl.inline_asm_elementwise(_EXP2, "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) by the hardware's reciprocal."""
    return gl.inline_asm_elementwise(_RECIPROCAL, "=f,f", [1.0 + exp2(x * -LOG2E)],
                                     dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def softplus(x):
    """log(1 + exp(x)) to 2.5e-7: log(1 + e) / e by a polynomial, with e = exp(-|x|) in 0 to 1."""
    e = exp2(gl.abs(x) * -LOG2E)
    p = 0.0051261019 * e - 0.029074065
    p = p * e + 0.0775161
    p = p * e - 0.13602248
    p = p * e + 0.19076881
    p = p * e - 0.24835399
    p = p * e + 0.3331812
    p = p * e - 0.49999446
    p = p * e + 0.99999994
    return gl.maximum(x, 0.0) + e * p


@gluon.jit
def zeros(COUNT: gl.constexpr, WARPS: gl.constexpr):
    """COUNT columns of zeros."""
    x = ()
    for _ in gl.static_range(COUNT):
        x = x + (gl.zeros([WARPS, CHANNELS], gl.float32, layouts.columns(WARPS)),)
    return x


@gluon.jit
def split_four(x):
    """(WARPS, 32, 4) as four columns."""
    COLUMN: gl.constexpr = layouts.columns(x.shape[0])
    even, odd = gl.split(gl.reshape(x, [x.shape[0], CHANNELS, 2, 2]))
    x0, x2 = gl.split(even)
    x1, x3 = gl.split(odd)
    return (gl.convert_layout(x0, COLUMN, assert_trivial=True),
            gl.convert_layout(x1, COLUMN, assert_trivial=True),
            gl.convert_layout(x2, COLUMN, assert_trivial=True),
            gl.convert_layout(x3, COLUMN, assert_trivial=True))


@gluon.jit
def split_states(x):
    """(WARPS, 32, STATES) as STATES columns, of which there are four or eight."""
    if x.shape[2] == 4:
        return split_four(x)
    else:
        even, odd = gl.split(gl.reshape(x, [x.shape[0], CHANNELS, 4, 2]))
        e, o = split_four(even), split_four(odd)
        return e[0], o[0], e[1], o[1], e[2], o[2], e[3], o[3]


@gluon.jit
def join_states(x):
    """Four or eight columns as (WARPS, 32, STATES)."""
    STATES: gl.constexpr = len(x)
    WARPS: gl.constexpr = x[0].shape[0]
    if STATES == 4:
        block = gl.join(gl.join(x[0], x[2]), gl.join(x[1], x[3]))
    else:
        even = gl.join(gl.join(x[0], x[4]), gl.join(x[2], x[6]))
        odd = gl.join(gl.join(x[1], x[5]), gl.join(x[3], x[7]))
        block = gl.join(even, odd)
    return gl.convert_layout(gl.reshape(block, [WARPS, CHANNELS, STATES]),
                             layouts.columns_of(WARPS, STATES), assert_trivial=True)


@gluon.jit
def join_steps(x):
    """Eight columns as (WARPS, 2, 32, 4)."""
    WARPS: gl.constexpr = x[0].shape[0]
    low = gl.join(gl.join(x[0], x[2]), gl.join(x[1], x[3]))  # (WARPS, 32, 2, 2)
    high = gl.join(gl.join(x[4], x[6]), gl.join(x[5], x[7]))
    both = gl.permute(gl.join(low, high), [0, 4, 1, 2, 3])  # (WARPS, 2, 32, 2, 2)
    return gl.convert_layout(gl.reshape(both, [WARPS, 2, CHANNELS, 4]),
                             layouts.columns_of_eight(WARPS), assert_trivial=True)


@gluon.jit
def join_four_blocks(x):
    """Four blocks (WARPS, 2, 32, 4) as (4, WARPS, 2, 32, 4)."""
    WARPS: gl.constexpr = x[0].shape[0]
    y = gl.join(gl.join(x[0], x[2]), gl.join(x[1], x[3]))  # (WARPS, 2, 32, 4, 2, 2)
    y = gl.permute(gl.reshape(y, [WARPS, 2, CHANNELS, 4, 4]), [4, 0, 1, 2, 3])
    return gl.convert_layout(y, layouts.columns_of_chunk(WARPS, 32), assert_trivial=True)


# --- from and to shared memory -------------------------------------------------------------------


@gluon.jit
def load_steps(plane, i4, WARPS: gl.constexpr):
    """Eight steps of each channel from planes 2 i4 and on, as columns, the same for all warps."""
    BLOCK: gl.constexpr = layouts.columns_of(WARPS, 4)
    x = ()
    for i in gl.static_range(2):
        block = gl.expand_dims(plane.index(i4 + i).load(gl.SliceLayout(0, BLOCK)), 0)
        block, _ = gl.broadcast(block, gl.zeros([WARPS, CHANNELS, 4], gl.float32, BLOCK))
        x = x + split_four(block)
    return x


@gluon.jit
def load_weights(memory, i4, m, WARPS: gl.constexpr, STATES: gl.constexpr):
    """Eight steps of state m of each warp, as columns, the same for all channels."""
    BLOCK: gl.constexpr = layouts.columns_of(WARPS, 4)
    x = ()
    for i in gl.static_range(2):
        row = memory.index((i4 + i) * STATES + m).load(gl.SliceLayout(1, BLOCK))
        block, _ = gl.broadcast(gl.expand_dims(row, 1),
                                gl.zeros([WARPS, CHANNELS, 4], gl.float32, BLOCK))
        x = x + split_four(block)
    return x


@gluon.jit
def store_weights(memory, x, WARPS: gl.constexpr, STATES: gl.constexpr, STEPS: gl.constexpr):
    """B or C as loaded, (WARPS, STATES, STEPS / 4, 4), as floats into shared memory."""
    all_of_it = view(memory, [STEPS // 4, STATES, WARPS, 4],
                     layouts.weights_memory(WARPS, STATES, STEPS))
    all_of_it.store(gl.permute(x.to(gl.float32), [2, 1, 0, 3]))


@gluon.jit
def store_signal(plane, x, WARPS: gl.constexpr, STEPS: gl.constexpr):
    """(32, STEPS) into planes."""
    x = gl.permute(gl.reshape(x, [CHANNELS, STEPS // 4, 4]), [1, 0, 2])
    x = gl.convert_layout(x, layouts.signal_planes(WARPS, STEPS), assert_trivial=True)
    view(plane, [STEPS // 4, CHANNELS, 4], layouts.planes_memory(STEPS)).store(x)


@gluon.jit
def load_signal(plane, WARPS: gl.constexpr, STEPS: gl.constexpr):
    """(32, STEPS) from planes."""
    x = view(plane, [STEPS // 4, CHANNELS, 4], layouts.planes_memory(STEPS))
    x = x.load(layouts.signal_planes(WARPS, STEPS))
    x = gl.reshape(gl.permute(x, [1, 0, 2]), [CHANNELS, STEPS])
    return gl.convert_layout(x, layouts.signals(WARPS, STEPS), assert_trivial=True)


@gluon.jit
def load_sum(parts, WARPS: gl.constexpr, STEPS: gl.constexpr):
    """(32, STEPS): the sum over warps of parts (STEPS / 8, WARPS, 2, 32, 4)."""
    x = view(parts, [STEPS // 8, WARPS, 2, CHANNELS, 4], layouts.parts_memory(WARPS, STEPS))
    x = gl.sum(x.load(layouts.signal_parts(WARPS, STEPS)), 1)  # (STEPS / 8, 2, 32, 4)
    x = gl.reshape(gl.permute(x, [2, 0, 1, 3]), [CHANNELS, STEPS])
    return gl.convert_layout(x, layouts.signals(WARPS, STEPS), assert_trivial=True)
