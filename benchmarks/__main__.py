"""Command line: python -m benchmarks NAME [NAME …]"""

import argparse
import importlib
import pkgutil

import benchmarks
from benchmarks import record


def main():
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name not in ("__main__", "record")
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    for name in parser.parse_args().names:
        print(f"{name}: running", flush=True)
        path = record.write(name, importlib.import_module(f"benchmarks.{name}").run())
        print(f"{name}: wrote {path}")


if __name__ == "__main__":
    main()
