"""The model that fine-tuning begins with: which are served, what is refused and in which words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.tiny_bases import base, tuning
from helpers.tiny_causal import byte_level

from codeshell.engine import hub
from codeshell.errors import UserError
from codeshell.integrations import ARCHITECTURES
from codeshell.recipe import from_tree
from codeshell.tokenizer import Tokenizer
from codeshell.train import base as bases


def test_bases_of_both_kinds(tmp_path, tokenizer) -> None:
    own = bases.read(str(base(tmp_path / "own", tokenizer, "codeshell")))
    assert (own.kind, own.model_type, own.context, own.vocabulary) == ("codeshell", "kclgpt", 128, 384)
    other = bases.read(str(base(tmp_path / "other", tokenizer, "granite")))
    assert (other.kind, other.model_type, other.context) == ("transformers", "granite", 128)
    assert own.hash != other.hash


def test_an_unsupported_family_is_told_which_are_served(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UserError) as refused:
        bases.read(str(tmp_path))
    message = str(refused.value)
    assert "model_type is 'mamba'" in message and "kclgpt" in message and "\n" not in message
    assert all(kind in message for kind in ARCHITECTURES)


def test_a_broken_config_is_one_line(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": "many"}))
    with pytest.raises(UserError, match="max_position_embeddings is None"):
        bases.read(str(tmp_path))


def test_a_name_on_the_hub_is_fetched_by_its_client(tmp_path, tokenizer, monkeypatch) -> None:
    import huggingface_hub

    directory = base(tmp_path / "base", tokenizer, "llama")
    asked = []

    def fetched(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert hub.model_directory("someone/model") == directory
    # Code of the model's own and pickles are not fetched.
    assert asked[0][0] == "someone/model" and not {"*", "*.py", "*.bin"} & set(asked[0][1])

    def unreachable(name: str, allow_patterns: list[str]) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"the hub has not given it \(no route to host\); fetch it with `hf download"):
        hub.model_directory("someone/model")
    with pytest.raises(UserError, match="no such model directory"):
        hub.model_directory(str(tmp_path / "a" / "b"))


def test_the_hash_is_of_the_weights(tmp_path, tokenizer) -> None:
    first = base(tmp_path / "first", tokenizer, "llama")
    same = base(tmp_path / "same", tokenizer, "llama")
    assert hub.fingerprint(first) == hub.fingerprint(same)
    (same / "config.json").write_text("{}")
    assert hub.fingerprint(first) == hub.fingerprint(same)
    assert hub.fingerprint(first) != hub.fingerprint(base(tmp_path / "x", tokenizer, "llama", initializer_range=0.03))


def check(directory: Path, tokenizer: Tokenizer, **changes) -> None:
    bases.check(tuning(directory, **changes), bases.read(str(directory)), tokenizer)


def test_settings_that_a_base_cannot_have(tmp_path, tokenizer) -> None:
    directory = base(tmp_path / "base", tokenizer, "llama", max_position_embeddings=64)
    with pytest.raises(UserError, match="context 128 is beyond the 64 tokens of"):
        check(directory, tokenizer)
    small = base(tmp_path / "small", tokenizer, "llama", vocab_size=200, eos_token_id=0)
    with pytest.raises(UserError, match="a tokenizer of 281 tokens, but the model has 200 rows"):
        check(small, tokenizer)
    fits = base(tmp_path / "fits", tokenizer, "llama")
    check(fits, tokenizer)
    with pytest.raises(UserError, match=r"train\.weights bf16-masters: the factors of LoRA"):
        check(fits, tokenizer, train={"weights": "bf16-masters", "precision": "bf16"})
    # A tokenizer without tokens for a cursor: only without FIM.
    plain = Tokenizer(byte_level("none").backend_tokenizer.to_str())
    wide = base(tmp_path / "wide", tokenizer, "llama", vocab_size=400)
    with pytest.raises(UserError, match=r"train\.fim_rate = 0"):
        check(wide, plain)
    check(wide, plain, train={"fim_rate": 0.0})
    check(wide, Tokenizer(byte_level("qwen").backend_tokenizer.to_str()))


def test_a_library_that_is_missing_is_named(tmp_path, tokenizer, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    directory = base(tmp_path / "base", tokenizer, "codeshell")
    with pytest.raises(UserError, match=r"needs peft, .*pip install 'codeshell\[finetune\]'"):
        check(directory, tokenizer)
    check(directory, tokenizer, method="full")


def test_keys_that_need_a_base() -> None:
    for settings, message in (
        ({"method": "lora"}, "method lora: there is no finetune.base"),
        ({"epochs": 1.0}, "epochs: there is no finetune.base"),
        ({"instructions": ["x.jsonl"]}, "instructions: there is no finetune.base"),
    ):
        with pytest.raises(UserError, match=message):
            from_tree({"finetune": settings}, "test")


def test_epochs_become_steps(tmp_path) -> None:
    recipe = tuning(tmp_path, epochs=2.0, train={"warmup_steps": 50})
    settled = bases.settled(recipe, 256 * 30)
    assert (settled.train.steps, settled.train.warmup_steps) == (60, 6)
    assert bases.settled(recipe, 1).train.steps == 1
    plain = tuning(tmp_path)
    assert bases.settled(plain, 10**9) is plain
