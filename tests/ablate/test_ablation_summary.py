"""Curves and differences: Student's interval, pairs by seed, files resampled, and what is not known stays null."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeshell.ablate.summary import T975, summarise, t_interval


def student(degrees: int, at: float) -> float:
    """P(T <= at) by adding up the density, as its definition says."""
    norm = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    # Half of the probability lies below 0.
    x = np.linspace(0.0, at, 200_001)
    density = norm * (1 + x * x / degrees) ** (-(degrees + 1) / 2)
    return 0.5 + float(np.trapezoid(density, x))


def test_the_table_is_students() -> None:
    assert [student(degrees, value) for degrees, value in enumerate(T975, start=1)] == pytest.approx([0.975] * 30)


@pytest.mark.parametrize("n", [3, 40])
def test_interval_of_known_values(n: int) -> None:
    values = [float(value) for value in range(n)]
    found = t_interval(values)
    error = np.std(values, ddof=1) / math.sqrt(n)
    width = (found["high"] - found["mean"]) / error
    assert found["mean"] == pytest.approx(np.mean(values))
    assert student(n - 1, width) == pytest.approx(0.975, abs=1e-4)
    assert found["mean"] - found["low"] == pytest.approx(found["high"] - found["mean"], abs=2e-6)


def test_one_value_has_no_interval() -> None:
    assert t_interval([0.25]) == {"mean": 0.25, "low": None, "high": None, "seeds": 1}


def result(arm: str, seed: int, values: list[float], files: list[list[float]] | None = None) -> dict[str, Any]:
    """A training with a point at 100, 200, … tokens; `files` are bits of files of 1,000 bytes each."""
    points = []
    for number, value in enumerate(values):
        point: dict[str, Any] = {"step": number + 1, "tokens": 100 * (number + 1), "files": {}, "not_run": {}}
        point["values"] = {"good/bits_per_byte": value, "own/simple": 0.0}
        if files:
            point["files"]["good"] = {"bits": files[number], "bytes": [1000] * len(files[number])}
        points.append(point)
    return {"arm": arm, "seed": seed, "points": points}


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by 1 and the arms by 0.1: unpaired, nothing could be said."""
    results = [result("random", seed, [3.0 + seed]) for seed in range(3)]
    results += [result("all", seed, [2.9 + seed + 0.001 * seed]) for seed in range(3)]
    found = summarise(results, "random", 0)
    (entry,) = found["differences"]["good/bits_per_byte"]["all"]
    assert entry["mean"] == pytest.approx(-0.099)
    assert entry["values"] == pytest.approx({"0": -0.1, "1": -0.099, "2": -0.098})
    assert entry["low"] < -0.1 < -0.098 < entry["high"] < 0 and entry["clear"]
    # The curve itself shows how wide the seeds lie.
    (curve,) = found["curves"]["good/bits_per_byte"]["all"]
    assert curve["high"] - curve["low"] > 4


def test_only_common_seeds_and_points_are_compared() -> None:
    results = [result("random", 1, [3.0, 2.0]), result("random", 2, [3.0]), result("all", 1, [2.5])]
    results.append(result("rules", 9, [2.5]))
    found = summarise(results, "random", 0)
    (entry,) = found["differences"]["good/bits_per_byte"]["all"]
    assert (entry["tokens"], entry["values"]) == (100, {"1": -0.5})
    assert (entry["low"], entry["high"], entry["clear"]) == (None, None, False)
    # An arm without a seed in common has no differences, and its curve is there.
    assert "rules" not in found["differences"]["good/bits_per_byte"]
    assert len(found["curves"]["good/bits_per_byte"]["rules"]) == 1


def test_a_difference_that_hangs_on_a_few_files_is_not_clear() -> None:
    """One of twenty files makes the whole difference; every seed says the same."""
    even, odd = [3000.0] * 20, [2000.0] + [3000.0] * 19
    results = [result("random", seed, [3.0], [even]) for seed in range(3)]
    results += [result("all", seed, [2.95 + 1e-6 * seed], [odd]) for seed in range(3)]
    (entry,) = summarise(results, "random", 0)["differences"]["good/bits_per_byte"]["all"]
    assert entry["high"] < 0 and entry["files"][1] == 0.0 and not entry["clear"]
    # With all files better by as much, it is.
    results[3:] = [result("all", seed, [2.95 + 1e-6 * seed], [[2950.0 - at for at in range(20)]]) for seed in range(3)]
    (entry,) = summarise(results, "random", 0)["differences"]["good/bits_per_byte"]["all"]
    assert entry["files"][0] < -0.0595 < entry["files"][1] < -0.05 and entry["clear"]


def test_files_that_differ_are_not_compared() -> None:
    results = [result("random", 1, [3.0], [[3000.0] * 20]), result("all", 1, [2.9], [[2900.0] * 21])]
    (entry,) = summarise(results, "random", 0)["differences"]["good/bits_per_byte"]["all"]
    assert "files" not in entry


@pytest.mark.parametrize(
    ("ours", "reached"),
    [([4.0, 3.0, 2.0], 2 / 3), ([4.0, 2.0, 1.0], 0.5), ([2.5, 2.0, 1.0], 1 / 3), ([5.0, 4.0, 3.1], None)],
)
def test_where_an_arm_reaches_the_end_of_the_baseline(ours: list[float], reached: float | None) -> None:
    found = summarise([result("random", 1, [5.0, 4.0, 3.0]), result("all", 1, ours)], "random", 0)
    assert found["reached"]["good/bits_per_byte"]["all"] == (reached and pytest.approx(reached, abs=1e-4))


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.floats(-1, 1))
def test_a_shift_of_every_seed_is_found_exactly(values: list[float], shift: float) -> None:
    results = [result("random", seed, [value]) for seed, value in enumerate(values)]
    results += [result("all", seed, [value + shift]) for seed, value in enumerate(values)]
    (entry,) = summarise(results, "random", 0)["differences"]["good/bits_per_byte"]["all"]
    assert entry["mean"] == pytest.approx(shift, abs=2e-6)
    assert entry["high"] - entry["low"] < 1e-4
