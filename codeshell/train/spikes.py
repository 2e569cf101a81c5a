"""Spikes and non-finite values: which updates are applied.

One bad batch can undo days of training. So an update is applied only if its loss and gradient are finite and the loss
is not more than `spike_sigma` standard deviations above the mean of the last accepted losses (the outlier test of
llm.c's `-sl`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

WINDOW = 128
"""Number of accepted losses that a new one is compared with; llm.c's window."""

WARM = 64
"""Losses needed before the test judges: a standard deviation of fewer losses is itself off by more than 10 %."""


@dataclass
class Guard:
    """Judges each step's loss and gradient norm. A checkpoint stores its fields.

    Attributes:
        sigma: deviations above the mean that make a spike; 0 turns the test off.
        recent: accepted losses, oldest first, at most `WINDOW`.
        skipped: number of updates not applied so far.
        in_row: how many of these came since the last accepted update.
        reasons: how many of the updates not applied had which reason.
    """

    sigma: float
    recent: list[float] = field(default_factory=list)
    skipped: int = 0
    in_row: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def judge(self, loss: float, grad_norm: float, *, ignore_spikes: bool = False) -> str | None:
        """None if the update is to be applied, else the reason why not. The counts are kept either way."""
        reason = self._reason(loss, grad_norm, ignore_spikes)
        if reason is None:
            # A spike never enters the window: it would widen the deviation and let the next one pass.
            self.in_row = 0
            self.recent = [*self.recent, loss][-WINDOW:]
        else:
            self.skipped += 1
            self.in_row += 1
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        return reason

    def deviations(self, loss: float) -> float:
        """How many standard deviations `loss` is above the window's mean; 0 while the window says nothing."""
        if len(self.recent) < WARM:
            return 0.0
        # Losses that are all equal have no spread, and nothing can be said of the next one.
        spread = statistics.pstdev(self.recent)
        return (loss - statistics.fmean(self.recent)) / spread if spread > 0 else 0.0

    def _reason(self, loss: float, grad_norm: float, ignore_spikes: bool) -> str | None:
        # The most specific reason first: a loss that is not finite makes the gradient so, too.
        if not math.isfinite(loss):
            return "non-finite loss"
        if not math.isfinite(grad_norm):
            return "non-finite gradient"
        if self.sigma > 0 and not ignore_spikes and self.deviations(loss) > self.sigma:
            return "spike"
        return None


def mean_of_last(losses: Iterable[float], count: int) -> float | None:
    """Mean of the last `count` losses, None if there is none."""
    last = list(losses)[-count:]
    return statistics.fmean(last) if last else None
