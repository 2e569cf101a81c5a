"""Model directories: as the hub has them, as others read them, and as an attacker would make them."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from helpers.tiny_models import tiny_model, tokens
from safetensors.torch import load_file, save_file

from codeshell.errors import UserError
from codeshell.model import CodeShellForCausalLM

load = CodeShellForCausalLM.from_pretrained


@pytest.fixture
def saved(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    return tmp_path


def rewrite(directory, change):
    """Apply `change` to the dict of tensors in model.safetensors."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def same(model):
    return torch.equal(model(tokens()).logits, tiny_model()(tokens()).logits)


def test_the_released_layout(saved):
    tensors = load_file(saved / "model.safetensors")
    assert "lm_head.weight" in tensors and "transformer.wte.weight" not in tensors
    assert set(tensors) < set(tiny_model().state_dict())
    config = json.loads((saved / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("kclgpt", ["CodeShellForCausalLM"])
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_codeshell.CodeShellForCausalLM"
    assert config["torch_dtype"] == "float32" and config["n_inner"] == 256
    # What llama.cpp's converter asks of config.json (conversion/codeshell.py).
    wanted = {"n_positions", "n_embd", "n_layer", "n_head", "num_query_groups", "layer_norm_epsilon", "vocab_size"}
    assert wanted <= set(config)
    model = load(saved)
    assert same(model) and model.lm_head.weight is model.transformer.wte.weight


def test_bytes_repeat(saved, tmp_path):
    tiny_model().save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (saved / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("embedding", ["lm_head.weight", "transformer.wte.weight", "both"])
def test_files_as_the_hub_has_them(tmp_path, kind, sharded, embedding):
    """Either name of the tied weight, in shards or not; buffers; an index that lists a tensor no file has."""
    model = tiny_model()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if embedding != "both":
        del tensors[{"lm_head.weight": "transformer.wte.weight"}.get(embedding, "lm_head.weight")]
    tensors["transformer.h.0.attn.rotary_emb.inv_freq"] = torch.full((8,), 9.0)
    tensors["transformer.h.1.attn.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict() | {"model_type": "codeshell"}))
    names = sorted(tensors)
    parts = [names[::2], names[1::2]] if sharded else [names]
    stem, ending = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[kind]
    files = [f"{stem}-{i + 1:05d}-of-00002.{ending}" for i in range(2)] if sharded else [f"{stem}.{ending}"]
    weight_map = {"transformer.wte.weight": files[0]}
    for file, part in zip(files, parts, strict=True):
        content = {name: tensors[name] for name in part}
        if kind == "bin":
            torch.save(content, tmp_path / file)
        else:
            save_file(content, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    if sharded:
        index = {"metadata": {}, "weight_map": weight_map}
        (tmp_path / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    loaded = load(tmp_path)
    assert same(loaded) and loaded.num_parameters() == model.num_parameters()


@pytest.mark.parametrize("layout", ["codeshell", "starcoder2"])
def test_shards_and_a_smaller_save_over_them(tmp_path, layout):
    tiny_model().save_pretrained(tmp_path, layout, max_shard_bytes=100_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and all((tmp_path / file).stat().st_size < 110_000 for file in files)
    assert same(load(tmp_path))
    other = tiny_model()
    with torch.no_grad():
        other.transformer.ln_f.bias += 1
    other.save_pretrained(tmp_path, layout)
    assert sorted(file.name for file in tmp_path.glob("model*")) == ["model.safetensors"]
    assert not same(load(tmp_path))


def test_starcoder2_in_stock_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = tiny_model()
    model.save_pretrained(tmp_path, "starcoder2", max_shard_bytes=100_000)
    peer, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.allclose(peer(tokens()).logits, model(tokens()).logits, atol=2e-5)
    assert same(load(tmp_path))


def test_an_untied_head(tmp_path):
    model = tiny_model(tie_word_embeddings=False)
    assert model.num_parameters() == tiny_model().num_parameters() + 384 * 64
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
    )
    with pytest.raises(UserError, match=r"lm_head\.weight differs"):
        load(tmp_path)


def test_dtype(saved):
    model = load(saved, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(saved)
    assert load(saved).dtype == torch.bfloat16
    assert json.loads((saved / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.h.1.mlp.c_fc.bias"), r"transformer\.h\.1\.mlp\.c_fc\.bias \(256,\) is in none"),
        (lambda t: t.pop("lm_head.weight"), r"transformer\.wte\.weight \(384, 64\) is in none"),
        (lambda t: t.update(extra=torch.zeros(3)), r"model\.safetensors: tensor extra \(3,\) has no place"),
        (
            lambda t: t.update({"transformer.ln_f.weight": torch.zeros(65)}),
            r"model\.safetensors: tensor transformer\.ln_f\.weight is \(65,\), but config\.json makes it \(64,\)",
        ),
        (lambda t: t.update({"transformer.ln_f.weight": torch.zeros(64, dtype=torch.int8)}), "quantised"),
        (lambda t: t.update({"transformer.ln_f.weight": torch.zeros(64).bfloat16()}), "2 dtypes"),
    ],
)
def test_wrong_tensors_are_named(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(UserError, match=message) as caught:
        load(saved)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


class Attack:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_never_run(saved, tmp_path, zipped):
    (saved / "model.safetensors").unlink()
    proof, file = tmp_path / "proof", saved / "pytorch_model.bin"
    if zipped:
        torch.save({"lm_head.weight": Attack(proof)}, file)
    else:
        file.write_bytes(pickle.dumps(Attack(proof)))
    with pytest.raises(UserError, match=r"pytorch_model\.bin: holds more than tensors"):
        load(saved)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b"])
def test_an_index_cannot_leave_its_directory(saved, name):
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(UserError, match="refuses shard"):
        load(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'])
def test_a_broken_index(saved, content):
    (saved / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match="no weight_map"):
        load(saved)


def test_broken_and_missing_files(saved, tmp_path):
    (saved / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable"):
        load(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        load(saved)
    (saved / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        load(saved)
    (saved / "pytorch_model.bin").unlink()
    torch.save([torch.zeros(1)], saved / "pytorch_model.bin")
    with pytest.raises(UserError, match="not a dict of tensors"):
        load(saved)
    (saved / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(UserError, match=r"gone\.safetensors: missing"):
        load(saved)
    with pytest.raises(UserError, match="no such model directory"):
        load(tmp_path / "nowhere")


def test_unknown_layout_and_unwritable_directory(tmp_path):
    with pytest.raises(ValueError, match="layout"):
        tiny_model().save_pretrained(tmp_path, "gguf")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="in the way"):
        tiny_model().save_pretrained(tmp_path / "file")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
    ],
)
@pytest.mark.parametrize(
    ("content", "remedy"),
    [(POINTER, "git lfs pull"), (b"<html>Not Found</html>", "web page"), (b"", "empty"), (b"\0" * 999, "zeros")],
)
def test_what_lies_in_place_of_a_file(saved, name, content, remedy):
    if name != "config.json":
        (saved / "model.safetensors").unlink()
    if name.startswith("model-"):
        (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    (saved / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .*{remedy}") as caught:
        load(saved)
    assert "\n" not in str(caught.value) and "run again" not in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "text", "other"])
def test_a_download_cut_short(saved, kind):
    file = saved / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    data = (saved / "model.safetensors").read_bytes()
    if kind != "safetensors":
        (saved / "model.safetensors").unlink()
        torch.save(tiny_model().state_dict(), file, _use_new_zipfile_serialization=kind == "zip")
        data = {"text": b"Entry not found" * 9, "other": data}.get(kind, file.read_bytes())
    for size in (5, 300, len(data) // 2, len(data) - 9):
        file.write_bytes(data[:size])
        with pytest.raises(UserError, match=r"; download it again$"):
            load(saved)


def test_places_that_are_no_model(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"downloaded by name; .*`hf download WisdomShell/CodeShell-7B --local-dir DIR`"
    ):
        load("WisdomShell/CodeShell-7B")
    with pytest.raises(UserError, match="a file, not a model directory"):
        load(saved / "model.safetensors")
    with pytest.raises(UserError, match="an empty name"):
        load("")
    run = tmp_path / "runs" / "demo"
    tiny_model().save_pretrained(run / "model")
    with pytest.raises(UserError, match=rf"the model is in {run / 'model'}$"):
        load(run)
    tiny_model().save_pretrained(tmp_path / "cache" / "snapshots" / "abc")
    with pytest.raises(UserError, match=r"the model is in .*snapshots/abc$"):
        load(tmp_path / "cache")
    (saved / "model.safetensors").rename(saved / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors is there, but not the \.index\.json"):
        load(saved)


def test_dtype_by_name(saved):
    for name in ("bfloat16", "torch.bfloat16", torch.bfloat16):
        assert load(saved, dtype=name).dtype == load(saved, torch_dtype=name).dtype == torch.bfloat16
    assert load(saved, dtype="auto").dtype == load(saved, dtype=None).dtype == torch.float32
    # "auto" is what the config says, as in transformers.
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    assert load(saved, dtype="auto").dtype == torch.bfloat16 and load(saved).dtype == torch.float32
    (saved / "config.json").write_text(json.dumps(config | {"torch_dtype": ["?"]}))
    assert load(saved, dtype="auto").dtype == torch.float32
    for wrong in ("int8", "bf16", "", torch.int8, torch.float8_e4m3fn, 16, True):
        with pytest.raises(ValueError, match=r"dtype is .*; choose one of 'float32', 'bfloat16', .*'auto'"):
            load(saved, dtype=wrong)
    with pytest.raises(ValueError, match="one setting"):
        load(saved, dtype="auto", torch_dtype="auto")


def test_a_weight_beyond_the_range_of_the_dtype_is_named(saved):
    rewrite(saved, lambda tensors: tensors["transformer.ln_f.bias"].fill_(1e5))
    assert load(saved, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(UserError, match=r"transformer\.ln_f\.bias has values beyond the range of float16"):
        load(saved, dtype="float16")
    rewrite(saved, lambda tensors: tensors["transformer.ln_f.bias"].fill_(torch.finfo(torch.float32).max))
    with pytest.raises(UserError, match="beyond the range of bfloat16"):
        load(saved, dtype="bfloat16")
    # An infinity of the file itself is no overflow. Whoever saves one is told.
    rewrite(saved, lambda tensors: tensors["transformer.ln_f.bias"].fill_(torch.inf))
    with pytest.warns(UserWarning, match=r"transformer\.ln_f\.bias holds NaN or infinity"):
        load(saved, dtype="float16").save_pretrained(saved)


def test_eight_bits_and_sparse_tensors_are_refused(saved):
    (saved / "model.safetensors").unlink()
    for change in (lambda t: t.to(torch.float8_e4m3fn), lambda t: t.to_sparse(), lambda t: t.to(torch.complex64)):
        tensors = {name: tensor.clone() for name, tensor in tiny_model().state_dict().items()}
        tensors["lm_head.weight"] = change(tensors["lm_head.weight"])
        torch.save(tensors, saved / "pytorch_model.bin")
        with pytest.raises(UserError, match=r"tensor lm_head\.weight is torch\..*not supported"):
            load(saved)
