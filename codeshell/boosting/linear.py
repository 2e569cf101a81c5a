"""A linear score on columns: ridge regression on standardised values, which trees are averaged with.

Trees are good at thresholds and interactions, and waste their few labels on what is simply more or less; a linear
score of the same columns errs elsewhere. Prediction adds column by column in a fixed order, each operation rounded
once, so that it has the same bits everywhere; no library of linear algebra takes part in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell import _C

FARTHEST = 5.0
"""Standard deviations beyond which a value counts as this: one file of 40 MB must not decide."""


@dataclass(frozen=True)
class Linear:
    """A trained score."""

    centre: NDArray[np.float64]
    """(columns,): the means, which also stand in for what is missing."""
    spread: NDArray[np.float64]
    """(columns,)"""
    weights: NDArray[np.float64]
    """(columns, targets)"""
    start: NDArray[np.float64]
    """(targets,)"""

    def predict(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (documents, targets) of rows (documents, columns); NaN is missing."""
        return _C.boosting.linear_score(
            np.ascontiguousarray(rows),
            np.ascontiguousarray(self.centre),
            np.ascontiguousarray(self.spread),
            np.ascontiguousarray(self.weights),
            np.ascontiguousarray(self.start),
            FARTHEST,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, by name."""
        return {"centre": self.centre, "spread": self.spread, "weights": self.weights, "start": self.start}


def _scaled(values: NDArray[np.float64], centre: Any, spread: Any) -> NDArray[np.float64]:
    scaled = np.clip((values - centre) / spread, -FARTHEST, FARTHEST)
    result: NDArray[np.float64] = np.where(np.isnan(scaled), 0.0, scaled)
    return result


def train(rows: NDArray[np.float64], targets: NDArray[np.float64], penalty: float) -> Linear:
    """Fit a score.

    Args:
        rows: (documents, columns) float64; NaN is missing.
        targets: (documents, targets) float64.
        penalty: on squared weights of standardised columns.
    """
    known = np.isfinite(rows)
    count = np.maximum(known.sum(0), 1)
    centre = np.where(known, rows, 0.0).sum(0) / count
    variance = np.where(known, (np.where(known, rows, 0.0) - centre) ** 2, 0.0).sum(0) / count
    spread = np.where(variance > 0, np.sqrt(variance), 1.0)
    x = _scaled(rows, centre, spread)
    start = targets.mean(0)
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (targets - start))
    return Linear(centre, spread, weights, start)
