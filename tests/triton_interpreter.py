"""Triton's interpreter has to be chosen before Triton is first imported: a process of its own."""

import os
import pathlib
import subprocess
import sys


def run_interpreted(cases):
    """Run a file of tests with kernels in Triton's interpreter; its report is the failure."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=pathlib.Path(__file__).parents[1],
        encoding="utf-8",
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert run.returncode == 0, run.stdout
