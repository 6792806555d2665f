"""Models that run step by step on one thread of a CPU: compiled, and in PyTorch.

Times are seconds of the processor, which other programs change less than the clock on the wall. Both
ways take turns in one process, and the compiled functions are there before the clock starts.

Predictions. *Mamba*: four blocks of width 128 hold 0.44 million weights, which stay in the cache of a
core; at 16 products a cycle they take 20 µs, the exponentials of 16,384 states 20 µs, a call of a
compiled function with 17 arrays 5 µs: 60 to 150 µs a token where PyTorch takes 800, which is 30
operations a block at some 5 µs. With 32 texts PyTorch's calls weigh little, and both ways take about
the same time. *S4D*: two blocks of 64 channels with 32 modes take 12 µs of arithmetic; the call and
its checks 20 µs: 30 µs a sample where PyTorch takes 220.
"""

import contextlib
import time
from unittest import mock

import torch

from benchmarks.record import in_turns, summary
from ssm_core.mamba import MambaConfig, MambaLM
from ssm_core.mamba import _stepping as mamba_stepping
from ssm_core.network import SequenceModel
from ssm_core.s4 import _stepping as s4_stepping
from ssm_core.scan import cpu

MAMBA = {"d_model": 128, "n_layer": 4, "vocab_size": 256}
NETWORK = {"d_model": 64, "n_layers": 2}
BATCHES = (1, 8, 32)
CHUNKS = (64, 512, 4096)
PROMPT, NEW = 16, 200
SAMPLES = 500
REPEATS = 7


def run(new=NEW, samples=SAMPLES, chunks=CHUNKS, repeats=REPEATS):
    """Steps in a second, by model, batch and way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "setup": {
                "mamba": MAMBA,
                "network": {**NETWORK, "layer": "S4D"},
                "prompt": PROMPT,
                "new": new,
                "samples": samples,
                "threads": 1,
                "dtype": "float32",
                "units": "steps per second of the processor, of all texts or signals together",
            },
            "checks": _checks(),
            "mamba": [_tokens(b, new, repeats) for b in BATCHES],
            "s4d": [_samples(b, samples, repeats) for b in BATCHES],
            "s4d_chunks": _chunks(chunks, repeats),
        }
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def in_pytorch():
    """Steps without compiled functions, as they run where Numba is not installed."""
    with (
        mock.patch.object(mamba_stepping, "kernels", return_value=None),
        mock.patch.object(s4_stepping, "kernels", return_value=None),
        mock.patch.object(cpu, "compiled", None),
    ):
        yield


def _tokens(b, new, repeats):
    """Generation, the prompt included."""
    model = _mamba()
    prompt = torch.randint(256, (b, PROMPT), generator=torch.manual_seed(1))

    def plain():
        with in_pytorch():
            model.generate(prompt, new)

    return {"batch": b, **_both(lambda: model.generate(prompt, new), plain, b * new, repeats)}


def _samples(b, samples, repeats):
    """The stepper of a network."""
    model = _network()
    u = torch.randn(samples, b, 1, generator=torch.manual_seed(1))
    fast = model.stepper()
    with in_pytorch():
        slow = model.stepper()
        _advance(slow, u[:1])  # what it packs at its first step

    def plain():
        with in_pytorch():
            _advance(slow, u)

    return {"batch": b, **_both(lambda: _advance(fast, u), plain, b * samples, repeats)}


def _advance(stepper, u):
    states = stepper.default_state(u.shape[1])
    for sample in u:
        y, states = stepper.step(sample, states)
    return y


def _chunks(chunks, repeats):
    """The convolution on chunks of a signal, with the state handed on."""
    model, longest = _network(), max(chunks)
    u = torch.randn(1, longest, 1, generator=torch.manual_seed(1))

    @torch.no_grad()
    def pieces(L):
        states = None
        for k in range(0, longest, L):
            _, states = model(u[:, k : k + L], states, return_state=True)

    runs = in_turns({L: lambda L=L: pieces(L) for L in chunks}, repeats, clock=_processor)
    return [{"chunk": L, "per_second": summary([longest / t for t in runs[L]])} for L in chunks]


def _both(compiled, plain, steps, repeats):
    runs = in_turns({"compiled": compiled, "pytorch": plain}, repeats, clock=_processor)
    ratios = [slow / fast for fast, slow in zip(runs["compiled"], runs["pytorch"])]
    return {
        "per_second": {name: summary([steps / t for t in times]) for name, times in runs.items()},
        "times_faster": summary(ratios),
    }


def _processor(function):
    start = time.process_time()
    function()
    return time.process_time() - start


def _checks():
    """Largest differences between both ways, over the largest number."""
    model, network = _mamba(), _network()
    prompt = torch.randint(256, (2, PROMPT), generator=torch.manual_seed(2))
    u = torch.randn(50, 2, 1, generator=torch.manual_seed(2))
    fast, sample = _read(model.stepper(), prompt), _advance(network.stepper(), u)
    with in_pytorch():
        slow, plain = _read(model.stepper(), prompt), _advance(network.stepper(), u)
    return {
        "mamba": float((fast - slow).abs().max() / slow.abs().max()),
        "s4d": float((sample - plain).abs().max() / plain.abs().max()),
    }


def _read(stepper, prompt):
    cache = stepper.allocate_inference_cache(len(prompt))
    for tokens in prompt.T:
        logits, cache = stepper.step(tokens, cache)
    return logits


def _mamba():
    torch.manual_seed(0)
    return MambaLM(MambaConfig(**MAMBA)).eval()


def _network():
    torch.manual_seed(0)
    return SequenceModel(1, 1, **NETWORK).eval()
