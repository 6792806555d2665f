"""What a span of time adds to the state after it, or to the gradient before it."""

# ruff: noqa: RUF005 - kernels have no starred tuples

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_core.scan.gluon import _layouts as layouts
from ssm_core.scan.gluon._layouts import CHANNELS
from ssm_core.scan.gluon._places import (
    fetch,
    length_of,
    load,
    load_decays,
    program_of,
    signal_offsets,
    span_of,
    state_offsets,
    store,
    store_states,
    weight_offsets,
)
from ssm_core.scan.gluon._registers import (
    exp2,
    load_steps,
    load_weights,
    sigmoid,
    softplus,
    store_signal,
    store_weights,
    zeros,
)
from ssm_core.scan.gluon._versions import commit_group, wait_group

STEPS = gl.constexpr(32)  # of a chunk


@gluon.jit
def is_alive(b_sum, b_A, known):
    """Whether the decay over these steps is above 2^-100 for any channel and any warp's state."""
    return gl.max(gl.max(gl.where(known, b_sum * b_A, float("-inf")), 1), 0) > -100.0


@gluon.jit(do_not_specialize=["d", "groups", "L", "spans", "span"])
def sum_span(p_signal, p_z, p_delta, p_A, p_W, p_bias, p_edges, p_sums, d, groups, L, spans, span,
         ADJOINT: gl.constexpr, SOFTPLUS: gl.constexpr, FULL: gl.constexpr, N: gl.constexpr,
         WARPS: gl.constexpr, STATES: gl.constexpr):
    """A sum over the steps of a span, each with the decay between it and the edge.

    It is taken from the edge inwards, and ends for each state when its decay has fallen below 2^-100
    in all channels of the program, which for most states is soon. Forwards the signal is u, with the
    weights B, at the end of the span; as the adjoint it is the gradient of y, with C, at its start.
    Warp w has the states w + m WARPS, so that slow states, which usually stand first, are spread over
    the warps, and the others end early for all warps at once.
    """
    L = length_of(L, FULL)
    per_group = d // groups
    i_block, i_group, i_span, i_row = program_of(d, groups, spans)
    start, steps, i_b, _ = span_of(i_row, i_span, None, L, span, False)
    ROWS: gl.constexpr = layouts.signals(WARPS, STEPS)

    SIGNAL: gl.constexpr = [2, CHANNELS, STEPS]
    s_signal = gl.allocate_shared_memory(p_signal.dtype.element_ty, SIGNAL, layouts.raw_memory())
    s_delta = gl.allocate_shared_memory(p_delta.dtype.element_ty, SIGNAL, layouts.raw_memory())
    if p_z is not None:
        s_z = gl.allocate_shared_memory(p_z.dtype.element_ty, SIGNAL, layouts.raw_memory())
    PLANES: gl.constexpr = [STEPS // 4, CHANNELS, 4]
    s_dt = gl.allocate_shared_memory(gl.float32, PLANES, layouts.plane_memory())
    s_in = gl.allocate_shared_memory(gl.float32, PLANES, layouts.plane_memory())
    s_W = gl.allocate_shared_memory(gl.float32, [STEPS // 4 * STATES, WARPS, 4],
                                    layouts.weight_memory(WARPS))

    o_x, o_n, known_x = state_offsets(i_block, i_group, per_group, N, WARPS, STATES, 1, WARPS)
    b_A = load_decays(p_A, o_x, o_n, known_x, N, STATES, WARPS, FULL)
    b_x = zeros(STATES, WARPS)
    b_sum = gl.zeros([WARPS, CHANNELS], gl.float32, layouts.columns(WARPS))  # of the steps so far
    o_d, known, o_row, o_t = signal_offsets(i_block, i_group, i_b, d, per_group, L, start, WARPS,
                                            STEPS)
    o_w, o_wn, o_wt = weight_offsets(i_group, i_b, groups, L, start, N, WARPS, STATES, STEPS, 1,
                                     WARPS)
    b_bias = gl.zeros([CHANNELS], gl.float32, gl.SliceLayout(1, ROWS))
    if p_bias is not None:
        b_bias = load(p_bias + o_d, known, FULL)

    chunks = gl.cdiv(steps, STEPS)
    if i_span == (0 if ADJOINT else spans - 1):
        chunks = chunks * 0  # nothing lies beyond this edge
    alive = ()
    for _ in gl.static_range(STATES):
        alive = alive + (chunks > 0,)
    t = 0 if ADJOINT else gl.maximum(chunks - 1, 0) * STEPS
    here = known[:, None] & (t + o_t < steps)
    fetch(s_signal.index(0), p_signal + o_row + t, here, FULL)
    fetch(s_delta.index(0), p_delta + o_row + t, here, FULL)
    if p_z is not None:
        fetch(s_z.index(0), p_z + o_row + t, here, FULL)
    commit_group()
    next_W = load(p_W + o_w + t, (o_wn < N) & (t + o_wt < steps), FULL)
    i = chunks * 0
    while i < chunks:
        t = (i if ADJOINT else chunks - 1 - i) * STEPS
        at = i & 1
        wait_group(0)
        b_dt = s_delta.index(at).load(ROWS).to(gl.float32) + b_bias[:, None]
        if SOFTPLUS:
            b_dt = softplus(b_dt)
        if not FULL:
            b_dt = gl.where(known[:, None] & (t + o_t < steps), b_dt, 0.0)
        b_in = s_signal.index(at).load(ROWS).to(gl.float32)
        if not ADJOINT:
            b_in *= b_dt
        elif p_z is not None:
            b_z = s_z.index(at).load(ROWS).to(gl.float32)
            b_in *= b_z * sigmoid(b_z)
        store_weights(s_W, next_W, WARPS, STATES, STEPS)
        store_signal(s_dt, b_dt, WARPS, STEPS)
        store_signal(s_in, b_in, WARPS, STEPS)
        i += 1
        t_next = (gl.minimum(i, chunks - 1) if ADJOINT else gl.maximum(chunks - 1 - i, 0)) * STEPS
        for k in gl.static_range(STEPS // 8):
            i4 = (k if ADJOINT else STEPS // 8 - 1 - k) * 2
            dt = load_steps(s_dt, i4, WARPS)
            if k == 0:  # all warps have read the chunk before: the next may take its place
                here = known[:, None] & (t_next + o_t < steps)
                fetch(s_signal.index(i & 1), p_signal + o_row + t_next, here, FULL)
                fetch(s_delta.index(i & 1), p_delta + o_row + t_next, here, FULL)
                if p_z is not None:
                    fetch(s_z.index(i & 1), p_z + o_row + t_next, here, FULL)
                commit_group()
                next_W = load(p_W + o_w + t_next, (o_wn < N) & (t_next + o_wt < steps), FULL)
            signal = load_steps(s_in, i4, WARPS)
            between = ()
            for j in gl.static_range(8):
                if ADJOINT:
                    b_sum = b_sum + dt[j]
                    between = between + (b_sum,)
                else:
                    between = (b_sum,) + between
                    b_sum = b_sum + dt[7 - j]
            new_x = ()
            for m in gl.static_range(STATES):
                x = b_x[m]
                if alive[m]:
                    W = load_weights(s_W, i4, m, WARPS, STATES)
                    for j in gl.static_range(8):
                        x = gl.fma(exp2(between[j] * b_A[m]), signal[j] * W[j], x)
                new_x = new_x + (x,)
            b_x = new_x
        if i % 4 == 0:
            some = False
            new_alive = ()
            for m in gl.static_range(STATES):
                new_alive = new_alive + (
                    is_alive(b_sum, b_A[m], known_x & (o_n + m * WARPS < N)),)
                some = some | new_alive[m]
            alive = new_alive
            if not some:
                i = chunks
    i_edge = i_row * spans + i_span
    store_states(p_edges + i_edge * d * N, o_x, o_n, known_x, b_x, N, WARPS, FULL)
    o_c = i_block * CHANNELS + gl.arange(
        0, CHANNELS, layout=gl.SliceLayout(0, layouts.columns(WARPS)))
    store(p_sums + i_edge * d + i_group * per_group + o_c, gl.max(b_sum, 0), o_c < per_group, FULL)
