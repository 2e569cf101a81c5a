"""Every model type that `codeshell.patch` serves: logits, gradients, caches and generation, before and after."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers.tiny_transformers import KINDS, WINDOW, padding, tiny, tokens

import codeshell

SIDES = ["none", "left", "right"]


def logits_and_gradients(model, side, dtype=torch.float64):
    """Both in fp64; the logits of real tokens."""
    ids, mask = tokens().to(model.device), padding(side)
    labels, real = ids, torch.ones_like(ids, dtype=torch.bool)
    if mask is not None:
        mask = mask.to(model.device)
        real = mask.bool()
        labels = ids.masked_fill(~(real & real.roll(1, 1)), -100)  # nothing is predicted from padding
    output = model(ids, attention_mask=mask, labels=labels, use_cache=False)
    model.zero_grad()
    output.loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return output.logits.detach()[real].double(), gradients.double()


@functools.cache
def exact(kind, side, dtype=torch.float32):
    return logits_and_gradients(tiny(kind, "exact").to(dtype).double(), side)


@functools.cache
def eager(kind, side, dtype=torch.float32):
    return logits_and_gradients(tiny(kind, "eager").to(dtype), side)


def distances(mine, wanted):
    logits = float((mine[0] - wanted[0]).abs().max() / wanted[0].abs().max())
    return logits, float((mine[1] - wanted[1]).norm() / wanted[1].norm())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients(kind, side):
    model = tiny(kind)
    codeshell.patch(model)
    mine = distances(logits_and_gradients(model, side), exact(kind, side))
    theirs = distances(eager(kind, side), exact(kind, side))
    assert max(mine) < 1e-5
    for own, peer in zip(mine, theirs, strict=True):
        assert own <= 2 * peer


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_bf16(kind):
    model = tiny(kind).bfloat16()
    codeshell.patch(model)
    mine = distances(logits_and_gradients(model, "left"), exact(kind, "left", torch.bfloat16))
    theirs = distances(eager(kind, "left", torch.bfloat16), exact(kind, "left", torch.bfloat16))
    for own, peer in zip(mine, theirs, strict=True):
        assert own <= 2 * peer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_unpatched_it_is_the_original_bit_for_bit(kind, implementation):
    if kind == "gemma2" and implementation == "sdpa":
        pytest.skip("transformers has no SDPA for Gemma-2")
    model = tiny(kind, implementation)
    before = model(tokens(), attention_mask=padding("left")).logits
    codeshell.patch(model)
    assert model.config._attn_implementation == "codeshell"
    patched = model(tokens(), attention_mask=padding("left")).logits
    assert kind == "gemma2" or not torch.equal(before, patched)  # in fp32 Gemma-2's happen to be the same operations
    codeshell.unpatch(model)
    assert model.config._attn_implementation == implementation
    assert torch.equal(model(tokens(), attention_mask=padding("left")).logits, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["none", "left"])
def test_a_cache_filled_in_pieces(kind, side):
    """A prefill, a chunk, single steps: the windows are full and slide by then."""
    ids, mask = tokens(), padding(side)
    model = tiny(kind)
    want = model(ids, attention_mask=mask, use_cache=False).logits
    codeshell.patch(model)
    cache, parts = None, []
    with torch.no_grad():
        for start, stop in [(0, 11), (11, 16), (16, 17), (17, 18), (18, 21)]:
            seen = None if mask is None else mask[:, :stop]
            output = model(ids[:, start:stop], attention_mask=seen, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
    real = slice(None) if mask is None else mask.bool()
    assert float((torch.cat(parts, 1) - want.detach())[real].abs().max()) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_generation(kind):
    """Greedy with left padding; the same with a static cache, where the prompt is longer than the window; beams."""
    ids, mask = tokens(seq=WINDOW + 3), padding("left", seq=WINDOW + 3)
    ways = [
        ({}, ids, mask),
        ({"cache_implementation": "static", "disable_compile": True}, ids, mask),
        ({"cache_implementation": "static", "disable_compile": True}, ids, None),
        ({"num_beams": 3}, ids, mask),
    ]
    model = tiny(kind)
    outputs = []
    for patched in (False, True):
        if patched:
            codeshell.patch(model)
        outputs.append(
            [
                model.generate(x, attention_mask=m, max_new_tokens=5, do_sample=False, **settings)
                for settings, x, m in ways
            ]
        )
    for before, after in zip(*outputs, strict=True):
        assert torch.equal(before, after)


def test_one_new_token_from_a_static_cache():
    """The cache has no room after the prompt, so `generate` gets a Pattern from the mask function."""
    for kind in ("llama", "gemma3_text"):
        model = tiny(kind)
        settings = {"max_new_tokens": 1, "do_sample": False, "cache_implementation": "static", "disable_compile": True}
        before = model.generate(tokens(), attention_mask=padding("left"), **settings)
        codeshell.patch(model)
        assert torch.equal(model.generate(tokens(), attention_mask=padding("left"), **settings), before)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents(kind):
    """position_ids that start anew are documents; where a kernel serves, other documents change no bit."""
    lengths = [5, WINDOW + 4, 1, 9]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    ids = tokens(1, sum(lengths))
    model = tiny(kind)
    alone = [model(part, use_cache=False).logits for part in ids.split(lengths, 1)]
    codeshell.patch(model)
    packed = model(ids, position_ids=positions, use_cache=False).logits
    assert float((packed - torch.cat(alone, 1)).abs().max()) < 1e-4
    if kind != "mixtral":  # the experts' products depend on how many tokens each has
        ids[0, : lengths[0]] = 7
        other = model(ids, position_ids=positions, use_cache=False).logits
        assert torch.equal(packed[:, lengths[0] :], other[:, lengths[0] :])
        assert not torch.equal(packed[:, : lengths[0]], other[:, : lengths[0]])


def test_documents_given_by_offsets():
    model = tiny("llama")
    offsets = torch.tensor([0, 5, 21], dtype=torch.int32)
    ids = tokens(1)
    positions = torch.cat((torch.arange(5), torch.arange(16)))[None]
    want = model(ids, position_ids=positions, use_cache=False).logits
    codeshell.patch(model)
    extra = {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets, "max_length_q": 16, "max_length_k": 16}
    # With the positions the documents are told twice; without them by the offsets alone.
    both = model(ids, position_ids=positions, use_cache=False, **extra).logits
    assert float((both - want).abs().max()) < 1e-4
    ids[0, :5] = 7
    alone = model(ids, use_cache=False, **extra).logits
    ids[0, :5] = 9
    assert torch.equal(model(ids, use_cache=False, **extra).logits[:, 5:], alone[:, 5:])


def test_attention_that_is_not_causal():
    model = tiny("llama")
    want = model(tokens(), attention_mask=padding("right"), use_cache=False, is_causal=False).logits
    plain = model(tokens(), use_cache=False, is_causal=False).logits
    codeshell.patch(model)
    real = padding("right").bool()
    got = model(tokens(), attention_mask=padding("right"), use_cache=False, is_causal=False).logits
    assert float((got - want)[real].abs().max()) < 1e-4
    assert float((model(tokens(), use_cache=False, is_causal=False).logits - plain).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2"])
def test_attention_weights(kind):
    model = tiny(kind, "eager")
    want = model(tokens(), attention_mask=padding("right"), output_attentions=True).attentions
    codeshell.patch(model)
    got = model(tokens(), attention_mask=padding("right"), output_attentions=True).attentions
    assert len(got) == len(want) == 2
    real = padding("right").bool()
    for mine, theirs in zip(got, want, strict=True):
        assert float((mine - theirs).transpose(1, 2)[real].abs().max()) < 1e-5


def test_dropout_is_applied_in_training():
    model = tiny("llama", attention_dropout=0.3).train()
    codeshell.patch(model)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(model(tokens(), attention_mask=padding("left")).logits[0])
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    assert torch.equal(model.eval()(tokens()).logits, model(tokens()).logits)


def test_a_mask_of_the_callers_own():
    model = tiny("llama")
    own = torch.rand(3, 1, 21, 21, generator=torch.Generator().manual_seed(0)) > 0.4
    own |= torch.eye(21, dtype=torch.bool)
    added = torch.zeros(own.shape).masked_fill(~own, torch.finfo(torch.float32).min)
    want = [model(tokens(), attention_mask=m, use_cache=False).logits for m in (own, added)]
    codeshell.patch(model)
    for mask, logits in zip((own, added), want, strict=True):
        assert float((model(tokens(), attention_mask=mask, use_cache=False).logits - logits).abs().max()) < 1e-4


def test_autocast():
    model = tiny("llama")
    with torch.autocast("cpu", torch.bfloat16):
        want = model(tokens(), attention_mask=padding("left"), use_cache=False).logits.float()
    for parts in ({}, {"rotary": False}):
        codeshell.patch(model, **parts)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(tokens(), attention_mask=padding("left"), use_cache=False).logits.float()
        assert float((got - want)[padding("left").bool()].abs().max()) < 0.2 and got.isfinite().all()


@torch.no_grad()
def test_torch_compile():
    model = tiny("llama", num_hidden_layers=1)
    want = model(tokens(), attention_mask=padding("left"), use_cache=False).logits
    codeshell.patch(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for undo in (False, True):
        if undo:
            codeshell.unpatch(compiled)
        got = compiled(tokens(), attention_mask=padding("left"), use_cache=False).logits
        assert float((got - want)[padding("left").bool()].abs().max()) < 1e-4
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing():
    plain, checkpointed = tiny("mistral").train(), tiny("mistral").train()
    checkpointed.gradient_checkpointing_enable()
    results = []
    for model in (plain, checkpointed):
        codeshell.patch(model)
        results.append(logits_and_gradients(model, "left"))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
