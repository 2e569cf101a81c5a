"""The inside of a worker process: how it begins, and how it ends when it is told to or when its parent is gone.

A worker never outlives the process that it works for, however that one ends: it holds the standard streams of the
command, and a program that reads them would wait for ever. (The server that workers are forked from and the tracker of
multiprocessing end with the last worker.)
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from codeshell.engine.arrow import leave_out_pandas

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 1.0
"""Seconds that a worker has to remove its temporary files before it is killed. Python code needs a millisecond; only a
long call of C++ does not notice the signal in this time."""


SENT_TO_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a terminal (Ctrl-C, or its end) and `timeout` send to all processes of a command at once."""


class _Ended(SystemExit):
    """A SIGTERM came. It is a `SystemExit`, so no `except Exception` of a task stops it, and an idle worker ends with
    it in silence."""


def begin(module: str | None) -> None:
    """Prepare a worker: its signals, its end, Arrow without pandas, and the module whose functions it will run."""
    signal.signal(signal.SIGINT, _pass)
    # Under `nohup` it is ignored, here and in the children of this process.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _pass)
    # They were blocked for the time before: see `LocalEngine._start`.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SENT_TO_ALL)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    leave_out_pandas()
    if module is not None:
        # If this fails, so does the first task that needs the module, and its error reaches the caller.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    # Not earlier: until here there is nothing to remove, and the pool prints whatever its initializer raises.
    signal.signal(signal.SIGTERM, _end)


def work(function: Callable[[Item], Result], item: Item) -> Result:
    """The task: `function(item)`. A SIGTERM unwinds it, so temporary files go, and then ends the process."""
    try:
        return function(item)
    except _Ended as ended:
        # Not by raising: the pool would send the exception to the parent and give this process the next task.
        os._exit(int(str(ended.code)))


def _pass(number: int, frame: object) -> None:
    """A terminal sends Ctrl-C to the workers too, where it would end only the present task, and the next one would
    begin; its end (SIGHUP) would leave temporary files. So they ignore it, and the main process ends them. (Not
    SIG_IGN: a worker's children would inherit that.)"""


def _end(number: int, frame: object) -> None:
    """Unwind what this process is doing, once."""
    # A second signal must not interrupt the removal of the files.
    signal.signal(number, _pass)
    raise _Ended(128 + number)


def _end_with_parent() -> None:
    """Wait until the parent process is gone, then end this one: gently first."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    # A pipe whose other end only the parent has: the system closes it, whatever ended the parent.
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)
