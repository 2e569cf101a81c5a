"""Simple predictors in the same folds: what a learned score must beat, and what length alone explains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codeshell.boosting import isotonic
from codeshell.boosting.quality_model import HIGH, LOW

Vector = NDArray[np.float64]


def language_mean(languages: Sequence[str], score: Vector, folds: NDArray[np.int64]) -> Vector:
    """The mean score of the language in the other folds; of all of them for a language that only this fold has."""
    result = np.zeros(len(score))
    names = np.array(languages)
    for fold in np.unique(folds).tolist():
        test, train = folds == fold, folds != fold
        result[test] = score[train].mean()
        for name in np.unique(names[test]).tolist():
            same = train & (names == name)
            if same.any():
                result[test & (names == name)] = score[same].mean()
    return result


def length_only(lengths: Vector, score: Vector, folds: NDArray[np.int64]) -> Vector:
    """A rising line of pieces on the logarithm of the length."""
    result = np.zeros(len(score))
    logarithm = np.log1p(lengths)
    for fold in np.unique(folds).tolist():
        test, train = folds == fold, folds != fold
        result[test] = isotonic.fit(logarithm[train], score[train], LOW, HIGH)(logarithm[test])
    return result


def ridge(rows: NDArray[np.float64], score: Vector, folds: NDArray[np.int64], penalty: float = 100.0) -> Vector:
    """Ridge regression on standardised columns; what is missing is the column's mean."""
    result = np.zeros(len(score))
    for fold in np.unique(folds).tolist():
        test, train = folds == fold, folds != fold
        known = np.isfinite(rows[train])
        count = np.maximum(known.sum(0), 1)
        centre = np.where(known, rows[train], 0.0).sum(0) / count
        filled = np.where(np.isfinite(rows), rows, centre) - centre
        spread = filled[train].std(0)
        # Far values are pulled in: one file of 40 MB must not decide a slope.
        scaled = np.clip(filled / np.where(spread > 0, spread, 1.0), -5.0, 5.0)
        x, y = scaled[train], score[train] - score[train].mean()
        slopes = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
        result[test] = scaled[test] @ slopes + score[train].mean()
    return result
