r"""Cauchy sums on a GPU, in Triton: forward and backward, one pass each, nothing large in between.

**Who does what.** Forward, a thread owns two points of the circle and walks along the modes, with
its sums in registers. Backward, it owns a mode and walks along the points of one span; the sums of
the spans are added up afterwards in a fixed order, without atomics. The quotients of modes and
points exist in registers only. Memory is that of arguments and results, and at most 32 copies of
the gradients.

**Why float64.** On the circle of radius r the kernel is multiplied by :math:`r^j`, and the division
by it makes rounding errors at the far end larger by :math:`r^{-L}`. With the best r that is the
cube root of the precision, upside down: of the 16 digits of float64 ten are left (4e-11), of the
seven of float32 not quite five (2e-5).

**What it should take.** H 256, N 64, L 16384, K 4 is 1.34e8 quotients. The compiled loops take 35
instructions in float64 for each forward and 72 backward, and an H100 starts 64 of them on each of
132 processors in a cycle, 1.5e13 a second: 0.32 and 0.65 ms. Results are 268 MB: 0.09 ms at 3.0
TB/s. So arithmetic bounds both. Written out, the quotients of all 64 modes are 4.3 GB, and the
plain product moves them four times: 5.7 ms forward.

The diagonal kernel of S4D needs nothing of the kind: at that size its two factors of √L columns
take 2 · 256 · 32 · 128 · 16 B = 34 MB and their product 2 · 256 · 128 · 64 · 128 = 5.4e8
operations, 0.02 ms, where the Vandermonde matrix itself would be 2.1 GB.
"""

# ruff: noqa: RUF005 - kernels have no starred tuples

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ssm_core._triton import zeros

_MODES = 32  # to a program: one for each thread of a warp
_SPANS = 32  # at most, and of 128 points at least


@triton.jit
def _quotient(s_re, s_im, p_re, p_im):
    """1 / ((s - p)(s - p*)), from differences: near a pole s² - 2 Re(p) s + |p|² loses digits."""
    across = s_re - p_re
    re = across * across - (s_im - p_im) * (s_im + p_im)
    im = 2 * across * s_im
    size = 1 / (re * re + im * im)
    return re * size, -im * size


@triton.jit
def _sums(p_modes, p_s, p_out, n, F, K: tl.constexpr, BLOCK: tl.constexpr):
    """All K sums of one channel at a block of points (eq-cauchy).

    A mode is 2K + 2 numbers side by side, which one address finds: its a, its b, and its pole.
    """
    blocks = tl.cdiv(F, BLOCK)
    i_h = (tl.program_id(0) // blocks).to(tl.int64)
    o_f = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    known = o_f < F
    s_re = tl.load(p_s + 2 * o_f, mask=known, other=0.0)
    s_im = tl.load(p_s + 2 * o_f + 1, mask=known, other=0.0)
    a_re, a_im = zeros(BLOCK, K, tl.float64), zeros(BLOCK, K, tl.float64)  # K blocks (BLOCK,) each
    b_re, b_im = zeros(BLOCK, K, tl.float64), zeros(BLOCK, K, tl.float64)
    for m in range(n):
        p_mode = p_modes + (i_h * n + m) * (2 * K + 2)
        p_re, p_im = tl.load(p_mode + 2 * K), tl.load(p_mode + 2 * K + 1)
        q_re, q_im = _quotient(s_re, s_im, p_re, p_im)
        new_a_re, new_a_im, new_b_re, new_b_im = (), (), (), ()
        for k in tl.static_range(K):
            a, b = tl.load(p_mode + k), tl.load(p_mode + K + k)
            new_a_re, new_a_im = new_a_re + (a_re[k] + a * q_re,), new_a_im + (a_im[k] + a * q_im,)
            new_b_re, new_b_im = new_b_re + (b_re[k] + b * q_re,), new_b_im + (b_im[k] + b * q_im,)
        a_re, a_im, b_re, b_im = new_a_re, new_a_im, new_b_re, new_b_im
    parts = tl.arange(0, 2)[None, :]
    for k in tl.static_range(K):
        re = a_re[k] * s_re - a_im[k] * s_im + b_re[k]
        im = a_re[k] * s_im + a_im[k] * s_re + b_im[k]
        o = 2 * ((i_h * K + k) * F + o_f)[:, None] + parts
        tl.store(p_out + o, tl.join(re, im), mask=known[:, None])


@triton.jit
def _sums_backward(p_dout, p_a, p_b, p_poles, p_s, p_parts, H, n, F, span, K: tl.constexpr,
                   MODES: tl.constexpr):
    """What one span of points adds to the sums that the gradients of a block of modes are made of.

    Into ``parts`` (spans, H, 2K + 2, n): da, db, and for the poles Re(v q²) and Re(v s q²) with
    v = Σ_k dout_k* (a_k s + b_k), as in ``ssm_core.s4.cauchy``.
    """
    blocks = tl.cdiv(n, MODES)
    i_block = tl.program_id(0) % blocks
    i_h = (tl.program_id(0) // blocks % H).to(tl.int64)
    i_span = (tl.program_id(0) // blocks // H).to(tl.int64)
    o_n = i_block * MODES + tl.arange(0, MODES)  # (MODES,)
    known = o_n < n
    p_re = tl.load(p_poles + 2 * (i_h * n + o_n), mask=known, other=-1.0)
    p_im = tl.load(p_poles + 2 * (i_h * n + o_n) + 1, mask=known, other=0.0)
    a, b = (), ()
    for k in tl.static_range(K):
        o = (i_h * K + k) * n + o_n
        a = a + (tl.load(p_a + o, mask=known, other=0.0),)
        b = b + (tl.load(p_b + o, mask=known, other=0.0),)
    da, db = zeros(MODES, K, tl.float64), zeros(MODES, K, tl.float64)  # K blocks (MODES,) each
    plain, times_s = tl.zeros([MODES], tl.float64), tl.zeros([MODES], tl.float64)
    for f in range(i_span * span, tl.minimum((i_span + 1) * span, F)):
        s_re, s_im = tl.load(p_s + 2 * f), tl.load(p_s + 2 * f + 1)
        q_re, q_im = _quotient(s_re, s_im, p_re, p_im)
        sq_re, sq_im = s_re * q_re - s_im * q_im, s_re * q_im + s_im * q_re
        # v* = s* Σ a dout + Σ b dout
        ad_re, ad_im, bd_re, bd_im = 0 * q_re, 0 * q_re, 0 * q_re, 0 * q_re
        new_da, new_db = (), ()
        for k in tl.static_range(K):
            p_d = p_dout + 2 * ((i_h * K + k) * F + f)
            d_re, d_im = tl.load(p_d), tl.load(p_d + 1)
            new_da = new_da + (da[k] + d_re * sq_re + d_im * sq_im,)
            new_db = new_db + (db[k] + d_re * q_re + d_im * q_im,)
            ad_re, ad_im = ad_re + a[k] * d_re, ad_im + a[k] * d_im
            bd_re, bd_im = bd_re + b[k] * d_re, bd_im + b[k] * d_im
        da, db = new_da, new_db
        v_re = s_re * ad_re + s_im * ad_im + bd_re
        v_im = s_im * ad_re - s_re * ad_im - bd_im
        vq_re, vq_im = v_re * q_re - v_im * q_im, v_re * q_im + v_im * q_re
        plain += vq_re * q_re - vq_im * q_im
        times_s += vq_re * sq_re - vq_im * sq_im
    p_row = p_parts + (i_span * H + i_h) * (2 * K + 2) * n + o_n
    for k in tl.static_range(K):
        tl.store(p_row + k * n, da[k], mask=known)
        tl.store(p_row + (K + k) * n, db[k], mask=known)
    tl.store(p_row + 2 * K * n, plain, mask=known)
    tl.store(p_row + (2 * K + 1) * n, times_s, mask=known)


def sums(a, b, poles, s):
    """As the operator of ``ssm_core.s4.cauchy``."""
    H, K, n = a.shape
    F = s.shape[0]
    out = s.new_empty(H, K, F)
    block = _points(K)
    if out.numel():
        modes = torch.cat([a.mT, b.mT, _real(poles)], dim=-1)  # (H, n, 2K + 2)
        with torch.cuda.device_of(a):
            _sums[(H * triton.cdiv(F, block),)](
                modes, _real(s), torch.view_as_real(out), n, F, K=K, BLOCK=block, num_warps=4,
                enable_fp_fusion=True)
    return out


def sums_backward(dout, a, b, poles, s):
    """As the operator of ``ssm_core.s4.cauchy``."""
    H, K, n = a.shape
    F = s.shape[0]
    spans = max(1, min(_SPANS, F // 128))
    span = max(1, triton.cdiv(F, spans))
    parts = a.new_empty(spans, H, 2 * K + 2, n)
    if parts.numel():
        with torch.cuda.device_of(a):
            _sums_backward[(spans * H * triton.cdiv(n, _MODES),)](
                _real(dout), a.contiguous(), b.contiguous(), _real(poles), _real(s), parts, H, n,
                F, span, K=K, MODES=_MODES, num_warps=1, enable_fp_fusion=True)
    da, db, for_poles = parts.sum(0).split([K, K, 2], dim=1)
    plain, times_s = for_poles.unbind(1)
    dpoles = torch.complex(2 * (times_s - poles.real * plain), -2 * poles.imag * plain)
    return da.clone(), db.clone(), dpoles  # an operator's results share no memory


def _points(K):
    """Points of a program: two for each of 128 threads where their 4K sums fit into registers."""
    return 256 if K <= 6 else 128


def _real(x):
    """Complex numbers as pairs of real ones, in one piece."""
    return torch.view_as_real(x.resolve_conj().contiguous())
