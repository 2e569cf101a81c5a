"""The command as a process: its three standard streams, and the signals that end it.

SIGTERM and SIGHUP end a command as Ctrl-C does: workers end, temporary files go, one line says it. A signal that the
caller has set to be ignored (`nohup`, a job in the background) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TextIO


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP. It is a `KeyboardInterrupt`, so whatever cleans up after Ctrl-C cleans up after these."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise `Stopped` in the main thread, unless they have another meaning."""
    ours = []
    # Python lets only the main thread set handlers: elsewhere the signals keep their meaning.
    if threading.current_thread() is threading.main_thread():
        ours = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def let_signals_kill() -> None:
    """From here on another Ctrl-C ends the process at once, with nothing that Python would print."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


HELPER_SECONDS = 2.0
"""Time for the helper processes of multiprocessing to end; they need a tenth of it."""


def wait_for_helpers() -> None:
    """Wait until the two helper processes of multiprocessing are gone, which would end a moment after this one.

    multiprocessing does the same for its own tests; it has no public name for it.
    """

    def stop() -> None:
        # First what multiprocessing does at the exit: the tracker must know of each semaphore that is given back.
        with contextlib.suppress(KeyError, AttributeError):
            sys.modules["multiprocessing.util"]._run_finalizers()
        for module, name in (("forkserver", "_forkserver"), ("resource_tracker", "_resource_tracker")):
            # Not there: this command has had no workers.
            helper = getattr(sys.modules.get(f"multiprocessing.{module}"), name, None)
            with contextlib.suppress(AttributeError, OSError):
                helper._stop()  # type: ignore[union-attr]

    # A worker that is still there keeps them alive, and ends only after this process: hence not for ever.
    waiting = threading.Thread(target=stop, daemon=True)
    waiting.start()
    waiting.join(HELPER_SECONDS)


PR_SET_PDEATHSIG = 1
"""An option of `prctl(2)`."""


def end_with_parent() -> None:
    """Have the system end this process, a child of a command, when the command is gone (Linux)."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def open_streams() -> None:
    """Give the process all three standard streams, and let stdout print any path.

    Where the caller closed one (`2>&-`), the next file that is opened would get its number, and what a library prints
    would go into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The system gives the lowest number that is free: this one.
            os.open(os.devnull, os.O_RDWR)
    # Python has None for a stream that was closed when it started. These stay open as long as the process.
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    # A path may hold what the encoding of stdout lacks; it is shown escaped, as on stderr.
    if getattr(sys.stdout, "errors", "") == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def is_full(stream: TextIO) -> bool:
    """Whether a stream does not take what was printed to it."""
    try:
        stream.flush()
    except (OSError, ValueError):  # a ValueError where it is closed
        return True
    return False


def drop_broken_streams() -> None:
    """Point stdout and stderr nowhere if they take no more: the interpreter would complain once more at its exit."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if is_full(stream):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
