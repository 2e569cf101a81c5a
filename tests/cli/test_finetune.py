"""`codeshell finetune` and `codeshell model merge`: the plan first, bad input in one line, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.tiny_bases import base
from helpers.tiny_run import byte_tokenizer

from codeshell.cli import main

SHORT = ["--set", "train.batch_tokens=256", "--set", "train.phases=[{share=1.0, context=128}]"]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A tiny model of codeshell."""
    return base(tmp_path_factory.mktemp("own") / "base", byte_tokenizer(), "codeshell")


def test_the_plan_comes_first_and_alone_with_plan(own, tmp_path, capsys) -> None:
    (tmp_path / "code").mkdir()
    command = ["finetune", str(own), str(tmp_path / "code"), "-o", str(tmp_path / "out"), *SHORT, "--plan"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("memory: ") and "fits, at most" in said
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line_and_leaves_nothing(own, tmp_path, capsys, monkeypatch) -> None:
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    (unknown / "config.json").write_text(json.dumps({"model_type": "rwkv"}))
    out = ["-o", str(tmp_path / "out"), *SHORT]
    for command, message in (
        (["finetune", str(own), *out], "nothing to train on"),
        (["finetune", str(own), "", *out], '"" names nothing'),
        (["finetune", str(own), "code", *out, "--lora", "0"], "the rank is 1 or more"),
        (["finetune", str(own), "code", *out, "--workers", "-1"], "--workers -1"),
        (["finetune", str(unknown), "code", *out], "model_type is 'rwkv', which is not served"),
        (["finetune", str(tmp_path / "a" / "b"), "code", *out], "no such model directory"),
        (["finetune", str(own), "code", "-o", str(tmp_path / "out")], "is beyond the 128 tokens of"),
        (["model", "merge", str(own), str(own), "-o", str(tmp_path / "out")], "no adapter_config.json"),
    ):
        assert main(command) == 2, command
        error = capsys.readouterr().err.strip()
        assert message in error and "\n" not in error
        assert not (tmp_path / "out").exists()
    monkeypatch.setattr("codeshell.train.base_memory.usable_memory", lambda: 1_000_000)
    assert main(["finetune", str(own), "code", *out]) == 2
    assert "memory: training on 1 process needs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
