"""Compilation by Numba, which is optional: importing this module without it is an ImportError."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

try:
    from numba import njit
    from numba.core.caching import FunctionCache
except ImportError:
    raise
except Exception as error:  # a Numba that does not fit its NumPy or LLVM raises many kinds
    warnings.warn(
        f"Numba is installed but cannot be imported ({error}); the same functions run in "
        "NumPy and PyTorch, more slowly",
        RuntimeWarning,
        stacklevel=2,
    )
    raise ImportError("Numba cannot be imported") from error


class _OptionalCache(FunctionCache):
    """Compiled code on disk. Where it cannot be read or written, the next process compiles again."""

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return super().load_overload(*arguments)
        except Exception:  # noqa: BLE001 a damaged file fails in many ways
            with contextlib.suppress(OSError):
                self.flush()  # begin a new index
            return None

    def save_overload(self, *arguments: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk, a folder that has vanished
            super().save_overload(*arguments)


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function, and keep the code for the next process where a folder can be written."""

    def decorate(function: Callable) -> Callable:
        dispatcher: Any = njit(function, **options)
        with contextlib.suppress(
            RuntimeError
        ):  # neither the package nor the user has such a folder
            dispatcher._cache = _OptionalCache(function)  # as enable_caching() does
        return dispatcher

    return decorate
