"""All pairs of similar sets, exactly and without sampling: the truth that `dedup_quality.py` measures against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def exact_pairs(
    values: NDArray[np.uint64], bounds: NDArray[np.int64], least: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All pairs of sets whose Jaccard is at least `least`, by an inverted index with a counter for every set.

    For each set in turn, the earlier sets that have its elements are looked up and counted: what is counted is the
    intersection. No filter, no sketch; the cost is the sum over elements of (sets that have it)^2 / 2.

    Args:
        values: set i is values[bounds[i]:bounds[i + 1]], each element once.
        bounds: (n + 1,).
        least: above 0.

    Returns:
        (m, 2) pairs i < j, ordered, and (m,) their Jaccards. Empty sets are similar to none.
    """
    # Elements that one set alone has can be in no intersection: only the shared ones are indexed.
    sizes = np.diff(bounds)
    elements, shared = _shared_elements(values)
    owner = np.repeat(np.arange(len(sizes)), sizes)[shared]
    # Postings of an element: its owners in ascending order; those of set j are all before `seen` when j's turn comes.
    order = np.argsort(elements, kind="stable")
    postings = owner[order].astype(np.int32)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(elements))])
    seen = starts[:-1].copy()
    begins = np.searchsorted(owner, np.arange(len(sizes) + 1))
    pairs: list[NDArray[np.int64]] = []
    jaccards: list[NDArray[np.float64]] = []
    for j in range(len(sizes)):
        own = elements[begins[j] : begins[j + 1]]
        if not len(own):
            continue
        # The earlier owners of its elements, counted: counts[i] is the size of the intersection with set i.
        counts = _count(postings, starts[own], seen[own])
        seen[own] += 1
        others = np.flatnonzero(counts)
        intersection = counts[others]
        jaccard = intersection / (sizes[others] + sizes[j] - intersection)
        similar = jaccard >= least
        pairs.append(np.stack([others[similar], np.full(similar.sum(), j)], axis=1))
        jaccards.append(jaccard[similar])
    found = np.concatenate([np.empty((0, 2), np.int64), *pairs])
    values_found = np.concatenate([np.empty(0, np.float64), *jaccards])
    # They were found by their later member; the result is ordered by the earlier one.
    by_first = np.lexsort((found[:, 1], found[:, 0]))
    return found[by_first], values_found[by_first]


def _shared_elements(values: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Small numbers in place of the elements that more than one set has, and where they are."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared = counts > 1
    dense = np.cumsum(shared) - 1
    kept = shared[numbers]
    return dense[numbers[kept]], kept


def _count(postings: NDArray[np.int32], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each set occurs in the ranges [begins[k], ends[k]) of the postings together."""
    # All ranges after one another: within range k, the place rises by 1 from begins[k].
    lengths = ends - begins
    total = int(lengths.sum())
    offsets = np.repeat(begins - np.cumsum(lengths) + lengths, lengths)
    return np.bincount(postings[offsets + np.arange(total)])
