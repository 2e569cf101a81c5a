"""What a deduplication job reads: the inputs that a user names, as files in a fixed order, cut into shards.

An input is a folder, a Parquet or JSONL (plain, .gz, .zst) file, a file of source code, a glob of these, or an fsspec
URL of Parquet or JSONL. A folder whose files are all Parquet or JSONL (but for `PASSED_OVER`) is a data set: its
files are taken, bytewise by path. Any other folder is source code: every file that `walk` lets through is a document.

A `Source` is what is written as one thing at the end: a Parquet or JSONL file, a folder, or a run of single files. A
document is row `row` of source `shard`: the row of a Parquet file, the line of a JSONL file (from 0, blank lines
count), the place in the list of a folder. Documents are ordered by (source, row), the order in which the inputs are
given; how sources are cut into `Shard`s changes nothing in that. A file that is given twice is taken once.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from glob import glob, has_magic
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codeshell.documents import columns, readers, walk
from codeshell.engine.files import read_json, write_text
from codeshell.errors import UserError

SHARD_FILES = 20_000
"""Files of a folder in a shard at most."""

PASSED_OVER = (".*", "_*", "README*", "LICENSE*", "dataset_info*.json")
"""Names in a data set folder that are not data."""

COUNT_BLOCK = 4 << 20
"""Bytes read at a time to count lines."""


@dataclass(frozen=True)
class InputOptions:
    """How inputs are read. Column names are of Parquet columns and of JSON keys alike."""

    text_column: str = "text"
    id_column: str | None = None
    """None: ids are made of the file's name and the place in it."""
    order_column: str | None = None
    """Of `--keep-order column:NAME`."""
    max_file_bytes: int = 1 << 20
    """Larger files of folders, and larger single files, are left out. Rows may have any size."""
    vendored: bool = False
    """Enter folders like `node_modules`."""


@dataclass(frozen=True)
class Source:
    """A Parquet or JSONL file, a folder, or a run of single files; what is written as one thing."""

    number: int
    kind: str
    """`parquet`, `jsonl` or `files`."""
    path: str
    """Absolute path or URL; of `files` the folder that they are below."""
    name: str
    """The path as the user gave it, for ids and messages."""
    output: str
    """Where it is written below the output directory, with `/`; no two sources share it."""
    stamp: tuple[int, int] = (0, 0)
    """Size and modification time (ns) of a local Parquet or JSONL file when it was listed."""


@dataclass(frozen=True)
class Shard:
    """A part of a source; readable on any machine that sees the same paths."""

    number: int
    source: Source
    begin: int
    """First row group, byte (where a line begins) or file."""
    end: int | None
    """Behind the last; None for a JSONL file that can only be read to its end."""
    first_row: int
    """Row of the first row, line or file."""
    rows: int | None
    """Rows or files; None for JSONL."""
    size: int
    """Bytes of text, about (of a packed file: bytes on the disk)."""
    order_type: str = ""
    """Of the order column: `int64`, `float64`, `string`, `timestamp[us]` or `timestamp[ns]`; the same in all shards."""
    files: tuple[str, ...] = ()
    """Of `files`: paths below `source.path`; bytes that are not UTF-8 are surrogate-escaped."""


@dataclass(frozen=True)
class Plan:
    """All that a job reads, in order."""

    sources: list[Source]
    shards: list[Shard]
    """Ascending in (source, first_row)."""
    repeated: int = 0
    """Files that were given again and left out."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Files of folders that are not read, by reason (of `walk`); a folder that is not entered counts once."""

    def shards_of(self, source: int) -> list[Shard]:
        return [shard for shard in self.shards if shard.source.number == source]


def plan(inputs: Sequence[str], options: InputOptions, shard_bytes: int, own: Sequence[Path] = ()) -> Plan:
    """List the inputs and cut them into shards of about `shard_bytes` of text.

    What is below the directories `own`, which the job itself writes to, is none of the inputs.

    Footers of Parquet files and the first lines of JSONL files are read, to check the columns; a plain JSONL file that
    is cut is read through once, to count its lines.

    Raises:
        UserError: a path or glob without a file, a damaged file, an unknown column (those there are are named), a text
            column that is not text, an id or order column of a type that cannot be one.
    """
    if not inputs:
        raise UserError("inputs: none given; name folders, .parquet or .jsonl files")
    written = [os.path.realpath(path) for path in own]
    listing = _Listing([unit for text in inputs for unit in _expand(text, written)], options, written)
    sources = listing.sources()
    order_type = columns.common_order_type(
        [(source.name, columns.check(source.kind, source.path, source.name, options)) for source, _ in sources]
    )
    shards: list[Shard] = []
    for source, files in sources:
        if source.kind == "parquet":
            parts = _parquet_shards(source, options.text_column, shard_bytes)
        elif source.kind == "jsonl":
            parts = _jsonl_shards(source, shard_bytes)
        else:
            parts = _file_shards(source, files, shard_bytes)
        for part in parts:
            shards.append(replace(part, number=len(shards), order_type=order_type))
    left_out = dict(sorted(listing.left_out.items()))
    return Plan([source for source, _ in sources], shards, listing.repeated, left_out)


def write_plan(path: Path, plan: Plan) -> None:
    """Write the plan, whole or not at all, so that a resumed job and its workers see the same files."""
    tree = {
        "sources": [asdict(source) for source in plan.sources],
        "shards": [asdict(shard) | {"source": shard.source.number} for shard in plan.shards],
        "repeated": plan.repeated,
        "left_out": plan.left_out,
    }
    # ASCII JSON, because a path may hold bytes that are not UTF-8 (as surrogates).
    write_text(path, json.dumps(tree, separators=(",", ":")) + "\n")


def read_plan(path: Path) -> Plan:
    """What `write_plan` wrote; a damaged file is a `UserError`."""
    tree = read_json(path)
    try:
        sources = [Source(**{**entry, "stamp": tuple(entry["stamp"])}) for entry in tree["sources"]]
        shards = [
            Shard(**{**entry, "source": sources[entry["source"]], "files": tuple(entry["files"])})
            for entry in tree["shards"]
        ]
        return Plan(sources, shards, tree["repeated"], tree["left_out"])
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"{path}: not a plan of codeshell dedup ({error}); run again in a new directory") from None


def check_unchanged(source: Source) -> None:
    """Raise a `UserError` if a local Parquet or JSONL file is not the one that was listed: its rows may have moved."""
    if source.kind != "files" and source.stamp != _stamp(source.path):
        raise UserError(f"{source.name}: it changed while it was read; run again in a new output directory")


class _Unit(NamedTuple):
    """A file or a folder of code that an input stands for."""

    kind: str
    """`parquet`, `jsonl`, `file` or `folder`."""
    path: str
    name: str
    owner: str
    """The data set folder that it is part of, or its own path."""
    output: str
    """Path below the output directory; the first part is made unique for each owner."""


Files = list[tuple[str, int]]
"""Paths below a folder, with their sizes."""


class _Listing:
    """Turns units into sources: walks the folders, puts single files together, leaves out what was given before."""

    def __init__(self, units: list[_Unit], options: InputOptions, own: Sequence[str]) -> None:
        self._own = own
        self.left_out: Counter[str] = Counter()
        self.repeated = 0
        self._units = units
        self._options = options
        self._seen: set[str] = set()
        self._outputs: dict[str, str] = {}

    def sources(self) -> list[tuple[Source, Files]]:
        """The sources in order; `files` of those of kind `files`."""
        real = [unit.path if readers.is_url(unit.path) else os.path.realpath(unit.path) for unit in self._units]
        folders = {path for path, unit in zip(real, self._units, strict=True) if unit.kind == "folder"}
        around = {str(parent) for path in real for parent in Path(path).parents} if folders else set()
        found: list[tuple[Source, Files]] = []
        singles: list[tuple[_Unit, int]] = []
        for unit, path in zip(self._units, real, strict=True):
            if path in self._seen:
                self.repeated += 1
                continue
            if unit.kind == "file":
                self._seen.add(path)
                size = Path(path).stat().st_size
                if size > self._options.max_file_bytes:
                    self.left_out["over_large"] += 1
                    continue
                if singles and Path(singles[0][0].name).is_absolute() != Path(unit.name).is_absolute():
                    self._add_singles(singles, found)
                singles.append((unit, size))
                continue
            self._add_singles(singles, found)
            if unit.kind == "folder":
                shared = path in around or any(str(parent) in folders for parent in Path(path).parents)
                files = list(self._walk(path, shared))
                if not shared:
                    self._seen.add(path)
                found.append((self._source(len(found), "files", unit), files))
            else:
                self._seen.add(path)
                found.append((self._source(len(found), unit.kind, unit), []))
        self._add_singles(singles, found)
        return found

    def _walk(self, root: str, shared: bool) -> Iterator[tuple[str, int]]:
        """The files of a folder; `shared` if they may also be given in other ways."""
        options = self._options
        own = tuple(f"{path}/"[len(root) + 1 :] for path in self._own if path.startswith(f"{root}/"))
        for entry in walk.walk(root, max_file_bytes=options.max_file_bytes, vendored=options.vendored):
            if f"{entry.path}/".startswith(own):
                continue
            if entry.reason:
                self.left_out[entry.reason] += 1
            elif shared and f"{root}/{entry.path}" in self._seen:
                self.repeated += 1
            else:
                if shared:
                    self._seen.add(f"{root}/{entry.path}")
                yield entry.path, entry.size

    def _add_singles(self, singles: list[tuple[_Unit, int]], found: list[tuple[Source, Files]]) -> None:
        """Files given one by one (or by a glob) are one source: what is in the folder that holds them all."""
        if not singles:
            return
        root = os.path.commonpath([str(Path(unit.path).parent) for unit, _ in singles])
        # All names are absolute or none, and none leaves the working directory: a common folder is one there too.
        name = os.path.commonpath([str(Path(unit.name).parent) for unit, _ in singles])
        files = [(os.path.relpath(unit.path, root), size) for unit, size in singles]
        unit = _Unit("file", root, "" if name == "." else name, root, Path(root).name or "root")
        found.append((self._source(len(found), "files", unit), files))
        singles.clear()

    def _source(self, number: int, kind: str, unit: _Unit) -> Source:
        top, slash, rest = unit.output.partition("/")
        owner = f"{number}" if kind == "files" else unit.owner
        if owner not in self._outputs:
            used = {name.casefold() for name in self._outputs.values()}
            names = (f"{count}-{top}" if count > 1 else top for count in range(1, len(used) + 2))
            self._outputs[owner] = next(name for name in names if name.casefold() not in used)
        stamp = _stamp(unit.path) if kind != "files" else (0, 0)
        return Source(number, kind, unit.path, unit.name, self._outputs[owner] + slash + rest, stamp)


def _expand(text: str, own: Sequence[str]) -> Iterator[_Unit]:
    """What one input stands for: globs, data set folders, and what kind of thing each path is."""
    path = text.removeprefix("file://")
    if readers.is_url(path):
        yield from _expand_url(path)
        return
    path = str(Path(path).expanduser()) if path else ""
    names = [path]
    if has_magic(path) and not os.path.lexists(path):
        names = sorted(glob(path, recursive=True), key=os.fsencode)  # noqa: PTH207 (Path.glob wants a root)
        if "**" in path:  # it finds the files below a folder, and the folder
            names = [name for name in names if not Path(name).is_dir()]
    if not names or not path:
        raise UserError(f"{text!r}: matches no file; mend the path")
    for name in names:
        # Not resolved: a user's links are part of the names that ids show.
        place = os.path.abspath(name)  # noqa: PTH100
        shown = os.path.normpath(name)
        if shown == ".." or shown.startswith("../"):
            shown = place
        if Path(place).is_dir():
            top = Path(place).name or "root"
            data = _data_files(place, own)
            for inner in data:
                kind = readers.kind_of(inner)
                yield _Unit(kind, f"{place}/{inner}", f"{shown}/{inner}", place, f"{top}/{inner}")
            if not data:
                yield _Unit("folder", place, shown, place, top)
        elif Path(place).is_file():
            yield _Unit(readers.kind_of(place) or "file", place, shown, place, Path(place).name)
        elif os.path.lexists(place):
            raise UserError(f"{name}: neither a file nor a folder; leave it out")
        else:
            raise UserError(f"{name}: no such file or folder; mend the path")


def _expand_url(url: str) -> Iterator[_Unit]:
    import fsspec

    with readers.damage(url), readers.driver(url):
        system, path = fsspec.core.url_to_fs(url)
        if has_magic(url):
            names = sorted(name for name in system.glob(path) if readers.kind_of(name))
        elif not readers.kind_of(url) and system.isdir(path):
            inside = sorted(system.find(path))
            names = [name for name in inside if readers.kind_of(name)]
            if any(not readers.kind_of(name) and not _passed_over(name[len(path) :].split("/")) for name in inside):
                names = []
        else:
            names = [path]
    if not names:
        raise UserError(f"{url}: no Parquet or JSONL files there, or others beside them; mend the URL")
    for name in names:
        kind = readers.kind_of(name)
        if not kind:
            raise UserError(f"{url}: a URL must end in .parquet or .jsonl (.gz, .zst); copy folders of code here first")
        full = system.unstrip_protocol(name)
        if len(names) > 1 and not has_magic(url):
            folder = path.rstrip("/")
            yield _Unit(kind, full, full, folder, f"{folder.rsplit('/', 1)[-1]}{name[len(folder) :]}")
        else:
            yield _Unit(kind, full, full, full, name.rsplit("/", 1)[-1])


def _data_files(root: str, own: Sequence[str]) -> list[str]:
    """The Parquet and JSONL files of a data set folder, bytewise by path; none if it holds anything else (but `own`
    directories)."""
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name for name in folders if not _passed_over([name]) and os.path.realpath(f"{folder}/{name}") not in own
        ]
        for file in files:
            if readers.kind_of(file):
                found.append(os.path.relpath(f"{folder}/{file}", root))
            elif not _passed_over([file]):
                return []
    return sorted(found, key=os.fsencode)


def _passed_over(parts: list[str]) -> bool:
    return any(fnmatchcase(part, pattern) for part in parts for pattern in PASSED_OVER)


def _stamp(path: str) -> tuple[int, int]:
    if readers.is_url(path):
        return 0, 0
    with readers.damage(path):
        status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _parquet_shards(source: Source, text_column: str, shard_bytes: int) -> Iterator[Shard]:
    with readers.open_parquet(source.path) as file:
        metadata = file.metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        at = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index(text_column)
        sizes = [(group.num_rows, group.column(at).total_uncompressed_size) for group in groups]
    begin = row = rows = size = 0
    for group, (count, amount) in enumerate(sizes):
        if group > begin and size + amount > shard_bytes:
            yield Shard(0, source, begin, group, row, rows, size)
            begin, row, rows, size = group, row + rows, 0, 0
        rows += count
        size += amount
    if sizes:
        yield Shard(0, source, begin, len(sizes), row, rows, size)


def _jsonl_shards(source: Source, shard_bytes: int) -> Iterator[Shard]:
    if readers.is_packed(source.path) or readers.is_url(source.path):
        yield Shard(0, source, 0, None, 0, None, source.stamp[0])
        return
    size = source.stamp[0]
    cuts = [(0, 0), *(_line_cuts(source.path, shard_bytes) if size > shard_bytes else ()), (size, 0)]
    for (begin, row), (end, _) in pairwise(cuts):
        yield Shard(0, source, begin, end, row, None, end - begin)


def _line_cuts(path: str, step: int) -> Iterator[tuple[int, int]]:
    """Yield (byte, number) of a line's beginning about every `step` bytes; not of the end of the file."""
    offset = number = 0
    wanted = step
    block = memoryview(bytearray(COUNT_BLOCK))
    with readers.damage(path), open(path, "rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        while count := file.readinto(block):
            start = 0
            while offset + count >= wanted:
                # A line may begin exactly at `wanted`: then its predecessor's end is the byte before.
                newline = bytes(block[max(wanted - 1 - offset, start) : count]).find(b"\n")
                if newline < 0:
                    break
                stop = max(wanted - 1 - offset, start) + newline + 1
                number += _newlines(block[start:stop])
                start = stop
                if offset + stop < end:
                    yield offset + stop, number
                wanted = max(wanted + step, offset + stop + 1)
            number += _newlines(block[start:count])
            offset += count


def _newlines(block: memoryview) -> int:
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))


def _file_shards(source: Source, files: Files, shard_bytes: int) -> Iterator[Shard]:
    begin = size = 0
    for index, (_, amount) in enumerate(files):
        if index > begin and (size + amount > shard_bytes or index - begin == SHARD_FILES):
            yield _file_shard(source, files, begin, index, size)
            begin, size = index, 0
        size += amount
    if files:
        yield _file_shard(source, files, begin, len(files), size)


def _file_shard(source: Source, files: Files, begin: int, end: int, size: int) -> Shard:
    names = tuple(name for name, _ in files[begin:end])
    return Shard(0, source, begin, end, begin, end - begin, size, files=names)
