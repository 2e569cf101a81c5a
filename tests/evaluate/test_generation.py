"""Generation in batches gives each prompt what it gets alone."""

from __future__ import annotations

import pytest
import torch
from helpers.evaluation_run import tiny_model

from codeshell.evaluate import generation
from codeshell.evaluate.generation import generate

PROMPTS = [[1, 2, 3], [9], list(range(40)), [7, 7], list(range(100, 112))]
STOPS = frozenset(range(256, 276))


def settings(**changes: object) -> dict:
    return {"max_new_tokens": 12, "stop_ids": STOPS, "pad": 256, "vocabulary": 276} | changes


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_p": 0.95, "seed": 3, "purpose": "x"}])
@pytest.mark.parametrize("elements", [1, 276 * 60, 10**9])
def test_batches_do_not_change_the_answers(sampling: dict, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(0).double()  # fp64, so that the order of sums cannot tip a choice
    expected = generate(model, PROMPTS, **settings(**sampling))
    monkeypatch.setattr(generation, "LOGIT_ELEMENTS", elements)
    assert generate(model, PROMPTS, **settings(**sampling)) == expected
    assert all(len(tokens) <= 12 and not STOPS & set(tokens) for tokens in expected) and any(expected)


def test_greedy_is_the_argmax_one_token_at_a_time() -> None:
    model = tiny_model(0).double()
    for prompt, answer in zip(PROMPTS, generate(model, PROMPTS, **settings(stop_ids=frozenset())), strict=True):
        ids = list(prompt)
        for token in answer:
            with torch.inference_mode():
                assert int(model(torch.tensor([ids])).logits[0, -1, :276].argmax()) == token
            ids.append(token)
        assert len(answer) == 12


def test_stop_ids_are_left_out_and_the_rest_is_cut() -> None:
    model = tiny_model(0).double()
    free = generate(model, [[1, 2, 3]], **settings(stop_ids=frozenset()))[0]
    end = free[5]
    stopped = generate(model, [[1, 2, 3]], **settings(stop_ids=frozenset([end])))[0]
    assert stopped == free[: free.index(end)]


def test_enough_ends_a_row() -> None:
    model = tiny_model(0).double()
    answers = generate(model, PROMPTS, **settings(stop_ids=frozenset(), stop=lambda tokens: len(tokens) == 4))
    assert [len(tokens) for tokens in answers] == [4] * 5


def test_no_prompts_no_answers() -> None:
    assert generate(tiny_model(0), [], **settings()) == []
