"""`codeshell finetune` and `codeshell model merge`: the plan first, bad input in one line, nothing half-written."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
from helpers import chat_templates, tiny_bases
from helpers.tiny_bases import base
from helpers.tiny_run import byte_tokenizer

from codeshell.cli import finetune, main
from codeshell.errors import UserError
from codeshell.recipe import Recipe
from codeshell.tokenizer import Tokenizer
from codeshell.train import base as bases

SHORT = ["--set", "train.batch_tokens=256", "--set", "train.phases=[{share=1.0, context=128}]"]
LONG = "train.phases=[{share=1.0, context=256}]"


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
        (["finetune", str(own), "code", *out, "--set", LONG], "context 256 is beyond the 128 tokens of"),
        (["finetune", str(own), "code", *out, "--set", "finetune.rank=4"], "finetune.rank: it is about LoRA"),
        (["finetune", str(own), "--answers", "", *out], '"" names nothing'),
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


def settings(command: list[str]) -> Recipe:
    """The recipe of a command line, and nothing done with it."""
    parser = argparse.ArgumentParser()
    finetune.add_arguments(parser)
    args = parser.parse_args(command)
    values = finetune._values(args)
    base = bases.read(values["finetune.base"])
    return finetune._settings(args, values, base, Tokenizer.load(base.directory))


def test_without_a_recipe_the_base_decides_what_it_can_hold(own, tmp_path, capsys) -> None:
    found = settings([str(own), "code", "-o", "out"])
    assert [phase.context for phase in found.train.phases] == [128] and found.train.fim_rate == 0.5
    assert "contexts of 128 tokens" in capsys.readouterr().err
    # A family without tokens for a gap learns to continue; where the rate is given, that is an error, not a choice.
    llama = tiny_bases.base(tmp_path / "llama", chat_templates.ours("llama-3"), "llama", max_position_embeddings=4096)
    found = settings([str(llama), "code", "-o", "out"])
    assert [phase.context for phase in found.train.phases] == [2048] and found.train.fim_rate == 0.0
    assert "no tokens to fill in the middle" in capsys.readouterr().err
    asked = settings([str(llama), "code", "-o", "out", "--set", "train.fim_rate=0.5"])
    with pytest.raises(UserError, match="no fill-in-the-middle tokens of a known family"):
        bases.check(asked, bases.read(str(llama)), Tokenizer.load(llama))
    # Conversations are never rearranged.
    spoken = settings([str(llama), "--answers", "a.jsonl", "-o", "out", "--set", "train.fim_rate=0.5"])
    bases.check(spoken, bases.read(str(llama)), Tokenizer.load(llama))
    assert spoken.finetune.instructions == ("a.jsonl",)


def test_the_last_word_about_the_length_counts(own) -> None:
    by_default = settings([str(own), "code", "-o", "out"])
    assert (by_default.finetune.epochs, by_default.train.warmup_steps) == (2.0, 50)
    by_steps = settings([str(own), "code", "-o", "out", "--set", "train.steps=40"])
    assert (by_steps.finetune.epochs, by_steps.train.steps, by_steps.train.warmup_steps) == (0.0, 40, 4)
    both = settings([str(own), "code", "-o", "out", "--set", "train.steps=40", "--set", "finetune.epochs=1"])
    assert both.finetune.epochs == 1.0


@pytest.mark.parametrize("place", ["", "model", "link"])
def test_a_run_does_not_replace_its_own_base(own, tmp_path, capsys, place: str) -> None:
    """The base is the output, or the model of the run that is the output, or a link to it."""
    run = tmp_path / "run"
    directory = run if place == "" else run / "model"
    shutil.copytree(own, directory)
    if place == "link":
        (tmp_path / "link").symlink_to(directory)
        directory = tmp_path / "link"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (tmp_path / "code").mkdir()
    assert main(["finetune", str(directory), str(tmp_path / "code"), "-o", str(run), *SHORT]) == 2
    assert "lies in it, and a run replaces its own model" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_one_project_is_tuned_and_compared_with_its_base(own, tmp_path, capsys) -> None:
    """A single folder: files of it are held out, and the last lines say what tuning has changed."""
    code = tmp_path / "project"
    code.mkdir()
    for name in ("circle", "matrix", "parser", "ledger", "queue", "graph", "table", "shape", "light", "river"):
        lines = [f"def {name}_{n}({name}, other):\n    return {name}.part_{n} + other * {n}\n" for n in range(12)]
        (code / f"{name}.py").write_text("\n".join(lines))
    sizes = ["evaluate.max_bytes=1000", "evaluate.infill_lines=4", "evaluate.functions=2", "evaluate.max_new_tokens=8"]
    sizes += ["train.steps=6", "train.lr=1e-2", "train.batch_tokens=512", "train.threads=1"]
    sizes += ["split.test=0.2", "split.valid=0.1", "train.micro_batch_tokens=0"]
    command = ["finetune", str(own), str(code), "-o", str(tmp_path / "run"), "--workers", "1"]
    command += [word for item in sizes for word in ("--set", item)]
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-5].startswith("before and after tuning, on 2 held-out files of ")
    assert said[-4].startswith("  bits per byte ") and "(\u2212" in said[-4]  # fewer than before
    assert said[-1] == f"the tuned model is in {tmp_path / 'run' / 'model'}"
