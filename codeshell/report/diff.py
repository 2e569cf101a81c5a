"""Two texts side by side: which lines differ, and within a changed line which words.

The texts come from a corpus, so all is bounded: the lines compared, the rows shown, the characters of a line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from markupsafe import Markup, escape

MAX_LINES = 1500
"""Lines of each text that are compared; difflib takes quadratic time in the worst case."""
MAX_EQUAL = 100_000
"""Pairs of equal lines beyond which difflib passes over the lines that are more than a hundredth of the text. It looks
at all these pairs for each stretch that it finds: with every second line blank, 1,500 lines took half a minute."""
MAX_ROWS = 48
"""Rows shown for one pair."""
MAX_CHARACTERS = 140
"""Characters shown of a line."""
CONTEXT = 2
"""Equal lines shown before and after a change."""

_WORD = re.compile(r"\w+|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One line of the table. `kind` is same, change, delete, insert or gap; the `left` of a gap says what it hides."""

    kind: str
    left_number: int | None = None
    left: Markup | None = None
    right_number: int | None = None
    right: Markup | None = None


@dataclass(frozen=True)
class Diff:
    """The table of a pair. `changed` counts the compared lines that differ; `notes` say what was left out."""

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
    # Changes that are close to one another form a group, with equal lines around it.
    counts = Counter(right)
    repeated = sum(counts[line] for line in left) > MAX_EQUAL
    matcher = SequenceMatcher(None, left, right, autojunk=repeated)
    groups = list(matcher.get_grouped_opcodes(CONTEXT))
    if not groups:
        # Equal texts have no group: their first lines stand for them.
        groups = [[("equal", 0, min(len(left), 8), 0, min(len(right), 8))]]
    # `end` is the first line of the left text that no row has shown or hidden yet.
    end = 0
    for group in groups:
        if group[0][1] > end:
            rows.append(_gap(group[0][1] - end))
        for tag, left_start, left_end, right_start, right_end in group:
            stretch = list(_rows(tag, left, left_start, left_end, right, right_start, right_end))
            changed += sum(row.kind != "same" for row in stretch)
            rows += stretch
        end = group[-1][2]
    if len(left) > end:
        rows.append(_gap(len(left) - end))
    # A pair shows its first rows only; how many more there are is said.
    if len(rows) > MAX_ROWS:
        notes.append(f"{len(rows) - MAX_ROWS:,} more rows are not shown")
        rows = rows[:MAX_ROWS]
    return Diff(rows, changed, max(len(left), len(right)), notes)


def _gap(lines: int) -> Row:
    return Row("gap", left=Markup(f"{lines:,} equal line{'s' if lines > 1 else ''}"))


def _rows(
    tag: str, left: list[str], left_start: int, left_end: int, right: list[str], right_start: int, right_end: int
) -> Iterator[Row]:
    # A stretch of unequal lengths pairs its lines as far as they go; the rest has one side only.
    for offset in range(max(left_end - left_start, right_end - right_start)):
        i, j = left_start + offset, right_start + offset
        has_left, has_right = i < left_end, j < right_end
        # Lines that difflib passed over may stand beside their equals.
        if tag == "equal" or (has_left and has_right and left[i] == right[j]):
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
    """Two lines with the words that differ marked. Lines with little in common stay unmarked: marks would be noise."""
    if max(len(left), len(right)) > MAX_CHARACTERS:
        return _cut(left), _cut(right)
    # Words, blanks and single signs are compared as units.
    before, after = _WORD.findall(left), _WORD.findall(right)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    if matcher.ratio() < 0.4:
        return escape(left), escape(right)
    # Adding a str to Markup escapes it, so the text of the corpus stays text.
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
