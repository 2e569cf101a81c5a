"""Near duplicates of a sequence of texts: MinHash candidates, exact verification, greedy choice of who stays.

Documents are taken in order. One is a duplicate if and only if its exact Jaccard with a document kept before it
reaches the threshold; it then names the kept one of highest Jaccard, the earliest of equals. So no chain of
resemblances wipes out a cluster, and every answer is a true pair (precision 1). What MinHash decides is only which
pairs are looked at: see `minhash.BANDS` for the recall.

The result depends on the texts and their order alone: not on how they are cut into batches, nor on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell import _C
from codeshell.data.dedup.minhash import BANDS, NGRAM, ROWS, SEED, THRESHOLD, band_keys, check_parameters, thread_count
from codeshell.data.dedup.texts import TextBuffers, Texts, text_buffers

MAX_BUCKET = 256
"""Kept documents that one band key leads to; later ones are not registered under it. So a licence header or template
that gives every document the same keys costs at most `bands * MAX_BUCKET` comparisons a document, instead of all
pairs. It can cost recall for pairs all of whose common keys are that full, never precision; `capped_keys` in
`Deduper.counts` says how many keys were (0 in ordinary source code)."""


class Decider:
    """The decision on band keys that are known already: what `Deduper` and the pipeline's stage share.

    Memory: 8 bytes a distinct shingle and about 700 bytes of band keys for every kept document that was a candidate.
    """

    def __init__(self, *, ngram: int, bands: int, threshold: float, max_bucket: int = MAX_BUCKET) -> None:
        self._matcher = _C.DedupMatcher(ngram, bands, threshold, max_bucket)

    def add(
        self, piece: TextBuffers, keys: NDArray[np.uint64], candidate: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Decide on the next texts.

        Args:
            piece: the texts.
            keys: (texts, bands) from `band_keys`.
            candidate: (texts,); False promises that none of the text's keys occurs in another text, which saves its
                shingles. By default all are candidates.

        Returns:
            By text: the position of the kept text that it resembles, counted over all calls, or -1 if it is kept;
            and their Jaccard (0 if kept).
        """
        if candidate is None:
            candidate = np.ones(len(piece), np.bool_)
        return self._matcher.add(piece.data, piece.offsets, keys, candidate)

    @property
    def counts(self) -> dict[str, int]:
        """`candidate_pairs` compared, `verified_pairs` that reached the threshold, `capped_keys` (`MAX_BUCKET`)."""
        return self._matcher.counts()


class Deduper:
    """Finds near duplicates in a stream.

    >>> deduper = Deduper(threshold=0.8)
    >>> deduper.add(["a.py", "b.py"], [text_a, text_b])
    >>> deduper.add(["c.py"], [text_c])
    >>> deduper.duplicates()            # pa.Table: id, kept_id, jaccard

    Args:
        threshold: Jaccard, in (0, 1], from which a text is a duplicate.
        bands, rows, ngram, seed: see `minhash`.
        threads: for the signatures; 0 means all cores.

    Raises:
        ValueError: an impossible parameter.
    """

    def __init__(
        self,
        *,
        threshold: float = THRESHOLD,
        bands: int = BANDS,
        rows: int = ROWS,
        ngram: int = NGRAM,
        seed: int = SEED,
        threads: int = 0,
    ) -> None:
        check_parameters(bands=bands, rows=rows, ngram=ngram, seed=seed, threshold=threshold)
        self._bands, self._rows, self._ngram, self._seed = bands, rows, ngram, seed
        self._threads = thread_count(threads)
        self._decider = Decider(ngram=ngram, bands=bands, threshold=threshold)
        self._ids: list[Any] = []
        self._matches: list[NDArray[np.int64]] = []
        self._jaccard: list[NDArray[np.float64]] = []

    def add(self, ids: Sequence[str] | Sequence[int] | pa.Array | pa.ChunkedArray, texts: Texts) -> None:
        """Decide on the next documents. The texts are not kept; ids are labels, of one type, returned as given.

        Raises:
            ValueError: another number of ids than texts, ids of another type than before, a null or non-string text.
                Nothing of the batch has been added then.
        """
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        labels = ids if isinstance(ids, pa.Array) else pa.array(ids)
        pieces = list(text_buffers(texts))
        count = sum(len(piece) for piece in pieces)
        if len(labels) != count:
            raise ValueError(f"ids: {len(labels)} ids for {count} texts")
        if self._ids and self._ids[0].type != labels.type:
            raise ValueError(f"ids: of type {labels.type}, but those before were {self._ids[0].type}")
        self._ids.append(labels)
        for piece in pieces:
            keys = band_keys(
                piece, bands=self._bands, rows=self._rows, ngram=self._ngram, seed=self._seed, threads=self._threads
            )
            match, jaccard = self._decider.add(piece, keys)
            self._matches.append(match)
            self._jaccard.append(jaccard)

    def duplicates(self) -> pa.Table:
        """The documents found to be near duplicates so far, in the order added.

        Returns:
            `id` and `kept_id` (of the ids' type; string if nothing was added) and `jaccard` (float64, exact).
        """
        ids = pa.chunked_array(self._ids) if self._ids else pa.chunked_array([], pa.string())
        match = np.concatenate([np.empty(0, np.int64), *self._matches])
        jaccard = np.concatenate([np.empty(0, np.float64), *self._jaccard])
        index = self.positions()
        kept_ids = ids.take(pa.array(match[index]))
        return pa.table({"id": ids.take(pa.array(index)), "kept_id": kept_ids, "jaccard": jaccard[index]})

    def positions(self) -> NDArray[np.int64]:
        """Where the duplicates are in the stream: ascending, counted from 0 over everything added."""
        return np.flatnonzero(np.concatenate([np.empty(0, np.int64), *self._matches]) >= 0)

    @property
    def counts(self) -> dict[str, int]:
        """See `Decider.counts`."""
        return self._decider.counts


def find_duplicates(
    texts: Texts | pa.Table,
    *,
    threshold: float = THRESHOLD,
    bands: int = BANDS,
    rows: int = ROWS,
    ngram: int = NGRAM,
    seed: int = SEED,
    column: str = "text",
    threads: int = 0,
) -> pa.Table:
    """Near duplicates among texts.

    Args:
        texts: a sequence of strings, an Arrow string array, or a table with a text column.
        threshold: Jaccard, in (0, 1], from which a text is a duplicate.
        bands, rows, ngram, seed: see `minhash`.
        column: of the table.
        threads: for the signatures; 0 means all cores.

    Returns:
        One row a text to drop, ascending: `index` (int64, its position), `kept_index` (int64, the earlier text that
        stays and that it resembles most) and `jaccard` (float64, their exact Jaccard, at least the threshold). A text
        without tokens is a duplicate only of an equal one (jaccard 1).

    Raises:
        ValueError: an impossible parameter, an unknown column, a null text, or something that is not text.
    """
    if isinstance(texts, pa.Table):
        if column not in texts.column_names:
            raise ValueError(f"column: no {column!r} in the table; it has {', '.join(texts.column_names)}")
        texts = texts[column]
    deduper = Deduper(threshold=threshold, bands=bands, rows=rows, ngram=ngram, seed=seed, threads=threads)
    deduper.add(pa.array(np.arange(len(texts), dtype=np.int64)), texts)
    return deduper.duplicates().rename_columns(["index", "kept_index", "jaccard"])
