"""Reading of a run's directory: what is absent is None or empty, and what is large is read in parts."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codeshell.documents.provenance import DROPPED
from codeshell.documents.shards import list_shards
from codeshell.engine.files import read_json
from codeshell.engine.stages import STAGES
from codeshell.errors import UserError

DIRECTORIES = {stage.name: stage.directories[0] for stage in STAGES}
"""Stage to directory, in the order of the pipeline."""

Row = dict[str, Any]


def statistics(run: Path) -> dict[str, dict[str, Any] | None]:
    """Every stage's `stats.json`; None for a stage that is not done."""
    return {stage: read_dict(run / directory / "stats.json") for stage, directory in DIRECTORIES.items()}


def read_dict(path: Path) -> dict[str, Any] | None:
    """A JSON object, None if there is no such file.

    Raises:
        UserError: the file is there and is no JSON object.
    """
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; delete it and run again")
    return value


def read_any(path: Path) -> Any:
    """Any JSON value, None if there is no such file."""
    return read_json(path) if path.exists() else None


def log_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file. A line cut short by a kill is passed over."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            # What is no JSON object is passed over: a kill may cut a line short.
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(value, dict):
                yield value


def dropped_batches(run: Path, stage: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The dropped documents of one stage, in batches of bounded size."""
    for path in list_shards(run / DIRECTORIES[stage], "dropped"):
        try:
            yield from pq.ParquetFile(path).iter_batches(batch_size=8192, columns=columns or DROPPED.names)
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            raise UserError(f"{path}: not a readable shard of drops ({error}); delete it and run again") from None


def examples(run: Path, stage: str, each: int) -> dict[str, list[Row]]:
    """A few dropped documents of every rule, chosen by a hash of repository and path, not by order or shard."""
    # For each rule a heap of its `each` lowest hashes so far, with their rows.
    chosen: dict[str, list[tuple[int, int, Row]]] = {}
    seen = 0
    for batch in dropped_batches(run, stage):
        names = zip(*(batch.column(name).to_pylist() for name in ("repo", "path", "rule")), strict=True)
        for index, (repo, path, rule) in enumerate(names):
            name = f"{repo}\0{path}".encode("utf-8", "replace")
            # A min-heap of negated hashes keeps the lowest hashes: its root is the one that has to go next. `seen`
            # breaks ties, because rows cannot be compared.
            seen += 1
            rank = (-int.from_bytes(md5(name, usedforsecurity=False).digest()[:8]), -seen)
            heap = chosen.setdefault(str(rule), [])
            if len(heap) == each and rank < heap[0][:2]:
                continue
            # Only rows that are kept for now become Python objects.
            (row,) = batch.slice(index, 1).to_pylist()
            (heapq.heappush if len(heap) < each else heapq.heapreplace)(heap, (*rank, row))
    return {rule: [entry[2] for entry in sorted(heap, reverse=True, key=_order)] for rule, heap in chosen.items()}


def _order(entry: tuple[int, int, Row]) -> tuple[int, int]:
    return entry[:2]


def extreme_pairs(run: Path, stage: str, keys: list[tuple[str, str]], limit: int) -> list[Row]:
    """The first `limit` dropped documents in the order of `keys` (as in `pyarrow.compute`), one for each kept one."""
    best: pa.Table | None = None
    for batch in dropped_batches(run, stage):
        table = pa.Table.from_batches([batch]).filter(pc.is_valid(batch.column("kept_id")))
        table = table if best is None else pa.concat_tables([best, table])
        # Keep spare rows, because a large cluster comes several times. After a huge one fewer than `limit` may be left.
        best = table.take(pc.select_k_unstable(table, 20 * limit, keys))
    # The first row of each kept document wins.
    rows: dict[str, Row] = {}
    for row in best.to_pylist() if best is not None else []:
        rows.setdefault(row["kept_id"], row)
    return list(rows.values())[:limit]


def documents(run: Path, identities: set[str]) -> dict[str, Row]:
    """Id, text, language and bytes of those of the named documents that are there, by id.

    The id columns are scanned; the other columns are read only for row groups that hold one of the ids.
    """
    found: dict[str, Row] = {}
    for path in list_shards(run / "collect", "documents"):
        if len(found) == len(identities):
            break
        try:
            file = pq.ParquetFile(path)
            for group in range(file.num_row_groups):
                # Only the ids that were not found yet, so the search ends with the last of them.
                wanted = pa.array(sorted(identities - found.keys()), pa.string())
                mask = pc.is_in(file.read_row_group(group, columns=["id"])["id"], wanted)
                if not pc.any(mask).as_py():
                    continue
                rows = file.read_row_group(group, columns=["id", "text", "language", "bytes"]).filter(mask)
                for row in rows.to_pylist():
                    found.setdefault(row["id"], row)
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            raise UserError(f"{path}: not a readable shard of documents ({error}); delete it and run again") from None
    return found


def parquet_rows(path: Path, rows: NDArray[np.int64]) -> list[Row]:
    """Some rows of a Parquet file; only the row groups that hold them are read.

    Args:
        rows: their numbers, ascending, each once.

    Raises:
        UserError: the file is not readable.
    """
    found: list[Row] = []
    try:
        with pq.ParquetFile(path) as file:
            # `first` is the number of the group's first row, `at` counts the rows that were found.
            first = at = 0
            for group in range(file.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                end = int(np.searchsorted(rows, last))
                if end > at:
                    found += file.read_row_group(group).take(pa.array(rows[at:end] - first)).to_pylist()
                first, at = last, end
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); delete it and run again") from None
    return found
