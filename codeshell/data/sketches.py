"""Sketches: the distribution of a column in bounded memory, the same whatever the order and the cut of the data.

A sketch is a histogram over keys. The key of a float64 is its bit pattern, changed so that unsigned integers sort as
the numbers do; a bin of level L is all keys that are equal but for their last L bits. A sketch starts at level 0, where
each bin is one number and the sketch is exact, and goes up a level whenever it has more bins than it may. The level of
a union depends on the union alone, because a part never has more bins than the whole: so sketches of shards can be
merged in any order. Each bin counts documents and their bytes.

What a sketch of L > 0 says is off by no more than one bin. With 65,536 bins, which is what quantiles use, that is the
exact answer for 65,536 different values in a language, and beyond that a bin is narrow: ten thousand bins for each
doubling of the value leave a relative width of 0.0001.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FINE = 65_536
"""Bins of a sketch that decisions are taken from."""
COARSE = 1_024
"""Bins of a sketch that is only shown."""

_SIGN = np.uint64(1 << 63)


def keys_of(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Keys of numbers (any shape; no NaN): equal for equal numbers, and in their order."""
    # Adding 0 makes 0 of -0. A negative number has all its bits turned, a positive one its sign: both orders are then
    # that of unsigned integers, with the negative numbers first.
    bits = (values + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def values_of(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The numbers of keys; the inverse of `keys_of`."""
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float64)


_FIRST, _LAST = keys_of(np.array([-np.inf, np.inf]))


@dataclass(frozen=True)
class Sketch:
    """A histogram. The three arrays have one entry per bin that is not empty, ascending."""

    limit: int
    """Bins at most, 2 or more; of sketches that are merged it must be the same."""
    level: int
    bins: NDArray[np.uint64]
    """The keys without their last `level` bits."""
    count: NDArray[np.int64]
    size: NDArray[np.int64]
    """Bytes of the documents in the bin."""

    @classmethod
    def of(cls, values: NDArray[np.float64], sizes: NDArray[np.int64], limit: int = FINE) -> Sketch:
        """The sketch of (documents,) values and their bytes; NaN is no value."""
        there = ~np.isnan(values)
        return _collapsed(limit, 0, keys_of(values[there]), np.ones(int(there.sum()), np.int64), sizes[there])

    @classmethod
    def merged(cls, parts: Iterable[Sketch], limit: int = FINE) -> Sketch:
        """The sketch of all documents of some sketches of this limit."""
        parts = list(parts)
        assert all(part.limit == limit for part in parts)
        level = max((part.level for part in parts), default=0)
        empty = cls.of(np.empty(0), np.empty(0, np.int64), limit)
        bins = np.concatenate([empty.bins, *(part.bins >> np.uint64(level - part.level) for part in parts)])
        count = np.concatenate([empty.count, *(part.count for part in parts)])
        size = np.concatenate([empty.size, *(part.size for part in parts)])
        return _collapsed(limit, level, bins, count, size)

    @property
    def documents(self) -> int:
        """Documents that have a value."""
        return int(self.count.sum())

    @property
    def low(self) -> NDArray[np.float64]:
        """(bins,): the smallest number of each bin."""
        # A wide bin may begin or end with keys that are beyond infinity, and so no numbers.
        return values_of(np.maximum(self.bins << np.uint64(self.level), _FIRST))

    @property
    def high(self) -> NDArray[np.float64]:
        """(bins,): the largest number of each bin."""
        keys = np.minimum((self.bins << np.uint64(self.level)) | np.uint64((1 << self.level) - 1), _LAST)
        # A bin of negative numbers may end with -0, which compares as 0 does: the number before it is its last.
        return values_of(np.where(keys == _SIGN - np.uint64(1), keys - np.uint64(1), keys))

    def rank(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The place of (n,) values in the distribution, 0 to 1: the share of documents in lower bins, and half of those
        in its own. NaN for NaN, and everywhere if the sketch is empty."""
        result = np.full(len(values), np.nan)
        total = self.documents
        there = ~np.isnan(values)
        if not total:
            return result
        # below[i]: documents in bins before i. A value in a bin has half of the bin below it.
        below = np.concatenate([[0], np.cumsum(self.count)])
        bins = keys_of(values[there]) >> np.uint64(self.level)
        first, last = np.searchsorted(self.bins, bins, "left"), np.searchsorted(self.bins, bins, "right")
        result[there] = (below[first] + below[last]) / (2 * total)
        return result

    def lowest(self, share: float) -> float:
        """The limit below which at most this share of the documents lies, as many as can; -inf if the sketch is empty.

        Args:
            share: 0 to less than 1.
        """
        if not len(self.bins):
            return -np.inf
        # The first bin that does not fit into the share as a whole stays. Equal values are never parted.
        allowed = int(np.floor(share * self.documents))
        return float(self.low[np.searchsorted(np.cumsum(self.count), allowed, "right")])

    def highest(self, share: float) -> float:
        """The limit above which at most this share of the documents lies; inf if the sketch is empty."""
        if not len(self.bins):
            return np.inf
        allowed = int(np.floor(share * self.documents))
        return float(self.high[::-1][np.searchsorted(np.cumsum(self.count[::-1]), allowed, "right")])

    def quantile(self, share: float) -> float:
        """The smallest number of the bin that holds this share of the documents; NaN if the sketch is empty."""
        if not len(self.bins):
            return np.nan
        reach = min(max(int(np.ceil(share * self.documents)), 1), self.documents)
        return float(self.low[np.searchsorted(np.cumsum(self.count), reach, "left")])


def _collapsed(
    limit: int, level: int, bins: NDArray[np.uint64], count: NDArray[np.int64], size: NDArray[np.int64]
) -> Sketch:
    """The sketch of bins that may repeat, at the lowest level from this one on that has at most `limit` of them."""
    assert limit >= 2, "so the level stays below 64: at 63 there are two bins, the negative numbers and the others"
    order = np.argsort(bins, kind="stable")
    return _of_ascending(limit, level, bins[order], count[order], size[order])


def _of_ascending(
    limit: int, level: int, bins: NDArray[np.uint64], count: NDArray[np.int64], size: NDArray[np.int64]
) -> Sketch:
    """`_collapsed` of bins that ascend."""
    if not len(bins):
        return Sketch(limit, level, bins, count, size)
    # Two neighbours are one bin once as many bits are cut off as their difference has.
    bits = _bit_lengths(bins[1:] ^ bins[:-1])
    # beyond[k]: neighbours that are still two bins with k bits cut off, one less than there are bins.
    beyond = len(bits) - np.cumsum(np.bincount(bits, minlength=65))
    cut = int(np.flatnonzero(beyond < limit)[0])
    # Where a new bin begins; the sums between two beginnings are those of a bin.
    starts = np.concatenate([[0], np.flatnonzero(bits > cut) + 1])
    bins = bins[starts] >> np.uint64(cut)
    return Sketch(limit, level + cut, bins, np.add.reduceat(count, starts), np.add.reduceat(size, starts))


def _bit_lengths(numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits each number has; 0 of 0."""
    high, low = numbers >> np.uint64(32), numbers & np.uint64(0xFFFFFFFF)
    # Halves are exact as float64, so that no rounding adds a bit.
    upper, lower = (np.frexp(half.astype(np.float64))[1].astype(np.int64) for half in (high, low))
    return np.where(high > 0, upper + 32, lower)


def by_group(
    values: NDArray[np.float64], sizes: NDArray[np.int64], groups: NDArray[np.int64], number: int, limit: int
) -> list[Sketch]:
    """`Sketch.of` of each of some groups of documents, all in one sort.

    Args:
        values: (documents,); NaN is no value.
        sizes: (documents,) bytes.
        groups: (documents,) the group of each, 0 to `number` - 1.
        limit: bins of a sketch at most.
    """
    rows = np.flatnonzero(~np.isnan(values))
    keys = keys_of(values[rows])
    rows_of = np.lexsort((keys, groups[rows]))
    keys, rows = keys[rows_of], rows[rows_of]
    bounds = np.searchsorted(groups[rows], np.arange(number + 1))
    ones, sizes = np.ones(len(rows), np.int64), sizes[rows]
    return [
        _of_ascending(limit, 0, keys[begin:end], ones[begin:end], sizes[begin:end])
        for begin, end in pairwise(bounds.tolist())
    ]
