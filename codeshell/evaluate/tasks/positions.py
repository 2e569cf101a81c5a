"""Loss by position: does the model use a longer context after the phase that trained it?

Both models read the same held-out sequences: the first T tokens of files that have more than T, one sequence a file,
where T is the longest context of the run. Per bucket of positions the mean loss of each model and the paired
difference are given with standard errors over sequences, which are independent as files are. Position p is that of
the input token; the loss there is that of token p + 1 given tokens 0 … p.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from codeshell.evaluate.intervals import DIGITS, FEWEST, Z95, mean_and_error

BUCKETS = 32
"""Equal parts of the longest context (fewer where it has fewer tokens)."""

Floats = npt.NDArray[np.float64]


def edges(context: int) -> list[int]:
    """Ends of the buckets: `BUCKETS` + 1 integers from 0 to `context`."""
    count = min(BUCKETS, context)
    return [index * context // count for index in range(count + 1)]


def by_bucket(before: Floats, after: Floats) -> list[dict[str, Any]]:
    """Mean loss and paired difference (after minus before), nats a token, per bucket.

    Args:
        before, after: float64 (sequences, context), the losses of the two models on the same tokens.
    """
    ends = edges(before.shape[1])
    rows: list[dict[str, Any]] = []
    for start, end in itertools.pairwise(ends):
        a, b = before[:, start:end].mean(axis=1), after[:, start:end].mean(axis=1)
        rows.append(
            {
                "start": start,
                "end": end,
                "before": mean_and_error(a),
                "after": mean_and_error(b),
                "difference": mean_and_error(b - a),
            }
        )
    return rows


def within_and_beyond(before: Floats, after: Floats, trained: int) -> dict[str, Any]:
    """The change inside the context that the earlier phase trained, and beyond it.

    Args:
        before, after: as in `by_bucket`.
        trained: context of the earlier phase, in tokens.
    """
    return {
        "within": _change(before[:, :trained], after[:, :trained]),
        "beyond": _change(before[:, trained:], after[:, trained:]),
    }


def _change(before: Floats, after: Floats) -> dict[str, Any]:
    a, b = before.mean(axis=1), after.mean(axis=1)
    difference = mean_and_error(b - a)
    n = len(a)
    interval = None
    if difference["se"] is not None:
        half = Z95 * difference["se"]
        interval = [round(difference["mean"] - half, DIGITS), round(difference["mean"] + half, DIGITS)]
    away = interval is not None and (interval[0] > 0 or interval[1] < 0)
    return {
        "before": mean_and_error(a),
        "after": mean_and_error(b),
        "difference": difference,
        "interval": interval,
        "significant": away and n >= FEWEST,
    }
