"""Continuous batches give each prompt what it gets alone, whatever rows they have."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.model import batches
from codeshell.model.batches import Sampling, continue_all
from codeshell.model.generation import generate
from codeshell.model.reading import Decoder
from codeshell.model.sampling import NotFiniteError

MODEL = tiny_model(torch.float64)  # so that the order of sums cannot tip a choice
ENDS = frozenset(range(300, 384))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), min_size=1, max_size=9),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.9]),
    st.sampled_from([0, 30]),
)
def test_a_prompt_gets_what_it_gets_alone(shapes, rows, temperature, enough):
    """Prompts of four beginnings, so that some share what is copied."""
    stems = [torch.randint(0, 384, (60,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(4)]
    prompts = [stems[stem][:length] for stem, length in shapes]
    seeds = [(i, 0) for i in range(len(prompts))]
    stop = (lambda index, new: len(new) >= 2 + index) if enough else None
    sampling = Sampling(8, ENDS, 350, temperature, top_k=enough, stop=stop)
    got = continue_all(Decoder(MODEL.network()), prompts, sampling, seeds, 64, rows)
    for index, prompt in enumerate(prompts):
        # The model's own forward, one prompt after the other: a hook turns `network` off.
        handle = MODEL.register_forward_hook(lambda *_: None)
        try:
            assert MODEL.network() is None
            (want,) = generate(
                MODEL,
                torch.tensor([prompt]),
                max_new_tokens=min(8, 64 - len(prompt)),
                stop_ids=ENDS,
                temperature=temperature,
                top_k=enough,
                seed=[index],
                n_vocab_used=350,
                stop=None if stop is None else lambda _, new, index=index: stop(index, new),
            )
        finally:
            handle.remove()
        assert got[index] == want


class Counted(Decoder):
    """A decoder that notes how many tokens it reads and how many rows step together."""

    def __init__(self, network):
        super().__init__(network)
        self.read_tokens, self.steps = 0, []

    def read(self, cache, row, tokens, check, logits):
        self.read_tokens += len(tokens)
        return super().read(cache, row, tokens, check, logits)

    def step(self, cache, tokens):
        self.steps.append(len(tokens))
        return super().step(cache, tokens)


def test_a_row_that_ends_gives_its_place():
    decoder = Counted(MODEL.network())
    stop = lambda index, new: len(new) >= (12 if index == 0 else 3)  # noqa: E731
    got = continue_all(decoder, [[i + 1] for i in range(9)], Sampling(20, (), 384, stop=stop), [(0, 0)] * 9, 96, rows=3)
    assert list(map(len, got)) == [12] + [3] * 8
    # The first row takes 12 steps. The others share the two places beside it, 3 steps each.
    assert decoder.steps == [3] * 12


def test_several_samples_of_a_prompt_read_it_once():
    decoder, prompt = Counted(MODEL.network()), list(range(1, 51))
    continue_all(decoder, [prompt] * 5, Sampling(2, (), 384, 1.0), [(i, 0) for i in range(5)], 96)
    assert decoder.read_tokens == 49


def test_memory_bounds_the_rows(monkeypatch):
    decoder = Counted(MODEL.network())
    monkeypatch.setattr(batches, "CACHE_BYTES", 2 * 12 * decoder.token_bytes)
    continue_all(decoder, [[i] * 10 for i in range(5)], Sampling(2, (), 384), [(0, 0)] * 5, 96)
    assert max(decoder.steps) == 2
    monkeypatch.setattr(batches, "CACHE_BYTES", 0)
    assert len(continue_all(decoder, [[1]], Sampling(2, (), 384), [(0, 0)], 96)[0]) == 2


def test_the_prompt_of_logits_that_are_not_finite_is_named():
    model = tiny_model()
    with torch.no_grad():
        model.transformer.wte.weight[7] = torch.nan
    with pytest.raises(NotFiniteError, match="new token 1") as error:
        continue_all(Decoder(model.network()), [[7, 1], [1]], Sampling(2, (), 384), [(0, 0)] * 2, 96)
    assert error.value.row == 0


def test_nothing_to_do():
    decoder = Decoder(MODEL.network())
    assert continue_all(decoder, [], Sampling(5, (), 384), [], 96) == []
    assert continue_all(decoder, [[1]], Sampling(0, (), 384), [(0, 0)], 96) == [[]]
