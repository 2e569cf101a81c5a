"""How well two readings of the same files agree: Spearman's rank correlation, the share of equal scores, the error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from codeshell.quality.metrics import spearman


class Agreement(NamedTuple):
    """Two readings of `files` files."""

    files: int
    spearman: float | None
    """None where it is not defined: fewer than three files, or all scores of a reading equal."""
    exact: float
    """Share of the files with equal scores."""
    mae: float
    """Mean absolute difference."""


def compare(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """The agreement of two readings, file by file; at least one file."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference = np.abs(a - b)
    rank = spearman(a, b) if len(a) > 2 else math.nan
    return Agreement(
        len(a), None if math.isnan(rank) else rank, float((difference == 0).mean()), float(difference.mean())
    )


def table(agreements: Mapping[str, Agreement]) -> list[str]:
    """The agreements as lines of text, one per score."""
    lines = []
    for name, one in agreements.items():
        rank = "undefined" if one.spearman is None else f"{one.spearman:.3f}"
        lines.append(f"{name}: Spearman {rank}, equal {one.exact:.1%}, mean error {one.mae:.2f} ({one.files:,} files)")
    return lines
