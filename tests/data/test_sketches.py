"""Sketches against NumPy and plain Python: exact while they can be, and the same for any cut of the data."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.data.sketches import Sketch, by_group, keys_of, values_of

NUMBERS = st.floats(allow_nan=False, width=64)


def same(one: Sketch, other: Sketch) -> bool:
    arrays = ((one.bins, other.bins), (one.count, other.count), (one.size, other.size))
    return one.level == other.level and all(np.array_equal(a, b) for a, b in arrays)


def sketch(values: list[float], limit: int = 65_536) -> Sketch:
    return Sketch.of(np.array(values, np.float64), np.arange(1, len(values) + 1), limit)


@given(st.lists(NUMBERS, max_size=30))
def test_keys_sort_as_the_numbers_do(values: list[float]) -> None:
    array = np.array(values, np.float64)
    keys = keys_of(array)
    assert np.array_equal(values_of(keys), array)
    for i, one in enumerate(values):
        for j, other in enumerate(values):
            assert (one < other) == bool(keys[i] < keys[j]) and (one == other) == bool(keys[i] == keys[j])


@settings(deadline=None)
@given(
    st.lists(st.one_of(NUMBERS, st.just(float("nan")), st.integers(0, 9).map(float)), max_size=80),
    st.integers(2, 12),
    st.lists(st.integers(0, 80), max_size=5),
    st.randoms(use_true_random=False),
)
def test_any_cut_in_any_order_gives_the_same_sketch(
    values: list[float], limit: int, cuts: list[int], random: st.DataObject
) -> None:
    array, sizes = np.array(values, np.float64), np.arange(1, len(values) + 1)
    whole = Sketch.of(array, sizes, limit)
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    parts = [Sketch.of(array[a:b], sizes[a:b], limit) for a, b in pairwise(bounds)]
    random.shuffle(parts)  # type: ignore[attr-defined]
    assert same(Sketch.merged(parts, limit), whole)
    # By pairs, as a tree of merges would do it.
    while len(parts) > 1:
        parts.append(Sketch.merged([parts.pop(0), parts.pop(0)], limit))
    assert same(parts[0], whole)
    assert len(whole.bins) <= limit
    there = ~np.isnan(array)
    assert whole.documents == there.sum() and whole.size.sum() == sizes[there].sum()
    # Each value lies in the bin that counts it.
    for value in array[there]:
        assert ((whole.low <= value) & (value <= whole.high)).sum() == 1
    # No level lower would do.
    if whole.level:
        finer = keys_of(array[there]) >> np.uint64(whole.level - 1)
        assert len(np.unique(finer)) > limit


@given(st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=60), st.floats(0, 0.999))
def test_quantiles_drop_as_many_as_fit_and_never_part_equals(values: list[float], share: float) -> None:
    array, one = np.array(values), sketch(values)
    allowed = int(np.floor(share * len(values)))
    low, high = one.lowest(share), one.highest(share)
    for dropped, rest in ((array < low, array[array >= low]), (array > high, -array[array <= high])):
        assert dropped.sum() <= allowed
        # With the next value, all that equal it, it would be too many.
        assert dropped.sum() + (rest == rest.min()).sum() > allowed


@given(st.lists(NUMBERS, min_size=1, max_size=50))
def test_ranks_are_the_mid_ranks_of_the_definition(values: list[float]) -> None:
    array = np.array(values)
    expected = [((array < value).sum() + 0.5 * (array == value).sum()) / len(values) for value in values]
    assert np.allclose(sketch(values).rank(array), expected, rtol=0, atol=1e-15)


def test_a_number_that_no_document_has_lies_between_its_neighbours() -> None:
    one = sketch([1.0, 2.0, 3.0, 4.0])
    assert one.rank(np.array([0.0, 2.5, 9.0, np.nan])).tolist()[:3] == [0.0, 0.5, 1.0]
    assert np.isnan(one.rank(np.array([np.nan]))[0])
    assert one.quantile(0.5) == 2.0 and one.quantile(0.0) == 1.0 and one.quantile(1.0) == 4.0


def test_a_coarse_sketch_is_off_by_a_bin_at_most() -> None:
    values = np.random.default_rng(5).lognormal(size=20_000)
    one = Sketch.of(values, np.ones(len(values), np.int64), 1024)
    assert 512 < len(one.bins) <= 1024
    for share in (0.01, 0.1, 0.5, 0.9):
        dropped = (values < one.lowest(share)).mean()
        assert share - one.count.max() / len(values) <= dropped <= share
        at = np.searchsorted(one.low, np.quantile(values, share), "right") - 1
        assert one.low[at] <= np.quantile(values, share) <= one.low[at + 1]
    assert (one.high / one.low).max() < 1.02


@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_without_a_value_nothing_is_dropped(values: list[float]) -> None:
    one = sketch(values)
    assert one.documents == 0 and one.lowest(0.5) == -np.inf and one.highest(0.5) == np.inf
    assert np.isnan(one.rank(np.array([1.0]))[0]) and np.isnan(one.quantile(0.5))


def test_zero_has_one_sign_and_infinities_have_a_place() -> None:
    one = sketch([-0.0, 0.0, np.inf, -np.inf])
    assert one.count.tolist() == [1, 2, 1] and one.low.tolist() == [-np.inf, 0.0, np.inf]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.one_of(NUMBERS, st.just(float("nan"))), st.integers(0, 3)), max_size=60), st.integers(2, 9)
)
def test_groups_in_one_sort_are_the_sketches_of_each(documents: list[tuple[float, int]], limit: int) -> None:
    values = np.array([value for value, _ in documents], np.float64)
    groups = np.array([group for _, group in documents], np.int64)
    sizes = np.arange(1, len(documents) + 1)
    found = by_group(values, sizes, groups, 4, limit)
    assert len(found) == 4
    for group, one in enumerate(found):
        assert same(one, Sketch.of(values[groups == group], sizes[groups == group], limit))


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=60), st.integers(2, 9))
def test_the_level_is_the_lowest_that_has_room(values: list[float], limit: int) -> None:
    # Plain Python: one bit is cut off at a time until few enough bins are left.
    keys = [int(key) for key in keys_of(np.array(values, np.float64))]
    level = 0
    while len({key >> level for key in keys}) > limit:
        level += 1
    found = sketch(values, limit)
    assert found.level == level and found.bins.tolist() == sorted({key >> level for key in keys})
    sums = {key >> level: 0 for key in keys}
    for size, key in enumerate(keys, 1):
        sums[key >> level] += size
    assert found.size.tolist() == [sums[bin] for bin in found.bins.tolist()]
