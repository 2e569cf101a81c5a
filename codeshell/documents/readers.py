"""Reads what a user has: source files, Parquet, JSONL (plain, .gz, .zst), here or behind an fsspec URL.

Rows are streamed: never more than a batch of rows or one line is in memory. A bad row is yielded with its reason; a
file that is damaged as a whole is a `UserError`, because nobody can tell what is missing from it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import stat
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from codeshell.errors import UserError
from codeshell.recipe import Collect

TEXT_COLUMN_REMEDY = "set collect.text_column (codeshell dedup: --text-column)"

BATCH_ROWS = 256
"""Rows of a Parquet file in memory at once: at most 256 texts."""

PARQUET_BUFFER = 1 << 20
"""Bytes read at a time of a column chunk."""

UNSIZED_BYTES = 1 << 20
"""Read at most of a file that says it is empty, as those of /proc do."""

NUL_BYTES = 8192
"""A zero byte within this makes a file binary, as git judges."""


class Row(NamedTuple):
    """One row of a Parquet or JSONL file; `reason` is empty if `text` is to be kept."""

    text: bytes
    repo: str | None
    path: str | None
    language: str | None
    place: str
    """`#12` (row of a Parquet file) or `@4096` (byte where the line begins, after decompression)."""
    reason: str = ""


def is_url(path: str) -> bool:
    return "://" in path


def kind_of(path: str) -> str:
    """`parquet`, `jsonl` or an empty string, by the end of the name."""
    lower = path.lower()
    if lower.endswith((".parquet", ".pq")):
        return "parquet"
    if lower.endswith(tuple(f"{ending}{pack}" for ending in (".jsonl", ".ndjson") for pack in ("", ".gz", ".zst"))):
        return "jsonl"
    return ""


def read_file(path: str, limit: int) -> tuple[bytes, str]:
    """The bytes of a regular file, or the reason why it has none to give.

    The file may have changed since it was listed: it may be gone, longer, or a pipe by now.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b"", "unreadable"
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b"", "special_file"
        if status.st_size > limit:
            return b"", "over_large"
        wanted = min(limit, status.st_size or UNSIZED_BYTES) + 1  # os.read takes the memory before it looks
        data = os.read(descriptor, wanted)
        while len(data) < status.st_size:
            more = os.read(descriptor, wanted - len(data))
            if not more:
                break
            data += more
    except OSError:
        return b"", "unreadable"
    finally:
        os.close(descriptor)
    return data, why_not_text(data, limit)


def why_not_text(data: bytes, limit: int) -> str:
    """Reasons that the bytes alone give, but for bad UTF-8, which `codeshell.scorers.text` finds on its way."""
    if not data:
        return "empty"
    if len(data) > limit:
        return "over_large"
    return "binary" if data.find(b"\0", 0, NUL_BYTES) >= 0 else ""


@contextlib.contextmanager
def damage(path: str) -> Iterator[None]:
    """Turn what a broken file raises into a `UserError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; mend the path") from None
    except UnicodeEncodeError:
        raise UserError(f"{path}: its name is not UTF-8, and Arrow opens no such path; rename it") from None
    except (OSError, EOFError, pa.ArrowException) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read whole ({text}); mend it or leave it out") from None


def open_binary(path: str) -> IO[bytes]:
    """A local file or an fsspec URL, for reading."""
    if not is_url(path):
        return open(path, "rb")
    import fsspec

    with driver(path):
        file: IO[bytes] = fsspec.open(path, "rb").open()
        return file


@contextlib.contextmanager
def driver(url: str) -> Iterator[None]:
    """Turn what fsspec says of a kind of URL that it cannot open into a `UserError`. `OSError` is left to `damage`."""
    try:
        yield
    except (OSError, UserError, pa.ArrowException):
        raise
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {error}; install the fsspec driver for this kind of URL") from None
    except Exception as error:  # The drivers' network libraries have exceptions of their own.
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{url}: cannot be opened ({text}); mend the URL, or see to network and credentials") from None


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, to be read a page at a time; what is wrong with it is a `UserError` that names it.

    Column chunks are not read ahead or whole: a row group may be larger than the memory.
    """
    with damage(path), contextlib.ExitStack() as stack:
        file = stack.enter_context(open_binary(path)) if is_url(path) else path
        yield stack.enter_context(pq.ParquetFile(file, buffer_size=PARQUET_BUFFER, pre_buffer=False))


def parquet_groups(path: str, columns: Collect) -> list[int]:
    """Bytes of text in every row group (uncompressed), after checking that the text column is there.

    Raises:
        UserError: not a Parquet file, or without a text column of strings; the columns that there are are named.
    """
    with damage(path), open_binary(path) as file:
        source = pq.ParquetFile(file)
        schema = source.schema_arrow
        if columns.text_column not in schema.names:
            raise UserError(_missing(path, columns.text_column, schema.names))
        kind = schema.field(columns.text_column).type
        if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
            raise UserError(f"{path}: column '{columns.text_column}' holds {kind}, not text; {TEXT_COLUMN_REMEDY}")
        metadata = source.metadata
        names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        at = names.index(columns.text_column)
        groups = [metadata.row_group(group) for group in range(source.num_row_groups)]
        return [group.column(at).total_uncompressed_size for group in groups]


def parquet_rows(path: str, groups: range, columns: Collect) -> Iterator[Row]:
    """The rows of some row groups."""
    with damage(path), open_binary(path) as file:
        source = pq.ParquetFile(file)
        number = sum(source.metadata.row_group(group).num_rows for group in range(groups.start))
        present = set(source.schema_arrow.names)
        wanted = [columns.repo_column, columns.path_column, columns.language_column]
        names = [columns.text_column, *(name for name in dict.fromkeys(wanted) if name in present)]
        for batch in source.iter_batches(batch_size=BATCH_ROWS, row_groups=list(groups), columns=names):
            texts = batch.column(columns.text_column).cast(pa.large_binary()).to_pylist()
            others = [batch.column(name).to_pylist() if name in present else [None] * batch.num_rows for name in wanted]
            for text, repo, name, language in zip(texts, *others, strict=True):
                place = f"#{number}"
                number += 1
                yield _row(text, repo, name, language, place, columns)


def jsonl_check(path: str, columns: Collect) -> None:
    """Look at the first line: a record without the text column is a `UserError` that names the columns there are."""
    with damage(path), open_lines(path) as file:
        for _, line in _lines(file, 0, None, _longest_line(columns)):
            record = _decode(line)
            if isinstance(record, dict) and columns.text_column not in record:
                raise UserError(_missing(path, columns.text_column, list(record)))
            return


def jsonl_rows(path: str, start: int, end: int | None, columns: Collect) -> Iterator[Row]:
    """The records of the lines that begin in bytes [start, end); `end` None is the end of the file."""
    with damage(path), open_lines(path) as file:
        for offset, line in _lines(file, start, end, _longest_line(columns)):
            place = f"@{offset}"
            if line is None:
                yield Row(b"", None, None, None, place, "over_large")
                continue
            record = _decode(line)
            if not isinstance(record, dict):
                yield Row(b"", None, None, None, place, "bad_json")
                continue
            text = record.get(columns.text_column)
            if isinstance(text, str):
                text = text.encode("utf-8", "surrogatepass")  # found as bad UTF-8 later
            else:
                text = None
            yield _row(
                text,
                record.get(columns.repo_column),
                record.get(columns.path_column),
                record.get(columns.language_column),
                place,
                columns,
            )


def jsonl_records(path: str, limit: int, longest: int) -> Iterator[dict[str, Any]]:
    """The objects among the first `limit` lines (blank ones not counted)."""
    with damage(path), open_lines(path) as file:
        for _, line in itertools.islice(_lines(file, 0, None, longest), limit):
            record = _decode(line)
            if isinstance(record, dict):
                yield record


def numbered_lines(path: str, start: int, end: int | None, longest: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield (number, byte, line) of the lines in bytes [start, end), blank ones too; None for a line over `longest`.

    A line begins at `start`; numbers begin with 0 there. `end` None is the end of the file.
    """
    with damage(path), open_lines(path) as file:
        if start:
            file.seek(start)
        number, offset = 0, start
        while end is None or offset < end:
            line = file.readline(longest + 1)
            if not line:
                return
            length = len(line)
            if length > longest and not line.endswith(b"\n"):
                length += _skip_line(file)
                yield number, offset, None
            else:
                yield number, offset, line
            number += 1
            offset += length


def decode_record(line: bytes) -> dict[str, Any] | None:
    """The object that a line of JSONL holds, if it does."""
    record = _decode(line)
    return record if isinstance(record, dict) else None


def is_packed(path: str) -> bool:
    """Compressed, so that it can only be read from its beginning."""
    return path.lower().endswith((".gz", ".zst"))


def _row(text: bytes | None, repo: Any, path: Any, language: Any, place: str, columns: Collect) -> Row:
    repo, path, language = (value if isinstance(value, str) and value else None for value in (repo, path, language))
    if text is None:
        return Row(b"", repo, path, language, place, "no_text")
    reason = why_not_text(text, columns.max_file_bytes)
    return Row(b"" if reason else text, repo, path, language, place, reason)


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _missing(path: str, column: str, names: list[str]) -> str:
    return f"{path}: no column '{column}'; it has {', '.join(names[:20])}; {TEXT_COLUMN_REMEDY}"


def _decode(line: bytes | None) -> Any:
    try:
        return msgspec.json.decode(line) if line is not None else None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _longest_line(columns: Collect) -> int:
    # JSON may write a character of one byte as six (\\u0041), and a record has more than its text.
    return 8 * columns.max_file_bytes + (1 << 20)


@contextlib.contextmanager
def open_lines(path: str) -> Iterator[IO[bytes]]:
    """A JSONL file, unpacked if its name says that it is packed."""
    with open_binary(path) as raw:
        if is_packed(path):
            # Arrow's stream, because it goes on over concatenated frames and refuses a truncated one.
            packed = pa.CompressedInputStream(raw, "gzip" if path.lower().endswith(".gz") else "zstd")
            yield io.BufferedReader(packed, 1 << 20)
        else:
            yield raw


def _lines(file: IO[bytes], start: int, end: int | None, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (offset, line) for the lines that begin in [start, end); None for a line over `longest`. Blank lines are
    passed over."""
    offset = start
    if start:
        # The line that begins before `start` belongs to the range before. One byte back, so that a line that begins
        # exactly at `start` is ours.
        file.seek(start - 1)
        offset = start - 1 + _skip_line(file)
    while end is None or offset < end:
        line = file.readline(longest + 1)
        if not line:
            return
        length = len(line)
        if length > longest and not line.endswith(b"\n"):
            length += _skip_line(file)
            yield offset, None
        elif not line.isspace():
            yield offset, line
        offset += length


def _skip_line(file: IO[bytes]) -> int:
    """Read to the end of the line; return how many bytes that was."""
    count = 0
    while True:
        piece = file.readline(1 << 20)
        count += len(piece)
        if not piece or piece.endswith(b"\n"):
            return count
