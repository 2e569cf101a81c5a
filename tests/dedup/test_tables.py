"""find_duplicates and deduplicate on every kind of data that they take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers.dedup_search import by_definition, variants

from codeshell.dedup import deduplicate, find_duplicates

CERTAIN: dict[str, Any] = {"bands": 200, "rows": 1}
TEXTS = variants(30, 70, seed=12)
EXPECTED = by_definition(TEXTS, 0.7)
KEPT = [text for i, text in enumerate(TEXTS) if i not in EXPECTED]


def answer(table: pa.Table) -> dict[int, tuple[int, float]]:
    return {row["index"]: (row["kept_index"], row["jaccard"]) for row in table.to_pylist()}


def arrow_kinds() -> list[Any]:
    table = pa.table({"text": TEXTS, "n": range(len(TEXTS))})
    return [
        TEXTS,
        tuple(TEXTS),
        pa.array(TEXTS),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS).dictionary_encode(),
        pa.chunked_array([TEXTS[:10], TEXTS[10:10], TEXTS[10:]]),
        pa.concat_tables([table.slice(0, 33), table.slice(33)]),
    ]


@pytest.mark.parametrize("number", range(7))
def test_arrow_and_lists(number: int) -> None:
    data = arrow_kinds()[number]
    assert answer(find_duplicates(data, **CERTAIN)) == EXPECTED
    result = deduplicate(data, **CERTAIN)
    if isinstance(data, tuple):
        assert result == KEPT
    else:
        assert type(result) is type(data)
        texts = result["text"] if isinstance(result, pa.Table) else result
        assert (texts if isinstance(texts, list) else texts.to_pylist()) == KEPT


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: its frames are not tested")
    frame = pandas.DataFrame({"body": TEXTS, "n": range(len(TEXTS))}, index=range(100, 100 + len(TEXTS)))
    assert answer(find_duplicates(frame, column="body", **CERTAIN)) == EXPECTED
    assert answer(find_duplicates(frame["body"], **CERTAIN)) == EXPECTED
    kept = deduplicate(frame, column="body", **CERTAIN)
    assert kept["body"].tolist() == KEPT
    assert kept.index.tolist() == [100 + i for i in range(len(TEXTS)) if i not in EXPECTED]


def test_polars() -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed: its frames are not tested")
    frame = polars.DataFrame({"body": TEXTS, "n": range(len(TEXTS))})
    assert answer(find_duplicates(frame, column="body", **CERTAIN)) == EXPECTED
    assert answer(find_duplicates(frame["body"], **CERTAIN)) == EXPECTED
    assert deduplicate(frame, column="body", **CERTAIN)["body"].to_list() == KEPT
    assert deduplicate(frame["body"], **CERTAIN).to_list() == KEPT
    longest = sorted(range(len(TEXTS)), key=lambda i: -len(TEXTS[i]))
    found = find_duplicates(frame, column="body", keep_order="longest", **CERTAIN)
    assert answer(found) == by_definition(TEXTS, 0.7, longest)
    coded = frame.with_columns(polars.col("body").cast(polars.Categorical), name=polars.Series(TEXTS))
    assert answer(find_duplicates(coded, column="body", **CERTAIN)) == EXPECTED
    by_name = find_duplicates(coded, column="body", keep_order="column:name", **CERTAIN)
    assert answer(by_name) == by_definition(TEXTS, 0.7, sorted(range(len(TEXTS)), key=lambda i: TEXTS[i].encode()))
    with pytest.raises(ValueError, match="a LazyFrame is not in memory"):
        find_duplicates(frame.lazy(), column="body")


def test_string_views() -> None:
    """Arrow's own kernels do not filter or measure them."""
    array = pa.array(TEXTS, pa.string_view())
    table = pa.table({"text": array, "n": range(len(TEXTS))})
    assert answer(find_duplicates(table, **CERTAIN)) == EXPECTED
    assert deduplicate(array, **CERTAIN) == pa.array(KEPT, pa.string_view())
    left = deduplicate(table, **CERTAIN)
    assert left["text"].to_pylist() == KEPT and left.schema == table.schema


def test_hugging_face_datasets() -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: its data sets are not tested")
    data = datasets.Dataset.from_dict({"text": TEXTS[::-1], "n": list(range(len(TEXTS)))}).select(
        range(len(TEXTS) - 1, -1, -1)
    )
    assert answer(find_duplicates(data, **CERTAIN)) == EXPECTED
    assert deduplicate(data, **CERTAIN)["text"][:] == KEPT
    with pytest.raises(ValueError, match="a IterableDataset is not in memory"):
        find_duplicates(data.to_iterable_dataset())
    with pytest.raises(ValueError, match="a DatasetDict; give a sequence"):
        find_duplicates(datasets.DatasetDict({"train": data}))


def test_iterators_are_taken_once() -> None:
    assert answer(find_duplicates(iter(TEXTS), **CERTAIN)) == EXPECTED
    assert deduplicate(iter(TEXTS), **CERTAIN) == KEPT  # type: ignore[comparison-overlap]


def test_keep_orders() -> None:
    table = pa.table({"text": TEXTS, "stars": [i * 37 % 11 for i in range(len(TEXTS))]})
    longest = sorted(range(len(TEXTS)), key=lambda i: -len(TEXTS[i]))
    assert answer(find_duplicates(TEXTS, keep_order="longest", **CERTAIN)) == by_definition(TEXTS, 0.7, longest)
    stars = sorted(range(len(TEXTS)), key=lambda i: -(i * 37 % 11))
    found = find_duplicates(table, keep_order="column:stars:desc", **CERTAIN)
    assert answer(found) == by_definition(TEXTS, 0.7, stars)


def test_progress_and_threads() -> None:
    seen: list[int] = []
    assert answer(find_duplicates(TEXTS, threads=3, progress=seen.append, **CERTAIN)) == EXPECTED
    assert seen == [len(TEXTS)]


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ("one text", {}, "single str"),
        (["a", None], {}, "null"),
        ([1, 2], {}, "texts: not all are valid"),
        (pa.table({"a": ["x"]}), {}, "no 'text' in the data; it has a"),
        (["a"], {"threshold": 0}, "threshold: 0"),
        (["a"], {"bands": 0}, "bands: 0"),
        (["a"], {"threads": -1}, "threads: -1"),
        (["a"], {"keep_order": "column:stars"}, "no column 'stars'"),
        (["a"], {"shingles": "words"}, "shingles: 'words'"),
        (["a"], {"verify": "maybe"}, "verify: 'maybe'"),
        ({"text": ["a"]}, {}, "a dict; give a sequence"),
        ({"a", "b"}, {}, "a set; give a sequence"),
        (["a"], {"threshold": "high"}, "threshold: high is not in"),
        (["a"], {"bands": 2.5}, "bands: 2.5 is not a whole number"),
        (["a"], {"ngram": 1 << 31}, "ngram: 2147483648 is not below"),
        (["a"], {"seed": None}, "seed: None is not a whole number"),
        (["a"], {"threads": 1.5}, "threads: 1.5 is not a whole number"),
        (["a"], {"threads": 1_000_000}, "threads: 1000000 is not in 0..1024"),
        (["a"], {"keep_order": None}, "keep_order: None is none of"),
        (pa.table({"text": ["a"], "n": [[1]]}), {"keep_order": "column:n"}, "n' holds list.* has no order"),
        (pa.table({"text": ["x"], "n": [1]}), {"keep_order": "column:m"}, "keep_order: no column 'm' in .* text, n"),
        (pa.table([["x"], ["y"]], ["text", "text"]), {}, "column: more than one 'text' in the data"),
    ],
)
def test_bad_arguments(data: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_duplicates(data, **settings)


def test_other_columns_may_hold_anything() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: its frames are not tested")
    frame = pandas.DataFrame({"text": TEXTS, "any": [object() for _ in TEXTS], 5: range(len(TEXTS))})
    assert deduplicate(frame, **CERTAIN)["text"].tolist() == KEPT
    with pytest.raises(ValueError, match="cannot be taken by Arrow"):
        deduplicate(frame, keep_order="column:any")


def test_a_record_batch() -> None:
    batch = pa.record_batch({"text": TEXTS})
    assert deduplicate(batch, **CERTAIN).equals(pa.record_batch({"text": KEPT}))


def test_nothing() -> None:
    assert find_duplicates([]).num_rows == 0
    assert deduplicate([]) == []


def test_a_pandas_that_exports_no_arrow_data(monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    for kind in (pandas.DataFrame, pandas.Series):
        monkeypatch.delattr(kind, "__arrow_c_stream__", raising=False)
    frame = pandas.DataFrame({"text": TEXTS, "n": range(len(TEXTS))}, index=range(5, 5 + len(TEXTS)))
    for kind in ("object", "string", "category"):
        result = deduplicate(frame.assign(text=frame["text"].astype(kind)), **CERTAIN)
        assert list(result["text"]) == KEPT
        assert [int(n) + 5 for n in result["n"]] == list(result.index)
    assert list(deduplicate(frame["text"], **CERTAIN)) == KEPT
    late = deduplicate(frame, keep_order="column:n:desc", **CERTAIN)
    assert len(late) < len(frame) and late.iloc[-1]["text"] == TEXTS[-1]


def test_frames_of_odd_shapes() -> None:
    pandas = pytest.importorskip("pandas")
    a, b = TEXTS[0], TEXTS[1]
    # No rows: no text is wrong. A column's name may be a number. An index may hold anything, and is kept.
    assert len(deduplicate(pandas.DataFrame({"text": []}))) == 0
    assert len(deduplicate(pandas.DataFrame([[a], [a]]), column=0)) == 1
    odd = pandas.DataFrame({"text": [a, a, "z"]}, index=pandas.MultiIndex.from_tuples([(object(), 1)] * 3))
    assert list(deduplicate(odd)["text"]) == [a, "z"]
    assert deduplicate(np.array([a, a, "z"])) == [a, "z"]
    for frame, message in (
        (pandas.DataFrame({"text": [a, None]}), "1 of 2 are null"),
        (pandas.DataFrame({"text": [a, float("nan")]}), "1 of 2 are null"),
        (pandas.DataFrame({"text": [a, 1]}), "columns text cannot be taken"),
        (pandas.DataFrame({"text": [1, 2]}), "not a string type"),
        (pandas.DataFrame([[a, b]], columns=["text", "text"]), "more than one 'text'"),
        (pandas.DataFrame({"content": [a]}), "no 'text' in the data; it has content"),
    ):
        with pytest.raises(ValueError, match=message):
            deduplicate(frame)
