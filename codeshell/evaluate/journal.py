"""The journal of verdicts: a JSONL file that only grows, so that a killed evaluation loses nothing.

The first line says what the file is. Every other line is one verdict: `{"key": …}` (`Program.key`) with the fields of
`Judged`, written whole by one call of the system. With `"again": true` it hit the wall limit beside other programs and
has to run again alone. The last line of a key counts.

A line that was cut by a kill or a full disk is dropped when the file is opened, and what follows is written after the
last whole line. One process at a time writes to a journal; the system releases it however the process ends.

Importing this module imports neither torch nor the extension.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from codeshell.engine.files import disk_error
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
        self._lock = threading.Lock()
        # Place of the last line of each key: (first byte, bytes). The verdicts stay on the disk.
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._told(error) from error
        try:
            self._open()
        except BaseException:
            os.close(self._file)
            raise

    def _open(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise self._told(error) from error
            raise UserError(
                f"{self.path}: another process writes to this journal; wait for it, or name another"
            ) from None
        # Looked at before anything is written or read whole. A kill may have cut the first line, even to nothing.
        first = json.dumps(HEAD).encode() + b"\n"
        found = b""
        if stat.S_ISREG(os.fstat(self._file).st_mode):
            found = os.pread(self._file, len(first), 0)
            ours = first.startswith(found)
        else:
            ours = False
        if not ours:
            raise UserError(f"{self.path}: not a journal of verdicts; name a new file, or delete this one")
        broken = 0
        for start, line in self._lines() if found == first else ():
            if not line.endswith(b"\n"):
                break
            self._end = start + len(line)
            if not start:
                continue
            key = _key(line)
            if key is None:
                broken += 1
            else:
                self._places[key] = (start, len(line))
        if broken:
            say(f"{self.path}: {broken} damaged lines are passed over; their programs run again")
        try:
            # What stands after the last whole line was cut.
            os.ftruncate(self._file, self._end)
            if not self._end:
                self._append(first)
        except OSError as error:
            raise self._told(error) from error

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
            fields = json.loads(os.pread(self._file, place[1], place[0]))
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
        with self._lock:
            start = self._end
            try:
                self._append(line)
            except OSError as error:
                raise self._told(error) from error
            self._places[key] = (start, len(line))

    def _append(self, line: bytes) -> None:
        """Write a whole line at the end, or nothing."""
        written = 0
        try:
            # A file system that is nearly full takes a part of it.
            while written < len(line):
                count = os.pwrite(self._file, line[written:], self._end + written)
                if count == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written += count
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Place and bytes of each line; the last one may have no line feed."""
        with open(os.dup(self._file), "rb") as file:
            start = 0
            for line in file:
                yield start, line
                start += len(line)

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
        if self._file >= 0:
            with contextlib.suppress(OSError):
                # A power cut is rarer than a kill: once at the end is enough for it.
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1

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
