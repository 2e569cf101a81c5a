"""What `codeshell dedup` leaves behind, made by hand: inputs, and all files of the output but the kept rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codeshell.documents.inputs import InputOptions, Plan, Shard, Source, write_plan
from codeshell.documents.walk import Found

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kept_id", pa.string()),
        ("jaccard", pa.float64()),
        ("cluster_id", pa.int64()),
        ("cluster_size", pa.int64()),
        ("shard", pa.int32()),
        ("row", pa.int64()),
        ("kept_shard", pa.int32()),
        ("kept_row", pa.int64()),
    ]
)

Documents = list[tuple[str, str]]
"""(id, text)."""
Drops = dict[int, tuple[int, float | None]]
"""Position of a dropped document: that of the kept one, and their Jaccard."""


def build(root: Path, documents: Documents, drops: Drops, *, kind: str = "parquet") -> Path:
    """Write the documents as an input of a kind and the output of a job on it; return the output's directory.

    Of `files` an id is a path below the folder `code`; the ids in the output are `code/` and that.
    """
    names = [identity for identity, _ in documents]
    if kind == "files":
        path = root / "code"
        for name, text in documents:
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        names = [f"code/{name}" for name in names]
    elif kind == "jsonl":
        path = root / "in.jsonl"
        path.write_text("".join(json.dumps({"name": name, "content": text}) + "\n" for name, text in documents))
    else:
        path = root / "in.parquet"
        texts = [text for _, text in documents]
        pq.write_table(pa.table({"name": names, "content": texts}), path, row_group_size=3)
    sizes = np.bincount([kept for kept, _ in drops.values()], minlength=len(documents)) + 1
    rows = [
        {
            "id": names[place],
            "kept_id": names[kept],
            "jaccard": jaccard,
            "cluster_id": kept,
            "cluster_size": int(sizes[kept]),
            "shard": 0,
            "row": place,
            "kept_shard": 0,
            "kept_row": kept,
        }
        for place, (kept, jaccard) in sorted(drops.items())
    ]
    options = InputOptions(text_column="content", id_column=None if kind == "files" else "name")
    stamp = [0, 0] if kind == "files" else [path.stat().st_size, path.stat().st_mtime_ns]
    entry = {"path": str(path), "kind": kind, "name": path.name, "stamp": stamp}
    size = sum(len(text.encode()) for _, text in documents)
    lost = sum(len(documents[place][1].encode()) for place in drops)
    stats = {
        "documents": len(documents),
        "bytes": size,
        "kept": len(documents) - len(drops),
        "kept_bytes": size - lost,
        "duplicates": len(drops),
        "clusters": len({kept for kept, _ in drops.values()}),
        "left_out": {"empty": 2},
    }
    output = finish(root, pa.Table.from_pylist(rows, SCHEMA), [entry], asdict(options), stats)
    source = Source(0, kind, str(path), path.name, path.name, (stamp[0], stamp[1]))
    write_plan(output / "plan.json", Plan([source], _shards(source, documents)))
    return output


def _shards(source: Source, documents: Documents) -> list[Shard]:
    """The documents in two shards."""
    count = len(documents)
    half = count // 6 * 3
    ends = (half, count)
    if source.kind == "parquet":
        ends = (half // 3, -(-count // 3))
    elif source.kind == "jsonl":
        lines = Path(source.path).read_bytes().splitlines(keepends=True)
        ends = (sum(map(len, lines[:half])), sum(map(len, lines)))
    names = tuple(Found(name, 0, "", "") for name, _ in documents) if source.kind == "files" else ()
    return [
        Shard(0, source, 0, ends[0], 0, half, 0, files=names[:half]),
        Shard(1, source, ends[0], ends[1], half, count - half, 0, files=names[half:]),
    ]


def finish(
    root: Path,
    table: pa.Table,
    files: list[dict[str, Any]],
    options: dict[str, Any],
    stats: dict[str, Any],
    threshold: float = 0.7,
) -> Path:
    """Write the output's files into `root / "out"`."""
    output = root / "out"
    output.mkdir()
    job = {
        "command": "dedup",
        "version": "0.1.0",
        "inputs": [file["name"] for file in files],
        "files": files,
        "parameters": {"threshold": threshold, "keep_order": "first", "verify": "exact", "ngram": 5},
        "options": options,
        "write": "rows",
    }
    (output / "job.json").write_text(json.dumps(job))
    (output / "stats.json").write_text(json.dumps(stats))
    (output / "timings.json").write_text(json.dumps({"search": 1.5, "write": 0.5}))
    pq.write_table(table, output / "duplicates.parquet", row_group_size=2048)
    return output
