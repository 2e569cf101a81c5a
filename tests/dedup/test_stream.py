"""find_duplicates and Deduper against brute force over all pairs, and where buckets are hostile."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from helpers.corpus_builder import edited, stdlib_texts
from helpers.interrupted import interrupted
from helpers.shingle_definitions import shingle_sets
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.dedup import Deduper, find_duplicates, jaccard
from codeshell.dedup.minhash import sign
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.stream import MAX_BUCKET
from codeshell.documents import texts
from codeshell.documents.texts import text_buffers


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
    # Recall. At J >= 0.8 a pair is missed with probability 0.002 at most: of about 200 expected drops, 0 or 1.
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
    assert deduper.counts == {"candidate_pairs": 0, "verified_pairs": 0, "capped_keys": 0}


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
    _, sketches, fingerprints, _ = sign(piece, Parameters(bands=1, rows=1, ngram=1))
    keys = np.full((count, 1), 7, np.uint64)  # every text in one bucket
    for least, compared in ((0, MAX_BUCKET * (MAX_BUCKET - 1) // 2 + (count - MAX_BUCKET) * MAX_BUCKET), (1, None)):
        matcher = _C.DedupMatcher("code", 1, 1, 1.0, MAX_BUCKET, 1, least)
        kept, jaccard = np.empty(count, np.int64), np.empty(count)
        matcher.add(*piece, keys, sketches, fingerprints, kept, jaccard)
        assert (kept == -1).all() and (jaccard == 0).all()
        if compared is None:  # of pairs in the bucket, those whose one byte is equal
            first = sketches[:MAX_BUCKET, 0]
            compared = sum(int((first[: min(i, MAX_BUCKET)] == sketches[i, 0]).sum()) for i in range(count))
            assert compared < count * MAX_BUCKET
        assert matcher.counts() == {"candidate_pairs": compared, "verified_pairs": 0, "capped_keys": 1}


def batch(texts: list[str], parameters: Parameters) -> tuple[list[tuple[int, int, float]], int]:
    """The definition for a whole corpus at once, with plain loops: (dropped, kept, Jaccard), and pairs compared."""
    (piece,) = text_buffers(texts)
    keys, sketches, fingerprints, _ = (one.tolist() for one in sign(piece, parameters))
    sets = [set(shingles) for shingles in shingle_sets(texts, parameters.ngram)]
    representative: dict[tuple[int, ...], int] = {}
    same = [representative.setdefault(tuple(one), i) for i, one in enumerate(fingerprints)]
    dropped: dict[int, tuple[int, float]] = {}
    compared = 0
    for later in sorted(representative.values()):
        best, at = 0.0, -1
        for earlier in sorted(representative.values()):
            if earlier >= later or earlier in dropped:
                continue
            if not any(a == b != 0 for a, b in zip(keys[later], keys[earlier], strict=True)):
                continue
            equal = sum(a == b for a, b in zip(sketches[later], sketches[earlier], strict=True))
            if equal - (parameters.width - parameters.lanes) < parameters.least:
                continue
            compared += 1
            value = len(sets[later] & sets[earlier]) / len(sets[later] | sets[earlier])
            if value >= parameters.threshold and value > best:
                best, at = value, earlier
        if at >= 0:
            dropped[later] = (at, best)
    found = []
    for i, first in enumerate(same):
        if first in dropped:
            found.append((i, *dropped[first]))
        elif i != first:
            found.append((i, first, 1.0))
    return found, compared


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_the_stream_decides_as_the_batch_does(corpus: list[str], threshold: float) -> None:
    texts = [*corpus[:250], *corpus[:250:3], "", " ", "", "x", "x;"]
    expected, compared = batch(texts, Parameters(threshold=threshold))
    deduper = Deduper(threshold=threshold, threads=3)
    deduper.add(range(len(texts)), texts)
    assert [tuple(row.values()) for row in deduper.duplicates().to_pylist()] == expected
    assert len(expected) > 85
    assert deduper.counts["candidate_pairs"] == compared


def test_copies_of_a_dropped_text_get_its_answer() -> None:
    base = words("w", 100)
    near = [*base[:98], "other", "words"]
    texts = [" ".join(base), " ".join(near), ", ".join(near), "\n".join(base)]
    deduper = Deduper()
    for size in (1, 4):
        deduper = Deduper()
        for at in range(0, 4, size):
            deduper.add(range(at, at + size), texts[at : at + size])
        value = jaccard(texts[0], texts[1])
        assert deduper.duplicates().to_pydict() == {
            "id": [1, 2, 3],
            "kept_id": [0, 0, 0],
            "jaccard": [value, value, 1.0],
        }
        assert deduper.counts["candidate_pairs"] == 1


@pytest.mark.parametrize("shingles", ["starcoder", "stack-v2", "datatrove", "char-24"])
def test_shingles_of_peers(corpus: list[str], shingles: str) -> None:
    texts = corpus[:80]
    for row in find_duplicates(texts, shingles=shingles, threshold=0.6).to_pylist():
        assert row["jaccard"] == jaccard(texts[row["index"]], texts[row["kept_index"]], shingles=shingles) >= 0.6
    assert find_duplicates([texts[0], texts[0] + " more", texts[1]], shingles=shingles).num_rows == 1


def test_progress_and_an_interrupt(corpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between two pieces of a batch: what was decided until then is in, with its ids, and one can continue."""
    monkeypatch.setattr(texts, "PIECE_BYTES", 100_000)
    seen: list[int] = []
    expected = find_duplicates(corpus, progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == len(corpus) and len(seen) > 5

    def interrupt(done: int) -> None:
        if done == seen[2]:
            # What Python's handler does.
            raise KeyboardInterrupt

    deduper = Deduper(progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        deduper.add(range(len(corpus)), corpus)
    assert deduper.duplicates()["id"].to_pylist() == [i for i in expected["index"].to_pylist() if i < seen[2]]
    deduper.add(range(seen[2], len(corpus)), corpus[seen[2] :])
    assert deduper.duplicates().rename_columns(expected.column_names).equals(expected)


MATCHER = """
import numpy as np
from codeshell import _C
from codeshell.dedup.minhash import sign
from codeshell.dedup.parameters import Parameters
from codeshell.documents.texts import text_buffers

# Every text in one bucket that takes them all: work for minutes.
count = 200_000
(piece,) = text_buffers([f"a{i} b" for i in range(count)])
_, sketches, fingerprints, _ = sign(piece, Parameters(bands=1, rows=1, ngram=1))
matcher = _C.DedupMatcher("code", 1, 1, 1.0, count, 1, 0)
kept, values = np.empty(count, np.int64), np.empty(count)
keys = np.full((count, 1), 7, np.uint64)
try:
    print("begun", flush=True)
    matcher.add(*piece, keys, sketches, fingerprints, kept, values, threads=2)
    print("ended")
except KeyboardInterrupt:
    print(matcher.documents < count, (kept[: matcher.documents] == -1).all())
"""


def test_ctrl_c_ends_the_matcher() -> None:
    """It has decided some of the texts then, as it would have without."""
    assert interrupted(MATCHER) == "True True\n"


def test_the_matcher_refuses_arrays_of_other_shapes() -> None:
    (piece,) = text_buffers(["a b c d e f", "b c d e f g"])
    keys, sketches, fingerprints, _ = sign(piece, Parameters())
    kept, values = np.empty(2, np.int64), np.empty(2)
    arrays = {"keys": keys, "sketches": sketches, "fingerprints": fingerprints, "kept": kept, "jaccard": values}
    matcher = _C.DedupMatcher("code", 5, 21, 0.7, 256, 126, 60)
    for name, array in arrays.items():
        with pytest.raises(ValueError, match=name):
            matcher.add(*piece, **{**arrays, name: array[:1]})
    with pytest.raises(ValueError, match="candidate"):
        matcher.add(*piece, **arrays, candidate=np.ones(3, np.bool_))
    with pytest.raises(ValueError, match="threads"):
        matcher.add(*piece, **arrays, threads=0)
    with pytest.raises(TypeError):  # results would go into a copy
        matcher.add(*piece, **{**arrays, "kept": kept.astype(np.int32)})
    assert matcher.documents == 0
    matcher.add(*piece, **arrays, candidate=np.zeros(2, np.bool_))
    assert matcher.documents == 2 and kept.tolist() == [-1, -1]
    for at, bad, name in ((0, "codes", "preset"), (1, 0, "ngram"), (3, 0.0, "threshold"), (4, 0, "max_bucket")):
        arguments = ["code", 5, 21, 0.7, 256, 126, 60]
        arguments[at] = bad
        with pytest.raises(ValueError, match=name):
            _C.DedupMatcher(*arguments)
    with pytest.raises(ValueError, match="least"):
        _C.DedupMatcher("code", 5, 21, 0.7, 256, 126, 127)


def binomial_below(e: int, n: int, p: Fraction) -> Fraction:
    return sum((math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(e)), Fraction(0))


@pytest.mark.parametrize(("threshold", "bands", "rows"), [(0.7, 21, 6), (0.5, 21, 6), (0.85, 9, 13), (0.3, 50, 5)])
def test_the_cut_of_sketches_is_the_exact_binomial_tail(threshold: float, bands: int, rows: int) -> None:
    parameters = Parameters(threshold=threshold, bands=bands, rows=rows)
    p = Fraction(threshold) + (1 - Fraction(threshold)) / 256
    assert binomial_below(parameters.least, parameters.lanes, p) <= Fraction(3e-5)
    assert binomial_below(parameters.least + 1, parameters.lanes, p) > Fraction(3e-5)
    deviation = (parameters.sure - parameters.lanes * p) / math.sqrt(parameters.lanes * p * (1 - p))
    assert 2 <= deviation < 2.3


def test_parameters() -> None:
    assert (Parameters().ngram, Parameters(shingles="char-24").ngram, Parameters(ngram=3).ngram) == (5, 24, 3)
    assert (Parameters().lanes, Parameters().width, Parameters(bands=32, rows=4).width) == (126, 128, 128)
    assert (Parameters(threshold=1.0).least, Parameters(threshold=1.0).sure) == (126, 126)
    for order, column, descending in [
        ("first", None, False),
        ("longest", None, False),
        ("column:stars", "stars", False),
        ("column:a:b:desc", "a:b", True),
    ]:
        parameters = Parameters(keep_order=order)
        parameters.check()
        assert (parameters.order_column, parameters.order_descending) == (column, descending)
    for name, value in [
        ("threshold", 0.0),
        ("bands", 0),
        ("rows", 0),
        ("ngram", 0),
        ("seed", -1),
        ("shingles", "words"),
        ("method", "lsh"),
        ("verify", "yes"),
        ("keep_order", "column:"),
        ("keep_order", "column::desc"),
        ("keep_order", "shortest"),
        ("cluster", "all"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}"):
            Parameters(**{name: value}).check()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab \n", max_size=14), max_size=25), st.floats(0.05, 1.0), st.integers(1, 3))
@example(["aaa a ab b", "a b", "aa a b", "a b"], 0.5, 1)
@example(["aaa a ab b", "a b", "aa a b", "a a b"], 0.5, 1)
def test_one_row_bands_find_what_brute_force_finds(texts: list[str], threshold: float, ngram: int) -> None:
    """With 200 bands of one row, every pair of J >= 0.05 is a candidate, except by a chance of 1 in 30,000."""
    threshold = max(threshold, 0.2)
    kept: list[int] = []
    answers: dict[object, tuple[int, float]] = {}
    expected = []
    sets = [set(shingles) for shingles in shingle_sets(texts, ngram)]
    for later, b in enumerate(sets):
        # Documents of the same shingles, counted with repetitions, are one: dropped for what the first was dropped for.
        tokens = texts[later].split()
        grams = [tuple(tokens[i : i + ngram]) for i in range(max(1, len(tokens) - ngram + 1))]
        same = tuple(sorted(grams)) if tokens else texts[later]
        if same in answers:
            expected.append((later, *answers[same]))
            continue
        best, at = 0.0, -1
        for earlier in kept:
            a = sets[earlier]
            value = len(a & b) / len(a | b) if a | b else float(texts[earlier] == texts[later])
            if value >= threshold and value > best:
                best, at = value, earlier
        if at < 0:
            kept.append(later)
        else:
            answers[same] = at, best
            expected.append((later, at, best))
    found = find_duplicates(texts, threshold=threshold, bands=200, rows=1, ngram=ngram, threads=1)
    assert [tuple(row.values()) for row in found.to_pylist()] == expected


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_impossible_thresholds(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        find_duplicates(["a"], threshold=threshold)


def test_bad_calls() -> None:
    with pytest.raises(ValueError, match="no 'text' in the data; it has body"):
        find_duplicates(pa.table({"body": ["a"]}))
    deduper = Deduper()
    with pytest.raises(ValueError, match="2 ids for 1 texts"):
        deduper.add(["a", "b"], ["x"])
    with pytest.raises(ValueError, match="null"):
        deduper.add(["a", "b"], pa.array(["x", None]))
    for ids in (None, 5, ["a", 1]):
        with pytest.raises(ValueError, match="ids: not all of one type"):
            deduper.add(ids, ["x", "y"])  # type: ignore[arg-type]
    deduper.add([], [])  # of no type yet
    deduper.add(["a"], ["one two three four five six"])  # what failed has left nothing
    with pytest.raises(ValueError, match="type int64"):
        deduper.add([1], ["x"])
    deduper.add(["b"], ["one two three four five six"])
    assert deduper.duplicates().to_pylist() == [{"id": "b", "kept_id": "a", "jaccard": 1.0}]
    assert find_duplicates([]).num_rows == 0
