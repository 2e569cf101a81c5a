"""The greedy choice and the connected components against their definitions in Python."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codeshell import _C

Edge = tuple[int, int]


def array(edges: list[Edge]) -> NDArray[np.uint32]:
    return np.array(edges, np.uint32).reshape(-1, 2)


def greedy(n: int, jaccard: dict[Edge, float], threshold: float, gone: set[int]) -> dict[int, tuple[int, float]]:
    """Each dropped document with the kept one that it names and their Jaccard."""
    dropped: dict[int, tuple[int, float]] = {}
    for later in set(range(n)) - gone:
        best = [
            (-value, earlier)
            for (one, earlier), value in jaccard.items()
            if one == later and value >= threshold and earlier not in dropped and earlier not in gone
        ]
        if best:
            value, earlier = min(best)
            dropped[later] = (earlier, -value)
    return dropped


def edges_of(n: int) -> st.SearchStrategy[dict[Edge, float]]:
    pair = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda p: p[0] > p[1])
    return st.dictionaries(pair, st.sampled_from([0.0, 0.3, 0.69, 0.7, 0.75, 0.9, 1.0, float("nan")]), max_size=60)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(2, 70), st.sampled_from([0.3, 0.7, 1.0]), st.randoms(use_true_random=False))
def test_greedy(data: st.DataObject, n: int, threshold: float, choice: random.Random) -> None:
    """In chunks of any size, with and without leaving out what is not pending, edges of a document in any order."""
    jaccard = data.draw(edges_of(n))
    gone = set(data.draw(st.lists(st.integers(0, n - 1), max_size=5)))
    expected = greedy(n, jaccard, threshold, gone)
    decider = _C.DedupGreedy(n)
    decider.drop(np.array(sorted(gone), np.uint32))
    found = {}
    start = 0
    while start < n:
        end = start + choice.randint(1, n)
        edges = [edge for edge in jaccard if start <= edge[0] < end]
        choice.shuffle(edges)
        edges.sort(key=lambda edge: edge[0])
        chunk = array(edges)
        pending = decider.pending(chunk)
        # What is left out could not matter: one of the two has gone already.
        for edge in chunk[~pending].tolist():
            assert edge[1] in expected or set(edge) & gone
        if choice.random() < 0.8:
            chunk = chunk[pending]
        values = np.array([jaccard[edge[0], edge[1]] for edge in chunk.tolist()])
        later, kept, value = decider.decide(chunk, values, threshold)
        assert (later.dtype, kept.dtype, value.dtype) == (np.uint32, np.uint32, np.float64)
        assert (np.diff(later.astype(np.int64)) > 0).all()
        found |= {a: (b, v) for a, b, v in zip(later.tolist(), kept.tolist(), value.tolist(), strict=True)}
        start = end
    assert found == expected
    assert decider.kept().tolist() == [i not in expected and i not in gone for i in range(n)]


def test_a_chain_keeps_its_ends_and_the_earliest_of_equals_is_named() -> None:
    decider = _C.DedupGreedy(5)
    edges = array([(1, 0), (2, 1), (4, 3), (4, 2), (4, 0)])
    later, kept, value = decider.decide(edges, np.array([0.8, 0.9, 0.8, 0.8, 0.7]), 0.7)
    assert (later.tolist(), kept.tolist(), value.tolist()) == ([1, 4], [0, 2], [0.8, 0.8])


def test_edges_that_cannot_be() -> None:
    decider = _C.DedupGreedy(10)
    ones = np.ones(2)
    for edges, problem in [
        ([(3, 1), (10, 1)], "out of range"),
        ([(3, 1), (3, 3)], "not .later, earlier"),
        ([(3, 1), (3, 4)], "not .later, earlier"),
        ([(3, 1), (2, 1)], "order"),
    ]:
        with pytest.raises(ValueError, match=problem):
            decider.decide(array(edges), ones, 0.5)
        with pytest.raises(ValueError, match=problem):
            decider.pending(array(edges))
    assert decider.kept().all()  # nothing was decided
    decider.decide(array([(5, 1)]), np.array([0.1]), 0.5)
    for late in (5, 4):
        with pytest.raises(ValueError, match="later documents were decided"):
            decider.decide(array([(late, 0)]), np.ones(1), 0.5)
    decider.decide(array([]), np.empty(0), 0.5)
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            decider.decide(array([(6, 0)]), np.ones(1), threshold)
    with pytest.raises(ValueError, match="jaccard"):
        decider.decide(array([(6, 0)]), np.ones(2), 0.5)
    with pytest.raises(ValueError, match="edges"):
        decider.pending(np.array([[6, -1]]))
    with pytest.raises(ValueError, match="ranks: 10"):
        decider.drop(np.array([2, 10], np.uint32))
    assert decider.kept().all()
    for documents in (-1, 2**32):
        with pytest.raises(ValueError, match="documents"):
            _C.DedupGreedy(documents)
    assert len(_C.DedupGreedy(0).kept()) == 0


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.data())
def test_components(n: int, data: st.DataObject) -> None:
    number = st.integers(0, n - 1)
    edges = data.draw(st.lists(st.tuples(number, number), max_size=80))
    label = list(range(n))
    for a, b in edges:  # repaint: slow and plain
        low, high = sorted((label[a], label[b]))
        label = [low if one == high else one for one in label]
    components = _C.DedupComponents(n)
    cut = data.draw(st.integers(0, len(edges)))
    components.add(array(edges[:cut]))
    components.labels()  # looking at it between two calls changes nothing
    components.add(array(edges[cut:]))
    assert components.labels().tolist() == label
    assert components.labels().dtype == np.uint32


def test_long_chains_of_components() -> None:
    n = 50_000
    for order in (1, -1):
        components = _C.DedupComponents(n)
        components.add(np.stack([np.arange(1, n), np.arange(n - 1)], axis=1).astype(np.uint32)[::order])
        assert (components.labels() == 0).all()


def test_components_refuse_what_is_out_of_range() -> None:
    components = _C.DedupComponents(3)
    for edge in ((3, 0), (0, 3), (2**32 - 1, 0)):
        with pytest.raises(ValueError, match="out of range"):
            components.add(array([edge]))
    labels = components.labels()
    with pytest.raises(ValueError, match="read-only"):
        labels[0] = 1
    del components
    assert labels.tolist() == [0, 1, 2]  # the view keeps what it shows
    assert len(_C.DedupComponents(0).labels()) == 0
