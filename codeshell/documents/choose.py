"""The one way to choose documents: by a hash of (seed, id, purpose), up to a size.

The choice depends on the documents alone, not on their order or how they are cut into files, and a larger choice holds
the smaller one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from codeshell.randomness import draw


def choose(
    seed: int,
    purpose: str,
    documents: Iterable[tuple[str, int]],
    max_bytes: int,
    *,
    fill: bool = False,
    once: bool = False,
) -> tuple[NDArray[np.int64], int]:
    """Take documents in the order of hash(seed, id, purpose) for as long as `max_bytes` holds them.

    Args:
        documents: (id, bytes of text) of each. They are streamed: 16 bytes per document stay in memory.
        fill: pass over a document that does not fit, because smaller ones after it may; documents without text are
            passed over too. Otherwise the first that does not fit ends the choice.
        once: take only the first of several documents with one id.

    Returns:
        The places of the chosen documents in `documents`, in the order of the hash, and their bytes together.
    """
    # (documents,): arrays of C numbers, because Python's own numbers take several times the memory.
    hashes, lengths = array("Q"), array("q")
    for identity, size in documents:
        hashes.append(draw(seed, identity, purpose))
        lengths.append(size)
    keys, sizes = np.frombuffer(hashes, np.uint64), np.frombuffer(lengths, np.int64)
    # Both orders are by hash, and by place where hashes are equal.
    order = np.unique(keys, return_index=True)[1] if once else np.argsort(keys, kind="stable")
    # A prefix in the order of the hash: a larger `max_bytes` gives a longer one.
    if not fill:
        taken = order[np.cumsum(sizes[order]) <= max_bytes]
        return taken, int(sizes[taken].sum())
    # With `fill`, every document after the first that does not fit must be looked at.
    chosen: list[int] = []
    left = max_bytes
    for place, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if 0 < size <= left:
            chosen.append(place)
            left -= size
    return np.array(chosen, np.int64), max_bytes - left
