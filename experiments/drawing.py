"""Digits completed by a trained network, pixel by pixel."""

from __future__ import annotations

import pathlib

import torch

from benchmarks import record
from experiments import collect, harness
from experiments.settings import Settings
from experiments.tasks.digits import Drawing, grey

GIVEN = 14 * 28  # pixels: the upper half
COUNT = 40  # digits, the first of the test images


@torch.no_grad()
def draw(path: pathlib.Path, data: str | None = None) -> pathlib.Path:
    """Complete digits: the given half as a convolution, the rest step by step; return the file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    state = torch.load(path, map_location="cpu", weights_only=True)
    task = Drawing(Settings(**state["settings"]), device, data)
    model = task.network().to(device).eval()
    model.load_state_dict(state["model"])
    originals = task.test[0][:COUNT]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.nn.functional.pad(originals[:, :GIVEN], (1, 0))  # a zero comes before the first
    logits, states = model(grey(pixels), return_state=True)
    logits, stepper = logits[:, -1], model.stepper()
    for _ in range(originals.shape[1] - GIVEN):
        chances = torch.softmax(logits.double(), -1).cpu()
        new = torch.multinomial(chances, 1, generator=generator).to(device, torch.uint8)
        pixels = torch.cat([pixels, new], 1)
        logits, states = stepper.step(grey(new)[:, 0], states)
    whole = model(grey(pixels))[:, -1]  # the same weights as a convolution over all of it
    difference = ((whole - logits).abs().max() / whole.abs().max()).item()
    if not difference < 1e-3:
        raise AssertionError(f"the recurrence differs from the convolution by {difference:.3g}")
    place = harness.place()
    results = {
        "machine": place["machine"],
        "software": place["software"],
        "setup": {
            "device": place["name"],
            "given": GIVEN,
            "units": "pixels as two hexadecimal digits each, row by row",
        },
        "difference": difference,
        "originals": [bytes(x).hex() for x in originals.tolist()],
        "completed": [bytes(x).hex() for x in pixels[:, 1 + GIVEN :].tolist()],
    }
    return record.write("digits", results, place["device"], collect.RESULTS)
