"""The threads that are kept: forks, the end of the interpreter, errors, and a system without threads."""

import os
import subprocess
import sys
import threading
import time

import pytest

from ssm_core import _threads
from ssm_core._threads import run_in_threads


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ssm_core")]


def in_a_new_process(code):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


def test_every_task_runs_once():
    for threads in (1, 2, 5):
        done = []
        run_in_threads([(done.append, (i,)) for i in range(100)], threads)
        assert sorted(done) == list(range(100))
    run_in_threads([], 4)


def test_threads_stay_and_share():
    """Three tasks that wait for each other need three threads, and the next call finds them."""
    for _ in range(2):
        together = threading.Barrier(3, timeout=30)
        run_in_threads([(together.wait, ())] * 3, 3)
        assert len(ours()) >= 2
    before = set(ours())
    run_in_threads([(time.sleep, (0.01,))] * 3, 3)
    assert set(ours()) == before


def test_no_more_threads_than_asked_for():
    running, most = [], []

    def task():
        running.append(1)
        most.append(len(running))
        time.sleep(0.002)
        running.pop()

    run_in_threads([(task, ())] * 20, 2)
    assert max(most) <= 2


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_task_comes_out_when_all_have_ended(threads):
    ended = []

    def task(i):
        if i == 1:
            raise OverflowError("of task 1")
        time.sleep(0.01)
        ended.append(i)

    with pytest.raises(OverflowError, match="of task 1"):
        run_in_threads([(task, (i,)) for i in range(4)], threads)
    count = len(ended)
    time.sleep(0.05)
    assert len(ended) == count
    run_in_threads([(ended.append, (9,))] * 3, threads)
    assert ended[-3:] == [9, 9, 9]


def test_without_threads_the_caller_does_everything(monkeypatch):
    def none_left(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    monkeypatch.setattr(_threads, "_pool", None)
    done = []
    run_in_threads([(done.append, (i,)) for i in range(9)], 4)
    assert done == list(range(9))
    monkeypatch.setattr(_threads, "_pool", None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_leaves_no_thread_and_both_sides_work_on():
    out = in_a_new_process("""
import os, threading
from ssm_core._threads import run_in_threads
together = threading.Barrier(3, timeout=30)
run_in_threads([(together.wait, ())] * 3, 3)
assert threading.active_count() == 3
child = os.fork()
assert threading.active_count() == 1  # no thread that could hold a lock of the child
run_in_threads([(together.wait, ())] * 3, 3)
assert threading.active_count() == 3
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both")""")
    assert out == "both\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forks_while_other_threads_call():
    out = in_a_new_process("""
import os, threading
from ssm_core._threads import run_in_threads
stop = threading.Event()

def keep_calling():
    while not stop.is_set():
        done = []
        run_in_threads([(done.append, (i,)) for i in range(5)], 3)
        assert len(done) == 5

callers = [threading.Thread(target=keep_calling) for _ in range(2)]
[c.start() for c in callers]
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # these threads are ours, and a fork leaves them
for _ in range(20):
    child = os.fork()
    if not child:
        done = []
        run_in_threads([(done.append, (i,)) for i in range(5)], 3)
        os._exit(0 if len(done) == 5 else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
[c.join() for c in callers]
print("fine")""")
    assert out == "fine\n"


def test_the_interpreter_ends_and_calls_at_its_end_work():
    out = in_a_new_process("""
import atexit
from ssm_core._threads import run_in_threads
done = []
run_in_threads([(done.append, (i,)) for i in range(4)], 4)

def last():
    run_in_threads([(done.append, (i,)) for i in range(4)], 4)
    print(len(done))

atexit.register(last)""")
    assert out == "8\n"
