"""The package as a whole."""

from __future__ import annotations

import subprocess
import sys


def test_importing_data_loads_neither_torch_nor_pandas_nor_matplotlib():
    code = (
        "import sys, ssm_book.data; "
        "print([m for m in ('torch', 'pandas', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == "[]"
