"""A fine-tuned model beside its base, in a few lines for the terminal: from the statistics of an evaluation alone."""

from __future__ import annotations

from typing import Any

MINUS = "\u2212"


def lines(statistics: dict[str, Any]) -> list[str]:
    """What tuning has changed on the held-out files, a line for each task that has asked the base, too.

    Args:
        statistics: what `codeshell.evaluate` returns for a run with a `finetune.base`.

    Returns:
        A heading and the lines; one line with the reason where nothing can be compared.
    """
    rows = [row for row in (_bits(statistics), _infill(statistics), _functions(statistics)) if row]
    held_out = _at(statistics, "held_out") or {}
    if rows:
        files, size = held_out.get("documents", 0), held_out.get("bytes", 0)
        width = max(len(name) for name, _ in rows)
        head = f"before and after tuning, on {files:,} held-out files of {size:,} bytes:"
        return [head, *(f"  {name:<{width}}  {text}" for name, text in rows)]
    if not held_out.get("documents"):
        return ["before and after tuning: not compared, because no file is held out (split.test says how many)"]
    return []


def _bits(statistics: dict[str, Any]) -> tuple[str, str] | None:
    base, model = (_at(statistics, "bits_per_byte", "systems", name) for name in ("base", "model"))
    if not base or not model:
        return None
    difference = _at(statistics, "bits_per_byte", "differences", "base") or {}
    ends = difference.get("interval")
    of = f", 95 % interval {_signed(ends[0])} to {_signed(ends[1])}" if ends else ""
    change = f"({_signed(difference.get('difference', 0.0))}{of})"
    return "bits per byte", f"{base['bits_per_byte']:.3f} before, {model['bits_per_byte']:.3f} after {change}"


def _infill(statistics: dict[str, Any]) -> tuple[str, str] | None:
    scores = _at(statistics, "infill", "groups", "all") or {}
    if not scores.get("base") or not scores["base"]["n"]:
        return None
    return "masked lines filled in", _shares(scores["base"], scores["exact_match"], scores["against_base"])


def _functions(statistics: dict[str, Any]) -> tuple[str, str] | None:
    before, after = (_at(statistics, "functions", "systems", name, "parses") for name in ("untrained", "model"))
    difference = _at(statistics, "functions", "differences", "untrained")
    if not before or not after or not difference:
        return None
    return "functions that parse", _shares(before, after, difference)


def _shares(before: dict[str, Any], after: dict[str, Any], difference: dict[str, Any]) -> str:
    """Two counts of the same tasks; whether they differ by more than chance is said, and never left to the eye."""
    verdict = f"p = {difference['p_value']:.3f}" if difference["significant"] else "may be chance"
    return f"{before['count']} of {before['n']} before, {after['count']} after ({verdict})"


def _signed(value: float) -> str:
    return f"{MINUS if value < 0 else '+'}{abs(value):.3f}"


def _at(tree: Any, *keys: str) -> Any:
    """What lies below the keys; None where one of them is missing, or a task has not run."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
