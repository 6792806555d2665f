"""The selective scan on a CPU: forward, and a backward that keeps states at chunk boundaries only.

What happens to each sample on its own (step sizes, direct path, gate) is left to PyTorch. What is
left is the recurrence, with float steps dt and channels apart:

    x_t = e^{dt_t A} x_{t-1} + dt_t u_t B_t,      y_t = C_t x_t

Its gradient runs back in time. With g_t the gradient of x_t, that reaches it through y_t and
through x_{t+1},

    g_t = dy_t C_t + e^{dt_{t+1} A} g_{t+1}
    dC_t = dy_t x_t         dB_t = dt_t u_t g_t         du_t = dt_t B_t g_t
    ddt_t = (A p_t + u_t B_t) g_t       dA = sum over t of dt_t p_t g_t

where p_t = e^{dt_t A} x_{t-1} is the old state after its decay. The states of one chunk are
recomputed from the state before it, so memory does not grow with L times n. The recurrence is
compiled by Numba where it is installed (``_cpu_compiled``) and runs in PyTorch otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ssm_core.scan import reference
from ssm_core.scan._arguments import state_dtype
from ssm_core.scan.reference import softplus

try:
    from ssm_core.scan import _cpu_compiled as compiled
    from ssm_core.scan import _cpu_step as compiled_step
except ImportError:  # no Numba, or one that does not work
    compiled = compiled_step = None  # type: ignore[assignment]

__all__ = ["backward", "forward", "saved_shape", "state_update"]


def chunk_length(n: int) -> int:
    """Steps between saved states: at least n of them, so that what is saved is no more than u."""
    return max(64, n)


def saved_shape(u: Tensor, A: Tensor, cu_seqlens: Tensor | None) -> tuple[int, ...]:
    """The shape of the saved states (b, chunks, d, n); a chunk does not cross sequences."""
    (b, d, L), n = u.shape, A.shape[1]
    sequences = 1 if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return b, L // chunk_length(n) + sequences, d, n


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Out, last_state and the states at chunk boundaries; arguments as in ``Backend``."""
    dtype = state_dtype(u)
    signal, _, dt, B, C = _prepare(u, delta, B, C, delta_bias, delta_softplus, dtype)
    last_state = _start(initial_state, u, A, cu_seqlens)
    saved = dt.new_zeros(saved_shape(u, A, cu_seqlens) if save else (0, 0, 0, 0))
    y = torch.empty_like(signal)
    run = _forward_in_torch if compiled is None else compiled.forward
    size = chunk_length(A.shape[1])
    run(
        signal, dt, A.contiguous(), B, C, _segments(u, cu_seqlens, size), size, last_state, y, saved
    )
    if D is not None:
        y.add_(D[:, None] * signal)
    if z is not None:
        y.mul_(_pointwise(functional.silu, z.to(dtype)))
    return y.to(u.dtype), last_state, saved if save else dt.new_empty(0)


def backward(
    dout: Tensor | None,
    dlast_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    saved: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients of all arguments, None for those that are None."""
    dtype = state_dtype(u)
    signal, raw, dt, B_float, C_float = _prepare(u, delta, B, C, delta_bias, delta_softplus, dtype)
    dy = torch.zeros_like(signal) if dout is None else dout.to(dtype).contiguous()
    gate = None if z is None else z.to(dtype).contiguous()
    ungated, dy = dy, dy if gate is None else dy * _pointwise(functional.silu, gate)
    # The gradient of the state at the end; the run turns it into that of the state at the start.
    dstate = _start(dlast_state, u, A, cu_seqlens)
    size = chunk_length(A.shape[1])
    run = _backward_in_torch if compiled is None else compiled.backward
    y, du, ddt, dA, dB, dC = run(
        signal,
        dt,
        A.contiguous(),
        B_float,
        C_float,
        _segments(u, cu_seqlens, size),
        size,
        saved,
        dy,
        dstate,
    )
    dD = dz = dbias = None
    if D is not None:
        dD = _sum_over_time(dy * signal)
        du.add_(D[:, None] * dy)
        y.add_(D[:, None] * signal)
    if z is not None and gate is not None:
        sigmoid = _pointwise(torch.sigmoid, gate)
        dz = (ungated * y * sigmoid * (1 + gate * (1 - sigmoid))).to(z.dtype)
    if delta_softplus:
        ddt.mul_(_pointwise(torch.sigmoid, raw))
    if delta_bias is not None:
        dbias = _sum_over_time(ddt)
    return (
        du.to(u.dtype),
        ddt.to(delta.dtype),
        dA,
        dB.to(B.dtype),
        dC.to(C.dtype),
        dD,
        dz,
        dbias,
        None if initial_state is None else dstate,
    )


def state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state_batch_indices: Tensor | None,
    A_is_log: bool,
) -> Tensor:
    """One step in place: compiled where all tensors have one dtype, else in PyTorch."""
    tensors = (state, x, dt, A, B, C, D, z, dt_bias)
    alike = all(M is None or M.dtype == state_dtype(x) for M in tensors)
    if compiled is None or not alike or state_batch_indices is not None:
        return reference.state_update(
            state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, A_is_log
        )
    return compiled_step.state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, A_is_log)


def _prepare(u, delta, B, C, delta_bias, delta_softplus, dtype):
    """u, delta with its bias, the steps dt, B, C: contiguous and in the states' dtype."""
    raw = delta.to(dtype).contiguous()
    if delta_bias is not None:
        raw = raw + delta_bias[:, None]
    dt = _pointwise(softplus, raw) if delta_softplus else raw
    return (u.to(dtype).contiguous(), raw, dt, B.to(dtype).contiguous(), C.to(dtype).contiguous())


def _start(state, u, A, cu_seqlens):
    """A copy of a state (rows, d, n), or zeros."""
    rows = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if state is None:
        return torch.zeros((rows, *A.shape), dtype=state_dtype(u))
    return state.clone(memory_format=torch.contiguous_format)


def _segments(u, cu_seqlens, size):
    """What runs on its own: (batch row, row of the state, start, stop, index of its first chunk)."""
    b, _, L = u.shape
    if cu_seqlens is None:
        return [(i, i, 0, L, 0) for i in range(b)]
    bounds = cu_seqlens.tolist()
    return [
        (0, i, start, stop, start // size + i)
        for i, (start, stop) in enumerate(zip(bounds, bounds[1:]))
    ]


# --- the same bits with any number of threads ----------------------------------------------------
#
# PyTorch cuts what has 2^15 elements or more into as many parts as it has threads. An element near a
# cut meets scalar code, whose exponential rounds otherwise than that of vectors; a sum over a whole
# tensor is added up part by part. So both get pieces that are not cut.

_PIECE = 2**14


def _pointwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), where function has an exponential of each element."""
    if x.numel() <= _PIECE:
        return function(x.contiguous())
    return torch.cat([function(piece) for piece in x.reshape(-1).split(_PIECE)]).view(x.shape)


def _sum_over_time(x):
    """The sums of x (b, d, L) that leave (d,)."""
    return sum(piece.sum(2) for piece in x.split(_PIECE, dim=2)).sum(0)


# --- the recurrence in PyTorch: the channels and states of a step side by side -------------------


def _forward_in_torch(u, dt, A, B, C, segments, size, state, y, saved):
    """Fill y (b, d, L) and saved, and take state (rows, d, n) from the first step to the last."""
    for (i, row, start, stop, chunk), channels in itertools.product(segments, _blocks(A, size)):
        x = state[row, channels]
        for k, t in enumerate(range(start, stop, size)):
            here = i, channels, slice(t, min(t + size, stop))
            if saved.numel():
                saved[i, chunk + k, channels] = x
            _, states = _states(u, dt, A, B, here, x)
            y[here] = (states * _weights(C, here, len(A))).sum(-1).T
            x = states[-1]
        state[row, channels] = x


def _backward_in_torch(u, dt, A, B, C, segments, size, saved, dy, dstate):
    """y, du, ddt, dA, dB, dC; dstate goes from the last step to the first."""
    y, du, ddt, dA, dB, dC = map(torch.zeros_like, (u, u, u, A, B, C))
    for (i, row, start, stop, chunk), channels in itertools.product(segments, _blocks(A, size)):
        carry = dstate[row, channels]
        for k, t in reversed([*enumerate(range(start, stop, size))]):
            here = i, channels, slice(t, min(t + size, stop))
            before = saved[i, chunk + k, channels]
            decay, states = _states(u, dt, A, B, here, before)  # (T, channels, n)
            u_t, dt_t, dy_t = (x[here].T[..., None] for x in (u, dt, dy))  # (T, channels, 1)
            B_t, C_t = (_weights(M, here, len(A)) for M in (B, C))
            g = dy_t * C_t
            for g_t, decay_t in zip(reversed(g.unbind(0)), reversed(decay.unbind(0))):
                g_t += carry
                torch.mul(decay_t, g_t, out=carry)
            g_old = g * decay * torch.cat([before[None], states[:-1]])
            through_B = (g * B_t).sum(-1, keepdim=True)
            y[here] = (states * C_t).sum(-1).T
            du[here] = (dt_t * through_B)[..., 0].T
            ddt[here] = ((g_old * A[channels]).sum(-1) + (u_t * through_B)[..., 0]).T
            dA[channels] += (g_old * dt_t).sum(0)
            _collect(dB, g * dt_t * u_t, here, len(A))
            _collect(dC, dy_t * states, here, len(A))
    return y, du, ddt, dA, dB, dC


def _blocks(A, size):
    """Blocks of channels whose states of one chunk are about a million numbers."""
    d, n = A.shape
    width = max(1, 2**20 // (size * n))
    return [slice(c, min(c + width, d)) for c in range(0, d, width)]


def _states(u, dt, A, B, here, x):
    """Decays and states (T, channels, n) of the steps of one chunk, x being the state before."""
    _, channels, _ = here
    dt_t, u_t = dt[here].T[..., None], u[here].T[..., None]  # (T, channels, 1)
    decay = _pointwise(torch.exp, dt_t * A[channels])
    states = dt_t * u_t * _weights(B, here, len(A))
    for state, decay_t in zip(states.unbind(0), decay.unbind(0)):
        x = state.addcmul_(decay_t, x)
    return decay, states


def _weights(M, here, d):
    """B or C at the steps of a chunk, (T, channels, n), or (channels, n) if constant."""
    i, channels, steps = here
    if M.ndim == 2:
        return M[channels]
    return M[i, :, :, steps][_group_of(channels, M, d)].permute(2, 0, 1)


def _collect(dM, products, here, d):
    """Add products (T, channels, n) to the gradient of B or C, over channels or over time."""
    i, channels, steps = here
    if dM.ndim == 2:
        dM[channels] += products.sum(0)
    else:
        dM[i, :, :, steps].index_add_(0, _group_of(channels, dM, d), products.permute(1, 2, 0))


def _group_of(channels, M, d):
    """The group of B or C (b, g, n, L) that each channel belongs to."""
    return torch.arange(channels.start, channels.stop) // (d // M.shape[1])
