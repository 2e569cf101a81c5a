"""pass@k from n samples of each problem, unbiased, with a bootstrap interval over the problems.

pass@k is the chance that at least one of k samples of a problem passes, averaged over the problems. From n samples, of
which c pass, 1 - C(n - c, k) / C(n, k) estimates it without bias (Chen et al. 2021, section 2.1). The problems are
what is sampled from the world, so the interval is over them; the samples of one problem are far from independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codeshell.evaluate.intervals import DIGITS, bootstrap_ratios, percentile_interval, wilson

KS = (1, 10, 100)
"""The values of k that the field prints; those above the number of samples are left out."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of pass@k of one problem.

    Args:
        n: samples.
        c: samples that pass, 0 to n.
        k: 1 to n.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k: {k} of {n} samples; give 1 to n")
    if not 0 <= c <= n:
        raise ValueError(f"c: {c} of {n} samples; give 0 to n")
    # Fewer than k samples fail, so any k of them hold one that passes.
    if n - c < k:
        return 1.0
    # C(n - c, k) / C(n, k) as a product of factors in [0, 1]: no number in it is large.
    missing = 1.0
    for i in range(n - c + 1, n + 1):
        missing *= 1 - k / i
    return 1.0 - missing


def estimate(values: Sequence[float] | npt.NDArray[np.float64], *, seed: int, purpose: str) -> dict[str, Any]:
    """The mean over problems and its 95 % interval, from a bootstrap over the problems.

    Args:
        values: one per problem, each in [0, 1].
        seed, purpose: name the random numbers of the bootstrap.

    Returns:
        `{value, interval, problems}` for JSON; without problems, value and interval are None. Where all problems have
        the same value and it is 0 or 1, a bootstrap has no width; then the interval is Wilson's.
    """
    data = np.asarray(values, dtype=np.float64)
    n = len(data)
    if not n:
        return {"value": None, "interval": None, "problems": 0}
    solved = float(data.sum())
    # None of 20 problems solved does not mean that none of the next 20 is.
    if solved in (0.0, float(n)):
        low, high = wilson(round(solved), n)
        interval = [round(low, DIGITS), round(high, DIGITS)]
    else:
        interval = percentile_interval(bootstrap_ratios(data[None, :], np.ones(n), seed=seed, purpose=purpose)[0])
    return {"value": round(solved / n, DIGITS), "interval": interval, "problems": n}


def estimates(passed: Sequence[tuple[int, int]], *, seed: int, purpose: str) -> dict[str, dict[str, Any]]:
    """pass@k for every k of `KS` that all problems have samples for.

    Args:
        passed: (samples, samples that pass) of each problem.
        seed, purpose: name the random numbers of the bootstrap.

    Returns:
        `{"1": {value, interval, problems}, "10": …}`.
    """
    fewest = min((n for n, _ in passed), default=1)
    return {
        str(k): estimate([pass_at_k(n, c, k) for n, c in passed], seed=seed, purpose=f"{purpose} pass@{k}")
        for k in KS
        if k <= fewest
    }
