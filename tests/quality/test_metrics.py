"""The measures against definitions by pairs, and against pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.quality import metrics
from codeshell.randomness import uniform

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=2, max_size=40)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_spearman_is_that_of_pandas(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    expected = pd.Series(a).rank().corr(pd.Series(b).rank())
    assert metrics.spearman(a, b) == pytest.approx(expected, nan_ok=True, abs=1e-12)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_auc_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    good = b >= 3
    wins = [(x > y) + (x == y) / 2 for x in a[good] for y in a[~good]]
    expected = float(np.mean(wins)) if wins else float("nan")
    assert metrics.auc(a, good) == pytest.approx(expected, nan_ok=True)


def test_macro_f1_by_hand() -> None:
    judged = np.array([1.0, 1, 2, 2, 3])
    predicted = np.array([1.4, 1.6, 2.0, 2.49, 0.0])
    # Class 1: one of two found, none wrong: 2/3. Class 2: both found, one wrong: 4/5. Class 3: 0.
    assert metrics.macro_f1(predicted, judged) == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert metrics.classes(np.array([-1.0, 0.5, 2.5, 9.0])).tolist() == [0, 1, 3, 5]


def test_intervals_hold_the_value_and_know_about_groups() -> None:
    judged = np.repeat(uniform(1, 0, 20), 10) * 5
    predicted = judged + uniform(2, 0, 200) * 4
    groups = [f"g{i // 10}" for i in range(200)]
    low, high = metrics.intervals(predicted, judged, groups)["spearman"]
    assert low < metrics.spearman(predicted, judged) < high
    # As 200 groups of one the same files say more than as 20 groups.
    narrow = metrics.intervals(predicted, judged, [str(i) for i in range(200)])["spearman"]
    assert narrow[1] - narrow[0] < high - low
    assert metrics.intervals(predicted, judged, groups)["spearman"] == (low, high)


def test_within_ignores_what_lies_between_languages() -> None:
    inside = uniform(3, 0, 50)
    predicted = np.concatenate([inside, inside + 100])
    judged = np.concatenate([inside + 100, inside])
    languages = ["a"] * 50 + ["b"] * 50
    assert metrics.spearman(predicted, judged) < 0
    assert metrics.within(predicted, judged, languages) == pytest.approx(1.0)


def test_the_calibration_table_has_every_document_once() -> None:
    predicted, judged = uniform(1, 0, 103) * 5, np.floor(uniform(2, 0, 103) * 6)
    table = metrics.calibration_table(predicted, judged)
    assert sum(part["documents"] for part in table) == 103
    assert [part["predicted"] for part in table] == sorted(part["predicted"] for part in table)
    assert np.average([p["judged"] for p in table], weights=[p["documents"] for p in table]) == pytest.approx(
        judged.mean()
    )
