"""The cluster view: sizes of the clusters of near duplicates, and some clusters opened, with the diff of one member.

A cluster is a document that stayed and the documents that were dropped for it. Which clusters are shown depends on the
pairs alone: the largest, and from the rest two draws with a fixed seed, one of them among those nearest to the
threshold. The cost is one sort of two numbers per pair; everything else is bounded by what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell.randomness import mix
from codeshell.report.diff import Diff, compare
from codeshell.report.pairs import Document, Pair, PairSource, Text

LARGEST = 20
"""Largest clusters shown."""
DRAWN = 8
"""Clusters shown from each draw."""
MEMBERS = 50
"""Dropped documents that are listed for one cluster."""
MARGIN = 0.03
"""A cluster with a member this little above the threshold is a close call."""
SEED = 20240323
"""Seed of the draws."""


@dataclass(frozen=True)
class Entry:
    """A cluster as the page shows it, or a single pair if `size` is 0.

    `size` counts the dropped documents; `members` lists those that are least like the kept one, least alike first.
    `low`, `median` and `high` describe the Jaccard of all of them; None where none is known. `diff` compares `kept`
    with `shown`; None if a text is gone.
    """

    kept: Document
    shown: Document
    jaccard: float | None
    diff: Diff | None
    size: int = 0
    low: float | None = None
    median: float | None = None
    high: float | None = None
    members: Sequence[Pair] = ()


class Clusters:
    """Pairs grouped: cluster c has the pairs `order[first[c]:first[c + 1]]`, by ascending Jaccard.

    `sizes`, `low`, `median` and `high` are (clusters,): dropped documents, and their Jaccard (NaN if none is known).
    """

    def __init__(self, clusters: NDArray[np.int64], jaccard: NDArray[np.float64]) -> None:
        # Sort by cluster, then by Jaccard: every cluster becomes one stretch, least alike first.
        self.order: NDArray[np.int64] = np.lexsort((jaccard, clusters)).astype(np.int64, copy=False)
        grouped = clusters[self.order]
        # A stretch starts where the cluster's number changes; the prepended value differs from the first number.
        starts = np.flatnonzero(np.diff(grouped, prepend=grouped[:1] - 1))
        self.first = np.append(starts, len(grouped))
        self.sizes = np.diff(self.first)
        self._jaccard = jaccard[self.order]
        # An unknown Jaccard (NaN) sorts after the known ones, so the known ones of a cluster are its first `known`.
        known = np.add.reduceat(~np.isnan(self._jaccard), starts, dtype=np.int64) if len(starts) else starts
        self.low, self.high, self.median = (np.full(len(starts), np.nan) for _ in range(3))
        some = known > 0
        first, known = starts[some], known[some]
        # The median of an even number is the mean of the two in the middle.
        self.low[some], self.high[some] = self._jaccard[first], self._jaccard[first + known - 1]
        self.median[some] = (self._jaccard[first + (known - 1) // 2] + self._jaccard[first + known // 2]) / 2

    def members(self, cluster: int, limit: int) -> NDArray[np.int64]:
        """The pairs of a cluster that are least alike, least alike first."""
        return self.order[self.first[cluster] : min(self.first[cluster + 1], self.first[cluster] + limit)]

    def middle(self, cluster: int) -> int:
        """The pair of a cluster with the middle Jaccard."""
        return int(self.order[(self.first[cluster] + self.first[cluster + 1] - 1) // 2])


def cluster_view(source: PairSource) -> dict[str, Any]:
    """What the template shows: totals, two tables of counts, and groups of entries.

    Returns:
        `clusters` and `pairs`, how many there are; `sizes` [{low, high, clusters}]; `likeness` [{low, high, pairs}];
        `groups` [{title, about, entries}], without empty ones; `absent`, what is said where there is no diff.
    """
    clusters = Clusters(source.clusters, source.jaccard)
    largest, close, ordinary = choose(clusters, source.threshold)
    # The least alike pair says most about what "near" lets through; a draw shows what is usual.
    least = [(int(cluster), int(clusters.members(int(cluster), 1)[0])) for cluster in (*largest, *close)]
    middle = [(int(cluster), clusters.middle(int(cluster))) for cluster in ordinary]
    entries = _entries(source, clusters, least + middle)
    everything = len(largest) == len(clusters.sizes)
    groups: list[dict[str, Any]] = [
        {
            "title": "All clusters" if everything else "Largest clusters",
            "about": "The comparison shows the dropped document that is least like the kept one.",
            "entries": entries[: len(largest)],
        },
        {
            "title": "Closest calls",
            "about": _about_close(source.threshold),
            "entries": entries[len(largest) : len(largest) + len(close)],
        },
        {
            "title": "A fair draw",
            "about": "Drawn from the other clusters with a fixed seed. The member with the middle Jaccard is compared.",
            "entries": entries[len(largest) + len(close) :],
        },
    ]
    return {
        "clusters": len(clusters.sizes),
        "pairs": len(source.clusters),
        "sizes": size_counts(clusters.sizes),
        "likeness": likeness_counts(source.jaccard, source.threshold),
        "groups": [group for group in groups if group["entries"]],
        "absent": source.absent,
    }


def choose(clusters: Clusters, threshold: float | None) -> tuple[NDArray[np.int64], ...]:
    """The clusters to show: the largest; a draw of those near the threshold, nearest first; a draw of the others."""
    # Largest first; equal sizes in the order of their numbers, which depend on the documents alone.
    numbers = np.arange(len(clusters.sizes))
    by_size = np.lexsort((numbers, -clusters.sizes))
    largest, rest = by_size[:LARGEST], np.sort(by_size[LARGEST:])
    # The rest by their least alike member, without clusters of which no Jaccard is known.
    by_low = rest[np.argsort(clusters.low[rest], kind="stable")]
    by_low = by_low[~np.isnan(clusters.low[by_low])]
    within = DRAWN if threshold is None else int(np.searchsorted(clusters.low[by_low], threshold + MARGIN))
    # If fewer than a draw are within the margin, the nearest ones make up the number.
    near = by_low[: max(within, DRAWN)]
    close = np.sort(_draw(near))
    close = close[np.argsort(clusters.low[close], kind="stable")]
    return largest, close, _draw(np.setdiff1d(rest, close))


def _draw(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """`DRAWN` of the numbers: those with the lowest SplitMix64 hash (Steele, Lea and Flood 2014), lowest first."""
    # Products and sums of 64-bit integers wrap around, as the hash means them to.
    counters = (numbers.astype(np.uint64) + np.uint64(SEED)) * np.uint64(0x9E3779B97F4A7C15)
    return numbers[np.argsort(mix(counters), kind="stable")[:DRAWN]]


def _about_close(threshold: float | None) -> str:
    where = "the threshold" if threshold is None else f"the threshold of {threshold:g}"
    return f"Drawn from the other clusters whose least alike member is nearest to {where}; that member is compared."


def size_counts(sizes: NDArray[np.int64]) -> list[dict[str, int]]:
    """Clusters by how many documents each lost: 1, 2, 3 to 4, 5 to 8, and so on in powers of two."""
    # The exponent of frexp is the bit length, exact for integers below 2^53.
    buckets, clusters = np.unique(np.frexp((sizes - 1).astype(np.float64))[1], return_counts=True)
    return [
        {"low": 2**bucket // 2 + 1, "high": 2**bucket, "clusters": count}
        for bucket, count in zip(buckets.tolist(), clusters.tolist(), strict=True)
    ]


def likeness_counts(jaccard: NDArray[np.float64], threshold: float | None) -> list[dict[str, float]]:
    """Pairs by Jaccard in steps of 0.05, from the threshold (or the lowest, if that is less) to 1, and those of 1."""
    known = jaccard[~np.isnan(jaccard)]
    if not len(known):
        return []
    # Step k holds [k / 20, (k + 1) / 20), step 20 the pairs of exactly 1; the slack undoes the rounding of 0.05.
    lowest = float(known.min()) if threshold is None else min(float(known.min()), threshold)
    steps = np.clip(np.floor(known * 20 + 1e-9).astype(np.int64), 0, 19)
    steps[known >= 1] = 20
    counts = np.bincount(steps, minlength=21)
    # The first row starts at the threshold itself, which need not be a multiple of 0.05.
    start = min(int(np.floor(lowest * 20 + 1e-9)), 20)
    return [
        {"low": max(step / 20, lowest if step == start else 0.0), "high": min(step + 1, 20) / 20, "pairs": int(count)}
        for step, count in enumerate(counts[start:], start)
    ]


def _entries(source: PairSource, clusters: Clusters, chosen: list[tuple[int, int]]) -> list[Entry]:
    """An entry for each chosen (cluster, pair to compare)."""
    # All pairs that any entry needs are read in one ascending pass over the files.
    listed = [clusters.members(cluster, MEMBERS) for cluster, _ in chosen]
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *listed, np.array([row for _, row in chosen], np.int64)]))
    pairs = dict(zip(rows.tolist(), source.pairs(rows), strict=True))
    # The compared pairs come first with their texts, then each gets the facts of its cluster.
    compared = compare_pairs(source, [pairs[row] for _, row in chosen])
    return [
        replace(
            entry,
            size=int(clusters.sizes[cluster]),
            low=_known(clusters.low[cluster]),
            median=_known(clusters.median[cluster]),
            high=_known(clusters.high[cluster]),
            members=[pairs[row] for row in members.tolist()],
        )
        for entry, (cluster, _), members in zip(compared, chosen, listed, strict=True)
    ]


def compare_pairs(source: PairSource, pairs: list[Pair]) -> list[Entry]:
    """Each pair with its diff, and with what is known of its documents where their texts are."""
    texts = source.texts({document.key for pair in pairs for document in (pair.kept, pair.dropped)})
    entries = []
    for pair in pairs:
        kept, dropped = texts.get(pair.kept.key), texts.get(pair.dropped.key)
        diff = compare(kept.text, dropped.text) if kept is not None and dropped is not None else None
        entries.append(Entry(_completed(pair.kept, kept), _completed(pair.dropped, dropped), pair.jaccard, diff))
    return entries


def _completed(document: Document, text: Text | None) -> Document:
    if text is None:
        return document
    return replace(
        document,
        language=text.language if document.language is None else document.language,
        bytes=text.bytes if document.bytes is None else document.bytes,
    )


def _known(value: np.floating[Any]) -> float | None:
    return None if np.isnan(value) else float(value)
