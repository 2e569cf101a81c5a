"""Reads the shards of a plan: as rows with everything that is known of them, or as Arrow batches of texts.

    rows    every row or file of a shard, those that are left out too: for whoever must account for each
    texts   the rows with a text, decoded; the others are counted
    read    Arrow batches of texts that C++ reads where they lie, with their rows, ids and order; the others are counted

A document takes part if it has a text: not null, not empty, valid UTF-8. The reasons of the others:

    no_text   null; a JSON record without the text key, or with something else than a string there
    empty     no bytes
    encoding_NAME  in another encoding than UTF-8, unless `options.encoding` is `auto`: see `encodings`
    bad_utf8  not valid UTF-8, and it cannot be told what else (in JSON: an escaped lone surrogate)
    bad_json  a line of JSONL that is not an object
    bad_csv   a record of CSV with more fields than the header
    over_large  a line of over 1 GiB; a file that has grown over `max_file_bytes`; a text over `max_row_bytes`
    binary    zero bytes near the beginning of a file (or of a row, if `max_row_bytes` is given)
    unknown_language  a file of a folder with an unknown suffix whose first 4 kB show no language
    link, unsafe_path, vendored and the like   for members of a tar archive, as `walk` has them
    unreadable, special_file   for files: see `readers.read_file`
    bad_notebook, commit_sampled, issue_short and the like   see `notebooks`, `commits`, `issue_texts`

`read` takes Parquet without a Python object for any row: a batch is Arrow's own memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell import _C
from codeshell.documents import (
    arrow_files,
    commits,
    corpora,
    git,
    issues,
    languages,
    notebooks,
    readers,
    templates,
    walk,
)
from codeshell.documents.columns import Columns, InputOptions, columns_of, is_string
from codeshell.documents.csv_files import CsvReader
from codeshell.documents.inputs import Shard, check_unchanged
from codeshell.documents.json_lines import decode_record
from codeshell.documents.tar_files import TarReader
from codeshell.documents.texts import text_buffers

BATCH_BYTES = 16 << 20
"""Text in a batch, about: what the reader's estimate makes of it."""

BATCH_ROWS = 16_384
"""Rows of a batch at most."""

DICTIONARY_ROWS = 512
"""The same where a dictionary hides how long the texts are (each row may be as long as all of it)."""

OBJECT_ROWS = 256
"""The same where rows become Python objects."""


MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8."""

TAR_PIECE = 1 << 20
"""Bytes of a member of an archive that are read at a time."""


class Row(NamedTuple):
    """A row of a table or a file."""

    row: int
    """Its place in its source."""
    place: str
    """`#12` (row of a Parquet, Arrow or CSV file), `@4096` (byte where the line begins, after decompression), or the
    path of a file below its source; after the source's name it makes an id."""
    text: bytes = b""
    """Not checked to be UTF-8. Empty for a row that is left out."""
    reason: str = ""
    """Why it is left out; empty if it is to be read."""
    size: int = 0
    """Bytes of text; of a file that is left out, of the file."""
    id: str | None = None
    """The value of the id column, as text; None without one."""
    repo: str | None = None
    path: str | None = None
    language: str | None = None
    order: Any = None


@dataclass(frozen=True)
class Batch:
    """Some documents of a shard, ascending by row. What was not asked for is None."""

    rows: NDArray[np.int64]
    """(n,): where they are in their source."""
    texts: pa.LargeStringArray
    """(n,), no nulls, valid UTF-8."""
    ids: pa.StringArray | None
    """(n,), no nulls: the id column as text; without one, or where it is null, `NAME#ROW` for Parquet, `NAME@BYTE`
    (where the line begins, after decompression) for JSONL, and the path for a file."""
    order: pa.Array | None
    """(n,): int64 (numbers, booleans, times), double or large_string, by `shard.order_type`; null where there is none
    (null, NaN, or in JSONL a value of another type)."""
    left_out: dict[str, int]
    """Documents between these that do not take part, by reason."""


def rows(shard: Shard, options: InputOptions) -> Iterator[Row]:
    """Every row or file of a shard, in order. A column that a table does not have gives None.

    Raises:
        UserError: a damaged file, or one that has changed since it was listed.
    """
    # The stamp is compared before anything is read: rows of another file would be taken for the listed ones.
    check_unchanged(shard.source)
    readers_of = {
        "parquet": _parquet_rows,
        "arrow": _parquet_rows,
        "jsonl": _jsonl_rows,
        "csv": _csv_rows,
        "tar": _tar_rows,
        "commits": _commit_rows,
        "issues": _issue_rows,
        "files": _file_rows,
    }
    return readers_of[shard.source.kind](shard, options)


def texts(shard: Shard, options: InputOptions, left_out: Counter[str]) -> Iterator[tuple[Row, str]]:
    """The rows of a shard that take part, with their texts; the others are counted in `left_out` by reason."""
    for row in rows(shard, options):
        reason = row.reason
        if not reason:
            try:
                yield row, row.text.decode()
                continue
            except UnicodeDecodeError:
                reason = readers.encoding_reason(row.text)
        left_out[reason] += 1


def read(shard: Shard, options: InputOptions, columns: Collection[str] = ("text",)) -> Iterator[Batch]:
    """The documents of a shard that take part. The batches may be cut anywhere; together they are always the same.

    Args:
        columns: "text" (always given), "id" and "order", where they are asked for.

    Raises:
        UserError: a damaged file, or one that has changed since it was listed.
    """
    if shard.source.kind not in ("parquet", "arrow"):
        return _row_batches(rows(shard, options), shard, columns)
    check_unchanged(shard.source)
    return _parquet_batches(shard, options, columns)


def texts_at(shard: Shard, rows: Sequence[int] | NDArray[np.int64], options: InputOptions) -> pa.LargeStringArray:
    """The texts of some documents of a shard, by their rows in the source, in the order asked for.

    Raises:
        ValueError: a row that the shard does not have, or whose text does not take part.
    """
    target = np.asarray(rows, np.int64)
    found: dict[int, str] = {}
    # The whole shard is read: JSONL has no index of its lines, and Parquet none of the rows in a page.
    for batch in read(shard, options):
        for index in np.flatnonzero(np.isin(batch.rows, target)).tolist():
            found[int(batch.rows[index])] = batch.texts[index].as_py()
    # The caller named rows from a plan: one that is not there is a mistake of the program, not of the user.
    missing = [row for row in target.tolist() if row not in found]
    if missing:
        raise ValueError(f"rows: {shard.source.name} has no document in row {missing[0]}")
    return pa.array([found[row] for row in target.tolist()], pa.large_string())


def tables(shard: Shard, names: Collection[str | None], most: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield (row of the first, record batch) with those of the named columns that a Parquet or Arrow file has.

    Args:
        most: rows of a batch at most; fewer are read where texts are long.
    """
    if shard.source.kind == "arrow":
        yield from _arrow_tables(shard, names, most)
        return
    with readers.open_parquet(shard.source.path) as file:
        schema = file.schema_arrow
        present = [name for name in dict.fromkeys(names) if name in schema.names]
        # The footer says how long a text is on average, unless a dictionary holds the texts.
        each = max(1, shard.size // max(shard.rows or 1, 1))
        hidden = any(pa.types.is_dictionary(schema.field(name).type) for name in present)
        count = min(most, DICTIONARY_ROWS if hidden else BATCH_ROWS, max(1, BATCH_BYTES // each))
        # Workers are as many as cores: Arrow's threads would only compete with them.
        groups = list(range(shard.begin, shard.end or 0))
        row = shard.first_row
        for batch in file.iter_batches(count, row_groups=groups, columns=present, use_threads=False):
            yield row, batch
            row += batch.num_rows


def _arrow_tables(shard: Shard, names: Collection[str | None], most: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    row = shard.first_row
    present = [name for name in dict.fromkeys(names) if name is not None]
    for batch in arrow_files.batches(shard.source.path, present, shard.begin, shard.end):
        # The batches of the file are as their writer made them: views of them are as small as is asked for.
        each = max(1, batch.nbytes // max(1, batch.num_rows))
        count = min(most, max(1, BATCH_BYTES // each))
        for start in range(0, batch.num_rows, count):
            yield row + start, batch.slice(start, count)
        row += batch.num_rows


def _parquet_batches(shard: Shard, options: InputOptions, columns: Collection[str]) -> Iterator[Batch]:
    # Only the columns that are asked for are read and decoded.
    id_column = options.id_column if "id" in columns else None
    order_column = options.order_column if "order" in columns else None
    text_column = columns_of(shard.source.columns, options).text
    for first, batch in tables(shard, (text_column, id_column, order_column), BATCH_ROWS):
        places = np.arange(first, first + batch.num_rows, dtype=np.int64)
        ids = order = None
        if "id" in columns:
            # NAME#ROW, made by Arrow for all rows at once.
            name = pa.scalar(f"{readers.storable(shard.source.name)}#")
            ids = pc.binary_join_element_wise(name, pa.array(places).cast(pa.string()), "")
            if id_column is not None:
                ids = pc.coalesce(batch.column(id_column).cast(pa.string()), ids)
        if order_column is not None:
            order = _order_values(batch.column(order_column), shard.order_type)
        yield _batch(places, batch.column(text_column), ids, order, Counter(), options.encoding)


def _row_batches(found: Iterator[Row], shard: Shard, columns: Collection[str]) -> Iterator[Batch]:
    """Put rows together to batches of about `BATCH_BYTES`."""
    # A batch may be empty, if all that it has to say is what was left out.
    held: list[Row] = []
    left_out: Counter[str] = Counter()
    size = 0
    for row in found:
        if row.reason:
            left_out[row.reason] += 1
            continue
        held.append(row)
        size += len(row.text)
        if size >= BATCH_BYTES:
            yield _row_batch(held, left_out, shard, columns)
            held, left_out, size = [], Counter(), 0
    if held or left_out:
        yield _row_batch(held, left_out, shard, columns)


def _row_batch(held: list[Row], left_out: Counter[str], shard: Shard, columns: Collection[str]) -> Batch:
    ids = order = None
    if "id" in columns:
        name = shard.source.name
        if name and shard.source.kind in ("files", "tar"):
            name += "/"
        elif shard.source.kind in corpora.KINDS:
            name += "@"
        names = [readers.storable(name + row.place if row.id is None else row.id) for row in held]
        ids = pa.array(names, pa.string())
    # JSON gives values of any type under one key: those of another type than the column's count as none.
    if "order" in columns and shard.order_type == "string":
        words = [readers.storable(row.order) if isinstance(row.order, str) else None for row in held]
        order = pa.array(words, pa.large_string())
    elif "order" in columns:
        numbers = [float(row.order) if isinstance(row.order, (int, float)) else None for row in held]
        order = _order_values(pa.array(numbers, pa.float64()), shard.order_type)
    # One copy into Arrow's memory; UTF-8 is checked there for all texts at once.
    column = pa.array([row.text for row in held], pa.large_binary())
    return _batch(np.array([row.row for row in held], np.int64), column, ids, order, left_out)


def _batch(
    places: NDArray[np.int64],
    column: pa.Array,
    ids: pa.StringArray | None,
    order: pa.Array | None,
    left_out: Counter[str],
    encoding: str = "utf-8",
) -> Batch:
    """The rows whose text takes part. The one test of UTF-8 for texts in bulk is here.

    Args:
        places, column, ids, order: (n,) each; the column is text of any Arrow layout.
        left_out: what was left out before, by reason; added to.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    # (n,) of bool; nulls become empty texts, so that all that follows is without nulls.
    takes_part = np.ones(len(column), np.bool_)
    if column.null_count:
        takes_part = column.is_valid().to_numpy(zero_copy_only=False)
        left_out["no_text"] += column.null_count
        column = pc.fill_null(column, "" if is_string(column.type) else b"")
    # `large_string` has 64-bit offsets, which C++ reads; other layouts are converted, most without copying the bytes.
    if is_string(column.type):
        texts = column.cast(pa.large_string())
    else:
        # Bytes are taken for strings where they lie, and checked below.
        data = column.cast(pa.large_binary())
        texts = pa.LargeStringArray.from_buffers(len(data), *data.buffers()[1:], offset=data.offset)
    empty = pc.equal(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False) & takes_part
    if empty.any():
        left_out["empty"] += int(empty.sum())
        takes_part &= ~empty
    try:
        texts.validate(full=True)  # Parquet readers trust the file to hold UTF-8
    except pa.ArrowInvalid:
        # Some text is invalid: C++ says which.
        (piece,) = text_buffers(texts)
        valid = _C.measure_texts(piece.data, piece.offsets)["valid"] | ~takes_part
        # What they are in is found one by one: they are few.
        values: list[bytes] = []
        for place in np.flatnonzero(~valid).tolist():
            begin, end = piece.offsets[place : place + 2]
            data = bytes(piece.data[begin:end])
            if encoding == "auto":
                data, reason = readers.in_utf8(data, "")
            else:
                reason = readers.encoding_reason(data)
            if reason:
                left_out[reason] += 1
                takes_part[place] = False
            values.append(data)
        if encoding == "auto":
            mask, replaced = pa.array(~valid), pa.array(values, pa.large_binary())
            column = pc.replace_with_mask(texts.cast(pa.large_binary()), mask, replaced)
            texts = pa.LargeStringArray.from_buffers(len(column), *column.buffers()[1:], offset=column.offset)
    # Filtering copies the texts, so it is done only where something is left out.
    if not takes_part.all():
        mask = pa.array(takes_part)
        texts, places = texts.filter(mask), places[takes_part]
        ids = ids.filter(mask) if ids is not None else None
        order = order.filter(mask) if order is not None else None
    return Batch(places, texts, ids, order, dict(left_out))


def _order_values(column: pa.Array, kind: str) -> pa.Array:
    """Values to be compared, of one type in all shards; NaN is none."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind == "float64":
        values = column.cast(pa.float64(), safe=False)
        return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    if kind == "string":
        return column.cast(pa.large_string())
    # Times of one unit compare as integers.
    if kind.startswith("timestamp"):
        return column.cast(pa.timestamp(kind[10:12])).cast(pa.int64())
    return column.cast(pa.int64())


def _parquet_rows(shard: Shard, options: InputOptions) -> Iterator[Row]:
    columns = columns_of(shard.source.columns, options)
    asked = (options.id_column, columns.repo, columns.path, columns.language)
    for first, batch in tables(shard, (columns.text, *asked), OBJECT_ROWS):
        # As bytes, because Parquet does not promise that a string column holds UTF-8.
        texts = batch.column(columns.text).cast(pa.large_binary()).to_pylist()
        absent = [None] * batch.num_rows
        others = [batch.column(name).to_pylist() if name in batch.schema.names else absent for name in asked]
        for row, (text, *about) in enumerate(zip(texts, *others, strict=True), first):
            yield _row(row, f"#{row}", text, options, columns, about)


def _jsonl_rows(shard: Shard, options: InputOptions) -> Iterator[Row]:
    columns = columns_of(shard.source.columns, options)
    asked = (options.id_column, columns.repo, columns.path, columns.language)
    lines = readers.numbered_lines(shard.source.path, shard.begin, shard.end, options.longest_line)
    for row, offset, line in lines:
        number, place = shard.first_row + row, f"@{offset}"
        if line is None:
            yield Row(number, place, reason="over_large")
            continue
        # Where files were joined, a byte order mark may be all of a line.
        if line.isspace() or (len(line) < 6 and line.strip() == MARK):
            continue
        record = decode_record(line)
        if record is None:
            yield Row(number, place, reason="bad_json")
            continue
        # A lone surrogate becomes bytes that are not UTF-8, and is found with the other bad UTF-8.
        value = record.get
        text = value(columns.text)
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else None
        about = [None if name is None else value(name) for name in asked]
        order = None if options.order_column is None else value(options.order_column)
        yield _row(number, place, data, options, columns, about, order)


def _csv_rows(shard: Shard, options: InputOptions) -> Iterator[Row]:
    columns = columns_of(shard.source.columns, options)
    path = shard.source.path
    with readers.damage(path), readers.open_lines(path) as file:
        reader = CsvReader(path, file)
        # A name that the header has twice means the first column of that name.
        at = {name: place for place, name in reversed(list(enumerate(reader.header)))}
        asked = (options.id_column, columns.repo, columns.path, columns.language)
        for row, (fields, raw) in enumerate(reader):
            if fields is None:
                yield Row(row, f"#{row}", reason="bad_csv", size=len(raw))
                continue
            # Bytes that are not UTF-8 come as surrogates and become bytes again.
            text = fields[at[columns.text]].encode("utf-8", "surrogateescape")
            about = [fields[at[name]] if name in at else None for name in asked]
            order: Any = fields[at[options.order_column]] if options.order_column is not None else None
            if order is not None and shard.order_type == "float64":
                order = _number(order)
            yield _row(row, f"#{row}", text, options, columns, about, order)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _tar_rows(shard: Shard, options: InputOptions) -> Iterator[Row]:
    """The members of an archive, by the rules for the files of a folder; directories are no rows."""
    path, limit = shard.source.path, options.max_file_bytes
    base = shard.source.name.rsplit("/", 1)[-1].split(".", 1)[0] or "root"
    with readers.damage(path), readers.open_lines(path) as file:
        reader = TarReader(file)
        row = 0
        while member := reader.next():
            if member.kind == "directory":
                continue
            name, reason = walk.member(member.name, member.kind, member.size, limit, vendored=options.vendored)
            data = b""
            if not reason:
                pieces = []
                while piece := reader.read(TAR_PIECE):
                    pieces.append(piece)
                data = b"".join(pieces)
                data, reason = _file_text(name, "", data, "", limit)
            size = len(data) or member.size
            yield Row(row, name, b"" if reason else data, reason, size, None, walk.repository(base, name), name)
            row += 1


def _row(
    row: int,
    place: str,
    text: bytes | None,
    options: InputOptions,
    columns: Columns,
    about: Sequence[Any],
    order: Any = None,
) -> Row:
    """A row of a table; `about`: its id, repo, path and language, which count only as strings that are not empty."""
    identity, *origin = about
    given = str(identity) if isinstance(identity, (str, int)) and not isinstance(identity, bool) else None
    repo, path, language = (value if isinstance(value, str) and value else None for value in origin)
    # What the file's folder says of all rows counts where the row says nothing.
    repo, language = repo or columns.repo_of_all or None, language or columns.language_of_all or None
    # A text that is left out is not carried along: it may be large.
    limit, reason = options.max_row_bytes, "no_text"
    if text is not None and path and notebooks.is_notebook(path) and text.lstrip()[:1] == b"{":
        form = languages.by_label(language) if language else ""
        text, reason = _file_text(path, form or "", text, "", limit)
    elif text is not None:
        reason = readers.why_not_text(text, limit)
    if text is not None and options.encoding == "auto":
        text, reason = readers.in_utf8(text, reason)
    data = b"" if reason or text is None else text
    return Row(row, place, data, reason, len(data), given, repo, path, language, order)


def _file_rows(shard: Shard, options: InputOptions) -> Iterator[Row]:
    folder = shard.source.path
    limit = max(options.max_file_bytes, options.single_limit)
    for row, file in enumerate(shard.files, shard.first_row):
        # What the listing left out is not opened; what it let through may have changed since.
        data, reason = b"", file.reason
        place = f"{folder}/{file.path}"
        # A notebook may be larger than what is taken of it.
        most = max(limit, notebooks.MOST_BYTES) if notebooks.is_notebook(file.path) else limit
        if file.blob and not reason:
            data, reason = walk.read_blob(folder, file, most)
        if file.look and not reason:
            head = data[: languages.LOOK_BYTES] if file.blob else readers.read_head(place, languages.LOOK_BYTES)
            reason = _why_not_code(file.path, head)
        if not reason and not file.blob:
            data, reason = readers.read_file(place, most)
        data, reason = _file_text(file.path, file.language, data, reason, limit)
        if options.encoding == "auto":
            data, reason = readers.in_utf8(data, reason)
        size, text = len(data) or file.size, b"" if reason else data
        yield Row(row, file.path, text, reason, size, None, file.repo, file.path, file.language or None)


def _file_text(path: str, form: str, data: bytes, reason: str, limit: int | None) -> tuple[bytes, str]:
    """The text of a file, which for a notebook is one of its forms, and the reason why it is left out.

    Args:
        form: a language of notebooks; any other stands for a script.
        reason: why it was left out before, if it was.
        limit: bytes of the text at most.
    """
    if not reason and notebooks.is_notebook(path):
        data, reason = notebooks.convert(data, form)
    reason = reason or readers.why_not_text(data, limit)
    return (b"" if reason and not reason.startswith("encoding_") else data), reason


def _commit_rows(shard: Shard, options: InputOptions) -> Iterator[Row]:
    """The changed files of a part of a history. A commit has room for `commits.MOST_FILES` rows."""
    source = shard.source
    repo = git.name(source.path, source.path.rsplit("/", 1)[-1].removesuffix(".git"))
    count = (shard.end or 0) - shard.begin
    limit, vendored = options.max_file_bytes, options.vendored
    for place, commit, found in commits.read(source.path, source.detail, shard.begin, count, limit, vendored=vendored):
        for one in found:
            path = f"{commit[:12]}/{one.path}".rstrip("/")
            yield Row(
                place * commits.MOST_FILES + one.place,
                f"{commit}/{one.path}".rstrip("/"),
                one.text,
                one.reason,
                one.size,
                None,
                repo,
                path,
                templates.COMMITS,
            )


def _issue_rows(shard: Shard, options: InputOptions) -> Iterator[Row]:
    """The issues of a dump, in the order of a hash."""
    root, _ = corpora.issue_list(shard.source.path)
    limit = options.max_row_bytes
    for row, one in enumerate(issues.read(root, [file.path for file in shard.files], options.longest_line)):
        text = one.text.encode("utf-8", "surrogatepass")
        reason = one.reason or readers.why_not_text(text, limit)
        path = f"issues/{one.number}" if one.repo else one.place
        yield Row(row, one.place, b"" if reason else text, reason, one.size, None, one.repo, path, templates.ISSUES)


def _why_not_code(path: str, head: bytes) -> str:
    """The reason to read no more of a file whose name says nothing; empty if its beginning shows a language."""
    # Nothing to be seen is for the reader to explain.
    if not head or languages.by_path(path, head):
        return ""
    return "binary" if b"\0" in head else "unknown_language"
