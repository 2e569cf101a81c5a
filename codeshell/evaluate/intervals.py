"""Intervals and tests: what can be claimed from a sample of this size.

There are three tools, each for one situation:
- for a share of solved tasks, Wilson's score interval (Wilson 1927), which stays inside [0, 1] and holds at 0 and n;
- for a ratio of sums over files (bits over bytes), a percentile bootstrap over files, because the tokens of one file
  are far from independent. Systems are resampled together, so a difference has an interval of its own;
- for two systems on the same tasks, McNemar's exact test on the tasks that they answer differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codeshell.randomness import draw, uniform

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""

REPLICATES = 2000
"""Bootstrap replicates. The ends of a 95 % interval then have a Monte Carlo error of about 1.5 % of its width."""

FEWEST = 10
"""With fewer files (or tasks) no difference is called significant: a percentile bootstrap over a handful of files is
too narrow."""

DIGITS = 6
"""Decimals in statistics; more would record the rounding of one CPU."""


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Raises:
        ValueError: `n` is not positive, or `successes` is outside 0 … n.
    """
    if n <= 0:
        raise ValueError(f"n: {n} tasks have no interval; give at least one")
    if not 0 <= successes <= n:
        raise ValueError(f"successes: {successes} of {n}; give 0 to n")
    # The interval holds the shares that a score test with the quantile z does not reject.
    share = successes / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the two ends the exact bound is 0 or 1; the formula gives it up to rounding.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return low, high


def share(successes: int, n: int) -> dict[str, Any]:
    """`{count, n, share, interval}` for JSON; an empty sample has no share and no interval."""
    if n == 0:
        return {"count": 0, "n": 0, "share": None, "interval": None}
    low, high = wilson(successes, n)
    return {
        "count": successes,
        "n": n,
        "share": round(successes / n, DIGITS),
        "interval": [round(low, DIGITS), round(high, DIGITS)],
    }


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """The two-sided exact p-value of "both systems solve equally many tasks" (McNemar 1947, binomial form).

    Args:
        ours: whether our system solved each task.
        theirs: the same tasks in the same order.
    """
    # Only tasks that one system solves and the other does not say anything; each is then a fair coin.
    wins = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    losses = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    discordant = wins + losses
    if discordant == 0:
        return 1.0
    # The probability of a split at least as uneven as this one, on either side; exact up to the last division.
    tail = sum(math.comb(discordant, k) for k in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / (1 << discordant)))


def compare_shares(ours: Sequence[bool], theirs: Sequence[bool]) -> dict[str, Any]:
    """The difference of two systems on the same tasks, its exact p-value, and whether it may be claimed.

    Returns:
        `{n, difference, p_value, significant}`; the difference is our share of solved tasks minus theirs.
    """
    n = len(ours)
    if n == 0:
        return {"n": 0, "difference": None, "p_value": None, "significant": False}
    # Two conditions: the test rejects equality, and there are tasks enough to speak of a sample.
    p_value = mcnemar(ours, theirs)
    return {
        "n": n,
        "difference": round((sum(ours) - sum(theirs)) / n, DIGITS),
        "p_value": round(p_value, DIGITS),
        "significant": n >= FEWEST and p_value < 0.05,
    }


def bootstrap_ratios(
    numerators: npt.NDArray[np.float64],
    denominators: npt.NDArray[np.float64],
    *,
    seed: int,
    purpose: str,
    replicates: int = REPLICATES,
) -> npt.NDArray[np.float64]:
    """Σ numerators / Σ denominators on resamples of the files.

    Args:
        numerators: (systems, files) float64, for example bits.
        denominators: (files,) float64, for example bytes.
        seed, purpose: name the random stream.

    Returns:
        (systems, replicates) float64. Every system sees the same resamples, so rows can be subtracted.
    """
    systems, files = numerators.shape
    key = draw(seed, "bootstrap", purpose)
    result = np.empty((systems, replicates))
    # Replicates are made in parts, so that at most 2,000,000 indices (16 MB) are in memory.
    step = max(1, 2_000_000 // max(1, files))
    for first in range(0, replicates, step):
        count = min(step, replicates - first)
        # chosen is int64 (count, files): each row draws as many files as there are, with replacement. Replicate r takes
        # the numbers r * files … of the stream, so the size of the parts changes nothing.
        chosen = (uniform(key, first * files, count * files) * files).astype(np.int64).reshape(count, files)
        below = denominators[chosen].sum(axis=1)
        for system in range(systems):
            result[system, first : first + count] = numerators[system][chosen].sum(axis=1) / below
    return result


def percentile_interval(replicates: npt.NDArray[np.float64]) -> list[float]:
    """The middle 95 % of bootstrap replicates, rounded for JSON."""
    # 2.5 % of the replicates lie below the interval and 2.5 % above it.
    low, high = np.quantile(replicates, [0.025, 0.975])
    return [round(float(low), DIGITS), round(float(high), DIGITS)]


def mean_and_error(values: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The mean and its standard error over independent sequences; one sequence alone has no error."""
    # ddof=1: the mean is estimated from the same values.
    n = len(values)
    error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return {"mean": round(float(values.mean()), DIGITS), "se": None if error is None else round(error, DIGITS)}
