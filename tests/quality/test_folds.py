"""Folds by group: no group is split, and sizes are about equal."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.errors import UserError
from codeshell.quality.folds import folds_by_group


@given(st.lists(st.integers(0, 40), min_size=60, max_size=300), st.integers(2, 8), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_no_group_is_split(numbers: list[int], count: int, seed: int) -> None:
    groups = [f"g{n}" for n in numbers]
    if len(set(groups)) < count:
        return
    folds = folds_by_group(groups, count, seed)
    assert set(folds.tolist()) == set(range(count))
    assert len({(group, fold) for group, fold in zip(groups, folds.tolist(), strict=True)}) == len(set(groups))
    # The largest fold has at most a fair share and one group more.
    assert np.bincount(folds).max() <= len(groups) / count + 2 * max(Counter(groups).values())


def test_order_does_not_matter_and_seeds_do() -> None:
    groups = [f"g{i % 23}" for i in range(500)]
    first = dict(zip(groups, folds_by_group(groups, 6).tolist(), strict=True))
    again = dict(zip(groups[::-1], folds_by_group(groups[::-1], 6).tolist(), strict=True))
    assert first == again
    others = [dict(zip(groups, folds_by_group(groups, 6, seed).tolist(), strict=True)) for seed in (1, 2)]
    assert first != others[0] != others[1]


def test_too_few_groups() -> None:
    with pytest.raises(UserError, match="3 repositories; give fewer folds"):
        folds_by_group(["a", "b", "c"] * 20, 6)
    with pytest.raises(UserError, match="--folds 1"):
        folds_by_group(["a", "b"], 1)
