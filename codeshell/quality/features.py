"""Features: the columns of scorers, by name, for documents outside of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from codeshell.errors import UserError
from codeshell.scorers import Scorer, make
from codeshell.scorers.text import SCORES, TextMeasures

DEFAULT = ("lexical", "libraries", "standards", "perplexity")
"""Scorers whose columns a model is trained on, unless others are named. Those of syntax trees cost more than all of
these together and add nothing to the learned score (docs/decisions.md)."""

BASE = pa.schema([("bytes", pa.int64()), *(field for field in SCORES if field.name not in ("id", "language"))])
"""Columns of every document: its length, and the measures of its text."""


def scorers_of(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Scorer]:
    """The scorers of these names with their settings, checked: each needs only what those before it give.

    Raises:
        UserError: as `codeshell.scorers.make`; a scorer that needs a column which none before it gives.
    """
    scorers = {name: make(name, settings.get(name, {})) for name in names}
    have = set(BASE.names)
    for name, scorer in scorers.items():
        if hasattr(scorer, "fit") and getattr(scorer, "learns", False):
            raise UserError(f"scorer {name}: learns from a corpus, which is not there outside of a run; leave it out")
        for column in getattr(scorer, "needs", ()):
            if column not in have:
                raise UserError(f"scorer {name}: needs the column {column!r}; name the scorer that gives it before it")
        twice = have & set(scorer.columns.names)
        if twice:
            raise UserError(f"scorer {name}: the column {min(twice)!r} is there already; leave one scorer out")
        have |= set(scorer.columns.names)
    return scorers


def columns_of(documents: pa.Table, scorers: Mapping[str, Scorer]) -> pa.Table:
    """The columns `BASE` and those of the scorers for some documents.

    Args:
        documents: id, repo, path, language, text, bytes; the texts are not empty.
    """
    measures = TextMeasures().score(documents)
    batch = documents
    for name, column in measures.items():
        batch = batch.append_column(SCORES.field(name), column)
    for name, scorer in scorers.items():
        values = scorer.score(batch)
        for field in scorer.columns:
            column = values[field.name]
            if not isinstance(column, pa.Array | pa.ChunkedArray):
                column = pa.array(column, field.type)
            if len(column) != documents.num_rows:
                raise UserError(f"scorer {name}: {field.name!r} has {len(column)} values for {documents.num_rows}")
            batch = batch.append_column(field, column.cast(field.type))
    return batch.drop_columns(["id", "repo", "path", "language", "text"])


def numeric(table: pa.Table) -> list[str]:
    """Names of the columns that are numbers or yes and no, and not the same for all documents."""
    names = []
    for field in table.schema:
        kind = field.type
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            column = table.column(field.name)
            values = column.cast(pa.int8()) if pa.types.is_boolean(kind) else column
            array = values.cast(pa.float64(), safe=False).to_numpy()
            if len(np.unique(array[np.isfinite(array)])) > 1 or 0 < column.null_count < len(column):
                names.append(field.name)
    return names
