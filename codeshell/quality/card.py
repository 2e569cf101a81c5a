"""The card of a quality model: a Markdown page beside it that says what it was trained on, its figures and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codeshell.paragraphs import wrapped

COLUMNS_SHOWN = 25


def card(about: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The page.

    Args:
        about: what the model file holds of its training: `name`, `data`, `scorers`, `settings`, `languages`,
            `reference`, `left_out`, `fingerprint`.
        figures: of `codeshell.quality.evaluate.evaluate`.
    """
    lines = [
        f"# {about['name']}",
        "",
        "A learned quality score of source files, 0 to 5: boosted trees and a linear score on measured columns, and a",
        "linear head on hashed n-grams of the text. `codeshell quality train` made this model and this page.",
        "",
        "## Data",
        "",
        f"- {figures['labels']:,} labelled files of {figures['repositories']:,} repositories.",
        *wrapped(about["data"], "- "),
    ]
    if about.get("left_out"):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in about["left_out"].items())
        lines.append(f"- Labels that could not be used: {reasons}.")
    counts = about.get("reference") or {}
    if counts:
        total = {side: sum(entry[side] for entry in counts.values()) for side in ("good", "bad")}
        lines.append(
            f"- Reference code without labels: {total['good']:,} good and {total['bad']:,} bad files in "
            f"{len(counts)} languages."
        )
    lines += [
        f"- Columns come from the scorers: text, {', '.join(about['scorers'])}.",
        "",
        "## Figures",
        "",
        *wrapped(
            f"Out of fold: {figures['folds']} folds by repository, dealt {figures['repeats']} times; means over the "
            "deals, and in brackets the 95 % interval over samples of whole repositories. Ranks (Spearman, AUC) over "
            "all folds are of predictions less the mean of the labels that the fold's model was trained on. The "
            "row with those levels kept is the one to compare with figures of pooled folds; the truth lies between."
        ),
        "",
        "| predictor | Spearman | within a language | mean error | macro-F1 | AUC at 3 | AUC at 4 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in figures["models"].items():
        cells = [
            _interval(row["spearman"]),
            _number(row["within_language"]["mean"]),
            _number(row["mae"]["mean"]),
            _number(row["macro_f1"]["mean"]),
            _interval(row["auc_3"]),
            _interval(row["auc_4"]),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if figures["dimensions"]:
        found = ", ".join(f"{name} {_number(value)}" for name, value in figures["dimensions"].items())
        lines += ["", f"Spearman of the dimensions: {found}."]
    lines += ["", "Calibration: documents in ten equal parts by their predicted score.", ""]
    lines += ["| documents | predicted | judged | judged 1 or less | judged 3 or more | judged 4 or more |"]
    lines += ["|---|---|---|---|---|---|"]
    for part in figures["calibration"]:
        cells = [_number(part[name]) for name in ("predicted", "judged", "at_most_1", "at_least_3", "at_least_4")]
        lines.append(f"| {part['documents']} | {' | '.join(cells)} |")
    curve = ", ".join(
        f"{float(share):.0%} of the repositories {_number(entry['spearman'])}"
        for share, entry in figures["curve"].items()
    )
    lines += ["", f"Learning curve (Spearman): {curve}.", ""]
    lines += ["| language | labels | mean judged score | Spearman |", "|---|---|---|---|"]
    for name, entry in figures["languages"].items():
        lines.append(f"| {name} | {entry['labels']} | {_number(entry['judged'])} | {_number(entry['spearman'])} |")
    lines += ["", "Share of the squared error that the splits on a column took away:", ""]
    shown = list(figures["importance"].items())[:COLUMNS_SHOWN]
    lines += wrapped(", ".join(f"`{name}` {share:.1%}" for name, share in shown) + ".")
    lines += ["", "## Limits", ""]
    for limit in LIMITS:
        lines += wrapped(limit, "- ")
    settings = ", ".join(f"{name} {value}" for name, value in about["settings"].items())
    lines += ["", "## Settings", "", *wrapped(f"{settings}; fingerprint {about['fingerprint']}.")]
    return "\n".join(lines) + "\n"


LIMITS = (
    "The score ranks what its labels value. It is a mean tendency: single files are off by half a point and more, and "
    "whether code is correct it can only guess from how it is written.",
    "Labels of one annotator: other annotators agree with it less than it agrees with itself, so compare figures only "
    "on the same labels.",
    "A repository of a kind that no label shows (vendored, generated, another language) may be scored too high or too "
    "low as a whole. Scores of different languages are comparable only as far as the labels made them so.",
    "Use it to drop the lowest tenth, or to weigh and to choose among many files; do not read it as a verdict on one.",
    "It is no detector of vulnerabilities or secrets.",
)


def _number(value: float) -> str:
    return "n/a" if value != value else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _interval(entry: Mapping[str, float]) -> str:
    if entry["mean"] != entry["mean"]:
        return "n/a"
    return f"{_number(entry['mean'])} ({entry['low']:.2f} to {entry['high']:.2f})"
