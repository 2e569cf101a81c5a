"""Progress: a bar with rate and ETA on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from codeshell.errors import hushed, say

Item = TypeVar("Item")

LOG_SECONDS = 15.0
"""Time between two lines where stderr is no terminal."""


class Progress:
    """Counts work done. `with Progress("collect", total=12) as p: p.advance(1, files=300)`."""

    def __init__(self, label: str, *, total: int, unit: str = "") -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.started = self.shown = time.monotonic()
        self.notes: dict[str, Any] = {}
        # tqdm's bar, on a terminal only: a log would get a line for each of its redraws.
        self.bar: Any = None
        if sys.stderr.isatty() and not hushed():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=label, unit=f" {unit}" if unit else "", leave=False, file=sys.stderr)

    def advance(self, count: int, **notes: Any) -> None:
        """Add `count` to the work done; `notes` are shown after it, for example `loss=2.31`."""
        self.done += count
        self.notes |= notes
        if self.bar is not None:
            self.bar.update(count)
            if notes:
                self.bar.set_postfix(self.notes, refresh=False)
        # A log gets a line now and then, not one for each shard.
        elif time.monotonic() - self.shown >= LOG_SECONDS:
            self.shown = time.monotonic()
            say(self.line())

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; each counts as done when the next one is asked for."""
        for item in items:
            yield item
            self.advance(1)

    def line(self) -> str:
        """The state as one line of a log, with the rate since the start and the seconds left at that rate."""
        # Work done before this process began (`advance` at the start of a resume) makes the first rates too high.
        seconds = time.monotonic() - self.started
        rate = self.done / seconds if seconds > 0 else 0.0
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate > 0 else ""
        notes = "".join(f" {name}={value}" for name, value in self.notes.items())
        return f"{self.label}: {self.done}/{self.total} {self.unit} ({rate:.3g}/s{left}){notes}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
