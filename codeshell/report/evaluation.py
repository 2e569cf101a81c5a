"""The evaluation section and the samples: tables, intervals and charts of what `codeshell.evaluate` wrote.

The keys are those that `codeshell.evaluate` documents. A key that is not known here is listed as it is, so nothing
that was measured is hidden, and a part that is missing or null is left out or said not to have run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from codeshell.report.charts import Chart, Series, bar, interval
from codeshell.report.format import MISSING, count, cut, number, share, words
from codeshell.report.sections import flatten, mapping, objects

SYSTEMS = {
    "model": "the model",
    "byte_model": "order-3 byte model",
    "xz": "xz -9e, all files as one",
    "xz_per_file": "xz -9e, file by file",
    "untrained": "the model before training",
}
SCORES = {
    "exact_match": "the model, whole answer",
    "exact_match_first_line": "the model, first line of the answer",
    "majority_line": "most common line of the language",
    "copy_previous_line": "the line above, copied",
}
GROUPS = {"all": "All lines", "non_trivial": "Lines of two words or more", "trivial": "Lines of at most one word"}
MINUS = "\u2212"
SHOWN_SAMPLES = 4
"""Samples of each kind before the fold."""
CONTEXT_LINES = 8
"""Lines shown on each side of an infilled line."""
MAX_SAMPLE = 2400
"""Characters shown of any text of a sample."""


def evaluation(stats: dict[str, Any] | None, positions: Any) -> dict[str, Any] | None:
    """The section's claims and tasks, and the charts they use; None if the stage has not run."""
    if stats is None:
        return None
    known = ("bits_per_byte", "infill", "functions", "positions", "claims", "not_run", "held_out")
    tasks = [
        task
        for task in (
            _bits(mapping(stats.get("bits_per_byte"))),
            _infill(mapping(stats.get("infill"))),
            _functions(mapping(stats.get("functions"))),
            _positions(mapping(stats.get("positions")), mapping(positions)),
        )
        if task
    ]
    for part, reason in mapping(stats.get("not_run")).items():
        tasks.append(_task(words(part).capitalize(), f"Not run: {cut(reason, 500)}"))
    claims = stats.get("claims")
    return {
        "claims": [str(claim) for claim in claims] if isinstance(claims, list) else [],
        "tasks": tasks,
        "charts": [chart for task in tasks for chart in task["charts"]],
        "rest": flatten({key: value for key, value in stats.items() if key not in known} or {})
        if stats.keys() - set(known)
        else [],
    }


def headline_bits(stats: dict[str, Any] | None) -> list[tuple[str, float]]:
    """(system, bits per byte) of the systems of the first screen, the model first."""
    systems = mapping(mapping((stats or {}).get("bits_per_byte")).get("systems"))
    rows = []
    for key, name in (("model", "this model"), ("byte_model", "order-3"), ("xz", "xz -9e")):
        value = number(mapping(systems.get(key)).get("bits_per_byte"))
        if value is not None:
            rows.append((name, value))
    return rows


def headline_infill(stats: dict[str, Any] | None) -> str | None:
    """Exact match with its interval in one line."""
    groups = mapping(mapping((stats or {}).get("infill")).get("groups"))
    score = mapping(mapping(groups.get("all")).get("exact_match"))
    if number(score.get("share")) is None:
        return None
    ends = _range(score.get("interval"), percent=True)
    return f"Infill exact match {share(score['share'], 1)} {ends}, n = {count(score.get('n'))}"


def _task(title: str, about: str) -> dict[str, Any]:
    return {"title": title, "about": about, "tables": [], "charts": [], "rest": []}


def _table(caption: str, head: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"caption": caption, "head": head, "rows": rows}


def _row(name: str, cells: list[str], *, strong: bool = False, graph: Markup | None = None) -> dict[str, Any]:
    return {"name": cut(name), "cells": cells, "strong": strong, "bar": graph or Markup()}


def _rest(node: dict[str, Any], *known: str) -> list[tuple[str, str]]:
    left = {key: value for key, value in node.items() if key not in known}
    return flatten(left) if left else []


def _bits(node: dict[str, Any]) -> dict[str, Any] | None:
    systems = {name: mapping(entry) for name, entry in mapping(node.get("systems")).items()}
    differences = mapping(node.get("differences"))
    if not systems:
        return None
    task = _task(
        "Bits per byte",
        f"What it takes to write down {count(node.get('bytes'))} bytes of {count(node.get('files'))} held-out files; "
        "less is better. Every system sees the same bytes. Intervals are 95 %, from a bootstrap over files.",
    )
    values = {name: number(entry.get("bits_per_byte")) for name, entry in systems.items()}
    top = max((value for value in values.values() if value is not None), default=0.0)
    top = max([top, *(high for name in systems for high in _ends(systems[name].get("interval"))[1:])])
    rows = []
    for name in sorted(systems, key=lambda key: (values[key] is None, values[key] or 0.0, key)):
        low, high = _ends(systems[name].get("interval")) or (None, None)
        value, difference = values[name], mapping(differences.get(name))
        kind = "c1" if name == "model" else "c0"
        graph = Markup()
        if value is not None:
            graph = bar(value, top, kind) if low is None else interval(value, low, high or low, top, kind)
        cells = [_fixed(value), _range(systems[name].get("interval")), _difference(difference)]
        rows.append(_row(SYSTEMS.get(name, words(name)), cells, strong=name == "model", graph=graph))
    head = ["System", "Bits per byte", "95 % interval", "Model minus system", ""]
    task["tables"].append(_table("", head, rows))
    by_language = {language: mapping(entry) for language, entry in mapping(node.get("by_language")).items()}
    names = [name for name in SYSTEMS if name in systems]
    if by_language:
        rows = [
            _row(
                language,
                [
                    count(entry.get("files")),
                    *(_fixed(mapping(mapping(entry.get("systems")).get(name)).get("bits_per_byte")) for name in names),
                ],
            )
            for language, entry in by_language.items()
        ]
        head = ["Language", "Files", *(SYSTEMS[name] for name in names)]
        task["tables"].append(_table("Bits per byte by language", head, rows))
    task["rest"] = _rest(node, "systems", "differences", "by_language", "files", "bytes")
    return task


def _infill(node: dict[str, Any]) -> dict[str, Any] | None:
    groups = mapping(node.get("groups"))
    if not groups:
        return None
    about = (
        f"{count(node.get('tasks'))} masked lines of {count(node.get('files'))} held-out files; the answer counts if "
        "it equals the line, blanks at the ends apart. Intervals are Wilson's, 95 %."
    )
    task = _task("Fill in one line", about)
    for key in [*(key for key in GROUPS if key in groups), *(key for key in groups if key not in GROUPS)]:
        scores = mapping(groups[key])
        rows = [
            _share_row(
                SCORES[name],
                mapping(scores[name]),
                strong=name == "exact_match",
                against=mapping(scores.get(f"against_{name}")),
            )
            for name in SCORES
            if isinstance(scores.get(name), dict)
        ]
        head = ["Answer", "Correct", "Share", "95 % interval", "Model minus this", ""]
        task["tables"].append(_table(GROUPS.get(key, words(key)), head, rows))
    by_language = mapping(node.get("by_language"))
    if by_language:
        ranked = sorted(by_language.items(), key=lambda item: (-(number(mapping(item[1]).get("n")) or 0), item[0]))
        rows = [_share_row(language, mapping(entry)) for language, entry in ranked]
        for row in rows:
            del row["cells"][3]
        head = ["Language", "Correct", "Share", "95 % interval", ""]
        task["tables"].append(_table("By language, the model's whole answer", head, rows))
    task["rest"] = _rest(node, "groups", "by_language", "tasks", "files")
    return task


def _functions(node: dict[str, Any]) -> dict[str, Any] | None:
    systems, differences = mapping(node.get("systems")), mapping(node.get("differences"))
    if not systems:
        return None
    about = (
        f"The model continues {count(node.get('headers'))} held-out Python function headers; the answer counts if "
        "Python's parser accepts it. That says that the syntax is right and no more."
    )
    task = _task("Functions that parse", about)
    rows = []
    for name in [*(key for key in SYSTEMS if key in systems), *(key for key in systems if key not in SYSTEMS)]:
        entry = mapping(systems[name])
        row = _share_row(
            SYSTEMS.get(name, words(name)),
            mapping(entry.get("parses")),
            strong=name == "model",
            against=mapping(differences.get(name)),
        )
        row["cells"].insert(3, count(entry.get("finished")))
        rows.append(row)
    head = ["System", "Parse", "Share", "95 % interval", "Finished by itself", "Model minus this", ""]
    task["tables"].append(_table("", head, rows))
    verdicts = {name: mapping(mapping(entry).get("verdicts")) for name, entry in systems.items()}
    if any(verdicts.values()):
        task["rest"] = flatten({"verdicts": verdicts})
    task["rest"] += _rest(node, "systems", "differences", "headers")
    return task


def _positions(node: dict[str, Any], curves: dict[str, Any]) -> dict[str, Any] | None:
    pairs = objects(node.get("pairs"))
    if not pairs:
        return None
    about = (
        f"The same {count(node.get('sequences'))} held-out sequences of {count(node.get('context'))} tokens, read by "
        "the model before and after each change of context. Differences are paired; a negative one is a gain."
    )
    task = _task("Loss by position", about)
    rows = []
    for one in pairs:
        contexts = f"{count(one.get('context_before'))} to {count(one.get('context_after'))} tokens"
        change = f"{contexts}, step {count(one.get('step'))}"
        for part, title in (("within", "inside the old context"), ("beyond", "beyond the old context")):
            entry = mapping(one.get(part))
            if entry:
                values = [_fixed(mapping(entry.get(side)).get("mean")) for side in ("before", "after")]
                gain = _difference({**entry, "difference": mapping(entry.get("difference")).get("mean")})
                rows.append(_row(f"{change}, {title}", [*values, gain, _range(entry.get("interval"))]))
    head = ["Change of context", "Before, nats", "After, nats", "Difference", "95 % interval"]
    task["tables"].append(_table("", head, rows))
    for index, one in enumerate(objects(curves.get("pairs"))):
        chart = _position_chart(index, one)
        if chart:
            task["charts"].append(chart)
    task["rest"] = _rest(node, "pairs", "sequences", "context")
    return task


def _position_chart(index: int, node: dict[str, Any]) -> Chart | None:
    series = []
    for color, side, name in ((2, "before", "context_before"), (1, "after", "context_after")):
        points = []
        for bucket in objects(node.get("buckets")):
            start, end = number(bucket.get("start")), number(bucket.get("end"))
            value = number(mapping(bucket.get(side)).get("mean"))
            if value is not None and start is not None and end is not None:
                points.append(((start + end) / 2, value))
        series.append(Series(f"{side}: trained to {count(node.get(name))}", points, color))
    if not all(one.points for one in series):
        return None
    old = number(node.get("context_before"))
    ends = [one.points[-1][1] for one in series]
    return Chart(
        f"positions-{index}",
        f"Loss by position, {count(node.get('context_before'))} to {count(node.get('context_after'))} tokens",
        "position in the sequence, tokens",
        "nats per token",
        series,
        f"At the last positions the loss is {ends[0]:.2f} before the phase and {ends[1]:.2f} after it.",
        [(old, "old context")] if old is not None else [],
        y_format=lambda value: f"{value:.2f}",
    )


def _share_row(
    name: str, score: dict[str, Any], *, strong: bool = False, against: dict[str, Any] | None = None
) -> dict[str, Any]:
    value, ends = number(score.get("share")), _ends(score.get("interval"))
    graph = Markup()
    if value is not None:
        kind = "c1" if strong else "c0"
        graph = interval(value, ends[0], ends[1], 1.0, kind) if ends else bar(value, 1.0, kind)
    cells = [
        f"{count(score.get('count'))} of {count(score.get('n'))}",
        share(value, 1),
        _range(score.get("interval"), percent=True),
        _difference(against or {}, percent=True),
    ]
    return _row(name, cells, strong=strong, graph=graph)


def _ends(node: Any) -> tuple[float, ...]:
    """(low, high) of an interval, or nothing."""
    if not isinstance(node, list) or len(node) != 2:
        return ()
    low, high = number(node[0]), number(node[1])
    return () if low is None or high is None else (low, high)


def _range(node: Any, percent: bool = False) -> str:
    ends = _ends(node)
    if not ends:
        return MISSING
    text = f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}] %" if percent else f"[{ends[0]:.3f}, {ends[1]:.3f}]"
    return text.replace("-", MINUS)


def _difference(node: dict[str, Any], percent: bool = False) -> str:
    """A difference and whether the sample carries it."""
    value = number(node.get("difference"))
    if value is None:
        return ""
    text = f"{100 * value:+.1f} points" if percent else f"{value:+.3f}"
    return text.replace("-", MINUS) + ("" if node.get("significant") else " (not significant)")


def _fixed(value: Any) -> str:
    amount = number(value)
    return MISSING if amount is None else f"{amount:.3f}"


def samples(node: Any) -> list[dict[str, Any]]:
    """Groups of samples, each sample as finished markup; empty if there are none."""
    tree = mapping(node)
    groups = []
    for key, title, draw in (
        ("infill", "Filled-in lines", _infill_sample),
        ("functions", "Functions", _function_sample),
    ):
        items = [draw(item) for item in objects(tree.get(key))]
        if items:
            groups.append({"title": title, "shown": items[:SHOWN_SAMPLES], "folded": items[SHOWN_SAMPLES:]})
    return groups


def _infill_sample(item: dict[str, Any]) -> Markup:
    before, after = str(item.get("before") or ""), str(item.get("after") or "")
    if (number(item.get("line")) or 0) > before.count("\n") + 1:
        # The text was cut somewhere in a line: what is left of that line would only puzzle.
        before = before.partition("\n")[2]
    correct = bool(item.get("exact_match"))
    verdict = Markup('<span class="{}">{}</span>').format(
        "good" if correct else "bad", "exact" if correct else "differs"
    )
    notes = [("wanted", _code(item.get("target")))]
    text = Markup(
        '<pre><span class="given">{}</span><span class="made">{}</span><span class="given">{}</span></pre>'
    ).format(
        "".join(before.splitlines(keepends=True)[-CONTEXT_LINES:])[-MAX_SAMPLE:],
        _clip(str(item.get("answer") or "") or " "),
        "".join(after.splitlines(keepends=True)[: CONTEXT_LINES + 1])[:MAX_SAMPLE],
    )
    return _sample(item, verdict, text, notes)


def _function_sample(item: dict[str, Any]) -> Markup:
    verdict_name = str(item.get("verdict") or "")
    kind = "good" if verdict_name == "parsed" else "bad"
    verdict = Markup('<span class="{}">{}</span>').format(kind, words(verdict_name) or MISSING)
    if item.get("finished") is False:
        verdict += Markup("<span>not finished</span>")
    text = Markup('<pre><span class="given">{}</span><span class="made">{}</span></pre>').format(
        _clip(str(item.get("header") or "")), _clip(str(item.get("body") or ""))
    )
    notes = [(SYSTEMS[key], _code(item[key])) for key in ("untrained", "byte_model") if isinstance(item.get(key), str)]
    return _sample(item, verdict, text, notes)


def _sample(item: dict[str, Any], verdict: Markup, text: Markup, notes: Sequence[tuple[str, Markup]]) -> Markup:
    line = number(item.get("line"))
    place = cut(item.get("path") or "") + (f":{line:.0f}" if line is not None else "")
    language = Markup("<span>{}</span>").format(cut(item["language"])) if item.get("language") else Markup()
    rows = Markup().join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*note) for note in notes)
    return Markup(
        '<article class="sample"><header>{}{}<span class="path">{}</span></header>{}<dl>{}</dl></article>'
    ).format(verdict, language, place, text, rows)


def _code(value: Any) -> Markup:
    text = str(value if value is not None else "")
    return Markup("<pre>{}</pre>").format(_clip(text)) if text.strip() else Markup('<span class="aside">nothing</span>')


def _clip(text: str) -> str:
    return text if len(text) <= MAX_SAMPLE else f"{text[:MAX_SAMPLE]} … {len(text) - MAX_SAMPLE:,} more characters"
