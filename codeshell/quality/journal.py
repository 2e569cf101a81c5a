"""The journal of an annotation: every answer as one line of JSON, appended and flushed before the next is asked.

A killed run reads it when it starts again, and asks nothing twice. The first line says what was asked, and of whom:
answers of two models or of two prompts are never mixed. A line that a kill cut short is taken off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from codeshell.engine.files import disk_error
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
            self._file = open(path, "a+b")  # noqa: SIM115 (closed in __exit__)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            self._open({"journal": VERSION, **header})
        except BaseException:
            self._file.close()
            raise

    def _open(self, header: dict[str, Any]) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{self.path}: another process is writing it; wait for it, or choose another -o") from None
        self._file.seek(0)
        whole, newline, rest = self._file.read().rpartition(b"\n")
        if rest:
            # Only the last line can be incomplete: a kill met its write.
            say(f"{self.path}: the last line was cut short, and is taken off; its answer is asked for again")
            self._file.truncate(len(whole) + len(newline))
        lines = whole.split(b"\n") if whole else []
        if not lines:
            self._write(header)
            return
        for number, line in enumerate(lines, 1):
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
        # ASCII JSON: an answer may hold lone surrogates.
        try:
            self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_error(error, self.path) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
