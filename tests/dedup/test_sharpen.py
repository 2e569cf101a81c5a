"""Sharper sketches between candidates and verification: fewer pairs, the same outcome."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.dedup_search import answer, by_definition, cut, run, variants
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup import job, sharpen
from codeshell.dedup.decide import WantedTask
from codeshell.dedup.job import Job
from codeshell.dedup.parameters import Parameters
from codeshell.documents.texts import text_buffers
from codeshell.engine import LocalEngine

CERTAIN = Parameters(bands=200, rows=1)  # see test_search.py
MASK = (1 << 64) - 1


def mix64(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def by_hand(values: list[int]) -> list[int]:
    """A sketch by its definition (csrc/dedup/bins.h)."""
    least: dict[int, int] = {}
    for value in values:
        hashed = mix64(value ^ 0x9E3779B97F4A7C15)
        least[hashed >> 54] = min(least.get(hashed >> 54, MASK), hashed)
    return [1 + (least[i] & 0xFFFF) % 255 if i in least else 0 for i in range(sharpen.BINS)]


def sketches_of(sets: list[NDArray[np.uint64]]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    sizes = [len(values) for values in sets]
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return _C.dedup_bins_of_sets(np.concatenate(sets), bounds), np.array(sizes, np.uint32)


def pair(choice: np.random.Generator, size: int, shared: int) -> list[NDArray[np.uint64]]:
    """Two sets of `size` values, of which they share some."""
    values = choice.integers(0, 1 << 63, 2 * size - shared, dtype=np.uint64)
    return [np.sort(values[:size]), np.sort(values[size - shared :])]


@given(st.lists(st.lists(st.integers(0, MASK), max_size=20), min_size=1, max_size=4))
def test_sketches_are_their_definition(sets: list[list[int]]) -> None:
    found, _ = sketches_of([np.array(values, np.uint64) for values in sets])
    assert found.tolist() == [by_hand(values) for values in sets]


@pytest.mark.parametrize("preset", ["code", "starcoder", "stack-v2", "datatrove", "char-24"])
def test_of_texts_and_of_their_sets(preset: str) -> None:
    texts = ["", "one two", *variants(4, 300, seed=1)]
    (piece,) = text_buffers(pa.chunked_array([texts], pa.large_string()))
    of_texts = _C.dedup_bins(piece.data, piece.offsets, 24 if preset == "char-24" else 5, preset=preset)
    sets = _C.dedup_shingle_sets(piece.data, piece.offsets, 24 if preset == "char-24" else 5, preset=preset)
    assert (of_texts == _C.dedup_bins_of_sets(*sets)).all()
    assert of_texts[-1].any()


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("size", [1, 7, 60, 700, 9000])
def test_no_pair_at_the_threshold_is_lost(size: int, threshold: float) -> None:
    # Each may be lost with a probability below 1e-4, and the sets are always the same: these are not.
    choice = np.random.default_rng(size)
    shared = next(s for s in range(size + 1) if s / (2 * size - s) >= threshold)
    sets = [values for _ in range(max(3, 9000 // size)) for values in pair(choice, size, shared)]
    bins, shingles = sketches_of(sets)
    edges = np.arange(len(sets), dtype=np.uint32).reshape(-1, 2)[:, ::-1].copy()
    sketches = _C.DedupSketches.from_array(bins)
    for level in ("scalar", ""):
        assert _C.dedup_sharpen(sketches, shingles, edges, threshold, level=level).all()
    # Sizes that are said to be larger, as repeated shingles make them, only keep more.
    assert _C.dedup_sharpen(sketches, shingles * 3, edges, threshold).all()


def test_few_pairs_below_the_threshold_are_left() -> None:
    choice = np.random.default_rng(0)
    sets = [values for _ in range(300) for values in pair(choice, 700, 530)]  # a Jaccard of 0.61
    bins, shingles = sketches_of(sets)
    edges = np.arange(len(sets), dtype=np.uint32).reshape(-1, 2)
    kept = [
        _C.dedup_sharpen(_C.DedupSketches.from_array(bins), shingles, edges, 0.7, threads, level)
        for threads in (1, 3)
        for level in ("scalar", "")
    ]
    assert all((one == kept[0]).all() for one in kept)
    assert kept[0].sum() < 30


@pytest.fixture(scope="module")
def texts() -> list[str]:
    mixed = [*variants(60, 200, seed=3), "short one", "short one"]
    random.Random(1).shuffle(mixed)
    return mixed


@pytest.mark.parametrize("memory", [1 << 17, 1 << 30])  # sketches read one by one, or held
@pytest.mark.parametrize("keep_order", ["first", "longest"])
def test_the_outcome_is_the_same(
    texts: list[str], keep_order: str, memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharpen, "EDGES", 0)
    monkeypatch.setattr(sharpen, "FILE_EDGES", 50)
    parameters = Parameters(bands=200, rows=1, keep_order=keep_order)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].encode())) if keep_order == "longest" else None
    found = run(tmp_path, cut(texts, [60, 60, 120]), parameters, memory=memory)
    assert answer(found) == by_definition(texts, 0.7, order)
    assert found.counts["candidate_pairs"] <= found.counts["sharpened_left"] < found.counts["sharpened_pairs"]
    assert len(list(tmp_path.glob("edges-sharp-*"))) > 1


def test_few_candidates_are_left_alone(texts: list[str], tmp_path: Path) -> None:
    assert "sharpened_pairs" not in run(tmp_path, [texts], Parameters()).counts


def test_a_killed_search_resumes(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpen, "EDGES", 0)
    real, calls = sharpen.bins_shard, []

    def dies(task: WantedTask) -> dict[str, Any]:
        calls.append(task)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(task)

    with monkeypatch.context() as patch:
        patch.setattr(sharpen, "bins_shard", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, cut(texts, [60, 120]), CERTAIN)
    assert answer(run(tmp_path, cut(texts, [60, 120]), CERTAIN)) == by_definition(texts, 0.7)


def test_against_an_index(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents that were seen before have only sets, no texts."""
    monkeypatch.setattr(sharpen, "SETS_VALUES", 500)
    paths = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    for path, part in zip(paths, (texts[:80], texts[80:]), strict=True):
        pq.write_table(pa.table({"text": part}), path, row_group_size=25)
    outputs = []
    for edges in (1 << 30, 0):
        monkeypatch.setattr(sharpen, "EDGES", edges)
        for number, path in enumerate(paths):
            output, index = tmp_path / f"out-{edges}-{number}", tmp_path / f"index-{edges}"
            with LocalEngine(1) as engine:
                job.run(Job(inputs=(str(path),), output=output, index=index, parameters=CERTAIN), engine)
        assert ("sharpened_pairs" in json.loads((output / "stats.json").read_text())) == (edges == 0)
        outputs.append(pq.read_table(output / "duplicates.parquet").drop_columns(["id", "kept_id"]))
    assert outputs[0].num_rows and outputs[0].equals(outputs[1])


def test_bad_arguments() -> None:
    sketches = _C.DedupSketches.from_array(np.zeros((2, sharpen.BINS), np.uint8))
    two, edge = np.ones(2, np.uint32), np.array([[1, 0]], np.uint32)
    with pytest.raises(ValueError, match="edges: document 2 is out of range of 2"):
        _C.dedup_sharpen(sketches, two, edge + np.uint32(1), 0.7)
    with pytest.raises(ValueError, match="shingles"):
        _C.dedup_sharpen(sketches, two[:1], edge, 0.7)
    with pytest.raises(ValueError, match="threshold"):
        _C.dedup_sharpen(sketches, two, edge, 0.0)
    with pytest.raises(ValueError, match="1024 bytes wide"):
        _C.dedup_sharpen(_C.DedupSketches.from_array(np.zeros((2, 64), np.uint8)), two, edge, 0.7)
    values = np.zeros(3, np.uint64)
    for bounds in ([0, 4], [-1, 2], [2, 1], []):
        with pytest.raises(ValueError, match="bounds"):
            _C.dedup_bins_of_sets(values, np.array(bounds, np.int64))
