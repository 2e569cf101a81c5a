"""Phases in whole steps, and the learning rate at the places that are fixed by the report."""

from __future__ import annotations

import math

import pytest

from codeshell.recipe import Phase, Train
from codeshell.train.schedule import learning_rate, stretch_of, stretches


def test_the_reports_schedule():
    train = Train()
    assert [(s.context, s.first, s.last) for s in stretches(train)] == [(2048, 1, 114_300), (8192, 114_301, 127_000)]
    assert learning_rate(train, 1) == pytest.approx(3e-4 / 1000)
    assert learning_rate(train, 500) == pytest.approx(1.5e-4)
    assert learning_rate(train, 1000) == pytest.approx(3e-4)
    assert learning_rate(train, 64_000) == pytest.approx(1.65e-4)  # Half way between warm-up and end.
    assert learning_rate(train, 127_000) == pytest.approx(3e-5)
    rates = [learning_rate(train, step) for step in range(1000, 127_001, 777)]
    assert rates == sorted(rates, reverse=True)


def test_a_phase_scales_its_steps_alone():
    phases = (Phase(share=0.5, context=8), Phase(share=0.5, context=16, lr_scale=0.25))
    scaled = Train(steps=10, warmup_steps=0, phases=phases)
    plain = Train(steps=10, warmup_steps=0, phases=(Phase(share=1.0, context=8),))
    for step in range(1, 11):
        factor = 1.0 if step <= 5 else 0.25
        assert learning_rate(scaled, step) == pytest.approx(factor * learning_rate(plain, step))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 99])
def test_phases_cover_every_step_once(steps):
    train = Train(steps=steps, phases=tuple(Phase(share=share, context=8) for share in (0.1, 0.2, 0.3, 0.4)))
    covered = [step for stretch in stretches(train) for step in range(stretch.first, stretch.last + 1)]
    assert covered == list(range(1, steps + 1))
    assert all(stretch_of(train, step).first <= step <= stretch_of(train, step).last for step in covered)


def test_warm_up_longer_than_the_run_and_none_at_all():
    long = Train(steps=10, warmup_steps=100, phases=(Phase(share=1.0, context=8),))
    assert learning_rate(long, 10) == pytest.approx(3e-5)
    none = Train(steps=4, warmup_steps=0, lr=1.0, min_lr_ratio=0.0, phases=(Phase(share=1.0, context=8),))
    rates = [learning_rate(none, step) for step in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * part)) for part in (0.25, 0.5, 0.75, 1.0)])


def test_a_constant_part_and_a_linear_decay():
    """Warm-up, stable, decay: 2 steps of warm-up, 6 at the peak, 4 down to a tenth."""
    phases = (Phase(share=1.0, context=8),)
    train = Train(steps=12, warmup_steps=2, lr=1.0, min_lr_ratio=0.1, decay="linear", decay_share=0.4, phases=phases)
    rates = [learning_rate(train, step) for step in range(1, 13)]
    assert rates == pytest.approx([0.5, 1.0, *[1.0] * 6, 0.775, 0.55, 0.325, 0.1])
    whole = Train(steps=12, warmup_steps=2, lr=1.0, min_lr_ratio=0.0, decay="linear", phases=phases)
    rates = [learning_rate(whole, step) for step in range(2, 13)]
    assert rates == pytest.approx([1.0 - part / 10 for part in range(11)])
    late = Train(steps=12, warmup_steps=2, lr=1.0, min_lr_ratio=0.0, decay_share=0.2, phases=phases)
    assert [learning_rate(late, step) for step in (10, 11, 12)] == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize("share", [1e-9, 0.1, 1 / 3, 0.7, 1.0])
@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_every_decay_ends_at_its_floor_and_never_rises(decay, share):
    phases = (Phase(share=1.0, context=8),)
    train = Train(steps=97, warmup_steps=9, min_lr_ratio=0.25, decay=decay, decay_share=share, phases=phases)
    rates = [learning_rate(train, step) for step in range(9, 98)]
    assert rates[0] == train.lr and rates[-1] == pytest.approx(0.25 * train.lr)
    assert rates == sorted(rates, reverse=True)
