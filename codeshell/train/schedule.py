"""Phases and the learning rate, as pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from codeshell.recipe import Train


@dataclass(frozen=True)
class Stretch:
    """A phase in steps: from `first` to `last`, counted from 1, both included. An empty phase has `last` < `first`."""

    index: int
    context: int
    lr_scale: float
    first: int
    last: int


def stretches(train: Train) -> list[Stretch]:
    """The phases of a run. Their ends are rounded to whole steps, and the last phase ends with the run."""
    result: list[Stretch] = []
    share, before = 0.0, 0
    for index, phase in enumerate(train.phases):
        # From the sum of the shares so far, so that rounding does not add up over the phases.
        share += phase.share
        last = train.steps if index == len(train.phases) - 1 else round(min(share, 1.0) * train.steps)
        result.append(Stretch(index, phase.context, phase.lr_scale, before + 1, last))
        before = last
    return result


def stretch_of(train: Train, step: int) -> Stretch:
    """The phase that step `step` (1 is the first) belongs to."""
    return next(stretch for stretch in stretches(train) if stretch.first <= step <= stretch.last)


def learning_rate(train: Train, step: int) -> float:
    """Linear warm-up, then constant, then a decay to `min_lr_ratio` of the peak at the last step.

    The report's schedule (section 2.3.1) has no constant part, and decays by a cosine. With a constant part and a
    linear decay to 0 it is the "warm-up, stable, decay" of Hu et al. 2024.

    Args:
        train: the recipe's section.
        step: from 1 to `train.steps`.
    """
    scale = stretch_of(train, step).lr_scale
    # All parts run over the steps of the whole run; a phase only scales them.
    if step <= train.warmup_steps:
        return train.lr * scale * step / train.warmup_steps
    # From 0 where the decay begins to 1 at the last step.
    after = max(train.steps - train.warmup_steps, 1)
    constant = after * (1.0 - train.decay_share)
    progress = min(max(step - train.warmup_steps - constant, 0.0) / (after - constant), 1.0)
    left = 0.5 * (1.0 + math.cos(math.pi * progress)) if train.decay == "cosine" else 1.0 - progress
    return train.lr * scale * (train.min_lr_ratio + (1.0 - train.min_lr_ratio) * left)
