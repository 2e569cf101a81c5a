"""Copies a folder of code without its duplicates.

The copy is that folder: modes, times, empty files, pictures and links. It lacks the duplicates, the folders that were
not entered (of version control, caches, other people's code), links that lead out of the folder, pipes and devices,
and folders without a file. Bits that change the user (setuid, setgid) and owners are not kept.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codeshell.documents.inputs import Shard, Source
from codeshell.documents.walk import Found, read_blob
from codeshell.engine.files import disk_error, make_directory

NOT_COPIED = frozenset(
    {"vcs", "cache", "vendored", "special_file", "unreadable", "ignored", "excluded", "codeshell_output"}
)
"""Reasons of the walk for which nothing is copied. What was left out for any other is no duplicate, and stays."""


def copy_folder(
    source: Source,
    shards: Sequence[Shard],
    drop_rows: NDArray[np.int64],
    others: Sequence[Found],
    destination: Path,
) -> dict[str, int]:
    """Copy what stays of a folder to `destination / source.output`, which gets its name when all of it is there.

    Args:
        source: of kind `files`; `shards`: all of its shards, in order.
        drop_rows: (k,) ascending, each once.
        others: files that were not read, with their reasons (`Plan.others`).
        destination: the directory of all kept files.

    Returns:
        `rows` copied and `dropped`; `not_compared`: files and links copied that were not read; `links_out`: links that
        lead out of the folder, and are left out; `unreadable`: files that are no longer there.
    """
    dropped = set(drop_rows.tolist())
    counts = {"rows": 0, "dropped": len(dropped), "not_compared": 0, "links_out": 0, "unreadable": 0}
    output = destination / source.output
    # A folder cannot be replaced in one step, so it is built under another name. A copy of a killed run is removed
    # first.
    temporary = output.with_name(output.name + ".partial")
    for old in (temporary, output):
        shutil.rmtree(old, ignore_errors=True)
    make_directory(temporary)
    # Of the folders that the copies are in: the path below the source.
    folders: set[str] = set()
    try:
        for shard in shards:
            for row, found in enumerate(shard.files, shard.first_row):
                if row not in dropped:
                    # A file that the user named may be a link; the walk lists none.
                    copied = _copy(source.path, found, temporary, folders, follow=True)
                    counts["rows" if copied else "unreadable"] += 1
        for found in others:
            if found.reason == "link":
                counts["not_compared" if _link(source.path, found.path, temporary, folders) else "links_out"] += 1
            elif found.reason not in NOT_COPIED:
                counts["not_compared" if _copy(source.path, found, temporary, folders) else "unreadable"] += 1
        # Folders last and from below, because a copy into one changes its time. Those of a bare repository are on no
        # disk.
        for name in sorted(folders, key=len, reverse=True):
            if Path(source.path, name).is_dir():
                _like(Path(source.path, name).stat(), temporary / name, stat.S_IRWXU)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise disk_error(error, temporary) from error
    temporary.rename(output)
    return counts


def _copy(root: str, found: Found, target: Path, folders: set[str], *, follow: bool = False) -> bool:
    """Copy one file; False if it cannot be read any more. Errors of the output are raised."""
    name = found.path
    if found.blob:
        data, reason = read_blob(root, found, None)
        if not reason:
            _place(name, target, folders).write_bytes(data)
        return not reason
    try:
        # What has become a link or a pipe since the listing is not followed, and is not waited for.
        flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        descriptor = os.open(f"{root}/{name}", flags)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        path = _place(name, target, folders)
        with open(path, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    _like(status, path)
    return True


def _link(root: str, name: str, target: Path, folders: set[str]) -> bool:
    """Make the same link, if it is relative and stays in the folder; the path that it leads to is not looked at."""
    try:
        leads = os.readlink(f"{root}/{name}")  # noqa: PTH115 (a path would lose a slash at the end)
    except OSError:
        return False
    inside = os.path.normpath(os.path.join(os.path.dirname(name), leads))  # noqa: PTH118, PTH120
    if os.path.isabs(leads) or inside == ".." or inside.startswith("../"):  # noqa: PTH117
        return False
    _place(name, target, folders).symlink_to(leads)
    return True


def _place(name: str, target: Path, folders: set[str]) -> Path:
    """Where a file goes; the folders above it are made, and noted in `folders`."""
    folder = name.rpartition("/")[0]
    if folder not in folders:
        make_directory(target / folder)
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return target / name


def _like(status: os.stat_result, path: Path, more: int = 0) -> None:
    """Give a file the permissions and the time of another; `more` permissions are added."""
    # Permissions alone: a copy belongs to whoever made it, and must not run as somebody else.
    path.chmod(stat.S_IMODE(status.st_mode) & 0o777 | more)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
