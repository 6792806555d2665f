"""Triton's interpreter has to be chosen before Triton is first imported: a process of its own."""

import os
import pathlib
import subprocess
import sys


def prepare_once():
    """Triton's interpreter prepares its language anew at each call of a helper, which takes most of
    the time: here once in a launch for each module."""
    from triton.runtime import interpreter

    prepare, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    prepared = set()

    def prepare_module(function):
        if function.__module__ in prepared:
            return None
        prepared.add(function.__module__)
        return prepare(function)

    def launch_anew(self, *arguments, **options):
        prepared.clear()
        return launch(self, *arguments, **options)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = prepare_module, launch_anew


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
