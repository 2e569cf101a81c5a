"""Which columns of Parquet and JSONL inputs are read, and the check that they can serve, before anything else is read.

A column name stands for a Parquet column and for a JSON key alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from codeshell.documents import readers
from codeshell.errors import UserError

FIRST_RECORDS = 1000
"""Records of a JSONL file that are looked at: a key that none of them has is taken for a mistake."""

LONGEST_LINE = 1 << 30
"""Bytes of a JSONL line that is read; a longer one is left out, as `over_large`."""

FLAGS = {
    "text": "collect.text_column (codeshell dedup: --text-column)",
    "id": "--id-column",
    "order": "--keep-order column:NAME",
}
"""What a user sets to choose the column of a role."""


@dataclass(frozen=True)
class InputOptions:
    """How inputs are read."""

    text_column: str = "text"
    id_column: str | None = None
    """None: ids are made of the file's name and the place in it."""
    order_column: str | None = None
    """Column of `--keep-order column:NAME`."""
    max_file_bytes: int = 1 << 20
    """Larger files of folders, and larger single files, are left out."""
    vendored: bool = False
    """Enter folders like `node_modules`."""
    repo_column: str | None = None
    path_column: str | None = None
    language_column: str | None = None
    """Where rows come from; read where a file has such a column."""
    max_single_bytes: int | None = None
    """The limit for files that are named one by one, if it is another one than for those of folders."""
    max_row_bytes: int | None = None
    """Longer texts of rows, and those with zero bytes, are left out. None: a row may hold any text."""
    gitignore: bool = True
    """Leave out what git ignores in checkouts."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Patterns of files in folders, as in `.gitignore` (see `walk.Choice`)."""

    @property
    def single_limit(self) -> int:
        """Bytes of a file that is named by itself."""
        return self.max_file_bytes if self.max_single_bytes is None else self.max_single_bytes

    @property
    def longest_line(self) -> int:
        """Bytes of a JSONL line that is read."""
        if self.max_row_bytes is None:
            return LONGEST_LINE
        # JSON may write a character of one byte as six (\\u0041), and a record has more than its text.
        return 8 * self.max_row_bytes + (1 << 20)


def check(kind: str, path: str, name: str, options: InputOptions) -> str | None:
    """Check the columns of one input file; return the type of its order column (see `common_order_type`), if one is
    asked for.

    Raises:
        UserError: an unknown column, or one of a type that cannot serve; a damaged file.
    """
    order = options.order_column
    if kind not in ("parquet", "jsonl"):
        if order is not None:
            raise UserError(f"{name}: files of code have no column '{order}'; choose another --keep-order")
        return None
    # Parquet says which columns it has, and of which type; JSONL is judged by its first records.
    schema: pa.Schema | None = None
    if kind == "parquet":
        with readers.open_parquet(path) as source:
            schema = source.schema_arrow
        names = list(schema.names)
    else:
        records = _first_records(path, options)
        names = list(dict.fromkeys(key for record in records for key in record))
        if not names:
            return None  # There is no record to judge by.
    # Only these must exist. Where a row comes from is read where a file says it.
    asked = {"text": options.text_column, "id": options.id_column, "order": order}
    for role, column in asked.items():
        if column is None:
            continue
        if column not in names:
            raise UserError(f"{name}: no column '{column}'; it has {', '.join(names[:20])}; set {FLAGS[role]}")
        if schema is not None:
            _check_type(name, role, column, schema)
    if order is None:
        return None
    return order_type(schema.field(order).type) if schema is not None else _json_order_type(name, order, records)


def common_order_type(found: list[tuple[str, str | None]]) -> str:
    """One type for the order column of all inputs, so that its values can be compared; empty if none is asked for.

    Raises:
        UserError: numbers in one file and, say, strings in another.
    """
    typed = [(name, kind) for name, kind in found if kind]
    kinds = {kind for _, kind in typed}
    if len(kinds) <= 1:
        return next(iter(kinds), "")
    # Two kinds of numbers, or two units of time, have a type that holds both.
    if kinds == {"int64", "float64"}:
        return "float64"
    if kinds == {"timestamp[us]", "timestamp[ns]"}:
        return "timestamp[us]"
    # The message names the first two inputs that differ.
    (first, one), (second, other) = typed[0], next(entry for entry in typed if entry[1] != typed[0][1])
    raise UserError(f"{second}: the order column holds {other}, but in {first} {one}; give it one type in all inputs")


def is_string(kind: pa.DataType) -> bool:
    """Strings of any layout."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_text(kind: pa.DataType) -> bool:
    """Strings or bytes of any layout, or a dictionary of them."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return is_string(kind) or bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def order_type(kind: pa.DataType) -> str:
    """The type as which values of this type are compared; empty if they have no order that a user would mean."""
    types = pa.types
    if types.is_boolean(kind) or types.is_integer(kind):
        return "int64"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "float64"
    if types.is_timestamp(kind) or types.is_date(kind):
        # Nanoseconds stay what they are; coarser times and dates all fit microseconds.
        return "timestamp[ns]" if getattr(kind, "unit", None) == "ns" else "timestamp[us]"
    return "string" if is_text(kind) else ""


def _check_type(name: str, role: str, column: str, schema: pa.Schema) -> None:
    if schema.names.count(column) > 1:
        raise UserError(f"{name}: more than one column '{column}'; rename one of them")
    kind = schema.field(column).type
    # Each role has types that can serve, and its own words for those that cannot.
    able, remedy = {
        "text": (is_text(kind), f"not text; choose another with {FLAGS[role]}"),
        "id": (is_text(kind) or pa.types.is_integer(kind), "no ids; choose strings or integers"),
        "order": (bool(order_type(kind)), "which has no order; choose another column"),
    }[role]
    if not able:
        raise UserError(f"{name}: column '{column}' holds {kind}, {remedy}")


def _first_records(path: str, options: InputOptions) -> list[dict[str, Any]]:
    """The first objects of a JSONL file, without their values (texts may be long) except that of the order column."""
    # Blank lines do not count; lines that are no objects do, so that a file of other things is given up soon.
    lines = (line for _, _, line in readers.numbered_lines(path, 0, None, options.longest_line))
    first = islice((line for line in lines if line is None or not line.isspace()), FIRST_RECORDS)
    records = (readers.decode_record(line) for line in first if line is not None)
    kept = options.order_column
    return [{key: value if key == kept else None for key, value in record.items()} for record in records if record]


def _json_order_type(name: str, column: str, records: list[dict[str, Any]]) -> str:
    """The type that the first value of the column has."""
    order = next((value for record in records if (value := record.get(column)) is not None), None)
    # JSON does not tell integers from other numbers reliably: all of them are compared as doubles.
    if isinstance(order, (bool, int, float)):
        return "float64"
    if isinstance(order, str):
        return "string"
    shown = "no value" if order is None else f"a {type(order).__name__}"
    raise UserError(f"{name}: column '{column}' holds {shown} in the first records; choose one of numbers or strings")
