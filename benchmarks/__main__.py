"""Command line: python -m benchmarks NAME [NAME …] [--plot FOLDER]"""

import argparse
import importlib
import json
import pathlib

import benchmarks
from benchmarks import record

BENCHMARKS = (
    "calls",
    "classification",
    "duality",
    "generation",
    "hippo",
    "s4",
    "scan",
    "scan_sweep",
    "ssd",
    "steps",
    "uneven",
)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument(
        "names", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument(
        "--plot",
        metavar="FOLDER",
        type=pathlib.Path,
        help="draw what is stored into a folder, instead of measuring",
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        module = importlib.import_module(f"benchmarks.{name}")
        if arguments.plot:
            _plot(name, module, arguments.plot)
            continue
        print(f"{name}: running", flush=True)
        results = module.run()
        path = record.write(name, results, results.pop("device", "cpu"))
        print(f"{name}: wrote {path}")


def _plot(name, module, folder):
    """Draw each stored result of a benchmark that has a ``figure``, as SVG."""
    for path in sorted(record.RESULTS.glob(f"{name}-*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        if "setup" in results and hasattr(module, "figure"):
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / path.with_suffix(".svg").name
            module.figure(results).savefig(target)
            print(f"{name}: drew {target}")


if __name__ == "__main__":
    main()
