"""Why a document is not in the corpus: one row for every drop, one schema for every stage."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.documents.inputs import Source, read_plan
from codeshell.documents.shards import list_shards, read_table
from codeshell.documents.walk import Found
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


def left_out_around(run: Path, key: str) -> list[dict[str, Any]]:
    """The folders (and links) around a path that `collect` left out whole, as rows of `find`; the nearest only.

    Args:
        key: the end of a path, with the folder's name in it.
    """
    parts = key.split("/")
    for end in range(len(parts) - 1, 0, -1):
        folder = "/".join(parts[:end])
        rows = []
        for path in list_shards(run / "collect", "dropped"):
            rows += [row for row in _matching(read_table(path), folder) if not row["id"] and not row["bytes"]]
        if rows:
            return rows
    return []


class Listed(NamedTuple):
    """Where a path lies among the inputs."""

    source: Source
    path: str
    """Below the folder that is the input."""
    found: Found | None
    """What was listed there: the file, or a folder around it that was left out; None if neither."""


def locate(plans: Iterable[Path], path: Path) -> list[Listed]:
    """Where a path of this machine lies among the inputs of a run or a dedup: below which of their folders.

    Args:
        plans: the files that `inputs.write_plan` wrote.
        path: relative to the working directory, or absolute.
    """
    # The folders may have been given through links, and so may the path.
    asked = {os.path.abspath(path), os.path.realpath(path)}  # noqa: PTH100 (a link is a name of its own)
    places: dict[str, Listed] = {}
    for plan in plans:
        for shard in read_plan(plan).shards:
            root = shard.source.path
            if shard.source.kind != "files":
                continue
            roots = {root, os.path.realpath(root)}
            below = next((one[len(top) + 1 :] for one in asked for top in roots if one.startswith(f"{top}/")), None)
            if below is None:
                continue
            place = places.setdefault(root, Listed(shard.source, below, None))
            if place.found is None:
                around = (one for one in shard.files if one.path == below or below.startswith(f"{one.path}/"))
                places[root] = place._replace(found=next(around, None))
    return list(places.values())


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
