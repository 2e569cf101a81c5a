"""MinHash signatures and band keys of texts, and the exact Jaccard of two."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from codeshell import _C
from codeshell.data.dedup.texts import TextBuffers, Texts, text_buffers

BANDS, ROWS, NGRAM, THRESHOLD, SEED = 21, 6, 5, 0.7, 0
"""Defaults. 21 x 6 makes a pair a candidate with probability 1 - (1 - J^6)^21: .93 at J = .7, .998 at .8. Precision
comes from verification, so the curve may be generous; schemes of 250 rows find half as many pairs at .7."""

MAX_LANES = 65_536
"""Of a signature; far beyond any use (450 x 20 is the longest in the literature), and it bounds the memory."""


def minhash(
    texts: Texts,
    *,
    bands: int = BANDS,
    rows: int = ROWS,
    ngram: int = NGRAM,
    seed: int = SEED,
    threads: int = 0,
) -> NDArray[np.uint32]:
    """MinHash signatures: the share of equal lanes of two rows estimates the Jaccard of their shingle sets, unbiased
    and with variance J(1-J)/(bands*rows) (Broder 1997).

    A shingle is `ngram` consecutive tokens; a token is a run of `[A-Za-z0-9_]`, one kana, Han or Hangul character, or a
    run of other letters and numbers (csrc/dedup/tokens.h). A text of fewer tokens has one shingle, of all its tokens.

    Args:
        texts: strings: a list, or an Arrow array (`large_string` is read where it lies).
        bands, rows: their product is the number of lanes.
        ngram: tokens in a shingle.
        seed: chooses the hash functions; signatures of different seeds cannot be compared.
        threads: 0 means all cores. The result does not depend on it, nor on the processor.

    Returns:
        (texts, bands * rows) uint32. All lanes of a text without tokens are 2^32 - 1.

    Raises:
        ValueError: an impossible parameter, a null text, or something that is not text.
    """
    check_parameters(bands=bands, rows=rows, ngram=ngram, seed=seed)
    count = thread_count(threads)
    parts = [
        _C.dedup_minhash(piece.data, piece.offsets, ngram, bands * rows, seed, count) for piece in text_buffers(texts)
    ]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.empty((0, bands * rows), np.uint32), *parts])


def band_keys(
    piece: TextBuffers, *, bands: int, rows: int, ngram: int, seed: int, threads: int = 1
) -> NDArray[np.uint64]:
    """The (texts, bands) band keys: two texts are candidates if they share one. 0 is no key (a text without tokens)."""
    signatures = _C.dedup_minhash(piece.data, piece.offsets, ngram, bands * rows, seed, threads)
    return _C.dedup_band_keys(signatures, bands)


def jaccard(text_a: str, text_b: str, *, ngram: int = NGRAM) -> float:
    """The exact Jaccard of the shingle sets of two texts: 1 for equal texts, 0 if just one has tokens.

    Raises:
        ValueError: `ngram` below 1.
    """
    check_parameters(ngram=ngram)
    (piece,) = text_buffers([text_a, text_b])
    values, bounds = _C.dedup_shingle_sets(piece.data, piece.offsets, ngram)
    size_a, size_b = int(bounds[1]), int(bounds[2] - bounds[1])
    if not size_a and not size_b:
        return float(text_a == text_b)
    shared = size_a + size_b - len(np.unique(values))
    return shared / (size_a + size_b - shared)


def thread_count(threads: int) -> int:
    """`threads`, or for 0 the cores that this process may use.

    Raises:
        ValueError: `threads` is negative.
    """
    if threads < 0:
        raise ValueError(f"threads: {threads} is negative; 0 means all cores")
    return threads or len(os.sched_getaffinity(0))


def check_parameters(
    *,
    bands: int = BANDS,
    rows: int = ROWS,
    ngram: int = NGRAM,
    seed: int = SEED,
    threshold: float = THRESHOLD,
) -> None:
    """Raise a `ValueError` that names the first impossible parameter."""
    for name, value in (("bands", bands), ("rows", rows), ("ngram", ngram)):
        if value < 1:
            raise ValueError(f"{name}: {value} is below 1")
    if bands * rows > MAX_LANES:
        raise ValueError(f"bands * rows: {bands} x {rows} is more than {MAX_LANES} lanes")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: {seed} is not an unsigned 64-bit number")
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold: {threshold} is not in (0, 1]")
