"""SIGTERM and SIGUSR1 while training: both save a checkpoint after the current step; SIGTERM then ends the run."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(SystemExit):
    """The run was told to end and has saved itself. It is a `SystemExit`, so no `except Exception` stops it, and the
    process ends with code 143, which is what a shell reports for SIGTERM."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Signals:
    """Notes the signals that come inside its `with` block.

    Attributes:
        stop: a SIGTERM came.
        checkpoint: a SIGUSR1 came; whoever reads it sets it back.
    """

    def __init__(self) -> None:
        self.stop = self.checkpoint = False
        self._before: dict[signal.Signals, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Only a note: a handler may run between any two bytecodes, even inside the optimizer's step.
        if number == signal.SIGTERM:
            self.stop = True
        else:
            self.checkpoint = True

    def __enter__(self) -> Signals:
        # Python lets only the main thread set handlers; elsewhere (a notebook's worker) the signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
