"""The evaluation section and the samples: draws what each task says of itself, whatever the task is.

A task of the package builds its section from its statistics; that of a user's own task is kept in `stats.json`, so no
code of the user runs here. Statistics that a task cannot read (an older version wrote them) are listed as they are,
so nothing that was measured is hidden, and a task that has not run is said not to have run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from markupsafe import Markup

from codeshell.evaluate.section import Bar, Cell, Chart, Difference, Interval, Row, Sample, Section, Share
from codeshell.evaluate.task import Task
from codeshell.evaluate.tasks import TASKS, get_task, in_package
from codeshell.report import charts, read
from codeshell.report.format import MISSING, count, cut, number, share, words
from codeshell.report.sections import flatten, mapping, objects

T = TypeVar("T")

MINUS = "\u2212"
SHOWN_SAMPLES = 4
"""Samples of each task before the fold."""
MAX_SAMPLE = 2400
"""Characters shown of any text of a sample."""
KNOWN = ("held_out", "not_run", "claims", "sections", "failure")
"""Keys of the statistics beside the tasks' names."""


def evaluation(run: Path, stats: dict[str, Any] | None) -> dict[str, Any] | None:
    """The section's claims and tasks, and the charts they use; None if the stage has not run."""
    if stats is None:
        return None
    # A section of each task that has run: of the package's tasks from their statistics, of others as they were kept.
    sections: dict[str, Section] = {}
    for name, result in stats.items():
        if isinstance(result, dict) and name not in KNOWN and in_package(name):
            sections[name] = _section(run, get_task(name), result)
    for name, tree in mapping(stats.get("sections")).items():
        own = _built(partial(msgspec.convert, tree, Section))
        sections[name] = own or _plain(name, mapping(stats.get(name)))
    tasks = [_drawn(name, section) for name, section in _ranked(sections)]
    # What has not run comes last, with its reason in place of numbers.
    for name, reason in mapping(stats.get("not_run")).items():
        title = get_task(name).title if in_package(name) else words(name).capitalize()
        tasks.append(_drawn(name, Section(title, (f"Not run: {cut(reason, 500)}",))))
    claims = stats.get("claims")
    # Keys that no task has claimed, for example of a later version. A task that has not run is null, and is said above.
    said = (*KNOWN, *TASKS, *sections, *mapping(stats.get("not_run")))
    left = {key: value for key, value in stats.items() if key not in said}
    return {
        "claims": [str(claim) for claim in claims] if isinstance(claims, list) else [],
        "tasks": tasks,
        "charts": [chart for task in tasks for chart in task["charts"]],
        "rest": flatten(left) if left else [],
    }


def samples(node: Any) -> list[dict[str, Any]]:
    """Groups of samples, each sample as finished markup; empty if there are none."""
    groups = []
    for name, items in _ranked(mapping(node)):
        task = get_task(name) if in_package(name) else None
        # The samples of a user's own task are kept in the form in which they are drawn.
        show = task.show if task else partial(msgspec.convert, type=Sample)
        shown = [_built(partial(show, item)) for item in objects(items)]
        drawn = [_sample(sample) for sample in shown if sample is not None]
        if drawn:
            title = (task.samples_heading or task.title) if task else words(name)
            groups.append({"title": title, "shown": drawn[:SHOWN_SAMPLES], "folded": drawn[SHOWN_SAMPLES:]})
    return groups


def headline_bits(stats: dict[str, Any] | None) -> list[tuple[str, float]]:
    """(system, bits per byte) of the systems of the first screen, the model first."""
    systems = mapping(mapping((stats or {}).get("bits_per_byte")).get("systems"))
    rows = []
    for key, name in (("model", "this model"), ("byte_model", "byte model"), ("xz", "xz -9e")):
        value = number(mapping(systems.get(key)).get("bits_per_byte"))
        if value is not None:
            rows.append((name, value))
    return rows


def headline_infill(stats: dict[str, Any] | None) -> str | None:
    """The share of masked lines that the model fills in exactly, with its interval, in one line."""
    groups = mapping(mapping((stats or {}).get("infill")).get("groups"))
    score = mapping(mapping(groups.get("all")).get("exact_match"))
    # The file may be of another version, so each step down is allowed to fail.
    value = number(score.get("share"))
    if value is None:
        return None
    ends = _built(lambda: _cell(Interval(float(score["interval"][0]), float(score["interval"][1]), percent=True)))
    n = count(score.get("n"))
    return f"Fills in {share(value, 1)} of masked lines exactly; 95 % interval {ends or MISSING}, n = {n}"


def _ranked(named: dict[str, T]) -> list[tuple[str, T]]:
    """The package's tasks in their own order, then the others by name: a file of JSON has lost the order."""
    order = list(TASKS)
    return sorted(named.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]))


def _built(build: Callable[[], T]) -> T | None:
    """What `build` makes of statistics from a file; None where they are not in the form that it expects."""
    try:
        return build()
    except (LookupError, TypeError, ValueError, AttributeError, msgspec.MsgspecError):
        return None


def _details(run: Path, task: Task, result: dict[str, Any]) -> dict[str, Any]:
    """The whole statistics of a task of which `stats.json` holds a part, if their file is there."""
    details = read.read_any(run / "evaluate" / f"{task.name}.json") if task.keeps_details else None
    return details if isinstance(details, dict) else result


def _section(run: Path, task: Task, result: dict[str, Any]) -> Section:
    # Without readable details, what stats.json holds still makes a section.
    for statistics in (_details(run, task, result), result):
        section = _built(partial(task.section, statistics))
        if section is not None:
            return section
    return _plain(task.title, result)


def _plain(title: str, result: dict[str, Any]) -> Section:
    about = "These statistics are not in the form that this version of codeshell writes; they are listed as they are."
    return Section(words(title), (about,), others=result)


def _drawn(name: str, section: Section) -> dict[str, Any]:
    """What the template shows of a section."""
    return {
        "title": cut(section.heading),
        "about": " ".join(section.sentences),
        "tables": [
            {"caption": table.caption, "head": table.head, "rows": [_row(row) for row in table.rows]}
            for table in section.tables
        ],
        "charts": [_chart(f"{name}-{index}", chart) for index, chart in enumerate(section.charts)],
        "rest": flatten(section.others) if section.others else [],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": cut(row.name),
        "cells": [_cell(cell) for cell in row.cells],
        "strong": row.strong,
        "bar": _bar(row.bar, "c1" if row.strong else "c0"),
    }


def _cell(cell: Cell) -> str:
    """A cell as text; numbers have a minus sign instead of a hyphen."""
    # A text is foreign and may be long. None and counts share the sign for "no value".
    if isinstance(cell, str):
        return cut(cell)
    if cell is None or isinstance(cell, int):
        return count(cell)
    if isinstance(cell, float):
        return MISSING if number(cell) is None else f"{cell:.3f}"
    if isinstance(cell, Share):
        return share(cell.value, 1)
    if isinstance(cell, Interval):
        low, high = cell.low, cell.high
        ends = f"[{100 * low:.1f}, {100 * high:.1f}] %" if cell.percent else f"[{low:.3f}, {high:.3f}]"
        return ends.replace("-", MINUS)
    assert isinstance(cell, Difference)
    # The sign is always shown, and a difference that may be chance is never shown without that remark.
    text = f"{100 * cell.value:+.1f} points" if cell.percent else f"{cell.value:+.3f}"
    return text.replace("-", MINUS) + ("" if cell.significant else " (not significant)")


def _bar(bar: Bar | None, kind: str) -> Markup:
    if bar is None:
        return Markup()
    if bar.ends is None:
        return charts.bar(bar.value, bar.top, kind)
    return charts.interval(bar.value, *bar.ends, bar.top, kind)


def _chart(name: str, chart: Chart) -> charts.Chart:
    return charts.Chart(
        name,
        chart.title,
        chart.x_label,
        chart.y_label,
        [charts.Series(curve.label, curve.points, curve.color) for curve in chart.curves],
        chart.text,
        chart.marks,
        y_format=lambda value: f"{value:.2f}",
    )


def _sample(sample: Sample) -> Markup:
    """A sample as an article: verdict and place, the text with what the model wrote marked, the notes."""
    # Markup.format escapes what it is given: paths, languages and texts are foreign.
    heads = [Markup('<span class="{}">{}</span>').format("good" if sample.good else "bad", sample.verdict or MISSING)]
    heads += [Markup("<span>{}</span>").format(cut(text)) for text in (*sample.remarks, sample.language) if text]
    place = cut(sample.path) + ("" if sample.line is None else f":{sample.line}")
    texts = [
        Markup('<span class="{}">{}</span>').format("made" if text.made else "given", _clip(text.text))
        for text in sample.texts
    ]
    notes = [Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(label, _code(text)) for label, text in sample.notes]
    return Markup(
        '<article class="sample"><header>{}<span class="path">{}</span></header><pre>{}</pre><dl>{}</dl></article>'
    ).format(Markup().join(heads), place, Markup().join(texts), Markup().join(notes))


def _code(text: str) -> Markup:
    return Markup("<pre>{}</pre>").format(_clip(text)) if text.strip() else Markup('<span class="aside">nothing</span>')


def _clip(text: str) -> str:
    return text if len(text) <= MAX_SAMPLE else f"{text[:MAX_SAMPLE]} … {len(text) - MAX_SAMPLE:,} more characters"
