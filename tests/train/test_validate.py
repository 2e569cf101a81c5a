"""Validation: bits for the bytes that are predicted, whatever the context and the limit."""

from __future__ import annotations

import math

import pytest
import torch

from codeshell.train.build import build
from codeshell.train.validate import Validation

CPU = torch.device("cpu")


def test_validation_is_bits_for_the_bytes_predicted(tiny, tokenizer, memory_corpus):
    """Against one document at a time, without packing, padding or micro-batches."""
    recipe, _ = tiny(dropout=0.0)
    model = build(recipe, tokenizer, CPU)[0].eval()
    held_out = ["def v(x):\n    return x\n", "", "y", "é = 1\nret = 2\n"]
    corpus = memory_corpus(held_out)
    validation = Validation(corpus, tokenizer, limit=10_000, isolated=True)
    nats, count, size = 0.0, 0, 0
    for text in held_out:
        ids = [*tokenizer.encode(text), tokenizer.eot] if text else []
        if not ids:
            continue
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].float()
        nats += float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum"))
        count += len(ids) - 1
        size += len(tokenizer.decode_bytes(ids[1:]))
    # The stream ends with an end of text; as the last of all it still is a target.
    for micro in (32, 1000):
        score = validation.score(model, context=64, micro_tokens=micro, precision="fp32")
        assert score.loss == pytest.approx(nats / count, rel=1e-5)
        assert score.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_validation_predicts_the_same_tokens_at_every_context_and_keeps_to_its_limit(tokenizer, memory_corpus, tiny):
    corpus = memory_corpus(["abcdefgh" * 9, "x = 1\n" * 9])
    model = build(tiny()[0], tokenizer, CPU)[0]
    model.train()
    limited = Validation(corpus, tokenizer, limit=50, isolated=True)
    assert len(limited.batch.inputs) == 50
    before = limited.n_bytes
    scores = {limited.score(model, context=c, micro_tokens=0, precision="fp32").loss for c in (16, 64)}
    assert len(scores) == 2 and limited.n_bytes == before
    assert limited.score(model, context=16, micro_tokens=16, precision="fp32").loss in [
        pytest.approx(s) for s in scores
    ]
    assert model.training  # Set back, or dropout would be off from here.
