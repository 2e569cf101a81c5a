"""Reads inputs as `codeshell run` and as `codeshell dedup` read them, to compare the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codeshell.dedup import job
from codeshell.documents import batches, inputs
from codeshell.documents.inputs import InputOptions
from codeshell.engine import LocalEngine
from helpers.trees import recipe, rows, run_collect


def run_texts(names: list[str], output: Path, **settings: Any) -> list[str]:
    run_collect(recipe(*names, **settings), output)
    return [row["text"] for row in rows(output / "collect", "documents")]


def dedup_texts(names: list[str], output: Path, options: InputOptions | None = None) -> list[str]:
    options = options or InputOptions()
    with LocalEngine(1) as engine:
        statistics = job.run(job.Job(inputs=tuple(names), output=output, options=options), engine)
    found = plan_texts(names, options)
    assert statistics["documents"] == len(found)
    return found


def plan_texts(names: list[str], options: InputOptions | None = None, shard_bytes: int = 1 << 20) -> list[str]:
    """The texts of some inputs, as dedup reads them."""
    options = options or InputOptions()
    shards = inputs.plan(names, options, shard_bytes).shards
    return [text for shard in shards for batch in batches.read(shard, options) for text in batch.texts.to_pylist()]
