"""The model's own decoding on a simulated GPU without Hopper kernels: what layers hand to torch's FlashAttention."""

from __future__ import annotations

import pytest
import torch
from helpers import waits
from helpers.flash_attention import FlashAttention
from helpers.simulated_gpu import simulate
from helpers.tiny_models import tiny_model, tokens

from codeshell.model.cache import STEP, KVCache


@pytest.fixture(autouse=True)
def flash(monkeypatch):
    """An A100 whose tensors are on the CPU; the calls of torch's FlashAttention."""
    simulate(monkeypatch, capability=(8, 0), built=False)
    with FlashAttention() as calls:
        yield calls


@torch.inference_mode()
def test_steps_after_padded_prompts_are_the_model_without_a_cache(flash, monkeypatch):
    model = tiny_model()
    ids, prompt = tokens(2, 24), 17
    real = torch.ones(2, prompt, dtype=torch.bool)
    real[1, :6] = False
    want = [model(ids).logits, model(ids[1:, 6:]).logits]
    model = model.to(torch.bfloat16)
    cache = KVCache(model.config, 2, 90, dtype=torch.bfloat16)
    outs = [model(ids[:, :prompt], attention_mask=real, cache=cache).logits]
    before, waited = len(flash.forwards), waits.note(monkeypatch)
    at = prompt
    for count in (1, 3, 1, 2):
        outs.append(model(ids[:, at : at + count], cache=cache).logits)
        at += count
    assert not [wait for wait in waited if "decode" in wait or "modules" in wait or "cache" in wait]
    # One call a layer and step, over the cache itself: queries of a step are sequences, no pages, no mask.
    steps = flash.forwards[before:]
    assert len(steps) == 4 * model.config.n_layer
    assert all(step.max_q == 1 and not step.paged and step.max_k == cache.capacity for step in steps)
    got = torch.cat(outs, 1).float()
    near = 0.05 * want[0].abs().max()
    assert (got[0] - want[0][0]).abs().max() < near and (got[1, 6:] - want[1][0]).abs().max() < near


@torch.inference_mode()
def test_a_kernel_gets_the_filled_part_of_a_large_cache(flash):
    model = tiny_model().to(torch.bfloat16)
    cache = KVCache(model.config, 1, 4 * STEP, dtype=torch.bfloat16)
    model(tokens(1, 10), cache=cache)
    model(tokens(1, 1), cache=cache)
    assert flash.forwards[-1].max_k == STEP
    cache.longest = STEP - 1
    assert cache.view(0, 1)[0].shape[1] == STEP and cache.view(0, 2)[0].shape[1] == 2 * STEP
    cache.longest = 4 * STEP - 1
    assert cache.view(0, 1)[1].shape[1] == 4 * STEP
    assert cache.view(0, 1)[0].data_ptr() == cache.keys[0].data_ptr()


def test_rows_that_stay_move_up_within_the_cache():
    cache = KVCache(tiny_model().config, 4, 8)
    for tensor in (*cache.keys, *cache.values):
        tensor.copy_(torch.randn(tensor.shape))
    cache.lengths, cache.longest = torch.tensor([3, 5, 1, 4], dtype=torch.int32), 5
    want, memory = [x[[1, 3], :5].clone() for x in (*cache.keys, *cache.values)], cache.keys[0].data_ptr()
    cache.keep(torch.tensor([1, 3]))
    assert cache.lengths.tolist() == [5, 4] and cache.capacity == 8 and cache.keys[0].data_ptr() == memory
    for got, kept in zip((*cache.keys, *cache.values), want, strict=True):
        assert got.shape[0] == 2 and torch.equal(got[:, :5], kept)
