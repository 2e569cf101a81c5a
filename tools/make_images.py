"""Make the images of README.md: docs/images/speed.svg and docs/images/report.png.

    python tools/make_images.py                        # the chart, from benchmarks/results/*.json alone
    python tools/make_images.py --run runs/demo        # and a screenshot of that run's report.html

The chart has one bar per comparison: how many times as fast codeshell is as the named peer, on the same input and
machine. The rows are chosen here by name and not by outcome, so those where the peer is faster are drawn too, in
another colour. Nothing is measured here.

The screenshot needs Chromium or Chrome on the PATH (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """One bar: the row `ours` of a result file against its row `peer`."""

    group: str
    text: str
    """What is compared, and with whom."""
    file: str
    ours: tuple[str, str]
    """(case, name) of our row; the name is empty where rows have only a case."""
    peer: tuple[str, str]


def _dedup(text: str, file: str, peer: str) -> Comparison:
    group = "Near duplicates, from Parquet files to Parquet files"
    return Comparison(group, text, file, ("whole, part: codeshell", ""), (f"whole, part: {peer}", ""))


def _train(text: str, ours: str, peer: str) -> Comparison:
    return Comparison("A training step on the CPU", text, "train-cpu.json", ("", ours), ("", peer))


def _rotary(text: str, case: str, peer: str) -> Comparison:
    case = f"2 x 2048 tokens, 32+8 heads, d 128, {case}"
    group = "Rotary embedding on the CPU"
    return Comparison(group, text, "rotary-cpu.json", (case, "codeshell.ops.rotary"), (case, peer))


def _adamw(text: str, case: str, peer: str, ours: str = "codeshell.optim.AdamW") -> Comparison:
    return Comparison("AdamW step on the CPU", text, "adamw-cpu.json", (case, ours), (case, peer))


SIZE = "50,000,000 parameters in 20 tensors"
SMALL = "fp32, 10,000 tensors of 1-4096 elements, 20,517,487 parameters"
FUSED = "torch AdamW, fused"

COMPARISONS = (
    _dedup("400 MB, vs a script with rensa", "dedup-rensa.json", "rensa"),
    _dedup("40 MB, vs datasketch", "dedup.json", "datasketch"),
    _dedup("40 MB, vs text-dedup", "dedup.json", "text-dedup"),
    _dedup("40 MB, vs datatrove", "dedup.json", "datatrove"),
    _train("fp32, vs transformers' Starcoder2", "codeshell fp32", "starcoder2 fp32 sdpa"),
    _train("bf16, vs transformers' Starcoder2", "codeshell bf16", "starcoder2 bf16 sdpa"),
    _rotary("bf16 in place, vs torch.compile", "bf16, in place", "torch.compile of it"),
    _rotary("bf16, new tensors, vs torch.compile", "bf16, new tensors", "torch.compile of it"),
    _rotary("bf16, new tensors, vs transformers", "bf16, new tensors", "eager (transformers)"),
    _adamw("fp32, vs torch's fused step", f"fp32, {SIZE}", FUSED),
    _adamw("all in bf16, vs torch's fused step", f"bf16 throughout, {SIZE}", FUSED),
    _adamw("all in fp16, vs torch's fused step", f"fp16 throughout, {SIZE}", FUSED),
    _adamw(
        "bf16 with fp32 masters, vs torch's fused step",
        f"bf16, fp32 master, {SIZE}",
        "torch AdamW fused on a master, casts",
    ),
    _adamw("10,000 small tensors, vs torch's fused step", SMALL, FUSED),
    _adamw("10,000 small tensors, vs torch on one large tensor", SMALL, "torch AdamW, fused, one tensor"),
)


def rows_of(file: str) -> Rows:
    """The rows of a result file.

    Raises:
        OSError: no such file.
    """
    rows: Rows = json.loads((RESULTS / file).read_text(encoding="utf-8"))["rows"]
    return rows


def speed(rows: Rows, case: str, name: str) -> float:
    """Work per second of the row of this case and name; only ratios within a case mean anything.

    Raises:
        ValueError: no row, or several, fit.
    """
    fitting = [row for row in rows if case in ("", row.get("case")) and name in ("", row.get("name"))]
    if len(fitting) != 1:
        raise ValueError(f"{case!r}, {name!r}: {len(fitting)} rows fit; name exactly one")
    row = fitting[0]
    for key in ("MB_per_second", "tokens_per_second"):
        if key in row:
            return float(row[key])
    return 1e6 / float(row["microseconds"])


def ratios() -> list[tuple[Comparison, float]]:
    """How many times as fast as its peer codeshell is, for every comparison."""
    found = []
    for item in COMPARISONS:
        rows = rows_of(item.file)
        found.append((item, speed(rows, *item.ours) / speed(rows, *item.peer)))
    return found


WIDTH, LEFT, RIGHT, ROW, BAR = 900, 350, 70, 23, 15
LOW, HIGH = 0.5, 50.0
TIMES = "\N{MULTIPLICATION SIGN}"
TICKS = (0.5, 1, 2, 5, 10, 20, 50)
STYLE = (
    "text{font:13px system-ui,'Segoe UI',Roboto,sans-serif;fill:#1d1c1a}.group{font-weight:600}.soft{fill:#5f5b54}"
    ".end{text-anchor:end}.mid{text-anchor:middle}.faster{fill:#2367b0}.slower{fill:#b2500c}.tick{stroke:#e2ded6}"
    ".equal{stroke:#1d1c1a;stroke-width:1.5}rect.page{fill:#fff}@media(prefers-color-scheme:dark){text{fill:#e9e7e3}"
    ".soft{fill:#a9a59d}rect.page{fill:#1b1d20}.faster{fill:#76aef0}.slower{fill:#f0a05c}.tick{stroke:#33373c}"
    ".equal{stroke:#e9e7e3}}"
)


def position(ratio: float) -> float:
    """Place of a ratio on the logarithmic axis, in pixels from the left edge."""
    share = math.log(min(max(ratio, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def chart() -> str:
    """The SVG. It stands alone, and follows the reader's colour scheme."""
    bars: list[str] = []
    y, group = 58, ""
    for item, ratio in ratios():
        if item.group != group:
            group = item.group
            y += 14
            bars.append(f'<text class="group" x="12" y="{y + 12}">{escape(group)}</text>')
            y += 20
        # A bar begins at 1 and goes right where codeshell is faster, left where the peer is.
        begin, end = sorted((position(1.0), position(ratio)))
        kind = "faster" if ratio >= 1.0 else "slower"
        number = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
        bars.append(f'<text class="end" x="{LEFT - 10}" y="{y + 12}">{escape(item.text)}</text>')
        bars.append(
            f'<rect class="{kind}" x="{begin:.1f}" y="{y}" width="{max(end - begin, 1.0):.1f}" height="{BAR}"/>'
        )
        bars.append(f'<text x="{end + 6:.1f}" y="{y + 12}">{number} {TIMES}</text>')
        y += ROW
    bottom = y + 6
    axis: list[str] = []
    # Grid lines are drawn before the bars, which lie over them.
    for tick in TICKS:
        x = position(tick)
        axis.append(
            f'<line class="{"equal" if tick == 1 else "tick"}" x1="{x:.1f}" y1="58" x2="{x:.1f}" y2="{bottom}"/>'
        )
        axis.append(f'<text class="soft mid" x="{x:.1f}" y="{bottom + 18}">{tick:g} {TIMES}</text>')
    title = "How many times as fast as the named peer, on the same input (two CPU cores)"
    note = f"The axis is logarithmic. Left of the line at 1 {TIMES} the peer is faster. Rows: benchmarks/results/*.json"
    height = bottom + 32
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">',
            f"<title>{title}</title><style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            f'<text class="group" x="12" y="24">{title}</text>',
            f'<text class="soft" x="12" y="44">{note}</text>',
            *axis,
            *bars,
            "</svg>\n",
        ]
    )


def screenshot(page: Path, image: Path, width: int = 1400, height: int = 770) -> None:
    """Save the top of an HTML page as PNG.

    Raises:
        SystemExit: no page, no browser, or the browser failed.
    """
    if not page.is_file():
        sys.exit(f"{page}: no such file; `make demo` makes it")
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed, so there is no screenshot; install one")
    # A profile of its own, so that a browser that is open already is not asked instead.
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += [f"--window-size={width},{height}", "--blink-settings=preferredColorScheme=1"]
        command += [f"--user-data-dir={profile}", f"--screenshot={image.resolve()}", page.resolve().as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if result.returncode or not image.is_file():
        sys.exit(f"{browser} made no screenshot:\n{result.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, metavar="DIR", help="a finished run, for the screenshot of its report")
    args = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    made: list[tuple[Path, Callable[[Path], None]]] = []
    made.append((IMAGES / "speed.svg", lambda path: path.write_text(chart(), encoding="utf-8")))
    if args.run is not None:
        made.append((IMAGES / "report.png", lambda path: screenshot(args.run / "report.html", path)))
    for path, make in made:
        make(path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
