"""The search over texts that are in memory: the steps of `search.py` without files, and with the same outcome.

What the arrays hold (n texts; `position` and `rank` mean what they do in `decide.py`):

    keys       (n, bands) uint64      band keys
    sketches   (n, width) uint8       one byte per MinHash lane
    prints     (n, 2) uint64          fingerprints
    ranks      (n,) uint32            place in the keep order, by position
    edges      list of (m, 2) uint32  (later, earlier) ranks, one array per decision chunk
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup.candidates import CHUNK, distinct, edges_by_join, edges_by_keys, equal_prints, pack, unpack
from codeshell.dedup.decide import Decisions, Verifier, decide, inverse, named, with_same
from codeshell.dedup.minhash import sign
from codeshell.dedup.parameters import Parameters
from codeshell.documents.texts import TextBuffers, cut, text_buffers


def search_texts(
    texts: pa.ChunkedArray,
    parameters: Parameters,
    *,
    rank: NDArray[np.uint32] | None = None,
    threads: int = 1,
    progress: Callable[[int], object] | None = None,
) -> Decisions:
    """Find the near duplicates of a column of strings.

    Args:
        texts: strings without nulls.
        parameters: already checked.
        rank: (texts,) the place of each in the keep order; None: as they come.
        threads: for signatures and verification.
        progress: called with the number of texts that are signed so far.
    """
    # Sign: pieces of some megabytes, so that `progress` is called often.
    pieces = [part for piece in text_buffers(texts) for part in cut(piece)]
    signed = []
    for piece in pieces:
        signed.append(sign(piece, parameters, threads))
        if progress is not None:
            progress(sum(len(part.keys) for part in signed))
    documents = sum(len(part.keys) for part in signed)
    if documents == 0:
        return Decisions(np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0))
    keys, sketches, prints, _ = (np.concatenate(columns) for columns in zip(*signed, strict=True))
    # Find the candidates: first equal fingerprints, then pairs of their representatives.
    ranks = np.arange(documents, dtype=np.uint32) if rank is None else rank
    same, representative = equal_prints(prints, np.arange(documents, dtype=np.uint32), ranks)
    edges = _edges(keys, _C.DedupSketches.from_array(sketches), ranks, same, parameters, threads)
    # Read the candidates' texts again, verify the pairs, decide.
    order = inverse(rank)
    sets = None
    if parameters.verify == "exact":
        sets = _sets(pieces, named(edges, documents, order)[0], parameters)
    verify = Verifier(parameters, order, sets, _C.DedupSketches.from_array(sketches), threads)
    return with_same(decide(edges, documents, order, verify), same, representative, documents)


def _edges(
    keys: NDArray[np.uint64],
    sketches: Any,
    rank: NDArray[np.uint32],
    same: NDArray[np.uint32],
    parameters: Parameters,
    threads: int,
) -> list[NDArray[np.uint32]]:
    """The candidate edges, cut into decision chunks. `same`: positions of documents that are not representatives."""
    documents, bands = keys.shape
    # Only representatives take part.
    flags = np.ones(documents, np.bool_)
    flags[same] = False
    heavy = np.flatnonzero(flags).astype(np.uint32)
    found = [np.empty((0, 2), np.uint32)]
    if parameters.method == "bands":
        # One record (key, position) per band of every document.
        position = np.repeat(np.arange(documents, dtype=np.uint32), bands)
        known = None if parameters.verify == "none" else sketches
        edges, heavy, _ = edges_by_keys(keys.ravel(), position, flags, rank, known, parameters, threads)
        found.append(edges)
    if len(heavy):
        edges, _ = edges_by_join(sketches, heavy, rank[heavy], parameters, threads)
        found.append(edges)
    # Packed edges sort by the later rank, so a chunk is a range of them.
    packed = distinct(pack(np.concatenate(found)))
    # The places where a new chunk of later ranks begins.
    cuts = np.searchsorted(packed, np.arange(CHUNK, documents, CHUNK, dtype=np.uint64) << np.uint64(32))
    return [unpack(part) for part in np.split(packed, cuts)]


def _sets(pieces: list[TextBuffers], wanted: NDArray[np.bool_], parameters: Parameters) -> Any:
    """The shingle sets of the `wanted` texts (by position), for `_C.dedup_verify`."""
    values, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    first = 0
    for piece in pieces:
        # The wanted texts of this piece, numbered within it.
        rows = np.flatnonzero(wanted[first : first + len(piece)])
        first += len(piece)
        # A run of wanted texts is contiguous in the buffer: a view of the offsets selects it without a copy.
        for begin, end in _runs(rows):
            part = (piece.data, piece.offsets[begin : end + 1])
            found, bounds = _C.dedup_shingle_sets(*part, parameters.ngram, preset=parameters.shingles)
            values.append(found)
            sizes.append(np.diff(bounds))
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
    return _C.DedupSets.from_arrays(np.flatnonzero(wanted).astype(np.uint32), bounds, np.concatenate(values))


def _runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the runs of consecutive numbers as ranges [begin, end)."""
    if len(rows):
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        for run in np.split(rows, cuts):
            yield int(run[0]), int(run[-1]) + 1
