"""Files that are whole or absent: write to a temporary name, flush, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codeshell.errors import UserError

TEMPORARY = ".partial"
"""Ending of a file that is being written. A stage that starts may delete any such file below its directory."""

# The attempt that this process writes as; see `attempt`.
_attempt = 0


def is_utf8(name: str) -> bool:
    """Whether a string has no surrogates, which Python also makes of the bytes of a path that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def user_path(name: str) -> Path:
    """The path that a user gave, `~` expanded. Where there is no such user, `~nobody` is a name like others (pathlib's
    own `expanduser` raises there)."""
    return Path(os.path.expanduser(name))  # noqa: PTH111


def output_path(name: str, flag: str = "-o") -> Path:
    """The directory of this machine that an argument names, to write to.

    Raises:
        UserError: the name is empty, a URL, or not UTF-8.
    """
    if not name:
        raise UserError(f"{flag} DIR: empty; name a directory (a shell variable may not be set)")
    if "://" in name:
        raise UserError(f"{flag} {name}: a URL; give a directory of this machine, or one that is mounted here")
    if not is_utf8(name):
        raise UserError(f"{flag} {name!r}: not UTF-8, and Arrow cannot open such a path; name another directory")
    return Path(name)


@contextlib.contextmanager
def attempt(number: int) -> Iterator[None]:
    """Within the block, this process writes as attempt `number` (from 0) of a task that may run twice at a time.

    Each attempt has temporary names of its own: an attempt that was thought dead, on a machine that lost its
    connection, cannot damage the file of its successor. All attempts write the same bytes.
    """
    global _attempt
    before, _attempt = _attempt, number
    try:
        yield
    finally:
        _attempt = before


def _temporary(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}{TEMPORARY}" if number else path.name + TEMPORARY)


@contextlib.contextmanager
def atomic_path(path: str | Path, flush: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block ends well, delete it if not.

    Without `flush` the caller makes sure that the bytes are on the disk, with `flush_file_system` after many files.
    Temporary files that earlier attempts (`attempt`) left are deleted too. A full or read-only disk becomes a
    `UserError` that names the file. A device or a pipe is given as it is.
    """
    path = Path(path)
    # A rename would put a file in the place of /dev/null, for every program of the machine.
    if _is_special(path):
        try:
            yield path
        except OSError as error:
            raise disk_error(error, path) from error
        return
    number = _attempt
    temporary = _temporary(path, number)
    try:
        yield temporary
        # The bytes must be on the disk before the name is: a power cut must not leave a whole name on half a file.
        if flush:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        for earlier in range(number):
            remove_quietly(_temporary(path, earlier))
    except OSError as error:
        remove_quietly(temporary)
        raise disk_error(error, path) from error
    # Also for Ctrl-C and errors of the caller, which pass as they are.
    except BaseException:
        remove_quietly(temporary)
        raise


def _is_special(path: Path) -> bool:
    """Whether something is there that is neither a file nor a directory."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def flush_file_system(directory: Path) -> None:
    """Wait until all that was written to the file system of a directory is on its disk: one wait for many files."""
    if sys.platform != "linux":  # which alone can wait for one file system
        os.sync()
        return
    import ctypes  # a command that writes nothing need not wait for it

    descriptor = os.open(directory, os.O_RDONLY)
    try:
        # Python has no name for it; os.sync would wait for every other disk, too.
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise disk_error(OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())), directory)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, NaN refused; equal values give equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    # A path may hold bytes that are not UTF-8. Python has surrogates for them, which JSON has as escapes only.
    write_text(path, re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a broken file is a `UserError` that says to delete it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); delete it and run again") from None


def make_directory(path: str | Path) -> Path:
    """Create a directory and its parents; where that is not allowed, a `UserError` that names it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    # The parent is there but takes no children, as in /proc.
    except FileNotFoundError:
        raise UserError(f"{path}: cannot be made here; choose another output directory") from None
    except OSError as error:
        raise disk_error(error, path) from error
    return path


@contextlib.contextmanager
def lock(directory: Path, name: str = "run.lock") -> Iterator[None]:
    """Hold a directory for this process; the system releases it however the process ends."""
    path = directory / name
    try:
        # Appending creates the file without emptying it: it holds the owner's number if there is one.
        file = open(path, "a+")  # noqa: SIM115 (closed below; only the opening is translated)
    except OSError as error:
        raise disk_error(error, path) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                f"{directory}: another run (process {owner}) is using it; wait for it or choose another directory"
            ) from None
        # Ours now: leave our number for the message above.
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def remove_quietly(path: Path) -> None:
    """Delete a file; that it is gone already, or cannot be deleted, is no error."""
    with contextlib.suppress(OSError):
        path.unlink()


def disk_error(error: OSError, path: Path) -> Exception:
    """The `UserError` for a disk that is full, read-only or closed to us; any other error is returned as it is."""
    remedies = {
        errno.ENOSPC: "the disk is full; free some space or choose another output directory",
        errno.EDQUOT: "the disk quota is used up; free some space or choose another output directory",
        errno.EROFS: "the file system is read-only; choose another output directory",
        errno.EACCES: "no permission to write here; choose another output directory",
        errno.EPERM: "no permission to write here; choose another output directory",
        errno.ENOTDIR: "a part of this path is a file; choose another output directory",
        errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
        errno.ELOOP: "a link in this path leads back to itself; choose another output directory",
        errno.EINVAL: "the file system takes no such name; choose another one",
        errno.EIO: "the disk fails (input/output error); choose another output directory",
        errno.EISDIR: "a directory of this name is in the way; remove it or choose another name",
        errno.EEXIST: "a file of this name is in the way; remove it or choose another output directory",
    }
    remedy = remedies.get(error.errno or 0)
    # What is not in the table is no fault of the user's disk.
    return UserError(f"{path}: {remedy}") if remedy else error
