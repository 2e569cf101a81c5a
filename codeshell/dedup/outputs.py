"""Writes what stays of each input, in its format and order, and the table of duplicates."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codeshell.documents import readers
from codeshell.documents.columns import LONGEST_LINE
from codeshell.documents.inputs import Source, check_unchanged
from codeshell.engine.files import atomic_path, make_directory

DUPLICATES = pa.schema(
    [
        ("id", pa.string()),
        ("kept_id", pa.string()),
        ("jaccard", pa.float64()),
        ("cluster_id", pa.int64()),
        ("cluster_size", pa.int64()),
        ("shard", pa.int32()),
        ("row", pa.int64()),
        ("kept_shard", pa.int32()),
        ("kept_row", pa.int64()),
    ]
)
"""A dropped document and the kept one that it names. `shard` is the number of the source (`plan.sources`). For a kept
document that an index remembers, `kept_shard` and `kept_row` are null. `cluster_id` is the kept document's number."""

LEFT_OUT = pa.schema([("shard", pa.int32()), ("path", pa.string()), ("reason", pa.string())])
"""A file or folder that was not read: the number of its source, the path below it, and the reason (of `walk`)."""

GROUP_BYTES = 128 << 20
"""The most bytes of a row group that is held whole; a larger one is written as several."""

BATCH_BYTES = 16 << 20
"""Bytes read at once, about."""

DICTIONARY_BYTES = 64
"""The most bytes per value, on average and encoded, of a column that is written with a dictionary as it was read. With
longer values the writer's dictionary is full after some hundreds, and hashing and copying them was for nothing."""


def write_kept(
    source: Source, drop_rows: NDArray[np.int64], destination: Path, *, flush: bool = True
) -> dict[str, int]:
    """Write one source without some of its rows to `destination / source.output`.

    Args:
        source: a Parquet or JSONL file (a folder is for `folders.copy_folder`).
        drop_rows: (k,) ascending, each once.
        destination: the directory of all kept files; made if it is not there.
        flush: whether a table is on the disk when this returns; else the caller flushes many at once.

    Returns:
        `rows` written and `dropped`.
    """
    check_unchanged(source)
    output = destination / source.output
    make_directory(output.parent)
    if source.kind == "parquet":
        rows = _write_parquet(source, drop_rows, output, flush)
    else:
        rows = _write_jsonl(source, drop_rows, output, flush)
    return {"rows": rows, "dropped": len(drop_rows)}


def _write_parquet(source: Source, drop_rows: NDArray[np.int64], output: Path, flush: bool) -> int:
    written = first = 0
    with readers.open_parquet(source.path) as file, atomic_path(output, flush) as temporary:
        metadata = file.metadata
        # A Python file, because Arrow opens no path that is not UTF-8.
        with open(temporary, "wb") as sink, pq.ParquetWriter(sink, file.schema_arrow, **_settings(metadata)) as writer:
            for group in range(metadata.num_row_groups):
                # A row group of the input is one of the output, unless it is too large to hold.
                rows, size = metadata.row_group(group).num_rows, metadata.row_group(group).total_byte_size
                held: list[pa.RecordBatch] = []
                held_bytes = 0
                # Small batches even of a group that is held whole, because their buffers are used again.
                for batch in file.iter_batches(
                    max(1, rows * BATCH_BYTES // max(size, 1)), row_groups=[group], use_threads=False
                ):
                    # The rows of this batch that are dropped; `first` is the batch's first row in the file.
                    begin, end = np.searchsorted(drop_rows, [first, first + batch.num_rows])
                    held.extend(_runs(batch, drop_rows[begin:end] - first))
                    first += batch.num_rows
                    held_bytes += batch.nbytes
                    if held_bytes >= GROUP_BYTES:
                        written += _write_group(writer, held)
                        held_bytes = 0
                written += _write_group(writer, held)
    return written


def _runs(batch: pa.RecordBatch, drop: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """The runs of rows between those to `drop` (ascending), as views: a filter would copy every text."""
    begins = np.concatenate([np.zeros(1, np.int64), drop + 1])
    ends = np.append(drop, batch.num_rows)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if begin < end:
            yield batch.slice(begin, end - begin)


def _write_group(writer: pq.ParquetWriter, batches: list[pa.RecordBatch]) -> int:
    """Write batches as one row group and forget them; returns its rows."""
    table = pa.Table.from_batches(batches, writer.schema)
    if table.num_rows:
        writer.write_table(table, row_group_size=table.num_rows)
    batches.clear()
    return int(table.num_rows)


def _settings(metadata: pq.FileMetaData) -> dict[str, Any]:
    """How the input's columns are written, as arguments of `ParquetWriter`. The first row group stands for all."""
    if metadata.num_row_groups == 0:
        return {}
    group = metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    codecs = {"UNCOMPRESSED": "NONE", "LZ4_RAW": "LZ4"}
    return {
        "compression": {c.path_in_schema: codecs.get(c.compression, c.compression) for c in columns},
        "use_dictionary": [
            c.path_in_schema
            for c in columns
            if c.has_dictionary_page and c.total_uncompressed_size <= DICTIONARY_BYTES * c.num_values
        ],
        "write_statistics": [c.path_in_schema for c in columns if c.is_stats_set],
    }


def _write_jsonl(source: Source, drop_rows: NDArray[np.int64], output: Path, flush: bool) -> int:
    dropped, at, written = [*drop_rows.tolist(), -1], 0, 0
    with atomic_path(output, flush) as temporary, _packed(temporary, source.path) as file:
        for number, _, line in readers.numbered_lines(source.path, 0, None, LONGEST_LINE):
            if number == dropped[at]:
                at += 1
                continue
            if line is None:
                raise ValueError(f"{source.name}: a line over {LONGEST_LINE} bytes")
            if line.isspace():
                continue
            file.write(line)
            written += 1
    return written


@contextlib.contextmanager
def _packed(path: Path, like: str) -> Iterator[IO[bytes] | Any]:
    """Open a file to write, compressed as the name `like` says. The same content gives the same bytes."""
    with open(path, "wb") as raw:
        if like.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
                yield file
        elif like.lower().endswith(".zst"):
            with pa.CompressedOutputStream(pa.PythonFile(raw, "w"), "zstd") as file:
                yield file
        else:
            yield raw
