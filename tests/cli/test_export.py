"""`codeshell export`: the command, its defaults and its refusals."""

from __future__ import annotations

import argparse
import importlib.util
import json

import pytest
import torch
from helpers.exported import model_directory
from helpers.hub_tokenizers import write as write_tokenizer

from codeshell.cli import export
from codeshell.errors import UserError


def call(*words) -> int:
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return export.main(parser.parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("model") / "tiny")


def test_a_gguf_of_a_run_has_the_weights_own_format_and_the_runs_name(tmp_path, capsys) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: GGUF files are NOT tested")
    model_directory(tmp_path / "demo" / "model", torch.bfloat16)
    (tmp_path / "demo" / "recipe.toml").write_text("")
    assert call(tmp_path / "demo", "-o", tmp_path / "m.gguf", "--license", "mit") == 0
    said = capsys.readouterr().out
    assert "tensors in bf16, read back and equal; pre-tokenizer smollm" in said
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["general.name"].contents() == "demo"
    assert reader.fields["general.license"].contents() == "mit"
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32", "BF16"}


@pytest.mark.parametrize(
    ("path", "name"),
    [("demo/model", "demo"), ("demo/model-starcoder2", "demo"), ("models/model-7b", "model-7b"), ("mine", "mine")],
)
def test_the_name_is_the_runs_or_the_directorys(path: str, name: str, tmp_path) -> None:
    assert export._name(tmp_path / path) == name


def test_q8_0_and_the_other_architecture(directory, tmp_path, capsys) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: GGUF files are NOT tested")
    arguments = (directory, "-o", tmp_path / "m.gguf", "--type", "q8_0", "--architecture", "codeshell", "--name", "n")
    assert call(*arguments) == 0
    assert "read back and equal within the rounding of Q8_0" in capsys.readouterr().out
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert "blk.0.attn_qkv.weight" in {tensor.name for tensor in reader.tensors}
    assert reader.fields["general.name"].contents() == "n"


def test_a_directory_of_the_other_layout(directory, tmp_path, capsys) -> None:
    assert call(directory, "--format", "starcoder2", "--type", "f16", "-o", tmp_path / "there") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'there'}: 27 tensors in the layout of starcoder2\n"
    config = json.loads((tmp_path / "there" / "config.json").read_text())
    assert (config["model_type"], config["torch_dtype"]) == ("starcoder2", "float16")


def test_bad_arguments(directory, tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"absent: no such model directory"):
        call(tmp_path / "absent", "-o", tmp_path / "m.gguf")
    with pytest.raises(UserError, match="a directory; a GGUF is one file"):
        call(directory, "-o", tmp_path)
    with pytest.raises(UserError, match="/dev/null: not a file; a GGUF is read back once it is written"):
        call(directory, "-o", "/dev/null")
    with pytest.raises(UserError, match="--type q8_0: a format of GGUF; choose f32, f16 or bf16"):
        call(directory, "--format", "codeshell", "--type", "q8_0", "-o", tmp_path / "x")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="an adapter, not a model; merge it first: `codeshell model merge"):
        call(tmp_path / "adapter", "-o", tmp_path / "m.gguf")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match=r"model_type is 'llama', .*convert_hf_to_gguf\.py makes a GGUF of it"):
        call(other, "-o", tmp_path / "m.gguf")
    (other / "config.json").write_text(json.dumps({"model_type": "kclgpt"}))
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        call(other, "-o", tmp_path / "m.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"package gguf is not installed; pip install 'codeshell\[gguf\]'"):
        call(directory, "-o", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_gguf_takes_the_place_of_a_gguf_and_of_nothing_else(directory, tmp_path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: GGUF files are NOT tested")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    for name in before:
        with pytest.raises(UserError, match=f"{name}: is there already and is no GGUF; remove it or choose another"):
            call(directory, "-o", directory / name)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    # The folder is made; an earlier export, or an empty file, is replaced.
    path = tmp_path / "new" / "m.gguf"
    assert call(directory, "-o", path) == 0
    path.write_bytes(path.read_bytes()[:100])
    assert call(directory, "-o", path) == 0
    path.write_bytes(b"")
    assert call(directory, "-o", path) == 0
    assert len(gguf.GGUFReader(path).tensors) > 27 and [one.name for one in path.parent.iterdir()] == ["m.gguf"]


def test_an_unknown_tokenizer_is_refused_before_anything_is_written(tmp_path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed: GGUF files are NOT tested")
    source = model_directory(tmp_path / "tiny")
    write_tokenizer("llama-3", source)
    with pytest.raises(
        UserError, match=r"tokenizer\.json: llama\.cpp cannot be told to encode as this tokenizer: .*Split"
    ):
        call(source, "-o", tmp_path / "m.gguf")
    assert not list(tmp_path.glob("m.gguf*"))
