"""Agreement of predicted and judged scores, with intervals over repositories.

Files of one repository are not independent, so the intervals come from drawing whole repositories with replacement
(the cluster bootstrap); the draws are hashes, so the same input gives the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell.randomness import mix

Vector = NDArray[np.float64]

DRAWS = 400
"""Samples of repositories for an interval."""

THRESHOLDS = (3, 4)
"""Scores from which a document counts as good."""


def ranks(values: Vector) -> Vector:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    result: Vector = ((ends - counts + 1 + ends) / 2)[inverse]
    return result


def spearman(predicted: Vector, judged: Vector) -> float:
    """Correlation of the ranks; NaN where one side is constant."""
    a, b = ranks(predicted), ranks(judged)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def auc(predicted: Vector, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive document is ranked above another one; NaN where there are only positives or none."""
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        return float("nan")
    return float((ranks(predicted)[positive].sum() - count * (count + 1) / 2) / (count * others))


def mean_absolute_error(predicted: Vector, judged: Vector) -> float:
    return float(np.abs(predicted - judged).mean())


def classes(values: Vector) -> NDArray[np.int64]:
    """Scores rounded to 0 … 5, halves up."""
    return np.clip(np.floor(values + 0.5), 0, 5).astype(np.int64)


def macro_f1(predicted: Vector, judged: Vector) -> float:
    """Mean over the judged classes 0 to 5 of the F1 score of the rounded prediction."""
    a, b = classes(predicted), classes(judged)
    scores = []
    for label in np.unique(b).tolist():
        hit = float(((a == label) & (b == label)).sum())
        scores.append(2 * hit / float((a == label).sum() + (b == label).sum()))
    return float(np.mean(scores))


def within(predicted: Vector, judged: Vector, languages: Sequence[str], least: int = 20) -> float:
    """Mean of the Spearman correlations inside each language with enough documents, weighted by their number."""
    names = np.array(languages)
    found = [
        (spearman(predicted[names == name], judged[names == name]), int((names == name).sum()))
        for name in sorted(set(languages))
        if (names == name).sum() >= least
    ]
    good = [(value, weight) for value, weight in found if np.isfinite(value)]
    return float(np.average([v for v, _ in good], weights=[w for _, w in good])) if good else float("nan")


MEASURES: dict[str, Callable[[Vector, Vector], float]] = {
    "spearman": spearman,
    "mae": mean_absolute_error,
    "macro_f1": macro_f1,
    "auc_3": lambda predicted, judged: auc(predicted, judged >= 3),
    "auc_4": lambda predicted, judged: auc(predicted, judged >= 4),
}
"""The figures of every table, by name. `auc_3`: the best separation of documents judged 3 or better."""


def measure(predicted: Vector, judged: Vector) -> dict[str, float]:
    """All of `MEASURES`."""
    return {name: function(predicted, judged) for name, function in MEASURES.items()}


def intervals(predicted: Vector, judged: Vector, groups: Sequence[str]) -> dict[str, tuple[float, float]]:
    """95 % intervals of all of `MEASURES`, from samples of whole groups."""
    names = sorted(set(groups))
    of_group = [np.flatnonzero(np.array(groups) == name) for name in names]
    samples: dict[str, list[float]] = {name: [] for name in MEASURES}
    for number in range(DRAWS):
        # Draw as many groups as there are, by hash.
        keys = np.arange(len(names), dtype=np.uint64) + np.uint64(number * 1_000_003)
        chosen = (mix(keys, 0x51ED) >> np.uint64(32)) * np.uint64(len(names)) >> np.uint64(32)
        rows = np.concatenate([of_group[place] for place in chosen.tolist()])
        for name, value in measure(predicted[rows], judged[rows]).items():
            samples[name].append(value)
    result = {}
    for name, values in samples.items():
        good = np.array([value for value in values if np.isfinite(value)])
        low, high = np.percentile(good, [2.5, 97.5]) if len(good) else (float("nan"), float("nan"))
        result[name] = (float(low), float(high))
    return result


def calibration_table(predicted: Vector, judged: Vector, parts: int = 10) -> list[dict[str, Any]]:
    """Documents by predicted score in `parts` equal parts: mean predicted and judged score, share judged 3 and 4."""
    order = np.argsort(predicted, kind="stable")
    table = []
    for rows in np.array_split(order, parts):
        if len(rows):
            table.append(
                {
                    "documents": len(rows),
                    "predicted": float(predicted[rows].mean()),
                    "judged": float(judged[rows].mean()),
                    "at_most_1": float((judged[rows] <= 1).mean()),
                    "at_least_3": float((judged[rows] >= 3).mean()),
                    "at_least_4": float((judged[rows] >= 4).mean()),
                }
            )
    return table
