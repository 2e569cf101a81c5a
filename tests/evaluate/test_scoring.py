"""Sliding windows: every token once, the right context, whatever the batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.evaluation_fakes import SumModel, UniformModel
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.evaluate import scoring
from codeshell.evaluate.scoring import score, windows


@settings(max_examples=100)
@given(st.integers(0, 200), st.integers(1, 40).flatmap(lambda w: st.tuples(st.just(w), st.integers(1, w))))
def test_every_target_counts_once_with_enough_context(length: int, shape: tuple[int, int]) -> None:
    window, stride = shape
    cuts = windows(length, window, stride)
    counted = [place for _, end, scored in cuts for place in range(scored, end)]
    assert counted == list(range(length))
    for begin, end, scored in cuts:
        assert end - begin <= window and begin <= scored < end
        assert scored == 0 or scored - begin >= window - stride


@pytest.mark.parametrize("stride", [0, 9])
def test_a_stride_beyond_the_window_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=r"^stride:"):
        windows(20, 8, stride)


def naive(model: SumModel, ids: list[int], window: int, stride: int, start: str) -> list[float]:
    """One window, one token at a time."""
    stream = [256, *ids, 256] if start == "eot" else [*ids, 256]
    nats = [] if start == "eot" else [math.log(384)]
    n = len(stream) - 1
    done = 0
    while done < n:
        end = min(n, window if done == 0 else done + stride)
        for place in range(done, end):
            seen = torch.tensor([stream[max(0, end - window) : place + 1]])
            row = torch.log_softmax(model(seen).logits[0, -1].double(), dim=0)
            nats.append(-float(row[stream[place + 1]]))
        done = end
    return nats


@pytest.mark.parametrize("start", ["none", "eot"])
@pytest.mark.parametrize("elements", [1, 384 * 30, 10**9])
def test_score_equals_one_token_at_a_time(start: str, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LOGIT_ELEMENTS", elements)
    files = [[1, 2, 3], list(range(40)), [], [9], list(range(100, 108)), list(range(13))]
    model = SumModel()
    results = score(model, files, eot=256, window=8, stride=3, start=start)
    for ids, result in zip(files, results, strict=True):
        assert result.shape == (len(ids) + 1,)
        assert result == pytest.approx(naive(model, ids, 8, 3, start), rel=1e-4)


def test_batches_are_bounded_and_sorted_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LOGIT_ELEMENTS", 384 * 32)
    model = UniformModel()
    score(model, [[1] * n for n in (3, 8, 20, 5, 8)], eot=256, window=8, stride=4)
    assert max(rows * width for rows, width in model.shapes) <= 32
    assert [width for _, width in model.shapes] == sorted((width for _, width in model.shapes), reverse=True)


def test_a_file_alone_and_among_others_gets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [list(range(n)) for n in (30, 5, 17)]
    together = score(SumModel(), files, eot=256, window=16, stride=8)
    for ids, result in zip(files, together, strict=True):
        assert np.array_equal(score(SumModel(), [ids], eot=256, window=16, stride=8)[0], result)


def test_without_a_start_token_the_first_one_costs_log_v() -> None:
    result = score(SumModel(), [[5, 6]], eot=256, window=8, stride=4)[0]
    assert result[0] == pytest.approx(math.log(384)) and result[1] != result[0]
    assert score(SumModel(), [[]], eot=256, window=8, stride=4)[0] == pytest.approx([math.log(384)])
