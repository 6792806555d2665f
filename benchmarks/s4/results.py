"""From states of training runs to what is committed: curves, and completed digits."""

import torch

from benchmarks import record, training
from benchmarks.s4.tasks import TASKS, Drawing, _grey
from benchmarks.s4.train import Settings

GIVEN = 14 * 28  # pixels: the upper half
COUNT = 40  # digits, the first of the test images


def collect(arguments):
    """Write all runs of a task, with their settings, curves and sizes, to one file a device."""
    training.collect("s4", arguments.task, TASKS[arguments.task].__doc__, arguments.folder)


@torch.no_grad()
def draw(arguments):
    """Complete digits: the half that is given as a convolution, the rest step by step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    state = torch.load(arguments.state, map_location="cpu", weights_only=True)
    task = Drawing(Settings(**state["settings"]), device, arguments.data)
    model = task.network().to(device).eval()
    model.load_state_dict(state["model"])
    originals = task.test[0][:COUNT]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.nn.functional.pad(originals[:, :GIVEN], (1, 0))  # a zero comes before the first
    logits, states = model(_grey(pixels), return_state=True)
    logits, stepper = logits[:, -1], model.stepper()
    for _ in range(originals.shape[1] - GIVEN):
        chances = torch.softmax(logits.double(), -1).cpu()
        new = torch.multinomial(chances, 1, generator=generator).to(device, torch.uint8)
        pixels = torch.cat([pixels, new], 1)
        logits, states = stepper.step(_grey(new)[:, 0], states)
    whole = model(_grey(pixels))[:, -1]  # the same weights as a convolution over all of it
    difference = ((whole - logits).abs().max() / whole.abs().max()).item()
    if not difference < 1e-3:
        raise AssertionError(f"the recurrence differs from the convolution by {difference:.3g}")
    place = training.place()
    results = {
        "machine": place["machine"], "software": place["software"],
        "setup": {"device": place["name"], "given": GIVEN,
                  "units": "pixels as two hexadecimal digits each, row by row"},
        "difference": difference,
        "originals": [bytes(x).hex() for x in originals.tolist()],
        "completed": [bytes(x).hex() for x in pixels[:, 1 + GIVEN :].tolist()],
    }
    print(record.write("s4-digits", results, place["device"]))
