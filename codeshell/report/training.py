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

    unit: str = "tokens"
    """What the horizontal axes count: tokens trained on, or steps where the log does not have them."""
    loss: list[Point] = field(default_factory=list)
    lr: list[Point] = field(default_factory=list)
    norm: list[Point] = field(default_factory=list)
    speed: list[Point] = field(default_factory=list)
    valid: list[Point] = field(default_factory=list)
    valid_bits: list[Point] = field(default_factory=list)
    skipped: list[float] = field(default_factory=list)
    phases: list[tuple[float, float, int]] = field(default_factory=list)
    """(where it begins, where it ends, context length) of every phase."""
    last_step: float | None = None


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
    # Points lie at the tokens that the model had been trained on; logs of early versions have steps alone.
    places = {at: number(line.get("tokens")) for at, line in steps.items()}
    log = Log("step" if None in places.values() else "tokens", last_step=max(steps, default=None))
    xs = {at: at if log.unit == "step" else float(tokens or 0) for at, tokens in places.items()}
    # A value that is missing or not finite is no point of its curve.
    end = 0.0
    for at in sorted(steps):
        line, x = steps[at], xs[at]
        for key, points in (
            ("loss", log.loss),
            ("lr", log.lr),
            ("grad_norm", log.norm),
            ("tokens_per_second", log.speed),
        ):
            value = number(line.get(key))
            if value is not None:
                points.append((x, value))
        if line.get("skipped"):
            log.skipped.append(x)
        # A phase begins where the one before it ended, and ends where the context changes.
        context = number(line.get("context"))
        if context is not None and (not log.phases or log.phases[-1][2] != context):
            log.phases.append((end, x, int(context)))
        elif log.phases:
            log.phases[-1] = (log.phases[-1][0], x, log.phases[-1][2])
        end = x
    for at in sorted(valid):
        # A validation comes after its step, whose line may have been lost with the process.
        tokens = number(valid[at].get("tokens"))
        x = at if log.unit == "step" else xs.get(at, tokens if tokens is not None else -1.0)
        for key, points in (("loss", log.valid), ("bits_per_byte", log.valid_bits)):
            value = number(valid[at].get(key))
            if value is not None and x >= 0:
                points.append((x, value))
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
    charts = [chart for chart in (loss_chart(log), lr_chart(log), _speed(log), _norm(log)) if chart]
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
        "last_step": log.last_step if log.loss else None,
    }


def _over(log: Log) -> dict[str, Any]:
    """What all charts of the training share: the horizontal axis, and the phases on it where there are several."""
    bands = [(first, last, f"context {context:,}") for first, last, context in log.phases]
    tokens = log.unit == "tokens"
    return {
        "x_label": "tokens trained on" if tokens else "step",
        "x_format": short_count if tokens else plain,
        "bands": bands if len(bands) > 1 else (),
    }


def _at(log: Log, x: float) -> str:
    """A place on the horizontal axis, in words."""
    return f"{short_count(x)} tokens" if log.unit == "tokens" else f"step {plain(x)}"


def loss_chart(log: Log) -> Chart | None:
    """The loss of training and of validation, with the phases as bands; None where no step has a loss."""
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
    text = f"Training loss goes from {plain(log.loss[0][1])} at {_at(log, log.loss[0][0])} to "
    text += f"{plain(smoothed[-1][1])} (smoothed) at {_at(log, smoothed[-1][0])}."
    if log.valid:
        text += f" Validation loss ends at {plain(log.valid[-1][1])}."
    if len(log.phases) > 1:
        parts = [f"{context:,} to {_at(log, last)}" for _, last, context in log.phases]
        text += f" The context is {', then '.join(parts)}."
    if log.skipped:
        text += f" {len(log.skipped)} updates were skipped."
    return Chart(
        "loss",
        "Loss",
        y_label="nats per token",
        series=[one for one in series if one.points],
        text=text,
        y_format=lambda value: f"{value:.2f}",
        **_over(log),
    )


def lr_chart(log: Log) -> Chart | None:
    """The learning rate, as low as fits below the loss; None where the log has none."""
    if not log.lr:
        return None
    # The axis is in units of the peak's power of ten: 0.0003 would need a wide margin.
    peak = max(log.lr, key=lambda point: point[1])
    power = math.floor(math.log10(peak[1])) if peak[1] > 0 else 0
    return Chart(
        "lr",
        "Learning rate",
        y_label=f"times 1e{power}",
        series=[Series("learning rate", thin(log.lr, POINTS))],
        text=f"The learning rate rises to {peak[1]:.3g} at {_at(log, peak[0])} and ends at {log.lr[-1][1]:.3g}.",
        from_zero=True,
        y_format=lambda value: f"{value / 10**power:.2f}",
        heights=(190, 190),
        **_over(log),
    )


def _speed(log: Log) -> Chart | None:
    if not log.speed:
        return None
    # The median: steps that wait for a checkpoint or for validation do not count for much.
    middle = sorted(y for _, y in log.speed)[len(log.speed) // 2]
    text = f"The median step ran at {short_count(middle)} tokens per second."
    return _noisy(log, "speed", "Throughput", "tokens per second", log.speed, text, short_count)


def _norm(log: Log) -> Chart | None:
    if not log.norm:
        return None
    text = f"The gradient norm ends near {plain(smooth(log.norm)[-1][1])}."
    return _noisy(log, "norm", "Gradient norm", "before clipping", log.norm, text, plain)


def _noisy(
    log: Log,
    name: str,
    title: str,
    y_label: str,
    points: list[Point],
    text: str,
    y_format: Callable[[Any], str],
) -> Chart:
    """A chart of values that differ from step to step: each of them faint, and their running mean."""
    # From zero, so that a small wobble does not look like a large one.
    series = [
        Series("each step", thin(points, POINTS), 1, "faint"),
        Series("smoothed", thin(smooth(points), POINTS), 1),
    ]
    return Chart(
        name, title, y_label=y_label, series=series, text=text, from_zero=True, y_format=y_format, **_over(log)
    )
