"""Weights by rows: those of `from_pretrained`, and the same refusals before anything is read."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.tiny_models import tiny_model
from safetensors.torch import load_file, save_file

from codeshell.errors import UserError
from codeshell.model import CodeShellForCausalLM, weight_rows
from codeshell.model.weight_rows import WeightRows


def whole(directory):
    weights = WeightRows(directory)
    return {name: weights.read(name) for name in weights.layouts}


def rewrite(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")


@pytest.mark.parametrize("layout", ["codeshell", "starcoder2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("limit", [10**9, 40_000])
def test_all_rows_are_those_of_the_model(tmp_path, layout, tied, limit) -> None:
    model = tiny_model(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, layout, max_shard_bytes=limit)
    found, expected = whole(tmp_path), dict(model.named_parameters())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # Any stretch, also over the borders of q, k and v.
    weights = WeightRows(tmp_path)
    name = "transformer.h.1.attn.c_attn.weight"
    for first, last in ((0, 1), (60, 70), (90, 128), (5, 120)):
        assert torch.equal(weights.read(name, first, last), expected[name][first:last])
    spans = list(weights.blocks("transformer.wte.weight"))
    assert spans == [(0, 384)]


def test_blocks_cover_every_row_once(tmp_path, monkeypatch) -> None:
    tiny_model().save_pretrained(tmp_path)
    monkeypatch.setattr(weight_rows, "BLOCK_BYTES", 64 * 4 * 5)
    spans = list(WeightRows(tmp_path).blocks("transformer.wte.weight"))
    assert [row for first, last in spans for row in range(first, last)] == list(range(384))
    assert max(last - first for first, last in spans) == 5


def test_an_embedding_under_either_name_or_both(tmp_path) -> None:
    tiny_model().save_pretrained(tmp_path)
    expected = whole(tmp_path)["transformer.wte.weight"]

    def both(tensors):
        tensors["transformer.wte.weight"] = tensors["lm_head.weight"].clone()

    rewrite(tmp_path, both)
    assert torch.equal(whole(tmp_path)["transformer.wte.weight"], expected)
    rewrite(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    assert torch.equal(whole(tmp_path)["transformer.wte.weight"], expected)

    def unlike(tensors):
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1

    rewrite(tmp_path, unlike)
    with pytest.raises(UserError, match=r"lm_head\.weight differs from transformer\.wte\.weight, but config.json ties"):
        WeightRows(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("transformer.ln_f.bias"), "tensor transformer.ln_f.bias is in none of its weight"),
        (lambda tensors: tensors.update({"other": torch.zeros(2)}), r"tensor other \(2,\) has no place in config.json"),
        (
            lambda tensors: tensors.update({"transformer.ln_f.bias": torch.zeros(63)}),
            r"ln_f.bias is \(63,\), but config.json makes it \(64,\)",
        ),
        (
            lambda tensors: tensors.update({"transformer.ln_f.bias": torch.zeros(64, dtype=torch.int8)}),
            "is torch.int8; quantised checkpoints are not supported",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message) -> None:
    tiny_model().save_pretrained(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(UserError, match=message):
        WeightRows(tmp_path)


def test_buffers_of_the_released_class_are_passed_over(tmp_path) -> None:
    tiny_model().save_pretrained(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"transformer.h.0.attn.rotary_emb.inv_freq": torch.ones(8)}))
    assert "transformer.h.0.attn.rotary_emb.inv_freq" not in WeightRows(tmp_path).layouts


def test_a_damaged_file(tmp_path) -> None:
    tiny_model().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors: .*; take another copy of it"):
        WeightRows(tmp_path)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match=r"model\.safetensors is a Git LFS pointer"):
        WeightRows(tmp_path)


def test_another_architecture_names_what_is_served(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(UserError, match="model_type is 'qwen2', which is not a CodeShell"):
        WeightRows(tmp_path)


def test_mixed_dtypes_are_told(tmp_path) -> None:
    tiny_model().save_pretrained(tmp_path)

    def mixed(tensors):
        tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"].bfloat16()

    rewrite(tmp_path, mixed)
    assert WeightRows(tmp_path).dtypes == {torch.float32, torch.bfloat16}
    with pytest.raises(UserError, match="of 2 dtypes"):
        CodeShellForCausalLM.from_pretrained(tmp_path)
