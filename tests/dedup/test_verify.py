"""Shingle sets in files and arrays, and the exact Jaccard of pairs of them, against Python's sets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.interrupted import interrupted
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codeshell import _C

LEVELS = ("scalar", "avx2", "avx512")  # a level that this processor lacks runs as the next lower one


class Layout(NamedTuple):
    """Where the three sections of a file are."""

    path: Path
    documents: int
    count: int
    bounds: int
    values: int

    def part(self, first: int = 0) -> tuple[str, int, int, int, int, int]:
        return str(self.path), first, self.documents, self.count, self.bounds, self.values


def write(path: Path, documents: Sequence[int], bounds: Sequence[int], values: Sequence[int]) -> Layout:
    """The sections, in an order and at offsets of no meaning."""
    sections = [np.array(values, np.uint64), np.array(bounds, np.int64), np.array(documents, np.uint32)]
    data, offsets = b"header", []
    for section in sections:
        data += b"\xff" * (-len(data) % 64)
        offsets.append(len(data))
        data += section.tobytes()
    path.write_bytes(data)
    return Layout(path, offsets[2], len(documents), offsets[1], offsets[0])


def write_sets(path: Path, sets: dict[int, list[int]]) -> Layout:
    bounds = np.concatenate([[0], np.cumsum([len(values) for values in sets.values()])]).astype(np.int64)
    return write(path, sorted(sets), bounds.tolist(), [value for key in sorted(sets) for value in sorted(sets[key])])


def from_arrays(sets: list[list[int]]) -> _C.DedupSets:
    bounds = np.cumsum([0, *(len(values) for values in sets)]).astype(np.int64)
    values = np.array([value for one in sets for value in one], np.uint64)
    return _C.DedupSets.from_arrays(np.arange(len(sets), dtype=np.uint32), bounds, values)


def exact(a: Sequence[int], b: Sequence[int]) -> float:
    union = len(set(a) | set(b))
    return len(set(a) & set(b)) / union if union else 0.0


def all_pairs(count: int) -> NDArray[np.uint32]:
    return np.array([(a, b) for a in range(count) for b in range(count)], np.uint32).reshape(-1, 2)


# Few values, so that sets share many, and some at the edges of 64 bits.
VALUES = st.one_of(st.integers(0, 60), st.sampled_from([2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]))
SETS = st.lists(st.lists(VALUES, unique=True, max_size=50).map(sorted), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(SETS, st.floats(0, 1), st.integers(1, 4))
def test_small_sets(sets: list[list[int]], threshold: float, threads: int) -> None:
    edges = all_pairs(len(sets))
    jaccard = [exact(sets[a], sets[b]) for a, b in edges.tolist()]
    expected = [value if value >= threshold else 0.0 for value in jaccard]
    opened = from_arrays(sets)
    assert len(opened) == len(sets)
    for level in LEVELS:
        assert _C.dedup_verify(opened, edges, threshold, threads, level).tolist() == expected
        assert _C.dedup_verify(opened, edges, 0.0, threads, level).tolist() == jaccard
    # A threshold that is exactly a pair's Jaccard is reached, and one just above it is not.
    for value in set(jaccard) - {0.0}:
        found = _C.dedup_verify(opened, edges, value).tolist()
        assert found == [one if one >= value else 0.0 for one in jaccard]


@pytest.mark.parametrize("level", LEVELS)
def test_sizes_around_the_blocks(level: str) -> None:
    """Random sets of 0 to 40 and of some hundred values: every tail length of every block size."""
    choice = np.random.default_rng(3)
    pool = np.unique(choice.integers(0, 2**64, 700, np.uint64, endpoint=False))
    sizes = [*range(41), 127, 128, 129, 500, 640]
    sets = [np.sort(choice.choice(pool, size, replace=False)).tolist() for size in sizes]
    edges = all_pairs(len(sets))
    expected = [exact(sets[a], sets[b]) for a, b in edges.tolist()]
    assert _C.dedup_verify(from_arrays(sets), edges, 0.0, 2, level).tolist() == expected
    cut = [value if value >= 0.4 else 0.0 for value in expected]
    assert _C.dedup_verify(from_arrays(sets), edges, 0.4, 1, level).tolist() == cut


def test_any_order_of_edges_and_any_threads() -> None:
    choice = np.random.default_rng(5)
    sets = [np.unique(choice.integers(0, 300, 200)).tolist() for _ in range(40)]
    edges = all_pairs(len(sets))
    expected = np.array([exact(sets[a], sets[b]) for a, b in edges.tolist()])
    opened = from_arrays(sets)
    order = choice.permutation(len(edges))
    for threads in (1, 2, 7):
        assert (_C.dedup_verify(opened, edges[order], 0.0, threads) == expected[order]).all()
    assert (_C.dedup_verify(opened, np.asfortranarray(edges), 0.0) == expected).all()
    assert len(_C.dedup_verify(opened, np.empty((0, 2), np.uint32), 0.5, 4)) == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.dictionaries(st.integers(0, 300), st.lists(VALUES, unique=True, max_size=20), max_size=12), max_size=5),
    st.lists(st.integers(0, 100), min_size=5, max_size=5),
    st.integers(1, 3),
)
def test_files(
    tmp_path_factory: pytest.TempPathFactory, files: list[dict[int, list[int]]], gaps: list[int], threads: int
) -> None:
    """Files of any documents, one after the other with gaps, given in any order."""
    folder = tmp_path_factory.mktemp("sets")
    parts, sets, first = [], {}, 0
    for index, (file, gap) in enumerate(zip(files, gaps, strict=False)):
        first += gap
        parts.append(write_sets(folder / f"sets-{index}.bin", dict(sorted(file.items()))).part(first))
        sets |= {first + document: values for document, values in file.items()}
        first += 301
    opened = _C.DedupSets(parts[::-1])
    assert len(opened) == len(sets)
    names = sorted(sets)
    edges = np.array([(a, b) for a in names for b in names], np.uint32).reshape(-1, 2)
    expected = [exact(sets[a], sets[b]) for a, b in edges.tolist()]
    assert _C.dedup_verify(opened, edges, 0.0, threads).tolist() == expected
    for absent in {0, 150, first, first + 5000, 2**32 - 1} - set(sets):
        with pytest.raises(ValueError, match=f"document {absent} has no set"):
            _C.dedup_verify(opened, np.array([[absent, absent]], np.uint32), 0.5)


@pytest.mark.parametrize("threads", [1, 3])
def test_sets_that_take_each_others_place_in_memory(tmp_path: Path, threads: int) -> None:
    """A thread keeps the sets that it read last, up to a size, by their positions modulo 1,024."""
    choice = np.random.default_rng(3)
    positions = [p + 1024 * turn for p in (0, 7, 1023) for turn in range(4)]
    sizes = [30, 0, 2048, 5, 2049, 3000, 1, 40, 35, 2000, 2, 2500]
    sets = {p: np.unique(choice.integers(0, 4000, size)).tolist() for p, size in zip(positions, sizes, strict=True)}
    opened = _C.DedupSets([write_sets(tmp_path / "sets.bin", dict(sorted(sets.items()))).part()])
    edges = np.array([(a, b) for a in positions for b in positions] * 3, np.uint32)
    edges = edges[choice.permutation(len(edges))]
    expected = [exact(sets[a], sets[b]) for a, b in edges.tolist()]
    assert _C.dedup_verify(opened, edges, 0.0, threads).tolist() == expected


def test_look_up_among_many_documents() -> None:
    """Enough positions for many blocks of the bitmap, dense and sparse."""
    choice = np.random.default_rng(1)
    dense = np.sort(choice.choice(20_000, 15_000, replace=False))
    sparse = np.sort(choice.choice(np.arange(30_000, 3_000_000), 3_000, replace=False))
    documents = np.concatenate([dense, sparse]).astype(np.uint32)
    sizes = choice.integers(0, 5, len(documents))
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    values = np.concatenate([np.arange(size) + at for at, size in zip(documents.tolist(), sizes, strict=True)])
    opened = _C.DedupSets.from_arrays(documents, bounds, values.astype(np.uint64))
    edges = np.stack([documents, documents], axis=1)
    assert _C.dedup_verify(opened, edges, 0.0, 2).tolist() == (sizes > 0).astype(float).tolist()
    # Document d has d, d + 1, ...: neighbours by position overlap as their sizes say.
    edges = np.stack([documents[1:], documents[:-1]], axis=1)
    expected = []
    for (later, earlier), size, other in zip(edges.tolist(), sizes[1:].tolist(), sizes[:-1].tolist(), strict=True):
        expected.append(exact(range(later, later + size), range(earlier, earlier + other)))
    assert _C.dedup_verify(opened, edges, 0.0, 1).tolist() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd")
def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    parts = [write_sets(tmp_path / f"{i}.bin", {0: [i, i + 1]}).part(i) for i in range(300)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = _C.DedupSets(parts)
    edges = np.array([(i, i - 1) for i in range(1, 300)] * 2, np.uint32)
    assert _C.dedup_verify(opened, edges, 0.0, 3).tolist() == [1 / 3] * len(edges)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 256


def test_missing_and_short_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.bin"):
        _C.DedupSets([(str(tmp_path / "none.bin"), 0, 0, 0, 0, 0)])
    layout = write_sets(tmp_path / "a.bin", {1: [1, 2, 3], 2: [4, 5]})
    whole = layout.path.read_bytes()
    opened = _C.DedupSets([layout.part()])
    # Documents come last in the file, before them bounds, and values first.
    for size in (len(whole) - 1, layout.documents, layout.bounds + 8, layout.values + 39, layout.values - 1, 0):
        layout.path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.bin: cut short"):
            _C.DedupSets([layout.part()])
    with pytest.raises(ValueError, match=r"a\.bin: cut short"):  # after it was opened
        _C.dedup_verify(opened, np.array([[1, 2]], np.uint32), 0.0)
    layout.path.unlink()
    opened = None
    with pytest.raises(FileNotFoundError, match=r"a\.bin"):
        _C.DedupSets([layout.part()])
    layout.path.write_bytes(whole)
    huge = (str(layout.path), 0, layout.documents, 2**62, layout.bounds, layout.values)
    for part in (huge, (*layout.part()[:2], 2**63, *layout.part()[3:]), (*layout.part()[:5], 2**63)):
        with pytest.raises(ValueError, match=r"cut short|count"):
            _C.DedupSets([part])


@pytest.mark.parametrize(
    ("documents", "bounds", "problem"),
    [
        ([1, 1], [0, 1, 2], "ascend"),
        ([2, 1], [0, 1, 2], "ascend"),
        ([1, 2], [0, 2, 1], "fall"),
        ([1, 2], [-1, 1, 2], "negative"),
        ([1, 2], [0, 1, 100], "cut short|beyond"),
        ([1, 2], [0, 1, 2**62], "cut short|beyond|2\\^31"),
        ([1, 2**32 - 1], [0, 1, 2], "2\\^32"),
    ],
)
def test_contents_that_cannot_be(tmp_path: Path, documents: list[int], bounds: list[int], problem: str) -> None:
    layout = write(tmp_path / "bad.bin", documents, bounds, [5, 6, 7])
    with pytest.raises(ValueError, match=rf"bad\.bin: .*({problem})"):
        _C.DedupSets([layout.part()])
    with pytest.raises(ValueError, match=problem):
        _C.DedupSets.from_arrays(
            np.array(documents, np.uint32), np.array(bounds, np.int64), np.array([5, 6, 7], np.uint64)
        )


def test_files_whose_documents_interleave(tmp_path: Path) -> None:
    a = write_sets(tmp_path / "a.bin", {0: [1], 10: [2]})
    b = write_sets(tmp_path / "b.bin", {0: [3]})
    assert len(_C.DedupSets([a.part(), b.part(11)])) == 3
    for first in (0, 5, 10):
        with pytest.raises(ValueError, match="interleave"):
            _C.DedupSets([a.part(), b.part(first)])
    with pytest.raises(ValueError, match="2\\^32"):
        _C.DedupSets([b.part(2**32 - 1)])


def test_bad_arguments() -> None:
    opened = from_arrays([[1, 2], [2, 3]])
    edges = np.array([[1, 0]], np.uint32)
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            _C.dedup_verify(opened, edges, threshold)
    for bad in (edges.astype(np.int64), edges.ravel(), edges.reshape(2, 1)):
        with pytest.raises(ValueError, match="edges"):
            _C.dedup_verify(opened, bad, 0.5)
    with pytest.raises(ValueError, match="threads"):
        _C.dedup_verify(opened, edges, 0.5, 0)
    with pytest.raises(ValueError, match="bounds"):
        _C.DedupSets.from_arrays(np.arange(2, dtype=np.uint32), np.zeros(2, np.int64), np.zeros(0, np.uint64))
    with pytest.raises(ValueError, match="has no set"):  # from a thread that is not the caller's
        _C.dedup_verify(opened, np.array([[1, 0]] * 5000 + [[1, 2]], np.uint32), 0.0, 4)


def test_values_out_of_order_are_harmless() -> None:
    """They are not checked: some count comes out, at no risk."""
    choice = np.random.default_rng(0)
    values = choice.integers(0, 2**64, 3000, np.uint64, endpoint=False)
    opened = _C.DedupSets.from_arrays(np.arange(3, dtype=np.uint32), np.arange(4, dtype=np.int64) * 1000, values)
    for level in LEVELS:
        found = _C.dedup_verify(opened, all_pairs(3), 0.0, 1, level)
        assert ((found >= 0) & (found <= 1)).all()


LONG_CALL = """
import numpy as np
from codeshell import _C

# Two sets without a common value, compared again and again: work for minutes.
size, edges = 1_000_000, np.tile(np.array([[1, 0]], np.uint32), (200_000, 1))
values = np.concatenate([np.arange(0, 2 * size, 2), np.arange(1, 2 * size, 2)]).astype(np.uint64)
opened = _C.DedupSets.from_arrays(np.arange(2, dtype=np.uint32), np.array([0, size, 2 * size]), values)
try:
    print("begun", flush=True)
    _C.dedup_verify(opened, edges, 0.0, 2, "scalar")
    print("ended")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_it() -> None:
    assert interrupted(LONG_CALL) == "interrupted\n"
