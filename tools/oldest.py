"""Print the lower bounds of pyproject.toml as pins: the oldest versions that are supported.

pip install $(python tools/oldest.py)                    # NumPy and SciPy
pip install $(python tools/oldest.py fast torch mamba)   # and these extras
"""

import pathlib
import sys

from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = pathlib.Path(__file__).parents[1]


def pins(extras: list[str], root: pathlib.Path = ROOT) -> list[str]:
    """Pins such as ``numpy==1.24.*`` for the library and the extras that are named."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"]]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    oldest = {}
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate():
            (bound,) = [s.version for s in requirement.specifier if s.operator == ">="]
            oldest[requirement.name] = f"{requirement.name}=={bound}.*"
    return sorted(oldest.values())


if __name__ == "__main__":
    print(" ".join(pins(sys.argv[1:])))
