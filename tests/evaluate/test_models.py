"""The model of an argument: whose it is, and what names it in results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.evaluation_run import byte_tokenizer, tiny_model

from codeshell.errors import UserError
from codeshell.evaluate import models, transformers_model
from codeshell.evaluate.corpus import Corpus
from codeshell.evaluate.prompts import Prompt, Sampling
from codeshell.evaluate.subject import Subject
from codeshell.model import CodeShellForCausalLM
from codeshell.recipe import Evaluate


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    tiny_model(0).save_pretrained(directory)
    byte_tokenizer().save(directory)
    return directory


def test_a_model_of_ours(saved: Path) -> None:
    found = models.load(str(saved))
    assert isinstance(found.model, CodeShellForCausalLM) and found.context == 96 and found.before is None
    assert found.origin == {"name": str(saved), "hash": models.fingerprint(saved)}
    # The released layout is the one that is saved.
    assert json.loads((saved / "config.json").read_text())["model_type"] == "kclgpt"


def test_a_model_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")
    from helpers import tiny_causal

    directory = tiny_causal.write(tmp_path / "qwen", tokenizer=tiny_causal.byte_level("qwen", bos=True))
    found = models.load(str(directory))
    assert isinstance(found.model, transformers_model.TransformersModel) and found.before == [0]
    assert found.origin["hash"] == models.fingerprint(directory)
    with pytest.raises(UserError, match="put the tokenizer's files into"):
        models.load(str(directory), "other")
    with pytest.raises(UserError, match="model_type is 'qwen2', which is not a CodeShell"):
        models.load(str(directory), ours=True)


def test_a_name_with_a_slash_is_one_of_the_hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str) -> None:
        asked.append(name)
        raise UserError("no network")

    monkeypatch.setattr(transformers_model, "load", load)
    monkeypatch.chdir(saved.parent.parent)
    with pytest.raises(UserError, match="no network"):
        models.load("bigcode/starcoder2-3b")
    assert asked == ["bigcode/starcoder2-3b"]
    # A path that is there is a path.
    models.load(f"{saved.parent.name}/model")
    for name in ("nothing", "a/b/c", "/nothing/here", ""):
        with pytest.raises(UserError, match="model directory"):
            models.load(name)
    assert len(asked) == 1


def test_the_hash_changes_with_the_weights_and_not_with_the_name(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    assert models.fingerprint(copy) == models.fingerprint(saved)
    model = CodeShellForCausalLM.from_pretrained(copy)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.001)
    model.save_pretrained(copy)
    assert models.fingerprint(copy) != models.fingerprint(saved)


def test_a_sample_depends_on_its_key_alone(saved: Path) -> None:
    found = models.load(str(saved))
    subject = Subject(
        found.model.double(), found.tokenizer, Corpus([]), None, Evaluate(), seed=3, context=96, start="none"
    )
    sampling = Sampling(12, temperature=1.0)

    def ask(keys: str, **changes: str) -> dict[str, str]:
        prompts = [Prompt("def f(x):" if key != "b" else "import os, sys\n\nclass A:\n    pass\n") for key in keys]
        written = subject.complete(prompts, sampling, purpose=changes.get("purpose", "p"), keys=list(keys))
        return {key: one.text for key, one in zip(keys, written, strict=True)}

    together = ask("abc")
    assert together["a"] != together["c"]
    assert ask("cba") == together and ask("c") == {"c": together["c"]}
    assert ask("a", purpose="q") != {"a": together["a"]}
