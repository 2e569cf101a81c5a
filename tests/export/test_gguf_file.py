"""A GGUF is read by gguf's reader and by transformers: every key, name, shape and value, and equal logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exported import load, model_directory

from codeshell.errors import UserError
from codeshell.export import gguf_file
from codeshell.export.blocks import FORMATS, q8_0_bound
from codeshell.export.gguf_tokenizer import convert
from codeshell.model import weight_rows
from codeshell.model.weight_rows import WeightRows
from codeshell.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf", reason="gguf is not installed: GGUF files are NOT tested")


def export(directory: Path, path: Path, kind: str = "f32", architecture: gguf_file.Architecture = "starcoder2", **more):
    weights = WeightRows(directory)
    config = weights.config
    own = convert(Tokenizer.load(directory), config.vocab_size, "t", config.bos_token_id, config.eos_token_id)
    gguf_file.write(path, weights, own, FORMATS[kind], architecture, **{"name": "tiny"} | more)
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("architecture", ["starcoder2", "codeshell"])
@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_names_shapes_and_values(directory: Path, tmp_path: Path, kind: str, architecture) -> None:
    reader = gguf.GGUFReader(export(directory, tmp_path / "m.gguf", kind, architecture))
    found = {tensor.name: tensor for tensor in reader.tensors}
    # gguf's own table from the names of transformers' models to those of the files.
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, 2)
    seen = set()
    for name, weight in load(directory).state_dict().items():
        parts = {name: weight}
        if architecture == "starcoder2":
            letters = ".attn.c_attn." in name
            split = weight.split([64, 32, 32]) if letters else [weight]
            parts = {
                starcoder2(name.replace(".attn.c_attn.", f".self_attn.{letter}_proj.")): part
                for letter, part in zip("qkv" if letters else "-", split, strict=True)
            }
        for theirs, part in parts.items():
            target = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
            # A tied matrix is there once.
            if (architecture, target) in {("starcoder2", "output.weight"), ("codeshell", "token_embd.weight")}:
                continue
            tensor = found[target]
            seen.add(target)
            assert tuple(reversed(tensor.shape.tolist())) == tuple(part.shape)
            matrix = part.dim() > 1
            assert tensor.tensor_type.name == (FORMATS[kind].ggml if matrix else "F32")
            values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(part.shape))
            exact = part.double().numpy()
            if kind == "q8_0" and matrix:
                assert (np.abs(values - exact) <= q8_0_bound(exact)).all()
                assert np.abs(values - exact).max() > 0
            else:
                dtype = FORMATS[kind].dtype if matrix else torch.float32
                assert np.array_equal(values, part.to(dtype).float().numpy())
            assert tensor.data_offset % gguf_file.ALIGNMENT == 0
    assert seen == set(found)


def starcoder2(name: str) -> str:
    for ours, theirs in (
        ("transformer.wte.", "model.embed_tokens."),
        ("transformer.ln_f.", "model.norm."),
        ("transformer.h.", "model.layers."),
        (".ln_1.", ".input_layernorm."),
        (".ln_2.", ".post_attention_layernorm."),
        (".attn.c_proj.", ".self_attn.o_proj."),
    ):
        name = name.replace(ours, theirs)
    return name


def test_the_keys(directory: Path, tmp_path: Path) -> None:
    path = export(directory, tmp_path / "m.gguf", "q8_0", template="{{ messages }}", own={"license": "mit"})
    reader = gguf.GGUFReader(path)
    found = {name: field.contents() for name, field in reader.fields.items()}
    own = Tokenizer.load(directory)
    expected = {
        "general.architecture": "starcoder2",
        "general.name": "tiny",
        "general.license": "mit",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "general.alignment": None,
        "starcoder2.block_count": 2,
        "starcoder2.context_length": 96,
        "starcoder2.embedding_length": 64,
        "starcoder2.feed_forward_length": 256,
        "starcoder2.attention.head_count": 4,
        "starcoder2.attention.head_count_kv": 2,
        "starcoder2.rope.dimension_count": 16,
        "starcoder2.rope.freq_base": 10000.0,
        "starcoder2.vocab_size": own.padded_vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.fim_mid_token_id": own.fim_middle,
        "tokenizer.chat_template": "{{ messages }}",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert len(found["tokenizer.ggml.tokens"]) == own.padded_vocab_size
    assert found["starcoder2.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    # Types that llama.cpp asks for.
    assert reader.fields["tokenizer.ggml.eos_token_id"].types == [gguf.GGUFValueType.UINT32]
    assert reader.fields["tokenizer.ggml.add_bos_token"].types == [gguf.GGUFValueType.BOOL]


def test_stretched_rotary_positions(tmp_path: Path) -> None:
    scaled = model_directory(tmp_path / "linear", rope_scaling={"type": "linear", "factor": 2.0}, rope_theta=5e4)
    fields = gguf.GGUFReader(export(scaled, tmp_path / "m.gguf")).fields
    found = {name.removeprefix("starcoder2."): field.contents() for name, field in fields.items()}
    assert (found["rope.scaling.type"], found["rope.scaling.factor"], found["rope.freq_base"]) == ("linear", 2.0, 5e4)
    assert (found["context_length"], found["rope.scaling.original_context_length"]) == (192, 96)
    dynamic = model_directory(tmp_path / "dynamic", rope_scaling={"type": "dynamic", "factor": 2.0})
    with pytest.raises(UserError, match="rope_scaling dynamic: GGUF has no such scaling"):
        export(dynamic, tmp_path / "d.gguf")


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_the_same_from_it(tmp_path: Path, tied: bool) -> None:
    transformers = pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")
    source = model_directory(tmp_path / "tiny", tie_word_embeddings=tied)
    export(source, tmp_path / "m.gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    assert type(theirs).__name__ == "Starcoder2ForCausalLM"
    ids = torch.randint(0, 500, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(ids).logits, load(source)(ids).logits, atol=2e-5, rtol=1e-5)


def test_the_same_bytes_from_every_kind_of_directory(directory: Path, tmp_path: Path, monkeypatch) -> None:
    expected = export(directory, tmp_path / "m.gguf", "q8_0").read_bytes()
    model, own = load(directory), Tokenizer.load(directory)
    model.save_pretrained(tmp_path / "shards", max_shard_bytes=100_000)
    model.save_pretrained(tmp_path / "starcoder2", "starcoder2", max_shard_bytes=100_000)
    for kind, zipped in (("bin", True), ("old", False)):
        model.save_pretrained(tmp_path / kind)
        (tmp_path / kind / "model.safetensors").unlink()
        tensors = dict(model.state_dict())
        torch.save(tensors, tmp_path / kind / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert len(list((tmp_path / "starcoder2").glob("model-*.safetensors"))) > 2
    # Rows are read a few at a time, of q, k and v also across their borders.
    monkeypatch.setattr(weight_rows, "BLOCK_BYTES", 7 * 64 * 4)
    for kind in ("shards", "starcoder2", "bin", "old"):
        own.save(tmp_path / kind)
        assert export(tmp_path / kind, tmp_path / f"{kind}.gguf", "q8_0").read_bytes() == expected


def test_no_more_than_a_block_is_in_memory(directory: Path, tmp_path: Path, monkeypatch) -> None:
    sizes: list[int] = []
    read = WeightRows.read

    def watched(self, *place):
        rows = read(self, *place)
        sizes.append(rows.numel() * 4)
        return rows

    monkeypatch.setattr(weight_rows, "BLOCK_BYTES", 8192)
    monkeypatch.setattr(WeightRows, "read", watched)
    export(directory, tmp_path / "m.gguf")
    assert max(sizes) == 8192 and sum(sizes) > 2 * 200_000


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_a_file_that_is_not_read_back_as_written_is_no_file(directory, tmp_path, monkeypatch, kind: str) -> None:
    calls = []
    encode = gguf_file.encode

    def damaged(rows, form):
        data = encode(rows, form).copy()
        calls.append(1)
        if len(calls) == 9:
            data[3] ^= 0x40
        return data

    monkeypatch.setattr(gguf_file, "encode", damaged)
    with pytest.raises(UserError, match=r"m\.gguf.*read back, tensor blk\..* is not what was written; check the disk"):
        export(directory, tmp_path / "m.gguf", kind)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_header_is_found(directory, tmp_path, monkeypatch) -> None:
    header = gguf_file._write_header
    monkeypatch.setattr(
        gguf_file,
        "_write_header",
        lambda path, fields, *rest: header(path, fields | {"tokenizer.ggml.eos_token_id": 3}, *rest),
    )
    with pytest.raises(UserError, match=r"read back, the key tokenizer\.ggml.eos_token_id is not what was written"):
        export(directory, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_file_stays_until_the_new_one_is_whole(directory, tmp_path) -> None:
    path = tmp_path / "m.gguf"
    path.write_text("earlier")
    broken = model_directory(tmp_path / "broken")
    model = load(broken)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[3, 4] = float("nan")
    with pytest.warns(UserWarning, match="NaN"):
        model.save_pretrained(broken)
    with pytest.raises(UserError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight holds NaN or infinity"):
        export(broken, path)
    assert path.read_text() == "earlier" and not list(tmp_path.glob("*.partial"))
    export(directory, path)
    assert path.read_bytes()[:4] == b"GGUF"


def test_values_and_widths_that_a_format_cannot_hold(tmp_path) -> None:
    large = model_directory(tmp_path / "large")
    model = load(large)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight[0, 0] = 1e7
    model.save_pretrained(large)
    with pytest.raises(UserError, match=r"c_proj\.weight has values beyond the range of float16"):
        export(large, tmp_path / "m.gguf", "f16")
    with pytest.raises(UserError, match=r"c_proj\.weight has values beyond the range of Q8_0's fp16 scales; choose"):
        export(large, tmp_path / "m.gguf", "q8_0")
    narrow = model_directory(tmp_path / "narrow", n_embd=48)
    with pytest.raises(UserError, match="rows of 48 values, and Q8_0 takes blocks of 32; choose f16, bf16 or f32"):
        export(narrow, tmp_path / "m.gguf", "q8_0")
    export(narrow, tmp_path / "m.gguf", "bf16")
