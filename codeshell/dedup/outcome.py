"""The outcome of a search in the user's terms: which documents were dropped, and where they came from.

A search numbers documents by position: first those of an index (the prior ones), then those of the shards in order. A
part is one file of signatures, of a prior segment or of a shard; its documents have consecutive positions, which
`Found.firsts` cuts. Here positions become ids, sources and rows again, which is what a user can read.
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


class Outcome:
    """Reads the files of a search, one shard at a time. `index` is the one that the search compared with, if any."""

    def __init__(self, task: Search, found: Found, plan: Plan, index: Index | None) -> None:
        self.task, self.found, self.plan = task, found, plan
        self._prior_ids: list[pa.ChunkedArray] = list(index.ids()) if index else []

    def dropped(self, shard: Shard) -> NDArray[np.int64]:
        """The dropped documents of a shard, ascending, numbered within it."""
        # The prior parts come first.
        part = len(self.task.prior) + shard.number
        first, last = self.found.firsts[part : part + 2].tolist()
        # `dropped` ascends, so the documents of one part are one slice of it.
        dropped = self.found.decisions.dropped
        begin, end = np.searchsorted(dropped, [first, last])
        inside: NDArray[np.int64] = dropped[begin:end].astype(np.int64) - first
        return inside

    def rows(self, shard: Shard) -> NDArray[np.int64]:
        """The row of each document of a shard in the shard's source."""
        rows: NDArray[np.int64] = ArrayFile(self.task.signed_path(shard.number)).read("rows")
        return rows

    def ids(self, shard: Shard) -> pa.ChunkedArray | None:
        """The id of each document of a shard; None for a shard without documents, which has no such file."""
        path = self.task.documents_path(shard.number)
        return read_table(path, ["id"])["id"] if path.exists() else None

    def dropped_bytes(self) -> int:
        """Bytes of text of all dropped documents."""
        return sum(
            int(ArrayFile(self.task.signed_path(shard.number)).read("bytes")[self.dropped(shard)].sum())
            for shard in self.plan.shards
        )

    def repeated_ids(self) -> int:
        """How many documents have the id of an earlier one. Rows are told apart by their place, so this loses none."""
        # Counted over all documents, kept or dropped.
        columns = [ids for shard in self.plan.shards if (ids := self.ids(shard)) is not None]
        together = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
        return len(together) - int(pc.count_distinct(together, mode="all").as_py())

    def locate(self, positions: NDArray[np.uint32]) -> tuple[pa.Array, pa.Array, pa.Array]:
        """The id (string), source (int32) and row (int64) of each of the `positions`, which ascend. A document of an
        index has an id, but neither source nor row (null)."""
        # One array per part that is touched, after an empty one that fixes the type.
        ids: list[pa.Array] = [pa.array([], pa.string())]
        sources: list[pa.Array] = [pa.array([], pa.int32())]
        rows: list[pa.Array] = [pa.array([], pa.int64())]
        for part, inside in self._by_part(positions):
            number = part - len(self._prior_ids)
            if number < 0:
                part_ids = self._prior_ids[part]
                sources.append(pa.nulls(len(inside), pa.int32()))
                rows.append(pa.nulls(len(inside), pa.int64()))
            else:
                shard = self.plan.shards[number]
                part_ids = self.ids(shard)
                sources.append(pa.repeat(pa.scalar(shard.source.number, pa.int32()), len(inside)))
                rows.append(pa.array(self.rows(shard)[inside]))
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
