"""Which columns of Parquet and JSONL inputs are read, and the check that they can serve, before anything else is read.

A column name stands for a Parquet column and for a JSON key alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from codeshell.documents import arrow_files, languages, readers
from codeshell.documents.csv_files import CsvReader
from codeshell.documents.formats import PATH_NAMES, REPO_NAMES, TEXT_NAMES, has_text, text_names
from codeshell.documents.json_lines import decode_record
from codeshell.documents.tar_files import TarReader
from codeshell.errors import UserError, say

TABLES = ("parquet", "arrow", "jsonl", "csv")
"""The kinds of inputs that have columns."""

DAMAGED = "damaged"
"""The reason of a file that is left out because it cannot be read to its end."""

FIRST_RECORDS = 1000
"""Records of a JSONL file that are looked at: a key that none of them has is taken for a mistake."""

FIRST_BYTES = 1 << 20
"""Bytes of a file's first records that are looked at, if no column that must be there is missing by then."""

LONGEST_LINE = 1 << 30
"""Bytes of a JSONL line that is read; a longer one is left out, as `over_large`."""

FLAGS = {
    "text": "collect.text_column (codeshell dedup: --text-column)",
    "repo": "collect.repo_column",
    "path": "collect.path_column",
    "language": "collect.language_column",
    "id": "--id-column",
    "order": "--keep-order column:NAME",
}
"""What a user sets to choose the column of a role."""


class Columns(NamedTuple):
    """Where a row of one file has its parts."""

    text: str
    repo: str | None
    path: str | None
    language: str | None
    """None where the file has no such column."""
    repo_of_all: str = ""
    language_of_all: str = ""
    """What the file's folder says of all its rows: `language=python/`, or `python/` in StarCoderData."""


USUAL: dict[str, tuple[str, ...]] = {
    "text": TEXT_NAMES,
    "repo": REPO_NAMES,
    "path": PATH_NAMES,
    "language": ("language", "lang"),
}
"""The names that columns usually have, by what they hold. The first that a file has counts; for a text, see
`formats.text_names`."""

LAYOUTS: dict[str, dict[str, str]] = {
    "the-stack": {
        "text": "content",
        "repo": "max_stars_repo_name",
        "path": "max_stars_repo_path",
        "language": "lang",
    },
    "starcoderdata": {"text": "content", "repo": "max_stars_repo_name", "path": "max_stars_repo_path"},
    "the-stack-v2": {"text": "content", "repo": "repo_name", "path": "path", "language": "language"},
    "github-code": {"text": "code", "repo": "repo_name", "path": "path", "language": "language"},
    "codeparrot": {"text": "content", "repo": "repo_name", "path": "path"},
    "plain": {"text": "text", "repo": "repo", "path": "path", "language": "language"},
}
"""Data sets that many people have, and their columns. In StarCoderData the folder of a file names the language."""


@dataclass(frozen=True)
class InputOptions:
    """How inputs are read."""

    text_column: str | None = None
    """None, as for the other columns: by `layout`."""
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
    """Where rows come from; a column that is named must be in one of the inputs."""
    layout: str = "auto"
    """A key of `LAYOUTS`, whose columns a file must have; `auto` takes the usual names (`USUAL`)."""
    damaged: str = "refuse"
    """`skip` leaves damaged files out, each as a whole."""
    max_single_bytes: int | None = None
    """The limit for files that are named one by one, if it is another one than for those of folders."""
    max_row_bytes: int | None = None
    """Longer texts of rows, and those with zero bytes, are left out. None: a row may hold any text."""
    gitignore: bool = True
    """Leave out what git ignores in checkouts."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Patterns of files in folders, as in `.gitignore` (see `walk.Choice`)."""
    encoding: str = "utf-8"
    """`utf-8`, or `auto`: find out what other texts are in (`documents.encodings`) and read them, too."""

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


class Checked(NamedTuple):
    """What a file's own columns are."""

    columns: Columns | None
    """None for what has no columns."""
    order_type: str | None
    """Type of its order column (see `common_order_type`), if one is asked for."""
    layout: str
    """The layout that its columns are those of; empty for a mixture of usual and of given names."""
    names: tuple[str, ...]
    """All its columns; of JSON, the keys of the first records."""


def columns_of(given: Sequence[Any] | None, options: InputOptions) -> Columns:
    """The columns that were found when the inputs were listed; plans of earlier versions hold none."""
    if given:
        return Columns(*given)
    return Columns(options.text_column or "text", options.repo_column, options.path_column, options.language_column)


def check(kind: str, path: str, name: str, options: InputOptions) -> Checked:
    """Choose the columns of one input file and check that they can serve.

    Raises:
        UserError: a column that was named and is not there, none with a text, or one of a type that cannot serve; a
            damaged file.
    """
    order = options.order_column
    if kind not in TABLES:
        if order is not None:
            raise UserError(f"{name}: files of code have no column '{order}'; choose another --keep-order")
        return Checked(None, None, "", ())
    # Parquet and Arrow say which columns they have, and of which type; other files are judged by their first records.
    schema: pa.Schema | None = None
    records: list[dict[str, Any]] = []
    if kind == "parquet":
        with readers.open_parquet(path) as source:
            schema = source.schema_arrow
        names = list(schema.names)
    elif kind == "arrow":
        schema = arrow_files.schema(path)
        names = list(schema.names)
    elif kind == "csv":
        with readers.damage(path), readers.open_lines(path) as file:
            reader = CsvReader(path, file)
            names = reader.header
            if order is not None:
                first = islice((fields for fields, _ in reader if fields), FIRST_RECORDS)
                records = [dict(zip(names, fields, strict=True)) for fields in first]
    else:
        records = _first_records(path, options)
        names = list(dict.fromkeys(key for record in records for key in record))
    columns = _chosen(name, names, schema, options)
    if not names:
        return Checked(columns, None, "", ())  # There is no record to judge by.
    asked = {"text": columns.text, "id": options.id_column, "order": order}
    for role, column in asked.items():
        if column is None:
            continue
        if column not in names:
            raise UserError(_no_column(name, role, column, names))
        if schema is not None:
            _check_type(name, role, column, schema)
    for role in ("repo", "path", "language"):
        column = getattr(options, f"{role}_column")
        if column and schema is not None and column in names and not is_text(schema.field(column).type):
            kind_of = schema.field(column).type
            raise UserError(f"{name}: column '{column}' holds {kind_of}, not text; choose another with {FLAGS[role]}")
    layout = next((layout for layout in LAYOUTS if _is(layout, columns)), "")
    if order is None:
        return Checked(columns, None, layout, tuple(names))
    if schema is not None:
        found = order_type(schema.field(order).type)
    elif kind == "csv":
        found = _csv_order_type([record[order] for record in records])
    else:
        found = _json_order_type(name, order, records)
    return Checked(columns, found, layout, tuple(names))


class Tables(NamedTuple):
    """What `check_all` found."""

    columns: dict[str, Columns]
    damaged: dict[str, str]
    """What is wrong with each damaged file, where these are skipped; both by path."""
    order_type: str
    """The type of the order column of all files; empty if none is asked for."""


def check_all(found: Iterable[tuple[str, str, str]], options: InputOptions) -> Tables:
    """Check every input, given as (kind, path, name), once; say which layout was recognised and what is damaged."""
    checked: dict[str, Checked] = {}
    damaged: dict[str, str] = {}
    names: dict[str, str] = {}
    kinds: dict[str, str] = {}
    skip = options.damaged == "skip"
    for kind, path, name in found:
        if path in names:
            continue
        names[path], kinds[path] = name, kind
        try:
            checked[path] = check(kind, path, name, options)
            if skip:
                # A file is left out whole or not at all, so it is read to its end before any of it is taken.
                _read_through(kind, path)
        except readers.DamagedError as error:
            if not skip:
                raise
            checked.pop(path, None)
            damaged[path] = str(error)
    _check_named(list(checked.values()), options)
    if options.text_column and checked and not any(one.columns for one in checked.values()):
        say(f"{FLAGS['text']}: not used, because no input has columns")
    if damaged:
        first = next(iter(damaged.values())).partition("; fix it")[0]
        more = f", and {len(damaged) - 1:,} more" if len(damaged) > 1 else ""
        say(f"{len(damaged):,} damaged file{'s' * (len(damaged) > 1)} left out: {first}{more}")
    _say_layouts({names[path]: one for path, one in checked.items()}, options)
    order = common_order_type([(names[path], one.order_type) for path, one in checked.items()])
    columns = {path: one.columns for path, one in checked.items() if one.columns}
    columns |= {path: _open_ended(one, options) for path, one in columns.items() if kinds[path] == "jsonl"}
    return Tables(columns, damaged, order)


def _read_through(kind: str, path: str) -> None:
    """Read a file of rows or an archive to its end, and raise a `DamagedError` if that fails."""
    if kind in ("jsonl", "csv", "tar"):
        readers.kind_of(path)
    if kind == "parquet":
        with readers.open_parquet(path) as file:
            for _ in file.iter_batches(1024, use_threads=False):
                pass
    elif kind == "arrow":
        for batch in arrow_files.batches(path):
            batch.validate()
    elif kind in ("jsonl", "csv", "tar"):
        with readers.damage(path), readers.open_lines(path) as stream:
            if kind == "jsonl":
                while stream.read(1 << 20):
                    pass
            elif kind == "csv":
                deque(CsvReader(path, stream), maxlen=0)
            else:
                reader = TarReader(stream)
                while reader.next():
                    pass


_said: set[str] = set()


def _say_layouts(checked: dict[str, Checked], options: InputOptions) -> None:
    """A line for each choice of columns that is not the plain one, with the first file that it was made for."""
    groups: dict[Columns, list[str]] = {}
    for name, one in checked.items():
        if one.columns and one.names and one.layout != "plain" and options.layout == "auto":
            groups.setdefault(one.columns._replace(repo_of_all="", language_of_all=""), []).append(name)
    for columns, names in groups.items():
        # What was named by the user was not recognised.
        if columns.text == options.text_column or columns.text == "text":
            continue
        layout = next((layout for layout in LAYOUTS if _is(layout, columns)), "")
        parts = ", ".join(f"{role} from '{column}'" for role, column in zip(USUAL, columns[:4], strict=True) if column)
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        line = f"{names[0]}{more}: recognised {layout or 'the usual names'}: {parts}"
        # Some commands list their inputs twice.
        if line not in _said:
            _said.add(line)
            say(line)


def _check_named(checked: Sequence[Checked], options: InputOptions) -> None:
    """Raise a `UserError` for a column of a row's origin that was named, but that none of the inputs has."""
    tables = [one for one in checked if one.names]
    names = list(dict.fromkeys(name for one in tables for name in one.names))
    for role in ("repo", "path", "language"):
        column = getattr(options, f"{role}_column")
        if column and tables and not any(one.columns and getattr(one.columns, role) == column for one in tables):
            raise UserError(
                f"{FLAGS[role]}: no input has a column '{column}'; there are {', '.join(names[:20])}; name one of them"
            )


def partitions(name: str) -> dict[str, str]:
    """The values that folders of the form `key=value` give to all rows of a file below them."""
    pairs = (part.partition("=") for part in name.split("/")[:-1] if "=" in part)
    found = {key: unquote(value) for key, _, value in pairs}
    return {key: value for key, value in found.items() if value and value != "__HIVE_DEFAULT_PARTITION__"}


def _open_ended(columns: Columns, options: InputOptions) -> Columns:
    """The columns of a JSONL file, with those that none of its first records had: any record may have them."""
    layout = LAYOUTS.get(options.layout, {role: usual[0] for role, usual in USUAL.items()})
    others = {role: getattr(options, f"{role}_column") or layout.get(role) for role in ("repo", "path", "language")}
    repo, path, language = (getattr(columns, role) or column for role, column in others.items())
    return columns._replace(repo=repo, path=path, language=language)


def _chosen(name: str, names: Sequence[str], schema: pa.Schema | None, options: InputOptions) -> Columns:
    """Which column serves for what: the one that was named, else the layout's, else the usual one."""
    layout = LAYOUTS.get(options.layout)
    outside = partitions(name)
    found: dict[str, str | None] = {}
    of_all = {"repo": "", "language": ""}
    for role, usual in USUAL.items():
        given = getattr(options, f"{role}_column")
        choices = (given,) if given else usual if layout is None else (layout[role],) if role in layout else ()
        if choices == TEXT_NAMES:
            choices = text_names(names)
        able = [column for column in choices if column in names and (given or _may_be(role, column, schema))]
        inside = next(iter(able), None)
        if inside is None and role in of_all:
            column = next((column for column in choices if column in outside), None)
            of_all[role] = outside[column] if column is not None else ""
            inside = given if column is not None and given else None
        if inside is None and layout is not None and choices and names and not of_all.get(role):
            raise UserError(_no_column(name, role, choices[0], names))
        found[role] = inside
    columns = Columns(found["text"] or options.text_column or "text", found["repo"], found["path"], found["language"])
    if _is("starcoderdata", columns) and not of_all["language"] and "/" in name:
        folder = name.rsplit("/", 2)[-2]
        of_all["language"] = folder if languages.by_label(folder) else ""
    return columns._replace(repo_of_all=of_all["repo"], language_of_all=of_all["language"])


def _may_be(role: str, column: str, schema: pa.Schema | None) -> bool:
    """Whether a column that was not named, but has a usual name, can hold a text: `code` may be a number."""
    return role != "text" or schema is None or schema.names.count(column) > 1 or is_text(schema.field(column).type)


def _is(layout: str, columns: Columns) -> bool:
    want = LAYOUTS[layout]
    return all(getattr(columns, role) == want.get(role) for role in USUAL)


def _no_column(name: str, role: str, column: str, names: Sequence[str]) -> str:
    if role == "text" and "blob_id" in names and set(TEXT_NAMES).isdisjoint(names):
        return f"{name}: it names files (blob_id) without their content; download the content first, then give that"
    return f"{name}: no column '{column}'; it has {', '.join(names[:20])}; set {FLAGS[role]}"


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
    # What must be there is looked for in all of the first records; what may be there in the first bytes of them.
    named = (options.id_column, options.order_column, options.repo_column, options.path_column, options.language_column)
    must = {column for column in named if column}
    kept = options.order_column
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    size = 0
    for line in _first_lines(path, options):
        size += len(line or b"")
        record = decode_record(line) if line is not None else None
        if record:
            found.append({key: value if key == kept else None for key, value in record.items()})
            seen.update(record)
            ordered = kept is None or record.get(kept) is not None
            if size >= FIRST_BYTES and ordered and must <= seen and (options.text_column in seen or has_text(seen)):
                break
    return found


def _first_lines(path: str, options: InputOptions) -> Iterator[bytes | None]:
    # Blank lines do not count; lines that are no objects do, so that a file of other things is given up soon.
    lines = (line for _, _, line in readers.numbered_lines(path, 0, None, options.longest_line))
    return islice((line for line in lines if line is None or not line.isspace()), FIRST_RECORDS)


def _csv_order_type(values: list[str]) -> str:
    """Numbers if all values that are not empty are, else strings."""
    try:
        return "float64" if [float(value) for value in values if value] else "string"
    except ValueError:
        return "string"


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
