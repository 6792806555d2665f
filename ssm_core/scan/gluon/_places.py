"""Where a program works: its channels, its span of time, and the offsets of what it reads and writes.

FULL says that every block is full of channels, states and steps and that rows begin at multiples of
16 bytes. Loads and stores then have no mask, and inputs come by asynchronous copies.
"""

# ruff: noqa: RUF005 - kernels have no starred tuples

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_core.scan.gluon import _layouts as layouts
from ssm_core.scan.gluon._layouts import CHANNELS
from ssm_core.scan.gluon._registers import LOG2E, exp2
from ssm_core.scan.gluon._versions import async_load

SAVE = gl.constexpr(16)  # steps between two saved states; they come in pairs


@gluon.jit
def program_of(d, groups, spans):
    """Block of channels in its group, group, span, row; blocks change fastest from program to program."""
    blocks = gl.cdiv(d // groups, CHANNELS)
    i = gl.program_id(0)
    i_block, i = i % blocks, i // blocks
    i_group, i = i % groups, i // groups
    return i_block, i_group, i % spans, (i // spans).to(gl.int64)


@gluon.jit
def span_of(i_row, i_span, p_cu, L, span, PACKED: gl.constexpr):
    """First step of a program, number of its steps, its batch, and where its saved states begin."""
    PAIR: gl.constexpr = 2 * SAVE
    if PACKED:
        start = gl.load(p_cu + i_row).to(gl.int64)
        end = gl.load(p_cu + i_row + 1).to(gl.int64)
        return start, (end - start).to(gl.int32), i_row * 0, (start // PAIR + i_row) * 2
    else:
        start = i_span.to(gl.int64) * (span // PAIR * PAIR)  # so that the compiler can see it
        steps = gl.minimum(span // PAIR * PAIR, L - start).to(gl.int32)
        return start, steps, i_row, ((L + PAIR - 1) // PAIR * i_row + start // PAIR) * 2


@gluon.jit
def length_of(L, FULL: gl.constexpr):
    """L in 64 bits, where FULL visibly a multiple of 32."""
    L = L.to(gl.int64)
    if FULL:
        L = L // 32 * 32
    return L


@gluon.jit
def state_offsets(i_block, i_group, per_group, N: gl.constexpr, WARPS: gl.constexpr,
                  STATES: gl.constexpr, FIRST: gl.constexpr, NEXT: gl.constexpr):
    """For each thread: its first state's offset in (d, n), that state, and whether its channel exists.

    Warp w has the states w FIRST + m NEXT.
    """
    COLUMN: gl.constexpr = layouts.columns(WARPS)
    o_w = gl.arange(0, WARPS, layout=gl.SliceLayout(1, COLUMN))[:, None]
    o_c = i_block * CHANNELS + gl.arange(0, CHANNELS, layout=gl.SliceLayout(0, COLUMN))[None, :]
    o_x = (i_group * per_group + o_c).to(gl.int64) * N + o_w * FIRST
    return o_x, o_w * FIRST + o_c * 0, o_c + o_w * 0 < per_group


@gluon.jit
def load(p, here, FULL: gl.constexpr):
    """Values, 0 where nothing is; without a mask where everything is there."""
    if FULL:
        return gl.load(p)
    else:
        return gl.load(p, mask=here, other=0.0)


@gluon.jit
def store(p, x, here, FULL: gl.constexpr):
    if FULL:
        gl.store(p, x.to(p.dtype.element_ty))
    else:
        gl.store(p, x.to(p.dtype.element_ty), mask=here)


@gluon.jit
def fetch(memory, p, here, FULL: gl.constexpr):
    """Bring a block from global to shared memory, asynchronously where no mask is needed."""
    if FULL:
        async_load(memory, p)
    else:
        memory.store(gl.load(p, mask=here, other=0.0))


@gluon.jit
def load_states(p, o_x, o_n, known, N: gl.constexpr, STATES: gl.constexpr, NEXT: gl.constexpr,
                FULL: gl.constexpr):
    """STATES columns from (..., d, n)."""
    x = ()
    for m in gl.static_range(STATES):
        x = x + (load(p + o_x + m * NEXT, known & (o_n + m * NEXT < N), FULL),)
    return x


@gluon.jit
def store_states(p, o_x, o_n, known, x, N: gl.constexpr, NEXT: gl.constexpr, FULL: gl.constexpr):
    for m in gl.static_range(len(x)):
        store(p + o_x + m * NEXT, x[m], known & (o_n + m * NEXT < N), FULL)


@gluon.jit
def load_decays(p_A, o_x, o_n, known, N: gl.constexpr, STATES: gl.constexpr, NEXT: gl.constexpr,
                FULL: gl.constexpr):
    """A log2(e) as STATES columns: decays are powers of two."""
    A = load_states(p_A, o_x, o_n, known, N, STATES, NEXT, FULL)
    scaled = ()
    for m in gl.static_range(STATES):
        scaled = scaled + (A[m] * LOG2E,)
    return scaled


@gluon.jit
def signal_offsets(i_block, i_group, i_b, d, per_group, L, start, WARPS: gl.constexpr,
                   STEPS: gl.constexpr):
    """Channel of each row of (32, STEPS), whether it exists, the offsets in (b, d, L), and the steps."""
    ROWS: gl.constexpr = layouts.signals(WARPS, STEPS)
    o_c = i_block * CHANNELS + gl.arange(0, CHANNELS, layout=gl.SliceLayout(1, ROWS))
    o_t = gl.arange(0, STEPS, layout=gl.SliceLayout(0, ROWS))[None, :]
    o_d = i_group * per_group + o_c
    o_row = (i_b * d + o_d)[:, None] * L + start + o_t
    return o_d, o_c < per_group, o_row, o_t


@gluon.jit
def weight_offsets(i_group, i_b, groups, L, start, N: gl.constexpr, WARPS: gl.constexpr,
                   STATES: gl.constexpr, STEPS: gl.constexpr, FIRST: gl.constexpr,
                   NEXT: gl.constexpr):
    """Offsets in (b, groups, n, L) for (WARPS, STATES, STEPS / 4, 4), the states, and the steps."""
    ALL: gl.constexpr = layouts.weights(WARPS, STATES, STEPS)
    STATE: gl.constexpr = gl.SliceLayout(2, gl.SliceLayout(3, ALL))  # (WARPS, STATES)
    STEP: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, ALL))  # (STEPS / 4, 4)
    o_w = gl.arange(0, WARPS, layout=gl.SliceLayout(1, STATE))[:, None]
    o_m = gl.arange(0, STATES, layout=gl.SliceLayout(0, STATE))[None, :]
    o_i = gl.arange(0, STEPS // 4, layout=gl.SliceLayout(1, STEP))[:, None]
    o_j = gl.arange(0, 4, layout=gl.SliceLayout(0, STEP))[None, :]
    o_n = gl.expand_dims(gl.expand_dims(o_w * FIRST + o_m * NEXT, 2), 3)
    o_t = gl.expand_dims(gl.expand_dims(o_i * 4 + o_j, 0), 1)
    return ((i_b * groups + i_group) * N + o_n) * L + start + o_t, o_n, o_t


@gluon.jit
def entering(x, b_A, p_edges, p_sums, o_x, o_n, known, i_row, i_span, spans, d, per_group,
             i_block, i_group, N: gl.constexpr, STATES: gl.constexpr, REVERSE: gl.constexpr,
             FULL: gl.constexpr):
    """The states x carried through the spans before i_span, or gradients through those after it.

    Every program goes through all those spans, four at a time so that their loads wait together:
    that is cheaper than a kernel of its own in between.
    """
    WARPS: gl.constexpr = x[0].shape[0]
    o_c = i_block * CHANNELS + gl.arange(
        0, CHANNELS, layout=gl.SliceLayout(0, layouts.columns(WARPS)))
    many = spans - 1 - i_span if REVERSE else i_span
    for i in range(0, many, 4):
        edges, sums = (), ()
        for h in gl.static_range(4):
            at = i_row * spans + gl.maximum(spans - 1 - i - h, 0) if REVERSE else (
                i_row * spans + gl.minimum(i + h, spans - 1))
            edges = edges + (load_states(p_edges + at * d * N, o_x, o_n, known, N, STATES, 1, FULL),)
            p = p_sums + at * d + i_group * per_group + o_c
            sums = sums + (load(p, o_c < per_group, FULL)[None, :],)
        for h in gl.static_range(4):
            new = ()
            for m in gl.static_range(STATES):
                carried = gl.fma(exp2(sums[h] * b_A[m]), x[m], edges[h][m])
                new = new + (gl.where(i + h < many, carried, x[m]),)
            x = new
    return x
