"""Run the chapters: from the text in book/source to notebooks with outputs in book/.

    python tools/notebooks.py              every chapter
    python tools/notebooks.py hippo rnn    some of them; a recipe is called recipes/NAME
    python tools/notebooks.py --check      are the stored notebooks those of the sources, and run?
    python tools/notebooks.py --times      every chapter, and store how long each of them took

An unchanged source gives the same bytes: cell ids follow from the position, no time is recorded,
and the metadata says what is true everywhere. Pictures may differ from system to system.

Before the first code cell of the source stands another, which the book does not show: it installs
the library where a chapter has been opened alone.
"""

import argparse
import csv
import os
import pathlib
import sys
import time

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = pathlib.Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
INSTALL = f"""\
# Opened alone, as in Colab: install the library; PyTorch and Triton stay.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("ssm_book") is None:
    library = "ssm-core[chapters] @ git+{REPOSITORY}"
    subprocess.check_call([sys.executable, "-m", "pip", "install", "-q", library])"""


def sources():
    """The names of all texts in book/source, such as memory and recipes/classify."""
    folder = BOOK / "source"
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.md")
    )


def read_source(name):
    """The chapter's text as a notebook without outputs."""
    notebook = jupytext.read(BOOK / "source" / f"{name}.md")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    prefix = name.replace("/", "-")
    for i, cell in enumerate(notebook.cells):
        cell.id = f"{prefix}-{i:03d}"
        if "check" in cell.metadata.get("tags", ()):
            fold_check(cell)
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    install = nbformat.v4.new_code_cell(INSTALL, metadata={"tags": ["remove-cell"]})
    install.id = f"{prefix}-install"
    notebook.cells.insert(first, install)
    return notebook


def fold_check(cell):
    """Fold a cell of assertions in the book, in JupyterLab and in Colab; its first line is the title."""
    title = cell.source.partition("\n")[0]
    if not title.startswith("# Check: "):
        raise ValueError(f"{cell.id} is a check and begins with {title!r}, expected '# Check: …'")
    prompt = title.removeprefix("# ")
    cell.metadata.tags = [*cell.metadata.tags, "hide-cell"]
    cell.metadata.mystnb = {"code_prompt_show": prompt, "code_prompt_hide": prompt}
    cell.metadata.jupyter = {"source_hidden": True}
    cell.metadata.cellView = "form"


def execute(name):
    """Run a chapter from top to bottom and store it with its outputs."""
    notebook = read_source(name)
    NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(BOOK)}},
        # What compiled code writes past Python, such as a profiler's messages, is no output.
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
    ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)  # the kernel adds its own versions
    nbformat.write(notebook, BOOK / f"{name}.ipynb")


def problems(name):
    """What is wrong with a stored notebook: other cells than its source, or cells that never ran."""
    path = BOOK / f"{name}.ipynb"
    if not path.exists():
        return [f"{name}: there is no notebook yet"]
    source, stored = read_source(name), nbformat.read(path, as_version=4)

    def parts(notebook):
        return [(c.id, c.cell_type, c.source, c.metadata) for c in notebook.cells]

    found = []
    if parts(source) != parts(stored):
        found.append(f"{name}: the notebook is not the one of its source")
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append(f"{name}: some cells have not run, or not in order")
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        found.append(f"{name}: a cell ended in an error")
    return found


def store_times(seconds):
    """Put how long chapters took, and on what machine, into the table of the book."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.record import machine

    here = f"{machine()['processor']}, {machine()['cores']} cores"
    path = BOOK / "times.csv"
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    rows = {row[0]: row for row in rows}
    for name, taken in seconds.items():
        rows[f"{{doc}}`{name}`"] = [f"{{doc}}`{name}`", f"{taken:.0f}", here]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows.values()])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chapters = sources()
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help=", ".join(chapters))
    parser.add_argument("--check", action="store_true", help="compare, run nothing")
    parser.add_argument("--times", action="store_true", help="store how long each chapter took")
    arguments = parser.parse_args()
    if unknown := set(arguments.chapters) - set(chapters):
        parser.error(f"no chapter {', '.join(sorted(unknown))}; there are {', '.join(chapters)}")
    chosen = arguments.chapters or chapters

    if arguments.check:
        found = [problem for name in chosen for problem in problems(name)]
        sys.exit("\n".join(found) + "\nRun: make notebooks" if found else None)

    os.environ["PYTHONHASHSEED"] = "0"  # the kernels inherit it
    seconds = {}
    for name in chosen:
        print(f"{name:24}", end="", flush=True)
        start = time.perf_counter()
        try:
            execute(name)
        except CellExecutionError as error:
            sys.exit(f"failed\n{error}")
        seconds[name] = time.perf_counter() - start
        print(f"{seconds[name]:5.1f} s")
    if arguments.times:
        store_times(seconds)


if __name__ == "__main__":
    main()
