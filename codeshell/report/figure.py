"""Figure 2 of a run as one SVG file: what the report of CodeShell shows of its training, for any run.

Three parts below one another: the loss of training and validation over the tokens trained on, with the phases shaded;
the learning rate over the same tokens; and the loss by position in the context, before and after each change of its
length (of the evaluation, if it has measured that). The file needs no script and no other file. It has a text
alternative, and follows the reader's light or dark scheme.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from codeshell.engine.files import make_directory, write_text
from codeshell.errors import UserError
from codeshell.report import evaluation, read, training
from codeshell.report.charts import LETTER, Chart, drawing, frame
from codeshell.report.format import show_controls

WIDTH = 760
TITLE, LEGEND = 24, 18
"""Height of a part's title, and of the legend of one that has several curves."""

STYLE = """
svg { color-scheme: light dark; --page: #ffffff; --grid: #e6e3dd; --text: #1d1c1a; --soft: #5f5b54;
  --c1: #2367b0; --c2: #b2500c; --c3: #a3243b; --c4: #1f7a5c; }
@media (prefers-color-scheme: dark) { svg { --page: #141517; --grid: #2f3237; --text: #e9e7e3; --soft: #a9a59d;
  --c1: #76aef0; --c2: #f0a05c; --c3: #f08497; --c4: #6cc9a5; } }
.page { fill: var(--page); }
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  fill: var(--soft); font-variant-numeric: tabular-nums; }
.title { font-size: 14px; font-weight: 600; fill: var(--text); }
.middle { text-anchor: middle; } .end { text-anchor: end; } .mark-label { fill: var(--text); }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); } .mark { stroke: var(--soft); stroke-dasharray: 3 4; }
.band { fill: var(--c2); fill-opacity: 0.1; }
.series { fill: none; stroke-width: 1.8; stroke-linejoin: round; } path.faint { stroke-width: 1; opacity: 0.4; }
.c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); }
.dots circle { fill: var(--page); stroke-width: 1.8; } .dots path { stroke-width: 1.2; opacity: 0.6; }
.key { stroke-width: 3; } .key.faint { stroke-width: 2; } .key.dots { fill: var(--page); stroke-width: 1.8; }
"""
"""The colours of the report's page."""


def position_charts(evaluated: dict[str, Any] | None) -> list[Chart]:
    """The charts of the loss by position in an evaluation section; empty if it was not measured."""
    return [chart for chart in (evaluated or {}).get("charts", []) if chart.name.startswith("positions-")]


def write(run: Path, output: Path) -> None:
    """Draw Figure 2 of a run to an SVG file.

    Raises:
        UserError: the run has no training log, or the file cannot be written.
    """
    text = render(run)
    make_directory(output.parent)
    write_text(output, text)


def render(run: Path) -> str:
    """Figure 2 as the text of an SVG. The same files give the same text.

    Raises:
        UserError: the run has no training log.
    """
    log = training.read_log(run / "train" / "log.jsonl")
    loss, rate = training.loss_chart(log), training.lr_chart(log)
    if loss is None:
        raise UserError(f"{run}: no training log with a loss (train/log.jsonl); give a run that has trained")
    stats = read.statistics(run)
    charts = [loss, *([rate] if rate else []), *position_charts(evaluation.evaluation(run, stats["evaluate"]))]
    parts: list[Markup] = []
    top = 8
    for chart in charts:
        height = 320 if chart.name == "loss" else 200 if chart.name == "lr" else 270
        # The learning rate is drawn over the range of the loss, so that both stand exactly below one another.
        shape = frame(chart, WIDTH, height, left=64, right=20)
        parts.append(_part(chart, shape, top))
        top += TITLE + (LEGEND if len(chart.series) > 1 else 0) + height + 16
    title = f"Training of {run.resolve().name}: loss over {loss.x_label}"
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
        'aria-labelledby="figure-title figure-text"><title id="figure-title">{2}</title><desc id="figure-text">{3}'
        '</desc><style>{4}</style><rect class="page" width="{0}" height="{1}"/>'
    ).format(WIDTH, top, title, " ".join(chart.text for chart in charts), Markup(STYLE))
    return show_controls(str(Markup("{}{}</svg>\n").format(head, Markup().join(parts))))


def _part(chart: Chart, shape: Any, top: int) -> Markup:
    """A chart with its title and legend, moved down to `top`."""
    x, keys = 2.0, Markup()
    for series in chart.series:
        if not series.points:
            continue
        symbol = Markup('<path class="key {} c{}" d="M{:.1f} 30h16"/>').format(series.style, series.color, x)
        if series.style == "dots":
            symbol = Markup('<circle class="key dots c{}" cx="{:.1f}" cy="30" r="3.5"/>').format(series.color, x + 8)
        if series.style == "cross":
            symbol = Markup('<path class="series c{}" d="M{:.1f} 26l8 8m0 -8l-8 8"/>').format(series.color, x + 4)
        keys += symbol + Markup('<text x="{:.1f}" y="34">{}</text>').format(x + 22, series.label)
        x += 22 + LETTER * len(series.label) + 16
    # A single curve is named by the title.
    legend = keys if len(chart.series) > 1 else Markup()
    return Markup(
        '<g transform="translate(0 {})"><text class="title" x="2" y="14">{}</text>{}</g><g transform="translate(0 {})">'
        "{}</g>"
    ).format(top, chart.title, legend, top + TITLE + (LEGEND if legend else 0), drawing(chart, shape))
