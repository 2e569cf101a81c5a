"""The second step of the search: which pairs of documents are worth verifying.

First documents of equal fingerprints become one: only the earliest in the keep order, the representative, goes on. Then
either band keys (`method="bands"`) or CPSJoin over the sketches (`"cpsjoin"`) give candidate edges; both compare
sketches before a pair becomes an edge, so that few pairs below the threshold are left (csrc/dedup/groups.h, cpsjoin.h).

An edge is (later, earlier), two ranks: places in the keep order. `edges-*.bin` holds the edges of one task, ordered,
and `bounds`: edges of the decision chunk c are edges[bounds[c]:bounds[c + 1]].
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
"""Ranks that are decided at once. Verification looks at pairs within a chunk before it knows who of the chunk stays; so
small chunks verify less, and large ones keep more threads busy. The outcome does not depend on it."""

KEY_BYTES = 64
"""Of memory for every key of a task: its 12 bytes read, concatenated, sorted, and the edges that come of it."""

PRINT_BYTES = 96
"""The same for a fingerprint."""


@dataclass(frozen=True)
class Corpus:
    """What the tasks of this step share; arrays of all documents are files, so that tasks map what they touch."""

    signed: SignedShards
    parameters: Parameters
    directory: Path
    rank: Path | None
    """A .npy (documents,) uint32: the place of every document in the keep order; None: the order of the positions."""
    representative: Path
    """A .npy (documents,) bool."""
    memory: int
    """Bytes that one worker may use."""

    @property
    def documents(self) -> int:
        return int(self.signed.firsts[-1])

    def load_rank(self) -> NDArray[np.uint32] | None:
        return None if self.rank is None else np.load(self.rank, mmap_mode="r")

    def sketches(self) -> Any:
        """The sketches of all documents: in memory if a third of the budget holds them, else read one by one."""
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
    """Documents of equal fingerprints: the positions of those that are not the representative, ascending, and of
    their representatives. Writes `corpus.representative`."""
    label, tasks = _range_tasks(corpus, "prints", "same", PRINT_BYTES, engine.workers)
    map_shards(engine, corpus.directory, label, same_range, tasks)
    pairs = [ArrayFile(task.output) for task in tasks]
    same = np.concatenate([np.empty(0, np.uint32), *(file.read("same") for file in pairs)])
    representative = np.concatenate([np.empty(0, np.uint32), *(file.read("representative") for file in pairs)])
    order = np.argsort(same)
    flags = np.ones(corpus.documents, np.bool_)
    flags[same] = False
    save_array(corpus.representative, flags)
    return same[order], representative[order]


def same_range(task: RangeTask) -> dict[str, Any]:
    """Find the equal fingerprints of some partitions."""
    prints, positions = task.corpus.signed.partitions("prints", task.begin, task.end)
    rank = task.corpus.load_rank()
    same, representative = equal_prints(prints, positions, positions if rank is None else rank[positions])
    write_arrays(task.output, {"same": same, "representative": representative})
    return {"same": len(same)}


def equal_prints(
    prints: NDArray[np.uint64], positions: NDArray[np.uint32], rank: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Which of some documents have the fingerprint of one of lower rank, and the one of lowest rank that has it."""
    order = np.lexsort((rank, prints[:, 1], prints[:, 0]))
    prints, positions = prints[order], positions[order]
    equal = np.zeros(len(prints), np.bool_)
    equal[1:] = (prints[1:] == prints[:-1]).all(axis=1)
    first = np.maximum.accumulate(np.where(equal, 0, np.arange(len(prints))))
    return positions[equal], positions[first[equal]]


def find_edges(engine: Engine, corpus: Corpus) -> tuple[list[Path], dict[str, int]]:
    """Write the candidate edges of the corpus; return their files and the counts."""
    counts: dict[str, int] = {}
    files: list[Path] = []
    heavy = np.flatnonzero(np.load(corpus.representative, mmap_mode="r")).astype(np.uint32)
    if corpus.parameters.method == "bands":
        label, tasks = _range_tasks(corpus, "keys", "edges", KEY_BYTES, engine.workers)
        for statistics in map_shards(engine, corpus.directory, label, edges_range, tasks):
            for name, value in statistics.items():
                counts[name] = max(counts.get(name, 0), value) if name == LARGEST else counts.get(name, 0) + value
        files = [task.output for task in tasks]
        heavy = distinct(np.concatenate([ArrayFile(path).read("heavy") for path in files]))
    if len(heavy):
        joined = corpus.directory / "edges-join.bin"
        counts |= join(corpus, heavy, joined, engine.workers)
        files.append(joined)
    return files, counts


LARGEST = "largest_group"
"""The one count that is not a sum."""


def edges_range(task: RangeTask) -> dict[str, int]:
    """Write the edges of some partitions of the keys, and the `heavy` documents that are left to the join."""
    corpus = task.corpus
    keys, positions = corpus.signed.partitions("keys", task.begin, task.end)
    parameters = corpus.parameters
    edges, heavy, counts = _C.dedup_groups_edges(
        keys,
        positions,
        np.load(corpus.representative, mmap_mode="r"),
        corpus.load_rank(),
        None if parameters.verify == "none" else corpus.sketches(),
        parameters.lanes,
        parameters.least,
        parameters.sure,
        threads=1,
    )
    write_edges(task.output, edges, corpus.documents, heavy)
    return dict(counts)


def join(corpus: Corpus, positions: NDArray[np.uint32], output: Path, threads: int) -> dict[str, int]:
    """CPSJoin over some documents: writes their edges, returns its counts."""
    parameters = corpus.parameters
    rank = corpus.load_rank()
    edges, counts = _C.dedup_cpsjoin(
        corpus.sketches(),
        positions,
        positions if rank is None else rank[positions],
        parameters.lanes,
        parameters.threshold,
        parameters.least,
        parameters.sure,
        parameters.seed,
        threads=threads,
    )
    write_edges(output, edges, corpus.documents, np.empty(0, np.uint32))
    return {f"join_{name}": value for name, value in counts.items()} | {"join_documents": len(positions)}


def write_edges(output: Path, edges: NDArray[np.uint32], documents: int, heavy: NDArray[np.uint32]) -> None:
    """Write (m, 2) edges in any order, and the documents that are left to the join."""
    packed = pack(edges)
    packed.sort()
    chunks = -(-documents // CHUNK)
    bounds = np.searchsorted(packed, np.arange(chunks + 1, dtype=np.uint64) * np.uint64(CHUNK) << np.uint64(32))
    write_arrays(output, {"edges": packed, "bounds": bounds.astype(np.int64), "heavy": heavy})


def pack(edges: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """(m, 2) edges as (m,) numbers that sort as the edges do."""
    return edges[:, 0].astype(np.uint64) << np.uint64(32) | edges[:, 1].astype(np.uint64)


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The values in order, each once. NumPy's `unique` hashes integers: 35 times as long for 700,000 edges."""
    values = np.sort(values, kind="stable")
    first = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return values[first]


def unpack(packed: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The inverse of `pack`."""
    return np.ascontiguousarray(packed.astype("<u8", copy=False).view("<u4").reshape(-1, 2)[:, ::-1])


def _range_tasks(corpus: Corpus, name: str, step: str, bytes_each: int, workers: int) -> tuple[str, list[RangeTask]]:
    """The tasks of a step, and its label: another cut (other memory, other workers) has other files and markers."""
    sizes = corpus.signed.partition_sizes(name)
    # As many tasks as memory asks for, and at least two a worker so that both ends are reached together.
    largest = max(1, min(corpus.memory // bytes_each, int(sizes.sum()) // (2 * workers) + 1))
    label = f"{step}-{largest}"
    return label, [
        RangeTask(corpus, begin, end, corpus.directory / f"{label}-{index:05d}.bin")
        for index, (begin, end) in enumerate(ranges(sizes, largest))
    ]
