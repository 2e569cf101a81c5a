"""Two texts side by side: which lines differ, and within a changed line which words.

Bounded in every direction, because the texts come from a corpus: lines compared, rows shown, characters a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from markupsafe import Markup, escape

MAX_LINES = 1500
"""Lines of each text that are compared; difflib takes quadratic time in the worst case."""
MAX_ROWS = 48
"""Rows shown of one pair."""
MAX_CHARACTERS = 140
"""Characters shown of one line."""
CONTEXT = 2
"""Equal lines around a change."""

_WORD = re.compile(r"\w+|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One line of the table. `kind` is same, change, delete, insert or gap; a gap's `left` says what it leaves out."""

    kind: str
    left_number: int | None = None
    left: Markup | None = None
    right_number: int | None = None
    right: Markup | None = None


@dataclass(frozen=True)
class Diff:
    """A pair's table. `changed` counts the lines compared that differ on either side; `notes` are the cuts made."""

    rows: list[Row]
    changed: int
    lines: int
    notes: list[str]


def compare(left_text: str, right_text: str) -> Diff:
    """Compare line by line; equal stretches shrink to `CONTEXT` lines on each side of a change."""
    all_left, all_right = left_text.splitlines(), right_text.splitlines()
    left, right = all_left[:MAX_LINES], all_right[:MAX_LINES]
    notes = []
    if len(all_left) > MAX_LINES or len(all_right) > MAX_LINES:
        notes.append(f"only the first {MAX_LINES:,} lines were compared")
    rows: list[Row] = []
    changed = 0
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    groups = list(matcher.get_grouped_opcodes(CONTEXT))
    if not groups:
        groups = [[("equal", 0, min(len(left), 8), 0, min(len(right), 8))]]
    end = 0
    for group in groups:
        if group[0][1] > end:
            rows.append(_gap(group[0][1] - end))
        for tag, left_start, left_end, right_start, right_end in group:
            rows += _rows(tag, left, left_start, left_end, right, right_start, right_end)
            if tag != "equal":
                changed += max(left_end - left_start, right_end - right_start)
        end = group[-1][2]
    if len(left) > end:
        rows.append(_gap(len(left) - end))
    if len(rows) > MAX_ROWS:
        notes.append(f"{len(rows) - MAX_ROWS:,} more rows are not shown")
        rows = rows[:MAX_ROWS]
    return Diff(rows, changed, max(len(left), len(right)), notes)


def _gap(lines: int) -> Row:
    return Row("gap", left=Markup(f"{lines:,} equal line{'s' if lines > 1 else ''}"))


def _rows(
    tag: str, left: list[str], left_start: int, left_end: int, right: list[str], right_start: int, right_end: int
) -> Iterator[Row]:
    for offset in range(max(left_end - left_start, right_end - right_start)):
        i, j = left_start + offset, right_start + offset
        has_left, has_right = i < left_end, j < right_end
        if tag == "equal":
            yield Row("same", i + 1, _cut(left[i]), j + 1, _cut(right[j]))
        elif has_left and has_right:
            before, after = _words(left[i], right[j])
            yield Row("change", i + 1, before, j + 1, after)
        elif has_left:
            yield Row("delete", i + 1, _cut(left[i]))
        else:
            yield Row("insert", None, None, j + 1, _cut(right[j]))


def _cut(line: str) -> Markup:
    if len(line) <= MAX_CHARACTERS:
        return escape(line)
    return escape(line[:MAX_CHARACTERS]) + Markup('<i class="cut"> … {:,} more</i>').format(len(line) - MAX_CHARACTERS)


def _words(left: str, right: str) -> tuple[Markup, Markup]:
    """Two lines with the words that differ marked; unlike lines are left unmarked, for marks would be noise."""
    if max(len(left), len(right)) > MAX_CHARACTERS:
        return _cut(left), _cut(right)
    before, after = _WORD.findall(left), _WORD.findall(right)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    if matcher.ratio() < 0.4:
        return escape(left), escape(right)
    marked_left, marked_right = Markup(), Markup()
    for tag, left_start, left_end, right_start, right_end in matcher.get_opcodes():
        old, new = "".join(before[left_start:left_end]), "".join(after[right_start:right_end])
        if tag == "equal":
            marked_left, marked_right = marked_left + old, marked_right + new
            continue
        if old:
            marked_left += Markup("<b>{}</b>").format(old)
        if new:
            marked_right += Markup("<b>{}</b>").format(new)
    return marked_left, marked_right
