r"""SSD in chunks of Q steps, in PyTorch: matrix products inside a chunk, a recurrence between chunks.

As equation eq-ssd-chunk, and eq-ssd-gradients backwards. With a the logarithms of decays, :math:`a_t = \Delta_t A`, and everything counted within a chunk whose
state is S before its first step:

.. math::

    y_i &= \sum_{j \le i} e^{a_{j+1} + \dots + a_i} \, C_i^{\mathsf T} B_j \, \Delta_j x_j
           + e^{a_1 + \dots + a_i} \, S C_i, \\
    S &\leftarrow e^{a_1 + \dots + a_Q} \, S
           + \sum_j e^{a_{j+1} + \dots + a_Q} \, \Delta_j x_j B_j^{\mathsf T} .

Work is O(L (Q + n) p) a head in place of O(L n p), nearly all of it in matrix products. Three sums
of a appear, and each is a sum: within a chunk (``segment_sums``), from its start, and to its end.
The gradient keeps nothing of the forward pass but the arguments.

A *piece* is as many chunks as are computed at once: of all rows of the batch, or of one packed
sequence. Axes are b rows, c chunks, i and j steps of a chunk, g groups, r heads of a group, p
channels, n states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ssm_core._tensors import no_autocast, read_boundaries
from ssm_core.scan.reference import softplus
from ssm_core.ssd._arguments import SSD, state_dtype
from ssm_core.ssd.matrix import segment_sums
from ssm_core.ssd.reference import step_sizes

__all__ = ["backward", "forward"]

CHUNK = 64  # steps of a chunk where none is asked for
PIECE = 2**20  # entries of the decay matrices of a piece: what a processor's cache holds


def forward(*arguments):
    """y and final_states, as ``ssm_core.ssd._backends`` describes it."""
    with no_autocast(arguments[0].device):
        return _forward(SSD(*arguments))


def backward(dy, dfinal_states, *arguments):
    """The gradients, as ``ssm_core.ssd._backends`` describes it."""
    with no_autocast(arguments[0].device):
        return _backward(dy, dfinal_states, SSD(*arguments))


def _forward(given: SSD) -> tuple[Tensor, Tensor]:
    y, states = _empty_like(given.x), _first_states(given)
    for where in _pieces(given):
        piece = _load(given, where)
        entering, states[where.row] = _enter(piece, states[where.row])
        out = _outputs(piece, entering)
        if given.z is not None:
            out *= functional.silu(_cut_heads(given.z, where, given))
        _put(out, where, y)
    return y, states


def _backward(dy: Tensor | None, dfinal_states: Tensor | None, given: SSD) -> tuple:
    x, A, D, z = given.x, given.A, given.D, given.z
    dx, dB, dC = _empty_like(x), _empty_like(given.B), _empty_like(given.C)
    dz = None if z is None else _empty_like(z)
    dsteps = x.new_empty(given.dt.shape, dtype=state_dtype(x))  # of Δ
    dA, dD = torch.zeros_like(A), None if D is None else torch.zeros_like(D)
    before, states = [], _first_states(given)
    for where in _pieces(given):
        before.append(states[where.row].clone())
        states[where.row] = _enter(_load(given, where), before[-1])[1]
    dstates = torch.zeros_like(states) if dfinal_states is None else dfinal_states.clone()

    for where, state in reversed([*zip(_pieces(given), before)]):
        piece = _load(given, where)
        entering, _ = _enter(piece, state)
        dout = torch.zeros_like(piece.x) if dy is None else _cut_heads(dy, where, given)
        if z is not None and dz is not None:
            gate = _cut_heads(z, where, given)
            sigmoid = torch.sigmoid(gate)
            slope = sigmoid * (1 + gate * (1 - sigmoid))
            dgate = dout * slope * _outputs(piece, entering)
            _put(dgate, where, dz)
            dout = dout * gate * sigmoid
        leaving, dstates[where.row] = _leave(piece, dout, dstates[where.row])
        du, da, dB_piece, dC_piece = _gradients(piece, dout, entering, leaving)
        dx_piece = piece.dt[..., None] * du
        if piece.D is not None and dD is not None:
            dx_piece += piece.D * dout
            per_channel = (dout * piece.x).sum((0, 1, 2)).flatten(0, 1)  # (h, p)
            dD += per_channel if dD.ndim == 2 else per_channel.sum(-1)
        dA += (piece.dt * da).sum((0, 1, 2)).flatten()
        _put(piece.A * da + (piece.x * du).sum(-1), where, dsteps)
        _put(dx_piece, where, dx)
        _put(dB_piece, where, dB)
        _put(dC_piece, where, dC)

    ddt = _through_step_sizes(dsteps, given)
    dbias = None if given.dt_bias is None else ddt.sum((0, 1))
    dinitial = None if given.initial_states is None else dstates
    return dx, ddt.to(given.dt.dtype), dA, dB, dC, dD, dz, dbias, dinitial


# --- where a piece is, and what is in it ----------------------------------------------------------


class Where(NamedTuple):
    """The place of a piece in the arguments."""

    rows: slice  # of the batch
    row: slice  # of the states
    time: slice  # steps
    chunk: int  # steps of a chunk


class Piece(NamedTuple):
    """What a piece is computed from, in the dtype of the states."""

    x: Tensor  # (b, c, i, g, r, p)
    dt: Tensor  # (b, c, i, g, r), zero where a sequence has ended
    A: Tensor  # (g, r)
    B: Tensor  # (b, c, i, g, n)
    C: Tensor  # (b, c, i, g, n)
    D: Tensor | None  # (g, r, 1 or p)

    @property
    def a(self) -> Tensor:
        """The logarithms of the decays, (b, c, i, g, r)."""
        return self.dt * self.A

    @property
    def u(self) -> Tensor:
        """The input of the recurrence, Δ x, (b, c, i, g, r, p)."""
        return self.dt[..., None] * self.x

    @property
    def scores(self) -> Tensor:
        """C_i · B_j, (b, g, 1, c, i, j)."""
        return torch.einsum("bcign,bcjgn->bgcij", self.C, self.B)[:, :, None]

    @property
    def decays(self) -> Tensor:
        """From step j to step i, (b, g, r, c, i, j); zero above the diagonal."""
        return segment_sums(self.a.permute(0, 3, 4, 1, 2)).exp_()

    @property
    def from_start(self) -> Tensor:
        """The decay of the entering state until step i, (b, c, i, g, r, 1)."""
        return self.a.cumsum(2).exp_()[..., None]

    @property
    def to_end(self) -> Tensor:
        """The decay from step j to the end of the chunk, (b, c, j, g, r, 1)."""
        later = functional.pad(self.a[:, :, 1:], (0, 0, 0, 0, 0, 1))
        return later.flip(2).cumsum(2).flip(2).exp_()[..., None]

    @property
    def across(self) -> Tensor:
        """The decay over a whole chunk, (b, c, g, r, 1, 1)."""
        return self.a.sum(2).exp_()[..., None, None]


def _first_states(given: SSD) -> Tensor:
    """The states before the first step, a copy: (b or sequences, h, p, n)."""
    x, n = given.x, given.B.shape[-1]
    if given.initial_states is not None:
        return given.initial_states.clone(memory_format=torch.contiguous_format)
    rows = len(x) if given.cu_seqlens is None else len(given.cu_seqlens) - 1
    return x.new_zeros(rows, *x.shape[2:], n, dtype=state_dtype(x))


def _pieces(given: SSD) -> Iterator[Where]:
    """The pieces in the order of time."""
    b, L, h, _ = given.x.shape
    chunk = min(given.chunk_size or CHUNK, max(L, 1))
    if given.cu_seqlens is None:
        segments = [(slice(0, b), slice(0, b), 0, L)]
    else:
        bounds = read_boundaries(given.cu_seqlens)
        segments = [
            (slice(0, 1), slice(i, i + 1), start, stop)
            for i, (start, stop) in enumerate(zip(bounds, bounds[1:]))
        ]
    length = chunk * max(1, PIECE // (max(b, 1) * h * chunk**2))
    for rows, row, start, stop in segments:
        for t in range(start, stop, length):
            yield Where(rows, row, slice(t, min(t + length, stop)), chunk)


def _load(given: SSD, where: Where) -> Piece:
    """The part of the arguments that a piece is computed from."""
    g, dtype = given.B.shape[2], state_dtype(given.x)
    dt = step_sizes(given.dt[where.rows, where.time], *given[7:11], dtype)
    B, C = (_cut(M[where.rows, where.time].to(dtype), where.chunk) for M in (given.B, given.C))
    return Piece(
        x=_cut_heads(given.x, where, given),
        dt=_cut(dt, where.chunk).unflatten(-1, (g, -1)),
        A=given.A.view(g, -1),
        B=B,
        C=C,
        D=None if given.D is None else given.D.reshape(g, len(given.A) // g, -1),
    )


def _cut_heads(value: Tensor, where: Where, given: SSD) -> Tensor:
    """The part of x, z or dy in a piece, (b, c, i, g, r, p)."""
    part = _cut(value[where.rows, where.time].to(state_dtype(given.x)), where.chunk)
    return part.unflatten(3, (given.B.shape[2], -1))


def _cut(value: Tensor, chunk: int) -> Tensor:
    """(b, steps, …) as (b, c, i, …), with zeros after the last step."""
    missing = -value.shape[1] % chunk
    if missing:
        value = torch.cat([value, value.new_zeros(len(value), missing, *value.shape[2:])], dim=1)
    return value.unflatten(1, (-1, chunk))


def _put(value: Tensor, where: Where, target: Tensor) -> None:
    """Write what belongs to the steps of a piece, (b, c, i, g, …), into x, dt, B or their like."""
    part = target[where.rows, where.time]
    part.copy_(value.flatten(1, 2)[:, : part.shape[1]].reshape(part.shape))


# --- the mathematics -----------------------------------------------------------------------------


def _enter(piece: Piece, state: Tensor) -> tuple[Tensor, Tensor]:
    """The states before each chunk, (b, c, g, r, p, n), and after the last, (b, h, p, n)."""
    added = torch.einsum("bcjgrp,bcjgn->bcgrpn", piece.to_end * piece.u, piece.B)
    state, across = state.unflatten(1, piece.A.shape), piece.across
    entering = torch.empty_like(added)
    for c in range(added.shape[1]):
        entering[:, c] = state
        state = torch.addcmul(added[:, c], across[:, c], state)
    return entering, state.flatten(1, 2)


def _outputs(piece: Piece, entering: Tensor) -> Tensor:
    """y before the gate, (b, c, i, g, r, p)."""
    y = piece.from_start * torch.einsum("bcign,bcgrpn->bcigrp", piece.C, entering)
    y += torch.einsum("bgrcij,bcjgrp->bcigrp", piece.decays.mul_(piece.scores), piece.u)
    return y if piece.D is None else torch.addcmul(y, piece.D, piece.x)


def _leave(piece: Piece, dout: Tensor, dstate: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the states after each chunk, and of the state before the first."""
    added = torch.einsum("bcigrp,bcign->bcgrpn", piece.from_start * dout, piece.C)
    dstate, across = dstate.unflatten(1, piece.A.shape), piece.across
    leaving = torch.empty_like(added)
    for c in reversed(range(added.shape[1])):
        leaving[:, c] = dstate
        dstate = torch.addcmul(added[:, c], across[:, c], dstate)
    return leaving, dstate.flatten(1, 2)


def _gradients(
    piece: Piece, dout: Tensor, entering: Tensor, leaving: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of Δx, a, B and C."""
    decays, scores = piece.decays, piece.scores
    dout_from_start, u_to_end = piece.from_start * dout, piece.to_end * piece.u
    dpairs = torch.einsum("bcigrp,bcjgrp->bgrcij", dout, piece.u).mul_(decays)
    dscores = dpairs.sum(2)  # (b, g, c, i, j)
    dC = torch.einsum("bgcij,bcjgn->bcign", dscores, piece.B)
    dC += torch.einsum("bcigrp,bcgrpn->bcign", dout_from_start, entering)
    dB = torch.einsum("bgcij,bcign->bcjgn", dscores, piece.C)
    dB += torch.einsum("bcjgrp,bcgrpn->bcjgn", u_to_end, leaving)
    through_state = torch.einsum("bcjgn,bcgrpn->bcjgrp", piece.B, leaving)
    du = piece.to_end * through_state
    du += torch.einsum("bgrcij,bcigrp->bcjgrp", decays.mul_(scores), dout)

    # a_k is in the decay of every pair j < k <= i, where the entering state stands before all j and
    # the leaving state after all i.
    read = torch.einsum("bcign,bcgrpn->bcigrp", piece.C, entering).mul_(dout_from_start).sum(-1)
    written = (through_state * u_to_end).sum(-1)
    da = _summed_from(read, 2) + functional.pad(written.cumsum(2)[:, :, :-1], (0, 0, 0, 0, 1, 0))
    da += (piece.across * entering * leaving).sum((-2, -1))[:, :, None]
    pairs = _summed_from(dpairs.mul_(scores), -2).tril_(-1).sum(-1)  # (b, g, r, c, k)
    return du, da + pairs.permute(0, 3, 4, 1, 2), dB, dC


def _summed_from(value: Tensor, axis: int) -> Tensor:
    """The sum over all later places of an axis, itself included."""
    return value.flip(axis).cumsum(axis).flip(axis)


def _through_step_sizes(dsteps: Tensor, given: SSD) -> Tensor:
    """The gradient of dt from that of Δ."""
    raw = given.dt.to(dsteps.dtype)
    if given.dt_bias is not None:
        raw = raw + given.dt_bias
    steps = softplus(raw) if given.dt_softplus else raw
    inside = (steps >= given.dt_min) & (steps <= given.dt_max)
    slope = torch.sigmoid(raw) if given.dt_softplus else 1
    return torch.where(inside, dsteps * slope, 0)


def _empty_like(value: Tensor) -> Tensor:
    return torch.empty_like(value, memory_format=torch.contiguous_format)
