"""Calibration against the closed form of isotonic regression."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.boosting.isotonic import fit, steps
from codeshell.randomness import uniform


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1, max_size=14))
@settings(max_examples=80, deadline=None)
def test_steps_are_the_closed_form(pairs: list[tuple[int, int]]) -> None:
    values, weights = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    count = len(values)

    def mean(a: int, b: int) -> float:
        return float(np.average(values[a : b + 1], weights=weights[a : b + 1]))

    # max over beginnings of the min over ends (Robertson, Wright, Dykstra 1988).
    expected = [max(min(mean(a, b) for b in range(i, count)) for a in range(i + 1)) for i in range(count)]
    np.testing.assert_allclose(steps(values, weights), expected, atol=1e-12)


@given(st.integers(0, 1000), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_a_line_rises_and_stays_in_range(key: int, count: int) -> None:
    raw = np.round(uniform(key, 0, count) * 8 - 4, 1)
    labels = np.clip(np.round(raw + 3 * uniform(key + 1, 0, count)), 0, 5)
    line = fit(raw, labels, 0.0, 5.0)
    probe = np.sort(np.concatenate([raw, [-100.0, 100.0, np.median(raw)]]))
    found = line(probe)
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0
    assert found.max() <= 5
    # Values between do not leave their neighbours' range, and the knots themselves are met.
    assert line(line.raw).tolist() == line.value.tolist()


def test_different_scores_stay_different() -> None:
    raw = uniform(3, 0, 400)
    labels = np.floor(raw * 5)
    line = fit(raw, labels, 0.0, 5.0)
    inside = np.sort(raw)
    values = line(inside)
    # Only at the two ends of the range of labels may a line be level.
    between = (values > 0) & (values < 5)
    assert (np.diff(values[between]) > 0).all()


def test_a_calibrated_score_is_the_mean_label() -> None:
    raw = uniform(5, 0, 5000)
    labels = (uniform(6, 0, 5000) < raw).astype(np.float64) * 5
    line = fit(raw, labels, 0.0, 5.0)
    for low in (0.1, 0.4, 0.7):
        part = (raw >= low) & (raw < low + 0.2)
        assert abs(line(raw[part]).mean() - labels[part].mean()) < 0.25


def test_one_label() -> None:
    line = fit(np.array([1.0]), np.array([3.0]), 0.0, 5.0)
    assert line(np.array([-1.0, 1.0, 9.0])).tolist() == [3.0, 3.0, 3.0]
