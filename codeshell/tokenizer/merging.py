"""Greedy pair merging over words that are already sequences of tokens: the learning half of byte-pair encoding.

The words lie in one array with links to the left and to the right neighbour, so a merge touches the places of its pair
and their neighbours, and nothing else. A pair is born in one step: at the start, or when the younger of its tokens is
made. So its places are one slice of what that step sorted, and its count can only fall later. A pair below the minimum
at birth is never looked at again. Each merge takes one token out, so all steps together are linear in the text,
whatever the length of a word.

Shapes in this file:

    N       tokens of all words of two tokens or more
    P       places of the pair that is merged
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]

_BITS = 32
"""A pair is one number, the first token in the upper 32 bits. Numbers of pairs sort as pairs do."""

MOST_TOKENS = (1 << 31) - 1
"""Places are 32-bit numbers: 8 GB of links and tokens, more than this learns from anyway."""


class Pair(NamedTuple):
    """Two neighbouring tokens and how often they stand together."""

    first: int
    second: int
    times: int


class _Born(NamedTuple):
    """Pairs of one step, keys ascending, and their places, ascending: those of key i from `starts[i]` on."""

    keys: Ints
    starts: Ints
    places: Places


class Merger:
    """Words as tokens, and the most frequent pair among them.

    Ties go to the smaller pair of token numbers, as in Hugging Face's trainer. The result does not depend on the order
    of the words.
    """

    def __init__(self, tokens: Ints, lengths: Ints, counts: Ints, min_frequency: int) -> None:
        """Lay the words out and count their pairs.

        Args:
            tokens: token numbers of all words, one word after the other, from 0 and below 2^31.
            lengths: tokens of each word. Words of one token have no pair and cost nothing.
            counts: how often each word occurs.
            min_frequency: pairs that occur less often are never merged.

        Raises:
            ValueError: a token number outside its range, or too many tokens.
        """
        long = lengths > 1
        tokens, lengths = tokens[np.repeat(long, lengths)], lengths[long]
        size = len(tokens)
        if size > MOST_TOKENS:
            raise ValueError(f"words: {size:,} tokens; at most {MOST_TOKENS:,}")
        if size and not 0 <= int(tokens.min()) <= int(tokens.max()) < 1 << (_BITS - 1):
            raise ValueError(f"words: token numbers from {tokens.min()} to {tokens.max()}; they must be 0 to 2^31 - 1")
        self._minimum = min_frequency
        self._tokens: Places = tokens.astype(np.int32)  # -1 where a token was merged into its left neighbour
        # Neighbours in the same word; -1 where there is none.
        ends = np.cumsum(lengths) - 1
        self._next = np.arange(1, size + 1, dtype=np.int32)
        self._next[ends] = -1
        self._previous = np.arange(-1, size - 1, dtype=np.int32)
        self._previous[ends[:-1] + 1] = -1
        if size:
            self._previous[0] = -1
        # What an occurrence weighs: its word's count, by the number of the word.
        self._word = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        self._weight = counts[long]
        # Pairs by birth, the step in which each made token was made, counts, and the heap of (count, pair).
        self._births: list[_Born] = []
        self._step: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        self._heap: list[int] = []
        places = np.flatnonzero(self._next >= 0).astype(np.int32)
        self._bear(places, self._keys(places))

    def best(self) -> Pair | None:
        """The most frequent pair that is left, or None below the minimum."""
        while self._heap:
            entry = self._heap[0]
            key = entry & ((1 << 64) - 1)
            count = self._counts.get(key, 0)
            # The heap's count may be an earlier, larger one; then the pair waits again with its present count.
            if count < self._minimum:
                heapq.heappop(self._heap)
                self._counts.pop(key, None)
            elif _entry(key, count) != entry:
                heapq.heapreplace(self._heap, _entry(key, count))
            else:
                return Pair(key >> _BITS, key & ((1 << _BITS) - 1), count)
        return None

    def skip(self, pair: Pair) -> None:
        """Never merge this pair."""
        self._counts.pop(pair.first << _BITS | pair.second, None)

    def merge(self, pair: Pair, token: int) -> None:
        """Put `token` in every place of the pair, the leftmost first where places overlap.

        Args:
            pair: what `best` gave.
            token: a number that no token among the words has.
        """
        a, b, _ = pair
        key = a << _BITS | b
        first = self._places(pair, key)
        second = self._next[first]
        # A place may have lost either token to another merge since.
        here = (self._tokens[first] == a) & (second >= 0)
        here &= self._tokens[second] == b  # where second is -1, any token does
        first, second = first[here], second[here]
        if a == b and len(first):
            # In a run of one token every second place is free: the runs' places, counted from each run's start.
            number = np.arange(len(first))
            start = np.concatenate(([True], first[1:] != second[:-1]))
            free = (number - np.maximum.accumulate(np.where(start, number, 0))) % 2 == 0
            first, second = first[free], second[free]
        del self._counts[key]
        left, right = self._previous[first], self._next[second]
        # Between two sites that touch there is one pair, which counts as the left site's right one.
        touching = np.concatenate(([-2], second[:-1])) if len(second) else second
        has_left = (left >= 0) & (left != touching)
        has_right = right >= 0
        left = left[has_left]
        # The pairs that vanish, before anything changes: (left, a) and (b, right).
        gone = np.concatenate((left, second[has_right]))
        self._lower(gone, self._keys(gone))
        # The merge itself.
        self._tokens[first] = token
        self._tokens[second] = -1
        self._next[first] = right
        self._previous[right[has_right]] = first[has_right]
        # The pairs that appear: (left, token) and (token, right). One key comes from one of the two only, and each of
        # them is in ascending order, so the places of a key are ascending.
        self._step[token] = len(self._births)
        new = np.concatenate((left, first[has_right]))
        self._bear(new, self._keys(new))

    def _keys(self, places: Places) -> Ints:
        """The pair that begins at each place; every place must have a right neighbour."""
        first = self._tokens[places].astype(np.int64)
        return first << _BITS | self._tokens[self._next[places]].astype(np.int64)

    def _places(self, pair: Pair, key: int) -> Places:
        """Where the pair stood when it was born."""
        born = self._births[max(self._step.get(pair.first, 0), self._step.get(pair.second, 0))]
        at = int(np.searchsorted(born.keys, key))
        return born.places[born.starts[at] : born.starts[at + 1]]

    def _grouped(self, places: Places, keys: Ints) -> tuple[npt.NDArray[np.intp], Ints, Ints, Ints]:
        """Order by key, and of each different key the start in that order, the key and the weight."""
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        starts = np.flatnonzero(np.concatenate(([True], sorted_keys[1:] != sorted_keys[:-1])))
        weights = np.add.reduceat(self._weight[self._word[places[order]]], starts)
        return order, starts, sorted_keys[starts], weights

    def _bear(self, places: Places, keys: Ints) -> None:
        """Enter new pairs that occur often enough."""
        if not len(places):
            self._births.append(_Born(np.zeros(0, np.int64), np.zeros(1, np.int64), places))
            return
        order, starts, keys, weights = self._grouped(places, keys)
        often = weights >= self._minimum
        # Places of the rare pairs are dropped: a count never rises.
        lengths = np.diff(np.append(starts, len(order)))
        kept = places[order[np.repeat(often, lengths)]]
        keys, weights = keys[often], weights[often]
        self._births.append(_Born(keys, np.concatenate(([0], np.cumsum(lengths[often]))), kept))
        fresh = dict(zip(keys.tolist(), weights.tolist(), strict=True))
        self._counts.update(fresh)
        entries = [_entry(key, count) for key, count in fresh.items()]
        if self._heap:
            for entry in entries:
                heapq.heappush(self._heap, entry)
        else:
            self._heap = entries
            heapq.heapify(self._heap)

    def _lower(self, places: Places, keys: Ints) -> None:
        """Take occurrences off the counts of pairs that vanish."""
        if not len(places):
            return
        _, _, keys, weights = self._grouped(places, keys)
        counts = self._counts
        for key, weight in zip(keys.tolist(), weights.tolist(), strict=True):
            if key in counts:
                counts[key] -= weight


def _entry(key: int, count: int) -> int:
    """One number that sorts by falling count, then by the pair."""
    return ((1 << 62) - count) << 64 | key
