"""Phrases of the sentences that a task may claim: numbers with their sample and their interval.

A difference that the sample cannot carry is said to be none that can be claimed; it never becomes a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def share(score: dict[str, Any]) -> str:
    """A score `{count, n, share, interval}`: "3 of 12 (25.0 %, 95 % interval 8.9 to 53.2 %)"."""
    if not score["n"]:
        return "0 of 0"
    low, high = score["interval"]
    return (
        f"{score['count']} of {score['n']} ({100 * score['share']:.1f} %, 95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f} %)"
    )


def against(difference: dict[str, Any], peer: str, score: dict[str, Any]) -> str:
    """How a share compares with that of a peer on the same tasks.

    Args:
        difference: the comparison (`intervals.compare_shares`).
        peer: the peer's name in a sentence.
        score: the peer's own `{count, n, share, interval}`.
    """
    # "Not significant" is said as such: a difference that may be chance is no better and no worse.
    n = difference["n"]
    if not difference["significant"]:
        return f"A difference from {peer} cannot be claimed from {n} tasks; its score is {share(score)}."
    better = "better" if difference["difference"] > 0 else "worse"
    p_value = _p_value(difference["p_value"])
    return f"That is {better} than the score of {peer}, {share(score)}: exact McNemar test, {p_value}."


def interval(ends: Sequence[float] | None) -> str:
    """An interval after a number: ", 95 % interval 1.400 to 1.600"; nothing where there is none."""
    return "" if ends is None else f", 95 % interval {numbers(ends)}"


def numbers(ends: Sequence[float]) -> str:
    """The two ends of an interval: "1.400 to 1.600"."""
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def _p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
