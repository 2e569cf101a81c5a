"""The command line as a user meets it: help, one clear line, exit codes."""

from __future__ import annotations

import fcntl
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from codeshell.cli import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {name}\s", text, re.M) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert "example" in capsys.readouterr().out


def test_no_command_prints_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: codeshell" in capsys.readouterr().out


def test_info_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"version", "cuda_built", "simd", "gpus", "kernels"} <= set(facts)
    assert main(["info"]) == 0
    assert "CUDA" in capsys.readouterr().out


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text('[collect]\ninputs = ["code"]\n')
    return path


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("codeshell: error: ")
    return lines[-1]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_errors_are_printed_whatever_the_terminal_takes(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may hold bytes that are not UTF-8, and stderr may be strict (PYTHONIOENCODING)."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding, "strict", write_through=True))
    assert main(["dedup", "absent-\udcff", "--dry-run", "--workers", "1"]) == 2
    with pytest.raises(SystemExit):
        main(["dedup", "in", "--absent-\udcff"])
    lines = written.getvalue().decode(encoding).splitlines()
    assert len(lines) == 2 and all("absent-\\udcff" in line for line in lines)


def test_bad_recipe_and_bad_flags(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert "no such recipe" in complaint(["run", str(tmp_path / "none.toml"), "-o", out], capsys)
    assert "did you mean steps?" in complaint(["run", str(small), "-o", out, "--set", "train.step=1"], capsys)
    assert "no such stage" in complaint(["run", str(small), "-o", out, "--until", "nowhere"], capsys)
    assert "--workers -1" in complaint(["run", str(small), "-o", out, "--workers", "-1"], capsys)
    assert not (tmp_path / "run").exists()


def test_output_directory_that_cannot_be(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    line = complaint(["run", str(small), "-o", str(tmp_path / "file")], capsys)
    assert str(tmp_path / "file") in line
    assert "choose another output directory" in line
    assert "choose another" in complaint(["run", str(small), "-o", "/proc/nowhere"], capsys)


def test_two_runs_in_one_directory(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with open(run / "run.lock", "w") as file:
        file.write("4711")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        line = complaint(["run", str(small), "-o", str(run)], capsys)
    assert "process 4711" in line
    assert [path.name for path in run.iterdir()] == ["run.lock"]


def test_input_that_is_not_there(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "nowhere")
    assert missing in complaint(["run", str(small), "-o", str(tmp_path / "run"), "--input", missing], capsys)


def test_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m codeshell info --json | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr
