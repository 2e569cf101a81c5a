"""The sample: equal shares by language and quantile, nested, and independent of the order of the documents."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.documents.inputs import InputOptions
from codeshell.documents.shards import document_id
from codeshell.errors import UserError
from codeshell.quality import sample
from codeshell.quality.sample import QUANTILES, documents, quantiles, share, stratified


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 2**64 - 1)), max_size=8), st.integers(0, 300))
def test_shares_are_equal_exact_and_grow_with_the_count(groups: list[tuple[int, int]], count: int) -> None:
    sizes, keys = [size for size, _ in groups], [key for _, key in groups]
    quotas = share(sizes, count, keys)
    assert sum(quotas) == min(count, sum(sizes))
    assert all(0 <= quota <= size for quota, size in zip(quotas, sizes, strict=True))
    # A group that could give more gives at most one less than any other.
    for quota, size in zip(quotas, sizes, strict=True):
        assert quota == size or quota >= max(quotas) - 1
    assert all(a <= b for a, b in zip(quotas, share(sizes, count + 1, keys), strict=True))


def test_quantiles_are_those_of_numpy() -> None:
    values = np.array([5.0, 1, 2, 2, math.nan, 9, 7, 3, 4])
    known = values[~np.isnan(values)]
    edges = np.quantile(known, [0.25, 0.5, 0.75], method="inverted_cdf")
    strata = quantiles(values)
    assert strata[4] == QUANTILES
    # Equal values are never parted, and the strata rise with the values.
    assert strata[2] == strata[3]
    order = np.argsort(known, kind="stable")
    assert (np.diff(strata[~np.isnan(values)][order]) >= 0).all()
    assert set(strata[values < edges[0]]) == {0}


items = st.lists(
    st.tuples(
        st.integers(0, 60).map(str), st.sampled_from(["c", "go", "rust"]), st.sampled_from([1.0, 2.0, math.nan, 7.0])
    ),
    max_size=60,
    unique_by=lambda item: item[0],
)


@settings(deadline=None)
@given(items, st.integers(0, 70), st.randoms(use_true_random=False))
def test_a_sample_is_nested_and_has_no_order(found: list[tuple[str, str, float]], count: int, random: object) -> None:
    chosen = stratified(found, count, 7)
    assert len(chosen) == min(count, len(found)) and chosen <= {identity for identity, _, _ in found}
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stratified(shuffled, count, 7) == chosen
    assert chosen <= stratified(found, count + 5, 7)


def test_languages_and_quantiles_have_equal_shares() -> None:
    found = [(f"{language}{n}", language, float(n)) for language, size in (("a", 900), ("b", 100)) for n in range(size)]
    chosen = stratified(found, 80, 0)
    assert Counter(identity[0] for identity in chosen) == {"a": 40, "b": 40}
    quarter = Counter(int(identity[1:]) * 4 // 900 for identity in chosen if identity[0] == "a")
    assert quarter == {0: 10, 1: 10, 2: 10, 3: 10}
    assert stratified(found, 80, 1) != chosen


def test_documents_of_folders_and_rows(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "a.py").write_text("import os\n")
    (folder / "blank.py").write_text(" \n\n")
    rows = [
        {"text": "fn main() {}\n", "path": "m.rs", "quality": 3.5, "key": "one"},
        {"text": "package a\n", "language": "go", "quality": None, "key": "two"},
        {"text": None, "quality": 1.0, "key": "three"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    left_out: Counter[str] = Counter()
    found = list(documents([str(folder)], InputOptions(), None, left_out))
    assert [(one.id, one.language, one.path, one.by) for one in found] == [
        (document_id(b"import os\n"), "python", "a.py", 10.0)
    ]
    assert left_out == {"blank": 1}
    left_out.clear()
    found = list(documents([str(tmp_path / "rows.jsonl")], InputOptions(id_column="key"), "quality", left_out))
    assert [(one.id, one.language) for one in found] == [("one", "rust"), ("two", "go")]
    assert found[0].by == 3.5 and math.isnan(found[1].by) and left_out == {"no_text": 1}


def test_a_column_of_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x = 1"], "grade": ["good"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="--by grade: holds text"):
        list(sample.documents([str(tmp_path / "a.parquet")], InputOptions(), "grade", Counter()))
