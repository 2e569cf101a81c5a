"""The search for the most likely answer: against all answers, and what it stops at."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from codeshell.evaluate.search import most_likely
from codeshell.model import CodeShellConfig, CodeShellForCausalLM

VOCABULARY, STOPS = 9, frozenset({7, 8})
PROMPT = [1, 2, 3, 1]


@pytest.fixture(scope="module", params=range(4))
def model(request) -> CodeShellForCausalLM:
    # 64 rows of which 9 are tokens; large weights, so that the probabilities are far from equal.
    torch.manual_seed(request.param)
    config = CodeShellConfig(
        vocab_size=64, n_vocab_used=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=2, num_query_groups=1
    )
    network = CodeShellForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    return network


def all_answers(model: CodeShellForCausalLM, longest: int) -> dict[tuple[int, ...], float]:
    """Log probability of every answer of up to `longest` tokens, its end included, one forward pass each."""
    plain = [token for token in range(VOCABULARY) if token not in STOPS]
    found = {}
    with torch.no_grad():
        for length in range(longest + 1):
            for answer in itertools.product(plain, repeat=length):
                logits = model(torch.tensor([[*PROMPT, *answer]])).logits[0, len(PROMPT) - 1 :, :VOCABULARY]
                follows = torch.log_softmax(logits.double(), dim=-1)
                steps = sum(float(follows[place, token]) for place, token in enumerate(answer))
                found[answer] = steps + math.log(sum(math.exp(float(follows[length, stop])) for stop in STOPS))
    return found


def search(model: CodeShellForCausalLM, width: int, **settings) -> list[int]:
    return most_likely(model, PROMPT, width=width, max_new_tokens=3, stop_ids=STOPS, vocabulary=VOCABULARY, **settings)


def test_a_wide_beam_finds_the_most_likely_of_all_answers(model):
    every = all_answers(model, 3)
    assert tuple(search(model, 7**3)) == max(every, key=every.__getitem__)
    # The same among those that count.
    long = {answer: score for answer, score in every.items() if len(answer) >= 2}
    assert tuple(search(model, 7**3, counts=lambda ids: len(ids) >= 2)) == max(long, key=long.__getitem__)


def test_a_narrow_beam_gives_an_answer_of_the_same_kind(model):
    every = all_answers(model, 3)
    found = tuple(search(model, 2))
    assert found in every and every[found] <= max(every.values())
    assert not STOPS & set(found)


def test_where_nothing_counts_it_is_the_most_likely_open_row(model):
    # Seven tokens, so 7^3 rows: the search drops none, and all rows of three tokens are open at the end.
    found = search(model, 7**3, counts=lambda ids: False)
    plain = [token for token in range(VOCABULARY) if token not in STOPS]
    rows = list(itertools.product(plain, repeat=3))
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *row] for row in rows])).logits[:, len(PROMPT) - 1 : -1, :VOCABULARY]
    follows = torch.log_softmax(logits, dim=-1).gather(2, torch.tensor(rows)[..., None]).sum((1, 2))
    assert tuple(found) == rows[int(follows.argmax())]


def test_the_same_whatever_was_searched_before(model):
    assert search(model, 3) == search(model, 3)
