"""What has changed below some inputs since they were listed: one walk, in which no file is opened.

A file counts as changed if its size or its modification time is another one. An edit that restores both is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from codeshell.documents.columns import DAMAGED
from codeshell.documents.inputs import Listing, Shard, Source
from codeshell.documents.walk import Found

EXAMPLES = 3
"""Files that are named at most."""

BLOCK = 1 << 16
"""Files that are looked up at a time."""


class Stamp(NamedTuple):
    """A file that was listed or is there now."""

    name: str
    """What ids show: what the user gave, and the path below that."""
    size: int
    time: int
    read: bool
    """Whether it takes part; pictures, say, do not."""


@dataclass
class Changes:
    """Numbers of files, and the first few of them by name."""

    new: int = 0
    changed: int = 0
    gone: int = 0
    names: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.new or self.changed or self.gone)

    def __str__(self) -> str:
        parts = [(self.new, "new"), (self.changed, "changed"), (self.gone, "gone")]
        found = [f"{count:,} {word}" for count, word in parts if count]
        # "1 file is new", "2 files are new and 1 changed": only the first number has a verb.
        first, *rest = found
        count, word = first.split(" ")
        first = f"{count} file is {word}" if count == "1" else f"{count} files are {word}"
        more = ", …" if self.new + self.changed + self.gone > len(self.names) else ""
        listed = [first, *rest]
        words = " and ".join(filter(None, (", ".join(listed[:-1]), listed[-1])))
        return f"{words} since ({', '.join(self.names)}{more})"


def stamps(listing: Listing) -> Iterator[Stamp]:
    """What is there now, in the order of a listing that checks nothing (`Listing(check=False)`)."""
    for source, pieces in listing.pieces(1 << 40):
        if source.kind != "files":
            yield _of_table(source)
            continue
        for _, found in pieces:
            assert isinstance(found, Found)
            yield _of_file(source, found)


def listed(shards: Iterable[Shard]) -> Iterator[Stamp]:
    """What shards say was there; each table once."""
    before = -1
    for shard in shards:
        if shard.source.kind == "files":
            yield from (_of_file(shard.source, found) for found in shard.files)
        elif shard.source.number != before:
            yield _of_table(shard.source)
        before = shard.source.number


def compare(then: Callable[[], Iterable[Stamp]], now: Iterable[Stamp]) -> Changes:
    """How `now` differs from what `then()` gives. Memory is 17 bytes per file of `then`, however long the names are."""
    # Hashes stand for names and for stamps; a false match among a billion files has a chance of 1 in 18.
    pairs = np.fromiter(_hashes(stamp for stamp in then() if stamp.read), np.dtype((np.int64, 2)))
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    keys, values = pairs[:, 0], pairs[:, 1]
    seen = np.zeros(len(keys), np.bool_)
    result = Changes()

    def settle(block: list[Stamp]) -> None:
        here = np.fromiter(_hashes(block), np.dtype((np.int64, 2)), len(block))
        places = np.searchsorted(keys, here[:, 0])
        known = np.zeros(len(block), np.bool_)
        inside = places < len(keys)
        known[inside] = keys[places[inside]] == here[inside, 0]
        seen[places[known]] = True
        same = known.copy()
        same[known] = values[places[known]] == here[known, 1]
        for index in np.flatnonzero(~same).tolist():
            # What takes no part now and took none then is of no interest.
            if not known[index] and not block[index].read:
                continue
            if known[index]:
                result.changed += 1
            else:
                result.new += 1
            if len(result.names) < EXAMPLES:
                result.names.append(block[index].name)

    block: list[Stamp] = []
    for stamp in now:
        block.append(stamp)
        if len(block) == BLOCK:
            settle(block)
            block = []
    settle(block)
    missing = set(keys[~seen].tolist())
    result.gone = len(missing)
    # What is gone has no name here, so the names are read once more.
    if missing and len(result.names) < EXAMPLES:
        names = (stamp.name for stamp in then() if stamp.read and hash(stamp.name) in missing)
        result.names += islice(names, EXAMPLES - len(result.names))
    return result


def _hashes(stamps: Iterable[Stamp]) -> Iterator[tuple[int, int]]:
    # Python's hashes of strings differ from process to process, and these live in one.
    return ((hash(stamp.name), hash((stamp.size, stamp.time, stamp.read))) for stamp in stamps)


def _of_file(source: Source, found: Found) -> Stamp:
    # The content of a bare repository is named by its hash, and has no time.
    time = hash(found.blob) if found.blob else found.time
    name = f"{source.name}/{found.path}" if source.name else found.path
    # A damaged table that was left out is compared, too: it is not opened again to see that it is damaged.
    return Stamp(name, found.size, time, not found.reason or found.reason == DAMAGED)


def _of_table(source: Source) -> Stamp:
    return Stamp(source.name, *source.stamp, read=True)
