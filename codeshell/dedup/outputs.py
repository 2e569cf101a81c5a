"""Writes what stays of each input, in its format and order, and the table of duplicates."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codeshell.documents import arrow_files, corpora, formats, readers
from codeshell.documents.batches import rows as read_rows
from codeshell.documents.columns import LONGEST_LINE, InputOptions
from codeshell.documents.csv_files import CsvReader
from codeshell.documents.inputs import Shard, Source, check_unchanged
from codeshell.documents.tar_files import BLOCK, TarReader
from codeshell.engine.files import atomic_path, make_directory, write_text

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

DESCRIPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What `save_to_disk` of Hugging Face datasets writes beside its Arrow files."""
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
    source: Source,
    drop_rows: NDArray[np.int64],
    destination: Path,
    *,
    flush: bool = True,
    shards: Sequence[Shard] = (),
    options: InputOptions | None = None,
) -> dict[str, int]:
    """Write one source without some of its rows to `destination / source.output`.

    Args:
        source: a file of rows or an archive (a folder is for `folders.copy_folder`).
        drop_rows: (k,) ascending, each once.
        destination: the directory of all kept files; made if it is not there.
        flush: whether a table is on the disk when this returns; else the caller flushes many at once.
        shards, options: all parts of a history or an issue dump, and how they are read. Their documents lie in no file,
            so that those that stay are written as JSON Lines.

    Returns:
        `rows` written and `dropped`.
    """
    check_unchanged(source)
    output = destination / source.output
    make_directory(output.parent)
    if source.kind == "parquet":
        rows = _write_parquet(source, drop_rows, output, flush)
    elif source.kind == "arrow":
        rows = _write_arrow(source, drop_rows, output, flush)
    elif source.kind == "csv":
        rows = _write_csv(source, drop_rows, output, flush)
    elif source.kind == "tar":
        rows = _write_tar(source, drop_rows, output, flush)
    elif source.kind in corpora.KINDS:
        rows = _write_documents(shards, options or InputOptions(), drop_rows, output, flush)
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


def _write_arrow(source: Source, drop_rows: NDArray[np.int64], output: Path, flush: bool) -> int:
    """The batches of the input without their dropped rows, in the same of Arrow's two formats."""
    make = pa.ipc.new_file if arrow_files.is_file_format(source.path) else pa.ipc.new_stream
    written = first = 0
    # The schema of the file holds what Hugging Face datasets knows of the columns.
    schema = arrow_files.schema(source.path)
    with atomic_path(output, flush) as temporary, open(temporary, "wb") as sink, make(sink, schema) as writer:
        for batch in arrow_files.batches(source.path):
            begin, end = np.searchsorted(drop_rows, [first, first + batch.num_rows])
            for run in _runs(batch, drop_rows[begin:end] - first):
                writer.write_batch(run)
                written += run.num_rows
            first += batch.num_rows
    return written


def copy_descriptions(sources: Sequence[Source], destination: Path) -> None:
    """Copy the files beside Arrow files that `save_to_disk` wrote, so that `load_from_disk` reads what stays.

    The counts in `dataset_info.json` are still those of the input.
    """
    for source in sources:
        if source.kind != "arrow" or readers.is_url(source.path):
            continue
        folders = [(Path(source.path).parent, (destination / source.output).parent)]
        if "/" in source.output.rpartition("/")[0]:  # the folder of a split, below that of all of them
            folders.append((folders[0][0].parent, folders[0][1].parent))
        for folder, target in folders:
            for name in DESCRIPTIONS:
                if (folder / name).is_file() and not (target / name).exists():
                    write_text(target / name, (folder / name).read_text(encoding="utf-8"))


def _write_csv(source: Source, drop_rows: NDArray[np.int64], output: Path, flush: bool) -> int:
    """The header and the records that stay, with the bytes that they have in the input."""
    dropped = set(drop_rows.tolist())
    written = 0
    with readers.damage(source.path), readers.open_lines(source.path) as lines:
        reader = CsvReader(source.path, lines)
        with atomic_path(output, flush) as temporary, _packed(temporary, source.path) as file:
            file.write(reader.head)
            for row, (_, raw) in enumerate(reader):
                if row in dropped:
                    continue
                file.write(raw)
                written += 1
    return written


def _write_tar(source: Source, drop_rows: NDArray[np.int64], output: Path, flush: bool) -> int:
    """The archive without the dropped files: every other member is copied as it is, links and directories too."""
    dropped = set(drop_rows.tolist())
    row = written = 0
    with readers.damage(source.path), readers.open_lines(source.path) as packed:
        reader = TarReader(packed)
        with atomic_path(output, flush) as temporary, _packed(temporary, source.path) as file:
            while member := reader.next():
                file.write(member.shared)
                if member.kind != "directory":
                    row += 1
                    if row - 1 in dropped:
                        continue
                    written += 1
                file.write(member.head)
                size = 0
                while piece := reader.read(BATCH_BYTES):
                    file.write(piece)
                    size += len(piece)
                file.write(bytes(-size % BLOCK))
            file.write(bytes(2 * BLOCK))
    return written


def _write_documents(
    shards: Sequence[Shard], options: InputOptions, drop_rows: NDArray[np.int64], output: Path, flush: bool
) -> int:
    dropped = set(drop_rows.tolist())
    written = 0
    with atomic_path(output, flush) as temporary, open(temporary, "wb") as file:
        for row in (row for shard in shards for row in read_rows(shard, options)):
            if row.reason or row.row in dropped or not readers.is_utf8_bytes(row.text):
                continue
            names = {"repo": row.repo, "path": row.path, "language": row.language}
            record = {key: readers.storable(value or "") for key, value in names.items()} | {"text": row.text.decode()}
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            written += 1
    return written


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
    """Open a file to write, compressed as the file `like` is. The same content gives the same bytes."""
    with readers.open_binary(like) as old:
        pack = formats.packing(old.read(16))
    with open(path, "wb") as raw:
        if pack == "gz":
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
                yield file
        elif pack == "zst":
            with pa.CompressedOutputStream(pa.PythonFile(raw, "w"), "zstd") as file:
                yield file
        elif pack == "bz2":
            with bz2.BZ2File(raw, "wb") as file:
                yield file
        elif pack == "xz":
            with lzma.LZMAFile(raw, "wb") as file:
                yield file
        else:
            yield raw
