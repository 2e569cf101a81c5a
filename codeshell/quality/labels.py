"""Labels: texts with scores from 0 to 5, from Parquet or JSON Lines.

A label has a text, a score and a repository (or another group that must not be split), and perhaps the four dimensions,
a language and a path. Labels that cannot be used are counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.boosting.quality_model import DIMENSIONS, HIGH, LOW, SCORE
from codeshell.documents import languages, readers
from codeshell.documents.columns import LONGEST_LINE
from codeshell.documents.json_lines import decode_record
from codeshell.documents.shards import document_id
from codeshell.errors import UserError

LEAST = 50
"""Labels from which training makes sense at all."""

UNKNOWN = "unknown"
"""The language of a text whose label and path do not say it."""


@dataclass(frozen=True)
class Labels:
    """The usable labels, in the order of the files."""

    documents: pa.Table
    """id, repo (the group), path, language, text, bytes: what scorers read."""
    targets: NDArray[np.float64]
    """(labels, names): scores from 0 to 5."""
    names: tuple[str, ...]
    """`quality`, then the dimensions that every label has."""
    groups: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    """Labels that were not used, by reason: no_text, no_score, out_of_range, no_group."""

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def score(self) -> NDArray[np.float64]:
        """(labels,) the score."""
        return self.targets[:, 0]


def read_labels(
    paths: Sequence[str], *, text_column: str = "text", score_column: str = "score", group_column: str = "repo"
) -> Labels:
    """Read labels.

    Args:
        paths: Parquet and JSON Lines files.
        text_column, score_column, group_column: names of their columns.

    Raises:
        UserError: no such file or column, a damaged file, or too few labels that can be used.
    """
    left_out: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    needed = {"text": text_column, "score": score_column, "group": group_column}
    for path in paths:
        for record in _records(path, needed):
            found = _label(record, text_column, score_column, group_column)
            if isinstance(found, str):
                left_out[found] += 1
            else:
                rows.append(found)
    if len(rows) < LEAST:
        why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items())) or "nothing was left out"
        raise UserError(
            f"{paths[0]}: {len(rows):,} labels that can be used ({why}); training needs {LEAST}, each with a text and "
            f"a score from {LOW:g} to {HIGH:g}"
        )
    # A dimension counts if every label has it: the targets share their trees.
    names = (SCORE, *(name for name in DIMENSIONS if all(row[name] is not None for row in rows)))
    targets = np.array([[row["score" if name == SCORE else name] for name in names] for row in rows], np.float64)
    texts = [row["text"] for row in rows]
    data = [text.encode() for text in texts]
    documents = pa.table(
        {
            "id": pa.array([document_id(text) for text in data], pa.string()),
            "repo": pa.array([row["group"] for row in rows], pa.string()),
            "path": pa.array([row["path"] for row in rows], pa.string()),
            "language": pa.array([row["language"] for row in rows], pa.string()),
            "text": pa.array(texts, pa.large_string()),
            "bytes": pa.array([len(text) for text in data], pa.int64()),
        }
    )
    return Labels(documents, targets, names, tuple(row["group"] for row in rows), dict(sorted(left_out.items())))


def _label(record: dict[str, Any], text_column: str, score_column: str, group_column: str) -> dict[str, Any] | str:
    """One label, or the reason why it cannot be used."""
    text, score, group = (record.get(name) for name in (text_column, score_column, group_column))
    if not isinstance(text, str) or not text:
        return "no_text"
    try:
        data = text.encode()
    except UnicodeEncodeError:  # an escaped lone surrogate of JSON
        return "no_text"
    number = _number(score)
    if number is None:
        return "no_score"
    if not LOW <= number <= HIGH:
        return "out_of_range"
    if group is None or group == "":
        return "no_group"
    path = record.get("path")
    path = path if isinstance(path, str) else ""
    language = record.get("language")
    known = languages.by_label(language) if isinstance(language, str) else None
    if known is None and path:
        known = languages.by_path(path, data[:4096])
    row: dict[str, Any] = {"text": text, "score": number, "group": readers.storable(str(group))}
    row |= {"path": readers.storable(path), "language": known or UNKNOWN}
    for name in DIMENSIONS:
        dimension = _number(record.get(name))
        row[name] = dimension if dimension is not None and LOW <= dimension <= HIGH else None
    return row


def _number(value: Any) -> float | None:
    """A finite number; True is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if np.isfinite(number) else None


def _records(path: str, needed: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of a file as dicts of the columns that are read."""
    if not readers.is_url(path) and Path(path).is_dir():
        raise UserError(f"{path}: a folder; give the Parquet or JSONL file that holds the labels")
    kind = readers.kind_of(path)
    if kind not in ("parquet", "jsonl"):
        raise UserError(f"{path}: neither Parquet nor JSON Lines; write the labels as one of these")
    names = [*needed.values(), "path", "language", *DIMENSIONS]
    if kind == "parquet":
        with readers.open_parquet(path) as file:
            present = set(file.schema_arrow.names)
            _check(path, needed, present)
            wanted = [name for name in dict.fromkeys(names) if name in present]
            for batch in file.iter_batches(1024, columns=wanted, use_threads=False):
                yield from batch.to_pylist()
        return
    seen: set[str] = set()
    bad = 0
    for _, _, line in readers.numbered_lines(path, 0, None, LONGEST_LINE):
        if line is not None and line.isspace():
            continue
        record = decode_record(line) if line is not None else None
        if record is None:
            bad += 1
            yield {}
            continue
        seen.update(record)
        yield record
    _check(path, needed, seen)


def _check(path: str, needed: dict[str, str], present: set[str]) -> None:
    """Raise a `UserError` for a column that no label has."""
    for role, name in needed.items():
        if name in present:
            continue
        there = ", ".join(sorted(present)[:20]) or "no columns"
        if role == "group":
            raise UserError(
                f"{path}: no column {name!r}, so files of one repository could be on both sides of a split, which "
                f"flatters; name the column of the repository with --group-column (there are {there})"
            )
        raise UserError(f"{path}: no column {name!r}; there are {there}; name one with --{role}-column")
