"""A file of lines that only grows: journals and other results that a kill must not cost.

A line is written whole by one process, which holds the file; a kill or a full disk leaves at most a cut line at the
end. Opening a log changes nothing: what stands after the last whole line goes when the next line is written. So a
foreign file that somebody named by mistake stays as it is, if the reader of the log refuses its first line.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from codeshell.errors import UserError

_BLOCK = 1 << 16


class LineLog:
    """An open log; a context manager, safe for threads. The system releases it however the process ends.

    Args:
        path: made if it is not there.

    Attributes:
        end: bytes of the whole lines.
        cut: bytes after the last whole line, which nothing reads.

    Raises:
        UserError: it is no file that can be read again, or another process writes to it.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # A device may have no end to read to.
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise UserError(f"{path}: a device or a pipe; name a file that can be read again")
            self._hold()
            size = os.fstat(self._file).st_size
            self.end = self._last_line_end(size)
            self.cut = size - self.end
        except BaseException:
            os.close(self._file)
            raise

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise UserError(f"{self.path}: another process writes to it; wait for it, or name another file") from None

    def _last_line_end(self, size: int) -> int:
        """The first byte after the last line feed."""
        while size:
            start = max(0, size - _BLOCK)
            found = os.pread(self._file, size - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            size = start
        return 0

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Place and bytes of each whole line, with its line feed."""
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            start = 0
            while start < self.end:
                line = file.readline()
                yield start, line
                start += len(line)

    def read(self, start: int, size: int) -> bytes:
        """Bytes of the file."""
        return os.pread(self._file, size, start)

    def append(self, lines: bytes, *, flush: bool = False) -> int:
        """Write whole lines at the end, or nothing; the place where they begin.

        Args:
            lines: one or more, each with its line feed.
            flush: they are on the disk when this returns, so that a power cut does not cost them either.

        Raises:
            OSError: the disk is full or does not take it; what was written before stays, and so does the log.
        """
        with self._lock:
            start = self.end
            try:
                if self.cut:
                    os.ftruncate(self._file, start)
                    self.cut = 0
                written = 0
                # A file system that is nearly full takes a part of it.
                while written < len(lines):
                    count = os.pwrite(self._file, lines[written:], start + written)
                    if count == 0:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    written += count
                if flush:
                    os.fsync(self._file)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, start)
                raise
            self.end = start + len(lines)
            return start

    def close(self) -> None:
        """Let the log go; what was written stays."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                # A power cut is rarer than a kill: once at the end is enough for it.
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> LineLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
