"""Counting equal bytes of sketches: every instruction set against NumPy, at every number of 64-byte blocks."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.shingle_definitions import LEVELS

from codeshell import _C


@pytest.mark.parametrize("lanes", [1, 63, 64, 65, 126, 128, 129, 180, 192, 193, 255, 256, 257, 320, 450])
def test_pairs_of_a_group_are_those_with_enough_equal_bytes(lanes: int) -> None:
    """A block too many would read padding, or the next sketch: both are filled with what would count."""
    count, least = 40, max(1, lanes // 4)
    width = -(-lanes // 64) * 64
    generator = np.random.default_rng(lanes)
    sketches = generator.integers(0, 4, (count, width), np.uint8)
    sketches[:, lanes:] = 7
    equal = (sketches[:, None, :lanes] == sketches[None, :, :lanes]).sum(2)
    expected = [(a, b) for a in range(count) for b in range(a) if equal[a, b] >= least]
    assert expected and len(expected) < count * (count - 1) // 2
    store = _C.DedupSketches.from_array(sketches)
    keys, documents = np.ones(count, np.uint64), np.arange(count, dtype=np.uint32)
    for level in LEVELS:
        edges, _, _ = _C.dedup_groups_edges(
            *(keys, documents, np.ones(count, np.bool_), documents, store, lanes, least, lanes + 1, count, 1, 1),
            level=level,
        )
        assert [tuple(edge) for edge in edges.tolist()] == expected, level
