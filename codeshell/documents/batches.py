"""Reads the shards of a plan as Arrow batches: texts that C++ reads where they lie, with their rows, ids and order.

A document takes part if it has a text: not null, not empty, valid UTF-8. The others are counted by reason:

    no_text   null; a JSON record without the text key, or with something else than a string there
    empty     no bytes
    bad_utf8  not valid UTF-8
    bad_json  a line of JSONL that is not an object (or holds a lone surrogate)
    over_large  a line of over 1 GiB; a file that has grown over `max_file_bytes`
    binary, unreadable, special_file   of files: see `readers.read_file`

Parquet is read without a Python object for any row: a batch is Arrow's own memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell import _C
from codeshell.documents import readers
from codeshell.documents.columns import LONGEST_LINE
from codeshell.documents.inputs import InputOptions, Shard, check_unchanged
from codeshell.documents.texts import text_buffers

BATCH_BYTES = 16 << 20
"""Text in a batch, about: what the reader's estimate makes of it."""

READ_ROWS = 16_384
DICTIONARY_ROWS = 512
"""Rows of one batch at most; fewer where a dictionary hides how long the texts are (each row may be as long as it)."""


@dataclass(frozen=True)
class Batch:
    """Some documents of a shard, ascending by row. What was not asked for is None."""

    rows: NDArray[np.int64]
    """(n,): where they are in their source."""
    texts: pa.LargeStringArray
    """(n,), no nulls, valid UTF-8."""
    ids: pa.StringArray | None
    """(n,), no nulls. Of the id column, as text; without one, or where it is null, `NAME#ROW` for Parquet, `NAME@BYTE`
    (where the line begins, after decompression) for JSONL, and the path for a file."""
    order: pa.Array | None
    """(n,): int64 (numbers, booleans, times), double or large_string, by `shard.order_type`; null where there is none
    (null, NaN, or in JSONL a value of another type)."""
    left_out: dict[str, int]
    """Documents between these that do not take part, by reason."""


def read(shard: Shard, options: InputOptions, columns: Collection[str] = ("text",)) -> Iterator[Batch]:
    """The documents of a shard that take part. The batches may be cut anywhere; together they are always the same.

    Args:
        columns: "text" (always given), "id" and "order", if they are wanted.

    Raises:
        UserError: a damaged file, or one that has changed since it was listed.
    """
    check_unchanged(shard.source)
    kind = shard.source.kind
    if kind == "parquet":
        return _parquet_batches(shard, options, columns)
    rows = _jsonl_rows(shard, options) if kind == "jsonl" else _file_rows(shard, options)
    return _row_batches(rows, shard, columns)


def texts_at(shard: Shard, rows: Sequence[int] | NDArray[np.int64], options: InputOptions) -> pa.LargeStringArray:
    """The texts of some documents of a shard, by their rows in the source, in the order asked.

    Raises:
        ValueError: a row that the shard does not have, or whose text does not take part.
    """
    wanted = np.asarray(rows, np.int64)
    found: dict[int, str] = {}
    for batch in read(shard, options):
        for index in np.flatnonzero(np.isin(batch.rows, wanted)).tolist():
            found[int(batch.rows[index])] = batch.texts[index].as_py()
    missing = [row for row in wanted.tolist() if row not in found]
    if missing:
        raise ValueError(f"rows: {shard.source.name} has no document in row {missing[0]}")
    return pa.array([found[row] for row in wanted.tolist()], pa.large_string())


def _parquet_batches(shard: Shard, options: InputOptions, columns: Collection[str]) -> Iterator[Batch]:
    source = shard.source
    names = {"text": options.text_column, "id": options.id_column, "order": options.order_column}
    wanted = {role: name for role, name in names.items() if name and (role == "text" or role in columns)}
    with readers.open_parquet(source.path) as file:
        hidden = pa.types.is_dictionary(file.schema_arrow.field(options.text_column).type)
        each = max(1, shard.size // max(shard.rows or 1, 1))
        size = min(DICTIONARY_ROWS if hidden else READ_ROWS, max(1, BATCH_BYTES // each))
        groups = list(range(shard.begin, shard.end or 0))
        row = shard.first_row
        for batch in file.iter_batches(size, row_groups=groups, columns=list(set(wanted.values())), use_threads=False):
            rows = np.arange(row, row + batch.num_rows, dtype=np.int64)
            row += batch.num_rows
            texts, takes_part, left_out = _usable(batch.column(options.text_column))
            ids = order = None
            if "id" in columns:
                ids = _ids(batch.column(options.id_column) if options.id_column else None, source.name, rows)
            if "order" in wanted:
                order = _order_values(batch.column(wanted["order"]), shard.order_type)
            if not takes_part.all():
                mask = pa.array(takes_part)
                texts, rows = texts.filter(mask), rows[takes_part]
                ids = ids.filter(mask) if ids is not None else None
                order = order.filter(mask) if order is not None else None
            yield Batch(rows, texts, ids, order, left_out)


def _usable(column: pa.Array) -> tuple[pa.LargeStringArray, NDArray[np.bool_], dict[str, int]]:
    """A text column as large_string, which rows take part, and how many of the others there are by reason."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    left_out: dict[str, int] = {}
    present = np.ones(len(column), np.bool_)
    if column.null_count:
        present = column.is_valid().to_numpy(zero_copy_only=False)
        left_out["no_text"] = column.null_count
        column = pc.fill_null(column, "" if _is_string(column.type) else b"")
    if _is_string(column.type):
        texts = column.cast(pa.large_string())
    else:
        bytes_of = column.cast(pa.large_binary())
        texts = pa.LargeStringArray.from_buffers(len(bytes_of), *bytes_of.buffers()[1:], offset=bytes_of.offset)
    empty = pc.equal(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False) & present
    if empty.any():
        left_out["empty"] = int(empty.sum())
    takes_part = present & ~empty
    try:
        texts.validate(full=True)  # Parquet readers trust the file to hold UTF-8
    except pa.ArrowInvalid:
        (piece,) = text_buffers(texts)
        valid = _C.measure_texts(piece.data, piece.offsets)["valid"]
        left_out["bad_utf8"] = int((~valid & takes_part).sum())
        takes_part &= valid
    return texts, takes_part, left_out


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _ids(column: pa.Array | None, name: str, rows: NDArray[np.int64]) -> pa.StringArray:
    places = pc.binary_join_element_wise(pa.scalar(f"{_printable(name)}#"), pa.array(rows).cast(pa.string()), "")
    return places if column is None else pc.coalesce(column.cast(pa.string()), places)


def _printable(name: str) -> str:
    """A path as an id: bytes of it that are not UTF-8 are written as backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _order_values(column: pa.Array, kind: str) -> pa.Array:
    """Values to be compared, of one type in all shards; NaN is none."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind == "float64":
        values = column.cast(pa.float64(), safe=False)
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    if kind == "string":
        return column.cast(pa.large_string())
    if kind.startswith("timestamp"):
        return column.cast(pa.timestamp(kind[10:12])).cast(pa.int64())
    return column.cast(pa.int64())


@dataclass(frozen=True)
class _Row:
    """A line or a file."""

    row: int
    identity: str
    text: str | None
    reason: str = ""
    order: Any = None


def _row_batches(rows: Iterator[_Row], shard: Shard, columns: Collection[str]) -> Iterator[Batch]:
    batch: list[_Row] = []
    left_out: Counter[str] = Counter()
    size = 0
    for row in rows:
        if row.text is None:
            left_out[row.reason] += 1
            continue
        batch.append(row)
        size += len(row.text)
        if size >= BATCH_BYTES:
            yield _row_batch(batch, left_out, shard, columns)
            batch, left_out, size = [], Counter(), 0
    if batch or left_out:
        yield _row_batch(batch, left_out, shard, columns)


def _row_batch(batch: list[_Row], left_out: Counter[str], shard: Shard, columns: Collection[str]) -> Batch:
    order = None
    if "order" in columns and shard.order_type == "string":
        order = pa.array([row.order if isinstance(row.order, str) else None for row in batch], pa.large_string())
    elif "order" in columns:
        numbers = [float(row.order) if isinstance(row.order, (int, float)) else None for row in batch]
        order = _order_values(pa.array(numbers, pa.float64()), shard.order_type)
    return Batch(
        rows=np.array([row.row for row in batch], np.int64),
        texts=pa.array([row.text for row in batch], pa.large_string()),
        ids=pa.array([row.identity for row in batch], pa.string()) if "id" in columns else None,
        order=order,
        left_out=dict(left_out),
    )


def _jsonl_rows(shard: Shard, options: InputOptions) -> Iterator[_Row]:
    source = shard.source
    for row, offset, line in readers.numbered_lines(source.path, shard.begin, shard.end, LONGEST_LINE):
        if line is not None and line.isspace():
            continue
        number = shard.first_row + row
        place = f"{_printable(source.name)}@{offset}"
        if line is None:
            yield _Row(number, place, None, "over_large")
            continue
        record = readers.decode_record(line)
        if record is None:
            yield _Row(number, place, None, "bad_json")
            continue
        text = record.get(options.text_column)
        identity = record.get(options.id_column) if options.id_column else None
        if isinstance(identity, (str, int)) and not isinstance(identity, bool):
            place = str(identity)
        order = record.get(options.order_column) if options.order_column else None
        if isinstance(text, str) and text:
            yield _Row(number, place, text, order=order)
        else:
            yield _Row(number, place, None, "empty" if text == "" else "no_text")


def _file_rows(shard: Shard, options: InputOptions) -> Iterator[_Row]:
    source = shard.source
    for row, name in enumerate(shard.files, shard.first_row):
        data, reason = readers.read_file(f"{source.path}/{name}", options.max_file_bytes)
        text = None
        if not reason:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                reason = "bad_utf8"
        yield _Row(row, _printable(f"{source.name}/{name}" if source.name else name), text, reason)
