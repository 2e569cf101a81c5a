"""The rows of a benchmark as a text table and as an SVG: bars for each case, with the floor as a line through them.

The drawing stands alone, on a page or in a README: it contains its style, which follows the reader's colour scheme.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, BAR, GAP = 860, 300, 150, 18, 6
STYLE = (
    "text{font:13px system-ui,'Segoe UI',Roboto,sans-serif;fill:#1d1c1a}.case{font-weight:600}.soft{fill:#5f5b54}"
    ".end{text-anchor:end}.ours{fill:#2367b0}.peer{fill:#b9b4aa}.floor{stroke:#b2500c;stroke-width:1.5;"
    "stroke-dasharray:4 3}rect.page{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#e9e7e3}.soft{fill:#a9a59d}"
    "rect.page{fill:#1b1d20}.ours{fill:#76aef0}.peer{fill:#62666c}.floor{stroke:#f0a05c}}"
)


def duration(microseconds: float) -> str:
    """A duration with three digits, in the unit that suits it."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} us"


def rate(row: dict[str, Any]) -> str:
    if row["teraflops"] is not None:
        return f"{row['teraflops']:.3g} TFLOP/s"
    if row["gigabytes_per_second"] is not None:
        return f"{row['gigabytes_per_second']:.4g} GB/s"
    return ""


def table(case: str, rows: list[dict[str, Any]]) -> str:
    """The rows of one case, after a heading."""
    lines = [f"\n{case}", f"  {'':42} {'time':>9} {'rate':>14} {'of floor':>9} {'of best peer':>13}"]
    for row in rows:
        mark = "*" if row["ours"] else " "
        if row["error"]:
            lines.append(f"{mark} {row['name']:42} {row['error']}")
            continue
        floor = f"{100 * row['ratio_to_floor']:.0f} %" if row["ratio_to_floor"] is not None else ""
        peer = f"{row['ratio_to_peer']:.2f} x" if row["ratio_to_peer"] is not None else ""
        lines.append(
            f"{mark} {row['name']:42} {duration(row['microseconds']):>9} {rate(row):>14} {floor:>9} {peer:>13}"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any]) -> str:
    """The SVG of a result document. Bars are rates where a case has one (longer is better), else times."""
    parts: list[str] = []
    y = 34
    for case, group in groupby(result["rows"], key=lambda row: row["case"]):
        rows = list(group)
        values = [_value(row) for row in rows]
        unit_is_time = all(not rate(row) for row in rows)
        floor = result["floors"].get(rows[0]["floor"], {}).get("rate", 0.0)
        scale = (WIDTH - LEFT - RIGHT) / (max([*values, floor]) or 1.0)
        y += 16
        note = (
            "time: shorter is better"
            if unit_is_time
            else f"{result['floors'][rows[0]['floor']]['unit']}"
            if floor
            else ""
        )
        parts.append(f'<text class="case" x="12" y="{y}">{escape(case)}</text>')
        parts.append(f'<text class="soft end" x="{WIDTH - 12}" y="{y}">{escape(note)}</text>')
        y += 10
        top = y
        for row, value in zip(rows, values, strict=True):
            middle = y + BAR - 5
            parts.append(f'<text class="end" x="{LEFT - 8}" y="{middle}">{escape(row["name"])}</text>')
            kind = "ours" if row["ours"] else "peer"
            parts.append(f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{value * scale:.1f}" height="{BAR}"/>')
            text = "failed" if row["error"] else rate(row) or duration(row["microseconds"])
            parts.append(f'<text x="{LEFT + value * scale + 6:.1f}" y="{middle}">{escape(text)}</text>')
            y += BAR + GAP
        if floor and not unit_is_time:
            x = LEFT + floor * scale
            parts.append(f'<path class="floor" d="M{x:.1f} {top - 3}V{y - 3}"/>')
        y += 8
    title = f"{result['benchmark']} on {result['device'].get('name') or result['environment']['processor']}"
    if result["device"]["type"] == "cpu":
        title += f", {result['threads']} threads"
    note = " (smoke test: the numbers mean nothing)" if result["smoke"] else ""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 24}" width="{WIDTH}" height="{y + 24}" '
        'role="img">'
        f"<title>{escape(title + note)}</title><style>{STYLE}</style>"
        f'<rect class="page" width="{WIDTH}" height="{y + 24}"/>'
        f'<text class="case" x="12" y="24">{escape(title + note)}</text>'
    )
    foot = f'<text class="soft" x="12" y="{y + 12}">dashed: the floor measured in the same run; blue: codeshell</text>'
    return head + "".join(parts) + foot + "</svg>\n"


def _value(row: dict[str, Any]) -> float:
    value = row["teraflops"] or row["gigabytes_per_second"] or row["microseconds"]
    return float(value or 0.0)
