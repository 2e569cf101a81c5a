"""The last steps of the search: read the candidates' shingle sets, verify the edges exactly, decide who stays.

`sets-NNNNN.bin` holds the shingle sets of those documents of one shard that occur in an edge:

    documents   (m,) uint32        their numbers within the shard, ascending
    bounds      (m + 1,) int64     the set of documents[i] is values[bounds[i]:bounds[i + 1]]
    values      (v,) uint64        shingle hashes, distinct and ascending within a document

Who stays (`cluster="kept"`): documents are taken in the keep order. A document is dropped if and only if its Jaccard
with a document that was KEPT before it reaches the threshold. It then names the kept document of highest Jaccard, and
the earliest of these if several are equal. With `cluster="components"` the earliest document of every connected
component stays.

Two numberings occur here, and every variable holds one of them:

    position    where a document stands in the input: files of signatures and of sets are addressed by it
    rank        its place in the keep order: edges and decisions are made in ranks; a smaller rank stays
    rank[p]     (documents,) uint32, the rank of position p
    order[r]    (documents,) uint32, the position of rank r: the inverse. None: both numberings are the same
    edges       (m, 2) uint32, (later, earlier) ranks
    jaccard     (m,) float64, one per edge
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup.candidates import CHUNK, distinct, unpack
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.sign import Reader
from codeshell.documents.arrays import ArrayFile, write_arrays
from codeshell.documents.texts import TextBuffers, text_buffers
from codeshell.errors import UserError

VERIFY_EDGES = 1 << 22
"""Edges verified in one call: 64 MB for them and their Jaccards."""


class Decisions(NamedTuple):
    """Who was dropped: one entry per dropped document, ascending by position."""

    dropped: NDArray[np.uint32]
    """Positions."""
    kept: NDArray[np.uint32]
    """The position of the document that stays instead."""
    jaccard: NDArray[np.float64]
    """The Jaccard of the two; NaN where nothing was verified."""


@dataclass(frozen=True)
class WantedTask:
    """The documents of one shard that are read again: those at the positions [first, first + documents) that `wanted`
    flags. A prior segment has its shingle sets in the file `sets` instead of a shard."""

    shard: Any
    reader: Reader
    parameters: Parameters
    wanted: Path
    """A .npy (documents of the whole search,) bool, by position."""
    first: int
    documents: int
    output: Path
    sets: Path | None = None


def sets_shard(task: WantedTask) -> dict[str, Any]:
    """Write the shingle sets of the wanted documents of one shard."""
    # (documents,) flags of this shard alone; the file is mapped, so nothing else is read.
    wanted = np.load(task.wanted, mmap_mode="r")[task.first : task.first + task.documents]
    # One entry per piece of text; an empty one first, so that a shard without wanted documents has arrays to join.
    values: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    sizes: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for piece in wanted_texts(task.shard, task.reader, wanted):
        found, bounds = _C.dedup_shingle_sets(
            piece.data, piece.offsets, task.parameters.ngram, preset=task.parameters.shingles
        )
        values.append(found)
        sizes.append(np.diff(bounds))
    write_sets(task.output, np.flatnonzero(wanted), np.concatenate(sizes), values)
    return {"sets": int(wanted.sum())}


def write_sets(
    output: Path,
    documents: NDArray[np.integer[Any]],
    sizes: NDArray[np.int64],
    values: NDArray[np.uint64] | Sequence[NDArray[np.uint64]],
) -> None:
    """Write a file of sets.

    Args:
        documents: (m,) ascending, numbered within the shard.
        sizes: (m,) the number of values of each.
        values: the values of all, in one array or in several that follow one another.
    """
    # (m + 1,): a running sum of the sizes.
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    write_arrays(output, {"documents": documents.astype(np.uint32), "bounds": bounds, "values": values})


def wanted_texts(shard: Any, reader: Reader, wanted: NDArray[np.bool_]) -> Iterator[TextBuffers]:
    """Read a shard again and yield the texts of its `wanted` documents, in order.

    Raises:
        UserError: files of a folder have come or gone since the shard was signed, so that the numbers of documents no
            longer fit.
    """
    if not wanted.any():
        return
    # The reader yields the shard's documents in the order in which they were signed.
    first = 0
    for batch in reader(shard, frozenset({"text"})):
        rows = np.flatnonzero(wanted[first : first + len(batch.rows)])
        first += len(batch.rows)
        if len(rows):
            # `take` copies the texts, so a batch of which all documents are wanted is passed on as it is.
            yield from text_buffers(batch.texts if len(rows) == len(batch.rows) else batch.texts.take(rows))
    if first != len(wanted):
        raise UserError(f"inputs: {len(wanted):,} documents became {first:,}; run again in a new output directory")


def open_sets(files: list[tuple[Path, int]]) -> Any:
    """The sets of some files, given as (file, position of its first document), for `_C.dedup_verify`."""
    # C++ gets byte offsets instead of the container's header, and reads a set when it is asked for.
    parts = []
    for path, first in files:
        file = ArrayFile(path)
        count = file.shape("documents")[0]
        parts.append((str(path), first, file.offset("documents"), count, file.offset("bounds"), file.offset("values")))
    return _C.DedupSets(parts)


class Chunks:
    """The candidate edges from the files of `find_edges`, chunk by chunk of later ranks, each edge once. It can be
    iterated several times, and holds one chunk in memory."""

    def __init__(self, files: list[Path], documents: int, prior: int) -> None:
        """The first `prior` ranks are documents that stay whatever comes (an index). Edges between two of them decide
        nothing and are passed over."""
        self._files = [(ArrayFile(path), ArrayFile(path).read("bounds")) for path in files]
        self._prior = prior
        self._range = range(prior // CHUNK, -(-documents // CHUNK))

    def __iter__(self) -> Iterator[NDArray[np.uint32]]:
        for chunk in self._range:
            parts = [file.read("edges", int(bounds[chunk]), int(bounds[chunk + 1])) for file, bounds in self._files]
            # Two tasks find the same edge when its documents share two band keys.
            packed = distinct(np.concatenate([np.empty(0, np.uint64), *parts]))
            if self._prior:
                # Packed edges sort by the later rank, so those of prior documents are the first.
                packed = packed[np.searchsorted(packed, np.uint64(self._prior) << np.uint64(32)) :]
            yield unpack(packed)

    def __len__(self) -> int:
        return len(self._range)


def named(
    chunks: Iterable[NDArray[np.uint32]], documents: int, order: NDArray[np.uint32] | None
) -> tuple[NDArray[np.bool_], int]:
    """Which documents occur in an edge, (documents,) by position; and how many edges there are."""
    wanted = np.zeros(documents, np.bool_)
    count = 0
    for edges in chunks:
        wanted[edges.ravel() if order is None else order[edges.ravel()]] = True
        count += len(edges)
    return wanted, count


def inverse(rank: NDArray[np.uint32] | None) -> NDArray[np.uint32] | None:
    """The position of every rank, from the rank of every position; None (they are the same) gives None."""
    if rank is None:
        return None
    order = np.empty(len(rank), np.uint32)
    order[rank] = np.arange(len(rank), dtype=np.uint32)
    return order


class Verifier:
    """Computes the Jaccard of edges, by the method that the parameters ask for, and counts the pairs."""

    def __init__(
        self,
        parameters: Parameters,
        order: NDArray[np.uint32] | None,
        sets: Any,
        sketches: Any,
        threads: int,
    ) -> None:
        """`sets` (a `_C.DedupSets`) is needed for `verify="exact"`, `sketches` (`_C.DedupSketches`) for "signature"."""
        self.parameters = parameters
        self._order, self._sets, self._sketches, self._threads = order, sets, sketches, threads
        self.pairs = self.verified = 0

    def __call__(self, edges: NDArray[np.uint32], threshold: float) -> NDArray[np.float64]:
        """(m,) Jaccards; 0 stands for any value below the threshold, NaN for "nothing is verified"."""
        parts = [np.empty(0)]  # so that no edges give an empty array
        for start in range(0, len(edges), VERIFY_EDGES):
            parts.append(self._verify(edges[start : start + VERIFY_EDGES], threshold))
        jaccard = np.concatenate(parts)
        self.pairs += len(jaccard)
        # NaN ("nothing is verified") is not below the threshold, so such pairs count.
        self.verified += int((~(jaccard < self.parameters.threshold)).sum())
        return jaccard

    def _verify(self, edges: NDArray[np.uint32], threshold: float) -> NDArray[np.float64]:
        if self.parameters.verify == "none":
            return np.full(len(edges), np.nan)
        positions = edges if self._order is None else self._order[edges]
        if self.parameters.verify == "signature":
            equal = self._sketches.equal(positions, self.parameters.lanes)
            # The share s of equal bytes is J + (1 - J) / 256 on average; solved for J, and never below 0.
            estimate: NDArray[np.float64] = np.maximum((equal / self.parameters.lanes - 1 / 256) * (256 / 255), 0.0)
            return estimate
        values: NDArray[np.float64] = _C.dedup_verify(self._sets, positions, threshold, self._threads)
        return values


def decide(
    chunks: Iterable[NDArray[np.uint32]], documents: int, order: NDArray[np.uint32] | None, verify: Verifier
) -> Decisions:
    """Verify the edges and decide who stays. Only representatives take part: documents of equal fingerprints follow
    theirs (`with_same`).

    Args:
        chunks: the candidate edges, (m, 2) (later, earlier) ranks, each once and sorted; chunks ascending in `later`.
        documents: how many there are.
        order: (documents,) the position of every rank; None: they are the same.
        verify: computes the edges' Jaccard.
    """
    # Both rules work in ranks.
    rule = _components if verify.parameters.cluster == "components" else _greedy
    later, kept, jaccard = rule(chunks, documents, verify.parameters.threshold, verify)
    if order is not None:  # from ranks to positions
        later, kept = order[later], order[kept]
    # Callers look decisions up by position.
    by_position = np.argsort(later)
    return Decisions(later[by_position], kept[by_position], jaccard[by_position])


def _greedy(
    chunks: Iterable[NDArray[np.uint32]], documents: int, threshold: float, verify: Verifier
) -> tuple[NDArray[Any], ...]:
    """The rule `cluster="kept"`. Returns (later, kept, jaccard) of all dropped documents, ascending in `later`."""
    greedy = _C.DedupGreedy(documents)
    found: list[tuple[NDArray[Any], ...]] = [(np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0))]
    for edges in chunks:
        # Most edges need no Jaccard: one of their documents has been dropped in an earlier chunk.
        edges = edges[greedy.pending(edges)]
        jaccard = verify(edges, threshold)
        unverified = np.isnan(jaccard)
        # Unverified pairs count as equal texts (Jaccard 1), so the earliest kept document is named.
        later, kept, value = greedy.decide(edges, np.where(unverified, 1.0, jaccard), threshold)
        # (k,) each, of the documents that this chunk drops.
        found.append((later, kept, np.full(len(value), np.nan) if unverified.any() else value))
    return tuple(np.concatenate(columns) for columns in zip(*found, strict=True))


def _components(
    chunks: Iterable[NDArray[np.uint32]], documents: int, threshold: float, verify: Verifier
) -> tuple[NDArray[Any], ...]:
    """The rule `cluster="components"`; returns what `_greedy` does."""
    components = _C.DedupComponents(documents)
    for edges in chunks:
        # Written as "not below", so that NaN unites too.
        components.add(edges[~(verify(edges, threshold) < threshold)])
    # A label is the smallest rank of the component. All its members are dropped but that one.
    labels = components.labels()
    later = np.flatnonzero(labels != np.arange(documents, dtype=np.uint32)).astype(np.uint32)
    kept = labels[later]
    # A member need not resemble the one that stays, so their Jaccard is computed whatever it is (threshold 0).
    return later, kept, verify(np.stack([later, kept], axis=1), 0.0)


def with_same(
    decisions: Decisions, same: NDArray[np.uint32], representative: NDArray[np.uint32], documents: int
) -> Decisions:
    """Add the documents that share a representative's fingerprint. Each is dropped in favour of the representative, at
    Jaccard 1, or of the document that the representative was dropped for.

    Args:
        same: (s,) positions of the documents to add; `representative`: (s,) the position of each one's representative.
    """
    # By position: the document that stays instead of it (itself, if it stays), and their Jaccard.
    kept = np.arange(documents, dtype=np.uint32)
    jaccard = np.ones(documents)
    kept[decisions.dropped] = decisions.kept
    jaccard[decisions.dropped] = decisions.jaccard
    dropped = np.concatenate([decisions.dropped, same])
    names = np.concatenate([decisions.kept, kept[representative]])
    values = np.concatenate([decisions.jaccard, jaccard[representative]])
    # Again ascending by position.
    order = np.argsort(dropped)
    return Decisions(dropped[order], names[order], values[order])
