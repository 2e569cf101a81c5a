"""Files that are whole or absent: write to a temporary name, flush, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codeshell.errors import UserError

TEMPORARY = ".partial"
"""Ending of a file that is being written. A stage that starts may delete any such file below its directory."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block ends well, delete it if not.

    A full or read-only disk becomes a `UserError` that names the file.
    """
    path = Path(path)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        remove_quietly(temporary)
        raise disk_error(error, path) from error
    except BaseException:
        remove_quietly(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, NaN refused; equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


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
    except FileNotFoundError:  # below /proc, say: the parent is there and takes no children
        raise UserError(f"{path}: cannot be made here; choose another output directory") from None
    except OSError as error:
        raise disk_error(error, path) from error
    return path


def remove_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def disk_error(error: OSError, path: Path) -> Exception:
    """The `UserError` for a disk that is full, read-only or closed to us; any other error comes back as it is."""
    remedies = {
        errno.ENOSPC: "the disk is full; free some space or choose another output directory",
        errno.EDQUOT: "the disk quota is used up; free some space or choose another output directory",
        errno.EROFS: "the file system is read-only; choose another output directory",
        errno.EACCES: "no permission to write here; choose another output directory",
        errno.EPERM: "no permission to write here; choose another output directory",
        errno.ENOTDIR: "a part of this path is a file; choose another output directory",
        errno.EEXIST: "a file of this name is in the way; remove it or choose another output directory",
    }
    remedy = remedies.get(error.errno or 0)
    return UserError(f"{path}: {remedy}") if remedy else error
