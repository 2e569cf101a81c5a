"""The page of an ablation: the figure, the values and differences as tables, and what each arm was trained on.

Everything is drawn from the content of `ablation.json` (`codeshell.ablate.ablation.gather`).
"""

from __future__ import annotations

from typing import Any

from codeshell.report import ablation_figure, format, page
from codeshell.report.ablation_figure import flat, is_share, title_of

NONE = (None, None)
REPOSITORIES = 8
"""Repositories of each arm that the page names."""


def figure(summary: dict[str, Any]) -> str:
    """The figure as an SVG file of its own."""
    return ablation_figure.standalone(summary)


def render(summary: dict[str, Any]) -> str:
    """The page as text of HTML."""
    done, planned = summary["trainings"]["done"], summary["trainings"]["planned"]
    part = "" if done == planned else f" Only {done} of {planned} trainings are done."
    ablate = summary["settings"]["ablate"]
    lead = (
        f"The same model, {format.short_count(summary['parameters'])} parameters, trained on "
        f"{summary['trained_tokens']:,} tokens of each of {len(ablate['arms'])} selections of one corpus.{part}"
    )
    return page.fill(
        "ablation.html",
        {
            "name": summary["name"],
            "what": "Ablation of data selection",
            "started": None,
            "lead": lead,
            "cards": _cards(summary),
            "chart_data": {},
            "directory": "the ablation's directory",
            "figure": ablation_figure.inline(summary),
            "baseline": summary["baseline"],
            "ends": [_table(summary, key) for key in summary["metrics"] if not flat(summary, key)],
            "flat": [_same(summary, key) for key in summary["metrics"] if flat(summary, key)],
            "arms": _arms(summary),
            "held_out": summary["held_out"],
            "corpus": summary["corpus"],
            "inputs": summary["inputs"],
            "not_run": summary["not_run"],
            "settings": _settings(summary),
        },
    )


def _number(value: float | None, key: str, signed: bool = False) -> str:
    """A value of a metric for a reader: percent of a share, three decimals of bits."""
    if value is None:
        return format.MISSING
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f} %" if is_share(key) else f"{value:{sign}.3f}"


def _between(low: float | None, high: float | None, *, key: str) -> str:
    if low is None or high is None:
        return format.MISSING
    return f"{_number(low, key, True)} to {_number(high, key, True)}"


def _cards(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """For each held-out set the difference in bits per byte of every arm at the end, in one card."""
    cards = []
    for key in summary["metrics"]:
        if is_share(key):
            continue
        lines = []
        for arm, points in summary["differences"][key].items():
            last = points[-1]
            sure = "" if last["clear"] else " (not clear)"
            lines.append(f"{arm}: {_number(last['mean'], key, True)}{sure}")
        base = summary["curves"][key].get(summary["baseline"])
        value = _number(base[-1]["mean"], key) if base else format.MISSING
        card = page.make_card(f"Held out: {key.partition('/')[0]}", value, lines, "bits per byte of random data")
        card["unit"] = f"bits per byte, {summary['baseline']}"
        cards.append(card)
    return cards


def _table(summary: dict[str, Any], key: str) -> dict[str, Any]:
    """The values of a metric at the last point: one row for each arm."""
    rows = []
    for arm in summary["arms"]:
        points = summary["curves"][key].get(arm)
        if not points:
            continue
        last = points[-1]
        difference = (summary["differences"][key].get(arm) or [None])[-1]
        row: dict[str, Any] = {
            "arm": arm,
            "mean": _number(last["mean"], key),
            "seeds": ", ".join(_number(value, key) for value in last["values"].values()),
            "difference": None,
        }
        if difference is not None:
            row |= {
                "difference": _number(difference["mean"], key, True),
                "over_seeds": _between(difference["low"], difference["high"], key=key),
                "over_files": _between(*difference.get("files", NONE), key=key),
                "sure": "yes" if difference["clear"] else "no",
                "reached": summary["reached"].get(key, {}).get(arm),
            }
        rows.append(row)
    return {"title": title_of(key), "rows": rows, "bits": not is_share(key)}


def _same(summary: dict[str, Any], key: str) -> str:
    """A metric that says nothing, as a sentence."""
    values = [v for points in summary["curves"][key].values() for point in points for v in point["values"].values()]
    return f"{title_of(key)}: {_number(values[0], key)} in every evaluation" if values else title_of(key)


def _arms(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What each arm's first seed was trained on."""
    found: dict[str, dict[str, Any]] = {}
    for name, selection in summary["selections"].items():
        arm = name.rpartition(", seed ")[0]
        if arm in found:
            continue
        keys = summary["settings"]["ablate"]["arms"].get(arm, {})
        whole = selection["pool"]["all"]["tokens"]
        found[arm] = {
            "arm": arm,
            "selects": ", ".join(f"{key} = {value}" for key, value in keys.items()) or "a random sample",
            "documents": selection["documents"],
            "tokens": selection["tokens"],
            "bytes": selection["bytes"],
            "through": selection["pool"]["after_limits"]["tokens"] / whole if whole else 0.0,
            "repositories": ", ".join(
                f"{name} {tokens / max(selection['tokens'], 1):.0%}"
                for name, tokens in sorted(selection["repositories"].items(), key=_largest)[:REPOSITORIES]
            ),
        }
    return list(found.values())


def _largest(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _settings(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Settings that decide the numbers, and the machine."""
    rows = []
    for section in ("model", "train", "evaluate"):
        for key, value in summary["settings"][section].items():
            rows.append((f"{section}.{key}", str(value)))
    rows += [(f"ablate.{key}", str(summary["settings"]["ablate"][key])) for key in ("seeds", "tokens", "points")]
    rows += [("seed", str(summary["settings"]["seed"]))]
    rows += [(key, str(summary["environment"][key])) for key in ("codeshell", "processor", "system")]
    return rows
