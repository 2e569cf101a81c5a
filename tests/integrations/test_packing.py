"""Packed documents stay apart: with a cache, with padding, in later steps, however the model is told of them."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.tiny_transformers import KINDS, padding, tiny, tokens, transformers

import codeshell

LENGTHS = [5, 12, 1, 9]
TOTAL = sum(LENGTHS)


def positions(lengths=LENGTHS):
    return torch.cat([torch.arange(n) for n in lengths])[None]


def packed():
    return tokens(1, TOTAL)


@torch.no_grad()
def alone(kind, ids=None, lengths=LENGTHS):
    """The logits of each document by itself, of an unpatched model."""
    model = tiny(kind)
    return torch.cat([model(part).logits for part in (packed() if ids is None else ids).split(lengths, 1)], 1)


def patched(kind):
    model = tiny(kind)
    codeshell.patch(model)
    return model


def distance(got, want):
    return float((got - want).detach().abs().max())


SOME = ["llama", "mistral", "gemma2"]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_with_a_cache(kind):
    model, ids, want = patched(kind), packed(), alone(kind)
    ones = torch.ones_like(ids)
    for extra in ({}, {"use_cache": True}, {"attention_mask": ones}, {"attention_mask": ones, "use_cache": False}):
        assert distance(model(ids, position_ids=positions(), **extra).logits, want) < 1e-4


def test_in_training():
    """With the cache that the config's default makes, and recomputed in the backward pass."""
    ids, gradients = packed(), []
    for checkpointed in (None, False, True):
        model = tiny("llama").train()
        if checkpointed is None:  # transformers' own, without a cache
            output = model(ids, position_ids=positions(), labels=ids, use_cache=False)
        else:
            codeshell.patch(model)
            if checkpointed:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            output = model(ids, position_ids=positions(), labels=ids)
        output.loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for gradient in gradients[1:]:
        assert distance(gradient, gradients[0]) < 1e-4 * float(gradients[0].abs().max())


@torch.no_grad()
@pytest.mark.parametrize("kind", SOME)
def test_rows_that_are_packed_differently(kind):
    ids, other = packed(), [20, 7]
    model = patched(kind)
    both = torch.cat((positions(), positions(other)))
    want = torch.cat((alone(kind), alone(kind, lengths=other)))
    assert distance(model(ids.expand(2, -1), position_ids=both).logits, want) < 1e-4
    # One row of positions for all rows of tokens.
    assert distance(model(ids.expand(2, -1), position_ids=positions()).logits, want[:1].expand(2, -1, -1)) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_with_padding(kind, cached, side):
    place = slice(4, None) if side == "left" else slice(0, TOTAL)
    ids, mask, at = torch.zeros(3, 1, TOTAL + 4, dtype=torch.int64)
    ids[:, place], mask[:, place], at[:, place] = packed(), 1, positions()
    output = patched(kind)(ids, attention_mask=mask, position_ids=at, use_cache=cached)
    assert distance(output.logits[:, place], alone(kind)) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", SOME)
def test_a_cache_that_is_continued(kind):
    """Within a document, and with documents that begin in later calls."""
    model, ids = patched(kind), packed()
    cache, parts = transformers.DynamicCache(config=model.config), []
    for start, stop in [(0, 10), (10, 18), *((i, i + 1) for i in range(18, TOTAL))]:
        at = positions()[:, start:stop]
        parts.append(model(ids[:, start:stop], position_ids=at, past_key_values=cache).logits)
    assert distance(torch.cat(parts, 1), alone(kind)) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("settings", [{}, {"cache_implementation": "static", "disable_compile": True}])
def test_generation_continues_the_last_document(kind, settings):
    ids, last = packed(), packed()[:, -LENGTHS[-1] :]
    settings = settings | {"max_new_tokens": 5, "do_sample": False}
    got = patched(kind).generate(ids, attention_mask=torch.ones_like(ids), position_ids=positions(), **settings)
    want = tiny(kind).generate(last, attention_mask=torch.ones_like(last), **settings)
    assert torch.equal(got[:, TOTAL:], want[:, LENGTHS[-1] :])


@torch.no_grad()
@pytest.mark.parametrize(
    "at",
    [
        torch.arange(TOTAL)[None] + 7,  # one document from its eighth token on
        torch.zeros(1, TOTAL, dtype=torch.int64),
        torch.cat((torch.arange(5) + 3, torch.arange(TOTAL - 5) + 1))[None],  # a second one that does not begin at 0
        torch.cat((torch.arange(5), torch.arange(TOTAL - 5) + 50))[None],
    ],
    ids=["offset", "constant", "falling", "jump"],
)
@pytest.mark.parametrize("kind", SOME)
def test_a_cache_changes_nothing(kind, at):
    """The documents are those that transformers sees without a cache."""
    want = tiny(kind)(packed(), position_ids=at, use_cache=False).logits
    assert distance(patched(kind)(packed(), position_ids=at).logits, want) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", SOME)
def test_padding_is_no_document(kind):
    """Counted positions stand still or fall in the padding, also between real tokens and in a right-padded cache."""
    ids = tokens(2, 14)
    mask = torch.ones_like(ids)
    mask[0, 4:7], mask[1, :3] = 0, 0
    counted = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    models = tiny(kind), patched(kind)
    for at in (counted, torch.arange(14)[None]):
        want, got = (m(ids, attention_mask=mask, position_ids=at).logits[mask.bool()] for m in models)
        assert distance(got, want) < 1e-4
    right = torch.ones_like(ids)
    right[0, 9:] = 0
    longer = torch.cat((right, torch.ones(2, 1, dtype=torch.int64)), 1)
    for at in ((longer.cumsum(-1) - 1)[:, -1:], torch.full((2, 1), 14)):
        outputs = []
        for model in models:
            cache = transformers.DynamicCache(config=model.config)
            model(ids, attention_mask=right, past_key_values=cache)
            outputs.append(model(ids[:, :1], attention_mask=longer, position_ids=at, past_key_values=cache).logits)
        assert distance(*outputs) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kind", SOME)
def test_offsets(kind):
    """What DataCollatorWithFlattening gives: with positions, alone, and where they cannot mean anything."""
    offsets = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    extra = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, "max_length_q": 12, "max_length_k": 12}
    model, ids = patched(kind), packed()
    for cached in (False, True):
        got = model(ids, position_ids=positions(), use_cache=cached, **extra).logits
        assert distance(got, alone(kind)) < 1e-4
    own = model(ids, **extra).logits
    changed = ids.clone()
    changed[:, :5] = 7
    assert distance(model(changed, **extra).logits[:, 5:], own[:, 5:]) < 1e-4
    cache = transformers.DynamicCache(config=model.config)
    model(ids[:, :6], past_key_values=cache)
    with pytest.raises(ValueError, match="cu_seq_lens_q after a cache"):
        model(ids, past_key_values=cache, **extra)


@torch.no_grad()
def test_positions_that_change_in_place():
    model, ids, at = patched("llama"), packed(), torch.arange(TOTAL)[None]
    plain = model(ids, position_ids=at).logits
    at.copy_(positions())
    assert distance(model(ids, position_ids=at).logits, alone("llama")) < 1e-4
    at.copy_(torch.arange(TOTAL))
    assert torch.equal(model(ids, position_ids=at).logits, plain)
    with torch.inference_mode():
        at = torch.arange(TOTAL)[None]
        model(ids, position_ids=at)
        at.copy_(positions())
        assert distance(model(ids, position_ids=at).logits, alone("llama")) < 1e-4


@torch.no_grad()
def test_compiled():
    """A graph cannot look at the positions: without a cache they count, with one they are refused when they tell."""
    model, ids = tiny("llama", num_hidden_layers=1), packed()
    want = torch.cat([model(part).logits for part in ids.split(LENGTHS, 1)], 1)
    codeshell.patch(model)
    compiled = torch.compile(model, backend="aot_eager")
    assert distance(compiled(ids, position_ids=positions(), use_cache=False).logits, want) < 1e-4
    plain = torch.arange(TOTAL)[None]
    assert distance(compiled(ids, position_ids=plain).logits, model(ids, position_ids=plain).logits) < 1e-4
    with pytest.raises(RuntimeError, match=r"inside torch.compile .* pass use_cache=False"):
        compiled(ids, position_ids=positions())
    torch.compiler.reset()


@torch.no_grad()
def test_a_mask_of_the_callers_own_decides_alone():
    model, ids = patched("llama"), packed()
    seen = torch.ones(TOTAL, TOTAL, dtype=torch.bool).tril()[None, None]
    want = tiny("llama")(ids, attention_mask=seen, position_ids=positions(), use_cache=False).logits
    assert distance(model(ids, attention_mask=seen, position_ids=positions()).logits, want) < 1e-4


@torch.no_grad()
def test_loaded_with_the_implementation_alone():
    """Without `codeshell.patch`, and in a model type that it does not serve."""
    model = tiny("llama", "codeshell")
    assert distance(model(packed(), position_ids=positions()).logits, alone("llama")) < 1e-4
    config = transformers.Qwen3MoeConfig(
        hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_experts=2, num_experts_per_tok=1,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16, vocab_size=96,
    )  # fmt: skip
    torch.manual_seed(0)
    other = transformers.Qwen3MoeForCausalLM(config).eval()
    want = other(packed(), position_ids=positions(), use_cache=False).logits
    model = copy.deepcopy(other)
    model.set_attn_implementation("codeshell")
    for cached in (False, True):
        assert distance(model(packed(), position_ids=positions(), use_cache=cached).logits, want) < 1e-4
    got = model(tokens(), attention_mask=padding("left")).logits[padding("left").bool()]
    assert distance(got, other(tokens(), attention_mask=padding("left")).logits[padding("left").bool()]) < 1e-4
