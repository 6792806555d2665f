r"""The selective scan on a GPU, in Triton: forward, backward, and one step.

**Who does what.** A thread owns one channel and M of its n states, keeps them in registers, and
walks along time eight steps at a time; G neighbouring lanes share a channel. Nothing is scanned
across threads, so that the only traffic between lanes is a sum over states for the output, and a
sum over channels for the gradients of B and C.

**Who does when.** Time is cut into chunks of 64 steps, and the state at the start of each is kept:
that is all that the backward pass needs (it recomputes the rest). Where batch and channels do not
fill the GPU, time is also cut into spans that run side by side. What a span adds to the state after
it is summed up first (`_edge`), from its end backwards and only as far as the decays let anything
through; a short loop carries the states across spans (`_carry`); then each span runs from its true
state. The backward pass does the same with time reversed.

**What the backward pass keeps near.** A program takes several blocks of channels through a chunk
together, so that the gradients of B and C are summed over channels in registers. What it must put
aside meanwhile goes through a workspace of its own, small enough for the GPU's caches.

**What is repeatable.** Sums over channels go through one slot of memory for each program and are
added up afterwards in a fixed order; there are no atomics. All offsets are 64 bits wide.

In the kernels `p_` is a pointer, `b_` a block in registers, `o_` an offset and `i_` the index of a
program. Decays are powers of two, with A multiplied by log2(e) once. Blocks that belong to threads
are (P,) or (P, steps) with P = D G threads, channels apart by G.
"""

# ruff: noqa: RUF005, SIM102 - kernels know no unpacking; the compiler decides the outer of two ifs

import contextlib
import functools

import torch
import triton
import triton.language as tl

CHUNK = 64  # steps between two saved states
STEPS = 8  # steps that a thread takes at once
RESIDENT = 12, 8  # warps of the forward and of the backward kernel that a processor holds at once
_SIZES = ("d", "groups", "L", "spans", "span", "slots", "batch")  # no kernel anew for a 1 or a 16
_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


# --- registers: a block of eight steps as eight columns, which needs no traffic between threads ---


@triton.jit
def _four_columns(x):
    """The columns of (P, 4), each (P,)."""
    even, odd = tl.split(tl.reshape(x, [x.shape[0], 2, 2]))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _columns(x):
    """The columns of (P, 8), each (P,)."""
    even, odd = tl.split(tl.reshape(x, [x.shape[0], 4, 2]))
    x0, x2, x4, x6 = _four_columns(even)
    x1, x3, x5, x7 = _four_columns(odd)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _four(x0, x1, x2, x3):
    """Four columns as one block again, (P, 4)."""
    return tl.reshape(tl.join(tl.join(x0, x2), tl.join(x1, x3)), [x0.shape[0], 4])


@triton.jit
def _eight(x):
    """Eight columns as one block again, (P, 8)."""
    even = tl.join(tl.join(x[0], x[4]), tl.join(x[2], x[6]))
    odd = tl.join(tl.join(x[1], x[5]), tl.join(x[3], x[7]))
    return tl.reshape(tl.join(even, odd), [x[0].shape[0], 8])


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) to 2.5e-7: log(1 + e) / e by a polynomial, e = exp(-|x|) being 0 to 1."""
    e = tl.exp2(tl.abs(x) * -_LOG2E)
    p = 0.0051261019 * e - 0.029074065
    p = p * e + 0.0775161
    p = p * e - 0.13602248
    p = p * e + 0.19076881
    p = p * e - 0.24835399
    p = p * e + 0.3331812
    p = p * e - 0.49999446
    p = p * e + 0.99999994
    return tl.maximum(x, 0.0) + e * p


@triton.jit
def _sigmoid(x):
    """1 / (1 + exp(-x)); a division would take more instructions, for denominators past 2^126."""
    root = tl.rsqrt(1 + tl.exp2(x * -_LOG2E))
    return root * root


@triton.jit
def _gated(x, z):
    """x SiLU(z)."""
    return x * z * _sigmoid(z)


# --- what all kernels of the scan read -----------------------------------------------------------


@triton.jit
def _span(i_row, i_span, p_cu, L, span, PACKED: tl.constexpr, CHUNK: tl.constexpr):
    """Where a program's steps begin, how many they are, its batch and its first chunk."""
    if PACKED:
        begin = tl.load(p_cu + i_row).to(tl.int64)
        end = tl.load(p_cu + i_row + 1).to(tl.int64)
        return begin, (end - begin).to(tl.int32), i_row * 0, begin // CHUNK + i_row
    span = span // CHUNK * CHUNK  # so that the compiler can see it
    start = i_span * span
    steps = tl.minimum(span, L - start).to(tl.int32)
    return start, steps, i_row, i_row * tl.cdiv(L, CHUNK) + start // CHUNK


@triton.jit
def _lanes_of(i_block, i_g, per_group, N: tl.constexpr, M: tl.constexpr, G: tl.constexpr,
              D: tl.constexpr):
    """For each of P = D G threads: its first state in (d, n), which that is, and whether it is."""
    o_p = tl.arange(0, D * G)
    o_c = i_block * D + o_p // G
    o_n = o_p % G * M
    return (i_g * per_group + o_c).to(tl.int64) * N + o_n, o_n, o_c < per_group


@triton.jit
def _load(p, here, FULL: tl.constexpr):
    """Values, 0 where nothing is; without a mask where everything is there."""
    if FULL:
        return tl.load(p)
    else:
        return tl.load(p, mask=here, other=0.0)


@triton.jit
def _store(p, x, here, FULL: tl.constexpr):
    if FULL:
        tl.store(p, x.to(p.dtype.element_ty))
    else:
        tl.store(p, x.to(p.dtype.element_ty), mask=here)


@triton.jit
def _add(p, x, here):
    tl.store(p, tl.load(p, mask=here, other=0.0) + x, mask=here)


@triton.jit
def _step_sizes(b_delta, b_bias, here, SOFTPLUS: tl.constexpr, FULL: tl.constexpr):
    """The steps and what they were before softplus, (D, 8); a step that is not here is 0."""
    b_raw = b_delta.to(tl.float32) + b_bias[:, None]
    b_dt = _softplus(b_raw) if SOFTPLUS else b_raw
    if not FULL:
        b_dt = tl.where(here, b_dt, 0.0)
    return b_dt, b_raw


@triton.jit
def _lane_pointers(p_M, o_w, CONST: tl.constexpr, FULL: tl.constexpr):
    """Where each thread's first state finds its B or C: (P, 1), or (P, steps).

    16 bytes at most come at once. Two steps of 16 bits come as one word, which halves the
    registers that wait for them.
    """
    if CONST:
        return p_M + o_w[:, None]
    elif p_M.dtype.element_ty == tl.float32:
        return p_M + (o_w[:, None] + tl.arange(0, 4)[None, :])
    elif FULL:
        return p_M.to(tl.pointer_type(tl.int32)) + (o_w[:, None] // 2 + tl.arange(0, 4)[None, :])
    else:
        return p_M + (o_w[:, None] + tl.arange(0, 8)[None, :])


@triton.jit
def _weights(p_lane, o_n, t, steps, L, N: tl.constexpr, M: tl.constexpr, CONST: tl.constexpr,
             FULL: tl.constexpr):
    """B or C from step t on for each of M states of a thread, as `_steps_of` reads them."""
    x = ()
    for m in tl.static_range(M):
        known = (o_n + m < N)[:, None]
        if CONST:
            x = x + ((tl.load(p_lane + m, mask=known, other=0.0),),)
        elif p_lane.dtype.element_ty == tl.int32:
            x = x + ((tl.load(p_lane + ((m * L + t) >> 1)),),)
        elif p_lane.dtype.element_ty == tl.float32:
            o_t = t + tl.arange(0, 4)[None, :]
            p = p_lane + (m * L + t)
            x = x + ((_load(p, known & (o_t < steps), FULL),
                      _load(p + 4, known & (o_t + 4 < steps), FULL)),)
        else:
            o_t = t + tl.arange(0, 8)[None, :]
            x = x + ((_load(p_lane + (m * L + t), known & (o_t < steps), FULL),),)
    return x


@triton.jit
def _spread(x, G: tl.constexpr):
    """The columns of (D, 8), each for the G lanes that share a channel."""
    x = tl.broadcast_to(x[:, None, :], [x.shape[0], G, 8])
    return _columns(tl.reshape(x, [x.shape[0] * G, 8]))


@triton.jit
def _steps_of(w, P: tl.constexpr, dtype: tl.constexpr):
    """One state's share of `_weights` as eight columns (P,) in float32; dtype is that of B or C."""
    if len(w) == 2:
        return _four_columns(w[0]) + _four_columns(w[1])
    elif w[0].dtype != tl.int32:
        return _columns(tl.broadcast_to(w[0].to(tl.float32), [P, 8]))
    elif dtype == tl.bfloat16:
        x0, x2, x4, x6 = _four_columns((w[0] << 16).to(tl.float32, bitcast=True))
        x1, x3, x5, x7 = _four_columns((w[0] & -65536).to(tl.float32, bitcast=True))
        return x0, x1, x2, x3, x4, x5, x6, x7
    else:
        low, high = w[0].to(tl.int16), (w[0] >> 16).to(tl.int16)
        x0, x2, x4, x6 = _four_columns(low.to(dtype, bitcast=True).to(tl.float32))
        x1, x3, x5, x7 = _four_columns(high.to(dtype, bitcast=True).to(tl.float32))
        return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _states(p, o_x, o_n, d_known, N: tl.constexpr, M: tl.constexpr):
    """M states of each thread from (…, d, n)."""
    x = ()
    for m in tl.static_range(M):
        x = x + (tl.load(p + o_x + m, mask=d_known & (o_n + m < N), other=0.0),)
    return x


@triton.jit
def _store_states(p, o_x, o_n, d_known, x, N: tl.constexpr, M: tl.constexpr):
    for m in tl.static_range(M):
        tl.store(p + o_x + m, x[m], mask=d_known & (o_n + m < N))


@triton.jit
def _zeros(P: tl.constexpr, M: tl.constexpr):
    x = ()
    for _ in tl.static_range(M):
        x = x + (tl.zeros([P], tl.float32),)
    return x


@triton.jit
def _decays(p_A, o_a, o_n, d_known, N: tl.constexpr, M: tl.constexpr):
    """A log2(e) for M states of each thread."""
    b_A = _states(p_A, o_a, o_n, d_known, N, M)
    scaled = ()
    for m in tl.static_range(M):
        scaled = scaled + (b_A[m] * _LOG2E,)
    return scaled


# --- forward -------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=_SIZES)
def _scan(p_u, p_delta, p_A, p_B, p_C, p_D, p_z, p_bias, p_start, p_out, p_last, p_saved, p_cu, d,
          groups, L, spans, span, SOFTPLUS: tl.constexpr, B_CONST: tl.constexpr,
          C_CONST: tl.constexpr, PACKED: tl.constexpr, FULL: tl.constexpr, CHUNK: tl.constexpr,
          N: tl.constexpr, M: tl.constexpr, G: tl.constexpr, D: tl.constexpr):
    """One block of channels over one span of time (eq-selective-scan)."""
    P: tl.constexpr = D * G
    L = L.to(tl.int64)
    if FULL:
        L = L // 8 * 8  # so that the compiler can see it
    per_group = d // groups
    blocks = tl.cdiv(per_group, D)
    i_block = tl.program_id(0) % (blocks * groups)
    i_time = (tl.program_id(0) // (blocks * groups)).to(tl.int64)
    i_row, i_span = i_time // spans, i_time % spans
    start, steps, i_b, i_chunk = _span(i_row, i_span, p_cu, L, span, PACKED, CHUNK)

    i_g = i_block // blocks
    o_c = (i_block % blocks) * D + tl.arange(0, D)
    known = o_c < per_group
    o_d = (i_g * per_group + o_c).to(tl.int64)
    o_x, o_n, known_x = _lanes_of(i_block % blocks, i_g, per_group, N, M, G, D)
    o_t = tl.arange(0, 8)[None, :]
    o_row = (i_b * d + o_d)[:, None] * L + start + o_t
    o_w = ((i_b * groups + i_g) * N + o_n.to(tl.int64)) * L + start
    p_lane_B = _lane_pointers(p_B, o_x if B_CONST else o_w, B_CONST, FULL)
    p_lane_C = _lane_pointers(p_C, o_x if C_CONST else o_w, C_CONST, FULL)

    b_A = _decays(p_A, o_x, o_n, known_x, N, M)
    b_bias = tl.zeros([D], tl.float32)
    if p_bias is not None:
        b_bias = tl.load(p_bias + o_d, mask=known, other=0.0)
    b_x = _zeros(P, M)
    if p_start is not None:
        b_x = _states(p_start + (i_row * spans + i_span) * d * N, o_x, o_n, known_x, N, M)

    # What the next eight steps need is on its way while these are taken, if B and C come as words:
    # else that would take too many registers.
    here = known[:, None] & (o_t < steps)
    next_u = _load(p_u + o_row, here, FULL)
    next_delta = _load(p_delta + o_row, here, FULL)
    if FULL:
        next_B = _weights(p_lane_B, o_n, 0, steps, L, N, M, B_CONST, FULL)
        next_C = _weights(p_lane_C, o_n, 0, steps, L, N, M, C_CONST, FULL)
    if p_z is not None:
        next_z = _load(p_z + o_row, here, FULL)
    if p_D is not None:
        b_D = tl.load(p_D + o_d, mask=known, other=0.0)[:, None]
    # Two tiles a turn save moving what was loaded ahead; for more states compiling takes too long.
    UNROLL: tl.constexpr = 2 if FULL and M <= 8 else 1
    for t in tl.range(0, steps, 8, loop_unroll_factor=UNROLL):
        if p_saved is not None:
            if t % CHUNK == 0:
                o_chunk = (i_chunk + t // CHUNK) * d * N
                _store_states(p_saved + o_chunk, o_x, o_n, known_x, b_x, N, M)
        here = known[:, None] & (t + o_t < steps)
        b_u = next_u.to(tl.float32)
        b_dt = _step_sizes(next_delta, b_bias, here, SOFTPLUS, FULL)[0]
        dt, du = _spread(b_dt, G), _spread(b_dt * b_u, G)
        t_next = tl.minimum(t + 8, (steps - 1) // 8 * 8)
        here_next = known[:, None] & (t_next + o_t < steps)
        if FULL:
            b_B, b_C = next_B, next_C
            next_B = _weights(p_lane_B, o_n, t_next, steps, L, N, M, B_CONST, FULL)
            next_C = _weights(p_lane_C, o_n, t_next, steps, L, N, M, C_CONST, FULL)
        else:
            b_B = _weights(p_lane_B, o_n, t, steps, L, N, M, B_CONST, FULL)
            b_C = _weights(p_lane_C, o_n, t, steps, L, N, M, C_CONST, FULL)
        next_u = _load(p_u + o_row + t_next, here_next, FULL)
        next_delta = _load(p_delta + o_row + t_next, here_next, FULL)
        if p_z is not None:
            b_z = next_z.to(tl.float32)
            next_z = _load(p_z + o_row + t_next, here_next, FULL)
        y = _zeros(P, 8)
        new_x = ()
        for m in tl.static_range(M):
            B = _steps_of(b_B[m], P, p_B.dtype.element_ty)
            C = _steps_of(b_C[m], P, p_C.dtype.element_ty)
            x = b_x[m]
            new_y = ()
            for i in tl.static_range(8):
                x = tl.exp2(dt[i] * b_A[m]) * x + du[i] * B[i]
                new_y = new_y + (y[i] + C[i] * x,)
            y = new_y
            new_x = new_x + (x,)
        b_x = new_x
        b_y = tl.sum(tl.reshape(_eight(y), [D, G, 8]), axis=1)
        if p_D is not None:
            b_y += b_D * b_u
        if p_z is not None:
            b_y *= b_z * _sigmoid(b_z)
        _store(p_out + o_row + t, b_y, here, FULL)

    if i_span == spans - 1:
        _store_states(p_last + i_row * d * N, o_x, o_n, known_x, b_x, N, M)


@triton.jit
def _edge_inputs(p_signal, p_z, p_delta, o, here, ADJOINT: tl.constexpr, FULL: tl.constexpr):
    b_signal, b_delta = _load(p_signal + o, here, FULL), _load(p_delta + o, here, FULL)
    b_z = b_signal
    if ADJOINT:
        if p_z is not None:
            b_z = _load(p_z + o, here, FULL)
    return b_signal, b_z, b_delta


@triton.jit
def _alive(b_sum, b_A, o_n, known, N: tl.constexpr, M: tl.constexpr):
    """For each of M states whether any thread's decay over these steps is above 2^-100."""
    alive = ()
    for m in tl.static_range(M):
        b_decay = tl.where(known & (o_n + m < N), b_sum * b_A[m], float("-inf"))
        alive = alive + (tl.max(b_decay, axis=0) > -100,)
    return alive


@triton.jit
def _any(x):
    some = x[0]
    for m in tl.static_range(1, len(x)):
        some = some | x[m]
    return some


@triton.jit(do_not_specialize=_SIZES)
def _edge(p_signal, p_z, p_delta, p_A, p_W, p_bias, p_edge, p_sum, d, groups, L, spans, span,
          ADJOINT: tl.constexpr, SOFTPLUS: tl.constexpr, CONST: tl.constexpr, FULL: tl.constexpr,
          CHUNK: tl.constexpr, N: tl.constexpr, M: tl.constexpr, G: tl.constexpr,
          D: tl.constexpr):
    """What a span adds to the state after it or, as the adjoint, to the gradient before it.

    Either is a sum over the steps of the span, each with the decay between it and that edge. It is
    taken from the edge inwards, and ends for each state where its decay has fallen below 2^-100 in
    all channels of the program, which for most states is soon.
    """
    P: tl.constexpr = D * G
    L = L.to(tl.int64)
    if FULL:
        L = L // 8 * 8
    per_group = d // groups
    blocks = tl.cdiv(per_group, D)
    i_block = tl.program_id(0) % (blocks * groups)
    i_time = (tl.program_id(0) // (blocks * groups)).to(tl.int64)
    i_row, i_span = i_time // spans, i_time % spans
    start, steps, i_b, _ = _span(i_row, i_span, None, L, span, False, CHUNK)

    i_g = i_block // blocks
    o_c = (i_block % blocks) * D + tl.arange(0, D)
    known = o_c < per_group
    o_d = (i_g * per_group + o_c).to(tl.int64)
    o_x, o_n, known_x = _lanes_of(i_block % blocks, i_g, per_group, N, M, G, D)
    o_t = tl.arange(0, 8)[None, :]
    o_row = (i_b * d + o_d)[:, None] * L + start + o_t
    o_w = ((i_b * groups + i_g) * N + o_n.to(tl.int64)) * L + start
    p_lane = _lane_pointers(p_W, o_x if CONST else o_w, CONST, FULL)

    b_A = _decays(p_A, o_x, o_n, known_x, N, M)
    b_bias = tl.zeros([D], tl.float32)
    if p_bias is not None:
        b_bias = tl.load(p_bias + o_d, mask=known, other=0.0)
    b_x = _zeros(P, M)
    b_sum = tl.zeros([P], tl.float32)  # of the steps between here and the edge
    alive = ()
    for _ in tl.static_range(M):
        alive = alive + (steps > 0,)
    tiles = tl.cdiv(steps, 8)
    i = tiles * 0
    t = 0 if ADJOINT else (tiles - 1) * 8
    here = known[:, None] & (t + o_t >= 0) & (t + o_t < steps)
    next_in = _edge_inputs(p_signal, p_z, p_delta, o_row + t, here, ADJOINT, FULL)
    next_W = _weights(p_lane, o_n, t, steps, L, N, M, CONST, FULL)
    while i < tiles:
        b_signal, b_z, b_delta = next_in
        b_W = next_W
        here = known[:, None] & (t + o_t < steps)
        i += 1
        t = tl.minimum(i, tiles - 1) * 8 if ADJOINT else tl.maximum(tiles - 1 - i, 0) * 8
        here_next = known[:, None] & (t + o_t < steps)
        next_in = _edge_inputs(p_signal, p_z, p_delta, o_row + t, here_next, ADJOINT, FULL)
        next_W = _weights(p_lane, o_n, t, steps, L, N, M, CONST, FULL)
        b_dt = _step_sizes(b_delta, b_bias, here, SOFTPLUS, FULL)[0]
        b_in = b_signal.to(tl.float32)
        if not ADJOINT:
            b_in *= b_dt
        elif p_z is not None:
            b_in = _gated(b_in, b_z.to(tl.float32))
        dt, signal = _spread(b_dt, G), _spread(b_in, G)
        between = ()
        for j in tl.static_range(8):
            if ADJOINT:
                b_sum += dt[j]
                between = between + (b_sum,)
            else:
                between = (b_sum,) + between
                b_sum += dt[7 - j]
        new_x = ()
        for m in tl.static_range(M):
            x = b_x[m]
            if alive[m]:
                W = _steps_of(b_W[m], P, p_W.dtype.element_ty)
                for j in tl.static_range(8):
                    x += tl.exp2(between[j] * b_A[m]) * (signal[j] * W[j])
            new_x = new_x + (x,)
        b_x = new_x
        if i % (CHUNK // 8) == 0:
            alive = _alive(b_sum, b_A, o_n, known_x, N, M)
            if not _any(alive):
                i = tiles
    o_span = i_row * spans + i_span
    _store_states(p_edge + o_span * d * N, o_x, o_n, known_x, b_x, N, M)
    tl.store(p_sum + o_span * d + o_x // N, b_sum, mask=known_x & (o_n == 0))


@triton.jit(do_not_specialize=_SIZES)
def _carry(p_first, p_x, p_sum, p_A, d, spans, N: tl.constexpr, REVERSE: tl.constexpr,
           BLOCK: tl.constexpr):
    """Turn what each span adds (rows, spans, d, n) into what enters each span, in place."""
    size = d * N
    blocks = tl.cdiv(size, BLOCK)
    i_row = (tl.program_id(0) // blocks).to(tl.int64)
    o = ((tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    known = o < size
    b_A = tl.load(p_A + o, mask=known, other=0.0) * _LOG2E
    b_x = tl.zeros([BLOCK], tl.float32)
    if p_first is not None:
        b_x = tl.load(p_first + i_row * size + o, mask=known, other=0.0)
    for i in range(spans):
        o_span = i_row * spans + (spans - 1 - i if REVERSE else i)
        b_add = tl.load(p_x + o_span * size + o, mask=known, other=0.0)
        b_sum = tl.load(p_sum + o_span * d + o // N, mask=known, other=0.0)
        tl.store(p_x + o_span * size + o, b_x, mask=known)
        b_x = tl.exp2(b_A * b_sum) * b_x + b_add


# --- backward ------------------------------------------------------------------------------------


@triton.jit
def _gate(p_dout, p_z, o, here, FULL: tl.constexpr):
    """The gradient that reaches y, the gate z and the gradient of the gated output, (D, 8)."""
    b_dout = _load(p_dout + o, here, FULL).to(tl.float32)
    b_z = b_dout
    b_dy = b_dout
    if p_z is not None:
        b_z = _load(p_z + o, here, FULL).to(tl.float32)
        b_dy = _gated(b_dout, b_z)
    return b_dy, b_z, b_dout


@triton.jit
def _kept(p, o_lane, M: tl.constexpr):
    """M numbers of each thread from the workspace, where they lie side by side."""
    if M == 1:
        return (tl.load(p + o_lane),)
    elif M == 2:
        return tl.split(tl.load(p + (o_lane[:, None] + tl.arange(0, 2)[None, :])))
    else:
        return _four_columns(tl.load(p + (o_lane[:, None] + tl.arange(0, 4)[None, :])))


@triton.jit
def _keep(p, o_lane, x, M: tl.constexpr):
    if M == 1:
        tl.store(p + o_lane, x[0])
    elif M == 2:
        o = o_lane[:, None] + tl.arange(0, 2)[None, :]
        tl.store(p + o, tl.join(x[0], x[1]))
    else:
        o = o_lane[:, None] + tl.arange(0, 4)[None, :]
        tl.store(p + o, _four(x[0], x[1], x[2], x[3]))


@triton.jit
def _kept_steps(p, o_four):
    """Eight steps of each channel from the workspace, as columns for all lanes of the channel."""
    return _four_columns(tl.load(p + o_four)) + _four_columns(tl.load(p + o_four + 4))


@triton.jit
def _keep_sums(p, o_four, x, first, D: tl.constexpr, G: tl.constexpr):
    """Eight columns, summed over the states of a channel, into the workspace."""
    low, high = _four(x[0], x[1], x[2], x[3]), _four(x[4], x[5], x[6], x[7])
    tl.store(p + o_four, _sum_to_all(low, D, G, 1), mask=first)
    tl.store(p + o_four + 4, _sum_to_all(high, D, G, 1), mask=first)


@triton.jit
def _sum_to_all(x, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """(P, 4), where P counts (A, B, C): summed over B, each of whom receives the sum."""
    x = tl.sum(tl.reshape(x, [A, B, C * 4]), axis=1)
    return tl.reshape(tl.broadcast_to(x[:, None, :], [A, B, C * 4]), [A * B * C, 4])


@triton.jit
def _store_weights(p, columns, o_c, o_n, M: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
                   WARPS: tl.constexpr, HALVINGS: tl.constexpr, CHUNK: tl.constexpr):
    """Columns of M states times eight steps, summed over the channels of each warp, to (n, CHUNK).

    Two lanes that add two blocks need not both know both sums: each goes on with one of them, and
    what is left to add is halved. Nothing is added across warps here, since that takes barriers.
    """
    x = ()
    for i in tl.static_range(0, 8 * M, 4):
        x = x + (_four(columns[i], columns[i + 1], columns[i + 2], columns[i + 3]),)
    first = o_c * 0  # the number of a lane's first block
    for j in tl.static_range(HALVINGS):  # lanes whose channels differ by 2^j
        odd = (o_c >> j) % 2 == 1
        half = ()
        for i in tl.static_range(M >> j):
            low = _sum_to_all(x[i], D >> (j + 1), 2, G << j)
            high = _sum_to_all(x[i + (M >> j)], D >> (j + 1), 2, G << j)
            half = half + (tl.where(odd[:, None], high, low),)
        first += tl.where(odd, M >> j, 0)
        x = half
    alike: tl.constexpr = (D >> HALVINGS) // WARPS  # lanes of a warp that hold shares of one sum
    here = (o_c % (D // WARPS) < (1 << HALVINGS))[:, None]
    o_warp = o_c // (D // WARPS) * (G * M * CHUNK)
    for i in tl.static_range(2 * M >> HALVINGS):
        block = x[i] if alike == 1 else _sum_to_all(x[i], WARPS, alike, G << HALVINGS)
        o = o_warp + (o_n + (first + i) // 2) * CHUNK + (first + i) % 2 * 4
        tl.store(p + (o[:, None] + tl.arange(0, 4)[None, :]), block, mask=here)


@triton.jit
def _total(p, p_total, end, L, N: tl.constexpr, NP: tl.constexpr, ROWS: tl.constexpr,
           WARPS: tl.constexpr, CHUNK: tl.constexpr):
    """Add what the warps have of (n, CHUNK)."""
    for row in tl.static_range(0, NP, ROWS):
        o_n, o_t = row + tl.arange(0, ROWS)[:, None], tl.arange(0, CHUNK)[None, :]
        total = tl.zeros([ROWS, CHUNK], tl.float32)
        for i in tl.static_range(WARPS):
            total += tl.load(p + (i * NP + o_n) * CHUNK + o_t)
        tl.store(p_total + o_n.to(tl.int64) * L + o_t, total, mask=(o_n < N) & (o_t < end))


@triton.jit(do_not_specialize=_SIZES)
def _scan_backward(p_dout, p_carry, p_saved, p_u, p_delta, p_A, p_B, p_C, p_D, p_z, p_bias, p_du,
                   p_ddelta, p_dA, p_dB, p_dC, p_dD, p_dz, p_dbias, p_dfirst, p_work, p_cu, d,
                   groups, L, spans, span, slots, batch, SOFTPLUS: tl.constexpr,
                   B_CONST: tl.constexpr, C_CONST: tl.constexpr, PACKED: tl.constexpr,
                   FULL: tl.constexpr, CHUNK: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
                   G: tl.constexpr, D: tl.constexpr, WARPS: tl.constexpr, WORK: tl.constexpr,
                   PIECE: tl.constexpr, HALVINGS: tl.constexpr):
    """Some blocks of channels over one span of time, backwards (eq-selective-scan-backward).

    Chunk by chunk: what concerns each sample on its own; the states before each eight steps; then
    eight steps at a time for all blocks, so that the gradients of B and C are summed in registers;
    then again what concerns each sample on its own. The workspace has WORK numbers a block.
    """
    P: tl.constexpr = D * G
    L = L.to(tl.int64)
    if FULL:
        L = L // 8 * 8
    per_group = d // groups
    blocks = tl.cdiv(per_group, D)
    i_slot = (tl.program_id(0) % (slots * groups)) % slots
    i_g = (tl.program_id(0) % (slots * groups)) // slots
    i_time = (tl.program_id(0) // (slots * groups)).to(tl.int64)
    i_row, i_span = i_time // spans, i_time % spans
    start, steps, i_b, i_chunk = _span(i_row, i_span, p_cu, L, span, PACKED, CHUNK)
    chunks = tl.cdiv(steps, CHUNK)
    o_span = (i_row * spans + i_span) * d

    # The workspace of a block. First dt, dt u, dy of a chunk, whose places the sums over states of
    # g A p, C x and g B take, where g is the gradient of a state x and p the old state after its
    # decay: no lane can have its share of such a sum before it has read what was there. Then the
    # state before each eight steps; A, the gradient of the state, and what gathers over time.
    LANES: tl.constexpr = D * G * M
    AT_X: tl.constexpr = 3 * D * CHUNK
    AT_A: tl.constexpr = AT_X + CHUNK // 8 * LANES
    AT_K: tl.constexpr = AT_A + LANES
    AT_DA: tl.constexpr = AT_K + LANES
    AT_DB: tl.constexpr = AT_DA + LANES
    AT_DC: tl.constexpr = AT_DB + (LANES if B_CONST else 0)
    # Behind the blocks, the sums of dB and dC over the channels of each warp.
    SHARE: tl.constexpr = WARPS * G * M * CHUNK
    AT_C: tl.constexpr = 0 if B_CONST else SHARE
    ROWS: tl.constexpr = min(G * M, max(1, 4 * P // CHUNK))
    size = tl.cdiv(blocks, slots) * WORK
    p_work += tl.program_id(0).to(tl.int64) * (size + ((not B_CONST) + (not C_CONST)) * SHARE)
    p_shared = p_work + size
    o_D, o_p = tl.arange(0, D), tl.arange(0, P)
    o_lane, o_c, o_n = o_p * M, o_p // G, o_p % G * M
    # Samples lie as (tile, channel, step): what a warp reads for eight steps is in few lines.
    o_four = o_c[:, None] * 8 + tl.arange(0, 4)[None, :]
    o_s = tl.arange(0, PIECE)[None, :]
    o_piece = o_s // 8 * (D * 8) + o_D[:, None] * 8 + o_s % 8
    first = (o_n == 0)[:, None]
    o_w = ((i_b * groups + i_g) * N + o_n.to(tl.int64)) * L + start
    # Into the slots (slots, batch, groups, n, L).
    o_slot = ((i_slot * batch + i_b) * groups + i_g) * N * L + start
    if not B_CONST:
        p_lane_B = _lane_pointers(p_B, o_w, False, FULL)
    if not C_CONST:
        p_lane_C = _lane_pointers(p_C, o_w, False, FULL)

    p_block = p_work
    for i_block in range(i_slot, blocks, slots):
        o_d = (i_g * per_group + i_block * D + o_D).to(tl.int64)
        known = i_block * D + o_D < per_group
        o_x, _, known_x = _lanes_of(i_block, i_g, per_group, N, M, G, D)
        b_k = _zeros(P, M)
        if p_carry is not None:
            b_k = _states(p_carry + o_span * N, o_x, o_n, known_x, N, M)
        _keep(p_block + AT_A, o_lane, _decays(p_A, o_x, o_n, known_x, N, M), M)
        _keep(p_block + AT_K, o_lane, b_k, M)
        _keep(p_block + AT_DA, o_lane, _zeros(P, M), M)
        if B_CONST:
            _keep(p_block + AT_DB, o_lane, _zeros(P, M), M)
        if C_CONST:
            _keep(p_block + AT_DC, o_lane, _zeros(P, M), M)
        if p_dbias is not None:
            tl.store(p_dbias + o_span + o_d, tl.zeros([D], tl.float32), mask=known)
        if p_dD is not None:
            tl.store(p_dD + o_span + o_d, tl.zeros([D], tl.float32), mask=known)
        p_block += WORK

    for i in range(chunks):
        begin = (chunks - 1 - i) * CHUNK
        end = tl.minimum(begin + CHUNK, steps)
        tiles = tl.cdiv(end - begin, 8)

        # Each sample on its own.
        p_block = p_work
        for i_block in range(i_slot, blocks, slots):
            o_d = (i_g * per_group + i_block * D + o_D).to(tl.int64)
            known = i_block * D + o_D < per_group
            b_bias = tl.zeros([D], tl.float32)
            if p_bias is not None:
                b_bias = tl.load(p_bias + o_d, mask=known, other=0.0)
            for s in range(begin, end, PIECE):
                here = known[:, None] & (s + o_s < end)
                o_row = (i_b * d + o_d)[:, None] * L + start + s + o_s
                b_u = _load(p_u + o_row, here, False).to(tl.float32)
                b_delta = _load(p_delta + o_row, here, False)
                b_dt = _step_sizes(b_delta, b_bias, here, SOFTPLUS, False)[0]
                b_dy = _gate(p_dout, p_z, o_row, here, False)[0]
                p = p_block + (s - begin) * D
                tl.store(p + o_piece, b_dt)
                tl.store(p + D * CHUNK + o_piece, b_dt * b_u)
                tl.store(p + 2 * D * CHUNK + o_piece, b_dy)
            p_block += WORK
        tl.debug_barrier()

        # Forward through the chunk once more, leaving the state before each eight steps.
        p_block = p_work
        for i_block in range(i_slot, blocks, slots):
            o_x, _, known_x = _lanes_of(i_block, i_g, per_group, N, M, G, D)
            if B_CONST:
                p_lane_B = _lane_pointers(p_B, tl.where(known_x, o_x, 0), True, FULL)
            b_A = _kept(p_block + AT_A, o_lane, M)
            o_saved = (i_chunk + chunks - 1 - i) * d * N
            b_x = _states(p_saved + o_saved, o_x, o_n, known_x, N, M)
            _keep(p_block + AT_X, o_lane, b_x, M)
            for i_tile in range(1, tiles):
                t = begin + i_tile * 8 - 8
                p_steps = p_block + (i_tile - 1) * (D * 8)
                dt = _kept_steps(p_steps, o_four)
                du = _kept_steps(p_steps + D * CHUNK, o_four)
                b_B = _weights(p_lane_B, o_n, t, end, L, N, M, B_CONST, FULL)
                new_x = ()
                for m in tl.static_range(M):
                    B = _steps_of(b_B[m], P, p_B.dtype.element_ty)
                    x = b_x[m]
                    for j in tl.static_range(8):
                        x = tl.exp2(dt[j] * b_A[m]) * x + du[j] * B[j]
                    new_x = new_x + (x,)
                b_x = new_x
                _keep(p_block + AT_X + i_tile * LANES, o_lane, b_x, M)
            p_block += WORK

        # Back through it, eight steps at a time for all blocks.
        for i_back in range(tiles):
            i_tile = tiles - 1 - i_back
            t = begin + i_tile * 8
            if not B_CONST:
                b_B = _weights(p_lane_B, o_n, t, end, L, N, M, False, FULL)
            if not C_CONST:
                b_C = _weights(p_lane_C, o_n, t, end, L, N, M, False, FULL)
            all_B, all_C = _zeros(P, 8 * M), _zeros(P, 8 * M)
            p_block = p_work
            for i_block in range(i_slot, blocks, slots):
                if B_CONST or C_CONST:
                    o_x, _, known_x = _lanes_of(i_block, i_g, per_group, N, M, G, D)
                    o_x = tl.where(known_x, o_x, 0)
                if B_CONST:
                    p_lane = _lane_pointers(p_B, o_x, True, FULL)
                    b_B = _weights(p_lane, o_n, t, end, L, N, M, True, FULL)
                    b_dB = _kept(p_block + AT_DB, o_lane, M)
                if C_CONST:
                    p_lane = _lane_pointers(p_C, o_x, True, FULL)
                    b_C = _weights(p_lane, o_n, t, end, L, N, M, True, FULL)
                    b_dC = _kept(p_block + AT_DC, o_lane, M)
                b_A, b_k = _kept(p_block + AT_A, o_lane, M), _kept(p_block + AT_K, o_lane, M)
                b_dA = _kept(p_block + AT_DA, o_lane, M)
                b_x = _kept(p_block + AT_X + i_tile * LANES, o_lane, M)
                p_steps = p_block + i_tile * (D * 8)
                dt = _kept_steps(p_steps, o_four)
                du = _kept_steps(p_steps + D * CHUNK, o_four)
                dy = _kept_steps(p_steps + 2 * D * CHUNK, o_four)
                y, sum_B, sum_A = _zeros(P, 8), _zeros(P, 8), _zeros(P, 8)
                new_k, new_dA, new_dB, new_dC, new_all_B, new_all_C = (), (), (), (), (), ()
                for m in tl.static_range(M):
                    B = _steps_of(b_B[m], P, p_B.dtype.element_ty)
                    C = _steps_of(b_C[m], P, p_C.dtype.element_ty)
                    x = b_x[m]
                    decay, faded, xs, new_y = (), (), (), ()
                    for j in tl.static_range(8):
                        decay = decay + (tl.exp2(dt[j] * b_A[m]),)
                        faded = faded + (decay[j] * x,)
                        x = faded[j] + du[j] * B[j]
                        xs = xs + (x,)
                        new_y = new_y + (y[j] + C[j] * x,)
                    y = new_y
                    k, dA = b_k[m], b_dA[m]
                    back_B, back_C, back_sum_B, back_sum_A = (), (), (), ()
                    for s in tl.static_range(7, -1, -1):
                        g = C[s] * dy[s] + k  # the gradient of the state after step s
                        k = decay[s] * g
                        through_A = g * faded[s]
                        dA += through_A * dt[s]
                        back_B = (all_B[m * 8 + s] + g * du[s],) + back_B
                        back_C = (all_C[m * 8 + s] + xs[s] * dy[s],) + back_C
                        back_sum_B = (sum_B[s] + g * B[s],) + back_sum_B
                        back_sum_A = (sum_A[s] + through_A * b_A[m],) + back_sum_A
                    sum_B, sum_A = back_sum_B, back_sum_A
                    new_k, new_dA = new_k + (k,), new_dA + (dA,)
                    if B_CONST:
                        dB = b_dB[m]
                        for s in tl.static_range(8):
                            dB += back_B[s]
                        new_dB = new_dB + (dB,)
                    else:
                        new_all_B = new_all_B + back_B
                    if C_CONST:
                        dC = b_dC[m]
                        for s in tl.static_range(8):
                            dC += back_C[s]
                        new_dC = new_dC + (dC,)
                    else:
                        new_all_C = new_all_C + back_C
                _keep(p_block + AT_K, o_lane, new_k, M)
                _keep(p_block + AT_DA, o_lane, new_dA, M)
                if B_CONST:
                    _keep(p_block + AT_DB, o_lane, new_dB, M)
                else:
                    all_B = new_all_B
                if C_CONST:
                    _keep(p_block + AT_DC, o_lane, new_dC, M)
                else:
                    all_C = new_all_C
                _keep_sums(p_steps, o_four, sum_A, first, D, G)
                if p_z is not None:
                    _keep_sums(p_steps + D * CHUNK, o_four, y, first, D, G)
                _keep_sums(p_steps + 2 * D * CHUNK, o_four, sum_B, first, D, G)
                p_block += WORK
            p = p_shared + i_tile * 8
            if not B_CONST:
                _store_weights(p, all_B, o_c, o_n, M, G, D, WARPS, HALVINGS, CHUNK)
            if not C_CONST:
                _store_weights(p + AT_C, all_C, o_c, o_n, M, G, D, WARPS, HALVINGS, CHUNK)
        tl.debug_barrier()
        if not B_CONST:
            _total(p_shared, p_dB + o_slot + begin, end - begin, L, N, M * G, ROWS, WARPS, CHUNK)
        if not C_CONST:
            _total(p_shared + AT_C, p_dC + o_slot + begin, end - begin, L, N, M * G, ROWS, WARPS,
                   CHUNK)

        # Each sample on its own.
        p_block = p_work
        for i_block in range(i_slot, blocks, slots):
            o_d = (i_g * per_group + i_block * D + o_D).to(tl.int64)
            known = i_block * D + o_D < per_group
            b_bias, b_D = tl.zeros([D], tl.float32), tl.zeros([D], tl.float32)
            if p_bias is not None:
                b_bias = tl.load(p_bias + o_d, mask=known, other=0.0)
            if p_D is not None:
                b_D = tl.load(p_D + o_d, mask=known, other=0.0)
            for s in range(begin, end, PIECE):
                here = known[:, None] & (s + o_s < end)
                o_row = (i_b * d + o_d)[:, None] * L + start + s + o_s
                b_u = _load(p_u + o_row, here, False).to(tl.float32)
                b_delta = _load(p_delta + o_row, here, False)
                b_dt, b_raw = _step_sizes(b_delta, b_bias, here, SOFTPLUS, False)
                b_dy, b_z, b_dout = _gate(p_dout, p_z, o_row, here, False)
                p = p_block + (s - begin) * D
                b_sum_A = tl.load(p + o_piece, mask=here, other=0.0)
                b_sum_B = tl.load(p + 2 * D * CHUNK + o_piece, mask=here, other=0.0)
                b_ddelta = b_u * b_sum_B + _LN2 * b_sum_A
                if SOFTPLUS:
                    b_ddelta *= tl.exp2((b_raw - b_dt) * _LOG2E)  # the derivative of softplus
                    b_ddelta = tl.where(here, b_ddelta, 0.0)
                b_du = b_dt * b_sum_B + b_D[:, None] * b_dy
                _store(p_du + o_row, b_du, here, False)
                _store(p_ddelta + o_row, b_ddelta, here, False)
                if p_dbias is not None:
                    _add(p_dbias + o_span + o_d, tl.sum(b_ddelta, axis=1), known)
                if p_dD is not None:
                    _add(p_dD + o_span + o_d, tl.sum(b_dy * b_u, axis=1), known)
                if p_z is not None:
                    b_y = tl.load(p + D * CHUNK + o_piece, mask=here, other=0.0)
                    b_y += b_D[:, None] * b_u
                    b_s = _sigmoid(b_z)
                    _store(p_dz + o_row, b_dout * b_y * b_s * (1 + b_z * (1 - b_s)), here, False)
            p_block += WORK
        tl.debug_barrier()

    p_block = p_work
    for i_block in range(i_slot, blocks, slots):
        o_x, _, known_x = _lanes_of(i_block, i_g, per_group, N, M, G, D)
        _store_states(p_dA + o_span * N, o_x, o_n, known_x, _kept(p_block + AT_DA, o_lane, M), N, M)
        if B_CONST:
            b_dB = _kept(p_block + AT_DB, o_lane, M)
            _store_states(p_dB + o_span * N, o_x, o_n, known_x, b_dB, N, M)
        if C_CONST:
            b_dC = _kept(p_block + AT_DC, o_lane, M)
            _store_states(p_dC + o_span * N, o_x, o_n, known_x, b_dC, N, M)
        if p_dfirst is not None:
            if i_span == 0:
                b_k = _kept(p_block + AT_K, o_lane, M)
                _store_states(p_dfirst + i_row * d * N, o_x, o_n, known_x, b_k, N, M)
        p_block += WORK


# --- one step ------------------------------------------------------------------------------------


@triton.jit
def _step(p_state, p_x, p_dt, p_A, p_B, p_C, p_D, p_z, p_bias, p_slots, p_y, s_slot, s_d, s_n, s_x,
          s_dt, s_B, s_C, s_z, d, groups, SOFTPLUS: tl.constexpr, A_IS_LOG: tl.constexpr,
          N: tl.constexpr, NP: tl.constexpr, D: tl.constexpr):
    """One step for a block of channels of one row of the batch (eq-selective-scan).

    Rows of x, Δ, B, C and z may lie apart (``s_`` is the distance of two), since they are slices of
    what a projection gives. All loads stand before the first use of one, since a step is mostly
    waiting: they wait together.
    """
    blocks = tl.cdiv(d, D)
    i_b = (tl.program_id(0) // blocks).to(tl.int64)
    o_d = (tl.program_id(0) % blocks) * D + tl.arange(0, D)
    known = o_d < d
    o_n = tl.arange(0, NP)
    here = known[:, None] & (o_n < N)[None, :]
    slot = i_b
    if p_slots is not None:
        slot = tl.load(p_slots + i_b).to(tl.int64)
    used = o_d * 0 + slot >= 0  # a negative slot is padding
    o_x = slot * s_slot + o_d.to(tl.int64)[:, None] * s_d + o_n.to(tl.int64)[None, :] * s_n
    b_state = tl.load(p_state + o_x, mask=here & used[:, None], other=0.0).to(tl.float32)
    o_w = (o_d // (d // groups))[:, None] * N + o_n[None, :]
    b_B = tl.load(p_B + i_b * s_B + o_w, mask=here, other=0.0).to(tl.float32)
    b_C = tl.load(p_C + i_b * s_C + o_w, mask=here, other=0.0).to(tl.float32)
    b_A = tl.load(p_A + o_d[:, None] * N + o_n[None, :], mask=here, other=0.0)
    b_x = tl.load(p_x + i_b * s_x + o_d, mask=known, other=0.0).to(tl.float32)
    b_dt = tl.load(p_dt + i_b * s_dt + o_d, mask=known, other=0.0).to(tl.float32)
    b_bias, b_D = tl.zeros([D], tl.float32), tl.zeros([D], tl.float32)
    if p_bias is not None:
        b_bias = tl.load(p_bias + o_d, mask=known, other=0.0)
    if p_D is not None:
        b_D = tl.load(p_D + o_d, mask=known, other=0.0)
    if p_z is not None:
        b_z = tl.load(p_z + i_b * s_z + o_d, mask=known, other=0.0).to(tl.float32)
    b_dt += b_bias
    if SOFTPLUS:
        b_dt = _softplus(b_dt)
    if A_IS_LOG:
        b_A = tl.where(here, -tl.exp2(b_A * _LOG2E), 0.0)
    b_state = tl.exp2(b_dt[:, None] * (b_A * _LOG2E)) * b_state + (b_dt * b_x)[:, None] * b_B
    b_y = tl.sum(b_state * b_C, axis=1) + b_D * b_x
    if p_z is not None:
        b_y *= b_z * _sigmoid(b_z)
    b_y = tl.where(used, b_y, 0.0)
    tl.store(p_state + o_x, b_state.to(p_state.dtype.element_ty), mask=here & used[:, None])
    tl.store(p_y + i_b * d + o_d, b_y.to(p_y.dtype.element_ty), mask=known)


# --- launching -----------------------------------------------------------------------------------


def saved_shape(u, A, cu_seqlens):
    """Shape of the chunk states: (chunks of all rows, d, n)."""
    b, d, L = u.shape
    if cu_seqlens is None:
        return (b * _ceil(L, CHUNK), d, A.shape[1])
    return (L // CHUNK + cu_seqlens.shape[0] - 1, d, A.shape[1])


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, save):
    """The scan, as ``ssm_core.scan`` describes it."""
    u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens = _aligned(
        u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens)
    b, d, L = u.shape
    n, packed = A.shape[1], cu_seqlens is not None
    rows = cu_seqlens.shape[0] - 1 if packed else b
    out = torch.empty_like(u)
    last_state = torch.empty(rows, d, n, dtype=torch.float32, device=u.device)
    saved = torch.empty(saved_shape(u, A, cu_seqlens) if save else (0,), dtype=torch.float32,
                        device=u.device)
    groups = _groups(B, C)
    lanes = _lanes(n, d // groups, _states_ahead(n, B, C), warps=1)
    blocks = groups * _ceil(d // groups, lanes["D"])
    spans, span = (1, L) if packed else _spans(L, rows * blocks / RESIDENT[0], u.device)
    flags = dict(SOFTPLUS=delta_softplus, CHUNK=CHUNK,
                 FULL=_full(d // groups, L, lanes, packed), **lanes)
    with _on(u.device):
        start = initial_state
        if spans > 1:
            start = _carried(initial_state, u, None, delta, A, B, delta_bias, groups, spans, span,
                             blocks, ADJOINT=False, **flags)
        if rows:
            _scan[(rows * spans * blocks,)](
                u, delta, A, B, C, D, z, delta_bias, start, out, last_state,
                saved if save else None, cu_seqlens, d, groups, L, spans, span,
                B_CONST=B.ndim == 2, C_CONST=C.ndim == 2, PACKED=packed, **flags)
    return out, last_state, saved


def backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus,
             initial_state, cu_seqlens, saved):
    """The gradients, as ``ssm_core.scan`` describes them."""
    if dout is None:
        dout = torch.zeros_like(u)
    dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, cu_seqlens = _aligned(
        dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, cu_seqlens)
    b, d, L = u.shape
    n, packed = A.shape[1], cu_seqlens is not None
    rows = cu_seqlens.shape[0] - 1 if packed else b
    groups = _groups(B, C)
    lanes = _lanes(n, d // groups, most=4, warps=8)
    blocks = _ceil(d // groups, lanes["D"])
    slots = _slots(B, C, n, blocks)
    warps = rows * groups * slots * lanes["num_warps"]
    spans, span = (1, L) if packed else _spans(L, warps / RESIDENT[1], u.device)
    flags = dict(SOFTPLUS=delta_softplus, CHUNK=CHUNK,
                 FULL=_full(d // groups, L, lanes, packed), **lanes)

    def new(*shape):
        return torch.empty(shape, dtype=torch.float32, device=u.device)

    du, ddelta, dz = torch.empty_like(u), torch.empty_like(delta), _like(z)
    dA = new(rows * spans, d, n)
    dB = new(rows * spans, d, n) if B.ndim == 2 else new(slots, *B.shape)
    dC = new(rows * spans, d, n) if C.ndim == 2 else new(slots, *C.shape)
    dD = None if D is None else new(rows * spans, d)
    dbias = None if delta_bias is None else new(rows * spans, d)
    dfirst = None if initial_state is None else new(rows, d, n)
    programs = rows * spans * groups * slots
    constant = (B.ndim == 2) + (C.ndim == 2)
    states = lanes["G"] * lanes["M"]
    size = lanes["D"] * (3 * CHUNK + (CHUNK // STEPS + 3 + constant) * states)
    sharing = lanes["D"] // max(1, 32 // lanes["G"])  # warps that have other channels
    shares = (2 - constant) * sharing * states * CHUNK
    work = new(programs, _ceil(blocks, slots) * size + shares)
    with _on(u.device):
        carry = dlast_state
        if spans > 1:
            few = _lanes(n, d // groups, _states_ahead(n, B, C), warps=1)
            carry = _carried(dlast_state, dout, z, delta, A, C, delta_bias, groups, spans, span,
                             groups * _ceil(d // groups, few["D"]), ADJOINT=True,
                             **flags | few)
        if programs:
            _scan_backward[(programs,)](
                dout, carry, saved, u, delta, A, B, C, D, z, delta_bias, du, ddelta, dA, dB, dC, dD,
                dz, dbias, dfirst, work, cu_seqlens, d, groups, L, spans, span, slots, b,
                B_CONST=B.ndim == 2, C_CONST=C.ndim == 2, PACKED=packed, WARPS=sharing, WORK=size,
                PIECE=min(CHUNK, 16 * lanes["G"]),  # steps: 16 samples a thread
                HALVINGS=(min(2 * lanes["M"], max(1, 32 // lanes["G"])) - 1).bit_length(), **flags)
    del work

    def total_of(parts, like):
        return None if like is None else parts.sum(0).to(like.dtype)

    return (du, ddelta, total_of(dA, A), total_of(dB, B), total_of(dC, C), total_of(dD, D), dz,
            total_of(dbias, delta_bias), dfirst)


def state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, A_is_log):
    """One step in one launch, as ``ssm_core.scan`` describes it; the state may have any strides."""
    A, D, dt_bias, state_batch_indices = _aligned(A, D, dt_bias, state_batch_indices)
    x, dt, B, C, z = (None if M is None else _packed_rows(M) for M in (x, dt, B, C, z))
    b, d = x.shape
    n = A.shape[1]
    y = torch.empty(b, d, dtype=x.dtype, device=x.device)
    padded = _power_of_two(n)
    D_block = max(1, 512 // padded)  # four states a thread: what 16 bytes of float32 hold
    with _on(x.device):
        if b:
            _step[(b * _ceil(d, D_block),)](
                state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, y, *state.stride(),
                *(0 if M is None else M.stride(0) for M in (x, dt, B, C, z)), d, B.shape[1],
                SOFTPLUS=dt_softplus, A_IS_LOG=A_is_log, N=n, NP=padded, D=D_block, num_warps=4,
                enable_fp_fusion=True)
    return y


def _carried(first, signal, z, delta, A, W, delta_bias, groups, spans, span, blocks, *, ADJOINT,
             **flags):
    """What enters each span, (rows, spans, d, n), from what each adds at its edge."""
    (rows, d, L), n = signal.shape, A.shape[1]
    edges = torch.empty(rows, spans, d, n, dtype=torch.float32, device=signal.device)
    total = torch.empty(rows, spans, d, dtype=torch.float32, device=signal.device)
    _edge[(rows * spans * blocks,)](
        signal, z, delta, A, W, delta_bias, edges, total, d, groups, L, spans, span,
        ADJOINT=ADJOINT, CONST=W.ndim == 2, **flags)
    _carry[(rows * _ceil(d * n, 128),)](
        first, edges, total, A, d, spans, N=n, REVERSE=ADJOINT, BLOCK=128, num_warps=4,
        enable_fp_fusion=True)
    return edges


def _ceil(a, b):
    """a / b, rounded up; ``triton.cdiv`` outside a kernel takes ten times as long."""
    return -(-a // b)


def _power_of_two(n):
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def _states_ahead(n, B, C):
    """How many states a thread has whose B and C it loads ahead: what 255 registers hold."""
    return (8 if n <= 32 else 16) // (2 if torch.float32 in (B.dtype, C.dtype) else 1)


@functools.cache
def _lanes(n, channels, most, warps):
    """M states a thread, G lanes a channel, D channels a program, and its warps, for n states.

    ``most`` states in a thread: unrolled code grows with it, and so does the time to compile. All
    threads have a channel of their own, or some of its states: nothing runs twice.
    """
    M = min(_power_of_two(n), most)
    G = _power_of_two(_ceil(n, M))
    fewest = max(1, G // 16)  # two channels
    enough = _power_of_two(_ceil(channels * G, 32))
    sizes = [size for size in (16, 8, 4, 2, 1) if fewest <= size <= max(fewest, min(warps, enough))]
    full = [size for size in sizes if channels % (32 * size // G) == 0]  # no block in part empty
    warps = (full or sizes)[0]
    return {"N": n, "M": M, "G": G, "D": 32 * warps // G, "num_warps": warps,
            "enable_fp_fusion": True}


def _spans(L, filled, device):
    """How many spans time is cut into, and how long they are.

    As many as fill the GPU once, where batch and channels fill that many of its processors.
    """
    spans = int(_processors(device) / filled) if filled else 1
    spans = max(1, min(spans, L // CHUNK))
    span = max(1, _ceil(_ceil(L, spans), CHUNK)) * CHUNK
    return max(1, _ceil(L, span)), span


def _slots(B, C, n, blocks):
    """How many partial sums of dB and dC there are, each as large as B in float32.

    One for two blocks of channels, or for more of them if n is large: fewer would save memory, but
    the workspaces of programs that take many blocks do not fit into the GPU's caches.
    """
    size = max(M.numel() for M in (B, C))
    return max(1, min(blocks, max(_ceil(blocks, max(2, n // 8)), 2**21 // max(size, 1))))


@functools.cache
def _processors(device):
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _on(device):
    """Kernels are launched on the current device: make it that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _groups(B, C):
    """How many groups of channels share their B and C."""
    return next((M.shape[1] for M in (B, C) if M.ndim == 4), 1)


def _full(channels, L, lanes, packed):
    """Whether every block is full of channels, states and steps, so that no mask is needed."""
    states = lanes["M"] * lanes["G"] == lanes["N"]
    return states and not packed and L > 0 and L % STEPS == 0 and channels % lanes["D"] == 0


def _aligned(*tensors):
    """Contiguous tensors that begin at a multiple of 16 bytes, as 16-byte loads want it."""
    tensors = [None if x is None else x.contiguous() for x in tensors]
    return [x if x is None or x.data_ptr() % 16 == 0 else x.clone() for x in tensors]


def _packed_rows(x):
    """x, copied unless what is in each row of the batch lies together."""
    return x if x[:1].is_contiguous() else x.contiguous()


def _like(x):
    return None if x is None else torch.empty_like(x)
