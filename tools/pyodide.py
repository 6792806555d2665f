"""Put Pyodide beside the book, so that live code asks nobody else: ``make live``, then ``make book``.

    python tools/pyodide.py [--core] [FOLDER]

Pyodide itself comes from npm, the packages from where _config.yml says; all are checked against the
sums there and in Pyodide's lock file. FOLDER is book/_static/pyodide unless said otherwise, and is
there completely or not at all. ``--core`` leaves the packages out: enough for tests/browser.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]


def declared():
    """What _config.yml says under live_python."""
    return yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["sphinx"]["config"][
        "live_python"
    ]


def wheels(lock, packages):
    """File names and SHA-256 sums of packages and all that they depend on."""
    found, waiting = {}, list(packages)
    while waiting:
        package = lock["packages"][waiting.pop()]
        if package["file_name"] not in found:
            found[package["file_name"]] = package["sha256"]
            waiting += package["depends"]
    return found


def put(file, content, sha256):
    """Write a file if it is the one that was declared."""
    if hashlib.sha256(content).digest() != sha256:
        raise SystemExit(f"{file.name} is not the file that was declared")
    file.write_bytes(content)


def fetch(folder, live, with_packages):
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is needed to fetch Pyodide, and is not on the path")
    command = [npm, "pack", f"pyodide@{live['version']}"]
    packed = subprocess.run(command, cwd=folder, check=False, capture_output=True, encoding="utf-8")
    if packed.returncode:
        raise SystemExit(f"npm could not fetch Pyodide:\n{packed.stderr}")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as files:
        for name, expected in live["integrity"].items():
            content = files.extractfile(f"package/{name}").read()
            put(folder / name, content, base64.b64decode(expected.removeprefix("sha256-")))
    archive.unlink()
    if with_packages:
        lock = json.loads((folder / "pyodide-lock.json").read_text("utf-8"))
        source = live["packages_from"].format(version=live["version"])
        for name, expected in wheels(lock, live["packages"]).items():
            try:
                with urllib.request.urlopen(source + name) as answer:
                    content = answer.read()
            except OSError as error:
                raise SystemExit(f"{source}{name} cannot be had: {error}") from error
            put(folder / name, content, bytes.fromhex(expected))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", type=pathlib.Path, default=ROOT / "book/_static/pyodide"
    )
    parser.add_argument("--core", action="store_true", help="leave the packages out")
    arguments = parser.parse_args()
    folder = arguments.folder
    if folder.exists():
        raise SystemExit(f"{folder} is there already; remove it to fetch it again")
    with tempfile.TemporaryDirectory() as name:
        fetch(pathlib.Path(name), declared(), not arguments.core)
        folder.mkdir(parents=True)
        for path in pathlib.Path(name).iterdir():
            shutil.copy(path, folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
