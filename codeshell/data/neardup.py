"""Near duplicates, as a stage: `filter/kept-*` to `neardup/kept-*` and `neardup/dropped-*`.

The search is `codeshell.dedup.search`; its files are in `neardup/work` while it lasts. The outcome depends only on the
order of the documents, not on shards or workers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.dedup.parameters import Parameters
from codeshell.dedup.search import Search, search
from codeshell.documents.batches import Batch
from codeshell.documents.provenance import dropped_rows
from codeshell.documents.shards import (
    KEPT,
    by_language,
    list_shards,
    read_kept,
    read_table,
    shard_path,
    totals,
    write_table,
)
from codeshell.engine import Engine
from codeshell.engine.files import make_directory
from codeshell.errors import UserError
from codeshell.recipe import Recipe

COUNTS = ("same", "candidate_pairs", "verified_pairs", "large_groups")
"""The counts of the search that the stage reports."""


@dataclass(frozen=True)
class KeptShard:
    """The documents that one `kept-NNNNN.parquet` names."""

    collect: Path
    kept: Path


def check(recipe: Recipe) -> None:
    """Raise a `UserError` for impossible parameters of the search."""
    try:
        _parameters(recipe).check()
    except ValueError as error:
        raise UserError(f"near_dedup: {error}; choose other settings") from None


def _parameters(recipe: Recipe) -> Parameters:
    settings = recipe.near_dedup
    return Parameters(
        threshold=settings.threshold, bands=settings.bands, rows=settings.rows, ngram=settings.ngram, seed=recipe.seed
    )


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Run the stage in the run `directory`; see docs/run-directory.md for files and statistics.

    Raises:
        UserError: the filter stage left nothing to read, or bands x rows is impossible.
    """
    # An impossible number of bands and rows is an error here, before anything is read.
    check(recipe)
    settings = recipe.near_dedup
    output = make_directory(directory / "neardup")
    sources = list_shards(directory / "filter", "kept")
    if not sources:
        raise UserError(f"{directory / 'filter'}: no kept-*.parquet here; run the filter stage first")
    # The whole corpus without its texts: some 200 bytes per document.
    shards = [read_table(path).select(KEPT.names).cast(KEPT) for path in sources]
    # By document in the order of all shards: the document it falls to (-1: it stays), and their Jaccard.
    matches = np.full(sum(shard.num_rows for shard in shards), -1, np.int64)
    jaccard = np.zeros(len(matches))
    counts = dict.fromkeys(COUNTS, 0)
    if settings.enabled:
        # The search reads texts shard by shard and has its own files, which a killed run finds again.
        work = make_directory(output / "work")
        tasks = [KeptShard(directory / "collect", path) for path in sources]
        found = search(Search(tasks, read_shard, work, _parameters(recipe)), engine)
        matches[found.decisions.dropped] = found.decisions.kept
        jaccard[found.decisions.dropped] = found.decisions.jaccard
        counts |= {name: found.counts.get(name, 0) for name in COUNTS}
    # The files of the search go last: until the stage is written, a resume needs them.
    statistics = _write(output, shards, matches, jaccard, settings.threshold) | counts
    if settings.enabled:
        shutil.rmtree(work)
    return statistics


def read_shard(shard: KeptShard, wanted: frozenset[str]) -> Iterator[Batch]:
    """A `dedup.sign.Reader`: the texts of one shard by row groups."""
    # `rows` number the documents of the shard's kept file from 0, whatever their rows in the collected shard.
    first = 0
    for table in read_kept(shard.collect, shard.kept):
        rows = np.arange(first, first + table.num_rows, dtype=np.int64)
        first += table.num_rows
        yield Batch(rows=rows, texts=table["text"].combine_chunks(), ids=None, order=None, left_out={})


def _write(
    output: Path, shards: list[pa.Table], matches: NDArray[np.int64], jaccard: NDArray[np.float64], threshold: float
) -> dict[str, Any]:
    """Write `kept-` and `dropped-NNNNN.parquet` of every shard; return the statistics but for the search's counts."""
    corpus = pa.concat_tables(shards)
    # `first` is the number of the shard's first document in `matches` and `jaccard`.
    first = 0
    for index, shard in enumerate(shards):
        rows = slice(first, first + shard.num_rows)
        # A dropped row names the document that stayed, which may be in any shard.
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
    # A cluster is a document that stays with those that fell to it: one more than its drops.
    _, sizes = np.unique(matches[matches >= 0], return_counts=True)
    return {
        "in": totals(corpus),
        "kept": totals(kept),
        "dropped": {"near_duplicate": totals(dropped)},
        "by_language": by_language(kept),
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max()) + 1 if len(sizes) else 0,
    }
