"""A run of documents with scores as the score stage leaves it: what select, explain and the report read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from codeshell import registry
from codeshell import scorers as scorers_room
from codeshell.data.scored import scorer_home
from codeshell.documents.shards import DOCUMENTS, KEPT, document_id, list_shards, shard_path, write_table
from codeshell.engine.files import write_json
from codeshell.scorers import text as measures
from helpers.corpus_builder import build

SCORERS = {"values": ("quality", "bits", "problem"), "libraries": ("library_names", "library_bonus")}
LANGUAGES = ("python", "java", "c")


class Values:
    version = 1
    columns = pa.schema([("quality", pa.float64()), ("bits", pa.float64()), ("problem", pa.string())])

    def score(self, batch: pa.Table) -> dict[str, Any]:
        raise AssertionError("scored already")


class Libraries(Values):
    columns = pa.schema([("library_names", pa.string()), ("library_bonus", pa.float64())])


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the two scorers known by name, as those of the package are."""
    known = scorers_room.SCORERS
    for name, scorer in (("values", Values), ("libraries", Libraries)):
        monkeypatch.setitem(known._table, name, f"test:{name}")
        monkeypatch.setitem(known._loaded, registry.absolute(f"test:{name}"), scorer)
    monkeypatch.setattr(known, "fingerprint", lambda name: "1")


def documents(count: int = 120) -> list[dict[str, Any]]:
    """Documents with scores from fixed arithmetic; every seventh lacks one, and many are equal."""
    rows = []
    for at in range(count):
        text = f"value_{at} = {at}\n" * (1 + at % 5)
        rows.append(
            {
                "id": document_id(text.encode()),
                "repo": f"r{at % 4}",
                "path": f"{at}.txt",
                "language": LANGUAGES[(at * at) % 7 % 3],
                "text": text,
                "bytes": len(text),
                "quality": None if at % 7 == 3 else (at * 37 % 50) / 10,
                "bits": 1 + (at * 29 % 64) / 16,
                "problem": "humaneval:7" if at % 40 == 11 else "",
                "library_names": " ".join(name for name, step in (("numpy", 3), ("torch", 4)) if at % step == 0),
                "library_bonus": (at % 3) / 2,
            }
        )
    return rows


def write(run: Path, rows: list[dict[str, Any]], size: int = 50) -> Path:
    """The run of these documents as `score` leaves it, in shards of `size` documents."""
    build(run, [], stage="neardup")
    for path in list_shards(run / "collect", "documents") + list_shards(run / "neardup", "kept"):
        path.unlink()
    for index, first in enumerate(range(0, len(rows), size)):
        some = rows[first : first + size]
        # A document that neardup dropped stands before each: rows of the shard are not rows of what is kept.
        collected = [row for one in some for row in (one | {"id": "0" * 32}, one)]
        table = pa.Table.from_pylist(collected, DOCUMENTS)
        write_table(shard_path(run / "collect", "documents", index), table)
        _, _, found = measures.measure([row["text"].encode() for row in collected])
        texts = [row["text"].encode() for row in collected]
        scores = measures.score(texts, table["id"].to_pylist(), table["language"].to_pylist(), found)
        write_table(shard_path(run / "collect", "scores", index), scores)
        kept = [row | {"shard": index, "row": 2 * at + 1} for at, row in enumerate(some)]
        write_table(shard_path(run / "neardup", "kept", index), pa.Table.from_pylist(kept, KEPT))
        for name, scorer in (("values", Values), ("libraries", Libraries)):
            schema = pa.schema([("id", pa.string()), *scorer.columns])
            home = scorer_home(run / "score", name)
            home.mkdir(parents=True, exist_ok=True)
            write_table(shard_path(home, "scores", index), pa.Table.from_pylist(some, schema))
    write_json(run / "score/stats.json", {"columns": SCORERS})
    return run
