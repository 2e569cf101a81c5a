"""What one input of a user stands for: templates, globs, data set folders, and what kind of thing each path is."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from codeshell.documents import readers
from codeshell.errors import UserError

PASSED_OVER = (".*", "_*", "README*", "LICENSE*", "dataset_info*.json")
"""Names in a data set folder that are not data."""


class Item(NamedTuple):
    """A file or a folder of code; the fields are those of `inputs.Source`."""

    kind: str
    path: str
    name: str
    output: str


def expand(text: str, own: Sequence[str]) -> Iterator[Item]:
    """The files and folders of code that one input stands for, in order.

    Args:
        own: real paths of directories that are not entered.

    Raises:
        UserError: a path or glob without a file.
    """
    if not text:  # as a shell makes of a variable that is not set; as a path it would be the working directory
        raise UserError("inputs: one of them is empty; name a folder, a file, a glob or a URL")
    paths = sysconfig.get_paths()
    path = text.replace("{stdlib}", paths["stdlib"]).replace("{site-packages}", paths["purelib"])
    # A URL of a local file is a path: it may be a folder of code, and needs no driver.
    path = path.removeprefix("file://")
    if readers.is_url(path):
        yield from _expand_url(path)
        return
    path = str(Path(path).expanduser())
    # A file whose own name has brackets or stars is meant as it is.
    names = [path]
    if has_magic(path) and not os.path.lexists(path):
        names = sorted(glob(path, recursive=True), key=os.fsencode)  # noqa: PTH207 (Path.glob wants a root)
        # `**` and `**/*` find the files below a folder and the folders; `**/src` means the folders.
        if "**" in path and has_magic(Path(path).name):
            names = [name for name in names if not Path(name).is_dir()]
    # A pattern without a file is a mistake, not an empty input.
    if not names:
        raise UserError(f"{text!r}: matches no file; fix the path")
    for name in names:
        # Not resolved: a user's links are part of the names that ids show.
        place = os.path.abspath(name)  # noqa: PTH100
        shown = os.path.normpath(name)
        if shown == ".." or shown.startswith("../"):
            shown = place
        top = Path(place).name or "root"
        if Path(place).is_dir():
            # A data set is as many inputs as it has files; code is one input.
            data = _only_data(_files_below(place, own))
            for inner in data:
                kind = readers.kind_of(inner)
                yield Item(kind, f"{place}/{inner}", f"{shown}/{inner}", f"{top}/{inner}")
            if not data:
                yield Item("folder", place, shown, top)
        elif Path(place).is_file():
            yield Item(readers.kind_of(place) or "file", place, shown, top)
        elif os.path.lexists(place):
            raise UserError(f"{name}: neither a file nor a folder; leave it out")
        else:
            raise UserError(f"{name}: no such file or folder; fix the path")


def _expand_url(url: str) -> Iterator[Item]:
    import fsspec

    # A glob, a folder of data, or one file, as for local paths; code is not read through URLs.
    with readers.damage(url), readers.driver(url):
        system, path = fsspec.core.url_to_fs(url)
        names, folder = [path], ""
        if has_magic(url):
            names = sorted(filter(readers.kind_of, system.glob(path)))
        elif not readers.kind_of(url) and system.isdir(path):
            folder = path.rstrip("/")
            inside = {name[len(folder) :].lstrip("/"): name for name in sorted(system.find(path))}
            names = [inside[name] for name in _only_data(inside)]
    if not names:
        raise UserError(f"{url}: no Parquet or JSONL files there, or others beside them; fix the URL")
    # The end of the name is all that tells what a URL holds.
    for name in names:
        kind = readers.kind_of(name)
        if not kind:
            raise UserError(f"{url}: a URL must end in .parquet or .jsonl (.gz, .zst); copy folders of code here first")
        full = system.unstrip_protocol(name)
        # What lies in a folder is written below a folder of that name.
        above = len(folder.rpartition("/")[0]) + 1 if folder and len(names) > 1 else name.rfind("/") + 1
        yield Item(kind, full, full, name[above:])


def _files_below(root: str, own: Sequence[str]) -> Iterator[str]:
    """The files below a folder, except those in `own` directories and in folders that are `PASSED_OVER`."""
    for folder, folders, names in os.walk(root):
        # os.walk enters what is left in the list.
        folders[:] = [
            name for name in folders if not _passed_over(name) and os.path.realpath(f"{folder}/{name}") not in own
        ]
        yield from (os.path.relpath(f"{folder}/{name}", root) for name in names)


def _only_data(names: Iterable[str]) -> list[str]:
    """The Parquet and JSONL files of a data set folder, bytewise by path; none if it holds anything else."""
    data: list[str] = []
    for name in names:
        if readers.kind_of(name):
            data.append(name)
        elif not any(map(_passed_over, name.split("/"))):
            return []
    return sorted(data, key=os.fsencode)


def _passed_over(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in PASSED_OVER)
