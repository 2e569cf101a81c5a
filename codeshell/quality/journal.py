"""The journal of an annotation: every answer as one line of JSON, appended and flushed before the next is asked.

A killed run reads it when it starts again, and asks nothing twice. The first line says what was asked, and of whom:
answers of two models or of two prompts are never mixed. A line that a kill cut short is taken off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from codeshell.engine.files import disk_error
from codeshell.engine.line_log import LineLog
from codeshell.errors import UserError, say

VERSION = 1


class Journal:
    """An open journal; a context manager. One process at a time holds it.

    Args:
        path: made if it is not there.
        header: what is asked and of whom. A journal with another header is refused.

    Attributes:
        entries: the lines after the header, in order.

    Raises:
        UserError: a damaged journal, one with another header, or one that another process is writing.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        try:
            self._log = LineLog(path)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            self._open({"journal": VERSION, **header})
        except BaseException:
            self._log.close()
            raise

    def _open(self, header: dict[str, Any]) -> None:
        if not self._log.end:
            # Not even the header is whole. It may have been cut; anything else is not ours to overwrite.
            if not _line(header).startswith(self._log.read(0, self._log.cut)):
                raise UserError(f"{self.path}: not a journal of answers; choose another -o, or remove it")
            self._write(header)
            return
        if self._log.cut:
            # Only the last line can be incomplete: a kill met its write.
            say(f"{self.path}: the last line was cut short, and is taken off; its answer is asked for again")
        for number, (_, line) in enumerate(self._log.lines(), 1):
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError
            except ValueError:
                raise UserError(
                    f"{self.path}: line {number} is damaged; take it out (its answer is asked for again) and repeat"
                ) from None
            self.entries.append(entry)
        found = self.entries.pop(0)
        for name, value in header.items():
            if found.get(name) != value:
                raise UserError(
                    f"{self.path}: has answers for {name} {found.get(name)!r}, and this run asks for {value!r}; "
                    "choose another -o, or remove the journal"
                )

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; it is on the disk when this returns."""
        self._write(entry)
        self.entries.append(dict(entry))

    def _write(self, entry: Mapping[str, Any]) -> None:
        try:
            self._log.append(_line(entry), flush=True)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()


def _line(entry: Mapping[str, Any]) -> bytes:
    # ASCII JSON: an answer may hold lone surrogates.
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
