"""Boosted trees against a walk in Python and against an exhaustive search of the splits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codeshell.boosting.trees import UNIT, Ensemble, Growth, cuts, grow, joined
from codeshell.randomness import uniform


def data(
    rows: int, columns: int, key: int = 1, missing: float = 0.1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns with ties and missing values, and two targets that depend on some of them."""
    x = uniform(key, 0, rows * columns).reshape(rows, columns)
    x[:, 1] = np.floor(x[:, 1] * 4)
    noise = uniform(key + 1, 0, rows)
    y = np.stack([3 * (x[:, 0] > 0.4) + x[:, 1] + noise, x[:, 2] - x[:, 1]], axis=1)
    gaps = uniform(key + 2, 0, rows * columns).reshape(rows, columns) < missing
    return np.where(gaps, np.nan, x), y


def walk(e: Ensemble, row: NDArray[np.float64]) -> list[float]:
    """What an ensemble predicts, one comparison at a time, in Python's integers."""
    sums = [int(value) for value in e.start]
    for root in e.roots.tolist():
        at = root
        while e.feature[at] >= 0:
            value = row[e.feature[at]]
            left = bool(e.missing_left[at]) if np.isnan(value) else value <= e.threshold[at]
            at = int(e.left[at] if left else e.right[at])
        sums = [a + int(b) for a, b in zip(sums, e.values[e.left[at]], strict=True)]
    return [value * UNIT for value in sums]


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 100])
def test_prediction_is_the_walk(rows: int) -> None:
    x, y = data(400, 5)
    e = grow(x, y, Growth(trees=20, leaves=7))
    probe, _ = data(rows, 5, key=9, missing=0.4)
    probe[0, 0] = np.inf
    found = e.evaluator().predict(probe)
    assert found.tolist() == [walk(e, row) for row in probe]


def test_a_value_at_the_threshold_goes_left() -> None:
    e = grow(np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[0.0], [0], [4], [4]]), Growth(1, 2, 1.0, 1, 0, 1, 1))
    threshold = e.threshold[e.feature == 0].item()
    assert threshold == 0.5
    found = e.evaluator().predict(np.array([[threshold], [np.nextafter(threshold, 1)], [-np.inf], [np.inf]]))
    assert found[:, 0].tolist() == [0.0, 4.0, 0.0, 4.0]


def best_split(x: NDArray[np.float64], y: NDArray[np.float64], least: int) -> tuple[float, int, float]:
    """The split that takes away most squared error, by trying all: (gain, column, threshold)."""

    def error(values: NDArray[np.float64]) -> float:
        return float(((values - values.mean()) ** 2).sum())

    best = (0.0, -1, 0.0)
    for column in range(x.shape[1]):
        values = np.unique(x[:, column])
        for threshold in (values[:-1] + values[1:]) / 2:
            left = x[:, column] <= threshold
            if min(left.sum(), (~left).sum()) < least:
                continue
            gain = error(y) - error(y[left]) - error(y[~left])
            if gain > best[0] + 1e-9:
                best = (gain, column, float(threshold))
    return best


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_the_first_split_is_the_best_of_all(key: int, least: int) -> None:
    x = np.floor(uniform(key, 0, 120).reshape(40, 3) * 12)
    y = x[:, 1] + 3 * (x[:, 2] > 6) + uniform(key + 1, 0, 40)
    e = grow(x, y[:, None], Growth(1, 2, 1.0, least, 0, 1, 1))
    gain, column, threshold = best_split(x, y, least)
    assert (e.feature[0], e.threshold[0]) == (column, threshold)
    assert e.gain[column] == pytest.approx(gain)
    # Leaves are the means of their documents.
    left = x[:, column] <= threshold
    expected = np.where(left, y[left].mean(), y[~left].mean())
    np.testing.assert_allclose(e.evaluator().predict(x)[:, 0], expected, atol=2 * UNIT)


def test_missing_values_go_where_the_error_is_smaller() -> None:
    x = np.array([[0.0]] * 10 + [[1.0]] * 10 + [[np.nan]] * 10)
    for level in (0.0, 5.0):
        y = np.array([[0.0]] * 10 + [[5.0]] * 10 + [[level]] * 10)
        e = grow(x, y, Growth(1, 2, 1.0, 1, 0, 1, 1))
        assert e.evaluator().predict(np.array([[np.nan]]))[0, 0] == pytest.approx(level, abs=1e-6)


def test_missing_itself_can_be_the_split() -> None:
    x = np.array([[0.0], [1.0]] * 10 + [[np.nan]] * 20)
    y = np.array([[1.0]] * 20 + [[3.0]] * 20)
    found = grow(x, y, Growth(1, 2, 1.0, 1, 0, 1, 1)).evaluator().predict(np.array([[np.nan], [7.0]]))
    np.testing.assert_allclose(found[:, 0], [3, 1], atol=1e-6)


def test_more_trees_take_the_error_away() -> None:
    x, y = data(500, 5)
    errors = [
        float(((grow(x, y, Growth(trees=trees, rate=0.2)).evaluator().predict(x) - y) ** 2).mean())
        for trees in (0, 1, 5, 40)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * errors[0]
    assert errors[0] == pytest.approx(y.var(0).mean(), rel=1e-6)


def test_threads_change_nothing() -> None:
    x, y = data(30_000, 12)
    one, two = (grow(x, y, Growth(trees=3, column_share=1.0), threads=threads) for threads in (1, 2))
    for name, array in one.arrays().items():
        assert (array == two.arrays()[name]).all(), name


def test_a_seed_changes_the_draws_and_nothing_else_does() -> None:
    x, y = data(300, 5)
    first, again, other = (grow(x, y, Growth(trees=5, seed=seed)) for seed in (1, 1, 2))
    assert (first.values == again.values).all()
    assert first.values.shape != other.values.shape or (first.values != other.values).any()


@given(st.integers(0, 1000), st.sampled_from([1, -1]))
@settings(max_examples=15, deadline=None)
def test_a_monotone_column_never_turns(key: int, sign: int) -> None:
    x, y = data(200, 3, key)
    wave = np.nan_to_num(np.sin(9 * x[:, 0])) + y[:, 0]
    growth = Growth(trees=30, leaves=8, least_weight=2, column_share=1, rate=0.3)
    e = grow(x, wave[:, None], growth, monotone={0: sign})
    grid = np.repeat(x[:5], 50, axis=0)
    grid[:, 0] = np.tile(np.linspace(-0.1, 1.1, 50), 5)
    steps = np.diff(e.evaluator().predict(grid)[:, 0].reshape(5, 50), axis=1)
    assert (sign * steps >= 0).all()
    free = grow(x, wave[:, None], growth).evaluator().predict(grid)[:, 0].reshape(5, 50)
    assert (sign * np.diff(free, axis=1) < 0).any()


def test_weights_count_like_copies() -> None:
    x, y = data(100, 4, missing=0)
    weights = np.where(np.arange(100) % 3 == 0, 2.0, 1.0)
    rows = np.repeat(np.arange(100), weights.astype(int))
    growth = Growth(trees=3, leaves=4, least_weight=5, column_share=1, row_share=1, bins=255)
    a = grow(x, y, growth, weights=weights).evaluator().predict(x)
    b = grow(x[rows], y[rows], growth).evaluator().predict(x)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_groups_are_drawn_together() -> None:
    x, y = data(60, 4, missing=0)
    groups = np.arange(60) // 20
    # One tree of one leaf predicts the rounded mean residual of the documents drawn: of whole groups.
    e = grow(x, y, Growth(1, 1, 1.0, 1, 0, 1, 0.5, seed=4), groups=groups)
    residual = y[:, 0] - e.start[0] * UNIT
    means = [residual[np.isin(groups, chosen)].mean() for chosen in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2])]
    assert len(e.values) == 0 or min(abs(e.values[0, 0] * UNIT - mean) for mean in means) < 1e-6


def test_joined_is_the_mean() -> None:
    x, y = data(300, 5)
    parts = [grow(x, y, Growth(trees=10, seed=seed)) for seed in range(3)]
    expected = np.mean([part.evaluator().predict(x) for part in parts], axis=0)
    np.testing.assert_allclose(joined(parts).evaluator().predict(x), expected, atol=40 * UNIT)


@given(st.lists(st.floats(allow_nan=True, width=32), max_size=60), st.integers(2, 20))
@settings(max_examples=60, deadline=None)
def test_cuts_separate_values(values: list[float], bins: int) -> None:
    found = cuts(np.array(values), bins)
    assert len(found) < bins
    assert (np.diff(found) > 0).all()
    distinct = sorted({value for value in values if not np.isnan(value)})
    # Each cut has values on both sides, and with enough bins each two neighbours are apart.
    for cut in found.tolist():
        assert distinct[0] <= cut < distinct[-1]
    if 1 < len(distinct) <= bins:
        assert len(found) == len(distinct) - 1


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("feature", lambda a: np.where(a >= 0, 99, a), "column that is not there"),
        ("left", lambda a: np.zeros_like(a), "child|parents|leads"),
        ("right", lambda a: a * 0 + 1, "parents|child"),
        ("right", lambda a: a + 10**6, "child"),
        ("left", lambda a: a + 10**6, "child|leaf"),
        ("threshold", lambda a: a * np.nan, "no number"),
        ("missing_left", lambda a: a + 2, "neither 0 nor 1"),
        ("roots", lambda a: a + 1, "roots"),
        ("roots", lambda a: a[::-1].copy(), "roots"),
        ("roots", lambda a: a[:0], "without a tree"),
        ("values", lambda a: a[:1], "leaf"),
        ("start", lambda a: a[:1], "start"),
        ("feature", lambda a: a[1:], "elements"),
    ],
)
def test_hostile_ensembles_are_refused(field: str, change: object, message: str) -> None:
    x, y = data(300, 5)
    e = grow(x, y, Growth(trees=5, leaves=6))
    array = getattr(e, field)
    bad = dataclasses.replace(e, **{field: np.ascontiguousarray(change(array)).astype(array.dtype)})  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        bad.evaluator()


def test_rows_of_another_width_are_refused() -> None:
    x, y = data(100, 5)
    with pytest.raises(ValueError, match="rows"):
        grow(x, y, Growth(trees=2)).evaluator().predict(x[:, :4])


@pytest.mark.parametrize("rows", [np.empty((0, 3)), np.empty((5, 0))])
def test_nothing_to_learn_from(rows: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        grow(rows, np.zeros((len(rows), 1)), Growth())


def test_targets_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        grow(np.ones((3, 1)), np.array([[1.0], [np.nan], [2.0]]), Growth())
