"""The documents nearest to each limit, on both sides: what a person looks at to judge a threshold.

`select/edges.parquet` holds a few for every limit: those that it dropped by the smallest margin, and those that stayed
and passed it by the smallest. The margin is relative to the limit, so that languages can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.data.distributions import languages_of
from codeshell.data.limits import Limit
from codeshell.data.rules import numbers
from codeshell.documents.shards import read_table, shard_path, write_table
from codeshell.engine.files import remove_quietly

EDGES = pa.schema(
    [
        ("rule", pa.string()),
        ("kept", pa.bool_()),
        ("margin", pa.float64()),
        ("id", pa.string()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("language", pa.string()),
        ("bytes", pa.int64()),
        ("value", pa.float64()),
        ("limit", pa.float64()),
    ]
)
"""A document near a limit: the one it was dropped by, or one that it passed and stayed."""

NEAREST = 3
"""Documents on each side of each limit."""


def edges_of(
    limits: Sequence[Limit], table: pa.Table, kept: pa.Table, reason: NDArray[np.integer[Any]]
) -> list[dict[str, Any]]:
    """The nearest documents of one shard, as rows of `EDGES`.

    Args:
        table: the columns of the limits, and `language`.
        kept: of the same documents, the schema `shards.KEPT`.
        reason: the number of the limit that drops each; -1 if it stays.
    """
    found: list[dict[str, Any]] = []
    by_language = list(languages_of(table["language"]))
    for index, limit in enumerate(limits):
        bounds = np.full(table.num_rows, np.nan)
        for language, rows in by_language:
            bounds[rows] = limit.of(language)
        if np.isnan(bounds).all():
            continue
        values = numbers(table[limit.column])
        with np.errstate(invalid="ignore", divide="ignore"):
            margin = np.abs(values - bounds) / np.maximum(np.abs(bounds), 1e-9)
        for stays, side in ((False, reason == index), (True, reason == -1)):
            rows = np.flatnonzero(side & np.isfinite(margin))
            # By the id where margins are equal: the choice must not depend on the shards.
            ids = np.array(kept["id"].take(pa.array(rows)).to_pylist(), dtype=str)
            for row in rows[np.lexsort((ids, margin[rows]))[:NEAREST]].tolist():
                about = kept.slice(row, 1).select(["id", "repo", "path", "language", "bytes"]).to_pylist()[0]
                measured = {"margin": float(margin[row]), "value": float(values[row]), "limit": float(bounds[row])}
                found.append({"rule": limit.name, "kept": stays} | about | measured)
    return found


def merge_edges(stage: Path, shards: range) -> None:
    """Write `edges.parquet` of all shards, sorted by rule, side and margin, and remove those of the shards."""
    parts = [shard_path(stage, "edges", shard) for shard in shards]
    # A run that was killed after this has the whole and no parts.
    if all(path.exists() for path in parts):
        table = pa.concat_tables([EDGES.empty_table(), *map(read_table, parts)])
        order = [("rule", "ascending"), ("kept", "ascending"), ("margin", "ascending"), ("id", "ascending")]
        rows = table.sort_by(order).to_pylist()
        taken: dict[tuple[str, bool], int] = {}
        chosen = []
        for row in rows:
            key = row["rule"], row["kept"]
            taken[key] = taken.get(key, 0) + 1
            if taken[key] <= NEAREST:
                chosen.append(row)
        write_table(stage / "edges.parquet", pa.Table.from_pylist(chosen, schema=EDGES))
    for path in parts:
        remove_quietly(path)
