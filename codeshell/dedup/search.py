"""The search for near duplicates over shards: sign, find candidates, verify, decide. Step by step:

    sign        shard by shard       sign.py         read the texts, MinHash them: band keys, sketches, fingerprints
    same        by key range         candidates.py   documents of equal fingerprints become one
    edges       by key range         candidates.py   equal band keys, then sketches: candidate pairs
    bins        shard by shard       sharpen.py      only where candidates abound: sharper sketches, fewer candidates
    sets        shard by shard       decide.py       read the candidates again: their shingle sets
    decide      in the keep order    decide.py       exact Jaccards; who stays

Every file of a step is written whole and marked when it is done, so a search that was killed resumes where it stopped.
The outcome depends on the documents and their order alone: not on shards, workers, memory, engine or processor.

Memory of this process: about 10 bytes per document (14 with a keep order other than `first`). For everything else
`memory` is divided among this process and the workers.

What the variables hold:

    position        a document's number: the prior documents first, then the shards' in order
    firsts          (files + 1,) int64: the documents of file f have the positions firsts[f]:firsts[f + 1]
    rank            (documents,) uint32: place in the keep order, by position; a file, or None where both are the same
    order           (documents,) uint32: the inverse of `rank`
    same            (s,) uint32: positions of documents that have an earlier one's fingerprint, ascending
    representative  (s,) uint32: the position of that earlier one
    edges           files of candidate pairs, (later, earlier) ranks; `chunks` reads them in the order of the later rank
    wanted          (documents,) bool: positions that occur in an edge
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.dedup import sharpen
from codeshell.dedup.candidates import Corpus, find_edges, find_same
from codeshell.dedup.decide import (
    Chunks,
    Decisions,
    Verifier,
    WantedTask,
    decide,
    inverse,
    named,
    open_sets,
    sets_shard,
    with_same,
)
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.sign import Reader, SignedShards, SignTask, sign_shard
from codeshell.documents.arrays import ArrayFile, save_array
from codeshell.documents.shards import read_table
from codeshell.engine import Engine, map_shards
from codeshell.engine.progress import Progress
from codeshell.environment import thread_count
from codeshell.errors import UserError

MEMORY = 1 << 30
"""The default of `Search.memory`, in bytes."""


@dataclass(frozen=True)
class Prior:
    """The files of documents that came before and stay: a segment of an index."""

    signed: Path
    sets: Path


@dataclass(frozen=True)
class Search:
    """What is searched.

    Args:
        shards: the parts of the input, in its order; picklable.
        reader: reads one shard; see `sign.Reader`.
        directory: where the files of the steps are; it exists. The same search resumes from what is done there.
        parameters: thresholds and methods.
        memory: bytes that the steps may use at once, over all workers.
        prior: documents seen before; they come first in every order and stay.
        ids: whether to write the reader's ids to `documents-NNNNN.parquet`.
        all_sets: whether to write the shingle sets of all new documents, not only of candidates (an index keeps them).
    """

    shards: Sequence[Any]
    reader: Reader
    directory: Path
    parameters: Parameters
    memory: int = MEMORY
    prior: Sequence[Prior] = field(default_factory=tuple)
    ids: bool = False
    all_sets: bool = False

    def signed_path(self, shard: int) -> Path:
        return self.directory / f"sign-{shard:05d}.bin"

    def documents_path(self, shard: int) -> Path:
        return self.directory / f"documents-{shard:05d}.parquet"

    def sets_path(self, shard: int) -> Path:
        return self.directory / f"sets-{shard:05d}.bin"


@dataclass(frozen=True)
class Found:
    """The outcome of a search, in positions."""

    decisions: Decisions
    firsts: NDArray[np.int64]
    """(prior files + shards + 1,) the position of the first document of each."""
    prior: int
    """How many documents came before: lower positions are theirs, and none of them is in `decisions.dropped`."""
    counts: dict[str, Any]
    """Statistics of the steps, by name."""

    @property
    def documents(self) -> int:
        """How many documents the shards have; the prior ones do not count."""
        return int(self.firsts[-1]) - self.prior


def search(task: Search, engine: Engine) -> Found:
    """Run all steps that are not done yet.

    Raises:
        UserError: the input or the disk; too many documents for one search (2^32).
    """
    parameters = task.parameters

    # Sign every shard, then number the documents: a prior segment or a shard is one file of signatures.
    statistics = _sign(task, engine)
    files = [segment.signed for segment in task.prior] + [task.signed_path(i) for i in range(len(task.shards))]
    sizes = [ArrayFile(segment.signed).shape("rows")[0] for segment in task.prior]
    prior = sum(sizes)
    sizes += [shard["documents"] for shard in statistics]
    # (files + 1,): a running sum of the sizes.
    firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(sizes, np.int64))])
    if firsts[-1] >= 1 << 32:
        raise UserError(f"{int(firsts[-1]):,} documents: one search takes fewer than 2^32; search parts with --index")

    # Find the candidates: one representative of all documents that have its fingerprint, and pairs of representatives.
    corpus = Corpus(
        signed=SignedShards(files, firsts),
        parameters=parameters,
        directory=task.directory,
        rank=_write_rank(task, prior, firsts),
        representative=task.directory / "representative.npy",
        memory=task.memory // (engine.workers + 1),
    )
    # Positions (s,) of copies and of the documents that they copy.
    same, representative = find_same(engine, corpus)
    edges, counts = find_edges(engine, corpus)
    # Edges are in ranks; files of texts and sets go by position, which `order` gives.
    chunks = Chunks(edges, corpus.documents, prior)
    order = inverse(corpus.load_rank())
    threads = min(engine.workers, thread_count(0))

    # Read the texts of candidates again. Where there are too many candidates, first with sharper sketches, which leave
    # fewer of them, and then the shingle sets of those.
    sets = None
    if parameters.verify == "exact" or task.all_sets:
        wanted, count = named(chunks, corpus.documents, order)
        # From 8 candidates per document on, sharper sketches cost less than reading and merging sets.
        if parameters.verify == "exact" and count > sharpen.EDGES * corpus.documents:
            bins = [task.directory / f"bins-{i:05d}.bin" for i in range(len(files))]
            tasks = _wanted_tasks(task, corpus, wanted, "wanted-bins.npy", bins)
            edges = sharpen.sharpen(engine, corpus, chunks, wanted, tasks, order, threads)
            chunks = Chunks(edges, corpus.documents, prior)
            wanted, left = named(chunks, corpus.documents, order)
            counts |= {"sharpened_pairs": count, "sharpened_left": left}
        sets = _sets(task, engine, corpus, wanted)

    # Verify the candidates and decide, in the keep order. Only verify="signature" compares sketches once more.
    sketches = corpus.sketches() if parameters.verify == "signature" else None
    verify = Verifier(parameters, order, sets, sketches, threads)
    with Progress("decide", total=len(chunks), unit="chunks") as progress:
        decisions = decide(progress.over(chunks), corpus.documents, order, verify)
    # Copies of a document share its fate.
    decisions = with_same(decisions, same, representative, corpus.documents)

    # Add up the counts of all steps.
    left_out: dict[str, int] = {}
    for shard in statistics:
        for reason, count in shard["left_out"].items():
            left_out[reason] = left_out.get(reason, 0) + count
    totals = {
        "documents": corpus.documents - prior,
        "bytes": sum(shard["bytes"] for shard in statistics),
        "same": len(same),
        "left_out": dict(sorted(left_out.items())),
    }
    verified = {"candidate_pairs": verify.pairs, "verified_pairs": verify.verified}
    return Found(decisions, firsts, prior, totals | counts | verified)


def _sign(task: Search, engine: Engine) -> list[dict[str, Any]]:
    """Write the signatures of every shard; returns the counts of each."""
    # Reading ids and order values costs time, so they are asked for only if something uses them.
    wanted = {"text"} | ({"id"} if task.ids else set())
    if task.parameters.order_column:
        wanted.add("order")
    tasks = [
        SignTask(shard, task.reader, task.parameters, task.signed_path(i), task.documents_path(i), frozenset(wanted))
        for i, shard in enumerate(task.shards)
    ]
    return map_shards(engine, task.directory, "sign", sign_shard, tasks)


def _wanted_tasks(
    task: Search, corpus: Corpus, wanted: NDArray[np.bool_], name: str, outputs: list[Path]
) -> list[WantedTask]:
    """One task per output that reads the `wanted` documents (by position) of one file of the corpus again: of the last
    files, if there are fewer outputs than files. The flags are written once, to `name`."""
    path = task.directory / name
    save_array(path, wanted)
    sources: list[tuple[Any, Path | None]] = [(None, segment.sets) for segment in task.prior]
    sources += [(shard, None) for shard in task.shards]
    firsts = corpus.signed.firsts.tolist()
    sizes = np.diff(corpus.signed.firsts).tolist()
    skipped = len(sources) - len(outputs)
    return [
        WantedTask(shard, task.reader, task.parameters, path, firsts[i], sizes[i], outputs[i - skipped], sets)
        for i, (shard, sets) in enumerate(sources)
        if i >= skipped
    ]


def _sets(task: Search, engine: Engine, corpus: Corpus, wanted: NDArray[np.bool_]) -> Any:
    """Write the shingle sets of the shards' wanted documents; return all sets, the prior ones too, for verification."""
    flags = np.ones(corpus.documents, np.bool_) if task.all_sets else wanted
    outputs = [task.sets_path(i) for i in range(len(task.shards))]
    tasks = _wanted_tasks(task, corpus, flags, "wanted.npy", outputs)
    map_shards(engine, task.directory, "sets", sets_shard, tasks)
    files = [segment.sets for segment in task.prior] + outputs
    return open_sets(list(zip(files, corpus.signed.firsts.tolist(), strict=False)))


def _write_rank(task: Search, prior: int, firsts: NDArray[np.int64]) -> Path | None:
    """Write the file of ranks, (documents,) uint32 by position; returns None for the input's own order."""
    parameters = task.parameters
    if parameters.keep_order == "first" or firsts[-1] == prior:
        return None
    if parameters.keep_order == "longest":
        new = SignedShards([task.signed_path(i) for i in range(len(task.shards))], firsts[len(task.prior) :])
        keys = [-new.column("bytes")]
    else:
        keys = column_keys(_labels(task, "order"), descending=parameters.order_descending)
    ids = [_dense_rank(_labels(task, "id"))] if task.ids else []
    # The last key of np.lexsort decides first. Ties go by id, and equal ids by position (the sort is stable).
    order = np.lexsort([*ids, *reversed(keys)])
    # Prior documents come first in their own order. order[i] is the new document that comes i-th after them.
    rank = np.empty(int(firsts[-1]), np.uint32)
    rank[:prior] = np.arange(prior, dtype=np.uint32)
    rank[prior + order] = np.arange(prior, len(rank), dtype=np.uint32)
    path = task.directory / "rank.npy"
    save_array(path, rank)
    return path


def _labels(task: Search, name: str) -> pa.ChunkedArray:
    """The column `id` or `order` of all new documents, in the order of their positions."""
    paths = [task.documents_path(i) for i in range(len(task.shards))]
    columns = [read_table(path, [name])[name] for path in paths if path.exists()]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks])


def column_keys(values: pa.ChunkedArray, *, descending: bool) -> list[NDArray[Any]]:
    """Sort keys (documents,), the most important first. Documents without a value come last in either direction."""
    # Arrow ranks no booleans.
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    # NaN has no place in an order, so it counts as missing.
    missing = pc.is_null(values, nan_is_null=True).to_numpy()
    ranks = _dense_rank(values)
    return [missing, -ranks if descending else ranks]


def _dense_rank(values: pa.ChunkedArray) -> NDArray[np.int64]:
    """The place of each value among the distinct values; equal values have equal places."""
    ranks: NDArray[np.int64] = pc.rank(values, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64)
    return ranks
