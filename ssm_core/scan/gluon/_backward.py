"""The scan backwards."""

# ruff: noqa: RUF005, SIM102 - kernels have no starred tuples; the compiler decides the outer of two ifs

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_core.scan.gluon import _layouts as layouts
from ssm_core.scan.gluon._channels import add_state, load_selection
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
    LN2,
    LOG2E,
    exp2,
    join_steps,
    load_signal,
    load_steps,
    load_sum,
    load_weights,
    sigmoid,
    softplus,
    split_states,
    store_signal,
    store_weights,
    zeros,
)
from ssm_core.scan.gluon._versions import commit_group, wait_group

STEPS = SAVE  # of a chunk: each begins with a saved state


@gluon.jit
def saved_offsets(i_block, i_group, per_group, N: gl.constexpr, WARPS: gl.constexpr,
                  STATES: gl.constexpr):
    """Offsets in (d, n) for (WARPS, 32, STATES), and which of them there are."""
    BLOCK: gl.constexpr = layouts.columns_of(WARPS, STATES)
    o_w = gl.arange(0, WARPS, layout=gl.SliceLayout(1, gl.SliceLayout(2, BLOCK)))[:, None]
    o_c = gl.arange(0, CHANNELS, layout=gl.SliceLayout(0, gl.SliceLayout(2, BLOCK)))[None, :]
    o_m = gl.arange(0, STATES, layout=gl.SliceLayout(0, gl.SliceLayout(1, BLOCK)))
    o_c = gl.expand_dims(i_block * CHANNELS + o_c + o_w * 0, 2)
    o_n = gl.expand_dims(o_w * STATES, 2) + gl.expand_dims(gl.expand_dims(o_m, 0), 1)
    o = (i_group * per_group + o_c).to(gl.int64) * N + o_n
    return o, (o_c < per_group) & (o_n < N)


@gluon.jit
def part_offsets(i_block, i_group, i_b, batch, groups, L, start, N: gl.constexpr,
                 WARPS: gl.constexpr, STATES: gl.constexpr):
    """Where each thread puts its sum over channels, in (blocks, B or C, b, groups, n, L).

    Lane 4 r + q has state q of four at step r of eight. Also the state, the step, and the distance
    between B and C.
    """
    COLUMN: gl.constexpr = layouts.columns(WARPS)
    o_w = gl.arange(0, WARPS, layout=gl.SliceLayout(1, COLUMN))[:, None]
    o_l = gl.arange(0, CHANNELS, layout=gl.SliceLayout(0, COLUMN))[None, :]
    o_n, o_t = o_w * STATES + o_l % 4, o_l // 4
    o_row = ((i_block.to(gl.int64) * 2 * batch + i_b) * groups + i_group) * N + o_n
    return o_row * L + start + o_t, o_n, o_t, batch.to(gl.int64) * groups * N * L


@gluon.jit
def through_tile(s_dt, s_du, s_dy, s_B, s_C, s_y, s_sum_A, s_sum_B, i4, b_x, b_k, b_dA, b_A, rows,
                 columns, p_part, o_pn, known_part, distance, L, WITH_Y: gl.constexpr,
                 N: gl.constexpr, EXACT: gl.constexpr, FULL: gl.constexpr):
    """Eight steps forwards and back for each state of a thread, from the states b_x before them.

    b_k is the gradient of the state, taken through the decay of the step after it. Returns it and
    the gradient of A. Sums over the thread's states go to shared memory, sums over channels to
    their slots.
    """
    WARPS: gl.constexpr = b_x[0].shape[0]
    STATES: gl.constexpr = len(b_x)
    dt = load_steps(s_dt, i4, WARPS)
    du = load_steps(s_du, i4, WARPS)
    dy = load_steps(s_dy, i4, WARPS)
    y, sum_A, sum_B = zeros(8, WARPS), zeros(8, WARPS), zeros(8, WARPS)
    collected = zeros(4, WARPS)
    new_k, new_dA = (), ()
    for m in gl.static_range(STATES):
        B = load_weights(s_B, i4, m, WARPS, STATES)
        C = load_weights(s_C, i4, m, WARPS, STATES)
        x = b_x[m]
        before, decay, of_C, new_y = (), (), (), ()
        for j in gl.static_range(8):
            before = before + (x,)
            decay = decay + (exp2(dt[j] * b_A[m]),)
            x = gl.fma(decay[j], x, du[j] * B[j])
            of_C = of_C + (x * dy[j],)
            if WITH_Y:
                new_y = new_y + (gl.fma(C[j], x, y[j]),)
        if WITH_Y:
            y = new_y
        k, dA = b_k[m], b_dA[m]
        of_B, new_sum_A, new_sum_B = (), (), ()
        for j in gl.static_range(7, -1, -1):
            g = gl.fma(C[j], dy[j], k)  # the gradient of the state after step j
            k = decay[j] * g
            through_A = k * before[j]
            dA = gl.fma(through_A, dt[j], dA)
            new_sum_A = (gl.fma(through_A, b_A[m], sum_A[j]),) + new_sum_A
            new_sum_B = (gl.fma(g, B[j], sum_B[j]),) + new_sum_B
            of_B = (g * du[j],) + of_B
        sum_A, sum_B = new_sum_A, new_sum_B
        new_k, new_dA = new_k + (k,), new_dA + (dA,)
        collected = add_state(collected, of_B, of_C, rows, columns, m % 4, EXACT)
        if m % 4 == 3:
            p = p_part + (m - 3) * L
            here = known_part & (o_pn + (m - 3) < N)
            store(p, collected[0] + collected[2], here, FULL)
            store(p + distance, collected[1] + collected[3], here, FULL)
            collected = zeros(4, WARPS)
    if WITH_Y:
        s_y.index(i4 // 2).store(join_steps(y))
    s_sum_A.index(i4 // 2).store(join_steps(sum_A))
    s_sum_B.index(i4 // 2).store(join_steps(sum_B))
    return new_k, new_dA


@gluon.jit(do_not_specialize=["d", "groups", "L", "spans", "span", "batch"])
def scan_backward(p_dout, p_last, p_saved, p_edges, p_sums, p_u, p_delta, p_A, p_B, p_C, p_D, p_z,
                  p_bias, p_cu, p_selection, p_du, p_ddelta, p_dz, p_dA, p_dBC, p_dD, p_dbias,
                  p_dfirst, d, groups, L, spans, span, batch, SOFTPLUS: gl.constexpr,
                  PACKED: gl.constexpr, FULL: gl.constexpr, EXACT: gl.constexpr, N: gl.constexpr,
                  WARPS: gl.constexpr, STATES: gl.constexpr):
    """32 channels over one span of time, backwards (eq-selective-scan-backward).

    Chunk by chunk: what concerns each sample on its own goes to shared memory once; the first eight
    steps are taken again from the saved state; then back through the second and the first eight;
    then gradients of signals are made of the sums over states.
    """
    L = length_of(L, FULL)
    per_group = d // groups
    i_block, i_group, i_span, i_row = program_of(d, groups, spans)
    start, steps, i_b, i_saved = span_of(i_row, i_span, p_cu, L, span, PACKED)
    i_part = i_row * spans + i_span
    ROWS: gl.constexpr = layouts.signals(WARPS, STEPS)
    SUMS: gl.constexpr = layouts.signal_sums(WARPS, STEPS)
    SAVED: gl.constexpr = layouts.columns_of(WARPS, STATES)

    SIGNAL: gl.constexpr = [2, CHANNELS, STEPS]
    s_u = gl.allocate_shared_memory(p_u.dtype.element_ty, SIGNAL, layouts.raw_memory())
    s_delta = gl.allocate_shared_memory(p_delta.dtype.element_ty, SIGNAL, layouts.raw_memory())
    s_dout = gl.allocate_shared_memory(p_dout.dtype.element_ty, SIGNAL, layouts.raw_memory())
    s_x = gl.allocate_shared_memory(p_saved.dtype.element_ty, [2, WARPS, CHANNELS, STATES],
                                    layouts.states_memory())
    PLANES: gl.constexpr = [STEPS // 4, CHANNELS, 4]
    s_dt = gl.allocate_shared_memory(gl.float32, PLANES, layouts.plane_memory())
    s_du = gl.allocate_shared_memory(gl.float32, PLANES, layouts.plane_memory())
    s_dy = gl.allocate_shared_memory(gl.float32, PLANES, layouts.plane_memory())
    WEIGHTS: gl.constexpr = [STEPS // 4 * STATES, WARPS, 4]
    s_B = gl.allocate_shared_memory(gl.float32, WEIGHTS, layouts.weight_memory(WARPS))
    s_C = gl.allocate_shared_memory(gl.float32, WEIGHTS, layouts.weight_memory(WARPS))
    # One allocation for each sum: stores to different ones need no barrier between them.
    PARTS: gl.constexpr = [STEPS // 8, WARPS, 2, CHANNELS, 4]
    s_sum_A = gl.allocate_shared_memory(gl.float32, PARTS, layouts.part_memory(WARPS))
    s_sum_B = gl.allocate_shared_memory(gl.float32, PARTS, layouts.part_memory(WARPS))
    s_y = s_sum_A
    if p_z is not None:
        s_z = gl.allocate_shared_memory(p_z.dtype.element_ty, SIGNAL, layouts.raw_memory())
        s_y = gl.allocate_shared_memory(gl.float32, PARTS, layouts.part_memory(WARPS))
        s_dgate = gl.allocate_shared_memory(gl.float32, PLANES, layouts.plane_memory())
    if SOFTPLUS:
        s_slope = gl.allocate_shared_memory(gl.float32, PLANES, layouts.plane_memory())

    o_x, o_n, known_x = state_offsets(i_block, i_group, per_group, N, WARPS, STATES, STATES, 1)
    b_A = load_decays(p_A, o_x, o_n, known_x, N, STATES, 1, FULL)
    b_k, b_dA = zeros(STATES, WARPS), zeros(STATES, WARPS)
    if p_last is not None:
        b_k = load_states(p_last + i_row * d * N, o_x, o_n, known_x, N, STATES, 1, FULL)
    if p_edges is not None:
        b_k = entering(b_k, b_A, p_edges, p_sums, o_x, o_n, known_x, i_row, i_span, spans, d,
                       per_group, i_block, i_group, N, STATES, True, FULL)
    rows, columns = load_selection(p_selection, WARPS)
    o_d, known, o_row, o_t = signal_offsets(i_block, i_group, i_b, d, per_group, L, start, WARPS,
                                            STEPS)
    o_w, o_wn, o_wt = weight_offsets(i_group, i_b, groups, L, start, N, WARPS, STATES, STEPS,
                                     STATES, 1)
    o_saved, known_saved = saved_offsets(i_block, i_group, per_group, N, WARPS, STATES)
    known_saved &= steps > 0
    p_saved += i_saved * d * N
    o_part, o_pn, o_pt, distance = part_offsets(i_block, i_group, i_b, batch, groups, L, start, N,
                                                WARPS, STATES)
    b_bias = gl.zeros([CHANNELS], gl.float32, gl.SliceLayout(1, ROWS))
    b_D = b_bias
    if p_bias is not None:
        b_bias = load(p_bias + o_d, known, FULL)
    if p_D is not None:
        b_D = load(p_D + o_d, known, FULL)
    b_dD = gl.zeros([CHANNELS, WARPS], gl.float32, gl.SliceLayout(2, SUMS))
    b_dbias = gl.zeros([CHANNELS, WARPS], gl.float32, gl.SliceLayout(2, SUMS))

    chunks = gl.cdiv(steps, STEPS)
    c = gl.maximum(chunks - 1, 0)
    here = known[:, None] & (c * STEPS + o_t < steps)
    fetch(s_u.index(c & 1), p_u + o_row + c * STEPS, here, FULL)
    fetch(s_delta.index(c & 1), p_delta + o_row + c * STEPS, here, FULL)
    fetch(s_dout.index(c & 1), p_dout + o_row + c * STEPS, here, FULL)
    if p_z is not None:
        fetch(s_z.index(c & 1), p_z + o_row + c * STEPS, here, FULL)
    fetch(s_x.index(c & 1), p_saved + o_saved + c.to(gl.int64) * d * N, known_saved, FULL)
    commit_group()
    here_w = (o_wn < N) & (c * STEPS + o_wt < steps)
    next_B = load(p_B + o_w + c * STEPS, here_w, FULL)
    next_C = load(p_C + o_w + c * STEPS, here_w, FULL)
    for i in range(chunks):
        c = chunks - 1 - i
        t, at = c * STEPS, c & 1
        here = known[:, None] & (t + o_t < steps)
        wait_group(0)

        # Each sample on its own.
        b_u = s_u.index(at).load(ROWS).to(gl.float32)
        b_raw = s_delta.index(at).load(ROWS).to(gl.float32) + b_bias[:, None]
        b_dy = s_dout.index(at).load(ROWS).to(gl.float32)
        b_dt = b_raw
        if SOFTPLUS:
            b_dt = softplus(b_raw)
            store_signal(s_slope, exp2((b_raw - b_dt) * LOG2E), WARPS, STEPS)
        if not FULL:
            b_dt = gl.where(here, b_dt, 0.0)
        if p_z is not None:
            b_z = s_z.index(at).load(ROWS).to(gl.float32)
            b_s = sigmoid(b_z)
            store_signal(s_dgate, b_dy * b_s * (1 + b_z * (1 - b_s)), WARPS, STEPS)
            b_dy *= b_z * b_s
        store_weights(s_B, next_B, WARPS, STATES, STEPS)
        store_weights(s_C, next_C, WARPS, STATES, STEPS)
        store_signal(s_dt, b_dt, WARPS, STEPS)
        store_signal(s_du, b_dt * b_u, WARPS, STEPS)
        store_signal(s_dy, b_dy, WARPS, STEPS)

        # The first eight steps once more.
        b_x = split_states(s_x.index(at).load(SAVED).to(gl.float32))
        dt = load_steps(s_dt, 0, WARPS)
        du = load_steps(s_du, 0, WARPS)
        # The loads above have waited for all warps, so nothing of the chunk after this one is in
        # use: the chunk before may take its place.
        c_next = gl.maximum(c - 1, 0)
        t_next = c_next * STEPS
        here_next = known[:, None] & (t_next + o_t < steps)
        fetch(s_u.index(at ^ 1), p_u + o_row + t_next, here_next, FULL)
        fetch(s_delta.index(at ^ 1), p_delta + o_row + t_next, here_next, FULL)
        fetch(s_dout.index(at ^ 1), p_dout + o_row + t_next, here_next, FULL)
        if p_z is not None:
            fetch(s_z.index(at ^ 1), p_z + o_row + t_next, here_next, FULL)
        fetch(s_x.index(at ^ 1), p_saved + o_saved + c_next.to(gl.int64) * d * N, known_saved, FULL)
        commit_group()
        here_w = (o_wn < N) & (t_next + o_wt < steps)
        next_B = load(p_B + o_w + t_next, here_w, FULL)
        next_C = load(p_C + o_w + t_next, here_w, FULL)
        new_x = ()
        for m in gl.static_range(STATES):
            B = load_weights(s_B, 0, m, WARPS, STATES)
            x = b_x[m]
            for j in gl.static_range(8):
                x = gl.fma(exp2(dt[j] * b_A[m]), x, du[j] * B[j])
            new_x = new_x + (x,)
        b_x = new_x

        # Back through both eights. Unrolled, this would take more registers than there are.
        for i_tile in range(STEPS // 8):
            i4 = (STEPS // 8 - 1 - i_tile) * 2
            known_part = t + i4 * 4 + o_pt < steps
            b_k, b_dA = through_tile(
                s_dt, s_du, s_dy, s_B, s_C, s_y, s_sum_A, s_sum_B, i4, b_x, b_k, b_dA, b_A, rows,
                columns, p_dBC + o_part + t + i4 * 4, o_pn, known_part, distance, L,
                p_z is not None, N, EXACT, FULL)
            b_x = split_states(s_x.index(at).load(SAVED).to(gl.float32))

        # Each sample on its own again.
        b_sum_A = load_sum(s_sum_A, WARPS, STEPS)
        b_sum_B = load_sum(s_sum_B, WARPS, STEPS)
        b_u = s_u.index(at).load(ROWS).to(gl.float32)
        b_dt = load_signal(s_dt, WARPS, STEPS)
        b_dy = load_signal(s_dy, WARPS, STEPS)
        b_ddelta = gl.fma(b_u, b_sum_B, LN2 * b_sum_A)
        if SOFTPLUS:
            b_ddelta *= load_signal(s_slope, WARPS, STEPS)
        if not FULL:
            b_ddelta = gl.where(here, b_ddelta, 0.0)
        store(p_ddelta + o_row + t, b_ddelta, here, FULL)
        store(p_du + o_row + t, b_dt * b_sum_B + b_D[:, None] * b_dy, here, FULL)
        if p_z is not None:
            b_y = load_sum(s_y, WARPS, STEPS) + b_D[:, None] * b_u
            store(p_dz + o_row + t, load_signal(s_dgate, WARPS, STEPS) * b_y, here, FULL)
        EACH: gl.constexpr = [CHANNELS, WARPS, STEPS // WARPS]
        if p_dD is not None:
            b_dD += gl.sum(gl.convert_layout(gl.reshape(b_dy * b_u, EACH), SUMS,
                                             assert_trivial=True), 2)
        if p_dbias is not None:
            b_dbias += gl.sum(gl.convert_layout(gl.reshape(b_ddelta, EACH), SUMS,
                                                assert_trivial=True), 2)

    store_states(p_dA + i_part * d * N, o_x, o_n, known_x, b_dA, N, 1, FULL)
    if p_dfirst is not None:
        if i_span == 0:
            store_states(p_dfirst + i_row * d * N, o_x, o_n, known_x, b_k, N, 1, FULL)
    o_c = i_block * CHANNELS + gl.arange(
        0, CHANNELS, layout=gl.SliceLayout(1, gl.SliceLayout(2, SUMS)))
    o_sum = i_part * d + i_group * per_group + o_c
    if p_dD is not None:
        store(p_dD + o_sum, gl.sum(b_dD, 1), o_c < per_group, FULL)
    if p_dbias is not None:
        store(p_dbias + o_sum, gl.sum(b_dbias, 1), o_c < per_group, FULL)
