"""pass@k against its definition: the share of all choices of k samples that hold one that passes."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeshell.evaluate.intervals import wilson
from codeshell.evaluate.pass_at_k import estimate, estimates, pass_at_k


def by_definition(n: int, c: int, k: int) -> Fraction:
    """Every choice of k of n samples, of which the first c pass."""
    chosen = list(itertools.combinations(range(n), k))
    return Fraction(sum(any(sample < c for sample in choice) for choice in chosen), len(chosen))


@given(st.data())
def test_it_is_the_share_of_choices_that_hold_a_pass(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 11))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert pass_at_k(n, c, k) == pytest.approx(float(by_definition(n, c, k)), abs=1e-12)


def test_many_samples_and_the_ends() -> None:
    exact = 1 - Fraction(math.comb(160, 10), math.comb(200, 10))
    assert pass_at_k(200, 40, 10) == pytest.approx(float(exact), abs=1e-12)
    # The naive 1 - (1 - c/n)^k is another number.
    assert abs(pass_at_k(200, 40, 10) - (1 - 0.8**10)) > 0.005
    assert pass_at_k(200, 40, 1) == pytest.approx(0.2)
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(5, 1, 5) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 1, 0), (5, 1, 6), (0, 0, 1)])
def test_values_out_of_range(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=r"give (0|1) to n"):
        pass_at_k(n, c, k)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_the_interval_holds_the_estimate_and_does_not_depend_on_chance(passed: list[int]) -> None:
    counts = [(4, c) for c in passed]
    found = estimates(counts, seed=3, purpose="x")
    assert found == estimates(counts, seed=3, purpose="x")
    # k above the number of samples is left out.
    assert list(found) == ["1"]
    low, high = found["1"]["interval"]
    assert 0 <= low <= found["1"]["value"] <= high <= 1
    assert found["1"]["problems"] == len(passed)


def test_every_k_that_all_problems_have_samples_for() -> None:
    assert list(estimates([(100, 3), (100, 0)], seed=0, purpose="x")) == ["1", "10", "100"]
    assert list(estimates([(100, 3), (12, 0)], seed=0, purpose="x")) == ["1", "10"]


def test_nothing_solved_is_no_certainty() -> None:
    for value, solved in ((0.0, 0), (1.0, 20)):
        low, high = wilson(solved, 20)
        found = estimate([value] * 20, seed=0, purpose="x")
        assert found["interval"] == [round(low, 6), round(high, 6)] and low < high
    assert estimate([], seed=0, purpose="x") == {"value": None, "interval": None, "problems": 0}


def test_the_interval_narrows_with_problems() -> None:
    def width(problems: int) -> float:
        low, high = estimate([0.0, 1.0] * (problems // 2), seed=0, purpose="x")["interval"]
        return high - low

    # 2 · 1.96 · 0.5 / √n, by the normal approximation.
    assert width(100) == pytest.approx(0.196, rel=0.1)
    assert width(1000) == pytest.approx(0.062, rel=0.1)
