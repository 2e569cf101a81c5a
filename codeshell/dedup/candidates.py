"""The second step of the search: which pairs of documents are worth verifying.

First, documents of equal fingerprints become one: only the earliest in the keep order, the representative, takes part
from here on. Then either band keys (`method="bands"`) or CPSJoin over the sketches (`"cpsjoin"`) give candidate edges.
Both compare sketches before a pair becomes an edge, so that few pairs below the threshold are left
(csrc/dedup/groups.h, cpsjoin.h).

What the arrays hold:

    keys, prints    (k,) uint64 band keys; (k, 2) uint64 fingerprints
    positions       (k,) uint32: the document that each of them belongs to
    rank            (documents,) uint32: place in the keep order, by position; None where both are the same
    edges           (m, 2) uint32: (later, earlier) ranks; packed: (m,) uint64, later << 32 | earlier
    heavy           (h,) uint32: positions of documents in large groups, which are left to the join

`edges-*.bin` holds the packed edges of one task in ascending order, and `bounds` (chunks + 1,) int64: the edges whose
later rank is in the decision chunk c are edges[bounds[c]:bounds[c + 1]].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.sign import SignedShards, ranges
from codeshell.documents.arrays import ArrayFile, save_array, write_arrays
from codeshell.engine import Engine, map_shards

CHUNK = 16_384
"""Ranks that are decided at once. Pairs within a chunk are verified before it is known who of the chunk stays. So small
chunks verify less, and large chunks keep more threads busy. The outcome does not depend on this number."""

KEY_BYTES = 64
"""Memory per key of a task: its 12 bytes are read, concatenated and sorted, and edges come of it."""

PRINT_BYTES = 96
"""Memory per fingerprint of a task."""


@dataclass(frozen=True)
class Corpus:
    """What the tasks of this step share. Arrays of all documents are files: a task maps only what it touches."""

    signed: SignedShards
    parameters: Parameters
    directory: Path
    rank: Path | None
    """A .npy (documents,) uint32: the place of every document in the keep order; None: the order of the positions."""
    representative: Path
    """A .npy (documents,) bool: whether a document takes part. `find_same` writes it."""
    memory: int
    """Bytes that one worker may use."""

    @property
    def documents(self) -> int:
        return int(self.signed.firsts[-1])

    def load_rank(self) -> NDArray[np.uint32] | None:
        return None if self.rank is None else np.load(self.rank, mmap_mode="r")

    def sketches(self) -> Any:
        """The sketches of all documents: in memory if they fit in a third of the budget, else read one by one."""
        width = self.parameters.width
        return _C.DedupSketches(self.signed.sketch_parts(), width, self.documents * width <= self.memory // 3)


@dataclass(frozen=True)
class RangeTask:
    """The partitions [begin, end) of all shards."""

    corpus: Corpus
    begin: int
    end: int
    output: Path


def find_same(engine: Engine, corpus: Corpus) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Find documents of equal fingerprints, and write `corpus.representative`.

    Returns:
        The positions of the documents that are not the representative, ascending, and of their representatives.
    """
    # Each task looks at one range of fingerprints.
    label, tasks = _range_tasks(corpus, "prints", "same", PRINT_BYTES, engine.workers)
    map_shards(engine, corpus.directory, label, same_range, tasks)
    # Equal fingerprints are in one partition, so every task's pairs are complete.
    pairs = [ArrayFile(task.output) for task in tasks]
    same = np.concatenate([np.empty(0, np.uint32), *(file.read("same") for file in pairs)])
    representative = np.concatenate([np.empty(0, np.uint32), *(file.read("representative") for file in pairs)])
    # Tasks follow the fingerprints, not the positions. From here on only representatives take part.
    order = np.argsort(same)
    flags = np.ones(corpus.documents, np.bool_)
    flags[same] = False
    save_array(corpus.representative, flags)
    return same[order], representative[order]


def same_range(task: RangeTask) -> dict[str, Any]:
    """Find the equal fingerprints of some partitions."""
    # (n, 2) and (n,): all fingerprints of these partitions, from every shard.
    prints, positions = task.corpus.signed.partitions("prints", task.begin, task.end)
    rank = task.corpus.load_rank()
    same, representative = equal_prints(prints, positions, positions if rank is None else rank[positions])
    write_arrays(task.output, {"same": same, "representative": representative})
    return {"same": len(same)}


def equal_prints(
    prints: NDArray[np.uint64], positions: NDArray[np.uint32], rank: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Which of some documents have the fingerprint of one of lower rank, and the one of lowest rank that has it.

    Args:
        prints: (n, 2); `positions`, `rank`: (n,), of the same documents in any order.
    """
    # Sort by fingerprint and then by rank: equal ones are side by side, the representative first.
    order = np.lexsort((rank, prints[:, 1], prints[:, 0]))
    prints, positions = prints[order], positions[order]
    equal = np.zeros(len(prints), np.bool_)
    equal[1:] = (prints[1:] == prints[:-1]).all(axis=1)
    # The place of the first of each run: a running maximum of the places where a run begins.
    first = np.maximum.accumulate(np.where(equal, 0, np.arange(len(prints))))
    return positions[equal], positions[first[equal]]


def find_edges(engine: Engine, corpus: Corpus) -> tuple[list[Path], dict[str, int]]:
    """Write the candidate edges of the corpus; return their files and the counts."""
    # By bands, then the heavy documents by the join; with method="cpsjoin" all representatives are left to the join.
    counts: dict[str, int] = {}
    files: list[Path] = []
    # Positions of all representatives, ascending.
    heavy = np.flatnonzero(np.load(corpus.representative, mmap_mode="r")).astype(np.uint32)
    if corpus.parameters.method == "bands":
        label, tasks = _range_tasks(corpus, "keys", "edges", KEY_BYTES, engine.workers)
        for statistics in map_shards(engine, corpus.directory, label, edges_range, tasks):
            for name, value in statistics.items():
                counts[name] = max(counts.get(name, 0), value) if name == LARGEST else counts.get(name, 0) + value
        files = [task.output for task in tasks]
        # A document may be heavy in several groups, and is joined once.
        heavy = distinct(np.concatenate([ArrayFile(path).read("heavy") for path in files]))
    if len(heavy):
        joined = corpus.directory / "edges-join.bin"
        counts |= join(corpus, heavy, joined, engine.workers)
        files.append(joined)
    return files, counts


LARGEST = "largest_group"
"""The one count that is a maximum over the tasks, not a sum."""


def edges_range(task: RangeTask) -> dict[str, int]:
    """Write the edges of some partitions of the keys, and the `heavy` documents that are left to the join."""
    corpus = task.corpus
    # (k,) each: all keys of these partitions. Equal keys are in one partition, so every group is whole.
    keys, positions = corpus.signed.partitions("keys", task.begin, task.end)
    parameters = corpus.parameters
    edges, heavy, counts = edges_by_keys(
        keys,
        positions,
        np.load(corpus.representative, mmap_mode="r"),
        corpus.load_rank(),
        None if parameters.verify == "none" else corpus.sketches(),
        parameters,
        threads=1,  # the tasks themselves run in parallel
    )
    write_edges(task.output, edges, corpus.documents, heavy)
    return dict(counts)


def join(corpus: Corpus, positions: NDArray[np.uint32], output: Path, threads: int) -> dict[str, int]:
    """Run CPSJoin over the documents at some positions: write their edges, return its counts."""
    rank = corpus.load_rank()
    ranks = positions if rank is None else rank[positions]
    edges, counts = edges_by_join(corpus.sketches(), positions, ranks, corpus.parameters, threads)
    write_edges(output, edges, corpus.documents, np.empty(0, np.uint32))
    return {f"join_{name}": value for name, value in counts.items()} | {"join_documents": len(positions)}


def edges_by_keys(
    keys: NDArray[np.uint64],
    positions: NDArray[np.uint32],
    representative: NDArray[np.bool_],
    rank: NDArray[np.uint32] | None,
    sketches: Any,
    p: Parameters,
    threads: int,
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], dict[str, int]]:
    """The candidate edges (m, 2) of documents with an equal key, the heavy documents (h,), and the counts. Without
    `sketches` every pair of a group is an edge."""
    edges, heavy, counts = _C.dedup_groups_edges(
        keys, positions, representative, rank, sketches, p.lanes, p.least, p.sure, threads=threads
    )
    return edges, heavy, counts


def edges_by_join(
    sketches: Any, positions: NDArray[np.uint32], ranks: NDArray[np.uint32], p: Parameters, threads: int
) -> tuple[NDArray[np.uint32], dict[str, int]]:
    """The candidate edges (m, 2) by CPSJoin among the documents at `positions` (h,), whose ranks are `ranks` (h,), and
    the counts."""
    edges, counts = _C.dedup_cpsjoin(
        sketches, positions, ranks, p.lanes, p.threshold, p.least, p.sure, p.seed, threads=threads
    )
    return edges, counts


def write_edges(output: Path, edges: NDArray[np.uint32], documents: int, heavy: NDArray[np.uint32]) -> None:
    """Write edges (m, 2), which may come in any order, and the documents `heavy` that are left to the join."""
    # Sorted by later rank, so that a chunk of ranks is one range.
    packed = pack(edges)
    packed.sort()
    chunks = -(-documents // CHUNK)
    bounds = np.searchsorted(packed, np.arange(chunks + 1, dtype=np.uint64) * np.uint64(CHUNK) << np.uint64(32))
    write_arrays(output, {"edges": packed, "bounds": bounds.astype(np.int64), "heavy": heavy})


def pack(edges: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Edges (m, 2) as numbers (m,) that sort as the edges do."""
    return edges[:, 0].astype(np.uint64) << np.uint64(32) | edges[:, 1].astype(np.uint64)


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The values in ascending order, each once. NumPy's `unique` hashes integers and takes 35 times as long for 700,000
    edges."""
    values = np.sort(values, kind="stable")
    first = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return values[first]


def unpack(packed: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The inverse of `pack`."""
    # Little endian, the lower half (earlier) comes first; the columns are turned round.
    return np.ascontiguousarray(packed.astype("<u8", copy=False).view("<u4").reshape(-1, 2)[:, ::-1])


def _range_tasks(corpus: Corpus, name: str, step: str, bytes_each: int, workers: int) -> tuple[str, list[RangeTask]]:
    """The tasks of a step, and its label. Another cut (other memory, other workers) has other files and markers, so a
    resumed search never takes one for the other."""
    sizes = corpus.signed.partition_sizes(name)
    # As many tasks as the memory demands, but at least two per worker, so that all workers end at about the same time.
    largest = max(1, min(corpus.memory // bytes_each, int(sizes.sum()) // (2 * workers) + 1))
    label = f"{step}-{largest}"
    return label, [
        RangeTask(corpus, begin, end, corpus.directory / f"{label}-{index:05d}.bin")
        for index, (begin, end) in enumerate(ranges(sizes, largest))
    ]
