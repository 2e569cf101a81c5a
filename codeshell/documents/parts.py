"""Cuts a file of rows into parts of about a number of bytes of text, which are read one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from codeshell.documents import arrow_files, readers

COUNT_BLOCK = 4 << 20
"""Bytes read at a time to count lines."""


class Part(NamedTuple):
    """A part of a table; the fields are those of `inputs.Shard`."""

    begin: int
    end: int | None
    first_row: int
    rows: int | None
    size: int


def cut(kind: str, path: str, size: int, text_column: str, shard_bytes: int, *, numbered: bool) -> Iterator[Part]:
    """The parts of a file, in order.

    Args:
        kind: `parquet`, `arrow`, `jsonl`, `csv` or `tar`; the last two are one part.
        size: bytes of a local file, as they were listed.
        numbered: give `first_row` in JSONL, for which all lines are counted; otherwise it is 0.
    """
    if kind == "parquet":
        return _parquet_parts(path, text_column, shard_bytes)
    if kind == "arrow" and not readers.is_url(path):
        return _arrow_parts(path, text_column, shard_bytes)
    if kind != "jsonl":
        return iter([Part(0, None, 0, None, shard_bytes)])
    return _jsonl_parts(path, size, shard_bytes, numbered=numbered)


def _parquet_parts(path: str, text_column: str, shard_bytes: int) -> Iterator[Part]:
    """Whole row groups, as many as hold about `shard_bytes` of text."""
    with readers.open_parquet(path) as file:
        metadata = file.metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        # The footer lists the leaves of nested columns too: the text column is found by its whole path.
        at = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index(text_column)
        sizes = [(group.num_rows, group.column(at).total_uncompressed_size) for group in groups]
    # A shard is full if the next row group would make it larger than `shard_bytes`.
    begin = row = rows = size = 0
    for group, (count, amount) in enumerate(sizes):
        if group > begin and size + amount > shard_bytes:
            yield Part(begin, group, row, rows, size)
            begin, row, rows, size = group, row + rows, 0, 0
        rows += count
        size += amount
    if sizes:
        yield Part(begin, len(sizes), row, rows, size)


def _arrow_parts(path: str, text_column: str, shard_bytes: int) -> Iterator[Part]:
    """Whole record batches, as many as hold about `shard_bytes` of text."""
    begin = row = rows = size = number = 0
    # The texts are not looked at: their sizes are known from the lengths of the buffers.
    for number, batch in enumerate(arrow_files.batches(path, [text_column])):
        amount = batch.column(text_column).nbytes
        if number > begin and size + amount > shard_bytes:
            yield Part(begin, number, row, rows, size)
            begin, row, rows, size = number, row + rows, 0, 0
        rows += batch.num_rows
        size += amount
    if rows:
        yield Part(begin, number + 1, row, rows, size)


def _jsonl_parts(path: str, size: int, shard_bytes: int, *, numbered: bool) -> Iterator[Part]:
    """Ranges of whole lines. A range counts from the multiple of `shard_bytes` before it: only the last is smaller.

    Args:
        numbered: give `first_row`, for which all lines are counted; otherwise it is 0.
    """
    if readers.is_packed(path) or readers.is_url(path):
        yield Part(0, None, 0, None, shard_bytes)
        return
    # The first byte and line of the next shard. An empty file has one empty shard.
    begin = row = 0
    with readers.damage(path), open(path, "rb") as file:
        while begin < size or begin == 0:
            # The shard ends where the first line begins at or after the next multiple of `shard_bytes`. To read from
            # one byte before it finds a line that begins right there.
            target = max(begin // shard_bytes * shard_bytes + shard_bytes, begin + 1)
            file.seek(target - 1)
            end = min(size, target - 1 + readers.skip_line(file)) if target < size else size
            yield Part(begin, end, row, None, min(shard_bytes, size - begin // shard_bytes * shard_bytes))
            if numbered and end < size:
                # All lines of this shard are counted to know the number of the next one's first.
                file.seek(begin)
                blocks = range(begin, end, COUNT_BLOCK)
                row += sum(file.read(min(COUNT_BLOCK, end - at)).count(b"\n") for at in blocks)
            begin = max(end, 1)
