r"""What a Mamba block does between its matrix products, on a GPU, in Triton: one pass each.

========================================  ======================================================
``convolve``                              causal convolution, bias and SiLU over a sequence
``convolve_one``                          the same for one sample, with its state in place
``add_norm``                              residual stream + output of a block, and the norm of it
========================================  ======================================================

They have no gradient; ``ssm_core.mamba._operators`` says when they run. Sums are in float32, and
each result is rounded once. All offsets are 64 bits wide.

**What they should take.** Each reads its inputs and writes its results once, so memory bounds them
all. Of 64 texts with 2,048 tokens and 1,536 channels in bfloat16, the convolution reads and writes
403 MB, 0.27 ms at 3.0 TB/s; joining two tensors, convolving, and a SiLU would move 2.4 GB. In
steps of one token nothing is large, and what counts is that there are few launches: a kernel that
waits for the one before it takes some 2 µs, however little it does.
"""

# ruff: noqa: RUF005, SIM102 - kernels have no starred tuples; the compiler decides the outer of two ifs

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ssm_core._triton import columns, join_eight, sigmoid

_THREADS = 128  # of a program; each has a channel, or eight samples of one


@triton.jit
def _filters(p_weight, o_d, known, K: tl.constexpr):
    """The K weights of each thread's channel."""
    weight = ()
    for j in tl.static_range(K):
        p = p_weight + o_d * K + j
        weight = weight + (tl.load(p, mask=known, other=0.0).to(tl.float32),)
    return weight


@triton.jit
def _convolve(p_x, p_before, p_weight, p_bias, p_out, p_window, s_xb, s_xd, s_bb, s_bd, s_bk, d, L,
              K: tl.constexpr, KP: tl.constexpr, BD: tl.constexpr, G: tl.constexpr):
    """Convolve BD channels of one row of the batch over a tile of 8 G samples (eq-mamba-block).

    A thread has eight samples and loads the eight before them too, which its neighbour has just
    loaded: aligned, where K shifted loads would not be. So K is 9 at most.
    """
    tiles = tl.maximum(tl.cdiv(L, 8 * G), 1)
    blocks = tl.cdiv(d, BD)
    i_tile, i_row = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_b, i_block = (i_row // blocks).to(tl.int64), i_row % blocks
    p_x += i_b * s_xb
    o_p, o_8 = tl.arange(0, BD * G), tl.arange(0, 8)[None, :]  # (P,) with P = BD G, (1, 8)
    o_d = (i_block * BD + o_p // G).to(tl.int64)  # (P,)
    o_t = i_tile.to(tl.int64) * (8 * G) + o_p % G * 8  # (P,)
    known = (o_d < d) & (o_t < L)
    here = known[:, None] & (o_t[:, None] + o_8 < L)  # (P, 8)
    o_x = (o_d * s_xd + o_t)[:, None] + o_8
    x = columns(tl.load(p_x + o_x, mask=here, other=0.0).to(tl.float32))  # eight blocks (P,)
    if K > 1:
        before = tl.load(p_x + o_x - 8, mask=(known & (o_t >= 8))[:, None], other=0.0)
        if p_before is not None:
            if i_tile == 0:
                first = (known & (o_t == 0))[:, None] & (o_8 >= 8 - K)
                o_s = i_b * s_bb + (o_d * s_bd)[:, None] + (o_8 + (K - 8)) * s_bk
                state = tl.load(p_before + o_s, mask=first, other=0.0)
                before = tl.where(first, state.to(before.dtype), before)
        x = columns(before.to(tl.float32)) + x
    weight = _filters(p_weight, o_d, known, K)
    bias = tl.zeros([BD * G], tl.float32)
    if p_bias is not None:
        bias += tl.load(p_bias + o_d, mask=known, other=0.0).to(tl.float32)
    out = ()
    for i in tl.static_range(8):
        y = bias
        for j in tl.static_range(K):
            y += weight[j] * x[(8 if K > 1 else 0) + i - (K - 1) + j]
        out = out + (y * sigmoid(y),)
    p_out += i_b * d * L
    tl.store(p_out + (o_d * L + o_t)[:, None] + o_8, join_eight(out).to(p_out.dtype.element_ty),
             mask=here)
    if i_tile == 0:
        o_c = (i_block * BD + tl.arange(0, BD)).to(tl.int64)[:, None]  # (BD, 1)
        o_k = tl.arange(0, KP)[None, :]  # (1, KP), K rounded up to a power of two
        _store_window(p_x, p_before, p_window, i_b, o_c, o_k, s_xd, s_bb, s_bd, s_bk, d, L, K)


@triton.jit
def _store_window(p_x, p_before, p_window, i_b, o_c, o_k, s_xd, s_bb, s_bd, s_bk, d, L,
                  K: tl.constexpr):
    """The last K samples of what was before, or zeros, and of x."""
    entry = (o_c < d) & (o_k < K)
    new = entry & (L - K + o_k >= 0)
    window = tl.load(p_x + o_c * s_xd + (L - K + o_k), mask=new, other=0.0)
    if p_before is not None:
        o_s = i_b * s_bb + o_c * s_bd + (L + o_k) * s_bk
        old = tl.load(p_before + o_s, mask=entry & (L - K + o_k < 0), other=0.0)
        window = tl.where(new, window, old.to(window.dtype))
    tl.store(p_window + (i_b * d + o_c) * K + o_k, window, mask=entry)


@triton.jit
def _convolve_one(p_state, p_x, p_weight, p_bias, p_y, s_sb, s_sd, s_sk, s_x, d, K: tl.constexpr,
                  BD: tl.constexpr):
    """Convolve one sample of BD channels; the state moves on by one (eq-mamba-block).

    A thread has a whole channel, and so reads each entry of the state before it writes it.
    """
    blocks = tl.cdiv(d, BD)
    i_b = (tl.program_id(0) // blocks).to(tl.int64)
    o_d = (tl.program_id(0) % blocks * BD + tl.arange(0, BD)).to(tl.int64)  # (BD,)
    known = o_d < d
    p_state += i_b * s_sb + o_d * s_sd
    window, y = (), tl.zeros([BD], tl.float32)  # K blocks (BD,); (BD,)
    for j in tl.static_range(1, K):
        window = window + (tl.load(p_state + j * s_sk, mask=known, other=0.0),)
    x = tl.load(p_x + i_b * s_x + o_d, mask=known, other=0.0)
    window = window + (x.to(p_state.dtype.element_ty),)
    weight = _filters(p_weight, o_d, known, K)
    if p_bias is not None:
        y += tl.load(p_bias + o_d, mask=known, other=0.0).to(tl.float32)
    for j in tl.static_range(K):
        y += weight[j] * window[j].to(tl.float32)
        tl.store(p_state + j * s_sk, window[j], mask=known)
    y *= sigmoid(y)
    tl.store(p_y + i_b * d + o_d, y.to(p_y.dtype.element_ty), mask=known)


@triton.jit
def _add_norm(p_x, p_added, p_weight, p_sum, p_out, width, eps, W: tl.constexpr):
    """One row: x + added, if anything is, and that over its root mean square times the weight."""
    o_w = tl.arange(0, W)  # (W,), the width rounded up to a power of two
    known = o_w < width
    o = tl.program_id(0).to(tl.int64) * width + o_w
    x = tl.load(p_x + o, mask=known, other=0.0).to(tl.float32)
    weight = tl.load(p_weight + o_w, mask=known, other=0.0).to(tl.float32)
    if p_added is not None:
        x += tl.load(p_added + o, mask=known, other=0.0).to(tl.float32)
        rounded = x.to(p_sum.dtype.element_ty)
        tl.store(p_sum + o, rounded, mask=known)
        x = rounded.to(tl.float32)
    x *= tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    tl.store(p_out + o, (x * weight).to(p_out.dtype.element_ty), mask=known)


def convolve(x, weight, bias, before):
    """As the operator ``causal_conv`` of ``ssm_core.mamba._operators``."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    b, d, L = x.shape
    K = weight.shape[1]
    out = torch.empty(b, d, L, dtype=x.dtype, device=x.device)
    window = torch.empty(b, d, K, dtype=x.dtype, device=x.device)
    G = min(triton.next_power_of_2(max(1, triton.cdiv(L, 8))), _THREADS)
    BD = _THREADS // G
    with torch.cuda.device_of(x):
        if b:
            _convolve[(b * triton.cdiv(d, BD) * max(1, triton.cdiv(L, 8 * G)),)](
                x, before, weight.contiguous(), bias, out, window, *x.stride()[:2],
                *((0, 0, 0) if before is None else before.stride()), d, L, K=K,
                KP=triton.next_power_of_2(K), BD=BD, G=G, num_warps=_THREADS // 32,
                enable_fp_fusion=True)
    return out, window


def convolve_one(conv_state, x, weight, bias):
    """As the operator ``causal_conv_step`` of ``ssm_core.mamba._operators``."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    b, d = x.shape
    y = torch.empty(b, d, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        if b:
            _convolve_one[(b * triton.cdiv(d, _THREADS),)](
                conv_state, x, weight.contiguous(), bias, y, *conv_state.stride(), x.stride(0), d,
                K=weight.shape[1], BD=_THREADS, num_warps=_THREADS // 32, enable_fp_fusion=True)
    return y


def add_norm(x, added, weight, eps):
    """As the operator ``add_rms_norm`` of ``ssm_core.mamba._operators``."""
    x, added = x.contiguous(), None if added is None else added.contiguous()
    width = x.shape[-1]
    rows = x.numel() // width
    total = None if added is None else torch.empty_like(
        x, dtype=torch.promote_types(x.dtype, added.dtype))
    out = torch.empty_like(x, dtype=weight.dtype)
    W = triton.next_power_of_2(width)
    with torch.cuda.device_of(x):
        if rows:
            _add_norm[(rows,)](x, added, weight, total, out, width, eps, W=W,
                               num_warps=min(max(W // 128, 1), 32), enable_fp_fusion=True)
    return total, out
