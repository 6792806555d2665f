"""The table of the page book/benchmarks: what the stored measurements say, in one number each.

python tools/measurement_table.py             write book/benchmarks.csv
"""

import csv
import pathlib
import statistics

from ssm_book.data import measurements

TABLE = pathlib.Path(__file__).resolve().parents[1] / "book" / "benchmarks.csv"
HEADER = ("measured", "result", "on", "chapter")
NETWORKS = {
    "mamba": "Mamba",
    "s4": "S4",
    "s4d": "S4D",
    "random": "random A",
    "lstm": "LSTM",
    "transformer": "Transformer",
    "linear_attention": "linear attention",
}


def rows():
    """All rows of the table, as text."""
    return [
        *_orders(),
        *_memory(),
        *_uneven(),
        *_scan(),
        *_s4(),
        *_trained(),
        *_tasks(),
        *_classification(),
        *_generation(),
        *_steps(),
        *_ssd(),
    ]


def _row(measured, result, name, chapter):
    stored = measurements(name)
    on = stored["setup"].get("device", "cpu")
    on = stored["machine"]["processor"] if on == "cpu" else on.removesuffix(" 80GB HBM3")
    return (measured, result, on, f"{{doc}}`{chapter} <{chapter}>`")


def _runs(name):
    """The stored runs of a task, in the order of NETWORKS."""
    return sorted(measurements(name)["runs"], key=lambda run: list(NETWORKS).index(run["model"]))


def _times(ratios):
    return f"{ratios['median']:.1f} times ({ratios['min']:.1f} to {ratios['max']:.1f})"


def _orders():
    name = "duality-cpu"
    for layer in ("attention", "convolution", "recurrence"):
        time = measurements(name)["exponents"][layer]["time"]
        yield _row(f"exponent of L in the time of {layer}", f"{time:.2f}", name, "duality")


def _memory():
    name = "hippo-cpu"
    speed = measurements(name)["steps_per_second"]
    for kind, words in (
        ("legs", "LegS, 256 coefficients, O(N) step"),
        ("legs_dense", "the same by a dense matrix"),
    ):
        low, middle, high = (speed[kind][x] / 1e6 for x in ("min", "median", "max"))
        yield _row(
            f"{words}, million samples a second",
            f"{middle:.2g} ({low:.2g} to {high:.2g})",
            name,
            "hippo",
        )


def _uneven():
    name = "uneven-cpu"
    stored = measurements(name)
    yield _row(
        "50,000 uneven steps of LegT, N 32, an exponential for each step takes",
        _times(stored["simulate"]["times_faster"]),
        name,
        "discretization",
    )
    for rule, words in (
        ("foh", "straight lines"),
        ("zoh", "held"),
        ("even_taken", "times ignored"),
    ):
        error = stored["relative_error"][rule]
        yield _row(
            f"LegS over 2,000 uneven samples, {words}, relative error",
            f"{error['median']:.2g} ({error['min']:.2g} to {error['max']:.2g})",
            name,
            "hippo",
        )


def _scan():
    name = "scan-cpu"
    (row,) = measurements(name)["rows"]
    for way, words in (("forward", "forward"), ("forward_and_backward", "with its gradient")):
        ratios = row["contenders"]["loop"]["times_slower_than_ours"][way]
        yield _row(
            f"scan, {words}, a loop over samples takes", _times(ratios), name, "selective_scan"
        )
    name = "scan-h100"
    for row in measurements(name)["rows"]:
        ratio = row["times_faster_than_baseline"]
        yield _row(
            f"portable scan against the CUDA kernel, b {row['b']}, d {row['d']}, "
            f"L {row['L']}, n {row['n']}",
            f"{ratio['forward']:.2f} times as fast forward, {ratio['backward']:.2f} back",
            name,
            "selective_scan",
        )
    name = "scan-h200"
    for row in measurements(name)["rows"]:
        ours, cuda = (row["contenders"][who] for who in ("ours", "mamba_ssm"))
        forward, backward = (
            cuda["seconds"][way]["median"] / ours["seconds"][way]["median"]
            for way in ("forward", "backward")
        )
        memory = ours["peak_bytes"] / cuda["peak_bytes"]
        yield _row(
            f"fast scan against the CUDA kernel, b {row['b']}, d {row['d']}, "
            f"L {row['L']}, n {row['n']}",
            f"{forward:.2f} times as fast forward, {backward:.2f} back, {memory:.2f} times its memory",
            name,
            "selective_scan",
        )


def _s4():
    name = "s4-h200"
    stored = measurements(name)
    for sums, words in (("cauchy", "Cauchy sums"), ("vandermonde", "Vandermonde sums")):
        naive = stored[sums]["naive_complex128"]
        yield _row(
            f"{words}, H 256, N 64, L 16384, complex128 as it stands takes",
            _times(naive["times_slower"]["forward"]),
            name,
            "s4",
        )
        memory = naive["peak_bytes"] / stored[sums]["ours"]["peak_bytes"]
        yield _row(f"{words}, its memory against ours", f"{memory:.0f} times", name, "s4")
    for row in stored["layers"]:
        yield _row(
            f"layer of width {row['width']}, powers of a dense matrix against S4",
            _times(row["dense"]["times_slower"]),
            name,
            "s4",
        )


def _trained():
    for task, words in (("smnist", "row by row"), ("psmnist", "in random order")):
        name = f"{task}-h200"
        for run in _runs(name):
            log = run["log"]
            yield _row(
                f"MNIST {words}, {NETWORKS[run['model']]}, {len(log)} epochs",
                f"{100 * log[-1]['accuracy']:.2f} % right",
                name,
                "s4",
            )


def _tasks():
    for task, words in (("copying", "copying among 4096"), ("recall", "recall of 32 pairs")):
        name = f"{task}-h200"
        for run in _runs(name):
            steps = run["log"][-1]["epoch"] * run["every"]
            way = "growing" if run["doublings"] else "at full length"
            yield _row(
                f"{words}, {NETWORKS[run['model']]}, {way}, {steps:,} steps",
                f"{100 * run['log'][-1]['accuracy']:.1f} % right",
                name,
                "training",
            )
    name = "induction-h200"
    for run in _runs(name):
        if run["lengths"]:
            far = max((int(L) for L, right in run["lengths"].items() if right > 0.99), default=None)
            steps = run["log"][-1]["epoch"] * run["every"]
            yield _row(
                f"induction heads, trained at 256, {NETWORKS[run['model']]}, {steps:,} steps",
                f"99 % right up to {far:,}" if far else "not learned",
                name,
                "training",
            )


def _classification():
    name = "classification-cpu"
    for row in measurements(name)["rows"]:
        scores = [statistics.median(found["accuracy"]) for found in row["contenders"].values()]
        yield _row(
            f"accuracy on {row['data']}: MiniRocket, S4D, Mamba, LSTM",
            ", ".join(f"{100 * score:.0f} %" for score in scores),
            name,
            "s4",
        )


def _generation():
    name = "generation-h200"
    (row,) = (row for row in measurements(name)["rows"] if row["batch"] == 64)
    others = {
        "transformer": "our Transformer",
        "transformers_neox": "GPT-NeoX of transformers",
        "transformers_mamba": "Mamba of transformers (loops in Python)",
    }
    ours = row["contenders"]["ours"]["tokens_per_second"]
    yield _row(
        "generation, 130M, 64 texts, Mamba", f"{ours:,.0f} tokens a second", name, "training"
    )
    for other, words in others.items():
        yield _row(
            f"generation, 130M, 64 texts, Mamba against {words}",
            f"{row['contenders'][other]['ours_over_this']:.1f} times",
            name,
            "training",
        )


def _steps():
    name = "steps-cpu"
    for model, words, unit, chapter in (
        ("mamba", "four blocks of Mamba, width 128", "tokens", "mamba-deeper"),
        ("s4d", "two blocks of S4D, 64 channels", "samples", "s4"),
    ):
        (row,) = (row for row in measurements(name)[model] if row["batch"] == 1)
        yield _row(
            f"{words}, step by step on one thread",
            f"{row['per_second']['compiled']['median']:,.0f} {unit} a second",
            name,
            chapter,
        )
        yield _row(
            f"{words}, step by step, compiled against PyTorch",
            _times(row["times_faster"]),
            name,
            chapter,
        )


def _ssd():
    name = "ssd-cpu"
    (row,) = measurements(name)["rows"]
    for other, words in (("loop", "a loop over steps"), ("transformers", "transformers")):
        ratios = row["contenders"][other]["times_slower_than_ours"]["forward_and_backward"]
        yield _row(f"SSD with its gradient, {words} takes", _times(ratios), name, "ssd-deeper")
    name = "ssd-h200"
    for row in measurements(name)["rows"]:
        if "left_out" not in row:
            ratios = row["contenders"]["mamba_ssm"]["times_slower_than_ours"]
            yield _row(
                f"SSD with its gradient, b {row['b']}, L {row['L']}, h {row['h']}, the kernels of "
                "Mamba-2's authors take, as calls",
                _times(ratios["forward_and_backward_call"]),
                name,
                "ssd-deeper",
            )
            yield _row(
                f"SSD with its gradient, b {row['b']}, L {row['L']}, h {row['h']}, the kernels of "
                "Mamba-2's authors take, in a CUDA graph",
                _times(ratios["forward_and_backward"]),
                name,
                "ssd-deeper",
            )


if __name__ == "__main__":
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows()])
