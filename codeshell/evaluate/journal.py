"""The journal of verdicts: a JSONL file that only grows, so that a killed evaluation loses nothing.

The first line says what the file is. Every other line is one verdict: `{"key": …}` (`Program.key`) with the fields of
`Judged`, written whole by one call of the system. With `"again": true` it hit the wall limit beside other programs and
has to run again alone. The last line of a key counts.

A line that was cut by a kill or a full disk is dropped, and one process at a time writes to a journal
(`engine.line_log`).

Importing this module imports neither torch nor the extension.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import TracebackType
from typing import Any

from codeshell.engine.files import disk_error
from codeshell.engine.line_log import LineLog
from codeshell.errors import UserError, say
from codeshell.evaluate.verdicts import Judged

HEAD = {"journal": "codeshell verdicts", "version": 1}
"""The first line. A file with another first line is someone else's, and nothing is written to it."""


class Journal:
    """Verdicts by key, on the disk. `with Journal(path) as journal: journal.add(key, judged)`; safe for threads.

    Raises:
        UserError: the file is no journal, cannot be written, or another process writes to it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Place of the last line of each key: (first byte, bytes). The verdicts stay on the disk.
        self._places: dict[str, tuple[int, int]] = {}
        try:
            self._log = LineLog(self.path)
        except OSError as error:
            raise self._told(error) from error
        try:
            self._open()
        except BaseException:
            self._log.close()
            raise

    def _open(self) -> None:
        # Looked at before anything is written or read whole. A kill may have cut the first line, even to nothing.
        first = json.dumps(HEAD).encode() + b"\n"
        found = self._log.read(0, len(first))
        if not first.startswith(found) or (found != first and self._log.end):
            raise UserError(f"{self.path}: not a journal of verdicts; name a new file, or delete this one")
        broken = 0
        for start, line in self._log.lines():
            key = _key(line)
            if key is not None:
                self._places[key] = (start, len(line))
            elif start:
                broken += 1
        if broken:
            say(f"{self.path}: {broken} damaged lines are passed over; their programs run again")
        if not self._log.end:
            self._append(first)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> tuple[Judged, bool] | None:
        """The verdict of a key, and whether the program has to run again alone; None where there is none."""
        place = self._places.get(key)
        if place is None:
            return None
        try:
            fields = json.loads(self._log.read(*place))
            return Judged.from_json(fields), bool(fields.get("again", False))
        except (ValueError, AttributeError):
            # Damaged since, or of a version with other verdicts: it runs again.
            return None

    def add(self, key: str, judged: Judged, *, again: bool = False) -> None:
        """Write a verdict.

        Raises:
            UserError: the disk is full, or does not take it; what was written before stays, and so does the journal.
        """
        fields: dict[str, Any] = {"key": key} | judged.to_json() | ({"again": True} if again else {})
        line = json.dumps(fields).encode() + b"\n"
        self._places[key] = (self._append(line), len(line))

    def _append(self, line: bytes) -> int:
        try:
            return self._log.append(line)
        except OSError as error:
            raise self._told(error) from error

    def _told(self, error: OSError) -> Exception:
        """One line: the file, what is wrong, what is kept."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            kept = f"its {len(self):,} verdicts are kept"
            return UserError(f"{self.path}: the disk is full; free some space and run the same command again, {kept}")
        if error.errno == errno.ENOENT:
            return UserError(f"{self.path}: its folder is not there; make it, or name another file")
        return disk_error(error, self.path)

    def close(self) -> None:
        """Let the journal go; what was written stays."""
        self._log.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _key(line: bytes) -> str | None:
    """The key of a line, None for one that is no verdict."""
    try:
        fields = json.loads(line)
        key = fields["key"]
        Judged.from_json(fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return key if isinstance(key, str) else None
