"""`codeshell eval generate`: completions in a file, from any model; it resumes, and refuses to mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.evaluation_run import byte_tokenizer, make_run, tiny_model
from helpers.functional_sets import HUMANEVAL, SINGLE_LINE, without_sandbox, write_sets

from codeshell.cli import main
from codeshell.evaluate import functional
from codeshell.evaluate.functional import FunctionalTask


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    return write_sets(tmp_path / "sets")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    tiny_model(0).save_pretrained(directory)
    byte_tokenizer().save(directory)
    return directory


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_saved_model_writes_every_sample(model: Path, sets: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    command = ["eval", "generate", "humaneval", "-m", str(model), "--data", str(sets), "-o", str(out)]
    assert main([*command, "-n", "3"]) == 0
    found = rows(out)
    expected = [(row["task_id"], sample) for sample in range(3) for row in HUMANEVAL]
    assert [(row["task_id"], row["sample"]) for row in found] == expected
    by = found[0]["by"]
    assert by["task"] == "humaneval" and by["temperature"] == 0.2 and by["top_p"] == 0.95 and by["seed"] == 0
    # Half of a context of 96 tokens is the most that an answer gets.
    assert by["max_new_tokens"] == 48 and by["model"]["name"] == str(model)
    # More samples are added to those that are there, and a repeated command changes nothing.
    whole = out.read_bytes()
    assert main([*command, "-n", "4"]) == 0
    assert out.read_bytes().startswith(whole) and len(rows(out)) == 8
    whole = out.read_bytes()
    assert main([*command, "-n", "4"]) == 0 and out.read_bytes() == whole


def test_a_stopped_generation_resumes_with_the_same_completions(
    model: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(name: str) -> list[str]:
        how = ["-n", "5", "--temperature", "1", "--seed", "9"]
        return ["eval", "generate", "infill:python", "-m", str(model), "--data", str(sets), *how, "-o", name]

    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    assert main(command(str(whole))) == 0
    assert len(rows(whole)) == 5 * len(SINGLE_LINE)
    monkeypatch.setattr(functional, "TOGETHER", 4)
    complete = FunctionalTask.complete

    def stopped(self: FunctionalTask, *arguments: Any) -> Any:
        for number, part in enumerate(complete(self, *arguments)):
            if number == 2:
                raise RuntimeError("stopped")
            yield part

    monkeypatch.setattr(FunctionalTask, "complete", stopped)
    with pytest.raises(RuntimeError, match="stopped"):
        main(command(str(resumed)))
    assert len(rows(resumed)) == 8
    # A kill may cut the line that is being written.
    with open(resumed, "ab") as file:
        file.write(b'{"task_id": "Python/0/L')
    monkeypatch.setattr(FunctionalTask, "complete", complete)
    assert main(command(str(resumed))) == 0
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_run_and_a_model_of_transformers(sets: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")
    from helpers import tiny_causal

    run = make_run(tmp_path / "run")
    other = tiny_causal.write(tmp_path / "qwen")
    for number, model in enumerate(([str(run)], ["-m", str(other)])):
        out = tmp_path / f"{number}.jsonl"
        task = ("humaneval-infilling:single", "mbpp")[number]
        assert main(["eval", "generate", task, *model, "--data", str(sets), "-o", str(out)]) == 0
        found = rows(out)
        assert found and all(isinstance(row["completion"], str) for row in found)
        assert found[0]["by"]["seed"] == (5 if number == 0 else 0)


def test_a_model_that_cannot_fill_in_is_one_line(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")
    from helpers import tiny_causal

    other = tiny_causal.write(tmp_path / "plain", fim="none")
    out = tmp_path / "c.jsonl"
    assert main(["eval", "generate", "infill:python", "-m", str(other), "--data", str(sets), "-o", str(out)]) == 2
    assert "no fill-in-the-middle tokens" in capsys.readouterr().err


def test_what_the_arguments_lack_is_one_line(
    model: Path, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "c.jsonl")
    data = ["--data", str(sets)]
    for arguments, message in (
        (["humanevl", str(model)], "did you mean humaneval"),
        (["bits_per_byte", str(model)], "its answers are no programs"),
        (["humaneval", *data], "give a run directory, or -m MODEL"),
        (["humaneval", "owner/name", *data], "a model is given by -m owner/name"),
        (["humaneval", "-m", str(model), "--data", str(tmp_path / "no")], "not there"),
        (["humaneval", "-m", str(tmp_path), *data], "no config.json there"),
        (["humaneval", "-m", str(model), *data, "-n", "0"], "-n 0"),
        (["humaneval", "-m", str(model), *data, "-n", "2", "--temperature", "0"], "2 equal completions"),
        (["humaneval", "-m", str(model), *data, "--temperature", "nan"], "--temperature nan"),
        (["humaneval", "-m", str(model), *data, "--top-p", "0"], "--top-p 0.0"),
        (["humaneval", "-m", str(model), *data, "--limit", "0"], "--limit 0"),
        (["humaneval", "-m", str(model), *data, "--context", "97"], "the model has 96 positions"),
    ):
        assert main(["eval", "generate", *arguments, "-o", out]) == 2, arguments
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error, (arguments, error)
    assert main(["eval", "generate", "humaneval", "-m", str(model), *data, "-o", str(tmp_path)]) == 2
    assert not Path(out).exists() or not rows(Path(out))


def test_generate_and_judge_in_one_command(
    model: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = without_sandbox(monkeypatch)
    out = tmp_path / "stats.json"
    command = ["eval", "infill:python", "-m", str(model), "--data", str(sets), "-n", "2", "--json", str(out)]
    assert main(command) == 0
    stats = json.loads(out.read_text())["infill:python"]
    assert stats["answers"] == len(programs) == 2 * len(SINGLE_LINE) and stats["model"]["name"] == str(model)
    assert stats["sampling"] == {
        "samples": 2, "temperature": 0.2, "top_p": 0.95, "max_new_tokens": 25, "seed": 0,
    }  # fmt: skip
    assert "pass@1" in capsys.readouterr().out


def test_the_recipe_of_a_run_says_what_the_options_leave_open(sets: Path, tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "c.jsonl"
    (run / "recipe.toml").write_text(
        f'seed = 5\n[evaluate]\nsamples = 2\ntemperature = 0.7\ndata = "{sets}"\n', encoding="utf-8"
    )
    assert main(["eval", "generate", "humaneval", str(run), "--limit", "1", "-o", str(out)]) == 0
    assert [row["sample"] for row in rows(out)] == [0, 1] and rows(out)[0]["by"]["temperature"] == 0.7
    assert main(["eval", "generate", "humaneval", str(run), "-n", "1", "--temperature", "0", "-o", f"{out}2"]) == 0
    assert rows(Path(f"{out}2"))[0]["by"]["temperature"] == 0
