"""Compilation by Numba, which is optional: importing this module without it is an ImportError."""

from __future__ import annotations

import contextlib
import os
import types
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
    """Compiled code on disk. Where it cannot be read or written, the next process compiles again.

    Numba compiles anew where the file of a function has changed. What it calls from other files is
    part of the code too, so those count here as well.
    """

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        self._stamps = tuple(
            (status.st_mtime_ns, status.st_size)
            for status in map(os.stat, sorted(_files(function)))
        )

    def _index_key(self, *arguments: Any) -> Any:
        return (*super()._index_key(*arguments), self._stamps)

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


def _files(function: Callable, seen: set[Callable] | None = None) -> set[str]:
    """The files of a function and of all that it calls by name in files that use this module."""
    seen = set() if seen is None else seen
    seen.add(function)
    files = {function.__code__.co_filename}
    for name in function.__code__.co_names:
        called = function.__globals__.get(name)
        called = getattr(called, "py_func", called)
        if (
            isinstance(called, types.FunctionType)
            and called not in seen
            and called.__module__.startswith("ssm_core.")
        ):
            files |= _files(called, seen)
    return files


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Compile a function, and keep the code for the next process where a folder can be written."""

    def decorate(function: Callable) -> Callable:
        dispatcher: Any = njit(function, **options)
        # Neither the package nor the user has such a folder, or the source is not a file.
        with contextlib.suppress(RuntimeError, OSError):
            dispatcher._cache = _OptionalCache(function)  # as enable_caching() does
        return dispatcher

    return decorate
