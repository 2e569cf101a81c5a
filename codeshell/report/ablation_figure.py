"""Figure 3 as SVG: for every metric the curves of the arms over tokens, and beside them the differences by seed.

On the left each arm has its mean over the seeds, and a faint line for each seed. On the right there is the difference
from the baseline, seed by seed: the mean with Student's 95 % interval, and a small dot for each seed. An interval that
is wider than the panel is cut at its edge. The drawing has classes only; `standalone` adds their style, and the page of
the ablation has the same in its style sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from codeshell.report.charts import nice_ticks
from codeshell.report.format import plain

WIDTH, PANEL_WIDTH, PANEL_HEIGHT = 920, 360, 150
LEFT = (62, 536)
"""Where the two panels of a row begin."""
HEAD, ROW = 62, 218
COLORS = 6

STYLE = (
    "text{font:13px system-ui,'Segoe UI',Roboto,sans-serif;fill:#1d1c1a}.title{font-weight:600}.soft{fill:#5f5b54}"
    ".end{text-anchor:end}.middle{text-anchor:middle}.page{fill:#fff}.grid{stroke:#ebe8e2}.zero{stroke:#5f5b54}"
    "path,line{fill:none}.mean{stroke-width:2}.seed{opacity:.35}.whisker{stroke-width:1.5}"
    ".a0{stroke:#5f5b54}.a1{stroke:#2367b0}.a2{stroke:#b2500c}.a3{stroke:#1f7a5c}.a4{stroke:#a3243b}.a5{stroke:#7657b5}"
    "circle.a0{fill:#5f5b54}circle.a1{fill:#2367b0}circle.a2{fill:#b2500c}circle.a3{fill:#1f7a5c}"
    "circle.a4{fill:#a3243b}circle.a5{fill:#7657b5}"
    "@media(prefers-color-scheme:dark){text{fill:#e9e7e3}.soft{fill:#a9a59d}.page{fill:#1b1d20}.grid{stroke:#2a2d31}"
    ".zero{stroke:#a9a59d}.a0{stroke:#a9a59d}.a1{stroke:#76aef0}.a2{stroke:#f0a05c}.a3{stroke:#6cc9a5}"
    ".a4{stroke:#f08497}.a5{stroke:#b9a2ee}circle.a0{fill:#a9a59d}circle.a1{fill:#76aef0}circle.a2{fill:#f0a05c}"
    "circle.a3{fill:#6cc9a5}circle.a4{fill:#f08497}circle.a5{fill:#b9a2ee}}"
)
"""Colours of both schemes; those of the page are in `style.css`."""

TITLES = {
    "bits_per_byte": "bits per byte (less is better)",
    "infill": "masked lines filled in exactly",
    "infill_first_line": "masked lines, first line of the answer exact",
    "functions": "functions that parse",
}
"""What the metrics are called; others are called after their task."""


def title_of(key: str) -> str:
    """`held-out set: metric`, of a key such as "good/bits_per_byte"."""
    held_out, _, metric = key.partition("/")
    name = TITLES.get(metric, f"{metric}: problems solved")
    return name if held_out == "own" else f"{held_out}: {name}"


def is_share(key: str) -> bool:
    """Whether a metric is a share of problems, which is shown in percent and is better if it is larger."""
    return not key.endswith("/bits_per_byte")


def flat(summary: dict[str, Any], key: str) -> bool:
    """Whether every training has the same value of a metric at every point, so that there is nothing to draw."""
    values = {
        value for points in summary["curves"][key].values() for point in points for value in point["values"].values()
    }
    return len(values) <= 1


@dataclass(frozen=True)
class _Panel:
    """Pixels of values: x is tokens, y the metric."""

    left: int
    top: int
    tokens: int
    ticks: Sequence[float]

    def x(self, tokens: float) -> float:
        return self.left + tokens / self.tokens * PANEL_WIDTH

    def y(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        return self.top + (1 - (min(max(value, low), high) - low) / (high - low)) * PANEL_HEIGHT


def standalone(summary: dict[str, Any]) -> str:
    """The figure as a file of its own, which follows the reader's colour scheme."""
    return str(_svg(summary, Markup("<style>{}</style>").format(Markup(STYLE)))) + "\n"


def inline(summary: dict[str, Any]) -> Markup:
    """The figure for the page."""
    return _svg(summary, Markup())


def _svg(summary: dict[str, Any], style: Markup) -> Markup:
    shown = [key for key in summary["metrics"] if not flat(summary, key)]
    height = HEAD + ROW * len(shown) + 10
    colors = {arm: number % COLORS for number, arm in enumerate(_baseline_first(summary))}
    parts = [_legend(colors, summary["baseline"])]
    for number, key in enumerate(shown):
        top = HEAD + ROW * number + 34
        parts += [_curves(summary, key, colors, top), _differences(summary, key, colors, top)]
    seeds = max((len(point["values"]) for curve in summary["curves"].values() for points in curve.values()
                 for point in points), default=0)  # fmt: skip
    text = (
        f"{len(summary['arms'])} selections of one corpus, {summary['trained_tokens']:,} training tokens each, up to "
        f"{seeds} seeds; the numbers are in ablation.json and in the tables of ablation.html"
    )
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="ablation" viewBox="0 0 {0} {1}" width="{0}" role="img" '
        'aria-label="{2}"><title>{2}</title>{3}<rect class="page" width="{0}" height="{1}"/>{4}</svg>'
    ).format(WIDTH, height, text, style, Markup().join(parts))


def _baseline_first(summary: dict[str, Any]) -> list[str]:
    base = summary["baseline"]
    return [base, *(arm for arm in summary["arms"] if arm != base)]


def _legend(colors: dict[str, int], baseline: str) -> Markup:
    parts, x = [], 14
    for arm, color in colors.items():
        label = f"{arm} (baseline)" if arm == baseline else arm
        parts.append(
            Markup('<line class="mean a{}" x1="{}" y1="20" x2="{}" y2="20"/><text x="{}" y="25">{}</text>').format(
                color, x, x + 22, x + 28, label
            )
        )
        x += 46 + round(7.4 * len(label))
    note = "Over training tokens. Left: mean, and each seed faint. Right: arm minus baseline by seed, 95 % interval."
    parts.append(Markup('<text class="soft" x="14" y="48">{}</text>').format(note))
    return Markup().join(parts)


def _frame(panel: _Panel, title: str, percent: bool) -> Markup:
    """Title, grid with its values, and the tokens below."""
    parts = [
        Markup('<text class="title" x="{}" y="{}">{}</text>').format(panel.left, panel.top - 12, title),
    ]
    for tick in panel.ticks:
        y = panel.y(tick)
        label = f"{100 * tick:g} %" if percent else plain(tick)
        parts.append(
            Markup('<line class="{}" x1="{}" y1="{:.1f}" x2="{}" y2="{:.1f}"/>').format(
                "zero" if tick == 0 else "grid", panel.left, y, panel.left + PANEL_WIDTH, y
            )
        )
        parts.append(Markup('<text class="soft end" x="{}" y="{:.1f}">{}</text>').format(panel.left - 6, y + 4, label))
    for tick in nice_ticks(0, panel.tokens, 4):
        if tick <= panel.tokens:
            label = f"{tick / 1e6:g} M" if panel.tokens >= 1e5 and tick else f"{tick:g}"
            parts.append(
                Markup('<text class="soft middle" x="{:.1f}" y="{}">{}</text>').format(
                    panel.x(tick), panel.top + PANEL_HEIGHT + 18, label
                )
            )
    return Markup().join(parts)


def _curves(summary: dict[str, Any], key: str, colors: dict[str, int], top: int) -> Markup:
    curves = summary["curves"][key]
    values = [v for points in curves.values() for point in points for v in point["values"].values()]
    ticks = nice_ticks(min(values), max(values), 4)
    panel = _Panel(LEFT[0], top, summary["trained_tokens"], ticks)
    parts = [_frame(panel, title_of(key), is_share(key))]
    for arm in reversed(colors):
        points = curves.get(arm, [])
        for seed in sorted({seed for point in points for seed in point["values"]}):
            line = [(point["tokens"], point["values"][seed]) for point in points if seed in point["values"]]
            parts.append(_line(panel, line, f"seed a{colors[arm]}"))
        parts.append(_line(panel, [(point["tokens"], point["mean"]) for point in points], f"mean a{colors[arm]}"))
        # A metric that is measured once would have no line.
        parts += [_dot(panel.x(point["tokens"]), panel.y(point["mean"]), 2.5, f"a{colors[arm]}") for point in points]
    return Markup().join(parts)


def _line(panel: _Panel, points: Sequence[tuple[float, float]], kind: str) -> Markup:
    if not points:
        return Markup()
    path = "M" + "L".join(f"{panel.x(x):.1f} {panel.y(y):.1f}" for x, y in points)
    return Markup('<path class="{}" d="{}"/>').format(kind, path)


def _dot(x: float, y: float, radius: float, kind: str) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(kind, x, y, radius)


def _differences(summary: dict[str, Any], key: str, colors: dict[str, int], top: int) -> Markup:
    found = summary["differences"][key]
    values = [v for points in found.values() for point in points for v in point["values"].values()]
    if not values:
        return Markup()
    # The seeds decide the range, with room for intervals; with two seeds these may be ten times as wide.
    reach = max(abs(value) for value in values) or 1.0
    low, high = min(0.0, *values) - 0.5 * reach, max(0.0, *values) + 0.5 * reach
    panel = _Panel(LEFT[1], top, summary["trained_tokens"], nice_ticks(low, high, 4))
    parts = [_frame(panel, f"minus {summary['baseline']}", is_share(key))]
    arms = [arm for arm in colors if arm in found]
    for number, arm in enumerate(arms):
        # Side by side, so that intervals at one point do not lie on one another.
        shift = 7 * (number - (len(arms) - 1) / 2) - 10
        for point in found[arm]:
            x = panel.x(point["tokens"]) + shift
            color = colors[arm]
            if point["low"] is not None:
                parts.append(
                    Markup('<line class="whisker a{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
                        color, x, panel.y(point["low"]), x, panel.y(point["high"])
                    )
                )
            parts += [_dot(x, panel.y(value), 1.5, f"seed a{color}") for value in point["values"].values()]
            parts.append(_dot(x, panel.y(point["mean"]), 3, f"a{color}"))
    return Markup().join(parts)
