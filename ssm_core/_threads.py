"""Threads that are kept from call to call, for work that releases the interpreter's lock.

The pool can only help: each call does the work itself as well, so it ends even where no thread can
be started. No thread lives through a fork, because the pool closes before one and opens again with
the next call, in the parent as in the child.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

__all__ = ["run_in_threads"]

_lock = threading.Lock()  # held while work is handed out, and during a fork
_pool: ThreadPoolExecutor | None = None
_size = 0


def run_in_threads(tasks: Iterable[tuple[Callable, tuple]], threads: int) -> None:
    """Call each function with its arguments, on up to ``threads`` threads with the calling one.

    Raises:
        what a task raises, when the tasks that had begun have ended.
    """
    if threads < 2:
        for function, arguments in tasks:
            function(*arguments)
        return
    waiting = deque(tasks)
    helpers = _start(functools.partial(_work, waiting), min(threads, len(waiting)) - 1)
    try:
        _work(waiting)
    finally:
        waiting.clear()  # not empty after an error
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()


def _work(waiting: deque) -> None:
    while waiting:
        try:
            function, arguments = waiting.popleft()
        except IndexError:  # another thread took the last one
            return
        function(*arguments)


def _start(function: Callable, copies: int) -> list[Future]:
    """Run copies of a function in the pool, or fewer where threads cannot be had."""
    global _pool, _size
    futures: list[Future] = []
    if copies < 1:
        return futures
    with _lock:
        if _pool is None or _size < copies:
            _close()
            _pool, _size = ThreadPoolExecutor(copies, "ssm_core"), copies
        # An interpreter that shuts down, or a system without more threads, raises.
        with contextlib.suppress(RuntimeError):
            for _ in range(copies):
                futures.append(_pool.submit(function))
    return futures


def _close() -> None:
    """End all threads of the pool, after the work that they have."""
    global _pool
    if _pool is not None:
        _pool.shutdown()
        _pool = None


def _before_fork() -> None:
    _lock.acquire()
    _close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release
    )
