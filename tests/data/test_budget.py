"""The budget and the cap of libraries, against their definitions written plainly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.data.budget import Candidates, Choice, Uses, choose, shares

DOCUMENT = st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers(0, 40), st.integers(0, 2))


def candidates(documents: list[tuple[float, int, int]]) -> Candidates:
    rank, size, language = (np.array(column) for column in zip(*documents, strict=True)) if documents else ([],) * 3
    hashes = np.array([(17 * at) % 1009 for at in range(len(documents))], np.uint64)
    return Candidates(np.array(rank, np.float64), hashes, np.array(size, np.int64), np.array(language, np.int64))


def kept(pool: Candidates, choice: Choice) -> set[int]:
    assert not set(choice.capped) & set(choice.beyond)
    return set(range(len(pool.rank))) - set(choice.capped.tolist()) - set(choice.beyond.tolist())


@given(
    st.lists(st.integers(0, 1000), max_size=6), st.lists(st.floats(0, 5), min_size=6, max_size=6), st.integers(0, 4000)
)
def test_shares_fill_the_budget_in_proportion(sizes: list[int], weights: list[float], budget: int) -> None:
    weights = weights[: len(sizes)]
    parts = shares(sizes, weights, budget)
    assert all(0 <= part <= size for part, size in zip(parts, sizes, strict=True)) and sum(parts) <= budget
    wanted = sum(size for size, weight in zip(sizes, weights, strict=True) if weight > 0)
    # All of it is used, but for the parts of bytes; and nobody has less than its own share while another has more.
    assert sum(parts) >= min(budget, wanted) - 2 * len(sizes)
    rates = [
        part / (size * weight)
        for part, size, weight in zip(parts, sizes, weights, strict=True)
        if 0 < part < size and size * weight > 1
    ]
    if rates and min(part for part in parts if part) > 50:
        assert max(rates) <= min(rates) * 1.1


@given(st.lists(DOCUMENT, max_size=25), st.integers(0, 400))
def test_the_best_of_each_language_stay_and_a_larger_budget_keeps_them(documents: list[Any], budget: int) -> None:
    pool = candidates(documents)
    choice = choose(pool, budget)
    stays = kept(pool, choice)
    assert pool.bytes[sorted(stays)].sum() <= budget
    for one in stays:
        for other in set(range(len(documents))) - stays:
            if pool.language[one] == pool.language[other]:
                better = (-pool.rank[one], pool.hash[one]) < (-pool.rank[other], pool.hash[other])
                assert better and pool.rank[other] <= choice.limit[pool.language[other]] <= pool.rank[one]
    assert stays <= kept(pool, choose(pool, budget + 50))


def test_a_budget_divides_by_bytes_and_weights() -> None:
    pool = candidates([(0.5, 10, 0)] * 30 + [(0.5, 10, 1)] * 10)
    count = lambda **more: Counter(pool.language[sorted(kept(pool, choose(pool, 200, **more)))].tolist())  # noqa: E731
    assert count() == {0: 15, 1: 5}
    assert count(weights={1: 3.0}) == {0: 10, 1: 10}
    # A language that cannot fill its part leaves it to the others; one of weight 0 has none.
    assert count(weights={1: 9.0}) == {0: 10, 1: 10}
    assert count(weights={0: 0.0}) == {1: 10}


def test_equal_ranks_are_ordered_by_hash_whatever_their_place() -> None:
    pool = candidates([(0.5, 10, 0)] * 20)
    chosen = {int(pool.hash[at]) for at in kept(pool, choose(pool, 70))}
    assert chosen == set(sorted(pool.hash.tolist())[:7])
    turned = Candidates(pool.rank, pool.hash[::-1].copy(), pool.bytes, pool.language)
    assert {int(turned.hash[at]) for at in kept(turned, choose(turned, 70))} == chosen


@settings(deadline=None)
@given(
    st.lists(DOCUMENT, max_size=20),
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 3)), max_size=30),
    st.sampled_from([0.1, 0.3, 0.5, 1.0]),
    st.one_of(st.none(), st.integers(1, 300)),
)
def test_no_library_has_more_than_its_share(
    documents: list[Any], used: list[tuple[int, int]], cap: float, budget: int | None
) -> None:
    pool = candidates(documents)
    pairs = sorted({pair for pair in used if pair[0] < len(documents)})
    uses = Uses(np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.int64))
    choice = choose(pool, budget, uses=uses, cap=cap)
    stays = kept(pool, choice)
    total = sum(int(pool.bytes[at]) for at in stays)
    for library in range(4):
        mine = [document for document, one in pairs if one == library]
        assert sum(int(pool.bytes[at]) for at in mine if at in stays) <= cap * total
        # Those that a full library drops are worse than those that stay of it.
        for out in (at for at, one in zip(choice.capped, choice.library, strict=True) if one == library):
            assert out in mine
            assert all(
                (-pool.rank[at], pool.hash[at]) < (-pool.rank[out], pool.hash[out]) for at in mine if at in stays
            )
    without = {document for document, _ in pairs}
    assert not set(choice.capped.tolist()) - without, "a document without a library is never capped"
    if budget is None:
        assert not len(choice.beyond)
    assert all(share > cap for share in choice.share)


def test_a_cap_takes_the_worst_documents_of_a_library() -> None:
    # 10 of 20 documents use library 3: at most a fifth of what stays, which is 2 of 12.
    pool = candidates([(at / 20, 10, 0) for at in range(20)])
    uses = Uses(np.arange(0, 20, 2), np.full(10, 3))
    choice = choose(pool, uses=uses, cap=0.2)
    assert choice.capped.tolist() == list(range(0, 16, 2)) and set(choice.library) == {3}
    # The first round began with 200 bytes and left 140, the second began with those and left 120, of which 20 are fine.
    assert choice.share[-1] == 30 / 140
