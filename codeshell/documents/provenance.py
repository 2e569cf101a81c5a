"""Why a document is not in the corpus: one row for every drop, one schema for every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from codeshell.documents.shards import list_shards, read_table

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

STAGES = ("collect", "filter", "neardup", "split")
"""Directories of a run that hold `dropped-NNNNN.parquet`, in the order of the pipeline."""


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
        directory = run / ("curated" if stage == "split" else stage)
        for path in list_shards(directory, "dropped"):
            dropped += _matching(read_table(path), key)
    return kept, dropped


def _last_kept(run: Path) -> list[tuple[Path, str]]:
    """Directories and shard names that hold what the last finished stage kept."""
    stages = {
        "curated": ("train", "valid", "test"),
        "neardup": ("kept",),
        "filter": ("kept",),
        "collect": ("documents",),
    }
    for directory, names in stages.items():
        if any(list_shards(run / directory, name) for name in names):
            return [(run / directory, name) for name in names]
    return []


def _matching(table: pa.Table, key: str) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    mask = pc.or_kleene(pc.equal(table["path"], key), pc.ends_with(table["path"], "/" + key))
    if len(key) >= 8:
        mask = pc.or_kleene(mask, pc.starts_with(table["id"], key))
    rows: list[dict[str, Any]] = table.filter(pc.fill_null(mask, False)).to_pylist()
    return rows
