"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 while training: each saves a checkpoint after the current step.

All but the last then end the run; a second Ctrl-C ends it at once. Several ranks agree on what has come between two
steps (`codeshell.train.loop`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
"""The signals that end a run, as a person knows them."""


ECHO = 2.0
"""Seconds in which a launcher passes on a Ctrl-C that the terminal has given its processes already."""


class Interrupted(SystemExit):
    """The run was told to end and has said what is saved. It is a `SystemExit`, so no `except Exception` stops it, and
    the process ends with what a shell reports for the signal: 143 for SIGTERM, 130 for Ctrl-C, 129 for SIGHUP.

    Attributes:
        agreed: all ranks end so; a second Ctrl-C ends one alone.
    """

    def __init__(self, number: int = signal.SIGTERM, *, agreed: bool = True) -> None:
        super().__init__(128 + number)
        self.agreed = agreed


@dataclass
class Noted:
    """What has come so far.

    Attributes:
        stop: the signal that asked for the end of the run; None as long as none did.
        checkpoint: a SIGUSR1 came; whoever reads it sets it back.
    """

    stop: int | None = None
    checkpoint: bool = False


class Signals(Noted):
    """Notes the signals that come inside its `with` block. A second Ctrl-C raises `KeyboardInterrupt`.

    Args:
        rank, world: which process this is, and of how many. Only the first speaks; and where there are several, a
            launcher gives them the terminal's Ctrl-C once more, which is no second one.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        super().__init__()
        self._leader, self._several, self._came = rank == 0, world > 1, 0.0
        self._before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Only a note: a handler may run between any two bytecodes, even inside the optimizer's step.
        if number == signal.SIGUSR1:
            self.checkpoint = True
            return
        if number == signal.SIGINT and self.stop == signal.SIGINT:
            if self._several and time.monotonic() - self._came < ECHO:
                return
            raise KeyboardInterrupt
        self.stop, self._came = number, time.monotonic()
        if number == signal.SIGINT and self._leader:
            # A step may take minutes. Past Python's buffers, because the handler may have interrupted their use.
            with contextlib.suppress(OSError):
                os.write(2, b"\ntrain: Ctrl-C; saving after this step, once more ends at once\n")

    def __enter__(self) -> Signals:
        # Python lets only the main thread set handlers; elsewhere (a notebook's worker) the signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for number in (*NAMES, signal.SIGUSR1):
                # A script starts a background job with Ctrl-C ignored, nohup a command with SIGHUP, and so they stay.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
