"""The figures that compute in the page: what each is called, says, offers to move, and brings."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssm_book import data
from ssm_core import rnn


@dataclass(frozen=True)
class Slider:
    """A number from ``low`` to ``high`` in equal steps.

    With the step "log" they are equal factors instead, twenty to a factor of ten, and the number
    has two digits; ``whole`` rounds it. With "double" each number is twice the one before it.
    ``play``, milliseconds a step, is for time: the slider stands below the plots, as wide as their
    axes, and has buttons for a step back, for playing and for a step on.
    """

    name: str
    label: str
    low: float
    high: float
    start: float
    step: float | str
    unit: str = ""
    whole: bool = False
    play: int | None = None

    def html(self, value):
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} is {value}, expected {self.low:g} to {self.high:g}")
        numbers, step, base = (self.low, self.high, value), self.step, ""
        if self.step == "log":  # the slider holds exponents of ten, and hits the powers of ten
            numbers, step, base = np.round(20 * np.log10(numbers)) / 20, 0.05, "10"
        elif self.step == "double":
            numbers, step, base = np.round(np.log2(numbers)), 1, "2"
        low, high, at = (f"{number:.6g}" for number in numbers)
        slider = (
            f'<label class="control slider" data-control="{self.name}" data-unit="{self.unit}" '
            f'data-base="{base}" data-whole="{str(self.whole).lower()}"><span>{self.label}</span>'
            f'<input type="range" name="{self.name}" min="{low}" max="{high}" step="{step:g}" '
            f'value="{at}" autocomplete="off"><output></output></label>'
        )
        return slider if self.play is None else slider + self._player()

    def _player(self):
        words = re.sub("<.*?>", "", self.label)
        buttons = "".join(
            f'<button type="button" data-step="{step}" aria-label="{name}">{sign}</button>'
            for step, sign, name in (
                (-1, "‹", f"{words}: a step back"),
                (0, "Play", f"Play: {words}"),
                (1, "›", f"{words}: a step on"),
            )
        )
        return (
            f'<div class="player" data-plays="{self.name}" data-pause="{self.play}">{buttons}</div>'
        )


@dataclass(frozen=True)
class Choice:
    """One of several ``options``, a dict from values to the words for them."""

    name: str
    label: str
    options: dict
    start: str

    def html(self, value):
        if value not in self.options:
            raise ValueError(
                f"{self.name} is {value!r}, expected one of: {', '.join(self.options)}"
            )
        options = "".join(
            f'<option value="{key}"{" selected" * (key == value)}>{words}</option>'
            for key, words in self.options.items()
        )
        return (
            f'<label class="control" data-control="{self.name}"><span>{self.label}</span>'
            f'<select name="{self.name}" autocomplete="off">{options}</select></label>'
        )


@dataclass(frozen=True)
class Marks:
    """Any of the positions 0 to ``count`` - 1; a value is the tuple of those that are marked."""

    name: str
    label: str
    count: int
    start: tuple

    def html(self, value):
        if not set(value) <= set(range(self.count)):
            raise ValueError(
                f"{self.name} is {value}, expected positions from 0 to {self.count - 1}"
            )
        boxes = "".join(
            f'<label><input type="checkbox" name="{self.name}" value="{k}" '
            f'autocomplete="off"{" checked" * (k in value)}>{k}</label>'
            for k in range(self.count)
        )
        return (
            f'<fieldset class="control" data-control="{self.name}"><legend>{self.label}</legend>'
            f'<div class="chips">{boxes}</div></fieldset>'
        )


@dataclass(frozen=True)
class Entry:
    """A figure: ``arithmetic`` names its files, ``data()`` gives what the page cannot compute.

    ``presets`` maps what to try to the controls that it sets; all others return to their start.
    """

    title: str
    description: str
    controls: tuple
    presets: dict
    arithmetic: tuple
    data: Callable = dict
    charts: bool = True


def int16(values, unit):
    """Samples as whole multiples of a unit, two bytes each, for ``samples`` in page.js."""
    whole = np.round(np.asarray(values) / unit).astype("<i2")
    return {"base64": base64.b64encode(whole.tobytes()).decode(), "unit": unit}


def _rnn_data():
    rng = np.random.default_rng(2)
    N, L = 16, 100
    numbers = {
        "random": rnn.with_spectral_radius(rng.standard_normal((N, N)), 1.0),
        "orthogonal": rnn.orthogonal(N, rng),
        "U": rng.standard_normal(N),
        "noise": rng.standard_normal(L),
    }
    return {name: np.round(value, 5).tolist() for name, value in numbers.items()}


def _hippo_data():
    return {"signal": int16(data.smooth_signal(10_000, seed=1), 1e-4)}


def _memory_data():
    dates, prices = data.oil_prices()
    year = 1970 + dates.astype("datetime64[D]").astype(float) / 365.2425
    last = np.searchsorted(year, 2010)
    first = last - 2500
    return {
        "prices": int16(prices[first:last], 0.01),
        "shown": int(np.searchsorted(year[first:last], 2007)),
        "begin": round(float(year[first]), 4),
        "end": round(float(year[last - 1]), 4),
        "low": float(prices.min()),
        "high": float(prices.max()),
    }


def _s4_data():
    from ssm_core.s4 import s4d_modes  # needs torch

    return {"legs": {str(N): np.round(s4d_modes("legs", N).imag, 6).tolist() for N in _STATE_SIZES}}


def _mamba_data():
    u = np.random.default_rng(5).uniform(-1, 1, 16)
    u[[2, 6]] = 1.0, 0.8  # those that are wanted at the beginning
    return {"u": np.round(u, 2).tolist()}


_STATE_SIZES = (8, 16, 32, 64)
_MAMBA_SIZES = {
    "130": ("130 million", 768, 24),
    "370": ("370 million", 1024, 48),
    "790": ("790 million", 1536, 48),
    "1400": ("1.4 billion", 2048, 48),
    "2800": ("2.8 billion", 2560, 64),
}


def _training_data():
    return {
        "sizes": {key: {"d": d, "layers": layers} for key, (_, d, layers) in _MAMBA_SIZES.items()},
        "vocabulary": 50_280,
        "bandwidth": 4.8e12,  # bytes per second, the data sheet of the H200
    }


CATALOGUE = {
    "rnn": Entry(
        "Gradients through a recurrent network",
        "sliders for the spectral radius of the recurrent weights and the strength of the input; how "
        "much of a gradient is left k steps back, and how long the state shows which bit came first.",
        (
            Slider("gain", "Spectral radius", 0.5, 3, 1.0, step=0.05),
            Choice("matrix", "W is", {"random": "random", "orthogonal": "orthogonal"}, "random"),
            Choice(
                "activation",
                "Nonlinearity",
                {"tanh": "tanh", "relu": "ReLU", "identity": "none"},
                "tanh",
            ),
            Slider("noise", "Later input", 0, 2, 0.5, step=0.1),
        ),
        {
            "The gradient grows": {"gain": 1.5, "noise": 0},
            "Same weights: it is lost": {"gain": 1.5, "noise": 2},
            "Orthogonal, no tanh": {"matrix": "orthogonal", "activation": "identity"},
        },
        ("linalg", "rnn"),
        _rnn_data,
    ),
    "continuous": Entry(
        "A mass on a spring",
        "sliders for stiffness, friction, mass and time; the spring itself, the two eigenvalues in the "
        "complex plane, and the position under a constant force.",
        (
            Slider("k", "Stiffness <i>κ</i>", 20, 80, 40, step=1, unit="N/m"),
            Slider("b", "Friction <i>γ</i>", -1, 20, 5, step=0.1, unit="Ns/m"),
            Slider("m", "Mass <i>m</i>", 0.5, 2, 1, step=0.05, unit="kg"),
            Slider("t", "Time <i>t</i>", 0, 4, 0.5, step=0.02, unit="s", play=20),
        ),
        {
            "No friction": {"b": 0},
            "The eigenvalues meet": {"k": 36, "b": 12},
            "Beyond: it creeps": {"b": 20},
            "Negative friction": {"b": -0.5},
        },
        ("linalg", "continuous"),
    ),
    "discretization": Entry(
        "One mode under four rules",
        "sliders for the step Δ and the eigenvalue λ, and a choice of rules; where z = Δλ lies in the "
        "region of stability, and the response to a constant input against the truth.",
        (
            Slider("dt", "Step Δ", 0.01, 1, 0.1, step="log", unit="s"),
            Choice(
                "rule",
                "Rule",
                {
                    "euler": "Euler",
                    "backward_euler": "backward Euler",
                    "bilinear": "bilinear",
                    "zoh": "zero-order hold",
                },
                "euler",
            ),
            Slider("re", "Re λ", -8, 0.5, -2.5, step=0.1, unit="1/s"),
            Slider("im", "Im λ", 0, 10, 5.8, step=0.1, unit="1/s"),
        ),
        {
            "Euler explodes": {"dt": 0.16},
            "Δ = 1, backward Euler": {"dt": 1, "rule": "backward_euler"},
            "Δ = 1, bilinear": {"dt": 1, "rule": "bilinear"},
            "Δ = 1, the hold": {"dt": 1, "rule": "zoh"},
            "Growth decays": {"dt": 1, "rule": "backward_euler", "re": 0.5, "im": 1},
        },
        ("complex", "discretization"),
    ),
    "duality": Entry(
        "One output, computed twice",
        "a choice of systems, sliders for the step Δ and for the sample k; the kernel laid over the "
        "input, and the output by convolution and by recurrence.",
        (
            Choice(
                "system",
                "System",
                {
                    "average": "average, 1 number",
                    "spring": "spring, 2 numbers",
                    "resonance": "resonance, 2 numbers",
                    "delay": "delay (LegT), 12 numbers",
                },
                "spring",
            ),
            Slider("dt", "Step Δ", 0.25, 4, 1, step="log"),
            Slider("k", "Output <i>k</i>", 0, 79, 40, step=1, play=100),
        ),
        {
            "A delay": {"system": "delay", "k": 60},
            "Half the step": {"dt": 0.5},
            "A resonance": {"system": "resonance", "k": 60},
        },
        ("linalg", "hippo", "duality"),
    ),
    "hippo": Entry(
        "Ten thousand samples in N numbers",
        "a choice of measures, sliders for N, for the time scale and for how many samples have come "
        "in; the signal with what the numbers recall of it, and the numbers.",
        (
            Choice(
                "measure",
                "Measure",
                {
                    "legs": "LegS: all of the past",
                    "legt": "LegT: a window θ",
                    "fading": "LegS without 1/t: fades",
                    "lagt": "LagT: fades",
                },
                "legs",
            ),
            Slider("N", "Numbers <i>N</i>", 1, 64, 16, step=1),
            Slider("theta", "Scale θ", 20, 4000, 1000, step="log"),
            Slider("now", "Samples so far", 100, 10_000, 10_000, step=100, play=60),
        ),
        {
            "24 numbers": {"N": 24},
            "A shorter past": {"now": 4000},
            "A window: LegT": {"measure": "legt"},
            "Without 1/t: it blurs": {"measure": "fading"},
        },
        ("linalg", "hippo"),
        _hippo_data,
    ),
    "memory": Entry(
        "An average and a window",
        "sliders for the time constant and for the window; the weights of both by age, and both on "
        "the price of oil.",
        (
            Slider("tau", "Time constant τ", 2, 500, 50, step="log", unit="days"),
            Slider("W", "Window <i>W</i>", 1, 1000, 50, step="log", unit="days", whole=True),
        ),
        {"W = 3τ": {"W": 160}, "W = 9τ": {"W": 450}, "A slower average": {"tau": 200}},
        ("memory",),
        _memory_data,
    ),
    "s4": Entry(
        "The modes that S4D begins with",
        "a choice of initializations and sizes, sliders for the mode n and the step Δ; the eigenvalues, "
        "and what mode n multiplies the past with.",
        (
            Choice(
                "init",
                "Frequencies",
                {
                    "lin": "equal spacing (lin)",
                    "inv": "crowded at the bottom (inv)",
                    "legs": "those of LegS (legs)",
                    "real": "none (real)",
                },
                "lin",
            ),
            Choice("N", "State <i>N</i>", {str(N): str(N) for N in _STATE_SIZES}, "32"),
            Slider("n", "Mode <i>n</i>", 0, 63, 3, step=1),
            Slider("dt", "Step Δ", 0.001, 0.3, 0.05, step="log"),
        ),
        {
            "LegS, Δ too large": {"init": "legs", "dt": 0.3},
            "A mode that aliases": {"init": "legs", "n": 15, "dt": 0.1},
            "No turning": {"init": "real"},
        },
        ("complex", "s4"),
        _s4_data,
    ),
    "mamba": Entry(
        "A step for every sample",
        "sixteen samples to mark as wanted, sliders for the step at those and at all others; the "
        "weight of each sample in the last state, and the state as it goes.",
        (
            Marks("wanted", "Wanted", 16, (2, 6)),
            Slider("open", "Δ at wanted", 0.01, 3, 1.0, step="log"),
            Slider("closed", "Δ elsewhere", 0.001, 1, 0.01, step="log"),
            Choice(
                "rule",
                "Input enters with",
                {"mamba": "Δ, as in Mamba", "zoh": "1 − exp(−Δ), the hold"},
                "mamba",
            ),
        ),
        {
            "All samples alike": {"closed": 1},
            "Each wanted one erases": {"open": 3},
            "Want three others": {"wanted": (1, 9, 13)},
        },
        ("mamba",),
        _mamba_data,
    ),
    "selective_scan": Entry(
        "A scan in two sweeps",
        "a slider through the rounds of Blelloch's scan over eight steps; which pairs are joined in "
        "each round, up the tree and down again.",
        (
            Choice(
                "steps",
                "Eight steps",
                {
                    "chapter": "those of the figure",
                    "sum": "a running sum",
                    "fade": "three spikes, fading",
                },
                "chapter",
            ),
            Slider("fourth", "<i>a</i> of the fourth", 0, 1, 0, step=0.05),
            Slider("round", "Round", 0, 6, 3, step=1, play=900),
        ),
        {
            "The fourth step lets the past through": {"fourth": 0.5, "round": 3},
            "A running sum": {"steps": "sum", "fourth": 1, "round": 6},
        },
        ("selective_scan",),
        charts=False,
    ),
    "training": Entry(
        "What a generated token costs",
        "a choice of sizes, sliders for the texts at once and for the tokens that came before; what a "
        "Transformer and a Mamba keep, and how long a token takes an H200 at the least.",
        (
            Choice(
                "size",
                "Model size",
                {key: words for key, (words, _, _) in _MAMBA_SIZES.items()},
                "130",
            ),
            Slider("texts", "Texts at once", 1, 256, 1, step="double"),
            Slider("tokens", "Tokens before", 16, 1_000_000, 2000, step="log", whole=True),
        ),
        {
            "128 texts": {"texts": 128},
            "One text, a million tokens": {"tokens": 1_000_000},
            "The largest model": {"size": "2800"},
        },
        ("training",),
        _training_data,
    ),
    "ssd": Entry(
        "One matrix in four colours",
        "sliders for the chunk size and for the states; the matrix of a head cut into chunks, with the "
        "four parts that compute it, and what these multiply for each step.",
        (
            Slider("Q", "Chunk <i>Q</i>", 1, 64, 16, step="double"),
            Slider("n", "States <i>n</i>", 4, 256, 64, step="double"),
        ),
        {
            "Chunks of 1: the recurrence": {"Q": 1},
            "Fewest multiplications": {"Q": 8},
            "One chunk: attention": {"Q": 64},
            "16 states": {"n": 16},
        },
        ("ssd",),
        lambda: {"L": 64, "p": 64},
    ),
}
