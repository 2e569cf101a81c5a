"""Document shards: Parquet (zstd) with one schema, written whole, read by row groups.

A document's `id` is the MD5 of its UTF-8 text in hexadecimal, so two documents are exact duplicates if and only if
their ids are equal. A stage that drops documents does not copy text: it writes the rows it keeps (`KEPT`) and the
rows it drops with the reason (`provenance.DROPPED`); `read_kept` joins the rows kept with the text.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codeshell.engine.files import atomic_path
from codeshell.errors import UserError

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("language", pa.string()),
        ("text", pa.large_string()),
        ("bytes", pa.int64()),
    ]
)
"""A document. `bytes` is the length of the text in UTF-8."""

KEPT = pa.schema(
    [
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("id", pa.string()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("language", pa.string()),
        ("bytes", pa.int64()),
    ]
)
"""A document that a stage lets through: row `row` of `collect/documents-{shard}.parquet`."""

ROW_GROUP = 2048
"""Rows per row group: some 20 MB of source files at most, so a reader holds little."""


REPEATING = frozenset({"repo", "language", "stage", "rule", "generated", "kept_repo", "shard", "limit"})
"""Columns that are written with a dictionary."""


def document_id(data: bytes) -> str:
    """MD5 of the UTF-8 text, 32 hexadecimal digits."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def shard_path(directory: Path, name: str, index: int) -> Path:
    """`directory/name-00012.parquet`."""
    return directory / f"{name}-{index:05d}.parquet"


def list_shards(directory: Path, name: str) -> list[Path]:
    """All shards of one name, in order."""
    return sorted(directory.glob(f"{name}-[0-9][0-9][0-9][0-9][0-9].parquet"))


class TableWriter:
    """Writes one shard a row group at a time, so that only the group is in memory: whole or not at all.

    `with TableWriter(path, DOCUMENTS) as writer: writer.write(table)`. The same tables give the same bytes.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema

    def __enter__(self) -> TableWriter:
        names = set(self.schema.names)
        # If opening fails, the temporary file goes; if it succeeds, `__exit__` closes and renames.
        with contextlib.ExitStack() as stack:
            writer = pq.ParquetWriter(
                stack.enter_context(atomic_path(self.path)),
                self.schema,
                compression="zstd",
                compression_level=3,
                # Texts and ids hardly repeat: a dictionary of them is hashing for nothing, and so are their extremes.
                use_dictionary=sorted(names & REPEATING),
                write_statistics=sorted(names - {"text"}),
            )
            self._writer = stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def write(self, table: pa.Table) -> None:
        """Append the rows, in groups of at most `ROW_GROUP`."""
        self._writer.write_table(table, row_group_size=ROW_GROUP)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as one shard: whole or not at all, the same bytes for the same table."""
    with TableWriter(path, table.schema) as writer:
        writer.write(table)


def write_rows(path: Path, schema: pa.Schema, rows: list[dict[str, object]]) -> None:
    """Write a list of dicts under a schema; an empty list gives a file with no rows."""
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a whole shard; a damaged file is a `UserError`."""
    try:
        # Not pq.read_table: that goes through the dataset layer, whose threads and read-ahead cost 60 MB per process.
        with pq.ParquetFile(path) as source:
            return source.read(columns=columns, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); delete it and run again") from None


def take_rows(table: pa.Table, rows: NDArray[np.integer[Any]]) -> pa.Table:
    """Some rows of a table, ascending and each once; all of them, the usual case, without copying the texts."""
    return table if len(rows) == table.num_rows else table.take(pa.array(rows))


def read_kept(collect: Path, kept: Path) -> Iterator[pa.Table]:
    """Yield the documents (schema `DOCUMENTS`) that one `kept-NNNNN.parquet` names, in its order.

    Args:
        collect: the directory that holds `documents-NNNNN.parquet`.
        kept: a file of schema `KEPT`, its rows ascending in (shard, row) and all of one shard.
    """
    rows = read_table(kept, ["shard", "row"])
    if rows.num_rows == 0:
        return
    # (kept,): rows of the shard, ascending. Row groups are read in turn, and only those that hold some of them.
    wanted = rows["row"].to_numpy()
    source = pq.ParquetFile(shard_path(collect, "documents", rows["shard"][0].as_py()))
    first, at = 0, 0  # the row that the group begins with, and how many of `wanted` lie before it
    for group in range(source.num_row_groups):
        count = source.metadata.row_group(group).num_rows
        # Rows [at, end) of `wanted` lie in this group.
        end = at + int((wanted[at:] < first + count).sum())
        if end > at:
            yield take_rows(source.read_row_group(group), wanted[at:end] - first)
        first, at = first + count, end


def totals(table: pa.Table) -> dict[str, int]:
    """`{"documents": rows, "bytes": sum of the column bytes}` of a table of documents."""
    return {"documents": table.num_rows, "bytes": pc.sum(table["bytes"]).as_py() or 0}


def by_language(table: pa.Table) -> dict[str, dict[str, int]]:
    """The totals of every language that occurs in a table of documents."""
    # One pass of Arrow over two columns, whatever the number of documents.
    groups: list[dict[str, Any]] = (
        table.select(["language", "bytes"]).group_by("language").aggregate([("bytes", "count"), ("bytes", "sum")])
    ).to_pylist()
    return {
        group["language"]: {"documents": group["bytes_count"], "bytes": group["bytes_sum"]}
        for group in sorted(groups, key=lambda group: str(group["language"]))
    }
