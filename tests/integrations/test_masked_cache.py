"""Static caches and caches with padding on the left, of transformers' models on a simulated GPU: each row is read from
its first token to its last query, and no mask is used."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from helpers.flash_attention import FlashAttention
from helpers.simulated_gpu import simulate
from helpers.tiny_transformers import WINDOW, tiny, tokens, transformers

import codeshell
from codeshell.integrations import masks

interface = pytest.importorskip("codeshell.integrations.transformers")
masking = transformers.masking_utils
MODULE = SimpleNamespace(is_causal=True, num_key_value_groups=2, training=False, layer_idx=0)
CONFIG = SimpleNamespace(model_type="llama", head_dim=16)


@pytest.fixture(autouse=True)
def flash(monkeypatch):
    """An A100 whose tensors are on the CPU; the calls of torch's FlashAttention."""
    simulate(monkeypatch, capability=(8, 0), built=False)
    with FlashAttention() as calls:
        yield calls


@dataclasses.dataclass(frozen=True)
class Situation:
    name: str
    queries: int
    keys: int
    first: int
    static: bool = False
    """Counts in a tensor, and has room after the last query."""
    padding: tuple[int, ...] | None = None
    """Tokens on the left of each row."""
    window: int | None = None


SITUATIONS = [
    Situation("static", 1, 30, 11, static=True),
    Situation("static_padded", 1, 30, 11, static=True, padding=(0, 5)),
    Situation("static_whole_padding_mask", 1, 30, 11, static=True, padding=(0, 0)),
    Situation("static_prompt", 9, 30, 0, static=True),
    Situation("static_prompt_padded", 20, 30, 0, static=True, padding=(3, 20)),
    Situation("static_several", 4, 30, 11, static=True, padding=(2, 0)),
    Situation("static_window", 2, 30, 11, static=True, padding=(2, 9), window=5),
    Situation("growing_padded", 1, 12, 11, padding=(0, 5)),
    Situation("growing_padded_several", 3, 12, 9, padding=(7, 5)),
    Situation("growing_padded_window", 1, 12, 11, padding=(0, 5), window=4),
]


def prepared(case: Situation):
    """Query, key, value, mask of codeshell, dense mask of transformers."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 4, case.queries, 16), (2, 2, case.keys, 16), (2, 2, case.keys, 16)]
    q, k, v = (torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in shapes)
    padding, end = None, case.first + case.queries
    if case.padding is not None:
        padding = torch.arange(end) >= torch.tensor(case.padding)[:, None]
    # Nobody may read what is beyond the last query, nor the padding.
    k[:, :, end:], v[:, :, end:] = torch.nan, torch.nan
    for row, count in enumerate(case.padding or ()):
        k[row, :, :count], v[row, :, :count] = torch.nan, torch.nan
    function = masking.causal_mask_function
    if case.window is not None:
        function = masking.sliding_window_causal_mask_function(case.window)
    arguments = {
        "batch_size": 2,
        "q_length": case.queries,
        "kv_length": case.keys,
        "q_offset": torch.tensor(case.first) if case.static else case.first,
        "kv_offset": 0,
        "mask_function": function,
        "attention_mask": padding,
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "use_vmap": False,
        "config": CONFIG,
        "local_size": case.window,
        "allow_is_causal_skip": False,
    }
    dense = masking.sdpa_mask(**arguments)
    return q, k, v, masks.mask(**arguments), dense


def reference(q, k, v, seen):
    """(batch, queries, heads, dim) in fp64; zeros where a query sees nothing."""
    k, v = (x.double().nan_to_num(0.0).repeat_interleave(2, 1) for x in (k, v))
    scores = (q.double() @ k.transpose(2, 3) / 4).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1).nan_to_num(0.0) @ v).transpose(1, 2)


@pytest.mark.parametrize("case", SITUATIONS, ids=lambda case: case.name)
def test_it_is_the_attention_of_the_mask(flash, monkeypatch, case):
    if not hasattr(masking, "sdpa_mask"):
        pytest.skip("another interface of masks")
    q, k, v, mask, dense = prepared(case)
    monkeypatch.setattr(interface, "sdpa_attention_forward", None)
    monkeypatch.setattr(interface, "sdpa_attention_forward", None)
    for _layer in range(2):
        out, _ = interface.attention(MODULE, q, k, v, mask)
        want = reference(q, k, v, dense)
        torch.testing.assert_close(out.double(), want, rtol=2e-2, atol=2e-2)
    assert len(flash.forwards) == 2


def test_other_padding_keeps_its_mask(flash):
    for hole in (4, 11):
        case = Situation("static", 2, 30, 11, static=True)
        q, k, v = (x.nan_to_num(0.0) for x in prepared(case)[:3])
        padding = torch.ones(2, 13, dtype=torch.bool)
        padding[0, hole] = False
        arguments = {"batch_size": 2, "q_length": 2, "kv_length": 30, "q_offset": torch.tensor(11), "kv_offset": 0}
        arguments |= {"mask_function": masking.causal_mask_function, "attention_mask": padding, "config": CONFIG}
        arguments |= {"dtype": torch.bfloat16, "device": torch.device("cpu"), "use_vmap": False}
        mask = masks.mask(**arguments)
        out, _ = interface.attention(MODULE, q, k, v, mask)
        want = reference(q, k, v, masking.sdpa_mask(**arguments))
        torch.testing.assert_close(out.double(), want, rtol=2e-2, atol=2e-2)
    assert not flash.forwards


def test_gradients_keep_the_mask(flash):
    q, k, v, mask, _ = prepared(SITUATIONS[0])
    out, _ = interface.attention(MODULE, q.requires_grad_(), k.nan_to_num(0.0), v.nan_to_num(0.0), mask)
    out.sum().backward()
    assert not flash.forwards and q.grad is not None


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_models_decode_without_masks(flash, monkeypatch, kind, static, padded):
    """A prompt, then single tokens, then three at once: near the fp32 model without a cache."""
    ids, prompt = tokens(2, WINDOW + 9), WINDOW + 2
    real = torch.ones_like(ids)
    real[1, :4] = 0 if padded else 1
    model = tiny(kind)
    with torch.no_grad():
        want = model(ids, attention_mask=real).logits
        model = model.to(torch.bfloat16)
        codeshell.patch(model)
        cache = (
            transformers.StaticCache(config=model.config, max_cache_len=40)
            if static
            else transformers.DynamicCache(config=model.config)
        )
        monkeypatch.setattr(interface, "sdpa_attention_forward", None)
        monkeypatch.setattr(interface, "sdpa_attention_forward", None)
        monkeypatch.setattr(interface, "_written_out", None)
        outs, at = [], 0
        for count in (prompt, 1, 1, 3, 1):
            part = slice(at, at + count)
            outs.append(
                model(ids[:, part], attention_mask=real[:, : at + count], past_key_values=cache, use_cache=True).logits
            )
            at += count
    found = torch.cat(outs, 1).float()
    tokens_that_count = real[:, :at].bool()
    scale = want.abs().max()
    assert (found - want[:, :at])[tokens_that_count].abs().max() < 0.08 * scale
    assert flash.forwards
