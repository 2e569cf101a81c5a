"""Loss by position: buckets, paired differences and their errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from codeshell.evaluate.tasks.positions import by_bucket, edges, within_and_beyond


@pytest.mark.parametrize("context", [1, 5, 32, 100, 1024, 8192])
def test_buckets_cover_every_position_once(context: int) -> None:
    ends = edges(context)
    assert ends[0] == 0 and ends[-1] == context and all(a < b for a, b in itertools.pairwise(ends))


def test_a_bucket_holds_means_and_paired_errors() -> None:
    before = np.arange(3 * 64, dtype=np.float64).reshape(3, 64)
    after = before - np.array([[0.1], [0.2], [0.6]])
    rows = by_bucket(before, after)
    assert [(row["start"], row["end"]) for row in rows[:2]] == [(0, 2), (2, 4)] and len(rows) == 32
    assert rows[0]["before"]["mean"] == pytest.approx(64.5)
    assert rows[0]["difference"]["mean"] == pytest.approx(-0.3)
    assert rows[0]["difference"]["se"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1) / 3**0.5, abs=1e-6)
    assert rows[0]["before"]["se"] > 10 * rows[0]["difference"]["se"]


def test_within_and_beyond_the_trained_context() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (20, 16))
    before = np.ones((20, 16)) + noise
    after = before.copy()
    after[:, 4:] -= 0.5 + noise[:, :12]
    result = within_and_beyond(before, after, 4)
    assert result["within"]["difference"]["mean"] == 0 and not result["within"]["significant"]
    assert result["beyond"]["difference"]["mean"] == pytest.approx(-0.5, abs=0.02) and result["beyond"]["significant"]
    low, high = result["beyond"]["interval"]
    assert low < result["beyond"]["difference"]["mean"] < high < 0


def test_few_sequences_carry_no_claim() -> None:
    before, after = np.ones((9, 8)), np.zeros((9, 8))
    assert not within_and_beyond(before, after, 4)["beyond"]["significant"]
    single = within_and_beyond(before[:1], after[:1], 4)["beyond"]
    assert single["interval"] is None and not single["significant"] and single["difference"]["se"] is None
