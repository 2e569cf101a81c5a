"""The step between candidates and exact verification, for corpora whose documents all resemble one another.

Where a licence header and a template are most of every file, the sketches of `sign.py` leave dozens of candidates per
document, and hardly any of them reaches the threshold: 126 bytes estimate a Jaccard only to within 0.04. To read and
merge two whole sets for each would cost more than everything else. So the texts are read once more, into sketches of
1,024 bytes that are four times as sharp (csrc/dedup/bins.h), and candidates that cannot reach the threshold are
dropped. A pair that does reach it is lost with a probability below 1e-4. The step runs from `EDGES` candidates per
document on: there it costs less to read a text again than to verify its candidates.

Files and arrays:

    bins-NNNNN.bin          `bins` (m, 1024) uint8: a sketch per document of one shard that occurs in an edge
    edges-sharp-NNNNN.bin   the edges that are left, in the layout of `candidates.py`
    wanted                  (documents,) bool by position: the documents that have a sketch
    number                  (documents,) uint32 by position: the place of a wanted document among the sketches
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup.candidates import Corpus, write_edges
from codeshell.dedup.decide import WantedTask, wanted_texts
from codeshell.documents.arrays import ArrayFile, write_arrays
from codeshell.engine import Engine, map_shards

EDGES = 8
"""Candidates per document from which the step runs. Measured on texts of 5 kB: an edge takes 3 µs to verify, a text
15 µs to read again."""

BINS = 1024
"""Bytes of a sketch; `bins` of csrc/dedup/bins.h."""

FILE_EDGES = 1 << 22
"""Edges per file: so many are held in memory (8 bytes each) until they are written."""

SETS_VALUES = 1 << 22
"""Values of prior sets that are read at once: 32 MB."""


def bins_shard(task: WantedTask) -> dict[str, Any]:
    """Write the sketches of the wanted documents of one shard."""
    # (documents,) flags of this shard alone.
    wanted = np.load(task.wanted, mmap_mode="r")[task.first : task.first + task.documents]
    parts: list[NDArray[np.uint8]] = [np.empty((0, BINS), np.uint8)]
    if task.sets is not None:  # a prior segment: its texts are not at hand, but its sets are
        parts += _of_sets(ArrayFile(task.sets), wanted)
    else:
        parameters = task.parameters
        for piece in wanted_texts(task.shard, task.reader, wanted):
            parts.append(_C.dedup_bins(piece.data, piece.offsets, parameters.ngram, preset=parameters.shingles))
    write_arrays(task.output, {"bins": parts})
    return {"sketches": sum(map(len, parts))}


def _of_sets(file: ArrayFile, wanted: NDArray[np.bool_]) -> Iterable[NDArray[np.uint8]]:
    """Yield the sketches (k, 1024) of the wanted documents of a file of sets, a stretch of the file at a time."""
    documents, bounds = file.read("documents"), file.read("bounds")
    begin = 0
    while begin < len(documents):
        # As many documents as have `SETS_VALUES` values together, but at least one.
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
    tasks: list[WantedTask],
    order: NDArray[np.uint32] | None,
    threads: int,
) -> list[Path]:
    """Write the edges of `chunks` that may reach the threshold; return their files.

    Args:
        chunks: the candidate edges, (m, 2) (later, earlier) ranks.
        wanted: (documents,) bool by position: which occur in an edge.
        tasks: one per file of signatures, prior ones first; their wanted documents are those of `wanted`.
        order: (documents,) the position of every rank; None: they are the same.
    """
    # Make the sketches, shard by shard.
    map_shards(engine, corpus.directory, "bins", bins_shard, tasks)
    files = [ArrayFile(task.output) for task in tasks]
    parts = [(str(file.path), file.offset("bins"), file.shape("bins")[0]) for file in files]
    # Hold them in memory if they fit. The workers are idle meanwhile, so this process may use half of what all of them
    # and itself have together.
    held = sum(count for _, _, count in parts) * BINS <= corpus.memory * (engine.workers + 1) // 2
    sketches = _C.DedupSketches(parts, BINS, held)
    # Only wanted documents have a sketch, so positions become numbers of sketches.
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

    # Compare the sketches of every edge, and write those that are left, some millions at a time.
    for edges in chunks:
        for start in range(0, len(edges), FILE_EDGES):
            # At most FILE_EDGES at once, which bounds the temporary arrays.
            some = edges[start : start + FILE_EDGES]
            positions = some if order is None else order[some]
            keep = _C.dedup_sharpen(sketches, shingles, number[positions], corpus.parameters.threshold, threads)
            kept.append(some[keep])
        if sum(map(len, kept)) >= FILE_EDGES:
            flush()
    flush()
    return found
