"""Which updates are applied."""

from __future__ import annotations

import math

import pytest

from codeshell.train.spikes import WARM, WINDOW, Guard, mean_of_last


def settled(sigma: float = 6.0, count: int = WINDOW) -> Guard:
    guard = Guard(sigma)
    for index in range(count):
        assert guard.judge(2.0 + 0.1 * (-1) ** index, 1.0) is None  # Mean 2.0, deviation 0.1.
    return guard


def test_a_spike_is_what_stands_above_the_window():
    assert settled().judge(2.59, 1.0) is None
    guard = settled()
    assert guard.deviations(2.7) == pytest.approx(7.0)
    assert guard.judge(2.7, 1.0) == "spike"
    assert guard.judge(0.1, 1.0) is None  # Far below is no spike.
    assert (guard.skipped, guard.in_row) == (1, 0)


def test_a_refused_loss_does_not_enter_the_window():
    guard = settled()
    before = guard.recent
    for count in range(1, 4):
        assert guard.judge(50.0, 1.0) == "spike"
        assert guard.in_row == count
    assert guard.recent == before
    guard.judge(2.0, 1.0)
    assert len(guard.recent) == WINDOW and guard.recent[-1] == 2.0


def test_a_short_window_and_a_flat_one_judge_nothing():
    assert settled(count=WARM - 1).judge(50.0, 1.0) is None
    assert settled(count=WARM).judge(50.0, 1.0) == "spike"
    flat = Guard(6.0, recent=[1.0] * WINDOW)
    assert flat.judge(1.5, 1.0) is None


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [
        (math.nan, 1.0, "non-finite loss"),
        (math.inf, 1.0, "non-finite loss"),
        (2.0, math.nan, "non-finite gradient"),
        (2.0, math.inf, "non-finite gradient"),
    ],
)
def test_non_finite_is_refused_under_every_policy(loss, norm, reason):
    for guard in (Guard(0.0), settled()):
        assert guard.judge(loss, norm, ignore_spikes=True) == reason


def test_spikes_can_be_ignored_or_turned_off():
    assert settled().judge(50.0, 1.0, ignore_spikes=True) is None
    assert settled(sigma=0.0).judge(50.0, 1.0) is None


def test_mean_of_last():
    assert mean_of_last([9.0, 1.0, 2.0], 2) == 1.5
    assert mean_of_last([1.0], 20) == 1.0
    assert mean_of_last([], 20) is None
