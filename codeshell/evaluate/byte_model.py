"""A byte model of order 3: the baseline that any language model of code must beat.

It gives the probability of a byte after the three before it, with Witten-Bell smoothing (Witten & Bell 1991, method C;
interpolated form of Chen & Goodman 1998, section 2.4). With n(h) occurrences of context h, t(h) different bytes seen
after it, and n(h, c) occurrences of byte c there,

    P_k(c | h) = (n(h, c) + t(h) P_{k-1}(c | h')) / (n(h) + t(h)),     P_{-1} = 1/256,

where h' is h without its oldest byte; an unseen context passes P_{k-1} on. Every file starts in a context of three zero
bytes. A string of four bytes is one 32-bit key, so training is one sort, and scoring is one binary search per order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from codeshell.randomness import uniform

ORDER = 3
CHUNK = 8_388_608
"""Bytes counted at a time: 32 MB of keys."""

Keys = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]


def keys_of(data: bytes) -> Keys:
    """The key of every byte of a file, uint32 (bytes,): the byte in the low 8 bits, the three before it above it.

    Before the start of a file stand zeros.
    """
    # Shift by shift the next byte of each window of four comes in at the bottom.
    padded = np.frombuffer(bytes(ORDER) + data, dtype=np.uint8).astype(np.uint32)
    n = len(data)
    key = padded[:n].copy()
    for shift in range(1, ORDER + 1):
        key = key << np.uint32(8) | padded[shift : shift + n]
    return key


class _Order:
    """Counts of one order k: sorted keys of k + 1 bytes, and sums over the contexts that they begin with.

    `keys` and `counts` are (strings,): each different string of k + 1 bytes and n(h, c). `contexts`, `totals` and
    `distinct` are (contexts,): each different h with n(h) and t(h).
    """

    def __init__(self, keys: Keys, counts: npt.NDArray[np.int64]) -> None:
        self.keys, self.counts = keys, counts
        # Sorted keys with the same context stand together, so each context is one stretch.
        self.contexts, starts = np.unique(keys >> np.uint32(8), return_index=True)
        self.totals = np.add.reduceat(counts, starts) if len(keys) else counts
        self.distinct = np.diff(np.append(starts, len(keys)))

    def interpolate(self, keys: Keys, lower: Floats) -> Floats:
        """P_k of every key, given P_{k-1} of the same keys; both are float64 (keys,)."""
        if not len(self.keys):
            return lower
        count = _look_up(self.keys, self.counts, keys)
        total = _look_up(self.contexts, self.totals, keys >> np.uint32(8))
        distinct = _look_up(self.contexts, self.distinct, keys >> np.uint32(8))
        # The denominator is 0 exactly where the context was never seen; there the lower order decides alone.
        below = total + distinct
        return np.where(below > 0, (count + distinct * lower) / np.maximum(below, 1), lower)


class ByteModel:
    """A Witten-Bell model of order 3 over bytes, counted on `files`."""

    def __init__(self, files: Iterable[bytes]) -> None:
        self.trained_on_bytes = 0
        keys, counts = self._count(files)
        self.orders: list[_Order] = []
        for order in range(ORDER, -1, -1):
            self.orders.append(_Order(keys, counts))
            # Without its oldest byte a key is one of the next lower order; keys that become equal add up.
            mask = np.uint32((1 << (8 * order)) - 1)
            keys, counts = _merge(keys & mask, counts)
        self.orders.reverse()

    def probabilities(self, keys: Keys) -> Floats:
        """P(byte | three before it) of every key (see `keys_of`), float64 (keys,)."""
        # From P_{-1} = 1/256 upwards, each order with the low bytes of the key that it knows.
        values = np.full(len(keys), 1 / 256)
        for order, table in enumerate(self.orders):
            values = table.interpolate(keys & np.uint32((1 << (8 * (order + 1))) - 1), values)
        return values

    def bits(self, data: bytes) -> float:
        """-log2 of the probability of a whole file, byte by byte; its length is not coded."""
        # Each different key is looked up once, and its bits are added as often as it occurs.
        distinct, index = np.unique(keys_of(data), return_inverse=True)
        if not len(distinct):
            return 0.0
        return float(-np.log2(self.probabilities(distinct))[index].sum())

    def sample(self, prompts: Sequence[bytes], length: int, *, temperature: float, key: int) -> list[bytes]:
        """Continue each prompt by `length` bytes.

        Args:
            prompts: the text before each continuation; only its last three bytes matter.
            length: bytes to add to each.
            temperature: probabilities are raised to 1 / temperature and normalised; above 0.
            key: names the random stream (`randomness.draw`); byte i of prompt j takes its number i * len(prompts) + j.
        """
        # context is uint32 (prompts,): the last three bytes of each. One step writes one byte of every prompt.
        width = len(prompts)
        context = np.array([int.from_bytes((bytes(ORDER) + p)[-ORDER:], "big") for p in prompts], dtype=np.uint32)
        symbols = np.arange(256, dtype=np.uint32)
        written = np.empty((width, length), dtype=np.uint8)
        for at in range(length):
            # The logits of all 256 next bytes, (prompts, 256); the maximum is taken out so that nothing overflows.
            keys = (context[:, None] << np.uint32(8) | symbols).ravel()
            logits = np.log(self.probabilities(keys)).reshape(width, 256) / temperature
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            cumulative = np.cumsum(weights, axis=1)
            # Inverse transform sampling: the first byte whose cumulative weight exceeds a uniform point.
            point = uniform(key, at * width, width) * cumulative[:, -1]
            byte = np.minimum((cumulative <= point[:, None]).sum(axis=1), 255).astype(np.uint32)
            written[:, at] = byte
            context = (context << np.uint32(8) | byte) & np.uint32(0xFFFFFF)
        return [row.tobytes() for row in written]

    def _count(self, files: Iterable[bytes]) -> tuple[Keys, npt.NDArray[np.int64]]:
        """The different keys of all files, sorted, with their counts."""
        # Keys wait until there are `CHUNK` of them: one sort of many is cheaper than many merges.
        keys, counts = np.empty(0, np.uint32), np.empty(0, np.int64)
        waiting: list[Keys] = []
        held = 0

        def flush() -> tuple[Keys, npt.NDArray[np.int64]]:
            fresh, times = np.unique(np.concatenate(waiting), return_counts=True)
            return _merge(np.concatenate([keys, fresh]), np.concatenate([counts, times]))

        for data in files:
            self.trained_on_bytes += len(data)
            waiting.append(keys_of(data))
            held += len(data)
            if held >= CHUNK:
                keys, counts = flush()
                waiting, held = [], 0
        return flush() if waiting else (keys, counts)


def _merge(keys: Keys, counts: npt.NDArray[np.int64]) -> tuple[Keys, npt.NDArray[np.int64]]:
    """Sort keys and add up the counts of equal ones."""
    if not len(keys):
        return keys, counts
    # Equal keys become neighbours; each stretch of them is summed from its start.
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return keys[starts], np.add.reduceat(counts, starts)


def _look_up(table: Keys, values: npt.NDArray[np.int64], keys: Keys) -> npt.NDArray[np.int64]:
    """`values` of the keys that are in the sorted table, 0 for the others."""
    # A key beyond the end of the table is compared with its last entry, which is another one.
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[at] == keys, values[at], 0)
