"""Which columns of Parquet and JSONL inputs are text, an id, or an order, checked before anything else is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from codeshell.documents import readers
from codeshell.errors import UserError

if TYPE_CHECKING:
    from codeshell.documents.inputs import InputOptions

FIRST_RECORDS = 1000
"""Records of a JSONL file that are looked at: a key that none of them has is taken for a mistake."""

LONGEST_LINE = 1 << 30
"""Bytes of a JSONL line that is read; a longer one is left out, as `over_large`."""

FLAGS = {"text": "--text-column", "id": "--id-column", "order": "--keep-order column:NAME"}


def check(kind: str, path: str, name: str, options: InputOptions) -> str | None:
    """Check the columns of one source; return the type of its order column (see `common_order_type`), if one is asked.

    Raises:
        UserError: an unknown column, or one of a type that cannot serve; a damaged file.
    """
    if kind == "parquet":
        return _check_parquet(path, name, options)
    if kind == "jsonl":
        return _check_jsonl(path, name, options)
    if options.order_column is not None:
        raise UserError(f"{name}: files of code have no column '{options.order_column}'; choose another --keep-order")
    return None


def common_order_type(found: list[tuple[str, str | None]]) -> str:
    """One type for the order column of all sources, so that its values can be compared; empty if none is asked.

    Raises:
        UserError: numbers in one file and, say, strings in another.
    """
    typed = [(name, kind) for name, kind in found if kind]
    kinds = {kind for _, kind in typed}
    if len(kinds) <= 1:
        return next(iter(kinds), "")
    if kinds == {"int64", "float64"}:
        return "float64"
    if kinds == {"timestamp[us]", "timestamp[ns]"}:
        return "timestamp[us]"
    (first, one), (second, other) = typed[0], next(entry for entry in typed if entry[1] != typed[0][1])
    raise UserError(f"{second}: the order column holds {other}, but in {first} {one}; give it one type in all inputs")


def is_text(kind: pa.DataType) -> bool:
    """Strings or bytes of any layout, or a dictionary of them."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )


def order_type(kind: pa.DataType) -> str:
    """What values of this type are compared as; empty if they have no order that a user would mean."""
    types = pa.types
    if types.is_boolean(kind) or types.is_integer(kind):
        return "int64"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "float64"
    if types.is_timestamp(kind) or types.is_date(kind):
        return (
            "timestamp[ns]"
            if kind in (pa.timestamp("ns"), pa.timestamp("ns", getattr(kind, "tz", None)))
            else "timestamp[us]"
        )
    return "string" if is_text(kind) else ""


def _check_parquet(path: str, name: str, options: InputOptions) -> str | None:
    with readers.open_parquet(path) as source:
        schema = source.schema_arrow
    wanted = {"text": options.text_column, "id": options.id_column, "order": options.order_column}
    for role, column in wanted.items():
        if column is None:
            continue
        _check_name(name, role, column, schema.names)
        if schema.names.count(column) > 1:
            raise UserError(f"{name}: more than one column '{column}'; rename one of them")
        kind = schema.field(column).type
        if role == "text" and not is_text(kind):
            raise UserError(f"{name}: column '{column}' holds {kind}, not text; choose another with {FLAGS[role]}")
        if role == "id" and not (is_text(kind) or pa.types.is_integer(kind)):
            raise UserError(f"{name}: column '{column}' holds {kind}, no ids; choose strings or integers")
        if role == "order" and not order_type(kind):
            raise UserError(f"{name}: column '{column}' holds {kind}, which has no order; choose another column")
    return None if options.order_column is None else order_type(schema.field(options.order_column).type)


def _check_jsonl(path: str, name: str, options: InputOptions) -> str | None:
    keys: dict[str, None] = {}
    order: Any = None
    for record in readers.jsonl_records(path, FIRST_RECORDS, LONGEST_LINE):
        keys.update(dict.fromkeys(record))
        if order is None and options.order_column is not None:
            order = record.get(options.order_column)
    if not keys:
        return None  # no record to judge by
    wanted = {"text": options.text_column, "id": options.id_column, "order": options.order_column}
    for role, column in wanted.items():
        if column is not None:
            _check_name(name, role, column, list(keys))
    if options.order_column is None:
        return None
    if isinstance(order, (bool, int, float)):
        return "float64"
    if isinstance(order, str):
        return "string"
    shown = "no value" if order is None else f"a {type(order).__name__}"
    raise UserError(
        f"{name}: column '{options.order_column}' holds {shown} in the first records; choose one of numbers or strings"
    )


def _check_name(name: str, role: str, column: str, names: list[str]) -> None:
    if column not in names:
        raise UserError(f"{name}: no column '{column}'; it has {', '.join(names[:20])}; set {FLAGS[role]}")
