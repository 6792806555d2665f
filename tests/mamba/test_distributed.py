"""Data parallel and sharded training and generation, in two processes on CPUs."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("PyTorch without gloo", allow_module_level=True)

from tests.mamba import distributed


@pytest.fixture(scope="module")
def outcomes():
    """The output of one pair of processes that makes all checks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.run(
        [sys.executable, "-m", "tests.mamba.distributed", str(port)],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.parametrize("name", [check.__name__ for check in distributed.CHECKS])
def test_two_processes(name, outcomes):
    assert f"passed {name}\n" in outcomes.stdout, outcomes.stdout + outcomes.stderr
