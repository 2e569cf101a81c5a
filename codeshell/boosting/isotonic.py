"""Calibration: a rising line of pieces from a raw score to the label that documents with it have on average.

Least-squares isotonic regression (pool adjacent violators) gives steps; the line goes through their middles, so that
two different raw scores inside the range never become equal and the ranking is kept.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_SLOPE = 1e-3
"""The slope of every piece, at least: a step of the regression may be level, but a level line would lose the order of
documents."""


class Calibration(NamedTuple):
    """Knots of a line of pieces; it continues level outside of them."""

    raw: NDArray[np.float64]
    """(knots,) strictly ascending."""
    value: NDArray[np.float64]
    """(knots,) ascending, within the range of labels."""

    def __call__(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        # Written out, so that each operation is rounded once and the bits are the same everywhere.
        if len(self.raw) == 1:
            return np.full(len(raw), self.value[0])
        slopes = np.diff(self.value) / np.diff(self.raw)
        inside = np.clip(raw, self.raw[0], self.raw[-1])
        piece = np.clip(np.searchsorted(self.raw, inside, side="right") - 1, 0, len(slopes) - 1)
        result = self.value[piece] + (inside - self.raw[piece]) * slopes[piece]
        return np.clip(result, self.value[0], self.value[-1])


def steps(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ascending sequence that is nearest to `values` in weighted least squares (pool adjacent violators)."""
    # A stack of blocks [mean, weight, length]; a block that is not above the one before it joins it.
    means: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, length = value, weight, 1
        while means and means[-1] >= mean:
            before = masses.pop()
            mean = (means.pop() * before + mean * mass) / (before + mass)
            mass += before
            length += lengths.pop()
        means.append(mean)
        masses.append(mass)
        lengths.append(length)
    return np.repeat(np.array(means), lengths)


def fit(raw: NDArray[np.float64], labels: NDArray[np.float64], low: float, high: float, least: int = 20) -> Calibration:
    """Fit a calibration.

    Args:
        raw, labels: (documents,) the raw scores and what they should have been.
        low, high: the range of labels.
        least: documents of a knot; smaller steps of the regression are put together.
    """
    order = np.lexsort((labels, raw))
    x, y = raw[order], labels[order]
    # Groups of at least `least` documents, cut between different raw scores; each is one point of the regression.
    count = max(1, len(x) // least)
    bounds = np.unique(np.searchsorted(x, x[np.arange(1, count) * len(x) // count], side="left"))
    bounds = np.unique(np.concatenate([[0], bounds, [len(x)]]))
    middles = np.array([x[a:b].mean() for a, b in pairwise(bounds.tolist())])
    means = np.array([y[a:b].mean() for a, b in pairwise(bounds.tolist())])
    weights = np.diff(bounds).astype(np.float64)
    fitted = steps(means, weights)
    # One knot in the middle of each level step, and one at each end of the range with the trend of the ends.
    levels, first = np.unique(fitted, return_index=True)
    ends = np.append(first[1:], len(fitted))
    knots = np.array([np.average(middles[a:b], weights=weights[a:b]) for a, b in zip(first, ends, strict=True)])
    x_low, x_high = float(x[0]), float(x[-1])
    slope = max(LEAST_SLOPE, float(levels[-1] - levels[0]) / max(float(knots[-1] - knots[0]), 1e-9) / 2)
    if x_low < knots[0]:
        levels = np.concatenate([[levels[0] - slope * (knots[0] - x_low)], levels])
        knots = np.concatenate([[x_low], knots])
    if x_high > knots[-1]:
        levels = np.append(levels, levels[-1] + slope * (x_high - knots[-1]))
        knots = np.append(knots, x_high)
    return Calibration(knots, np.clip(levels, low, high))
