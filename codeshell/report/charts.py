"""Charts as inline SVG: lines with a legend, a text alternative and a table, and small bars for tables.

Every line chart is drawn twice, for a wide and for a narrow page, and the style sheet shows one of them: text in a
scaled SVG would be too small on a telephone. Colours come from the style sheet's classes, so both schemes work, and
nothing uses a style attribute, which the page's content security policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from codeshell.report.format import plain

Point = tuple[float, float]
TABLE_ROWS = 12
"""Rows of the table below each chart."""
LETTER = 7.2
"""Pixels of a letter in a label, at most on average: text in SVG does not tell how wide it is."""


@dataclass(frozen=True)
class Series:
    """One curve. `style` is line, faint (the raw values under a smoothed line), dots or cross."""

    label: str
    points: Sequence[Point]
    color: int = 1
    style: str = "line"


@dataclass(frozen=True)
class Chart:
    """What a line chart shows. `marks` are vertical lines with a label; `text` is the text alternative.

    `name` is unique in the page: it makes the ids of the elements. `from_zero` starts the vertical axis at 0. `bands`
    are stretches (first x, last x, label) side by side, every second one shaded. `heights` are those of the wide and
    the narrow drawing.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    text: str
    marks: Sequence[tuple[float, str]] = ()
    from_zero: bool = False
    y_format: Callable[[Any], str] = plain
    note: str = ""
    bands: Sequence[tuple[float, float, str]] = ()
    x_format: Callable[[Any], str] = plain
    heights: tuple[int, int] = (310, 270)


@dataclass(frozen=True)
class Frame:
    """The size of a drawing in pixels, its margins, and the range of values that the area inside them shows."""

    width: int
    height: int
    x_range: Point
    y_range: Point
    left: int = 56
    right: int = 14
    top: int = 34
    bottom: int = 40
    y_ticks: Sequence[float] = field(default_factory=tuple)

    def x(self, value: float) -> float:
        """The pixel of a horizontal value."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """The pixel of a vertical value; pixels count downwards, and values outside the range lie on its edge."""
        low, high = self.y_range
        inner = self.height - self.top - self.bottom
        return self.top + (1 - (min(max(value, low), high) - low) / (high - low)) * inner


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values (1, 2, 2.5 or 5 times a power of ten) that cover [low, high]."""
    # Values that differ by rounding alone (a constant that was averaged) count as one value.
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    # The step is the first round number that is not below the exact one, with some slack for rounding.
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next((factor for factor in (1, 2, 2.5, 5) if raw <= factor * power * 1.0001), 10)
    # Whole multiples of the step; a value that is one up to rounding needs no further tick.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def thin(points: Sequence[Point], limit: int) -> list[Point]:
    """About `limit` points at most: the lowest and the highest of every stretch, so that spikes stay visible."""
    if len(points) <= limit:
        return list(points)
    stretches = max(limit // 2, 1)
    kept: list[Point] = []
    for index in range(stretches):
        # Two points per stretch, in the order of x (points are pairs that start with it); one if they are the same.
        part = points[index * len(points) // stretches : (index + 1) * len(points) // stretches]
        low, high = min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])
        kept += sorted({low, high})
    return kept


def line_chart(chart: Chart) -> Markup:
    """The figure: two drawings, a legend and a table. Empty markup if there is no point."""
    if not any(series.points for series in chart.series):
        return Markup()
    wide, narrow = chart.heights
    legend = Markup().join(
        Markup('<span><i class="key c{} {}"></i>{}</span>').format(series.color, series.style, series.label)
        for series in chart.series
        if series.points
    )
    return Markup(
        '<figure class="chart" id="chart-{name}"><figcaption><b>{title}</b><span class="legend">{legend}</span>'
        '</figcaption>{wide}{narrow}{note}<details class="data"><summary>Values as a table</summary>{table}</details>'
        "</figure>"
    ).format(
        name=chart.name,
        title=chart.title,
        legend=legend,
        wide=_drawing(chart, frame(chart, 720, wide), "wide"),
        narrow=_drawing(chart, frame(chart, 350, narrow, left=48, right=10), "narrow"),
        note=Markup('<p class="note">{}</p>').format(chart.note) if chart.note else "",
        table=_table(chart),
    )


def frame(chart: Chart, width: int, height: int, **margins: int) -> Frame:
    """The frame of a drawing that shows all points of a chart; `margins` are fields of `Frame`."""
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points]
    # The vertical range ends at ticks; the horizontal one at the data, so that no width is lost.
    y_ticks = nice_ticks(0.0 if chart.from_zero else min(ys), max(ys), max(2, height // 44))
    x_range = (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)
    return Frame(width, height, x_range, (y_ticks[0], y_ticks[-1]), y_ticks=y_ticks, **margins)


def hover_data(charts: Sequence[Chart]) -> dict[str, Any]:
    """What the script needs to name the values under the pointer: `{chart: {x, series: [{label, points}]}}`."""
    return {
        chart.name: {
            "x": chart.x_label,
            "series": [
                {"label": series.label, "color": series.color, "points": [_rounded(point) for point in series.points]}
                for series in chart.series
                if series.points
            ],
        }
        for chart in charts
    }


def bar(part: float, whole: float, kind: str = "c1") -> Markup:
    """A bar for a table cell, `part / whole` of its width. Its number stands beside it, so screen readers skip it."""
    width = 100 * min(max(part / whole, 0.0), 1.0) if whole > 0 else 0.0
    # What is there must be seen, however small it is.
    if part > 0:
        width = max(width, 0.6)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/><rect class="{}" width="{:.2f}" height="8"/></svg>'
    ).format(kind, width)


def kept_and_dropped(kept: float, dropped: float, whole: float) -> Markup:
    """Two parts of a whole in one bar: what stays, then what goes."""
    scale = 100 / whole if whole > 0 else 0.0
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/><rect class="c1" width="{:.2f}" height="8"/>'
        '<rect class="c2" x="{:.2f}" width="{:.2f}" height="8"/></svg>'
    ).format(kept * scale, kept * scale, dropped * scale)


def interval(value: float, low: float, high: float, whole: float, kind: str = "c1") -> Markup:
    """A bar with its confidence interval as a whisker."""
    scale = 100 / whole if whole > 0 else 0.0
    return Markup(
        '<svg class="bar tall" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/><rect class="{}" width="{:.2f}" height="8"/>'
        '<path class="whisker" d="M{:.2f} 4H{:.2f}"/></svg>'
    ).format(kind, min(value * scale, 100), max(low * scale, 0), min(high * scale, 100))


def _drawing(chart: Chart, frame: Frame, kind: str) -> Markup:
    # The frame's numbers go with the drawing: the script turns the pointer's place into a value with them.
    identity = f"{chart.name}-{kind}"
    head = Markup(
        '<svg class="plot {0}" viewBox="0 0 {1} {2}" role="img" aria-labelledby="{3}-t {3}-d" data-chart="{4}" '
        'data-frame="{5} {6} {7} {8} {9:g} {10:g} {11:g} {12:g}"><title id="{3}-t">{13}</title>'
        '<desc id="{3}-d">{14}</desc>'
    ).format(
        kind, frame.width, frame.height, identity, chart.name, frame.left, frame.width - frame.right,
        frame.top, frame.height - frame.bottom, *frame.x_range, *frame.y_range, chart.title, chart.text,
    )  # fmt: skip
    # The cursor is empty until the script moves it.
    return head + drawing(chart, frame, 6 if kind == "wide" else 4) + Markup('<path class="cursor" d=""/></svg>')


def drawing(chart: Chart, frame: Frame, ticks: int = 6) -> Markup:
    """The contents of an SVG of the frame's size: bands, grid, axes, marks and curves; about `ticks` values of x."""
    bottom, right = frame.height - frame.bottom, frame.width - frame.right
    parts = list(_bands(chart, frame))
    # Horizontal grid lines, each with its value on the left.
    for value in frame.y_ticks:
        y = frame.y(value)
        parts.append(
            Markup('<path class="grid" d="M{} {:.1f}H{}"/><text class="tick end" x="{}" y="{:.1f}">{}</text>').format(
                frame.left, y, right, frame.left - 8, y + 4, chart.y_format(value)
            )
        )
    # Values under the axis. The last one ends at the edge of the drawing instead of being centred, or it would be cut.
    low, high = frame.x_range
    for value in [tick for tick in nice_ticks(low, high, ticks) if low <= tick <= high]:
        anchor = "end" if frame.x(value) > right - 14 else "middle"
        parts.append(
            Markup('<text class="tick {}" x="{:.1f}" y="{}">{}</text>').format(
                anchor,
                min(frame.x(value) + (frame.right if anchor == "end" else 0), frame.width),
                bottom + 18,
                chart.x_format(value),
            )
        )
    # The axis itself, and what the two axes show.
    parts.append(
        Markup(
            '<path class="axis" d="M{} {}H{}"/><text class="label middle" x="{}" y="{}">{}</text>'
            '<text class="label" x="2" y="11">{}</text>'
        ).format(frame.left, bottom, right, (frame.left + right) // 2, frame.height - 4, chart.x_label, chart.y_label)
    )
    # Vertical marks, for example where the context of training changed.
    for value, label in chart.marks:
        x = frame.x(value)
        # A label that would run over the right edge stands on the left of its line.
        flip = x > right - LETTER * len(label) - 8
        parts.append(
            Markup(
                '<path class="mark" d="M{:.1f} {}V{}"/><text class="mark-label{}" x="{:.1f}" y="{}">{}</text>'
            ).format(x, frame.top, bottom, " end" if flip else "", x - 5 if flip else x + 2, frame.top - 6, label)
        )
    # Curves last, so that they lie on top.
    parts += [_curve(series, frame) for series in chart.series if series.points]
    return Markup().join(parts)


def _bands(chart: Chart, frame: Frame) -> Iterator[Markup]:
    """The bands with their labels above the plot, as far as these find room beside one another."""
    bottom, free = frame.height - frame.bottom, 0.0
    low, high = frame.x_range
    for index, (first, last, label) in enumerate(chart.bands):
        x, end = frame.x(max(first, low)), frame.x(min(last, high))
        if index % 2:
            yield Markup('<rect class="band" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(
                x, frame.top, max(end - x, 1.0), bottom - frame.top
            )
        # A band that is narrower than its label has it end at the band's right edge.
        width = LETTER * len(label)
        flip = x + width > end
        start = end - width if flip else x + 2
        if start >= free:
            free = start + width + LETTER
            yield Markup('<text class="mark-label{}" x="{:.1f}" y="{}">{}</text>').format(
                " end" if flip else "", end if flip else start, frame.top - 6, label
            )


def _curve(series: Series, frame: Frame) -> Markup:
    # Pixels of every point; dots also have a thin line through them, crosses stand alone.
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    if series.style == "dots":
        shapes = Markup().join(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(x, y) for x, y in places)
        path = Markup('<path d="{}"/>').format(_path(places))
        return Markup('<g class="series dots c{}">{}{}</g>').format(series.color, path, shapes)
    if series.style == "cross":
        strokes = " ".join(f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" for x, y in places)
        return Markup('<path class="series cross c{}" d="{}"/>').format(series.color, strokes)
    return Markup('<path class="series {} c{}" d="{}"/>').format(series.style, series.color, _path(places))


def _path(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _table(chart: Chart) -> Markup:
    head = Markup().join(Markup('<th scope="col">{}</th>').format(series.label) for series in chart.series)
    # Evenly spaced points of the curve with the most points give the rows; the others show what is nearest to them.
    longest = max((series.points for series in chart.series), key=len)
    steps = sorted({index * (len(longest) - 1) // (TABLE_ROWS - 1) for index in range(TABLE_ROWS)})
    body = Markup()
    for x in [longest[index][0] for index in steps]:
        cells = Markup().join(Markup("<td>{}</td>").format(_nearest(series, x, chart)) for series in chart.series)
        body += Markup('<tr><th scope="row">{}</th>{}</tr>').format(plain(x), cells)
    return Markup(
        '<div class="scroll"><table class="numbers"><thead><tr><th scope="col">{}</th>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(escape(chart.x_label), head, body)


def _nearest(series: Series, x: float, chart: Chart) -> str:
    """The value of the point nearest to `x`, with its own x where that is another."""
    if not series.points:
        return plain(None)
    at, value = min(series.points, key=lambda point: abs(point[0] - x))
    return chart.y_format(value) if at == x else f"{chart.y_format(value)} (at {plain(at)})"


def _rounded(point: Point) -> list[float]:
    # Eight digits keep every step of a long run apart; a value needs no more than five to be read.
    return [float(f"{point[0]:.8g}"), float(f"{point[1]:.5g}")]
