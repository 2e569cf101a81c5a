"""Inputs that are no files of text: histories, issue dumps and notebooks, each named by a prefix.

    commits:PATH             the history of a checkout or bare repository, or of each one below a folder
    issues:PATH              a dump of issues: a file, a glob, or a folder of files
    notebook-scripts:PATH    the notebooks (.ipynb) below a folder as scripts; also a file or a glob
    notebook-texts:PATH      the same as prose, code and outputs in turns

Without a prefix, a folder's notebooks are scripts among its other files, and nothing is read of its history. Markdown,
reStructuredText and TeX are files like others. A path that exists with the prefix in its own name is that path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from codeshell.documents import formats, history, templates
from codeshell.documents.notebooks import is_notebook
from codeshell.documents.walk import Found
from codeshell.engine.files import user_path
from codeshell.errors import UserError

KINDS = ("commits", "issues")
"""Kinds of sources of their own."""

FORMS = {"notebook-scripts": templates.SCRIPTS, "notebook-texts": templates.STRUCTURED}
"""Prefixes of notebooks, and the form that each stands for."""

ISSUE_ENDINGS = (".json", ".jsonl", ".ndjson")

COMMIT_BYTES = 2048
"""Bytes of text that a commit gives, about, for cutting a history into shards."""


class Prefixed(NamedTuple):
    """An input with a prefix."""

    prefix: str
    path: str


class Item(NamedTuple):
    """What one input stands for; the fields are those of `inputs.Source`."""

    kind: str
    path: str
    name: str
    output: str
    detail: str = ""


def parse(text: str) -> Prefixed | None:
    """The prefix of an input and its path; None without one."""
    prefix, colon, path = text.partition(":")
    if not colon or prefix not in (*KINDS, *FORMS) or os.path.lexists(user_path(text)):
        return None
    if "://" in path:
        raise UserError(f"{text}: a URL; {prefix}: reads what is on this machine: copy it here first")
    if not path:
        raise UserError(f"{text}: names nothing; give a path after the colon")
    return Prefixed(prefix, path)


def user_input(text: str) -> str:
    """The input with `~` expanded in its path."""
    found = parse(text)
    return text if found is None else f"{found.prefix}:{user_path(found.path)}"


def expand(text: str, found: Prefixed) -> Iterator[Item]:
    """The sources that an input with a prefix stands for, in order.

    Raises:
        UserError: nothing of that kind is there.
    """
    path = str(user_path(found.path))
    names = [path]
    if has_magic(path) and not os.path.lexists(path):
        names = sorted(glob(path, recursive=True), key=os.fsencode)  # noqa: PTH207
    if not names or not all(map(os.path.lexists, names)):
        raise UserError(f"{text}: no such file or folder; fix the path after the colon")
    if found.prefix == "issues":
        # One source for all files of an input, because the events of an issue may be in several.
        place = os.path.abspath(path)  # noqa: PTH100
        if not issue_files(place):
            raise UserError(f"{text}: no file that ends in {' '.join(ISSUE_ENDINGS)} (also packed); fix the path")
        yield Item("issues", place, text, f"{_top(place)}.issues.jsonl")
        return
    for name in names:
        place = os.path.abspath(name)  # noqa: PTH100
        if found.prefix in FORMS:
            yield from _notebooks(text, found.prefix, name, place)
            continue
        repositories = list(_repositories(place))
        if not repositories:
            raise UserError(f"{text}: no git checkout or bare repository at {name} or below it; fix the path")
        for inner in repositories:
            shown = os.path.normpath(f"{name}/{os.path.relpath(inner, place)}")
            yield Item("commits", inner, f"commits:{shown}", f"{_top(inner)}.commits.jsonl", history.head(inner))


def _notebooks(text: str, prefix: str, name: str, place: str) -> Iterator[Item]:
    shown, detail = f"{prefix}:{os.path.normpath(name)}", FORMS[prefix]
    if Path(place).is_dir():
        yield Item("folder", place, shown, _top(place), detail)
    elif is_notebook(place):
        yield Item("file", place, shown, Path(place).name, detail)
    else:
        raise UserError(f"{text}: {name} is no notebook; name files that end in .ipynb, or folders of them")


def _top(place: str) -> str:
    return "".join(letter if letter not in "*?[]" else "_" for letter in Path(place).name) or "root"


def _repositories(place: str) -> Iterator[str]:
    """The repository at a place, or those below it, bytewise by path; nothing inside of one is looked at."""
    if history.home(place):
        yield place
        return
    for folder, folders, _ in os.walk(place):
        folders.sort(key=os.fsencode)
        inside = []
        for name in folders:
            if history.home(f"{folder}/{name}"):
                yield f"{folder}/{name}"
            else:
                inside.append(name)
        # os.walk enters what is left in the list.
        folders[:] = inside


def issue_files(place: str) -> list[str]:
    """The files of a dump, bytewise by path: a file, those that a glob finds, or all of a folder that may be one."""
    if Path(place).is_file():
        return [place]
    if Path(place).is_dir():
        found = [f"{folder}/{name}" for folder, _, names in os.walk(place) for name in names]
        found = [name for name in found if formats.ending(name) in ISSUE_ENDINGS]
    else:
        found = [name for name in glob(place, recursive=True) if Path(name).is_file()]  # noqa: PTH207
    return sorted(found, key=os.fsencode)


def issue_list(place: str) -> tuple[str, tuple[Found, ...]]:
    """The folder that holds a dump's files, and the files below it."""
    paths = issue_files(place)
    root = os.path.commonpath([str(Path(path).parent) for path in paths]) if paths else place
    found = []
    for path in paths:
        status = os.stat(path)  # noqa: PTH116
        found.append(Found(os.path.relpath(path, root), status.st_size, "", "", time=status.st_mtime_ns))
    return root, tuple(found)


def stamp(kind: str, place: str) -> tuple[int, int]:
    """What changes when a history or a dump does: in place of the size and the time of a file."""
    if kind == "commits":
        commit = history.head(place)
        return int(commit[:15] or "0", 16), 0
    _, files = issue_list(place)
    return sum(one.size for one in files), max((one.time for one in files), default=0)
