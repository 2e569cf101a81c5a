"""Patched models of transformers reach the Hopper kernel, which runs on the host here."""

from __future__ import annotations

import pytest
import torch
from attention_cases import poison

import codeshell
from codeshell.ops import attention_cuda, native

pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")

from integrations.tiny import tiny, tokens


@pytest.mark.parametrize(
    ("kind", "side"), [("llama", "none"), ("llama", "right"), ("mistral", "left"), ("mistral", "packed")]
)
def test_logits_and_what_the_kernel_is_given(host_kernels, monkeypatch, kind, side):
    """Two layers of a model: padding and documents arrive as packed sequences, a window as a window."""
    ids = tokens(2, 12)
    real = torch.ones(2, 12, dtype=torch.bool)
    arguments = {}
    if side == "packed":
        arguments["position_ids"] = torch.cat((torch.arange(5), torch.arange(7))).expand(2, -1)
    elif side != "none":
        real[1, slice(3) if side == "left" else slice(-3, None)] = False
        arguments["attention_mask"] = real.long()
    model = tiny(kind, num_attention_heads=2, num_key_value_heads=1, head_dim=64).bfloat16()
    codeshell.patch(model)
    with torch.no_grad():
        want = model(ids, use_cache=False, **arguments).logits  # by the kernel of the CPU
        monkeypatch.setattr(attention_cuda, "extension", host_kernels)
        monkeypatch.setattr(native, "attention_serves", lambda *_: pytest.fail("not the Hopper kernel"))
        taken = poison(monkeypatch)
        got = model(ids, use_cache=False, **arguments).logits
    assert len(taken) == 2 and all(len(shape) == (4 if side == "none" else 3) for shape in taken)
    assert float((got - want)[real].abs().max()) < 0.03 * float(want.abs().max())
    assert all(shape.numel() == int(real.sum()) * 2 * 64 for shape in taken)
