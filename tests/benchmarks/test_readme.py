"""The ratios in the README are those of the stored measurement."""

import pathlib
import re

from ssm_book.data import measurements

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROW = re.compile(
    r"\| ([\d, ]+) \| ([\d.]+) × as fast \| ([\d.]+) × as fast \| ([\d.]+) × as much \|"
)


def test_ratios_to_the_cuda_kernel():
    stored = {
        tuple(row[axis] for axis in "bdLn"): row["contenders"]
        for row in measurements("scan-h200")["rows"]
    }
    rows = ROW.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(rows) == 4
    for shape, *said in rows:
        contenders = stored[tuple(map(int, shape.split(", ")))]
        ours, theirs = contenders["ours"], contenders["mamba_ssm"]
        ratios = [
            theirs["seconds"][kind]["median"] / ours["seconds"][kind]["median"]
            for kind in ("forward", "backward")
        ]
        ratios.append(ours["peak_bytes"] / theirs["peak_bytes"])
        assert said == [f"{ratio:.1f}" for ratio in ratios], shape
