"""The choices that the portable Triton kernels of the selective scan make, each changed alone, on a GPU.

Every variant is checked and timed as ``benchmarks.scan`` does it; only the ratios to the first row
of a shape, where nothing is changed, say something.
"""

from unittest import mock

import torch

from benchmarks import gpu
from benchmarks.scan import _ours, _row
from ssm_core.scan import gluon
from ssm_core.scan.triton import plan

SHAPES = [
    {"b": 8, "d": 2048, "L": 2048, "n": 16},
    {"b": 1, "d": 1536, "L": 2048, "n": 16},
    {"b": 1, "d": 1024, "L": 131072, "n": 16},
    {"b": 8, "d": 2048, "L": 2048, "n": 64},
]
CHANGES = [
    {},
    {"states_forward": 4},
    {"states_forward": 8},
    {"states_forward": 16},
    {"warps_backward": 2},
    {"warps_backward": 4},
    {"warps_backward": 16},
    {"slots": 0.5},
    {"slots": 2},
    {"slots": 4},
    {"chunk": 32},
    {"chunk": 128},
    {"resident": (8, 8)},
    {"resident": (16, 8)},
    {"resident": (24, 16)},
    {"resident": (48, 32)},
]


def run():
    """Times of every change at every shape, and how many times faster it is than without."""
    rows = []
    for shape in SHAPES:
        plain = None
        for changes in CHANGES:
            with (
                mock.patch.object(plan, "TUNING", plan.Tuning(**changes)),
                mock.patch.object(gluon, "covers", return_value=False),
            ):
                row = _row(shape, {"ours": _ours}, torch.bfloat16, repeats=15)["contenders"]["ours"]
            plain = plain or row
            faster = {
                kind: plain["seconds"][kind]["median"] / times["median"]
                for kind, times in row.get("seconds", {}).items()
            }
            rows.append({**shape, "changes": changes, **row, "times_faster": faster})
            short = {kind: round(x, 3) for kind, x in faster.items()}
            print("  ", shape, changes, short, flush=True)
    return {"device": gpu.model(), "setup": {"device": torch.cuda.get_device_name()}, "rows": rows}
