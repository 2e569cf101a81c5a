"""Near duplicates of a stream of texts: MinHash candidates, exact verification, greedy choice of who stays.

Documents are taken in order. One is a duplicate if and only if its exact Jaccard with a document kept before it
reaches the threshold. It then names the kept document of highest Jaccard, and the earliest of these if several are
equal. So no chain of resemblances wipes out a cluster, and every answer is a true pair (precision 1). MinHash decides
only which pairs are looked at; see `minhash.BANDS` for the recall. Documents with equal shingles in equal numbers count
as copies of each other (Jaccard 1) without a comparison.

The result depends on the texts and their order alone: not on how they are cut into batches, nor on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup.minhash import BANDS, ROWS, SEED, THRESHOLD, shingle_length, sign
from codeshell.dedup.parameters import Parameters
from codeshell.documents.texts import TextBuffers, Texts, cut, text_buffers
from codeshell.environment import thread_count

MAX_BUCKET = 256
"""Kept documents that one band key leads to at most; later ones are not registered under it. So a licence header or a
template that gives every document the same keys costs at most `bands * MAX_BUCKET` comparisons of sketches per
document, instead of all pairs. The limit can cost recall, for pairs all of whose common keys are full, but never
precision. `capped_keys` in `Deduper.counts` says how many keys were full (0 in ordinary source code)."""


class Deduper:
    """Finds near duplicates in a stream.

    >>> deduper = Deduper(threshold=0.8)
    >>> deduper.add(["a.py", "b.py"], [text_a, text_b])
    >>> deduper.add(["c.py"], [text_c])
    >>> deduper.duplicates()            # pa.Table: id, kept_id, jaccard

    Every text is decided when it comes, so none can be dropped in favour of a later one. Memory per text that is kept:
    8 bytes per distinct shingle, and about 900 bytes for keys and sketch. Memory per text that is dropped: 60 bytes.

    Args:
        threshold: Jaccard, in (0, 1], from which a text is a duplicate.
        bands, rows, ngram, seed, shingles: see `minhash`.
        threads: for signatures and shingle sets; 0 means all cores.
        progress: called about every 8 MB of text with the number of texts decided so far, over all calls.

    Raises:
        ValueError: an impossible parameter.
    """

    def __init__(
        self,
        *,
        threshold: float = THRESHOLD,
        bands: int = BANDS,
        rows: int = ROWS,
        ngram: int | None = None,
        seed: int = SEED,
        shingles: str = "code",
        threads: int = 0,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self._parameters = Parameters(
            threshold=threshold,
            bands=bands,
            rows=rows,
            shingles=shingles,
            ngram=shingle_length(shingles, ngram),
            seed=seed,
        )
        self._parameters.check()
        self._threads = thread_count(threads)
        self._progress = progress
        self._matcher = _C.DedupMatcher(
            shingles, self._parameters.ngram, bands, threshold, MAX_BUCKET, bands * rows, self._parameters.least
        )
        self._ids: list[pa.Array] = []
        self._matches: list[NDArray[np.int64]] = []
        self._jaccard: list[NDArray[np.float64]] = []

    def add(self, ids: Sequence[str] | Sequence[int] | pa.Array | pa.ChunkedArray, texts: Texts) -> None:
        """Decide on the next texts.

        Args:
            ids: of the texts, all of one Arrow type over all calls.
            texts: as many.

        Raises:
            ValueError: another number of ids than texts, ids of another type than before, a null or non-string text.
                Nothing of the batch has been added then.
            KeyboardInterrupt: the texts that were decided until then have been added, and only these.
        """
        # Check everything before anything is added.
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        try:
            labels = ids if isinstance(ids, pa.Array) else pa.array(ids)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(f"ids: not all of one type ({error})") from None
        pieces = list(text_buffers(texts))
        count = sum(len(piece) for piece in pieces)
        if len(labels) != count:
            raise ValueError(f"ids: {len(labels)} ids for {count} texts")
        if not count:
            return
        if self._ids and self._ids[0].type != labels.type:
            raise ValueError(f"ids: of type {labels.type}, but those before were {self._ids[0].type}")
        # If a text fails, or Ctrl-C comes, the ids of what was decided until then are still recorded.
        first = self._matcher.documents
        try:
            for piece in pieces:
                for part in cut(piece):
                    self._add(part)
        finally:
            self._ids.append(labels[: self._matcher.documents - first])

    def _add(self, piece: TextBuffers) -> None:
        """Sign and decide one piece (some megabytes of text)."""
        keys, sketches, fingerprints, _ = sign(piece, self._parameters, self._threads)
        # Filled by C++: by text, the number of the kept document that it resembles, or -1; and their Jaccard.
        match, jaccard = np.empty(len(piece), np.int64), np.empty(len(piece))
        first = self._matcher.documents
        try:
            self._matcher.add(*piece, keys, sketches, fingerprints, match, jaccard, threads=self._threads)
        finally:
            decided = self._matcher.documents - first
            self._matches.append(match[:decided])
            self._jaccard.append(jaccard[:decided])
        if self._progress is not None:
            self._progress(self._matcher.documents)

    def duplicates(self) -> pa.Table:
        """The documents found to be near duplicates so far, in the order added.

        Returns:
            `id` and `kept_id` (of the ids' type; string if nothing was added) and `jaccard` (float64, exact).
        """
        ids = pa.chunked_array(self._ids) if self._ids else pa.chunked_array([], pa.string())
        match, jaccard = self._decisions()
        # The places of duplicates in the stream; `match` gives the places of the documents that they resemble.
        index = np.flatnonzero(match >= 0)
        kept_ids = ids.take(pa.array(match[index]))
        return pa.table({"id": ids.take(pa.array(index)), "kept_id": kept_ids, "jaccard": jaccard[index]})

    def positions(self) -> NDArray[np.int64]:
        """Where the duplicates are in the stream: (duplicates,) ascending, counted from 0 over everything added."""
        return np.flatnonzero(self._decisions()[0] >= 0)

    def _decisions(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The kept document that each document resembles, or -1, and their Jaccard: two arrays of (documents,)."""
        # Joined once and remembered, so that a caller who asks after every batch does not pay for all of them again.
        match = np.concatenate([np.empty(0, np.int64), *self._matches])
        jaccard = np.concatenate([np.empty(0), *self._jaccard])
        self._matches, self._jaccard = [match], [jaccard]
        return match, jaccard

    @property
    def counts(self) -> dict[str, int]:
        """`candidate_pairs`: pairs compared exactly; `verified_pairs`: those that reached the threshold; `capped_keys`:
        keys that `MAX_BUCKET` documents share."""
        return self._matcher.counts()
