"""The linear score against ridge regression written as least squares."""

from __future__ import annotations

import numpy as np
import pytest

from codeshell import _C
from codeshell.boosting.linear import FARTHEST, Linear, train
from codeshell.randomness import uniform


def test_it_is_ridge_regression() -> None:
    rows = uniform(1, 0, 400).reshape(80, 5) * [1, 10, 100, 1, 1]
    rows[:, 4] = 7.0
    targets = np.stack([rows[:, 0] - rows[:, 1], rows[:, 2]], axis=1)
    found = train(rows, targets, 3.0)
    # Least squares on the data with sqrt(penalty) times the identity below it.
    spread = rows.std(0)
    x = (rows - rows.mean(0)) / np.where(spread > 1e-9, spread, 1.0)
    below = np.concatenate([x, np.sqrt(3.0) * np.eye(5)])
    right = np.concatenate([targets - targets.mean(0), np.zeros((5, 2))])
    weights = np.linalg.lstsq(below, right, rcond=None)[0]
    np.testing.assert_allclose(found.predict(rows), x @ weights + targets.mean(0), atol=1e-9)


def test_what_is_missing_is_the_mean() -> None:
    rows = uniform(2, 0, 60).reshape(30, 2)
    rows[::3, 0] = np.nan
    found = train(rows, rows[:, 1:] * 2, 0.1)
    mean = np.nanmean(rows[:, 0])
    probe = np.array([[np.nan, 0.5], [mean, 0.5]])
    first, second = found.predict(probe)[:, 0]
    assert abs(first - second) < 1e-12


def test_far_values_are_pulled_in() -> None:
    rows = uniform(3, 0, 50).reshape(50, 1)
    found = train(rows, rows * 3, 0.1)
    far = found.centre + FARTHEST * found.spread
    assert found.predict(np.array([[1e300]]))[0, 0] == found.predict(far[None])[0, 0]


def test_documents_do_not_depend_on_one_another() -> None:
    rows = uniform(4, 0, 300).reshape(60, 5)
    found = train(rows, rows[:, :2], 1.0)
    whole = found.predict(rows)
    assert (np.concatenate([found.predict(rows[i : i + 1]) for i in range(60)]) == whole).all()


def test_scores_are_those_of_numpy_column_by_column_to_the_last_bit() -> None:
    rows = (uniform(4, 0, 3000).reshape(100, 30) - 0.5) * 40
    rows[::7, 3], rows[5, 4], rows[6, 4] = np.nan, np.inf, -np.inf
    centre, spread = uniform(5, 0, 30), 0.1 + uniform(6, 0, 30)
    found = Linear(centre, spread, uniform(7, 0, 150).reshape(30, 5) - 0.5, uniform(8, 0, 5))
    expected = np.repeat(found.start[None], len(rows), axis=0)
    for column in range(30):
        value = np.clip((rows[:, column] - centre[column]) / spread[column], -FARTHEST, FARTHEST)
        expected += np.where(np.isnan(value), 0.0, value)[:, None] * found.weights[column]
    assert found.predict(rows).tobytes() == expected.tobytes()
    assert found.predict(np.asfortranarray(rows)).tobytes() == expected.tobytes()
    assert found.predict(rows[:0]).shape == (0, 5)
    with pytest.raises(ValueError, match="centre"):
        _C.boosting.linear_score(rows, centre[:3], spread, found.weights, found.start, 5.0)
