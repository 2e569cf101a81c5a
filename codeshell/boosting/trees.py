"""Boosted regression trees: columns are cut into bins, trees grown on them, and their sums are exact.

Several targets share the splits of each tree. Missing values (NaN) go where training found them best. Thresholds are
float64, leaves integers in units of 2^-24, so a prediction has the same bits on every machine. Training is the same
for any number of threads (csrc/boosting/grow.h).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell import _C

UNIT = 2.0**-_C.boosting.leaf_bits
"""What 1 in a leaf is worth."""

MOST_ROWS_OF_CUTS = 200_000
"""Rows that the bins of a column are chosen by; more add nothing to 255 quantiles."""


@dataclass(frozen=True)
class Growth:
    """How an ensemble is grown."""

    trees: int = 300
    leaves: int = 15
    """Leaves of a tree, at most."""
    rate: float = 0.05
    """Share of each tree's correction that is applied."""
    least_weight: float = 10.0
    """Weight (documents, where each weighs 1) of a leaf, at least."""
    ridge: float = 1.0
    """Imagined documents without an error in each leaf, which pull its value to 0."""
    column_share: float = 0.3
    """Share of the columns, drawn anew for each tree."""
    row_share: float = 0.8
    """Share of the documents, drawn anew for each tree."""
    bins: int = 64
    """Bins of a column, at most 255."""
    seed: int = 0


@dataclass(frozen=True)
class Ensemble:
    """Trees as they are stored; node i has the children `left[i]` and `right[i]`, both larger than i."""

    feature: NDArray[np.int32]
    """(nodes,): the column that is asked for; -1 for a leaf, whose `left` is its row of `values`."""
    threshold: NDArray[np.float64]
    """(nodes,): values up to it go left."""
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.uint8]
    roots: NDArray[np.int64]
    """(trees,): first node of each tree."""
    values: NDArray[np.int32]
    """(leaves, targets), in units of 2^-24."""
    start: NDArray[np.int64]
    """(targets,): the prediction before the first tree, in the same units."""
    features: int
    gain: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """(features,): squared error that each column's splits took away in training. Not needed to predict."""

    def evaluator(self) -> Evaluator:
        """The ensemble laid out for evaluation.

        Raises:
            ValueError: it is none: a column or a node that is not there, a circle, a node of two parents.
        """
        return Evaluator(self)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that predicting needs, by name."""
        names = ("feature", "threshold", "left", "right", "missing_left", "roots", "values", "start")
        return {name: getattr(self, name) for name in names}


class Evaluator:
    """Predicts for many documents. It may be used from several threads."""

    def __init__(self, ensemble: Ensemble) -> None:
        e = ensemble
        if e.start.shape != (e.values.shape[1],):
            raise ValueError("start: must have an element for each target")
        self._start = e.start
        self._trees = _C.boosting.Trees(
            e.feature, e.threshold, e.left, e.right, e.missing_left, e.roots, e.values, e.features
        )

    def predict(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The targets of documents.

        Args:
            rows: (documents, features) float64; NaN for what is missing.

        Returns:
            (documents, targets) float64, exact multiples of 2^-24.
        """
        sums = self._trees.sum(np.ascontiguousarray(rows, np.float64)) + self._start
        result: NDArray[np.float64] = sums.astype(np.float64) * UNIT
        return result


def cuts(column: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """The ascending thresholds that cut a column into at most `bins` bins of about equal size.

    Each lies halfway between two neighbouring values of the column, so that a value which differs in the last bit
    falls on the same side.
    """
    values = column[~np.isnan(column)]
    # Every k-th value in order, which needs no chance.
    ordered = np.sort(values)[:: max(1, len(values) // MOST_ROWS_OF_CUTS)]
    distinct, counts = np.unique(ordered, return_counts=True)
    if len(distinct) < 2:
        return np.empty(0)
    # place[i]: how many values lie up to distinct[i]. A cut is wanted after each equal part of them.
    place = np.cumsum(counts)
    if len(distinct) > bins:
        parts = place[-1] * np.arange(1, bins, dtype=np.int64) // bins
        ends = np.unique(np.searchsorted(place, np.maximum(parts, 1)))
    else:
        ends = np.arange(len(distinct) - 1)
    ends = ends[ends < len(distinct) - 1]
    low, high = distinct[ends], distinct[ends + 1]
    # Infinities have no middle: the lower value itself is then the threshold. Two neighbouring doubles have none, too.
    with np.errstate(invalid="ignore", over="ignore"):
        middle = low + (high - low) / 2
    good = np.isfinite(middle) & (middle < high) & (middle >= low)
    result: NDArray[np.float64] = np.where(good, middle, low)
    return result


def grow(
    rows: NDArray[np.float64],
    targets: NDArray[np.float64],
    growth: Growth,
    *,
    target_weight: Sequence[float] | None = None,
    weights: NDArray[np.float64] | None = None,
    groups: NDArray[np.int64] | None = None,
    monotone: Mapping[int, int] | None = None,
    threads: int = 1,
) -> Ensemble:
    """Train an ensemble for squared error.

    Args:
        rows: (documents, features) float64; NaN for what is missing.
        targets: (documents, targets) float64, finite.
        growth: settings.
        target_weight: (targets,) how much each target counts in choosing the splits; None: all the same.
        weights: (documents,) of each in all sums; None: 1.
        groups: (documents,) documents of one number are drawn together; None: each alone.
        monotone: feature to 1 (a higher value never lowers the prediction) or -1. It holds for the first of the
            targets with the largest weight.
        threads: for large inputs; the result does not depend on it.
    """
    count, features = rows.shape
    if targets.shape[0] != count or count == 0 or features == 0:
        raise ValueError(f"rows {rows.shape} and targets {targets.shape}: need the same documents, at least one")
    if not np.isfinite(targets).all():
        raise ValueError("targets: not all are finite")
    weights = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    groups = np.arange(count, dtype=np.int64) if groups is None else np.asarray(groups, np.int64)
    importance = np.ones(targets.shape[1]) if target_weight is None else np.asarray(target_weight, np.float64)
    # Bin 0 is what is missing; a value is in bin 1 + (number of thresholds below it).
    thresholds = [cuts(rows[:, f], growth.bins) for f in range(features)]
    bins = np.zeros((features, count), np.uint8)
    for f, edges in enumerate(thresholds):
        column = rows[:, f]
        bins[f] = np.where(np.isnan(column), 0, 1 + np.searchsorted(edges, column, side="left"))
    signs = np.zeros(features, np.int8)
    for f, sign in (monotone or {}).items():
        signs[f] = sign
    # Sums of NumPy depend on its vector instructions in the last bit; a mean that is rounded to 2^-24 hardly does.
    start = np.rint((targets * weights[:, None]).sum(0) / weights.sum() / UNIT).astype(np.int64)
    grown = _C.boosting.grow(
        bins,
        np.array([len(edges) + 2 for edges in thresholds], np.uint16),
        signs,
        np.ascontiguousarray(targets, np.float64),
        importance,
        weights,
        groups,
        start,
        trees=growth.trees,
        leaves=growth.leaves,
        rate=growth.rate,
        least_weight=growth.least_weight,
        ridge=growth.ridge,
        column_share=growth.column_share,
        row_share=growth.row_share,
        seed=growth.seed,
        threads=threads,
    )
    # From bins to thresholds. A bin after the last threshold (everything but what is missing) is infinity.
    where, bin_of = grown["feature"], grown["bin"]
    threshold = np.zeros(len(where))
    for node in np.flatnonzero(where >= 0).tolist():
        edges = thresholds[where[node]]
        threshold[node] = edges[bin_of[node] - 1] if bin_of[node] <= len(edges) else np.inf
    return Ensemble(
        where,
        threshold,
        grown["left"],
        grown["right"],
        grown["missing_left"],
        grown["roots"],
        grown["values"],
        start,
        features,
        grown["gain"],
    )


def joined(ensembles: Sequence[Ensemble]) -> Ensemble:
    """One ensemble that predicts the mean of several (to 2^-24 per leaf)."""
    first, count = ensembles[0], len(ensembles)
    nodes = np.cumsum([0, *(len(e.feature) for e in ensembles)])
    leaves = np.cumsum([0, *(len(e.values) for e in ensembles)])
    left, right = [], []
    for e, node, leaf in zip(ensembles, nodes, leaves, strict=False):
        inner = e.feature >= 0
        # The left of a leaf is a row of values, and its right is nothing.
        left.append(np.where(inner, e.left + node, e.left + leaf).astype(np.int32))
        right.append(np.where(inner, e.right + node, 0).astype(np.int32))
    return Ensemble(
        np.concatenate([e.feature for e in ensembles]),
        np.concatenate([e.threshold for e in ensembles]),
        np.concatenate(left),
        np.concatenate(right),
        np.concatenate([e.missing_left for e in ensembles]),
        np.concatenate([e.roots + node for e, node in zip(ensembles, nodes, strict=False)]),
        np.rint(np.concatenate([e.values for e in ensembles]) / count).astype(np.int32),
        np.rint(np.sum([e.start for e in ensembles], axis=0) / count).astype(np.int64),
        first.features,
        np.sum([e.gain for e in ensembles], axis=0),
    )
