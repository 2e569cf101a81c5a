"""Patched models of transformers and our own model reach the Hopper kernel, which runs on the host here."""

from __future__ import annotations

import pytest
import torch
from helpers.attention_cases import poison
from helpers.simulated_gpu import simulate

import codeshell
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.modules import CodeShellAttention
from codeshell.ops import cpu, decode_cuda


@pytest.mark.parametrize(
    ("kind", "side"), [("llama", "none"), ("llama", "right"), ("mistral", "left"), ("mistral", "packed")]
)
def test_logits_and_what_the_kernel_is_given(host_kernels, monkeypatch, kind, side):
    """Two layers of a model: padding and documents arrive as packed sequences, a window as a window."""
    pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")
    from helpers.tiny_transformers import tiny, tokens

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
        simulate(monkeypatch, host_kernels)
        monkeypatch.setattr(cpu, "attention_serves", lambda *_: pytest.fail("not the Hopper kernel"))
        taken = poison(monkeypatch)
        got = model(ids, use_cache=False, **arguments).logits
    assert len(taken) == 2 and all(len(shape) == (4 if side == "none" else 3) for shape in taken)
    assert float((got - want)[real].abs().max()) < 0.03 * float(want.abs().max())
    assert all(shape.numel() == int(real.sum()) * 2 * 64 for shape in taken)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_cache_is_read_by_the_decode_kernel(host_kernels, monkeypatch, kind):
    """A prompt, single tokens and a chunk; Mistral's window of 8 is full by then."""
    pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")
    from helpers.tiny_transformers import tiny, tokens

    ids = tokens(2, 14)
    model = tiny(kind, num_attention_heads=2, num_key_value_heads=1, head_dim=64).bfloat16()
    codeshell.patch(model)
    taken, run = [], decode_cuda.run

    def counted(call, *outputs):
        taken.append(call.q.shape[1])
        run(call, *outputs)

    monkeypatch.setattr(decode_cuda, "run", counted)
    with torch.no_grad():
        want = model(ids, use_cache=False).logits
        simulate(monkeypatch, host_kernels)
        cache, parts = None, []
        for start, stop in [(0, 9), (9, 10), (10, 13), (13, 14)]:
            output = model(ids[:, start:stop], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
    assert taken == [1, 1, 3, 3, 1, 1]  # in both layers
    assert float((torch.cat(parts, 1) - want).abs().max()) < 0.03 * float(want.abs().max())


def test_documents_of_our_model_are_isolated_bit_for_bit(host_kernels, monkeypatch):
    """On the way that a GPU takes: perturb the first document, the logits of the others stay."""
    monkeypatch.setattr(CodeShellAttention, "_mix_folded", CodeShellAttention._mix)
    simulate(monkeypatch, host_kernels)
    taken = poison(monkeypatch)
    config = CodeShellConfig(vocab_size=64, n_embd=128, n_layer=2, n_head=2, num_query_groups=1, n_positions=64)
    torch.manual_seed(0)
    model = CodeShellForCausalLM(config).bfloat16().eval()
    ids = torch.randint(64, (2, 12))
    offsets = torch.tensor([0, 7, 12, 24], dtype=torch.int32)
    with torch.no_grad():
        before = model(ids, cu_seqlens=offsets, max_seqlen=12).logits.flatten(0, 1)
        ids[0, :7] = (ids[0, :7] + 1) % 64
        after = model(ids, cu_seqlens=offsets, max_seqlen=12).logits.flatten(0, 1)
    assert taken == [(24, 2, 64)] * 4
    assert torch.equal(before[7:], after[7:]) and before.isfinite().all()
    assert not torch.equal(before[:7], after[:7])
