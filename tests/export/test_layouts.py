"""Directories of either layout: the same tensors, whole or absent, and what belongs to a model beside its weights."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.exported import load, model_directory
from safetensors.torch import load_file

from codeshell.errors import UserError
from codeshell.export import layouts
from codeshell.model.weight_rows import WeightRows
from codeshell.tokenizer import Tokenizer


def export(source, target, layout="starcoder2", dtype=None, **more):
    layouts.write(target, WeightRows(source), Tokenizer.load(source), layout, dtype, **more)
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return model_directory(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back_gives_the_same_bytes(tmp_path, tied) -> None:
    source = model_directory(tmp_path / "tiny", tie_word_embeddings=tied)
    there = export(source, tmp_path / "there")
    back = export(there, tmp_path / "back", "codeshell")
    assert (back / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        ours, theirs = (json.loads((one / name).read_text()) for one in (source, back))
        assert theirs == ours, name


def test_transformers_loads_it_and_computes_the_same(source, tmp_path) -> None:
    transformers = pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export(source, tmp_path / "there"), dtype=torch.float32)
    ids = torch.randint(0, 500, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(ids).logits, load(source)(ids).logits, atol=2e-5, rtol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "there")
    assert tokenizer("def f(x): 123").input_ids == Tokenizer.load(source).encode("def f(x): 123")


def test_another_dtype(source, tmp_path) -> None:
    made = export(source, tmp_path / "bf16", "codeshell", torch.bfloat16)
    expected = {name: tensor.bfloat16() for name, tensor in load_file(source / "model.safetensors").items()}
    found = load_file(made / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert json.loads((made / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_template_card_and_settings_of_generation_come_along(source, tmp_path) -> None:
    dressed = model_directory(tmp_path / "dressed")
    (dressed / "README.md").write_text("# a card\n")
    (dressed / "chat_template.jinja").write_text("{{ messages }}")
    generation = json.loads((dressed / "generation_config.json").read_text())
    (dressed / "generation_config.json").write_text(json.dumps(generation | {"max_new_tokens": 99}))
    made = export(dressed, tmp_path / "there", template=layouts.chat_template(dressed))
    assert (made / "README.md").read_text() == "# a card\n"
    assert layouts.chat_template(made) == "{{ messages }}"
    assert json.loads((made / "generation_config.json").read_text())["max_new_tokens"] == 99
    assert layouts.chat_template(source) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ a }}", "{{ a }}"),
        (None, None),
        ([{"name": "tool", "template": "x"}, {"name": "default", "template": "y"}], "y"),
    ],
)
def test_the_template_of_a_tokenizer_config(tmp_path, value, expected) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    assert layouts.chat_template(tmp_path) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [(3, "chat_template is no text"), ([{"name": "a", "template": "x"}], "chat_template has a, and no default")],
)
def test_a_template_that_is_none(tmp_path, value, message) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(UserError, match=message):
        layouts.chat_template(tmp_path)


def test_nothing_is_replaced_or_left_half_written(source, tmp_path, monkeypatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes").write_text("mine")
    with pytest.raises(UserError, match=r"there: is there already; remove it or choose another -o"):
        export(source, tmp_path / "there")
    read = WeightRows.read
    calls = []

    def fails(self, *place):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return read(self, *place)

    monkeypatch.setattr(WeightRows, "read", fails)
    with pytest.raises(KeyboardInterrupt):
        export(source, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_values_beyond_the_dtype(tmp_path) -> None:
    large = model_directory(tmp_path / "large")
    model = load(large)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight[0, 0] = 1e6
    model.save_pretrained(large)
    with pytest.raises(UserError, match=r"c_proj\.weight has values beyond the range of float16"):
        export(large, tmp_path / "there", dtype=torch.float16)
    assert not list(tmp_path.glob("there*"))
