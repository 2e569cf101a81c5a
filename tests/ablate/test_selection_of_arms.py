"""What an arm takes: equal tokens by language, the best first, and a hash of the seed where ranks are equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeshell.ablate.selection import Judged, take
from codeshell.errors import UserError
from codeshell.randomness import draw


def judged(rank: list[float], reason: list[int], language: list[int], seed: int = 0) -> Judged:
    count = len(rank)
    key = np.array([draw(seed, number) for number in range(count)], dtype=np.uint64)
    names = [f"language {number}" for number in range(max(language) + 1)]
    return Judged(
        np.array(reason), ["rule"], np.array(rank), key, np.array(language), names, [f"repo {n}" for n in range(count)]
    )


DOCUMENTS = st.lists(
    st.tuples(st.integers(1, 50), st.sampled_from([0.2, 0.5, 0.9]), st.sampled_from([-1, -1, 0]), st.integers(0, 2)),
    min_size=1,
    max_size=60,
)


@given(DOCUMENTS, st.floats(0.0, 0.6), st.integers(0, 3))
def test_a_language_has_its_part_and_no_more(
    documents: list[tuple[int, float, int, int]], share: float, seed: int
) -> None:
    tokens = np.array([size for size, _, _, _ in documents])
    this = judged([d[1] for d in documents], [d[2] for d in documents], [d[3] for d in documents], seed)
    budget = int(share * tokens.sum())
    try:
        taken = take(this, tokens, budget, "arm")
    except UserError:
        # Then the limits of a language left less than its part.
        parts = [budget * tokens[this.language == n].sum() / tokens.sum() for n in range(len(this.languages))]
        left = [tokens[(this.language == n) & (this.reason < 0)].sum() for n in range(len(this.languages))]
        assert any(there < part for there, part in zip(left, parts, strict=True))
        return
    assert not taken[this.reason >= 0].any()
    for number in range(len(this.languages)):
        mine = this.language == number
        part = budget * tokens[mine].sum() / tokens.sum()
        had = tokens[taken & mine].sum()
        assert had <= part
        # What was left out did not fit: its part was full but for less than the smallest of them.
        able = mine & ~taken & (this.reason < 0)
        if able.any():
            assert had + tokens[able].min() > int(part)


def test_the_best_come_first() -> None:
    this = judged([0.1, 0.9, 0.5, 0.9, 0.2], [-1, -1, -1, 0, -1], [0, 0, 0, 0, 0])
    taken = take(this, np.array([10, 10, 10, 10, 10]), 20, "arm")
    assert np.flatnonzero(taken).tolist() == [1, 2]


def test_equal_ranks_are_a_sample_of_the_seed() -> None:
    """Over many seeds each document is taken about as often as any other."""
    counts = np.zeros(20)
    for seed in range(400):
        counts += take(judged([0.5] * 20, [-1] * 20, [0] * 20, seed), np.full(20, 10), 50, "arm")
    # 400 draws at 1/4: 100 each, with a standard deviation of 8.7.
    assert counts.sum() == 400 * 5 and counts.min() > 60 and counts.max() < 140


def test_too_little_is_an_error_with_the_numbers() -> None:
    this = judged([0.5] * 4, [-1, 0, 0, 0], [0, 0, 0, 0])
    with pytest.raises(UserError, match=r"ablate\.arms\.strict: its limits leave 10 of the 40 tokens of language 0"):
        take(this, np.full(4, 10), 30, "strict")
    with pytest.raises(UserError, match=r"the corpus has 40 tokens to train on, and each arm takes 50"):
        take(this, np.full(4, 10), 50, "strict")
