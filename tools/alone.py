"""Run a notebook as a stranger has it: one file in an empty folder, in a fresh environment.

    python tools/alone.py discretization             the environment can run notebooks, no more
    python tools/alone.py mamba torch                it has PyTorch already, as Colab has

The notebook is the one that the launch buttons open, from _build/notebooks (make colab). It
installs the library itself; here from a git repository that holds the working tree, not GitHub's.
What was in the environment before must be there afterwards, in the same version.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import venv

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*command, **options):
    return subprocess.run([*map(str, command)], check=True, **options)


def commit_working_tree(folder):
    """A git repository with the files of this one as they are now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = run(*command, cwd=ROOT, capture_output=True, encoding="utf-8").stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git = ["git", "-C", folder, "-c", "user.name=alone", "-c", "user.email=alone@localhost"]
    run("git", "init", "--quiet", folder)
    run(*git, "add", "--all", "--force")
    run(*git, "commit", "--quiet", "--message", "The working tree")


def packages(python):
    """Name and version of everything installed."""
    command = (python, "-m", "pip", "list", "--format", "json")
    listed = json.loads(run(*command, capture_output=True, encoding="utf-8").stdout)
    return {package["name"]: package["version"] for package in listed}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chapter")
    parser.add_argument("present", nargs="*", metavar="PACKAGE", help="what is there before")
    arguments = parser.parse_args()
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    address = config["repository"]["url"]
    notebook = ROOT / "_build" / "notebooks" / "book" / f"{arguments.chapter}.ipynb"
    text = notebook.read_text(encoding="utf-8")

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        repository, environment, empty = (folder / n for n in ("repository", "python", "empty"))
        commit_working_tree(repository)

        start = time.perf_counter()
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        install = (python, "-m", "pip", "install", "--quiet")
        run(*install, "--upgrade", "pip")
        run(*install, "ipykernel", "nbclient", *arguments.present)
        before = packages(python)
        print(f"{time.perf_counter() - start:6.1f} s for the environment", flush=True)

        empty.mkdir()
        alone = empty / notebook.name
        alone.write_text(text.replace(f"git+{address}", f"git+{repository.as_uri()}"), "utf-8")
        start = time.perf_counter()
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        run(environment / "bin" / "jupyter-execute", alone.name, cwd=empty, env=clean)
        print(f"{time.perf_counter() - start:6.1f} s for {alone.name}, installation included")

        after = packages(python)
        changed = {name for name in before if before[name] != after.get(name)}
        assert not changed, f"changed: {changed}"
        print("It installed", ", ".join(f"{n} {v}" for n, v in after.items() if n not in before))


if __name__ == "__main__":
    main()
