"""Models of transformers on a GPU without the Hopper kernels: patterns go to torch's FlashAttention, one call a layer,
and no layer waits for the GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers.flash_attention import FlashAttention
from helpers.simulated_gpu import simulate
from helpers.tiny_transformers import WINDOW, padding, tiny, tokens
from helpers.waits import note

import codeshell
from codeshell.integrations import masks

LENGTHS = [5, 12, 1, 9]
TOTAL = sum(LENGTHS)


@pytest.fixture
def gpu(monkeypatch):
    """An A100 and a build without CUDA: nothing but torch's FlashAttention."""
    simulate(monkeypatch, capability=(8, 0), built=False)
    with FlashAttention() as stand_in:
        yield stand_in


def positions():
    return torch.cat([torch.arange(n) for n in LENGTHS])[None]


def offsets():
    return torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)


def patched(kind="llama", **changes):
    model = tiny(kind, **changes).to(torch.bfloat16)
    codeshell.patch(model)
    return model


def alone(kind, ids):
    """The logits of each document by itself, of an unpatched model in fp32."""
    model = tiny(kind)
    return torch.cat([model(part).logits for part in ids.split(LENGTHS, 1)], 1)


def close(found, wanted):
    """Within what bf16 makes of two layers."""
    return float((found.float() - wanted).abs().max()) < 0.1 * float(wanted.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("told", ["positions", "offsets", "padding"])
def test_packed_documents_are_one_call_a_layer(gpu, kind, told):
    ids = tokens(1, TOTAL)
    extra = {
        "positions": {"position_ids": positions()},
        "offsets": {"position_ids": positions(), "cu_seq_lens_q": offsets(), "cu_seq_lens_k": offsets()},
        "padding": {"position_ids": positions(), "attention_mask": torch.ones_like(ids)},
    }[told]
    found = patched(kind)(ids, **extra).logits
    assert close(found, alone(kind, ids))
    assert len(gpu.forwards) == 2 and not any(x.dense for x in gpu.forwards)
    windows = {"llama": {-1}, "mistral": {WINDOW - 1}, "qwen2": {WINDOW - 1, -1}}[kind]
    assert {x.left for x in gpu.forwards} == windows and all(x.causal for x in gpu.forwards)


@torch.no_grad()
@pytest.mark.parametrize("told", ["positions", "offsets", "both", "padded"])
@pytest.mark.parametrize("cached", [False, True])
def test_more_layers_do_not_wait_more_often(gpu, monkeypatch, told, cached):
    """The documents are counted once per forward pass, for all layers."""
    ids, at, one, other = tokens(1, TOTAL), positions(), offsets(), offsets()
    extra = {
        "positions": {"position_ids": at},
        "offsets": {"cu_seq_lens_q": one, "cu_seq_lens_k": other, "position_ids": at},
        "both": {"position_ids": at, "attention_mask": torch.ones_like(ids)},
        "padded": {"position_ids": at, "attention_mask": torch.ones_like(ids).index_fill(1, torch.tensor([26]), 0)},
    }[told]
    models = [patched(num_hidden_layers=n) for n in (1, 4)]
    found, counts = note(monkeypatch), []
    for model in models:
        found.clear()
        # Each forward pass has tensors of its own, as a loader gives them.
        model(ids, use_cache=cached, **{key: x.clone() for key, x in extra.items()})
        counts.append(list(found))
    assert counts[0] == counts[1], "the waits of one layer and of four"
    assert len(gpu.forwards) == 5


def test_training_on_packed_documents(gpu):
    """One call forward and one backward for each layer, and the gradients of the documents alone."""
    ids = tokens(1, TOTAL)
    model = patched().train()
    logits = model(ids, position_ids=positions()).logits
    logits.float().square().sum().backward()
    assert len(gpu.forwards) == len(gpu.backwards) == 2
    wanted = tiny("llama").train()
    torch.cat([wanted(part).logits for part in ids.split(LENGTHS, 1)], 1).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), wanted.parameters(), strict=True):
        scale = float(b.grad.norm())
        assert float((a.grad.float() - b.grad).norm()) < 0.1 * scale, name


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_left_out(gpu, side):
    ids, mask = tokens(), padding(side)
    found = patched()(ids, attention_mask=mask).logits
    wanted = tiny("llama")(ids, attention_mask=mask).logits
    real = mask.bool()
    assert close(found[real], wanted[real]) and len(gpu.forwards) == 2


@torch.no_grad()
def test_generation_over_a_cache(gpu):
    """The prefill, several tokens after a cache, then one at a time."""
    model, plain = patched("mistral"), tiny("mistral")
    ids = tokens(2, 20)
    for one in (model, plain):
        first = one(ids[:, :12])
        second = one(ids[:, 12:17], past_key_values=first.past_key_values)
        third = one(ids[:, 17:18], past_key_values=second.past_key_values)
        if one is model:
            found = torch.cat([x.logits for x in (first, second, third)], 1)
        else:
            assert close(found, torch.cat([x.logits for x in (first, second, third)], 1))


def test_a_pattern_is_for_what_flash_attention_serves(gpu):
    config = SimpleNamespace(model_type="llama", hidden_size=320, num_attention_heads=4)
    device = torch.device("cpu")
    assert masks._has_kernels(config, device, torch.bfloat16) and masks._has_kernels(config, device, torch.float16)
    assert not masks._has_kernels(config, device, torch.float32) and not masks._has_kernels(config, device, None)
    assert not masks._has_kernels(SimpleNamespace(**vars(config) | {"head_dim": 264}), device, torch.bfloat16)
