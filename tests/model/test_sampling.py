"""Penalties and cuts against their definitions, written out slowly."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.model.sampling import NotFiniteError, penalise, sample


def slow_choice(logits, temperature, top_k, top_p, min_p, draw):
    """One token by the definitions: cuts of the sorted distribution, then the inverse of its cumulative sum."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    order = order[:top_k] if top_k else order
    best = logits[order[0]]
    weight = [math.exp((logits[i] - best) / temperature) for i in order]
    total = math.fsum(weight)
    weight = [w / total for w in weight]
    kept, before = [], 0.0
    for i, w in zip(order, weight, strict=True):
        if before < top_p and w >= min_p * weight[0]:
            kept.append((i, w))
        before += w
    point = draw * math.fsum(w for _, w in kept)
    for i, w in kept:
        point -= w
        if point < 0:
            return i
    return kept[-1][0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=12),
    st.sampled_from([0.3, 1.0, 2.0]),
    st.integers(0, 5),
    st.sampled_from([0.3, 0.77, 1.0]),
    st.sampled_from([0.0, 0.031, 0.4, 1.0]),
    st.integers(0, 996),
)
def test_cuts_are_those_of_the_definition(logits, temperature, top_k, top_p, min_p, draw):
    point = (draw + 0.5) / 997.3  # never on the border of two tokens of these few logits
    got = sample(torch.tensor([logits]), temperature, top_k, top_p, [point], min_p)
    assert got == [slow_choice(logits, temperature, top_k, top_p, min_p, point)]


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [1.0, math.inf], [-math.inf, -math.inf], [0.0, math.nan]])
@pytest.mark.parametrize("top_k", [0, 1, 2, 3])
def test_one_row_that_is_not_finite(bad, top_k):
    """One row and several take different ways to their likeliest tokens."""
    for scores in (torch.tensor([[*bad, -math.inf, -math.inf]]), torch.tensor([[*bad, -math.inf, -math.inf]] * 2)):
        with pytest.raises(NotFiniteError):
            sample(scores, 1.0, top_k, 1.0, [0.5] * len(scores))


def test_min_p_1_leaves_the_likeliest():
    scores = torch.tensor([[0.0, 3.0, 2.9]])
    assert {sample(scores, 5.0, 0, 1.0, [i / 50], 1.0)[0] for i in range(50)} == {1}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-40, 40).map(float), min_size=4, max_size=8),
    st.lists(st.integers(0, 3), max_size=6),  # an id that has been written can be
    st.lists(st.integers(0, 9), max_size=6),
    st.sampled_from([0.5, 1.0, 1.25]),
    st.sampled_from([0.0, 0.5, -1.0]),
    st.sampled_from([0.0, 0.25]),
)
def test_penalties_are_those_of_their_definitions(logits, written, recent, repeat, presence, frequency):
    scores = torch.tensor(logits)
    penalise(scores, Counter(written), recent, repeat=repeat, presence=presence, frequency=frequency)
    for index, logit in enumerate(logits):
        if index in recent:
            logit = logit / repeat if logit > 0 else logit * repeat
        times = written.count(index)
        logit -= frequency * times + (presence if times else 0.0)
        assert scores[index].item() == pytest.approx(logit)
