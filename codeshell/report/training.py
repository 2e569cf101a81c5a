"""The training section: curves from `train/log.jsonl` and the stage's own statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codeshell.report import read
from codeshell.report.charts import Chart, Point, Series, thin
from codeshell.report.format import number, plain, short_count

FACTS = {
    "parameters": "parameters",
    "steps": "steps",
    "tokens": "tokens",
    "flops_per_token": "FLOPs per token",
    "final_train_loss": "final training loss",
    "final_valid_loss": "final validation loss",
    "final_valid_bits_per_byte": "validation, bits per byte",
    "skipped_updates": "skipped updates",
}
"""The statistics that are shown beside the loss curve, with their names."""
POINTS = 360
"""Points of a curve in the page; a longer run is thinned, its spikes kept."""


@dataclass
class Log:
    """The curves of a training log. A step that was done again after a resume counts once, as it was done last."""

    loss: list[Point] = field(default_factory=list)
    lr: list[Point] = field(default_factory=list)
    norm: list[Point] = field(default_factory=list)
    speed: list[Point] = field(default_factory=list)
    valid: list[Point] = field(default_factory=list)
    valid_bits: list[Point] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)
    contexts: list[tuple[float, int]] = field(default_factory=list)
    """(first step, context length) of every phase."""


def read_log(path: Path) -> Log:
    """Read the lines of kind `train` and `valid`."""
    # By step, so that a later line of the same step replaces an earlier one.
    steps: dict[float, dict[str, Any]] = {}
    valid: dict[float, dict[str, Any]] = {}
    for line in read.log_lines(path):
        at = number(line.get("step"))
        lines = {"train": steps, "valid": valid}.get(str(line.get("kind")))
        if at is not None and lines is not None:
            lines[at] = line
    log = Log()
    # A value that is missing or not finite is no point of its curve.
    for at in sorted(steps):
        line = steps[at]
        for key, points in (
            ("loss", log.loss),
            ("lr", log.lr),
            ("grad_norm", log.norm),
            ("tokens_per_second", log.speed),
        ):
            value = number(line.get(key))
            if value is not None:
                points.append((at, value))
        if line.get("skipped"):
            log.skipped.append(at)
        # A phase begins where the context changes.
        context = number(line.get("context"))
        if context is not None and (not log.contexts or log.contexts[-1][1] != context):
            log.contexts.append((at, int(context)))
    for at in sorted(valid):
        for key, points in (("loss", log.valid), ("bits_per_byte", log.valid_bits)):
            value = number(valid[at].get(key))
            if value is not None:
                points.append((at, value))
    return log


def smooth(points: list[Point]) -> list[Point]:
    """Exponential mean over about a fiftieth of the run, without the bias of its start."""
    # Dividing by the sum of the weights so far makes the first points as unbiased as the last (as Adam does).
    decay = 1 - 2 / (max(len(points) / 50, 8) + 1)
    total, weight, result = 0.0, 0.0, []
    for x, y in points:
        total, weight = decay * total + y, decay * weight + 1
        result.append((x, total / weight))
    return result


def training(run: Path, stats: dict[str, Any] | None) -> dict[str, Any] | None:
    """The section's charts and facts; None if there is neither a log nor statistics."""
    log = read_log(run / "train" / "log.jsonl")
    if stats is None and not log.loss:
        return None
    # The first phase starts with the log and needs no mark.
    marks = [(at, f"context {context:,}") for at, context in log.contexts[1:]]
    charts = [chart for chart in (_loss(log, marks), _lr(log, marks), _speed(log, marks), _norm(log, marks)) if chart]
    # Without statistics the training has not finished; the log shows how far it came.
    stats = stats or {}
    phases = stats.get("phases")
    return {
        "charts": charts,
        "facts": [(key, stats[key]) for key in FACTS if key in stats],
        "phases": phases if isinstance(phases, list) and all(isinstance(phase, dict) for phase in phases) else [],
        "rest": {key: value for key, value in stats.items() if key not in (*FACTS, "phases", "failure")},
        "failure": stats.get("failure"),
        "finished": bool(stats),
        "last_step": log.loss[-1][0] if log.loss else None,
    }


def _loss(log: Log, marks: list[tuple[float, str]]) -> Chart | None:
    if not log.loss:
        return None
    # The loss of an update that was not made says nothing about the curve: it is marked, and left out of the mean.
    losses, skipped = dict(log.loss), set(log.skipped)
    smoothed = smooth([point for point in log.loss if point[0] not in skipped] or log.loss)
    top = max(losses.values())
    series = [
        Series("training, each step", thin(log.loss, POINTS), 1, "faint"),
        Series("training, smoothed", thin(smoothed, POINTS), 1),
        Series("validation", log.valid, 2, "dots"),
        Series("skipped updates", [(at, losses.get(at, top)) for at in log.skipped], 3, "cross"),
    ]
    # The text alternative says where the curve starts and ends, and what happened on the way.
    text = f"Training loss goes from {plain(log.loss[0][1])} at step {plain(log.loss[0][0])} to "
    text += f"{plain(smoothed[-1][1])} (smoothed) at step {plain(smoothed[-1][0])}."
    if log.valid:
        text += f" Validation loss ends at {plain(log.valid[-1][1])}."
    if log.skipped:
        text += f" {len(log.skipped)} updates were skipped."
    return Chart(
        "loss",
        "Loss",
        "step",
        "nats per token",
        [one for one in series if one.points],
        text,
        marks,
        y_format=lambda value: f"{value:.2f}",
    )


def _lr(log: Log, marks: list[tuple[float, str]]) -> Chart | None:
    if not log.lr:
        return None
    # The axis is in units of the peak's power of ten: 0.0003 would need a wide margin.
    peak = max(log.lr, key=lambda point: point[1])
    power = math.floor(math.log10(peak[1])) if peak[1] > 0 else 0
    return Chart(
        "lr",
        "Learning rate",
        "step",
        f"times 1e{power}",
        [Series("learning rate", thin(log.lr, POINTS))],
        f"The learning rate rises to {peak[1]:.3g} at step {plain(peak[0])} and ends at {log.lr[-1][1]:.3g}.",
        marks,
        from_zero=True,
        y_format=lambda value: f"{value / 10**power:.2f}",
    )


def _speed(log: Log, marks: list[tuple[float, str]]) -> Chart | None:
    if not log.speed:
        return None
    # The median: steps that wait for a checkpoint or for validation do not count for much.
    middle = sorted(y for _, y in log.speed)[len(log.speed) // 2]
    text = f"The median step ran at {short_count(middle)} tokens per second."
    return _noisy("speed", "Throughput", "tokens per second", log.speed, text, marks, short_count)


def _norm(log: Log, marks: list[tuple[float, str]]) -> Chart | None:
    if not log.norm:
        return None
    text = f"The gradient norm ends near {plain(smooth(log.norm)[-1][1])}."
    return _noisy("norm", "Gradient norm", "before clipping", log.norm, text, marks, plain)


def _noisy(
    name: str,
    title: str,
    y_label: str,
    points: list[Point],
    text: str,
    marks: list[tuple[float, str]],
    y_format: Callable[[Any], str],
) -> Chart:
    """A chart of values that differ from step to step: each of them faint, and their running mean."""
    # From zero, so that a small wobble does not look like a large one.
    series = [
        Series("each step", thin(points, POINTS), 1, "faint"),
        Series("smoothed", thin(smooth(points), POINTS), 1),
    ]
    return Chart(name, title, "step", y_label, series, text, marks, from_zero=True, y_format=y_format)
