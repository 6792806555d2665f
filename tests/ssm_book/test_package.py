"""The package as a whole."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest


def test_examples_in_the_docstrings_run():
    pytest.importorskip("matplotlib")
    from ssm_book import figures, widgets
    from ssm_book.data import files, measured, signals, tasks
    from ssm_book.widgets import film

    modules = files, measured, signals, tasks, figures, widgets, film
    results = [doctest.testmod(module, globs={}) for module in modules]
    assert sum(r.attempted for r in results) >= 30 and not any(r.failed for r in results)


def test_importing_data_loads_neither_torch_nor_pandas_nor_matplotlib():
    code = (
        "import sys, ssm_book.data; "
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8",
                          check=True)
    assert done.stdout.strip() == "[]"
