"""Near duplicates, as a stage: `filter/kept-*` to `neardup/kept-*` and `neardup/dropped-*`.

Shards are signed in parallel (band keys, 168 bytes a document at 21 bands). Then one pass over the corpus in its order
decides (`dedup.Decider`): only documents that share a band key with another are read again. Memory of that pass: the
rows without their texts, the band keys, and 8 bytes a distinct shingle of the kept candidates.
The outcome depends on the order of the documents alone, not on shards or workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.data.dedup import Decider, TextBuffers, band_keys, check_parameters, text_buffers
from codeshell.data.provenance import DROPPED
from codeshell.data.shards import KEPT, list_shards, read_kept, read_table, shard_path, write_table
from codeshell.data.totals import by_language, totals
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import atomic_path, make_directory
from codeshell.engine.progress import Progress
from codeshell.errors import UserError
from codeshell.recipe import NearDedup, Recipe


@dataclass(frozen=True)
class SignTask:
    """One shard to sign."""

    collect: Path
    kept: Path
    keys: Path
    settings: NearDedup
    seed: int


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Run the stage in the run `directory`; see docs/run-directory.md for files and statistics.

    Raises:
        UserError: the filter stage left nothing to read, or bands x rows is impossible.
    """
    settings = recipe.near_dedup
    try:
        check_parameters(bands=settings.bands, rows=settings.rows, seed=recipe.seed)
    except ValueError as error:
        raise UserError(f"near_dedup: {error}; choose other settings") from None
    output = make_directory(directory / "neardup")
    sources = list_shards(directory / "filter", "kept")
    if not sources:
        raise UserError(f"{directory / 'filter'}: no kept-*.parquet here; run the filter stage first")
    shards = [read_table(path).select(KEPT.names).cast(KEPT) for path in sources]
    counts = {"candidate_pairs": 0, "verified_pairs": 0, "capped_keys": 0}
    if settings.enabled:
        keys = _sign(recipe, directory, sources, engine)
        matches, jaccard, counts = _decide(settings, directory / "collect", sources, keys)
    else:
        matches = np.full(sum(shard.num_rows for shard in shards), -1, np.int64)
        jaccard = np.zeros(len(matches))
    return _write(output, shards, matches, jaccard, settings.threshold) | counts


def _sign(recipe: Recipe, directory: Path, sources: list[Path], engine: Engine) -> list[NDArray[np.uint64]]:
    output = directory / "neardup"
    tasks = [
        SignTask(directory / "collect", kept, output / f"keys-{i:05d}.npy", recipe.near_dedup, recipe.seed)
        for i, kept in enumerate(sources)
    ]
    map_shards(engine, output, "sign", sign_shard, tasks)
    return [np.load(task.keys) for task in tasks]


def sign_shard(task: SignTask) -> dict[str, Any]:
    """Write the band keys of one shard, (documents, bands) uint64."""
    settings = task.settings
    parts = [np.empty((0, settings.bands), np.uint64)]
    for table in read_kept(task.collect, task.kept):
        for piece in text_buffers(table["text"]):
            parts.append(
                band_keys(piece, bands=settings.bands, rows=settings.rows, ngram=settings.ngram, seed=task.seed)
            )
    keys = np.concatenate(parts)
    with atomic_path(task.keys) as temporary, open(temporary, "wb") as file:
        np.save(file, keys)
    return {"documents": len(keys)}


def shared_keys(keys: list[NDArray[np.uint64]]) -> NDArray[np.bool_]:
    """Which documents share a band key with another one: (documents,), from the (documents, bands) of all shards."""
    shared = np.zeros(sum(len(shard) for shard in keys), np.bool_)
    for band in range(keys[0].shape[1]):
        column = np.concatenate([shard[:, band] for shard in keys])
        order = np.argsort(column)
        equal = column[order[1:]] == column[order[:-1]]
        shared[order[1:][equal]] = True
        shared[order[:-1][equal]] = True
    return shared


def _decide(
    settings: NearDedup, collect: Path, sources: list[Path], keys: list[NDArray[np.uint64]]
) -> tuple[NDArray[np.int64], NDArray[np.float64], dict[str, int]]:
    """The kept document (its position in the corpus; -1: kept) and Jaccard of every document, and the counts."""
    decider = Decider(ngram=settings.ngram, bands=settings.bands, threshold=settings.threshold)
    candidates = np.split(shared_keys(keys), np.cumsum([len(shard) for shard in keys])[:-1])
    matches, jaccard = [np.empty(0, np.int64)], [np.empty(0, np.float64)]
    with Progress("neardup", total=len(sources), unit="shards") as progress:
        for source, shard_keys, candidate in zip(sources, keys, candidates, strict=True):
            for piece, first in _pieces(collect, source, candidate):
                rows = slice(first, first + len(piece))
                found, value = decider.add(piece, shard_keys[rows], candidate[rows])
                matches.append(found)
                jaccard.append(value)
            progress.advance(1)
    return np.concatenate(matches), np.concatenate(jaccard), decider.counts


def _pieces(collect: Path, source: Path, candidate: NDArray[np.bool_]) -> Iterator[tuple[TextBuffers, int]]:
    """The texts of a shard and the row that each piece begins with; empty texts if none of them is a candidate."""
    if not candidate.any():
        yield TextBuffers(b"", np.zeros(len(candidate) + 1, np.int64)), 0
        return
    first = 0
    for table in read_kept(collect, source):
        for piece in text_buffers(table["text"]):
            yield piece, first
            first += len(piece)


def _write(
    output: Path, shards: list[pa.Table], matches: NDArray[np.int64], jaccard: NDArray[np.float64], threshold: float
) -> dict[str, Any]:
    corpus = pa.concat_tables(shards)
    first = 0
    for index, shard in enumerate(shards):
        rows = slice(first, first + shard.num_rows)
        stays = matches[rows] < 0
        drops = pa.array(~stays)
        write_table(shard_path(output, "kept", index), shard.filter(pa.array(stays)))
        dropped = dropped_rows(
            shard.filter(drops),
            "neardup",
            "near_duplicate",
            jaccard[rows][~stays],
            threshold,
            corpus.take(pa.array(matches[rows][~stays])),
        )
        write_table(shard_path(output, "dropped", index), dropped)
        first += shard.num_rows
    kept, dropped = corpus.filter(pa.array(matches < 0)), corpus.filter(pa.array(matches >= 0))
    assert kept.num_rows + dropped.num_rows == corpus.num_rows
    _, sizes = np.unique(matches[matches >= 0], return_counts=True)
    return {
        "in": totals(corpus),
        "kept": totals(kept),
        "dropped": {"near_duplicate": totals(dropped)},
        "by_language": by_language(kept),
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max()) + 1 if len(sizes) else 0,
    }


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
