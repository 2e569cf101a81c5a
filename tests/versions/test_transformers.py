"""`codeshell.patch` with this version of transformers: every kind of model, against the unpatched one."""

from __future__ import annotations

import pickle

import pytest
import torch
from helpers.tiny_transformers import KINDS, padding, tiny, tokens

import codeshell
from codeshell.integrations.reader import TransformersReader
from codeshell.model.reading import go_on

LENGTHS = [5, 12, 1, 9]


@pytest.fixture(params=KINDS)
def pair(request):
    """(the original, the patched one) with the same weights."""
    models = tiny(request.param, "eager"), tiny(request.param, "eager")
    codeshell.patch(models[1])
    return models


def distance(got, want):
    return float((got - want).detach().abs().max())


def test_logits_and_gradients(pair):
    gradients = []
    for model in pair:
        model(tokens(), labels=tokens()).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert distance(*gradients) < 1e-4 * float(gradients[0].abs().max())
    for side in ("left", "right"):
        real = padding(side).bool()
        outputs = [model(tokens(), attention_mask=padding(side)).logits[real] for model in pair]
        assert distance(*outputs) < 1e-4


@torch.no_grad()
def test_packed_documents(pair):
    original, patched = pair
    ids, at = tokens(1, sum(LENGTHS)), torch.cat([torch.arange(n) for n in LENGTHS])[None]
    want = torch.cat([original(part).logits for part in ids.split(LENGTHS, 1)], 1)
    for extra in ({}, {"use_cache": False}, {"attention_mask": torch.ones_like(ids)}):
        assert distance(patched(ids, position_ids=at, **extra).logits, want) < 1e-4


@torch.no_grad()
def test_generation(pair):
    ids, mask = tokens(seq=11), padding("left", seq=11)
    for settings in ({}, {"cache_implementation": "static", "disable_compile": True}):
        settings = settings | {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
        first, second = (model.generate(ids, **settings) for model in pair)
        assert torch.equal(first, second)


@torch.no_grad()
def test_a_cache_that_is_cut(pair):
    """The cache of serving under this version's interface: read in pieces, cut before the windows, read again."""
    ids = tokens(1, 33)
    want = pair[0](ids, use_cache=False).logits[0, -1]
    for model in pair:
        reader = TransformersReader(model)
        cache = reader.new_cache(40)
        for part in (ids[0, :20], tokens(1, 12, seed=5)[0]):
            reader.read(cache, part.tolist(), go_on, False)
        reader.cut_cache(cache, 7)
        reader.read(cache, ids[0, 7:30].tolist(), go_on, False)
        reader.read(cache, ids[0, 30:32].tolist(), go_on, False)
        assert distance(reader.read(cache, ids[0, 32:].tolist(), go_on, True), want) < 1e-4


@torch.no_grad()
def test_it_travels_and_is_undone(pair):
    original, patched = pair
    want = original(tokens()).logits
    for model in pair:  # the other one, too: its layers hold a function that the patch touches
        assert distance(pickle.loads(pickle.dumps(model))(tokens()).logits, want) < 1e-4
    codeshell.unpatch(patched)
    assert torch.equal(patched(tokens()).logits, want)
