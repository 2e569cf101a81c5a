"""Intervals against published values, exact enumeration and their own definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.evaluate.intervals import (
    bootstrap_ratios,
    compare_shares,
    mcnemar,
    mean_and_error,
    percentile_interval,
    share,
    wilson,
)
from codeshell.randomness import draw, uniform


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), table I, method 3, from four tables of counts.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_newcombe(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@settings(max_examples=50)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_score_equation(case: tuple[int, int]) -> None:
    successes, n = case
    for end in wilson(successes, n):
        assert 0.0 <= end <= 1.0
        if 0 < end < 1:
            z = (successes / n - end) / math.sqrt(end * (1 - end) / n)
            assert abs(z) == pytest.approx(1.959963985, rel=1e-6)
    low, high = wilson(successes, n)
    assert low <= successes / n <= high
    mirrored = wilson(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("successes", "n", "name"), [(0, 0, "n"), (3, 2, "successes"), (-1, 2, "successes")])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}:"):
        wilson(successes, n)


def test_a_share_of_nothing_is_not_zero() -> None:
    assert share(0, 0) == {"count": 0, "n": 0, "share": None, "interval": None}


def test_mcnemar_is_the_two_sided_sign_test() -> None:
    ours = [True] * 8 + [False] * 1 + [True] * 50 + [False] * 30
    theirs = [False] * 8 + [True] * 1 + [True] * 50 + [False] * 30
    # 9 discordant tasks, 1 lost: 2 * (C(9,0) + C(9,1)) / 2^9
    assert mcnemar(ours, theirs) == pytest.approx(20 / 512)
    assert mcnemar(theirs, ours) == mcnemar(ours, theirs)
    assert mcnemar([True, False], [True, False]) == 1.0


def test_few_tasks_are_never_significant() -> None:
    assert compare_shares([True] * 9, [False] * 9)["p_value"] < 0.05
    assert not compare_shares([True] * 9, [False] * 9)["significant"]
    assert compare_shares([True] * 10, [False] * 10)["significant"]
    assert compare_shares([], []) == {"n": 0, "difference": None, "p_value": None, "significant": False}


def test_bootstrap_is_a_function_of_seed_and_purpose() -> None:
    bits = np.array([[10.0, 20.0, 5.0, 9.0]])
    sizes = np.array([3.0, 8.0, 2.0, 2.0])
    first = bootstrap_ratios(bits, sizes, seed=1, purpose="a")
    assert np.array_equal(first, bootstrap_ratios(bits, sizes, seed=1, purpose="a"))
    assert not np.array_equal(first, bootstrap_ratios(bits, sizes, seed=2, purpose="a"))
    assert not np.array_equal(first, bootstrap_ratios(bits, sizes, seed=1, purpose="b"))
    # The draw of a replicate does not depend on how many there are: blocks are no part of the stream.
    assert np.array_equal(first[:, :7], bootstrap_ratios(bits, sizes, seed=1, purpose="a", replicates=7))


def test_bootstrap_of_a_mean_has_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 200)
    replicates = bootstrap_ratios(values[None], np.ones(200), seed=3, purpose="x", replicates=4000)[0]
    assert replicates.mean() == pytest.approx(values.mean(), abs=0.02)
    assert replicates.std() == pytest.approx(values.std() / math.sqrt(200), rel=0.06)
    low, high = percentile_interval(replicates)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(200), rel=0.08)


def test_systems_are_resampled_together() -> None:
    bits = np.array([[1.0, 2.0, 30.0], [2.0, 3.0, 31.0]])
    replicates = bootstrap_ratios(bits, np.ones(3), seed=0, purpose="pair")
    assert np.allclose(replicates[1] - replicates[0], 1.0)
    assert replicates[0].std() > 1


def test_uniform_is_flat_and_addressable() -> None:
    key = draw(7, "test")
    values = uniform(key, 0, 100_000)
    assert values.min() >= 0 and values.max() < 1
    counts = np.bincount((values * 50).astype(int), minlength=50)
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 100  # 49 degrees of freedom: p < 0.0001 above this
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02
    assert np.array_equal(uniform(key, 500, 10), values[500:510])


def test_draw_keeps_its_parts_apart() -> None:
    assert draw(1, "ab", "c") != draw(1, "a", "bc")
    assert draw(0, "\ud800") != draw(0, "ü")  # a lone surrogate is no error


def test_mean_and_error() -> None:
    assert mean_and_error(np.array([1.0, 2.0, 3.0, 6.0])) == {"mean": 3.0, "se": pytest.approx(1.080123)}
    assert mean_and_error(np.array([4.0])) == {"mean": 4.0, "se": None}
