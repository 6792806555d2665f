"""Uneven times: a step of any length without an exponential, and what the right times are worth.

Times are seconds of the processor, which other programs do not change much. Predictions, for stamps with exponential gaps and one thread. *Speed*: an exponential with its two
integrals takes 80 µs for N = 32, while ten products of a 34 by 34 matrix and a vector take about 10:
`simulate` should be some eight times faster than with an exponential for each step. *Error*: joined
by straight lines the samples err with the square of the gap, held with the gap itself; taken for
evenly spaced they are misplaced by the random walk of the gaps, √L of them at the end, which is
the largest of the three errors by far.
"""

import time

import numpy as np

import ssm_core.lti
from benchmarks.record import in_turns, summary
from ssm_core.hippo import Memory, basis, project, reconstruct, transition
from ssm_core.lti import ContinuousSSM

STAMPS = 50_000
SAMPLES = 20_000
N_SIMULATE, N = 32, 64
SEEDS = range(5)
CYCLES = 8  # of the fastest wave in the signal, over the whole of it


def run():
    """Time both ways of `simulate`, steps a second of memories, and errors of what they keep."""
    return {
        "setup": {"stamps": STAMPS, "N_simulate": N_SIMULATE, "N": N, "threads": 1},
        "simulate": _simulate(),
        "samples_per_processor_second": _speeds(),
        "relative_error": _errors(),
    }


def _stamps(L, seed=0):
    return np.cumsum(np.random.default_rng(seed).exponential(1 / L, L))


def _processor_seconds(function):
    start = time.process_time()
    function()
    return time.process_time() - start


def _simulate():
    """LegT over uneven stamps: an exponential for each step, and shared exponentials."""
    t, u = _stamps(STAMPS), np.random.default_rng(1).standard_normal(STAMPS)
    system = ContinuousSSM(*transition("legt", N_SIMULATE, theta=0.02), np.eye(N_SIMULATE)[:1])
    many = ssm_core.lti._MANY_STEPS
    outputs = {}

    def each():
        ssm_core.lti._MANY_STEPS = len(t)
        try:
            outputs["each"] = system.simulate(u, t)
        finally:
            ssm_core.lti._MANY_STEPS = many

    def shared():
        outputs["shared"] = system.simulate(u, t)

    runs = in_turns(
        {"exponential_each": each, "shared_exponentials": shared}, 3, 0, _processor_seconds
    )
    difference = np.abs(outputs["each"] - outputs["shared"]).max()
    if not difference < 1e-12 * np.abs(outputs["each"]).max():
        raise AssertionError(f"both ways of simulate differ by {difference:.3g}")
    ratios = [a / b for a, b in zip(runs["exponential_each"], runs["shared_exponentials"])]
    return {
        "processor_seconds": {name: summary(times) for name, times in runs.items()},
        "times_faster": summary(ratios),
        "largest_difference": float(difference),
    }


def _speeds():
    """Samples a second, in blocks and one by one, at even and at uneven times."""
    u, t = np.random.default_rng(2).standard_normal(SAMPLES), _stamps(SAMPLES)
    runs = {}
    for measure in ("legs", "legt"):
        for method in ("bilinear", "foh"):
            runs[f"{measure}_{method}_even"] = (
                SAMPLES,
                lambda m=measure, r=method: project(u, m, N, 1 / SAMPLES, r),
            )
            runs[f"{measure}_{method}_uneven"] = (
                SAMPLES,
                lambda m=measure, r=method: project(u, m, N, method=r, t=t),
            )
        runs[f"{measure}_one_by_one"] = (2000, lambda m=measure: _one_by_one(m, u, t))
    functions = {name: function for name, (_, function) in runs.items()}
    rows = {}
    for name, times in in_turns(functions, 5, clock=_processor_seconds).items():
        rows[name] = summary([runs[name][0] / seconds for seconds in times])
        print(f"  {name:22} {rows[name]['median']:12,.0f} samples/s", flush=True)
    return rows


def _one_by_one(measure, u, t):
    memory = Memory(measure, N, method="foh")
    for k in range(2000):
        memory.update(u[k], t[k])


def _errors(L=2000):
    """LegS: root mean square error over the past against that of the signal, one number a seed."""
    moments = (np.arange(4000) + 0.5) / 4000
    rows = {name: [] for name in ("even_taken", "bilinear", "zoh", "foh", "resampled", "best")}
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        amplitudes, phases = rng.standard_normal(CYCLES), rng.uniform(0, 2 * np.pi, CYCLES)
        t = np.r_[0, _stamps(L, seed)]
        t /= t[-1]

        def signal(s, amplitudes=amplitudes, phases=phases):
            turns = 2 * np.pi * np.outer(s, np.arange(1, CYCLES + 1)) + phases
            return np.sin(turns) @ amplitudes

        truth, u = signal(moments), signal(t)
        grid = np.linspace(0, 1, L + 1)
        kept = {
            "even_taken": project(u, "legs", N, 1.0)[-1],
            **{r: project(u, "legs", N, method=r, t=t)[-1] for r in ("bilinear", "zoh", "foh")},
            "resampled": project(np.interp(grid, t, u), "legs", N, method="foh", t=grid)[-1],
            "best": np.linalg.lstsq(basis("legs", N, moments), truth, rcond=None)[0],
        }
        for name, x in kept.items():
            error = reconstruct(x, "legs", moments) - truth
            rows[name].append(float(np.sqrt((error**2).mean() / (truth**2).mean())))
    return {"seeds": list(SEEDS), "samples": L, **{name: summary(e) for name, e in rows.items()}}
