"""The plots of the page book/benchmarks, from the stored measurements.

python tools/measurement_plots.py             write book/_static/plots/NAME.svg, and NAME.png for paper
"""

import pathlib

import matplotlib as mpl
from matplotlib import pyplot as plt

from ssm_book import figures
from ssm_book.data import measurements

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "book" / "_static" / "plots"


def scan():
    """How many times as fast as the CUDA kernel, and how much more memory, by shape."""
    rows = measurements("scan-h200")["rows"]
    labels = [f"{row['b']} × {row['d']} × {row['L']:,} × {row['n']}" for row in rows]
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), sharey=True, width_ratios=[1.6, 1])
    for shift, kind, colour in ((-0.2, "forward", figures.BLUE), (0.2, "backward", figures.ORANGE)):
        ratios = [
            row["contenders"]["mamba_ssm"]["seconds"][kind]["median"]
            / row["contenders"]["ours"]["seconds"][kind]["median"]
            for row in rows
        ]
        places = [i + shift for i in range(len(rows))]
        bars = axes[0].barh(places, ratios, 0.38, color=colour)
        axes[0].bar_label(bars, [f"{ratio:.1f}" for ratio in ratios], padding=3, color=colour)
    memory = [
        row["contenders"]["ours"]["peak_bytes"] / row["contenders"]["mamba_ssm"]["peak_bytes"]
        for row in rows
    ]
    bars = axes[1].barh(range(len(rows)), memory, 0.5, color=figures.GREY)
    axes[1].bar_label(bars, [f"{ratio:.1f}" for ratio in memory], padding=3, color=figures.GREY)
    axes[0].set_yticks(range(len(rows)), labels)
    axes[0].invert_yaxis()
    axes[0].set(title="speed: times as fast", ylabel="batch × channels × samples × states")
    axes[1].set(title="memory: times as much")
    for ax in axes:
        ax.axvline(1, color="#222222", lw=1)
        ax.margins(x=0.15)
        ax.grid(axis="y", visible=False)
    for place, word in ((-0.2, "forward"), (0.2, "backward")):
        axes[0].text(0.06, place, word, color="white", va="center", fontsize=8)
    return fig


def generation():
    """Tokens a second by the number of texts that are written at once."""
    rows = measurements("generation-h200")["rows"]
    shown = {
        "ours": ("Mamba", figures.BLUE),
        "transformer": ("Transformer of the same size", figures.ORANGE),
        "transformers_neox": ("GPT-NeoX in transformers", figures.GREEN),
        "transformers_mamba": ("Mamba in transformers\n(without its fast kernels)", figures.GREY),
    }
    fig, ax = plt.subplots(figsize=(7.2, 3.2))
    for name, (words, colour) in shown.items():
        known = [
            (row["batch"], row["contenders"][name]["tokens_per_second"])
            for row in rows
            if "tokens_per_second" in row["contenders"].get(name, {})
        ]
        ax.loglog(*zip(*known), "o-", ms=3, color=colour)
        ax.text(known[-1][0] * 1.1, known[-1][1], words, color=colour, va="center", fontsize=9)
    ax.set(xlabel="texts at once", ylabel="tokens per second", xlim=(0.9, 900))
    ticks = [row["batch"] for row in rows]
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    return fig


PLOTS = {"scan": scan, "generation": generation}


def write(name, figure):
    """A figure as SVG and PNG, the same bytes each time."""
    with mpl.rc_context({"svg.hashsalt": "ssm"}):
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None, "Creator": None})
    figure.savefig(FOLDER / f"{name}.png", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    figures.use_style()
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PLOTS.items():
        write(name, draw())
