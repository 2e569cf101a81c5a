"""What a user's inputs stand for: a plan of files in a fixed order, cut into shards. `batches` reads the shards.

An input is a folder, a file of rows (Parquet, Arrow, JSON Lines, CSV), a tar archive, a file of source code, a glob
of these, or an fsspec URL of rows; `{stdlib}` and `{site-packages}` in it are the running interpreter's own folders.
`expand` tells a folder that is a data set, whose files are taken bytewise by path, from source code, of which every
file that `walk` lets through is a document. A file that is given twice is taken once. Histories, issue dumps and
notebooks are named by prefixes (`corpora`).

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
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codeshell.documents import columns, commits, corpora, expand, formats, history, notebooks, parts, readers, walk
from codeshell.documents.columns import InputOptions as InputOptions
from codeshell.documents.walk import Found
from codeshell.engine.files import read_json, write_text
from codeshell.errors import UserError, say

SHARD_FILES = 20_000
"""Files in a shard at most, so that a folder of a million pictures is not one shard."""

PACKAGES = frozenset({"site-packages", "dist-packages"})
"""Folders below the standard library that are not part of it."""


@dataclass(frozen=True)
class Source:
    """A Parquet or JSONL file, a folder, or a run of single files; `codeshell dedup` writes it as one thing."""

    number: int
    kind: str
    """`parquet`, `arrow`, `jsonl`, `csv`, `tar`, `commits`, `issues` or `files`; while the inputs are listed also
    `file` and `folder`, which become `files`."""
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
    columns: tuple[Any, ...] = ()
    """The fields of `columns.Columns`, for what has columns."""
    detail: str = ""
    """The newest commit of a history when it was listed; the form that notebooks are read in, where one was named."""


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
    others: dict[int, list[Found]] = field(default_factory=dict)
    """The same files and folders by source, in the order of the walk."""


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
    left_out = dict(sorted(listing.left_out.items()))
    return Plan(listing.sources, shards, listing.repeated.total(), left_out, listing.others)


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan or a part of one, whole or not at all, so that a resumed job and its workers see the same files."""
    tree = {
        "sources": [vars(source) for source in plan.sources],
        "shards": [vars(shard) | {"source": shard.source.number} for shard in plan.shards],
        "repeated": plan.repeated,
        "left_out": plan.left_out,
        "others": list(plan.others.items()),
    }
    # ASCII JSON, because a path may hold bytes that are not UTF-8 (as surrogates).
    write_text(path, json.dumps(tree, separators=(",", ":")) + "\n")


def read_plan(path: Path) -> Plan:
    """What `write_plan` wrote; a damaged file is a `UserError`."""
    tree = read_json(path)
    try:
        # A part of a plan holds only the sources that its shards need: they are found by number, not by place.
        sources = {entry["number"]: Source(**_tuples(entry)) for entry in tree["sources"]}
        shards = []
        for entry in tree["shards"]:
            # Plans of earlier versions hold paths alone.
            files = tuple(Found(file, 0, "", "") if isinstance(file, str) else Found(*file) for file in entry["files"])
            shards.append(Shard(**entry | {"source": sources[entry["source"]], "files": files}))
        others = {number: [Found(*one) for one in found] for number, found in tree.get("others", [])}
        return Plan(list(sources.values()), shards, tree["repeated"], tree["left_out"], others)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a plan of codeshell dedup or run ({error}); run again in a new directory"
        ) from None


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    """Lists of JSON as the tuples that they were."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def check_unchanged(source: Source) -> None:
    """Raise a `UserError` if a local Parquet or JSONL file is not the one that was listed: its rows may have moved."""
    # A history is read from the commit that was listed, whatever has come since.
    if source.kind not in ("files", "commits") and source.stamp != _stamp(source.path, source.kind):
        raise UserError(
            f"{source.name}: it changed since it was listed, and its rows may have moved; begin again with "
            "codeshell run --refresh, or in a new output directory"
        )


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
        check: read the first part of each table to check its columns. Without it no file is opened.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        options: InputOptions,
        own: Sequence[Path] = (),
        *,
        by_input: bool = False,
        check: bool = True,
    ) -> None:
        if not inputs:
            raise UserError("inputs: none given; name folders, .parquet or .jsonl files")
        self._inputs, self._options, self.by_input = inputs, options, by_input
        self._own = [os.path.realpath(path) for path in own]
        self.sources: list[Source] = []
        self.left_out: Counter[str] = Counter()
        self.others: dict[int, list[Found]] = {}
        self.repeated: Counter[int] = Counter()
        """Files that were given again and left out, by input."""
        found = [
            Source(0, *one[:4], input=number, detail=one.detail)
            for number, text in enumerate(inputs)
            for one in expand.expand(text, self._own, options)
        ]
        # What the user's patterns say of the files of data set folders; those of other folders are walked later.
        self._choice = walk.Choice(options.include, options.exclude)
        self._found = [replace(one, kind="excluded") if self._excluded(one) else one for one in found]
        # Every column is checked before the first text is read.
        self._check = check
        tables = columns.Tables({}, {}, "")
        if check:
            taken = ((one.kind, one.path, one.name) for one in self._found if one.kind != "excluded")
            tables = columns.check_all(taken, options)
        self._columns, self._damaged, self._order_type = tables.columns, tables.damaged, tables.order_type
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
        # A repository and its history, or two forms of a notebook, are two things.
        real = [
            f"{one.kind}:{one.detail}:{one.path}"
            if one.detail or one.kind in corpora.KINDS
            else one.path
            if readers.is_url(one.path)
            else os.path.realpath(one.path)
            for one in self._found
        ]
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
            if one.kind == "excluded" and readers.is_url(path):
                self.left_out["excluded"] += 1
                continue
            if one.kind in ("file", "excluded") or one.path in self._damaged:
                found = self._single(one, *_stamp(one.path))
                found = found._replace(language=one.detail)
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
                root = os.path.realpath(one.path)
                yield self._source(replace(one, kind="files")), _amounts(self._walk(one, root, shared))
                continue
            if one.kind in corpora.KINDS:
                source = self._source(replace(one, stamp=_stamp(one.path, one.kind)))
                yield source, self._corpus(source, shard_bytes)
                continue
            # A table is stamped before it is cut, so that no change after that goes unnoticed.
            source = self._source(replace(one, stamp=_stamp(one.path), columns=self._columns.get(one.path, ())))
            yield source, self._parts(source, shard_bytes)
        yield from self._take(singles)
        for pattern in self._choice.unused() if self._check else ():
            say(f"{pattern!r}: this pattern to include or exclude files matches nothing below the inputs; fix it")

    def _excluded(self, one: Source) -> bool:
        """Whether the user's patterns leave out a file of a data set folder."""
        inner = one.output.partition("/")[2]
        parts = inner.split("/") if inner and self._choice else ()
        ends = range(1, len(parts) + 1)
        return any(self._choice.leaves_out("/".join(parts[:end]), directory=end < len(parts)) for end in ends)

    def _parts(self, source: Source, shard_bytes: int) -> Pieces:
        """The parts of a table."""
        path, size, numbered = source.path, source.stamp[0], not self.by_input
        text = columns.columns_of(source.columns, self._options).text
        for part in parts.cut(source.kind, path, size, text, shard_bytes, numbered=numbered):
            yield part.size, Shard(0, source, *part, order_type=self._order_type)

    def _corpus(self, source: Source, shard_bytes: int) -> Pieces:
        """The parts of a history; an issue dump is one part, because an issue may have events in all of its files."""
        if source.kind == "issues":
            _, files = corpora.issue_list(source.path)
            size = sum(file.size for file in files)
            yield size, Shard(0, source, 0, len(files), 0, None, size, files=files)
            return
        total = history.count(source.path, source.detail) if source.detail else 0
        step = max(1, shard_bytes // corpora.COMMIT_BYTES)
        for begin in range(0, total, step):
            end = min(total, begin + step)
            size = (end - begin) * corpora.COMMIT_BYTES
            yield size, Shard(0, source, begin, end, begin * commits.MOST_FILES, None, size)

    def _single(self, one: Source, size: int, time: int) -> Found:
        """A file that is named by itself. Without `by_input` its name decides nothing: it is read whatever it is."""
        path, limit = Path(one.path), self._options.single_limit
        if one.path in self._damaged:
            return Found(path.name, size, path.parent.name, columns.DAMAGED, time=time)
        limit = max(limit, notebooks.MOST_BYTES) if notebooks.is_notebook(path.name) else limit
        reason = "over_large" if size > limit else ""
        if one.kind == "excluded":
            reason = "excluded"
        elif self.by_input:
            reason = walk.why_not_read(path.name, size, limit)
        return Found(path.name, size, path.parent.name, reason, time=0 if reason else time)

    def _walk(self, folder: Source, root: str, shared: bool) -> Iterator[Found]:
        """The files of a folder; `shared` if they may also be given in other ways."""
        # The job's own directories as paths below this folder.
        own = frozenset(path[len(root) + 1 :] for path in self._own if path.startswith(f"{root}/"))
        # Bytes of code, and of files of rows, which are not read here.
        code = rows = tables = 0
        for found in walk.walk(
            folder.path,
            max_file_bytes=self._options.max_file_bytes,
            vendored=self._options.vendored,
            leave_out=PACKAGES if "{stdlib}" in self._inputs[folder.input] else frozenset(),
            own=own,
            gitignore=self._options.gitignore,
            choice=self._choice,
        ):
            # Where a form of notebooks was named, they alone are the input.
            if folder.detail:
                if not notebooks.is_notebook(found.path):
                    continue
                found = found._replace(language=folder.detail)
            if not found.reason:
                code += found.size
            elif found.reason in ("binary", "unknown_language") and formats.named(found.path) in columns.TABLES:
                rows, tables = rows + found.size, tables + 1
            # A reason goes with the file if every file is accounted for, else it is counted.
            if found.reason and not self.by_input:
                self.left_out[found.reason] += 1
                self.others.setdefault(len(self.sources) - 1, []).append(found)
            elif shared and not found.reason and f"{root}/{found.path}" in self._seen:
                self.repeated[folder.input] += 1
            else:
                if shared and not found.reason:
                    self._seen.add(f"{root}/{found.path}")
                yield found
        if self._check and tables and code <= expand.CODE_SHARE * rows:
            say(
                f"{folder.name or folder.path}: read as source code, without its files of rows ({tables:,}, "
                f"{rows / 1e6:,.1f} MB); to read these, give them as inputs, or a folder that holds them alone"
            )

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


def _stamp(path: str, kind: str = "") -> tuple[int, int]:
    """Size and modification time of a local file; of a history or a dump, what changes with it."""
    if readers.is_url(path):
        return 0, 0
    if kind in corpora.KINDS:
        return corpora.stamp(kind, path)
    with readers.damage(path):
        status = os.stat(path)  # noqa: PTH116 (thousands of files: a path object costs more than the call)
    return status.st_size, status.st_mtime_ns
