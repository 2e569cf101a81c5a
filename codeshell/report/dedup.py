"""The page of a `codeshell dedup`: totals, the cluster view, its settings and its counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codeshell.engine.files import make_directory, write_text
from codeshell.report import format, read
from codeshell.report.clusters import cluster_view
from codeshell.report.page import fill, make_card
from codeshell.report.pairs import DedupPairs
from codeshell.report.sections import flatten, mapping, objects

FILES = 20
"""Inputs that the page names."""

MEASURES = {"exact": "exact Jaccard index", "signature": "Jaccard index as their signatures estimate it"}
"""What the number of a pair is, depending on `--verify`."""


def is_output(directory: Path) -> bool:
    """Whether a `codeshell dedup`, finished or not, has written to `directory`."""
    return mapping(read.read_dict(directory / "job.json")).get("command") == "dedup"


def write(directory: Path, output: Path) -> None:
    """Render the dedup output `directory` to the file `output`.

    Raises:
        UserError: the job has not finished, a file in it is damaged, or `output` cannot be written.
    """
    page = render(directory)
    make_directory(output.parent)
    write_text(output, page)


def render(directory: Path) -> str:
    """The page as text. The same files give the same page.

    Raises:
        UserError: the job has not finished, or a file of it is damaged.
    """
    # DedupPairs refuses what is not a finished job; the other files may be missing.
    source = DedupPairs(directory)
    stats = mapping(read.read_dict(directory / "stats.json"))
    times = mapping(read.read_dict(directory / "timings.json"))
    files = objects(source.job.get("files"))
    # Settings and counts are listed whole, except for counts that the cards show.
    asked = {key: source.job.get(key) for key in ("version", "parameters", "options", "write") if key in source.job}
    counted = {key: value for key, value in stats.items() if key not in ("documents", "bytes", "kept", "kept_bytes")}
    context = {
        "what": "codeshell dedup",
        "directory": "the job's directory",
        "name": directory.resolve().name,
        "started": None,
        "lead": _lead(stats, source),
        "cards": _cards(stats, times, source, len(files)),
        "measure": MEASURES.get(str(source.parameters.get("verify")), "Jaccard index"),
        "view": cluster_view(source),
        "asked": flatten(asked),
        "counted": flatten(counted) if counted else [],
        "files": [(format.cut(file.get("name")), format.cut(file.get("kind"))) for file in files[:FILES]],
        "more_files": max(len(files) - FILES, 0),
        "chart_data": {},
    }
    return fill("dedup.html", context)


def _lead(stats: dict[str, Any], source: DedupPairs) -> str:
    threshold = "the threshold" if source.threshold is None else f"{source.threshold:g}"
    return (
        f"Of {format.count(stats.get('documents'))} documents, {format.count(len(source.clusters))} are near "
        f"duplicates (Jaccard of {threshold} or more) of a document that stays."
    )


def _cards(stats: dict[str, Any], times: dict[str, Any], source: DedupPairs, files: int) -> list[dict[str, Any]]:
    # What was read, what stays of it, and the difference.
    there, stays = format.number(stats.get("bytes")), format.number(stats.get("kept_bytes"))
    left_out = sum(format.number(count) or 0 for count in mapping(stats.get("left_out")).values())
    inputs = f"from {format.counted(files, 'input', 'inputs')}"
    cards = [
        make_card(
            "Read",
            format.size(there),
            [f"{format.count(stats.get('documents'))} documents {inputs}", f"{format.count(left_out)} left out"],
        ),
        make_card(
            "Kept",
            format.size(stays),
            [f"{format.count(stats.get('kept'))} documents, {format.share(stays, there)} of the bytes"],
        ),
        make_card(
            "Dropped",
            format.size(None if there is None or stays is None else there - stays),
            [
                f"{format.count(len(source.clusters))} documents",
                f"for {format.count(stats.get('clusters'))} that stay",
            ],
        ),
    ]
    # The time of all steps, over resumes as well.
    seconds = sum(format.number(value) or 0.0 for value in times.values())
    if seconds:
        rate = [] if there is None else [f"{format.plain(round(there / seconds / 1e6, 1))} MB of text per second"]
        cards.append(make_card("Time", format.duration(seconds), rate))
    return cards
