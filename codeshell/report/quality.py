"""What the section about quality shows, as plain values: the distributions of scores, the limits with the documents on
both sides, what another threshold would change, and how the scores go together.

Everything comes from `select/`: sketches.parquet, sample.parquet, edges.parquet and stats.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell.data.distributions import Distributions
from codeshell.data.sketches import Sketch
from codeshell.documents.shards import read_table
from codeshell.report import read
from codeshell.report.charts import Chart, Series
from codeshell.report.format import MISSING, count, cut, number, plain, share, size
from codeshell.report.sections import mapping, objects, pair

HEADLINES = ("quality", "contrast", "bits_per_byte", "standards", "library_share", "syntax_errors", "comment_share")
"""Scores that are shown even where nothing decides by them, if they are there."""
COLUMNS = 12
"""Scores that are shown at most."""
CURVES = 4
"""Languages in a chart at most, those with the most documents."""
FEWEST = 30
"""Documents of a language from which it has a curve: fewer make peaks that hide the others."""
BINS = 40
"""Points of a curve."""
OUTSIDE = 0.005
"""Share of the documents that a chart leaves out at each end: a few extreme ones would flatten the rest."""
STEPS = 60
"""Steps of a slider: quantiles of the score."""
EXCERPT_LINES, EXCERPT_WIDTH = 12, 96


def quality(run: Path, stats: Mapping[str, dict[str, Any] | None]) -> dict[str, Any] | None:
    """The section's values; None if the run has no select stage."""
    node = stats.get("select")
    if node is None:
        return None
    distributions = Distributions(run / "select")
    limits = objects(node.get("limits"))
    weights = _weights(run)
    columns = _columns(distributions, limits, weights, mapping(node.get("dropped")))
    languages = sorted(distributions.languages, key=lambda name: (-distributions.languages[name], name))
    charts = [chart for column in columns if (chart := _chart(column, distributions, languages[:CURVES], limits))]
    return {
        "charts": charts,
        "languages": _by_language(distributions, node),
        "thresholds": [
            threshold
            for column in columns
            if (threshold := _threshold(column, distributions, languages[: 2 * CURVES], limits, weights))
        ],
        "edges": _edges(run, limits),
        "correlation": _correlation(run, columns),
        "weights": [(name, plain(weight)) for name, weight in weights.items()],
    }


def _weights(run: Path) -> dict[str, float]:
    """The weights of the recipe's budget. A recipe that was damaged by hand must not cost the page."""
    import tomllib

    try:
        tree = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8", errors="replace"))
    except (OSError, tomllib.TOMLDecodeError):
        return {}
    found = mapping(mapping(tree.get("select")).get("weights"))
    return {name: value for name, weight in sorted(found.items()) if (value := number(weight)) is not None}


def _columns(
    distributions: Distributions,
    limits: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float],
    dropped: Mapping[str, Any],
) -> list[str]:
    """The scores that are shown: those with a weight, those that the recipe names, the headlines, and then those of the
    package's rules, the rule that dropped most first."""
    there = {column for column, _ in distributions.sketches}
    named = [limit for limit in limits if str(limit.get("source")).startswith("select.")]
    others = sorted(
        (limit for limit in limits if limit not in named),
        key=lambda limit: -pair(dropped.get(str(limit.get("rule"))))["documents"],
    )
    columns = [*weights, *(str(limit.get("column")) for limit in named), *HEADLINES]
    columns += [str(limit.get("column")) for limit in others]
    return [name for name in dict.fromkeys(columns) if name in there][:COLUMNS]


def _limit(column: str, language: str, limits: Sequence[Mapping[str, Any]]) -> tuple[float, str, str] | None:
    """The first limit of a column in a language, with the side that it drops and its rule."""
    for limit in limits:
        value = number(mapping(limit.get("by_language")).get(language, limit.get("limit")))
        if limit.get("column") == column and value is not None:
            return value, str(limit.get("drops")), str(limit.get("rule"))
    return None


def _chart(
    column: str, distributions: Distributions, languages: Sequence[str], limits: Sequence[Mapping[str, Any]]
) -> Chart | None:
    """The histograms of a score as curves, one for each language, on one range."""
    found = {name: sketch for name in languages if (sketch := distributions.of(column, name)).documents}
    sketches = {name: sketch for name, sketch in found.items() if sketch.documents >= FEWEST} or found
    if not sketches:
        return None
    # The range that all but a few documents of each language lie in.
    low = min(sketch.quantile(OUTSIDE) for sketch in sketches.values())
    high = max(sketch.quantile(1 - OUTSIDE) for sketch in sketches.values())
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return None
    edges = np.linspace(low, high, BINS + 1)
    series = []
    for color, (name, sketch) in enumerate(sketches.items(), start=1):
        # Each bin of the sketch counts where its smallest number lies; what lies outside counts at the end.
        at = np.clip(np.searchsorted(edges, sketch.low, "right") - 1, 0, BINS - 1)
        shares = np.bincount(at, sketch.count, BINS) / sketch.documents * 100
        points = [(float((a + b) / 2), float(y)) for a, b, y in zip(edges, edges[1:], shares, strict=False)]
        series.append(Series(cut(name, 40), points, color))
    marks = sorted({limit[0] for name in sketches if (limit := _limit(column, name, limits))})
    middles = ", ".join(f"{cut(name, 40)} {plain(sketch.quantile(0.5))}" for name, sketch in sketches.items())
    return Chart(
        f"score-{column}",
        column.replace("_", " "),
        column.replace("_", " "),
        "% of documents",
        series,
        f"The distribution of {column} by language. Medians: {middles}.",
        [(mark, f"limit {plain(mark)}") for mark in marks if low <= mark <= high][:3],
        from_zero=True,
    )


def _by_language(distributions: Distributions, node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What came into the stage and what stayed, for each language; the largest first."""
    kept = mapping(node.get("by_language"))
    rows: list[dict[str, Any]] = []
    for name in distributions.languages:
        sketch = distributions.of("bytes", name)
        before = {"documents": float(sketch.documents), "bytes": float(sketch.size.sum())}
        rows.append({"name": name, "before": before, "after": pair(kept.get(name))})
    return sorted(rows, key=lambda row: (-row["before"]["bytes"], row["name"]))


def _threshold(
    column: str,
    distributions: Distributions,
    languages: Sequence[str],
    limits: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float],
) -> dict[str, Any] | None:
    """What each of some thresholds of a score would drop in each language, for a slider and for a table without it."""
    entries = []
    for language in languages:
        sketch = distributions.of(column, language)
        if len(sketch.bins) < 2:
            continue
        limit = _limit(column, language, limits)
        drops = limit[1] if limit else ("above" if weights.get(column, 1.0) < 0 else "below")
        above = drops in ("above", "at_least")
        points = _points(sketch, above, limit[0] if limit else None)
        values = [point[0] for point in points]
        # The slider stands at the threshold that is nearest to the limit; without one where nothing goes.
        wanted = limit[0] if limit else values[-1 if above else 0]
        start = min(range(len(values)), key=lambda at: abs(values[at] - wanted))
        entries.append(
            {
                "language": cut(language, 40),
                "above": above,
                "limit": plain(limit[0]) if limit else "",
                "rule": limit[2] if limit else "",
                "start": start,
                "last": len(points) - 1,
                "documents": sketch.documents,
                "bytes": int(sketch.size.sum()),
                "points": points,
                "rows": [
                    {
                        "value": plain(value),
                        "documents": count(documents),
                        "share": share(documents, sketch.documents),
                        "bytes": size(amount),
                    }
                    for value, documents, amount in points[:: max(len(points) // 10, 1)]
                ],
            }
        )
    if not entries:
        return None
    keys = ("language", "above", "limit", "start", "documents", "bytes", "points")
    data = [{key: entry[key] for key in keys} for entry in entries]
    return {
        "column": column,
        "title": column.replace("_", " "),
        "entries": entries,
        "data": json.dumps(data, separators=(",", ":"), ensure_ascii=True),
    }


def _points(sketch: Sketch, above: bool, limit: float | None) -> list[tuple[float, int, int]]:
    """Thresholds at quantiles and the limit, ascending, each with the documents and bytes that it would drop."""
    below = np.concatenate([[0], np.cumsum(sketch.count)])
    sizes = np.concatenate([[0], np.cumsum(sketch.size)])
    reach = np.ceil(np.linspace(0, 1, STEPS + 1) * sketch.documents).astype(np.int64).clip(1, sketch.documents)
    bins = np.unique(np.searchsorted(below[1:], reach, "left"))
    values = (sketch.high if above else sketch.low)[bins]
    values = np.unique(np.concatenate([values, [limit] if limit is not None else []]))
    points = []
    for value in values[np.isfinite(values)].tolist():
        # What lies above a threshold is in bins whose numbers are all above it, and likewise below. A threshold inside
        # a bin leaves that bin where it is: such a count is short by a part of it.
        at = int(np.searchsorted(sketch.low, value, "right") if above else np.searchsorted(sketch.high, value, "left"))
        documents, amount = (below[-1] - below[at], sizes[-1] - sizes[at]) if above else (below[at], sizes[at])
        points.append((value, int(documents), int(amount)))
    return points


def _edges(run: Path, limits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each limit the documents nearest to it on both sides, with the beginning of their texts."""
    path = run / "select" / "edges.parquet"
    rows = read_table(path).to_pylist() if path.exists() else []
    texts = read.documents(run, {str(row["id"]) for row in rows})
    found = []
    for limit in limits:
        mine = [row for row in rows if row["rule"] == limit.get("rule")]
        if not mine:
            continue
        sides = []
        for kept, title in ((False, "just dropped"), (True, "just kept")):
            entries = [
                {
                    "row": row,
                    "notes": f"{plain(row['value'])}, limit {plain(row['limit'])} · {cut(row['language'])} · "
                    f"{size(row['bytes'])}",
                    "excerpt": _excerpt(texts.get(str(row["id"]), {}).get("text", "")),
                }
                for row in mine
                if row["kept"] is kept
            ]
            sides.append({"title": title, "entries": entries})
        found.append(
            {
                "rule": str(limit.get("rule")),
                "column": str(limit.get("column")),
                "drops": str(limit.get("drops")).replace("_", " "),
                "source": cut(limit.get("source") or "", 400),
                "sides": sides,
            }
        )
    return found


def _excerpt(text: str) -> str:
    """The first lines of a text, short."""
    lines = text[: 4 * EXCERPT_LINES * EXCERPT_WIDTH].split("\n")
    shown = [line if len(line) <= EXCERPT_WIDTH else line[: EXCERPT_WIDTH - 1] + "…" for line in lines[:EXCERPT_LINES]]
    return "\n".join([*shown, "…"] if len(lines) > EXCERPT_LINES else shown)


def _correlation(run: Path, columns: Sequence[str]) -> dict[str, Any] | None:
    """Spearman's coefficients of the scores in the sample; None if there are no two of them."""
    path = run / "select" / "sample.parquet"
    if not path.exists():
        return None
    table = read_table(path)
    names = [name for name in columns if name in table.column_names]
    values = {name: table[name].to_numpy().astype(np.float64) for name in names}
    names = [name for name in names if np.isfinite(values[name]).sum() > 2]
    if len(names) < 2:
        return None
    rows = [{"name": one, "cells": [_shown(spearman(values[one], values[other])) for other in names]} for one in names]
    return {"names": names, "rows": rows, "documents": table.num_rows}


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of the pairs of which both are there; NaN where one of them does not vary."""
    there = np.isfinite(one) & np.isfinite(other)
    if there.sum() < 3:
        return math.nan
    first, second = _ranks(one[there]), _ranks(other[there])
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / scale if scale else math.nan


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values have the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return ranks


def _shown(value: float) -> dict[str, Any]:
    """A coefficient and how strong it is, 0 to 4, for its shade."""
    if math.isnan(value):
        return {"text": MISSING, "strength": 0}
    return {"text": f"{value:.2f}".replace("-", "\u2212"), "strength": min(int(abs(value) * 5), 4)}
