"""The memory plan of a base: counted without weights, against what torch keeps and counts with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.saved_bytes import saved_bytes
from helpers.tiny_bases import base, tuning

from codeshell.model import CodeShellConfig
from codeshell.train import base as bases
from codeshell.train import foreign, lora, parts
from codeshell.train.base_memory import plan_of_base, refusal_of_base, shape_of_base

pytest.importorskip("peft", reason="peft is not installed")


def kept(model: torch.nn.Module, tokens: int) -> int:
    """Bytes of all tensors that a forward pass of one row keeps for the backward pass, without the weights."""
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    offsets = torch.tensor([0, tokens // 2, tokens], dtype=torch.int32)
    with saved_bytes(model) as found:
        model(ids, targets=ids, cu_seqlens=offsets, max_seqlen=tokens)
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "starcoder2", "granite"])
def test_a_block_keeps_what_is_planned(tmp_path, tokenizer, kind: str, method: str) -> None:
    """The plan is above what is kept, by at most two fifths: patched attention keeps less than what is measured."""
    found = {}
    for layers in (2, 3):
        changes = {"num_hidden_layers": layers}
        directory = base(tmp_path / str(layers), tokenizer, kind, **changes)
        model = foreign.load(directory, torch.float32)
        recipe = tuning(directory, method)
        if method == "lora":
            lora.inject(model, recipe.finetune)
        found[layers] = kept(model, 96) - kept(model, 32)
    each = (found[3] - found[2]) / 64
    shape = shape_of_base(recipe, bases.read(str(directory)), "fp32")
    assert each <= shape.measured.kept["fp32"] <= 1.4 * each


@pytest.mark.parametrize(
    ("kind", "method"),
    # All weights are as many for LoRA; that they are those that are trained is asked of one family of each kind.
    [*((kind, "lora") for kind in (*bases.SERVED, "codeshell")), ("qwen2", "full"), ("codeshell", "full")],
)
def test_weights_are_counted_without_reading_any(tmp_path, tokenizer, kind: str, method: str) -> None:
    directory = base(tmp_path / "base", tokenizer, kind)
    recipe = tuning(directory, method)
    if kind == "codeshell":
        from codeshell.model import CodeShellForCausalLM

        model = CodeShellForCausalLM.from_pretrained(directory)
    else:
        model = foreign.load(directory, torch.float32)
    total = parts.parameters(model)
    if method == "lora":
        lora.inject(model, recipe.finetune)
    (directory / "model.safetensors").unlink()
    shape = shape_of_base(recipe, bases.read(str(directory)), "fp32")
    assert (shape.total, shape.trained) == (total, parts.trained(model))
    assert shape.frozen == (total if method == "lora" else 0)


def released(directory: Path) -> Path:
    """The released model's config: 7.69 B weights, none of which is there."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CodeShellConfig().to_dict()))
    return directory


def test_too_large_for_the_memory_names_lora_where_it_fits(tmp_path, monkeypatch) -> None:
    """All weights of the released model take 123 GB of states in fp32; its factors fit beside 30.8 GB of fp32."""
    directory = released(tmp_path / "released")
    first = bases.read(str(directory))
    monkeypatch.setattr("codeshell.train.base_memory.usable_memory", lambda: 48 * 10**9)
    full = tuning(directory, "full", train={"fim_rate": 0.0})
    assert sum(item.bytes for item in plan_of_base(full, first).items[:3]) == 16 * 7_688_048_640
    refusal = refusal_of_base(full, first)
    assert refusal is not None and "--lora 16" in refusal and "\n" not in refusal
    adapted = plan_of_base(tuning(directory), first)
    assert adapted.items[3] == ("frozen weights", 4 * 7_688_048_640, "fp32")
    assert adapted.fits == "fits" and refusal_of_base(tuning(directory), first) is None
    assert any("of LoRA trained" in line for line in adapted.lines())
    monkeypatch.setattr("codeshell.train.base_memory.usable_memory", lambda: 16 * 10**9)
    refusal = refusal_of_base(tuning(directory), first)
    assert refusal is not None and "take a smaller model or more memory" in refusal
