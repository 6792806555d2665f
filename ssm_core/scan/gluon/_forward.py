"""The scan forwards."""

# ruff: noqa: RUF005, SIM102 - kernels have no starred tuples; the compiler decides the outer of two ifs

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_core.scan.gluon import _layouts as layouts
from ssm_core.scan.gluon._layouts import CHANNELS
from ssm_core.scan.gluon._places import (
    SAVE,
    entering,
    fetch,
    length_of,
    load,
    load_decays,
    load_states,
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
    join_four_blocks,
    join_states,
    join_steps,
    load_steps,
    load_sum,
    load_weights,
    sigmoid,
    softplus,
    store_signal,
    store_weights,
    zeros,
)
from ssm_core.scan.gluon._versions import commit_group, view, wait_group

STEPS = gl.constexpr(32)  # of a chunk


@gluon.jit
def save_states(p, o_x, o_n, known, x, N: gl.constexpr, FULL: gl.constexpr):
    """Columns to (d, n): a thread's states lie together, so that it writes 16 bytes at once."""
    STATES: gl.constexpr = len(x)
    if FULL:
        BLOCK: gl.constexpr = layouts.columns_of(x[0].shape[0], STATES)
        o = gl.convert_layout(o_x, gl.SliceLayout(2, BLOCK), assert_trivial=True)
        o_m = gl.arange(0, STATES, layout=gl.SliceLayout(0, gl.SliceLayout(1, BLOCK)))
        o = gl.expand_dims(o, 2) + gl.expand_dims(gl.expand_dims(o_m, 0), 1)
        gl.store(p + o, join_states(x).to(p.dtype.element_ty))
    else:
        store_states(p, o_x, o_n, known, x, N, 1, False)


@gluon.jit(do_not_specialize=["d", "groups", "L", "spans", "span"])
def scan_forward(p_u, p_delta, p_A, p_B, p_C, p_D, p_z, p_bias, p_first, p_edges, p_sums, p_cu, p_out,
         p_last, p_saved, d, groups, L, spans, span, SOFTPLUS: gl.constexpr, PACKED: gl.constexpr,
         FULL: gl.constexpr, N: gl.constexpr, WARPS: gl.constexpr, STATES: gl.constexpr):
    """32 channels over one span of time (eq-selective-scan).

    Chunk by chunk: what concerns each sample on its own (Δ, Δ u) goes to shared memory once, as do B
    and C; then each thread takes its states through the chunk, eight steps at a time; then the sums
    over states become outputs.
    """
    L = length_of(L, FULL)
    per_group = d // groups
    i_block, i_group, i_span, i_row = program_of(d, groups, spans)
    start, steps, i_b, i_saved = span_of(i_row, i_span, p_cu, L, span, PACKED)
    ROWS: gl.constexpr = layouts.signals(WARPS, STEPS)

    s_u = gl.allocate_shared_memory(p_u.dtype.element_ty, [2, CHANNELS, STEPS], layouts.raw_memory())
    s_delta = gl.allocate_shared_memory(p_delta.dtype.element_ty, [2, CHANNELS, STEPS],
                                        layouts.raw_memory())
    if p_z is not None:
        s_z = gl.allocate_shared_memory(p_z.dtype.element_ty, [2, CHANNELS, STEPS],
                                        layouts.raw_memory())
    PLANES: gl.constexpr = [STEPS // 4, CHANNELS, 4]
    s_dt = gl.allocate_shared_memory(gl.float32, PLANES, layouts.plane_memory())
    s_du = gl.allocate_shared_memory(gl.float32, PLANES, layouts.plane_memory())
    s_B = gl.allocate_shared_memory(gl.float32, [STEPS // 4 * STATES, WARPS, 4],
                                    layouts.weight_memory(WARPS))
    s_C = gl.allocate_shared_memory(gl.float32, [STEPS // 4 * STATES, WARPS, 4],
                                    layouts.weight_memory(WARPS))
    s_y = gl.allocate_shared_memory(gl.float32, [STEPS // 8, WARPS, 2, CHANNELS, 4],
                                    layouts.part_memory(WARPS))

    o_x, o_n, known_x = state_offsets(i_block, i_group, per_group, N, WARPS, STATES, STATES, 1)
    b_A = load_decays(p_A, o_x, o_n, known_x, N, STATES, 1, FULL)
    b_x = zeros(STATES, WARPS)
    if p_first is not None:
        b_x = load_states(p_first + i_row * d * N, o_x, o_n, known_x, N, STATES, 1, FULL)
    if p_edges is not None:
        b_x = entering(b_x, b_A, p_edges, p_sums, o_x, o_n, known_x, i_row, i_span, spans, d,
                       per_group, i_block, i_group, N, STATES, False, FULL)
    o_d, known, o_row, o_t = signal_offsets(i_block, i_group, i_b, d, per_group, L, start, WARPS,
                                            STEPS)
    o_w, o_wn, o_wt = weight_offsets(i_group, i_b, groups, L, start, N, WARPS, STATES, STEPS,
                                     STATES, 1)
    b_bias = gl.zeros([CHANNELS], gl.float32, gl.SliceLayout(1, ROWS))
    b_D = b_bias
    if p_bias is not None:
        b_bias = load(p_bias + o_d, known, FULL)
    if p_D is not None:
        b_D = load(p_D + o_d, known, FULL)
    p_saved_here = p_saved
    if p_saved is not None:
        p_saved_here = p_saved + i_saved * d * N

    here = known[:, None] & (o_t < steps)
    here_w = (o_wn < N) & (o_wt < steps)
    fetch(s_u.index(0), p_u + o_row, here, FULL)
    fetch(s_delta.index(0), p_delta + o_row, here, FULL)
    if p_z is not None:
        fetch(s_z.index(0), p_z + o_row, here, FULL)
    commit_group()
    next_B = load(p_B + o_w, here_w, FULL)
    next_C = load(p_C + o_w, here_w, FULL)
    chunks = gl.cdiv(steps, STEPS)
    for c in range(chunks):
        t = c * STEPS
        here = known[:, None] & (t + o_t < steps)
        wait_group(0)
        b_u = s_u.index(c & 1).load(ROWS).to(gl.float32)
        b_dt = s_delta.index(c & 1).load(ROWS).to(gl.float32) + b_bias[:, None]
        if SOFTPLUS:
            b_dt = softplus(b_dt)
        if not FULL:
            b_dt = gl.where(here, b_dt, 0.0)
        store_weights(s_B, next_B, WARPS, STATES, STEPS)
        store_weights(s_C, next_C, WARPS, STATES, STEPS)
        store_signal(s_dt, b_dt, WARPS, STEPS)
        store_signal(s_du, b_dt * b_u, WARPS, STEPS)
        blocks = ()
        for i in gl.static_range(STEPS // 8):
            if p_saved is not None:
                if i % (SAVE // 8) == 0:
                    o_chunk = (c * (STEPS // SAVE) + i // (SAVE // 8)).to(gl.int64) * d * N
                    save_states(p_saved_here + o_chunk, o_x, o_n, known_x, b_x, N, FULL)
            dt = load_steps(s_dt, 2 * i, WARPS)
            du = load_steps(s_du, 2 * i, WARPS)
            if i == 0:
                # The loads above have waited for all warps, so nothing of the chunk before is in
                # use: the next chunk may take its place.
                t_next = gl.minimum(c + 1, chunks - 1) * STEPS
                here_next = known[:, None] & (t_next + o_t < steps)
                fetch(s_u.index((c & 1) ^ 1), p_u + o_row + t_next, here_next, FULL)
                fetch(s_delta.index((c & 1) ^ 1), p_delta + o_row + t_next, here_next, FULL)
                if p_z is not None:
                    fetch(s_z.index((c & 1) ^ 1), p_z + o_row + t_next, here_next, FULL)
                commit_group()
                here_w = (o_wn < N) & (t_next + o_wt < steps)
                next_B = load(p_B + o_w + t_next, here_w, FULL)
                next_C = load(p_C + o_w + t_next, here_w, FULL)
            y = zeros(8, WARPS)
            new_x = ()
            for m in gl.static_range(STATES):
                B = load_weights(s_B, 2 * i, m, WARPS, STATES)
                C = load_weights(s_C, 2 * i, m, WARPS, STATES)
                x = b_x[m]
                new_y = ()
                for j in gl.static_range(8):
                    x = gl.fma(exp2(dt[j] * b_A[m]), x, du[j] * B[j])
                    new_y = new_y + (gl.fma(C[j], x, y[j]),)
                y = new_y
                new_x = new_x + (x,)
            b_x = new_x
            blocks = blocks + (join_steps(y),)
        # All at once: each store under a running index would cost a barrier.
        view(s_y, [STEPS // 8, WARPS, 2, CHANNELS, 4], layouts.parts_memory(WARPS, STEPS)).store(
            join_four_blocks(blocks))
        b_y = load_sum(s_y, WARPS, STEPS)
        if p_D is not None:
            b_y += b_D[:, None] * s_u.index(c & 1).load(ROWS).to(gl.float32)
        if p_z is not None:
            b_z = s_z.index(c & 1).load(ROWS).to(gl.float32)
            b_y *= b_z * sigmoid(b_z)
        store(p_out + o_row + t, b_y, here, FULL)
    if i_span == spans - 1:
        store_states(p_last + i_row * d * N, o_x, o_n, known_x, b_x, N, 1, FULL)
