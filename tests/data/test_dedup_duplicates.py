"""find_duplicates and Deduper against brute force over all pairs, and where buckets are hostile."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from corpus_builder import stdlib_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dedup_minhash import shingle_sets

from codeshell.data.dedup import Decider, band_keys, text_buffers
from codeshell.data.dedup.duplicates import MAX_BUCKET
from codeshell.dedup import Deduper, find_duplicates, jaccard


def edited(text: str, share: float, seed: int) -> str:
    """The text with a share of its lines replaced."""
    choice = random.Random(seed)
    lines = text.split("\n")
    for at in choice.sample(range(len(lines)), int(share * len(lines))):
        lines[at] = f"changed{choice.random()} = other{choice.random()}({seed})"
    return "\n".join(lines)


def words(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Real files, and copies of some with 0 to 12 % of their lines edited, mixed in a fixed order."""
    texts = stdlib_texts(220, largest=30_000)
    copies = [edited(texts[i % 100], 0.01 * (i % 13), i) for i in range(200)]
    mixed = texts + copies
    random.Random(5).shuffle(mixed)
    return mixed


def brute_force(texts: list[str], ngram: int = 5) -> dict[tuple[int, int], float]:
    """The exact Jaccard of every pair (earlier, later) that shares a shingle."""
    sets = [set(shingles) for shingles in shingle_sets(texts, ngram)]
    pairs = {}
    for later, b in enumerate(sets):
        for earlier in range(later):
            shared = len(sets[earlier] & b)
            if shared:
                pairs[earlier, later] = shared / (len(sets[earlier]) + len(b) - shared)
    return pairs


def test_against_all_pairs(corpus: list[str]) -> None:
    exact = brute_force(corpus)
    found = find_duplicates(corpus, threshold=0.7).to_pylist()
    dropped = {row["index"] for row in found}
    for row in found:  # precision: every answer is a true pair with a document that stays
        assert row["kept_index"] not in dropped
        assert row["jaccard"] == exact[row["kept_index"], row["index"]] >= 0.7
        assert row["jaccard"] == jaccard(corpus[row["kept_index"]], corpus[row["index"]])
    # Recall. At J >= .8 a pair is missed with probability .002 at most: of some 200 expected drops, 0 or 1.
    missed = [
        later
        for later in range(len(corpus))
        if later not in dropped
        and any(exact.get((earlier, later), 0) >= 0.8 for earlier in range(later) if earlier not in dropped)
    ]
    assert len(dropped) > 100
    assert len(missed) <= 1
    # The best of the kept ones is named (again up to a missed pair).
    better = [
        row
        for row in found
        for earlier in range(row["index"])
        if earlier not in dropped and exact.get((earlier, row["index"]), 0) > row["jaccard"]
    ]
    assert len(better) <= 1


def test_batches_threads_and_forms_change_nothing(corpus: list[str]) -> None:
    expected = find_duplicates(corpus, threads=1)
    assert expected.num_rows > 100
    assert find_duplicates(pa.table({"code": corpus}), column="code", threads=3).equals(expected)
    array = pa.array(corpus, pa.large_string())
    assert find_duplicates(pa.chunked_array([array[:7], array[7:7], array[7:200], array[200:]])).equals(expected)
    for size in (1, 37, 1000):
        deduper = Deduper()
        for at in range(0, len(corpus), size):
            ids = [f"d{i}" for i in range(at, min(at + size, len(corpus)))]
            deduper.add(ids, corpus[at : at + size])
        rows = deduper.duplicates().to_pylist()
        assert [(int(row["id"][1:]), int(row["kept_id"][1:]), row["jaccard"]) for row in rows] == [
            tuple(row.values()) for row in expected.to_pylist()
        ]


def test_a_chain_does_not_wipe_out_a_cluster() -> None:
    """A ~ B ~ C, A not ~ C: B goes (it resembles A), C stays (it resembles only B, which is gone)."""
    texts = [" ".join(words("w", 100)[first : first + 80]) for first in (0, 8, 16)]
    assert jaccard(texts[0], texts[1]) >= 0.7 > jaccard(texts[0], texts[2])
    found = find_duplicates(texts, threshold=0.7, bands=64, rows=2).to_pylist()
    assert [(row["index"], row["kept_index"]) for row in found] == [(1, 0)]


def test_the_best_kept_document_is_named_and_the_earliest_of_equals() -> None:
    base = words("w", 100)
    texts = [" ".join(part) for part in (base[:80], base[20:], base[18:98], base[2:82])]
    found = find_duplicates(texts, threshold=0.6, bands=64, rows=2).to_pylist()
    assert [(row["index"], row["kept_index"]) for row in found] == [(2, 1), (3, 0)]
    # b is as near to a as to c: the earlier one
    texts = [" ".join(base[first : first + 80]) for first in (0, 20, 10)]
    found = find_duplicates(texts, threshold=0.7, bands=64, rows=2).to_pylist()
    assert [(row["index"], row["kept_index"]) for row in found] == [(2, 0)]


def test_short_and_empty_texts() -> None:
    texts = ["", "a b", "+++", "a b c", "a, b", "", "---", "+++", "a", "b", "a b c d e", "a b c d"]
    found = [tuple(row.values()) for row in find_duplicates(texts, threshold=0.1).to_pylist()]
    assert found == [(4, 1, 1.0), (5, 0, 1.0), (7, 2, 1.0)]


def test_chinese_japanese_and_korean() -> None:
    text = (
        "编译器把源代码翻译成机器代码然后链接器把目标文件合并成可执行文件" * 2
        + "変数を宣言してから使う함수는값을돌려준다"
    )
    near = text.replace("翻译", "转换", 1)
    assert 0.7 <= jaccard(text, near) < 1
    found = find_duplicates([text, "完全不同的一段文字没有任何相同之处", near], threshold=0.7).to_pylist()
    assert [(row["index"], row["kept_index"]) for row in found] == [(2, 0)]


def test_ten_thousand_identical_documents() -> None:
    text = " ".join(words("token", 300))
    deduper = Deduper()
    deduper.add(list(range(10_000)), [text] * 10_000)
    assert deduper.duplicates()["kept_id"].unique().to_pylist() == [0]
    assert deduper.duplicates().num_rows == 9_999
    assert deduper.counts["candidate_pairs"] == 9_999


def test_ten_thousand_documents_with_one_header() -> None:
    """Half of every document is the same licence: thousands share band keys, and none is a near duplicate."""
    header = " ".join(words("licence", 150))
    texts = [f"{header} {' '.join(words(f'd{i}x', 75))}" for i in range(10_000)]
    texts[7_000] = texts[6_999] + " and one more line"
    deduper = Deduper()
    deduper.add(list(range(10_000)), texts)
    assert deduper.duplicates().select(["id", "kept_id"]).to_pylist() == [{"id": 7_000, "kept_id": 6_999}]
    counts = deduper.counts
    assert counts["capped_keys"] > 0
    assert counts["candidate_pairs"] < 10_000 * 10_000 / 20  # all pairs would be 5e7


def test_a_full_key_bounds_the_comparisons() -> None:
    count = 3 * MAX_BUCKET
    (piece,) = text_buffers([f"a{i} b c d e f g" for i in range(count)])
    keys = band_keys(piece, bands=1, rows=1, ngram=1, seed=0)
    decider = Decider(ngram=1, bands=1, threshold=1.0)
    keys[:] = 7  # every text in one bucket
    match, _ = decider.add(piece, keys)
    assert (match == -1).all()
    assert decider.counts == {
        "candidate_pairs": MAX_BUCKET * (MAX_BUCKET - 1) // 2 + (count - MAX_BUCKET) * MAX_BUCKET,
        "verified_pairs": 0,
        "capped_keys": 1,
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab \n", max_size=14), max_size=25), st.floats(0.05, 1.0), st.integers(1, 3))
def test_one_row_bands_find_what_brute_force_finds(texts: list[str], threshold: float, ngram: int) -> None:
    """With 200 bands of one row, every pair of J >= .05 is a candidate but for one chance in 30,000 at the worst."""
    threshold = max(threshold, 0.2)
    kept: list[int] = []
    expected = []
    sets = [set(shingles) for shingles in shingle_sets(texts, ngram)]
    for later, b in enumerate(sets):
        best, at = 0.0, -1
        for earlier in kept:
            a = sets[earlier]
            value = len(a & b) / len(a | b) if a | b else float(texts[earlier] == texts[later])
            if value >= threshold and value > best:
                best, at = value, earlier
        if at < 0:
            kept.append(later)
        else:
            expected.append((later, at, best))
    found = find_duplicates(texts, threshold=threshold, bands=200, rows=1, ngram=ngram, threads=1)
    assert [tuple(row.values()) for row in found.to_pylist()] == expected


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_impossible_thresholds(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        find_duplicates(["a"], threshold=threshold)


def test_bad_calls() -> None:
    with pytest.raises(ValueError, match="no 'text' in the table; it has body"):
        find_duplicates(pa.table({"body": ["a"]}))
    deduper = Deduper()
    with pytest.raises(ValueError, match="2 ids for 1 texts"):
        deduper.add(["a", "b"], ["x"])
    with pytest.raises(ValueError, match="null"):
        deduper.add(["a", "b"], pa.array(["x", None]))
    deduper.add(["a"], ["one two three four five six"])  # what failed has left nothing behind
    with pytest.raises(ValueError, match="type int64"):
        deduper.add([1], ["x"])
    deduper.add(["b"], ["one two three four five six"])
    assert deduper.duplicates().to_pylist() == [{"id": "b", "kept_id": "a", "jaccard": 1.0}]
    assert find_duplicates([]).num_rows == 0
