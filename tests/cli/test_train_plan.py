"""`codeshell train RECIPE --plan`: a table on any machine, and a refusal with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeshell import cli

RECIPE = str(Path(__file__).resolve().parents[2] / "recipes" / "codeshell-7b.toml")


def plan(tmp_path: Path, *arguments: str) -> int:
    return cli.main(["train", RECIPE, "-o", str(tmp_path / "run"), "--plan", *arguments])


def test_prints_the_plan_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, "--gpus", "8", "--memory", "80GB") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("memory: 7.69 B weights on 8 GPUs, 8,192 tokens a forward pass")
    assert "each device" in lines[-2] and "of 80.0 GB: fits" in lines[-2]
    assert lines[-1].split()[:3] == ["host", "11.5", "GB"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--gpus", "8", "--memory", "24GB"), "there are 24.0 GB; train.weights = bf16-stochastic"),
        (("--gpus", "3", "--memory", "80GB"), "--gpus 3: a batch has 512 sequences"),
        (("--gpus", "0"), "--gpus: 0 GPUs train nothing"),
        (("--memory", "much"), "--memory: 'much' is not a size"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], complaint: str
) -> None:
    assert plan(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_without_a_gpu_there_is_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from codeshell import gpus

    monkeypatch.setattr(gpus, "machine", lambda: gpus.Machine(0, ()))
    assert plan(tmp_path) == 0
    out = capsys.readouterr().out
    assert "on 1 GPU," in out and "--memory 80GB says whether it fits" in out


def test_the_plan_of_a_base_is_that_of_finetune(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    from helpers.tiny_bases import base
    from helpers.tiny_run import byte_tokenizer

    from codeshell import gpus

    monkeypatch.setattr(gpus, "machine", lambda: gpus.Machine(0, ()))
    directory = base(tmp_path / "base", byte_tokenizer(), "llama")
    settings = {"finetune.base": directory, "finetune.method": "lora", "finetune.rank": 4, "train.precision": "fp32"}
    settings |= {"train.gather": "fp32", "train.batch_tokens": 256, "train.phases": "[{share=1.0, context=128}]"}
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert plan(tmp_path, *changes) == 0
    out = capsys.readouterr().out
    # Of each of the two blocks: q, k, v, o (64, 32, 32 and 64 rows) and three matrices of 64 by 48; 4 columns each.
    rows = 2 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 48))
    assert f", {4 * rows / 1e3:.1f} k of LoRA trained" in out and "on 1 GPU," in out
    assert plan(tmp_path, *changes, "--gpus", "2") == 2
    assert "--gpus 2: factors of LoRA are trained by one process so far" in capsys.readouterr().err


def test_the_numbers_need_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", RECIPE, "-o", str(tmp_path), "--gpus", "8"]) == 2
    assert "--gpus and --memory go with --plan" in capsys.readouterr().err
