"""The corpus of the fuzz targets (tests/fuzz), replayed through the bindings: every input through all that its target
checks. What C++ asserts there is asserted here of the library as it is built for users.

An input is read as the targets read it: a header of option bytes, then the body; what is not there is 0.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.shingle_definitions import LEVELS

from codeshell import _C

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
PRESETS = ("code", "starcoder", "stack-v2", "datatrove", "char-24")
FILLERS = (b"x", b" ", "aé".encode(), "一".encode())
CHUNK = 4096


def inputs(target: str, header: int) -> Iterator[tuple[bytes, bytes]]:
    """(header, body) of all inputs."""
    for line in (CORPUS / f"{target}.hex").read_text().split():
        data = bytes.fromhex(line)
        yield data[:header].ljust(header, b"\0"), data[header:]


def around(body: bytes, at: Any) -> Any:
    """body[at], over and over."""
    return np.frombuffer(body, np.uint8)[np.asarray(at) % len(body)] if body else np.zeros(np.shape(at), np.uint8)


def same(*results: Any) -> bool:
    first = results[0] if isinstance(results[0], tuple) else (results[0],)
    others = [result if isinstance(result, tuple) else (result,) for result in results[1:]]
    return all(np.array_equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_texts() -> None:
    for header, body in inputs("texts", 4):
        wish = header[3]
        filler = FILLERS[wish & 3]
        before = CHUNK - 40 + (wish >> 2 & 15) * 4 if wish >= 192 else 0
        text = before // len(filler) * filler + body
        cut = min(4 * header[1], len(text))
        both, ends = np.array([0, cut, len(text)]), np.array([[0, cut], [cut, len(text)]])
        preset, ngram = PRESETS[(header[0] & 15) % 5], 1 + header[1] % 30
        bands, rows = 1 + header[2] % 5, 1 + header[2] // 5 % 40
        signed = [_C.dedup_sign(text, both, preset, ngram, bands, rows, 7, level=level) for level in LEVELS]
        assert same(*signed)
        for number in range(2):
            alone = _C.dedup_sign(text, ends[number], preset, ngram, bands, rows, 7)
            assert same(alone, tuple(array[number : number + 1] for array in signed[0]))
        sets = [_C.dedup_shingle_sets(text, both, ngram, level, preset) for level in LEVELS]
        assert same(*sets)
        for first, last in pairwise(sets[0][1]):
            assert (np.diff(sets[0][0][first:last].astype(object)) > 0).all()
        measures = [_C.measure_texts(text, both, level) for level in LEVELS]
        assert same(*(tuple(measure.values()) for measure in measures))
        numbers = np.arange(3, 41, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for scheme, wide in (("legacy", False), ("affine32", False), ("affine64", True)):
            assert same(
                *(
                    _C.dedup_datasketch(text, both, preset, ngram, scheme, numbers, numbers, wide, level=level)
                    for level in LEVELS
                )
            )


class Corpus:
    """The content of an input of the target `candidates`: sketches, ranks, and the pairs of ranks by equal bytes."""

    def __init__(self, header: bytes, body: bytes) -> None:
        self.count, self.lanes = header[1] % 48, 1 + header[2] % 130
        width = (self.lanes + 63) // 64 * 64
        self.sketches = around(body, np.arange(self.count)[:, None] * header[9] + np.arange(width))
        self.ranks = ((np.arange(self.count) + 1) * (1 + header[0] % 8) % 73).astype(np.uint32)
        self.store = _C.DedupSketches.from_array(self.sketches)
        shown = self.sketches[:, : self.lanes]
        self.equal = (shown[:, None] == shown[None]).sum(2)

    def pair(self, a: int, b: int) -> tuple[int, int]:
        one, two = int(self.ranks[a]), int(self.ranks[b])
        return max(one, two), min(one, two)


def test_groups() -> None:
    for header, body in inputs("candidates", 10):
        corpus = Corpus(header, body)
        seen = bool(header[8] & 1)
        flags = np.ones(corpus.count, np.bool_)
        if header[8] & 2:
            flags = (around(body, np.arange(corpus.count) * 3) & 7) != 0
        records = min(len(body), 4 * corpus.count)
        keys = np.frombuffer(body[:records], np.uint8).astype(np.uint64) << np.uint64((header[0] & 31) * 2)
        documents = (np.arange(records) % max(corpus.count, 1)).astype(np.uint32)
        least, sure, largest = header[3] % 140, header[4] % 140, 2 + header[5] % 70
        options = (least, sure, largest, 1 + header[6] % 16, 1 + header[7] % 8)
        found = []
        for level in LEVELS:
            for order in (slice(None), slice(None, None, -1)):
                keys_in_order, documents_in_order = np.ascontiguousarray(keys[order]), documents[order].copy()
                store = corpus.store if seen else None
                found.append(
                    _C.dedup_groups_edges(
                        *(keys_in_order, documents_in_order, flags, corpus.ranks, store, corpus.lanes, *options),
                        level=level,
                    )
                )
        assert same(*(result[:2] for result in found))
        assert all(result[2] == found[0][2] for result in found)
        groups = defaultdict(set)
        for key, document in zip(keys.tolist(), documents.tolist(), strict=True):
            if key and flags[document]:
                groups[key].add(document)
        expected = {
            corpus.pair(a, b)
            for members in groups.values()
            for a in members
            for b in members
            if a < b and (not seen or corpus.equal[a, b] >= least)
        }
        edges = [tuple(edge) for edge in found[0][0].tolist()]
        assert edges == sorted(set(edges))
        if max(map(len, groups.values()), default=0) <= largest:
            assert set(edges) == expected
        else:
            assert set(edges) <= expected


def test_cpsjoin() -> None:
    for header, body in inputs("candidates", 10):
        corpus = Corpus(header, body)
        threshold = (1.0, 0.7, 0.5, 0.1, 1e-3, 1e-19, 1e-308, 5e-324)[header[8] % 8]
        least, budget = header[3] % 140, 1 + header[7] * 3
        options = (corpus.lanes, threshold, least, header[4] % 140, header[0], 1 + header[8] // 8 % 4)
        options += (2 + header[5] % 40, 1 + header[6] % 80, budget)
        positions = np.arange(corpus.count, dtype=np.uint32)[::-1].copy()
        ranks = corpus.ranks[::-1].copy()
        found = [_C.dedup_cpsjoin(corpus.store, None, corpus.ranks, *options, level=level) for level in LEVELS]
        found += [_C.dedup_cpsjoin(corpus.store, positions, ranks, *options)]
        assert same(*(result[0] for result in found))
        assert all(result[1] == found[0][1] for result in found)
        assert found[0][1]["compared"] + found[0][1]["splits"] <= budget * corpus.count
        pairs = zip(*np.nonzero(corpus.equal >= least), strict=True)
        expected = {corpus.pair(int(a), int(b)) for a, b in pairs if a < b}
        assert {tuple(edge) for edge in found[0][0].tolist()} <= expected
        if corpus.count >= 2:
            ranks[0] = ranks[-1]
            with pytest.raises(ValueError, match="rank: has equal places"):
                _C.dedup_cpsjoin(corpus.store, positions, ranks, *options)


def ascending(steps: bytes, shift: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    values = np.cumsum((np.frombuffer(steps, np.uint8).astype(np.uint64) & np.uint64(7)) + np.uint64(1))
    return values << np.uint64(shift)


def test_intersections() -> None:
    for header, body in inputs("pairs", 8):
        cut = min(2 * header[2], len(body))
        a, b = (ascending(part, header[3] % 50) for part in (body[:cut], body[cut:]))
        sets = _C.DedupSets.from_arrays(
            np.array([0, 1], np.uint32), np.array([0, cut, len(body)]), np.concatenate([a, b])
        )
        shared, threshold = len(np.intersect1d(a, b)), (1 + header[1]) / 256
        jaccard = shared / (len(body) - shared) if body else 0.0
        for level in LEVELS:
            edges = np.array([[1, 0]], np.uint32)
            assert _C.dedup_verify(sets, edges, 0.0, level=level).tolist() == [jaccard]
            assert _C.dedup_verify(sets, edges, threshold, level=level).tolist() == [
                jaccard if jaccard >= threshold else 0.0
            ]


def test_set_files_of_any_content(tmp_path: Path) -> None:
    opened = 0
    for header, body in inputs("pairs", 8):
        data = bytearray(body)
        for at in range(4 * (header[5] & 31)):
            if at % 4 >= 2 and header[4] + at < len(data):
                data[header[4] + at] = 0
        (tmp_path / "sets").write_bytes(data)
        first = 2**32 - 1 - header[3] if header[2] & 2 else header[3]
        # Refused, or read in bounds.
        with contextlib.suppress(ValueError):
            sets = _C.DedupSets([(str(tmp_path / "sets"), first, header[4], header[5] & 31, header[6], header[7])])
            opened += 1
            edges = np.stack([around(body, np.arange(16)) & 63, around(body, np.arange(16) * 7 + 3) & 63], 1)
            for edge in edges.astype(np.uint32):
                with contextlib.suppress(ValueError):
                    assert same(*(_C.dedup_verify(sets, edge[None], 0.0, level=level) for level in LEVELS))
    assert opened


def test_decisions() -> None:
    refused = decided = 0
    for header, body in inputs("pairs", 8):
        documents = header[2] % 64
        rows = [(part[0] & 63, part[1] & 63, part[2]) for part in zip(*[iter(body)] * 3, strict=False)]
        if header[3] & 1:
            rows.sort(key=lambda row: row[0])
        edges = np.array([row[:2] for row in rows], np.uint32).reshape(-1, 2)
        jaccard = np.array([np.nan if row[2] == 255 else row[2] / 254 for row in rows])
        threshold = (1 + header[1]) / 256
        greedy = _C.DedupGreedy(documents)
        good = bool((edges < documents).all() and (edges[:, 1] < edges[:, 0]).all())
        if not (good and (np.diff(edges[:, 0].astype(int)) >= 0).all()):
            refused += 1
            with pytest.raises(ValueError, match="edges"):
                greedy.decide(edges, jaccard, threshold)
            assert greedy.kept().all()
            continue
        dropped: dict[int, tuple[float, int]] = {}
        for document in range(documents):
            resembles = [
                (float(value), -int(earlier))
                for (later, earlier), value in zip(edges, jaccard, strict=True)
                if later == document and earlier not in dropped and value >= threshold
            ]
            if resembles:
                dropped[document] = max(resembles)
        later, kept, values = greedy.decide(edges, jaccard, threshold)
        found = {int(d): (float(j), -int(k)) for d, k, j in zip(later, kept, values, strict=True)}
        assert found == dropped
        decided += len(dropped)
    assert refused
    assert decided


def test_matcher() -> None:
    for header, body in inputs("pairs", 8):
        count, bands, each = header[2] % 24, 1 + header[3] % 4, 1 + header[4] % 16
        lanes = 1 + header[5] % 64
        offsets = np.minimum(len(body), np.arange(count + 1) * each)
        keys = (around(body, np.arange(count * bands)) & 15).astype(np.uint64) << np.uint64(header[6] & 56)
        keys = keys.reshape(count, bands)
        prints = np.stack(
            [
                around(body, np.arange(count) * 5).astype(np.uint64) << np.uint64(header[6] & 7),
                np.full(count, header[7] & 1, np.uint64),
            ],
            1,
        )
        sketches = around(body, np.arange(count)[:, None] + np.arange(64)) & np.uint8(3)
        threshold = (1 + header[1]) / 256
        options = ("code", 1 + (header[7] >> 1) % 5, bands, threshold, 1 + (header[7] >> 4), lanes)
        answers = []
        for cuts in ([0, count], [0, count // 2, count]):
            matcher = _C.DedupMatcher(*options, header[5] // 4 % (lanes + 1))
            kept, jaccard = np.empty(count, np.int64), np.empty(count)
            for first, last in pairwise(cuts):
                part = slice(first, last)
                matcher.add(
                    *(body, offsets[first : last + 1], keys[part], sketches[part], prints[part]),
                    *(kept[part], jaccard[part]),
                )
            answers.append((kept, jaccard))
        assert same(*answers)
        for document, (keeper, value) in enumerate(zip(kept.tolist(), jaccard.tolist(), strict=True)):
            assert -1 <= keeper < document
            if keeper >= 0:
                assert kept[keeper] == -1
                assert threshold <= value <= 1
