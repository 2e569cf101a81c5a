"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 while training: each saves a checkpoint after the current step.

All but the last then end the run; a second Ctrl-C ends it at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
"""The signals that end a run, as a person knows them."""


class Interrupted(SystemExit):
    """The run was told to end and has said what is saved. It is a `SystemExit`, so no `except Exception` stops it, and
    the process ends with what a shell reports for the signal: 143 for SIGTERM, 130 for Ctrl-C, 129 for SIGHUP."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)


class Signals:
    """Notes the signals that come inside its `with` block. A second Ctrl-C raises `KeyboardInterrupt`.

    Attributes:
        stop: the signal that asked for the end of the run; None as long as none did.
        checkpoint: a SIGUSR1 came; whoever reads it sets it back.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.checkpoint = False
        self._before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Only a note: a handler may run between any two bytecodes, even inside the optimizer's step.
        if number == signal.SIGUSR1:
            self.checkpoint = True
            return
        if number == signal.SIGINT and self.stop == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop = number
        if number == signal.SIGINT:
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
