"""How well two readings of the same files agree: Spearman's rank correlation, the share of equal scores, the error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Agreement(NamedTuple):
    """Two readings of `files` files."""

    files: int
    spearman: float | None
    """None where it is not defined: fewer than three files, or all scores of a reading equal."""
    exact: float
    """Share of the files with equal scores."""
    mae: float
    """Mean absolute difference."""


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): ranks from 1, the mean rank for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return mean


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation of two (n,) arrays; None where it is not defined."""
    if len(first) < 3:
        return None
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None


def compare(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """The agreement of two readings, file by file; at least one file."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference = np.abs(a - b)
    return Agreement(len(a), spearman(a, b), float((difference == 0).mean()), float(difference.mean()))


def table(agreements: Mapping[str, Agreement]) -> list[str]:
    """The agreements as lines of text, one per score."""
    lines = []
    for name, one in agreements.items():
        rank = "undefined" if one.spearman is None else f"{one.spearman:.3f}"
        lines.append(f"{name}: Spearman {rank}, equal {one.exact:.1%}, mean error {one.mae:.2f} ({one.files:,} files)")
    return lines
