"""What a task shows in the report, as plain data: a section with sentences, tables and charts, and samples.

A task builds these from its own statistics; `codeshell.report` draws them, whatever the task is. The structs are JSON
(msgspec), so the section of a user's own task is kept with the results and needs no code of the user to be drawn.
"""

from __future__ import annotations

from typing import Any

import msgspec

# Cells of a table: values with their meaning. How they are written (digits, percent, minus sign) is the report's.


class Share(msgspec.Struct, frozen=True, tag=True):
    """A cell that is printed in percent; `value` is in 0 … 1."""

    value: float


class Interval(msgspec.Struct, frozen=True, tag=True):
    """A cell with the two ends of an interval."""

    low: float
    high: float
    percent: bool = False
    """The ends are shares, and are printed in percent."""


class Difference(msgspec.Struct, frozen=True, tag=True):
    """A cell with a difference, and whether the sample is large enough to claim it."""

    value: float
    significant: bool
    percent: bool = False
    """The value is a difference of shares, and is printed in percentage points."""


Cell = None | int | float | str | Share | Interval | Difference
"""None is a value that is not there, an int a count, a float a number with three decimals, a str itself."""


# Tables and charts.


class Bar(msgspec.Struct, frozen=True):
    """A bar at the end of a row, with its interval as a whisker if it has one; `top` is the value of a full bar."""

    value: float
    top: float
    ends: tuple[float, float] | None = None


class Row(msgspec.Struct, frozen=True):
    """A row of a table. `strong` marks the row that the table is about, the model's."""

    name: str
    cells: tuple[Cell, ...]
    bar: Bar | None = None
    strong: bool = False


class Table(msgspec.Struct, frozen=True):
    """A table; `head` names the column of the rows' names, the columns of cells, and with "" that of the bars."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""


class Curve(msgspec.Struct, frozen=True):
    """One line of a chart. `color` is 1 to 4."""

    label: str
    points: tuple[tuple[float, float], ...]
    color: int = 1


class Chart(msgspec.Struct, frozen=True):
    """A line chart. `text` says the same in words; `marks` are vertical lines, (x, label) each."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    text: str
    marks: tuple[tuple[float, str], ...] = ()


# What a task hands over: one section, and any number of samples.


class Section(msgspec.Struct, frozen=True):
    """A task's part of the report. `others` are statistics that no table shows; the report lists them folded."""

    heading: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    others: dict[str, Any] = {}


class Text(msgspec.Struct, frozen=True):
    """A stretch of a sample's text: given to the model, or made by it."""

    text: str
    made: bool = False


class Sample(msgspec.Struct, frozen=True):
    """One answer of the model with what was asked. `verdict` is a word or two, `good` whether the answer counts.

    `notes` are further texts with a label each, for example the answer that was expected.
    """

    verdict: str
    good: bool
    texts: tuple[Text, ...]
    path: str = ""
    line: int | None = None
    language: str = ""
    remarks: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


# Shorthands for what most tasks show: a share with its interval, and its difference from a baseline.

SHARE_HEAD = ("Correct", "Share", "95 % interval")
"""The columns of `share_cells`."""


def share_cells(score: dict[str, Any]) -> tuple[Cell, ...]:
    """The cells of a score `{count, n, share, interval}`, as `intervals.share` makes it."""
    # An empty sample has neither a share nor an interval.
    ends = score["interval"]
    return (
        f"{score['count']:,} of {score['n']:,}",
        None if score["share"] is None else Share(score["share"]),
        None if ends is None else Interval(ends[0], ends[1], percent=True),
    )


def share_row(name: str, score: dict[str, Any], *more: Cell, strong: bool = False) -> Row:
    """A row with the cells of a score, `more` cells after them, and the share as a bar."""
    # A full bar is 100 %, so bars of different tables can be compared.
    ends = score["interval"]
    bar = None if score["share"] is None else Bar(score["share"], 1.0, None if ends is None else (ends[0], ends[1]))
    return Row(name, (*share_cells(score), *more), bar, strong)


def difference_cell(difference: dict[str, Any] | None, *, percent: bool = False) -> Cell:
    """The cell of `{difference, significant}`; an empty one where there is nothing to compare with."""
    if difference is None or difference["difference"] is None:
        return ""
    return Difference(difference["difference"], difference["significant"], percent)


def left_over(result: dict[str, Any], *shown: str) -> dict[str, Any]:
    """The statistics that no table or sentence has shown."""
    return {key: value for key, value in result.items() if key not in shown}
