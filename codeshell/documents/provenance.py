"""Why a document is not in the corpus: one row for every drop, one schema for every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.documents.shards import list_shards, read_table
from codeshell.engine.stages import STAGES

DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("language", pa.string()),
        ("bytes", pa.int64()),
        ("stage", pa.string()),
        ("rule", pa.string()),
        ("value", pa.float64()),
        ("limit", pa.float64()),
        ("kept_id", pa.string()),
        ("kept_repo", pa.string()),
        ("kept_path", pa.string()),
    ]
)
"""A dropped document: the stage and rule that dropped it, the measured value and the limit it broke (null where a
rule has none), and for a duplicate the document that stayed; a near duplicate's `value` is the exact Jaccard.
Files that never became documents (binary, unreadable, ...) are here too, with stage `collect` and a null id."""


def dropped_rows(
    documents: pa.Table, stage: str, rule: str, value: NDArray[np.float64], limit: float, kept: pa.Table
) -> pa.Table:
    """Rows of schema `DROPPED`: row i of `documents` fell to `rule` with `value[i]` because of row i of `kept`."""
    count = documents.num_rows
    columns = {name: documents[name] for name in ("id", "repo", "path", "language", "bytes")}
    columns |= {"stage": pa.repeat(stage, count), "rule": pa.repeat(rule, count)}
    columns |= {"value": pa.array(value, pa.float64()), "limit": pa.repeat(pa.scalar(limit, pa.float64()), count)}
    columns |= {f"kept_{name}": kept[name] for name in ("id", "repo", "path")}
    return pa.table(columns).select(DROPPED.names).cast(DROPPED)


def find(run: Path, key: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What happened to a document.

    Args:
        run: the run's directory.
        key: an id or its beginning (8 digits or more), or the end of a path.

    Returns:
        The documents that stayed (from `curated/`, without their text; of a run that did not get there, from its last
        stage, with an empty `split`) and the drops, as dicts.
    """
    kept: list[dict[str, Any]] = []
    for directory, name in _last_kept(run):
        for path in list_shards(directory, name):
            table = read_table(path, ["id", "repo", "path", "language", "bytes"])
            kept += [row | {"split": "" if name in ("kept", "documents") else name} for row in _matching(table, key)]
    dropped: list[dict[str, Any]] = []
    for stage in STAGES:
        for path in list_shards(run / stage.directories[0], "dropped") if stage.drops else ():
            dropped += _matching(read_table(path), key)
    return kept, dropped


def _last_kept(run: Path) -> list[tuple[Path, str]]:
    """Directories and shard names that hold what the last finished stage kept."""
    for stage in reversed(STAGES):
        directory = run / stage.directories[0]
        if any(list_shards(directory, name) for name in stage.kept):
            return [(directory, name) for name in stage.kept]
    return []


def _matching(table: pa.Table, key: str) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    mask = pc.or_kleene(pc.equal(table["path"], key), pc.ends_with(table["path"], "/" + key))
    if len(key) >= 8:
        mask = pc.or_kleene(mask, pc.starts_with(table["id"], key))
    rows: list[dict[str, Any]] = table.filter(pc.fill_null(mask, False)).to_pylist()
    return rows
