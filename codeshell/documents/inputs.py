"""What a user's inputs stand for: a plan of files in a fixed order, cut into shards. `batches` reads the shards.

An input is a folder, a Parquet or JSONL (plain, .gz, .zst) file, a file of source code, a glob of these, or an fsspec
URL of Parquet or JSONL; `{stdlib}` and `{site-packages}` in it are the running interpreter's own folders. A folder
whose files are all Parquet or JSONL (except `PASSED_OVER`) is a data set: its files are taken, bytewise by path. Any
other folder is source code: every file that `walk` lets through is a document. A file that is given twice is taken
once.

    Listing   expands the inputs, checks their columns, and walks the folders: sources, in order
    cut       cuts the sources into lists of shards of about `shard_bytes` of text, as a stream
    plan      holds all of it, for jobs that need every shard at once
    write_plan, read_plan   the one format on disk

A document is row `row` of a source: the row of a Parquet file, the line of a JSONL file (from 0, blank lines count),
the place in the list of a folder. Documents are ordered by (source, row), in the order in which the inputs are given;
how sources are cut into shards changes nothing in that.
"""

from __future__ import annotations

import json
import os
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path

from codeshell.documents import columns, readers, walk
from codeshell.documents.columns import InputOptions as InputOptions
from codeshell.documents.walk import Found
from codeshell.engine.files import read_json, write_text
from codeshell.errors import UserError

SHARD_FILES = 20_000
"""Files in a shard at most, so that a folder of a million pictures is not one shard."""

PASSED_OVER = (".*", "_*", "README*", "LICENSE*", "dataset_info*.json")
"""Names in a data set folder that are not data."""

PACKAGES = frozenset({"site-packages", "dist-packages"})
"""Folders below the standard library that are not part of it."""

COUNT_BLOCK = 4 << 20
"""Bytes read at a time to count lines."""


@dataclass(frozen=True)
class Source:
    """A Parquet or JSONL file, a folder, or a run of single files; `codeshell dedup` writes it as one thing."""

    number: int
    kind: str
    """`parquet`, `jsonl` or `files`; while the inputs are listed also `file` and `folder`, which become `files`."""
    path: str
    """Absolute path or URL; for `files`, the folder that they are below."""
    name: str
    """The path as the user gave it, for ids and messages."""
    output: str
    """Where it is written below the output directory, with `/`; no two sources share it."""
    stamp: tuple[int, int] = (0, 0)
    """Size and modification time (ns) of a local Parquet or JSONL file when it was listed."""
    input: int = 0
    """Index of the input that it belongs to (of the first one, for a run of single files)."""


@dataclass(frozen=True)
class Shard:
    """A part of a source; readable on any machine that sees the same paths."""

    number: int
    source: Source
    begin: int
    """First row group, byte (where a line begins) or file."""
    end: int | None
    """One past the last; None for a JSONL file that can only be read to its end."""
    first_row: int
    """Row of the first row, line or file."""
    rows: int | None
    """Rows or files; None for JSONL."""
    size: int
    """Bytes of text, about. A file that cannot be cut counts as a whole shard."""
    order_type: str = ""
    """Type of the order column: `int64`, `float64`, `string`, `timestamp[us]` or `timestamp[ns]`; the same in all
    shards."""
    files: tuple[Found, ...] = ()
    """For `files`: what `walk` found, with paths below `source.path`."""


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
    """List the inputs and cut them into shards of about `shard_bytes` of text, each a part of one source.

    What is below the directories `own`, which the job itself writes to, is none of the inputs.

    Footers of Parquet files and the first lines of JSONL files are read, to check the columns; a plain JSONL file that
    is cut is read through once, to count its lines.

    Raises:
        UserError: a path or glob without a file, a damaged file, an unknown column (those there are are named), a text
            column that is not text, an id or order column of a type that cannot be one.
    """
    # Without `by_input` every list that `cut` yields is one shard.
    listing = Listing(inputs, options, own)
    shards = [shard for (shard,) in cut(listing, shard_bytes)]
    return Plan(listing.sources, shards, listing.repeated.total(), dict(sorted(listing.left_out.items())))


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan or a part of one, whole or not at all, so that a resumed job and its workers see the same files."""
    tree = {
        "sources": [vars(source) for source in plan.sources],
        "shards": [vars(shard) | {"source": shard.source.number} for shard in plan.shards],
        "repeated": plan.repeated,
        "left_out": plan.left_out,
    }
    # ASCII JSON, because a path may hold bytes that are not UTF-8 (as surrogates).
    write_text(path, json.dumps(tree, separators=(",", ":")) + "\n")


def read_plan(path: Path) -> Plan:
    """What `write_plan` wrote; a damaged file is a `UserError`."""
    tree = read_json(path)
    try:
        # A part of a plan holds only the sources that its shards need: they are found by number, not by place.
        sources = {entry["number"]: Source(**entry | {"stamp": tuple(entry["stamp"])}) for entry in tree["sources"]}
        shards = []
        for entry in tree["shards"]:
            # Plans of earlier versions hold paths alone.
            files = tuple(Found(file, 0, "", "") if isinstance(file, str) else Found(*file) for file in entry["files"])
            shards.append(Shard(**entry | {"source": sources[entry["source"]], "files": files}))
        return Plan(list(sources.values()), shards, tree["repeated"], tree["left_out"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a plan of codeshell dedup or run ({error}); run again in a new directory"
        ) from None


def check_unchanged(source: Source) -> None:
    """Raise a `UserError` if a local Parquet or JSONL file is not the one that was listed: its rows may have moved."""
    if source.kind != "files" and source.stamp != _stamp(source.path):
        raise UserError(f"{source.name}: it changed while it was read; run again in a new output directory")


Pieces = Iterator[tuple[int, Shard | Found]]
"""What a source is cut into, at the finest: (bytes of text, file of a folder or part of a table)."""


class Listing:
    """The sources of some inputs, in order: expands, checks columns, walks folders, leaves out what was given before.

    Args:
        inputs, options, own: see `plan`.
        by_input: account for every file by its input. Files that are not read stay in the list with their reason, each
            single file is a source of its own and judged by its name like those of folders, and `cut` puts parts of
            several sources into one list of shards. Otherwise files that are not read are only counted, in
            `left_out`, and single files in a row are one source.
    """

    def __init__(
        self, inputs: Sequence[str], options: InputOptions, own: Sequence[Path] = (), *, by_input: bool = False
    ) -> None:
        if not inputs:
            raise UserError("inputs: none given; name folders, .parquet or .jsonl files")
        self._inputs, self._options, self.by_input = inputs, options, by_input
        self._own = [os.path.realpath(path) for path in own]
        self.sources: list[Source] = []
        self.left_out: Counter[str] = Counter()
        self.repeated: Counter[int] = Counter()
        """Files that were given again and left out, by input."""
        self._found = [one for number, text in enumerate(inputs) for one in _expand(number, text, self._own)]
        # Every column is checked before the first text is read.
        checked = {one.path: one for one in self._found}.values()
        types = [(one.name, columns.check(one.kind, one.path, one.name, options)) for one in checked]
        self._order_type = columns.common_order_type(types)
        # What was taken, by real path: whole inputs, and single files of folders that overlap with other inputs.
        self._seen: set[str] = set()
        # The first part of each owner's place below the output directory; all of these without their case; and the
        # number that a name has reached, so that many inputs of one name do not begin at 1 each.
        self._outputs: dict[str, str] = {}
        self._used: set[str] = set()
        self._reached: dict[str, int] = {}

    def pieces(self, shard_bytes: int) -> Iterator[tuple[Source, Pieces]]:
        """The sources in order, each with its pieces. The pieces must be taken before the next source is."""
        # (inputs,): two names of one file, through links, count as one.
        real = [one.path if readers.is_url(one.path) else os.path.realpath(one.path) for one in self._found]
        # A folder that is inside or around another input is `shared`: its files are remembered one by one.
        folders = {path for path, one in zip(real, self._found, strict=True) if one.kind == "folder"}
        around = {str(parent) for path in real for parent in Path(path).parents} if folders else set()
        singles: list[tuple[Source, Found]] = []
        for one, path in zip(self._found, real, strict=True):
            if path in self._seen:
                self.repeated[one.input] += 1
                continue
            # A folder that is shared is not marked as taken: another input may have taken a part of it, or may yet.
            shared = one.kind == "folder" and (path in around or not folders.isdisjoint(map(str, Path(path).parents)))
            if not shared:
                self._seen.add(path)
            # Single files wait in `singles` until another kind of input comes, because they are one source together.
            if one.kind == "file":
                found = self._single(one, Path(path).stat().st_size)
                if found.reason and not self.by_input:
                    self.left_out[found.reason] += 1
                    continue
                # Names in one source are all absolute, or all relative to the working directory.
                differs = singles and Path(singles[0][0].name).is_absolute() != Path(one.name).is_absolute()
                if self.by_input or differs:
                    yield from self._take(singles)
                singles.append((one, found))
                continue
            yield from self._take(singles)
            if one.kind == "folder":
                yield self._source(replace(one, kind="files")), _amounts(self._walk(one, path, shared))
                continue
            # A table is stamped before it is cut, so that no change after that goes unnoticed.
            source = self._source(replace(one, stamp=_stamp(one.path)))
            if one.kind == "parquet":
                parts = _parquet_shards(source, self._options.text_column, shard_bytes)
            else:
                parts = _jsonl_shards(source, shard_bytes, numbered=not self.by_input)
            yield source, ((part.size, replace(part, order_type=self._order_type)) for part in parts)
        yield from self._take(singles)

    def _single(self, one: Source, size: int) -> Found:
        """A file that is named by itself. Without `by_input` its name decides nothing: it is read whatever it is."""
        path, limit = Path(one.path), self._options.single_limit
        reason = "over_large" if size > limit else ""
        if self.by_input:
            reason = walk.why_not_read(path.name, size, limit)
        return Found(path.name, size, path.parent.name, reason)

    def _walk(self, folder: Source, root: str, shared: bool) -> Iterator[Found]:
        """The files of a folder; `shared` if they may also be given in other ways."""
        # The job's own directories as paths below this folder, with a slash at the end so that only whole names match.
        own = tuple(f"{path}/"[len(root) + 1 :] for path in self._own if path.startswith(f"{root}/"))
        for found in walk.walk(
            folder.path,
            max_file_bytes=self._options.max_file_bytes,
            vendored=self._options.vendored,
            leave_out=PACKAGES if "{stdlib}" in self._inputs[folder.input] else frozenset(),
        ):
            if f"{found.path}/".startswith(own):
                continue
            # A reason goes with the file if every file is accounted for, else it is counted.
            if found.reason and not self.by_input:
                self.left_out[found.reason] += 1
            elif shared and not found.reason and f"{root}/{found.path}" in self._seen:
                self.repeated[folder.input] += 1
            else:
                if shared and not found.reason:
                    self._seen.add(f"{root}/{found.path}")
                yield found

    def _take(self, singles: list[tuple[Source, Found]]) -> Iterator[tuple[Source, Pieces]]:
        """Files given one by one (or by a glob) are one source: a part of the folder that holds them all."""
        if not singles:
            return
        root = os.path.commonpath([str(Path(one.path).parent) for one, _ in singles])
        # All names are absolute or none, and none leaves the working directory: a common folder is one there too.
        name = os.path.commonpath([str(Path(one.name).parent) for one, _ in singles])
        files = [found._replace(path=os.path.relpath(one.path, root)) for one, found in singles]
        top = Path(root).name or "root"
        whole = Source(0, "files", root, "" if name == "." else name, top, input=singles[0][0].input)
        singles.clear()
        yield self._source(whole), _amounts(iter(files))

    def _source(self, one: Source) -> Source:
        """Give a source its number and a place of its own below the output directory."""
        number = len(self.sources)
        # The files of a data set folder share the folder's place; every other source has one to itself.
        top, slash, rest = one.output.partition("/")
        owner = f"{number}" if one.kind == "files" else one.path.removesuffix(slash + rest)
        if owner not in self._outputs:
            # Two inputs of one name get two places: `a`, `2-a`. Some file systems ignore the case of names.
            place, count = top, self._reached.get(top.casefold(), 1)
            while place.casefold() in self._used:
                count += 1
                place = f"{count}-{top}"
            self._reached[top.casefold()] = count
            self._used.add(place.casefold())
            self._outputs[owner] = place
        self.sources.append(replace(one, number=number, output=self._outputs[owner] + slash + rest))
        return self.sources[-1]


def cut(listing: Listing, shard_bytes: int) -> Iterator[list[Shard]]:
    """Cut the sources into lists of shards of about `shard_bytes` of text, each list a task. Only one is in memory.

    Without `listing.by_input` a list is one shard, so that it belongs to one source.
    """
    task: list[Shard] = []
    files: list[Found] = []
    # `task` and `files` hold what is not yielded yet: `total` bytes in `count` pieces. Files become a shard when the
    # task is full or their source ends.
    begin = total = count = number = 0
    for source, pieces in listing.pieces(shard_bytes):
        begin = 0  # the place of the first of `files` in this source
        for size, piece in pieces:
            if count and (total + size > shard_bytes or count >= SHARD_FILES):
                if files:
                    task.append(_file_shard(source, files, begin, number))
                    begin, number, files = begin + len(files), number + 1, []
                yield task
                task, total, count = [], 0, 0
            # A part of a table is a shard already; it only gets its number.
            if isinstance(piece, Shard):
                task.append(replace(piece, number=number))
                number += 1
            else:
                files.append(piece)
            total += size
            count += 1
        if files:
            task.append(_file_shard(source, files, begin, number))
            number, files = number + 1, []
        if task and not listing.by_input:
            yield task
            task, total, count = [], 0, 0
    if task:
        yield task


def _amounts(files: Iterator[Found]) -> Pieces:
    return ((0 if found.reason else found.size, found) for found in files)


def _file_shard(source: Source, files: list[Found], begin: int, number: int) -> Shard:
    size = sum(found.size for found in files if not found.reason)
    return Shard(number, source, begin, begin + len(files), begin, len(files), size, files=tuple(files))


def _expand(number: int, text: str, own: Sequence[str]) -> Iterator[Source]:
    """What one input stands for: templates, globs, data set folders, and what kind of thing each path is."""
    if not text:  # as a shell makes of a variable that is not set; as a path it would be the working directory
        raise UserError("inputs: one of them is empty; name a folder, a file, a glob or a URL")
    paths = sysconfig.get_paths()
    path = text.replace("{stdlib}", paths["stdlib"]).replace("{site-packages}", paths["purelib"])
    # A URL of a local file is a path: it may be a folder of code, and needs no driver.
    path = path.removeprefix("file://")
    if readers.is_url(path):
        yield from _expand_url(number, path)
        return
    path = str(Path(os.path.expanduser(path)))  # noqa: PTH111 (Path's own raises where there is no such user)
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
                yield Source(0, kind, f"{place}/{inner}", f"{shown}/{inner}", f"{top}/{inner}", input=number)
            if not data:
                yield Source(0, "folder", place, shown, top, input=number)
        elif Path(place).is_file():
            yield Source(0, readers.kind_of(place) or "file", place, shown, top, input=number)
        elif os.path.lexists(place):
            raise UserError(f"{name}: neither a file nor a folder; leave it out")
        else:
            raise UserError(f"{name}: no such file or folder; fix the path")


def _expand_url(number: int, url: str) -> Iterator[Source]:
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
        yield Source(0, kind, full, full, name[above:], input=number)


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


def _parquet_shards(source: Source, text_column: str, shard_bytes: int) -> Iterator[Shard]:
    """Whole row groups, as many as hold about `shard_bytes` of text."""
    with readers.open_parquet(source.path) as file:
        metadata = file.metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        # The footer lists the leaves of nested columns too: the text column is found by its whole path.
        at = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index(text_column)
        sizes = [(group.num_rows, group.column(at).total_uncompressed_size) for group in groups]
    # A shard is full if the next row group would make it larger than `shard_bytes`.
    begin = row = rows = size = 0
    for group, (count, amount) in enumerate(sizes):
        if group > begin and size + amount > shard_bytes:
            yield Shard(0, source, begin, group, row, rows, size)
            begin, row, rows, size = group, row + rows, 0, 0
        rows += count
        size += amount
    if sizes:
        yield Shard(0, source, begin, len(sizes), row, rows, size)


def _jsonl_shards(source: Source, shard_bytes: int, *, numbered: bool) -> Iterator[Shard]:
    """Ranges of whole lines. A range counts from the multiple of `shard_bytes` before it: only the last is smaller.

    Args:
        numbered: give `first_row`, for which all lines are counted; otherwise it is 0.
    """
    if readers.is_packed(source.path) or readers.is_url(source.path):
        yield Shard(0, source, 0, None, 0, None, shard_bytes)
        return
    # The first byte and line of the next shard. An empty file has one empty shard.
    begin, row, size = 0, 0, source.stamp[0]
    with readers.damage(source.path), open(source.path, "rb") as file:
        while begin < size or begin == 0:
            # The shard ends where the first line begins at or after the next multiple of `shard_bytes`. To read from
            # one byte before it finds a line that begins right there.
            target = max(begin // shard_bytes * shard_bytes + shard_bytes, begin + 1)
            file.seek(target - 1)
            end = min(size, target - 1 + readers.skip_line(file)) if target < size else size
            yield Shard(0, source, begin, end, row, None, min(shard_bytes, size - begin // shard_bytes * shard_bytes))
            if numbered and end < size:
                # All lines of this shard are counted to know the number of the next one's first.
                file.seek(begin)
                blocks = range(begin, end, COUNT_BLOCK)
                row += sum(file.read(min(COUNT_BLOCK, end - at)).count(b"\n") for at in blocks)
            begin = max(end, 1)


def _stamp(path: str) -> tuple[int, int]:
    """Size and modification time of a local file."""
    if readers.is_url(path):
        return 0, 0
    with readers.damage(path):
        status = Path(path).stat()
    return status.st_size, status.st_mtime_ns
