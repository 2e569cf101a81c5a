"""Curves and differences of an ablation, with their intervals, from the results of its trainings alone.

Two kinds of chance are kept apart.
- Seeds. A seed draws the initial weights, the order of the documents and, for arms without ranks, the sample. Arms are
  compared seed by seed: d = value(arm, seed) - value(baseline, seed), and the interval is Student's t of these d. With
  three seeds it is 2.5 standard deviations of d wide on each side, with two 9, with one there is none.
- Files. The same trainings on other held-out files would differ by another amount. For bits per byte the files are
  resampled, both arms together, with the bits of each file averaged over the common seeds.
A difference is called clear where the interval over seeds leaves out 0, and so does that over files if there is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from codeshell.evaluate.intervals import FEWEST, bootstrap_ratios, percentile_interval

T975 = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139),
    *(2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963),
    *(2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272),
)
"""The 97.5 % point of Student's t with 1 … 30 degrees of freedom."""

Z975 = 1.959963984540054
DIGITS = 6


def t_interval(values: Sequence[float]) -> dict[str, Any]:
    """`{mean, low, high, seeds}` of independent values: Student's 95 % interval; null ends for a single value."""
    n = len(values)
    mean = sum(values) / n
    low = high = None
    if n > 1:
        error = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
        quantile = T975[n - 2] if n - 1 <= len(T975) else _quantile(n - 1)
        low, high = round(mean - quantile * error, DIGITS), round(mean + quantile * error, DIGITS)
    return {"mean": round(mean, DIGITS), "low": low, "high": high, "seeds": n}


def _quantile(df: int) -> float:
    """The 97.5 % point for more than 30 degrees of freedom, to five digits: the first terms of the expansion in 1 / df
    (Abramowitz and Stegun 1964, 26.7.5)."""
    z = Z975
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)


def summarise(results: Sequence[dict[str, Any]], baseline: str, seed: int) -> dict[str, Any]:
    """What the figure and the page show.

    Args:
        results: of trainings, as `training.run` returns them; any of them may be missing.
        baseline: the arm that the others are compared with.
        seed: of the resampling of files.

    Returns:
        `{"arms": [name], "metrics": [key], "curves": {key: {arm: [{tokens, mean, low, high, seeds, values {seed}}]}},
        "differences": {key: {arm: [{tokens, mean, low, high, seeds, values, files?, clear}]}},
        "reached": {key: {arm: share}}}`. `files` is the interval over files, for bits per byte. `reached` is at which
        share of the tokens an arm is as good as the baseline at the end, by straight lines between the points; null
        where it never is.
    """
    arms = list(dict.fromkeys(result["arm"] for result in results))
    by_place = {(result["arm"], result["seed"]): result for result in results}
    keys = list(dict.fromkeys(key for result in results for point in result["points"] for key in point["values"]))
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {key: {} for key in keys}
    differences: dict[str, dict[str, list[dict[str, Any]]]] = {key: {} for key in keys}
    for arm in arms:
        mine = {number: result for (name, number), result in by_place.items() if name == arm}
        common = {number: by_place[baseline, number] for number in mine if (baseline, number) in by_place}
        for key in keys:
            curves[key][arm] = _curve({number: _values(result, key) for number, result in mine.items()})
            if arm == baseline or not common:
                continue
            paired = {
                number: {
                    tokens: value - theirs
                    for tokens, value in _values(mine[number], key).items()
                    if (theirs := _values(common[number], key).get(tokens)) is not None
                }
                for number in common
            }
            differences[key][arm] = _curve(paired)
            for entry in differences[key][arm]:
                files = _over_files([mine[n] for n in common], list(common.values()), key, entry["tokens"], seed)
                if files is not None:
                    entry["files"] = files
                entry["clear"] = _leaves_out_zero(entry["low"], entry["high"]) and (
                    files is None or _leaves_out_zero(*files)
                )
    reached = {
        key: {arm: _reached(found[arm], found[baseline]) for arm in found if arm != baseline}
        for key, found in curves.items()
        if baseline in found and key.endswith("/bits_per_byte")
    }
    return {"arms": arms, "metrics": keys, "curves": curves, "differences": differences, "reached": reached}


def _values(result: dict[str, Any], key: str) -> dict[int, float]:
    """Tokens to value of one training."""
    return {point["tokens"]: point["values"][key] for point in result["points"] if key in point["values"]}


def _curve(by_seed: dict[int, dict[int, float]]) -> list[dict[str, Any]]:
    """The points of a curve: at each number of tokens the mean over the seeds that have it."""
    places = sorted({tokens for values in by_seed.values() for tokens in values})
    curve = []
    for tokens in places:
        there = {str(number): round(values[tokens], DIGITS) for number, values in by_seed.items() if tokens in values}
        curve.append({"tokens": tokens} | t_interval(list(there.values())) | {"values": there})
    return curve


def _over_files(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], key: str, tokens: int, seed: int
) -> list[float] | None:
    """The interval of a difference in bits per byte over the held-out files; None for another metric or few files."""
    held_out, _, metric = key.partition("/")
    if metric != "bits_per_byte":
        return None
    found = []
    for side in (ours, theirs):
        parts = [
            point["files"][held_out]
            for result in side
            for point in result["points"]
            if point["tokens"] == tokens and held_out in point["files"]
        ]
        if len(parts) != len(side):
            return None
        found.append(parts)
    sizes = np.array(found[0][0]["bytes"], dtype=np.float64)
    if len(sizes) < FEWEST or any(part["bytes"] != found[0][0]["bytes"] for parts in found for part in parts):
        return None
    # (2, files): the bits of each file under the two arms, averaged over the seeds.
    bits = np.array([np.mean([part["bits"] for part in parts], axis=0) for parts in found])
    replicates = bootstrap_ratios(bits, sizes, seed=seed, purpose=f"ablation {held_out}")
    return percentile_interval(replicates[0] - replicates[1])


def _leaves_out_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0)


def _reached(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> float | None:
    """The share of the tokens at which the mean of ours is at most the last mean of theirs."""
    if not ours or not theirs:
        return None
    target, whole = theirs[-1]["mean"], theirs[-1]["tokens"]
    for before, after in zip([None, *ours[:-1]], ours, strict=True):
        if after["mean"] <= target:
            # Nothing is known before the first point.
            if before is None or before["mean"] == after["mean"]:
                return round(float(after["tokens"] / whole), 4)
            part = (before["mean"] - target) / (before["mean"] - after["mean"])
            return round(float((before["tokens"] + part * (after["tokens"] - before["tokens"])) / whole), 4)
    return None
