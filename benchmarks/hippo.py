"""Online compression: steps a second of the O(N) update beside dense cells, and what it keeps.

The set-up is that of the HiPPO paper (arXiv 2008.07669, section 4.3 and appendix F): a signal of
10^6 samples, 10^-4 s apart, of white noise limited to 1 Hz, in 256 numbers. The paper does not
give its amplitude; ours has a root mean square of 0.5, so that an answer of zero has the mean
squared error 0.25 that the paper reports for the LSTM.
"""

import contextlib

import numpy as np

from benchmarks.record import seconds
from ssm_book.data import band_limited_noise
from ssm_core.hippo import basis, legs_update, project, transition
from ssm_core.lti import ContinuousSSM

N = 256
L = 10**6
DT = 1e-4
CUTOFF = 1.0  # Hz
RMS = 0.5
SEEDS = range(5)
THETA = L * DT


def run():
    """Check the fast update against the dense one, time all of them, and compare what they keep."""
    u = RMS * band_limited_noise(L, CUTOFF, DT, seed=SEEDS[0])
    checks = _checks(u)
    steps_per_second = _speeds(u)
    ours = steps_per_second["legs"]["median"]
    return {
        "setup": {
            "N": N,
            "samples": L,
            "dt": DT,
            "band_limit_hz": CUTOFF,
            "rms": RMS,
            "threads": 1,
            "compiled": legs_update.compiled is not None,
        },
        "checks": checks,
        "steps_per_second": steps_per_second,
        "times_faster": {name: ours / row["median"] for name, row in steps_per_second.items()},
        "mean_squared_error": _errors(),
        "paper": {
            "steps_per_second": {"legs": 470_000},
            "mean_squared_error": {"legs": 0.02, "lmu": 0.05, "lstm": 0.25},
        },
    }


# --- the same numbers by other means ------------------------------------------------------------


def _checks(u):
    """The largest difference of each fast computation from its plain counterpart."""
    short = u[: L // 4 : 200]  # 1,250 samples over which the signal moves
    fast = project(short, "legs", N, DT)[-1]
    with _without_numba():
        plain = project(short, "legs", N, DT)[-1]
    final = project(short, "legt", N, 200 * DT, theta=THETA)[-1]
    differences = {
        "legs_from_dense_update": abs(fast - _dense_legs(short)).max(),
        "legs_from_numpy_fallback": abs(fast - plain).max(),
        "legt_in_blocks_from_recurrence": abs(_last_legt(short, 200 * DT, 125) - final).max(),
    }
    for name, difference in differences.items():
        if not difference < 1e-10:
            raise AssertionError(f"{name}: {difference:.3g}, expected below 1e-10")
    return {name: float(difference) for name, difference in differences.items()}


@contextlib.contextmanager
def _without_numba():
    """Run the update as it runs where Numba is not installed."""
    compiled = legs_update._run, legs_update._advance
    legs_update._run = getattr(compiled[0], "py_func", compiled[0])
    legs_update._advance = legs_update._advance_in_numpy
    try:
        yield
    finally:
        legs_update._run, legs_update._advance = compiled


def _dense_legs(u):
    """The bilinear LegS step with all N^2 entries of A: a product, and a triangular solve."""
    A, B = transition("legs", N)
    return _dense_run(np.ascontiguousarray(A.T), B[:, 0].copy(), u)


def _dense_run(columns, B, u):
    x = np.zeros(len(B))
    x[0] = u[0]
    for k in range(2, len(u) + 1):
        h = 1 / (k - 0.5)
        right = x + h * B * u[k - 1]
        for n in range(len(B)):  # column by column, so that a compiler can use vector instructions
            right[n:] += 0.5 * h * x[n] * columns[n, n:]
        for n in range(len(B)):
            x[n] = right[n] / (1 - 0.5 * h * columns[n, n])
            right[n + 1 :] += 0.5 * h * x[n] * columns[n, n + 1 :]
    return x


if legs_update.compiled is not None:
    _dense_run = legs_update.compiled()(_dense_run)


def _last_legt(u, dt, block):
    """The last state of LegT over a window as long as the signal, ``block`` samples at a time."""
    A, B = transition("legt", N, theta=dt * len(u) if len(u) == L else THETA)
    system = ContinuousSSM(A, B, np.eye(N), np.zeros((N, 1))).discretize(dt, "bilinear")
    K = system.kernel(block)[::-1, :, 0]  # (block, N)
    jump = np.linalg.matrix_power(system.A, block)
    x = np.zeros(N)
    for samples in u.reshape(-1, block):
        x = jump @ x + samples @ K
    return x


# --- speed --------------------------------------------------------------------------------------


def _speeds(u):
    """Steps a second: median, slowest and fastest of several runs, one thread each."""
    runs = {  # name: (steps, function, repeats)
        "legs": (L, lambda: project(u, "legs", N, DT, every=L), 11),
        "legs_all_kept": (L // 10, lambda: project(u[: L // 10], "legs", N, DT), 11),
        "legs_numpy": (20_000, lambda: _numpy_legs(u[:20_000]), 5),
        "legs_dense": (20_000, lambda: _dense_legs(u[:20_000]), 5),
        "legt_dense": (20_000, lambda: project(u[:20_000], "legt", N, DT, theta=THETA), 5),
        **_torch_cells(u),
    }
    rows = {}
    for name, (steps, function, repeats) in runs.items():
        time = seconds(function, repeats=repeats)
        rows[name] = {
            "steps": steps,
            "repeats": repeats,
            "median": steps / time["median"],
            "min": steps / time["max"],
            "max": steps / time["min"],
        }
        print(f"  {name:14} {rows[name]['median']:12,.0f} steps/s", flush=True)
    return rows


def _numpy_legs(u):
    with _without_numba():
        project(u, "legs", N, DT, every=len(u))


def _torch_cells(u, steps=5_000):
    """Recurrent cells of the same state size as PyTorch runs them, in float32."""
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = torch.tensor(u[:steps], dtype=torch.float32).reshape(steps, 1, 1)
    cell, layer = torch.nn.LSTMCell(1, N), torch.nn.LSTM(1, N)
    system = ContinuousSSM(*transition("legt", N, theta=THETA), np.zeros((1, N)), [[0.0]])
    system = system.discretize(DT, "bilinear")
    A = torch.tensor(system.A, dtype=torch.float32)
    B = torch.tensor(system.B[:, 0], dtype=torch.float32)

    def lstm_cell():
        with torch.inference_mode():
            state = None
            for sample in inputs:
                state = cell(sample, state)

    def lstm_layer():
        with torch.inference_mode():
            layer(inputs)

    def legt_cell():
        with torch.inference_mode():
            x = torch.zeros(N)
            for sample in inputs[:, 0, 0]:
                x = torch.addmv(B * sample, A, x)

    return {
        "lstm_cell": (steps, lstm_cell, 5),
        "lstm_layer": (steps, lstm_layer, 5),
        "legt_cell": (steps, legt_cell, 5),
    }


# --- what is kept -------------------------------------------------------------------------------


def _errors():
    """Mean squared error over the whole signal, one number a seed: online, and the best there is."""
    signals = np.array([RMS * band_limited_noise(L, CUTOFF, DT, seed=seed) for seed in SEEDS])
    kept = {
        "legs": np.array([project(u, "legs", N, DT, every=L)[-1] for u in signals]),
        "legt": np.array([_last_legt(u, DT, 1000) for u in signals]),
        "best_polynomial": _best_polynomials(signals),
    }
    squares = {name: np.zeros(len(signals)) for name in kept}
    for chunk in _chunks():
        P = basis("legs", N, (chunk + 0.5) / L)  # the same functions for all three
        for name, coefficients in kept.items():
            squares[name] += ((coefficients @ P.T - signals[:, chunk]) ** 2).sum(axis=1)
    errors = {name: _summary(square / L) for name, square in squares.items()}
    return {"seeds": list(SEEDS), "nothing": RMS**2, **errors}


def _best_polynomials(signals):
    """Least squares over all samples, by the normal equations of a nearly orthonormal basis."""
    gram, right = np.zeros((N, N)), np.zeros((N, len(signals)))
    for chunk in _chunks():
        P = basis("legs", N, (chunk + 0.5) / L)
        gram += P.T @ P
        right += P.T @ signals[:, chunk].T
    return np.linalg.solve(gram, right).T


def _chunks(size=20_000):
    return np.arange(L).reshape(-1, size)


def _summary(values):
    return {
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }
