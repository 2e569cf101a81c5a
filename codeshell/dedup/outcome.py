"""The outcome of a search in the user's terms: which documents were dropped, and where they came from.

A search numbers documents by position: first those of an index (the prior ones), then those of the shards in order. A
part is one file of signatures, of a prior segment or of a group of shards; its documents have consecutive positions,
which `Found.firsts` cuts. Here positions become ids, sources and rows again, which is what a user can read.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.dedup.index import Index
from codeshell.dedup.search import Found, Search
from codeshell.documents.arrays import ArrayFile
from codeshell.documents.inputs import Plan, Shard
from codeshell.documents.shards import read_table

ROW_BITS = 40
"""In the files of a search a row is the row in its source plus the shard's number within its group << 40."""


class Outcome:
    """Reads the files of a search, one shard at a time. `index` is the one that the search compared with, if any. The
    shards of the search are groups of the plan's, in the same order."""

    def __init__(self, task: Search, found: Found, plan: Plan, index: Index | None) -> None:
        self.task, self.found, self.plan = task, found, plan
        self._prior_ids: list[pa.ChunkedArray] = list(index.ids()) if index else []
        # Of each shard of the plan: its group, and its number within it.
        self._places = [(group, inside) for group, shards in enumerate(task.shards) for inside in range(len(shards))]
        # What was read last: shards are asked for in order, and many may be in one group.
        self._last_rows: tuple[int, NDArray[np.int64]] | None = None
        self._last_ids: tuple[int, pa.ChunkedArray | None] | None = None

    def dropped(self, shard: Shard) -> NDArray[np.int64]:
        """The dropped documents of a shard, ascending, numbered within it."""
        group, begin, end = self._span(shard)
        first = int(self.found.firsts[len(self.task.prior) + group])
        return self._dropped_between(first + begin, first + end)

    def rows(self, shard: Shard) -> NDArray[np.int64]:
        """The row of each document of a shard in the shard's source."""
        group, begin, end = self._span(shard)
        rows: NDArray[np.int64] = self._rows(group)[begin:end] & ((1 << ROW_BITS) - 1)
        return rows

    def ids(self, shard: Shard) -> pa.ChunkedArray | None:
        """The id of each document of a shard; None for a shard without documents."""
        group, begin, end = self._span(shard)
        ids = self._ids(group)
        return ids.slice(begin, end - begin) if ids is not None and end > begin else None

    def _span(self, shard: Shard) -> tuple[int, int, int]:
        """The group of a shard, and the range of its documents there."""
        group, inside = self._places[shard.number]
        # Rows ascend within a shard, and the shard's number is in their highest bits.
        begin, end = np.searchsorted(self._rows(group), [inside << ROW_BITS, (inside + 1) << ROW_BITS])
        return group, int(begin), int(end)

    def _dropped_between(self, first: int, last: int) -> NDArray[np.int64]:
        """The dropped documents among the positions [first, last), numbered from there."""
        # `dropped` ascends, so they are one slice of it.
        dropped = self.found.decisions.dropped
        begin, end = np.searchsorted(dropped, [first, last])
        inside: NDArray[np.int64] = dropped[begin:end].astype(np.int64) - first
        return inside

    def _rows(self, group: int) -> NDArray[np.int64]:
        if self._last_rows is None or self._last_rows[0] != group:
            self._last_rows = group, ArrayFile(self.task.signed_path(group)).read("rows")
        return self._last_rows[1]

    def _ids(self, group: int) -> pa.ChunkedArray | None:
        """The ids of a group; None for one without documents, which has no such file."""
        if self._last_ids is None or self._last_ids[0] != group:
            path = self.task.documents_path(group)
            self._last_ids = group, read_table(path, ["id"])["id"] if path.exists() else None
        return self._last_ids[1]

    def dropped_bytes(self) -> int:
        """Bytes of text of all dropped documents."""
        total = 0
        for group in range(len(self.task.shards)):
            first, last = self.found.firsts[len(self.task.prior) + group :][:2].tolist()
            sizes = ArrayFile(self.task.signed_path(group)).read("bytes")
            total += int(sizes[self._dropped_between(first, last)].sum())
        return total

    def repeated_ids(self) -> int:
        """How many documents have the id of an earlier one. Rows are told apart by their place, so this loses none."""
        # Counted over all documents, kept or dropped.
        columns = [ids for group in range(len(self.task.shards)) if (ids := self._ids(group)) is not None]
        together = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
        return len(together) - int(pc.count_distinct(together, mode="all").as_py())

    def locate(self, positions: NDArray[np.uint32]) -> tuple[pa.Array, pa.Array, pa.Array]:
        """The id (string), source (int32) and row (int64) of each of the `positions`, which ascend. A document of an
        index has an id, but neither source nor row (null)."""
        # One array per part that is touched, after an empty one that fixes the type.
        ids: list[pa.Array] = [pa.array([], pa.string())]
        sources: list[pa.Array] = [pa.array([], pa.int32())]
        rows: list[pa.Array] = [pa.array([], pa.int64())]
        part_ids: pa.ChunkedArray | None
        for part, inside in self._by_part(positions):
            number = part - len(self._prior_ids)
            if number < 0:
                part_ids = self._prior_ids[part]
                sources.append(pa.nulls(len(inside), pa.int32()))
                rows.append(pa.nulls(len(inside), pa.int64()))
            else:
                part_ids = self._ids(number)
                places = self._rows(number)[inside]
                numbers = np.array([shard.source.number for shard in self.task.shards[number]], np.int32)
                sources.append(pa.array(numbers[places >> ROW_BITS]))
                rows.append(pa.array(places & ((1 << ROW_BITS) - 1)))
            assert part_ids is not None  # it has the documents `inside`
            ids.append(part_ids.take(pa.array(inside)).combine_chunks())
        return pa.concat_arrays(ids), pa.concat_arrays(sources), pa.concat_arrays(rows)

    def _by_part(self, positions: NDArray[np.uint32]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (part, numbers within it) for every part that has some of the `positions`."""
        # Positions ascend, so those of one part are one slice: cuts[p]:cuts[p + 1].
        cuts = np.searchsorted(positions, self.found.firsts)
        for part, first in enumerate(self.found.firsts[:-1].tolist()):
            inside = positions[cuts[part] : cuts[part + 1]].astype(np.int64) - first
            if len(inside):
                yield part, inside
