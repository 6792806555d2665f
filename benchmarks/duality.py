"""What a sequence layer costs as the sequence grows: attention, a recurrent network, an SSM.

Every layer maps 64 channels of L samples to 64 channels of L samples, forward, on one thread. The
state space model is a bank of 64 exponential moving averages, once as a recurrence and once as a
convolution, and both must give the same numbers. The recurrence is timed as one dense system with
a 64 x 64 state matrix, not as 64 separate averages. The kernels of the convolution are built before
the clock starts. Attention and the recurrent network compute in float32, the state space model in
float64. Each measurement runs in a process of its own, so that its peak of memory is its own: the
high-water mark of resident memory during one call, less what was resident before it.
"""

import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from benchmarks.record import high_water_mark, seconds
from ssm_core.convolution import causal_convolution
from ssm_core.lti import DiscreteSSM

D = 64  # channels
SEED = 0
# Lengths up to which each is affordable: plain attention holds several matrices of L x L numbers.
LONGEST = {
    "attention": 2**14,
    "attention_fused": 2**15,
    "rnn": 2**17,
    "recurrence": 2**17,
    "convolution": 2**17,
}
SHORTEST = 2**9
FITTED = 4  # an exponent is fitted to the longest lengths, where the fixed cost no longer counts


def run():
    """Check that both forms of the SSM agree, then measure every layer at every length."""
    difference = _largest_difference(2**12)
    rows = [
        {"layer": name, "L": L, **_in_a_fresh_process(name, L)}
        for name, longest in LONGEST.items()
        for L in _lengths(longest)
    ]
    return {
        "setup": {
            "channels": D,
            "batch": 1,
            "threads": 1,
            "pass": "forward",
            "dtype": {"attention, rnn": "float32", "recurrence, convolution": "float64"},
        },
        "checks": {"convolution_from_recurrence": difference},
        "rows": rows,
        "exponents": {name: _exponents(rows, name) for name in LONGEST},
    }


# --- the layers: each returns a function without arguments that runs it once ---------------------


def _attention(L):
    torch, (q, k, v) = _torch_inputs(L, 3)
    past = torch.ones(L, L, dtype=torch.bool).tril()

    def layer():
        scores = q @ k.T / math.sqrt(D)
        return torch.softmax(scores.masked_fill_(~past, -math.inf), dim=-1) @ v

    return layer


def _attention_fused(L):
    torch, qkv = _torch_inputs(L, 3)
    q, k, v = (x[None, None] for x in qkv)  # (batch, head, L, D)
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def _rnn(L):
    torch, (u,) = _torch_inputs(L, 1)
    W = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(SEED)))[0]

    def layer():
        h, states = torch.zeros(D), []
        for u_k in u:
            h = torch.tanh(W @ h + u_k)
            states.append(h)
        return torch.stack(states)

    return layer


def _averages():
    """The weights of the newest sample: time constants from 10 to 10,000 samples."""
    return 1 - np.exp(-1 / np.geomspace(10, 10_000, D))


def _recurrence(L):
    alpha, u = _averages(), _signal(L)
    bank = DiscreteSSM(np.diag(1 - alpha), np.diag(alpha), np.eye(D), np.zeros((D, D)), dt=1.0)
    return lambda: bank.recurrence(u)[0]


def _convolution(L):
    alpha, u = _averages(), np.ascontiguousarray(_signal(L).T)  # (D, L): time last
    kernels = alpha[:, None] * (1 - alpha[:, None]) ** np.arange(L)
    return lambda: causal_convolution(u, kernels).T


_LAYERS = {
    "attention": _attention,
    "attention_fused": _attention_fused,
    "rnn": _rnn,
    "recurrence": _recurrence,
    "convolution": _convolution,
}


def _signal(L):
    return np.random.default_rng(SEED).standard_normal((L, D))


def _torch_inputs(L, count):
    import torch  # here, so that the NumPy layers are measured without it

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    generator = torch.Generator().manual_seed(SEED)
    return torch, [torch.randn(L, D, generator=generator) for _ in range(count)]


def _largest_difference(L):
    difference = float(np.abs(_recurrence(L)() - _convolution(L)()).max())
    if not difference < 1e-12:
        raise AssertionError(f"convolution differs from recurrence by {difference:.3g}")
    return difference


# --- measuring ----------------------------------------------------------------------------------


def _lengths(longest):
    return [2**k for k in range(SHORTEST.bit_length() - 1, longest.bit_length())]


def _in_a_fresh_process(name, L):
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_measure, name, L).result()


def _measure(name, L):
    """Time and peak memory of one layer; memory first, while nothing has been cached yet."""
    _LAYERS[name](32)()  # loads what is loaded on first use
    layer = _LAYERS[name](L)
    before = high_water_mark(reset=True)
    layer()
    peak = high_water_mark() - before
    return {"seconds": seconds(layer, repeats=5), "peak_bytes": peak}


def _exponents(rows, name):
    """Slopes of log time and log memory against log L, over the longest lengths."""
    last = [row for row in rows if row["layer"] == name][-FITTED:]
    L = np.log([row["L"] for row in last])
    time = np.log([row["seconds"]["median"] for row in last])
    memory = np.log([row["peak_bytes"] for row in last])
    return {"time": float(np.polyfit(L, time, 1)[0]), "memory": float(np.polyfit(L, memory, 1)[0])}
