"""Patched models and flash-attn's functions where the Hopper kernels run, against fp64."""

from __future__ import annotations

import pytest
import torch
from helpers.cuda import on_hopper
from helpers.tiny_transformers import padding, tiny, tokens

import codeshell
from codeshell.integrations.flash_attn import flash_attn_func, flash_attn_varlen_func
from codeshell.ops import attention_cuda

from .test_models import distances, logits_and_gradients

pytestmark = on_hopper


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """Shapes of the queries that the kernel was given."""
    shapes, allocate = [], attention_cuda._empty

    def counted(call):
        shapes.append(tuple(call.q.shape))
        return allocate(call)

    monkeypatch.setattr(attention_cuda, "_empty", counted)
    return shapes


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "starcoder2"])
def test_logits_and_gradients_on_cuda(kind, side, taken):
    models = {name: tiny(kind, name, head_dim=64).bfloat16().cuda() for name in ("exact", "eager", "sdpa")}
    codeshell.patch(models["sdpa"])
    exact = logits_and_gradients(models["exact"].double(), side)
    pairs = [distances(logits_and_gradients(models[name], side), exact) for name in ("sdpa", "eager")]
    assert all(mine <= 2 * theirs for mine, theirs in zip(*pairs, strict=True))
    taken.clear()
    mask = padding(side)
    with torch.no_grad():
        models["sdpa"](tokens().cuda(), attention_mask=None if mask is None else mask.cuda(), use_cache=False)
    assert len(taken) == 2 and all(len(shape) == (4 if side == "none" else 3) for shape in taken)


def test_packed_documents_on_cuda(taken):
    model = tiny("llama", head_dim=64).bfloat16().cuda()
    codeshell.patch(model)
    ids, lengths = tokens(1).cuda(), [5, 16]
    positions = torch.cat([torch.arange(n) for n in lengths])[None].cuda()
    with torch.no_grad():
        before = model(ids, position_ids=positions, use_cache=False).logits
        ids[0, :5] = 7
        after = model(ids, position_ids=positions, use_cache=False).logits
    assert torch.equal(before[:, 5:], after[:, 5:]) and not torch.equal(before[:, :5], after[:, :5])
    assert len(taken) == 4 and {len(shape) for shape in taken} == {3}


@pytest.mark.parametrize("queries", [300, 100])
def test_flash_attn_functions_on_cuda(queries, taken):
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(2, n, h, 128, generator=generator, device="cuda").bfloat16()
        for n, h in ((queries, 8), (300, 2), (300, 2))
    )
    out, lse, _ = flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    wide, wide_lse, _ = flash_attn_func(q.double(), k.double(), v.double(), causal=True, return_attn_probs=True)
    assert len(taken) == 1 and float((out - wide).abs().max()) < 0.05
    assert float((lse - wide_lse).abs().max()) < 1e-3
    offsets, key_offsets = (torch.arange(3, device="cuda", dtype=torch.int32) * n for n in (queries, 300))
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    packed = flash_attn_varlen_func(*flat, offsets, key_offsets, queries, 300, causal=True)
    assert float((packed - out.flatten(0, 1)).abs().max()) < 0.05
    assert len(taken) == (2 if queries == 300 else 1)
