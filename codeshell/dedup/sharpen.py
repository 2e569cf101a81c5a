"""The step between candidates and exact verification, for corpora whose documents all resemble one another.

Where a licence header and a template are most of every file, the sketches of `signed.py` leave dozens of candidates a
document, hardly any of them at the threshold: 126 bytes estimate a Jaccard to within .04, and reading and merging two
whole sets for each costs more than all else. So the texts are read once more, into sketches of 1,024 bytes that are
four times as sharp (csrc/dedup/bins.h), and candidates that cannot reach the threshold are dropped: a pair that has it
is lost with a probability below 1e-4. It is done if there are `EDGES` candidates a document, so where reading a text
again costs less than verifying them.

`bins-NNNNN.bin` holds `bins` (m, 1024) uint8, those of the documents of one shard that an edge names, in their order;
`edges-sharp-NNNNN.bin` the edges that are left, as `candidates.py` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup.candidates import Corpus, write_edges
from codeshell.dedup.decide import wanted_texts
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.sign import Reader
from codeshell.documents.arrays import ArrayFile, write_arrays
from codeshell.engine import Engine, map_shards

EDGES = 8
"""Candidates a document from which it is done. Measured on 5 kB texts: an edge costs 3 µs to verify, a text 15 µs to
read again."""

BINS = 1024
FILE_EDGES = 1 << 22
"""Edges in a file: what is held in memory until it is written."""

SETS_VALUES = 1 << 22
"""Values of sets that are read at once."""


@dataclass(frozen=True)
class BinsTask:
    """The shard whose documents have the positions from `first` on; `sets` instead of a shard: a prior one."""

    shard: Any
    reader: Reader
    parameters: Parameters
    sets: Path | None
    wanted: Path
    """A .npy (documents of the whole search,) bool."""
    first: int
    documents: int
    output: Path


def bins_shard(task: BinsTask) -> dict[str, Any]:
    """Write the sketches of the wanted documents of one shard."""
    wanted = np.load(task.wanted, mmap_mode="r")[task.first : task.first + task.documents]
    parts: list[NDArray[np.uint8]] = [np.empty((0, BINS), np.uint8)]
    if task.sets is not None:
        parts += _of_sets(ArrayFile(task.sets), wanted)
    else:
        parameters = task.parameters
        for piece in wanted_texts(task.shard, task.reader, wanted):
            parts.append(_C.dedup_bins(piece.data, piece.offsets, parameters.ngram, preset=parameters.shingles))
    write_arrays(task.output, {"bins": parts})
    return {"sketches": sum(map(len, parts))}


def _of_sets(file: ArrayFile, wanted: NDArray[np.bool_]) -> Iterable[NDArray[np.uint8]]:
    documents, bounds = file.read("documents"), file.read("bounds")
    begin = 0
    while begin < len(documents):
        end = max(begin + 1, int(np.searchsorted(bounds, bounds[begin] + SETS_VALUES, side="right")) - 1)
        values = file.read("values", int(bounds[begin]), int(bounds[end]))
        bins = _C.dedup_bins_of_sets(values, bounds[begin : end + 1] - bounds[begin])
        yield bins[wanted[documents[begin:end]]]
        begin = end


def sharpen(
    engine: Engine,
    corpus: Corpus,
    chunks: Iterable[NDArray[np.uint32]],
    wanted: NDArray[np.bool_],
    tasks: list[BinsTask],
    order: NDArray[np.uint32] | None,
    threads: int,
) -> list[Path]:
    """Write the edges of `chunks` that may reach the threshold; return their files.

    Args:
        wanted: (documents,) by position: which occur in an edge.
        tasks: of all shards, prior ones first; their wanted documents are those of `wanted`.
        order: the position of every rank; None: they are the same.
    """
    map_shards(engine, corpus.directory, "bins", bins_shard, tasks)
    files = [ArrayFile(task.output) for task in tasks]
    parts = [(str(file.path), file.offset("bins"), file.shape("bins")[0]) for file in files]
    # The workers are idle meanwhile, so half of what all of them and this process have is ours.
    held = sum(count for _, _, count in parts) * BINS <= corpus.memory * (engine.workers + 1) // 2
    sketches = _C.DedupSketches(parts, BINS, held)
    number = np.cumsum(wanted, dtype=np.uint32) - np.uint32(1)
    shingles = corpus.signed.column("shingles")[wanted]
    found: list[Path] = []
    kept: list[NDArray[np.uint32]] = []

    def flush() -> None:
        path = corpus.directory / f"edges-sharp-{len(found):05d}.bin"
        edges = np.concatenate([np.empty((0, 2), np.uint32), *kept])
        write_edges(path, edges, corpus.documents, np.empty(0, np.uint32))
        found.append(path)
        kept.clear()

    for edges in chunks:
        for start in range(0, len(edges), FILE_EDGES):
            some = edges[start : start + FILE_EDGES]
            positions = some if order is None else order[some]
            keep = _C.dedup_sharpen(sketches, shingles, number[positions], corpus.parameters.threshold, threads)
            kept.append(some[keep])
        if sum(map(len, kept)) >= FILE_EDGES:
            flush()
    flush()
    return found
