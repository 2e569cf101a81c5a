"""What one input of a user stands for: templates, globs, data set folders, and what kind of thing each path is.

The rule that tells a data set from source code: a folder is a data set if it holds Parquet, Arrow or JSON Lines files
(or, beside nothing but documentation, CSV files or tar archives) with a text column and, beside them, at most
`FEW_SCRIPTS` files of code that are together no larger than the data (all but plain JSON Lines count fourfold, because
they are packed). A folder with a build file at its top is code, and samples (files below folders like `tests`, or of a
name like `fixture.jsonl`) never make a folder with code a data set.
"""

from __future__ import annotations

import json
import os
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path

from codeshell.documents import columns, corpora, formats, languages, readers, templates, walk
from codeshell.documents.columns import InputOptions
from codeshell.documents.corpora import Item
from codeshell.engine.files import user_path
from codeshell.errors import UserError, say

PASSED_OVER = (".*", "_*", "README*", "LICENSE*", "dataset_info*.json", "dataset_dict.json", "state.json")
"""Names in a data set folder that are not data."""

FEW_SCRIPTS = 10
"""Files of code that a data set may have beside it: a loading script, some that made it."""

CODE_SHARE = 4
"""The files of code may be so many times as large as packed data: Parquet packs text to about a quarter."""

BUILD_FILES = frozenset(
    """pyproject.toml setup.py setup.cfg package.json Cargo.toml go.mod pom.xml build.gradle build.gradle.kts
    CMakeLists.txt Makefile configure.ac composer.json Gemfile mix.exs Package.swift meson.build""".split()  # noqa: SIM905
)
"""Files at the top of a folder that make it a project of source code."""

TEST_FOLDERS = frozenset({"tests", "testing", "testdata", "test_data", "test-data", "fixtures", "__tests__", "spec"})
"""Folders whose tables are samples for tests. `test` is not among them: it is a split of many data sets."""

SAMPLES = ("fixture", "sample", "example", "mock", "dummy")
"""Words in the name of a table that is a sample for tests."""

PROSE = frozenset({"html", "json", "markdown", "restructuredtext", "toml", "yaml"})
"""Languages that describe a data set and do not make it source code."""


POINTER_BYTES = 1024
"""A Git LFS pointer is smaller."""


def expand(text: str, own: Sequence[str], options: InputOptions) -> Iterator[Item]:
    """The files and folders of code that one input stands for, in order.

    Args:
        own: real paths of directories that are not entered.

    Raises:
        UserError: a path or glob without a file; a file of rows that cannot be read as it is.
    """
    if not text:  # as a shell makes of a variable that is not set; as a path it would be the working directory
        raise UserError("inputs: one of them is empty; name a folder, a file, a glob or a URL")
    prefixed = corpora.parse(text)
    if prefixed is not None:
        yield from corpora.expand(text, prefixed)
        return
    paths = sysconfig.get_paths()
    path = text.replace("{stdlib}", paths["stdlib"]).replace("{site-packages}", paths["purelib"])
    # A URL of a local file is a path: it may be a folder of code, and needs no driver.
    path = path.removeprefix("file://")
    if readers.is_url(path):
        yield from _expand_url(path)
        return
    path = str(user_path(path))
    # A file whose own name has brackets or stars is meant as it is.
    names = [path]
    if has_magic(path) and not os.path.lexists(path):
        names = sorted(glob(path, recursive=True), key=os.fsencode)  # noqa: PTH207 (Path.glob wants a root)
        # `**` and `**/*` find the files below a folder and the folders; `**/src` means the folders.
        if "**" in path and has_magic(Path(path).name):
            names = [name for name in names if not Path(name).is_dir()]
            names = walk.outside_outputs(names, path.partition("**")[0])
        # What the job writes is none of its inputs.
        names = [name for name in names if not set(own) & {os.path.realpath(name), *_parents(name)}]
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
            remedy = walk.output_at(place)
            if remedy:
                raise UserError(f"{name}: {remedy}")
            data = _data_set(place, shown, own, options)
            for inner, kind in data:
                yield Item(kind, f"{place}/{inner}", f"{shown}/{inner}", f"{top}/{inner}")
            if not data:
                yield Item("folder", place, shown, top)
        elif Path(place).is_file():
            yield Item(_kind(place, options) or "file", place, shown, _with_partitions(place))
        elif os.path.lexists(place):
            raise UserError(f"{name}: neither a file nor a folder; leave it out")
        else:
            raise UserError(f"{name}: no such file or folder; fix the path")


def _parents(name: str) -> set[str]:
    """The real paths of the directories around a file."""
    return set(map(str, Path(os.path.realpath(name)).parents))


def _with_partitions(path: str) -> str:
    """The name of a file, with the folders of the form `key=value` right above it."""
    parts = path.split("/")
    first = len(parts) - 1
    while first > 0 and "=" in parts[first - 1]:
        first -= 1
    return "/".join(parts[first:]) or "root"


def _expand_url(url: str) -> Iterator[Item]:
    import fsspec

    # A glob, a folder of data, or one file, as for local paths; code is not read through URLs.
    with readers.damage(url), readers.driver(url):
        system, path = fsspec.core.url_to_fs(url)
        names, folder = [path], ""
        if has_magic(url):
            names = sorted(filter(formats.named, system.glob(path)))
        elif not formats.named(path) and system.isdir(path):
            folder = path.rstrip("/")
            inside = {name[len(folder) :].lstrip("/"): name for name in sorted(system.find(path))}
            names = [inside[name] for name in _rows_of_url(url, inside)]
    if not names:
        raise UserError(f"{url}: no files of rows there; give files that end in {formats.READ}")
    for name in names:
        if not formats.named(name):
            raise UserError(f"{url}: a URL must end in {formats.READ}; copy folders of code here first")
        full = _full_url(url, name, system.unstrip_protocol(name))
        kind = readers.kind_of(full, name if "::" in url else full)
        if not kind:
            raise UserError(f"{full}: not JSON Lines; a URL must hold rows, and folders of code must be copied here")
        # What lies in a folder is written below a folder of that name.
        above = len(folder.rpartition("/")[0]) + 1 if folder and len(names) > 1 else name.rfind("/") + 1
        yield Item(kind, full, full, name[above:] if folder else _with_partitions(name))


def _full_url(url: str, name: str, alone: str) -> str:
    """The URL of one file; of a chain (`simplecache::s3://…`, `zip://…::…`) the link that names the path changes."""
    if "::" not in url:
        return alone
    links = url.split("::")
    place = next(place for place, link in enumerate(links) if "://" in link)
    links[place] = links[place].partition("://")[0] + "://" + name
    return "::".join(links)


def _rows_of_url(url: str, names: Iterable[str]) -> list[str]:
    """The files of rows of a folder that is read through a URL, bytewise by path. Code is not read through URLs, so
    that whatever else is there is left out; one line says so."""
    names = sorted((name for name in names if not any(map(_passed_over, name.split("/")))), key=os.fsencode)
    # `.json` beside other rows describes them.
    rows = [name for name in names if formats.named(name) not in ("", "json")]
    rows = rows or [name for name in names if formats.named(name)]
    others = [name for name in names if name not in set(rows)]
    if rows and others:
        _say_taken(
            url, Counter(formats.named(name) for name in rows), others, "files of code are not read through URLs"
        )
    return rows


def _say_taken(shown: str, kinds: Counter[str], others: Sequence[str], remedy: str) -> None:
    names = {"json": "JSON", **formats.NAMES}
    taken = " and ".join(f"{count:,} {names[kind]} file{'s' * (count > 1)}" for kind, count in kinds.items())
    listed = ", ".join(others[:3]) + ", …" * (len(others) > 3)
    rest = f"{len(others):,} other file{'s' * (len(others) > 1)}"
    say(f"{shown}: read as a data set: {taken} taken, {rest} left out ({listed}); {remedy}")


@dataclass
class _Folder:
    """What a folder holds, as far as its names tell."""

    rows: list[str] = field(default_factory=list)
    """Parquet, Arrow and JSON Lines."""
    archives: list[str] = field(default_factory=list)
    """CSV files and tar archives."""
    documents: list[str] = field(default_factory=list)
    """`.json` files, which may be JSON Lines."""
    others: list[str] = field(default_factory=list)
    """Everything else but what is `PASSED_OVER`."""
    scripts: int = 0
    """Files of code among them."""
    size: int = 0
    """Bytes of those that have a language."""


def _data_set(root: str, shown: str, own: Sequence[str], options: InputOptions) -> list[tuple[str, str]]:
    """(path, kind) of the files of rows of a data set folder, bytewise by path; none if the folder is code."""
    found = _look_through(root, own)
    if found is None:
        return []
    pure = not (found.scripts or found.others)
    lines = [name for name in found.documents if _is_lines(f"{root}/{name}", pure and not found.rows)]
    rows = found.rows + lines
    others = found.others + sorted(set(found.documents) - set(lines))
    if found.scripts:
        rows = [name for name in rows if not _is_sample(name)]
        others += sorted(set(found.rows + lines) - set(rows)) + found.archives
    else:
        rows += found.archives
    # Where there are other things in the folder, its rows must be most of it.
    plain = (".jsonl", ".ndjson", ".json")
    amount = sum(
        _size(f"{root}/{name}", pointers=True) * (1 if name.lower().endswith(plain) else CODE_SHARE) for name in rows
    )
    beside = found.size - sum(_size(f"{root}/{name}") for name in lines)
    if not rows or (others and beside > amount):
        return []
    kinds = ((name, _kind(f"{root}/{name}", options)) for name in sorted(rows, key=os.fsencode))
    data = [(name, kind) for name, kind in kinds if kind]
    # A folder of CSV files alone is often no data set of texts.
    if not others and any(kind != "csv" for _, kind in data):
        return data
    if not data or not _has_text(f"{root}/{data[0][0]}", data[0][1], options):
        return []
    if not others:
        return data
    others.sort(key=os.fsencode)
    remedy = "to read the folder as code, give its files or subfolders of code as inputs"
    _say_taken(shown, Counter(kind for _, kind in data), others, remedy)
    return data


def _look_through(root: str, own: Sequence[str]) -> _Folder | None:
    """What a folder holds, except `own` directories and what is `PASSED_OVER`; None as soon as it is surely code."""
    found = _Folder()
    for folder, folders, names in os.walk(root):
        # os.walk enters what is left in the list.
        folders[:] = [
            name
            for name in folders
            if not _passed_over(name)
            and os.path.realpath(f"{folder}/{name}") not in own
            and not walk.output_at(f"{folder}/{name}")
        ]
        saved = _saved(folder) if "state.json" in names else None
        inside = os.path.relpath(folder, root)
        for name in names:
            if folder == root and name in BUILD_FILES:
                return None
            # Beside the files that `save_to_disk` names, there may be caches of other versions of the data.
            if _passed_over(name) or (saved is not None and name.endswith(".arrow") and name not in saved):
                continue
            path = name if inside == "." else f"{inside}/{name}"
            kind = formats.named(name)
            groups = {"": found.others, "json": found.documents, "csv": found.archives, "tar": found.archives}
            groups.get(kind, found.rows).append(path)
            language = languages.by_name(name)[0] if kind in ("", "json") else None
            # Notebooks stand beside data and beside code alike.
            if language is not None and language != templates.SCRIPTS:
                found.size += _size(f"{folder}/{name}")
                found.scripts += language not in PROSE
                if found.scripts > FEW_SCRIPTS:
                    return None
    return found


def _saved(folder: str) -> set[str] | None:
    """The Arrow files that `save_to_disk` wrote into a folder; None if it did not."""
    try:
        state = json.loads(Path(folder, "state.json").read_bytes())
        return {entry["filename"] for entry in state["_data_files"]} or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has_text(path: str, kind: str, options: InputOptions) -> bool:
    """Whether a file of rows has a text column, or must have one because it was named."""
    if options.text_column or options.layout != "auto" or kind == "tar":
        return True
    try:
        columns.check(kind, path, path, options)
    except UserError as error:
        return "no column" not in str(error)
    return True


def _kind(path: str, options: InputOptions) -> str:
    """What a file is; of a damaged one that is to be left out, what its name promises."""
    try:
        return readers.kind_of(path)
    except readers.DamagedError:
        if options.damaged != "skip":
            raise
        return formats.named(path)


def _is_sample(name: str) -> bool:
    *folders, last = name.lower().split("/")
    return not TEST_FOLDERS.isdisjoint(folders) or any(word in last for word in SAMPLES)


def _is_lines(path: str, strict: bool) -> bool:
    """Whether a `.json` file is JSON Lines; `strict` passes on what is wrong with data that is not."""
    try:
        return readers.kind_of(path) == "jsonl"
    except UserError:
        if strict:
            raise
        return False


def _size(path: str, *, pointers: bool = False) -> int:
    """Bytes of a file; with `pointers`, a Git LFS pointer counts as the file that it stands for."""
    try:
        size = Path(path).stat().st_size
        if pointers and size < POINTER_BYTES:
            lines = Path(path).read_bytes().splitlines()
            if lines and lines[0].startswith(formats.POINTER):
                return max((int(line[5:]) for line in lines if line.startswith(b"size ")), default=size)
        return size
    except (OSError, ValueError):
        return 0


def _passed_over(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in PASSED_OVER)
