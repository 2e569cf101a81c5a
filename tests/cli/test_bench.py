"""`codeshell bench`, from a checkout and from an installed package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codeshell.cli import main
from codeshell.cli.bench import benchmarks
from codeshell.environment import benchmarks_folder

ROOT = Path(__file__).resolve().parents[2]


def test_every_benchmark_is_there() -> None:
    folder = benchmarks_folder()
    assert folder == ROOT / "benchmarks"
    assert all((folder / f"{name}.py").is_file() for name in benchmarks())


def test_runs_and_passes_arguments_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "r.json"), "--chart", str(tmp_path / "r.svg")]
    assert main(["bench", "attention", "--smoke", "--device", "cpu", *files]) == 0
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert rows
    assert (tmp_path / "r.svg").read_text().startswith("<svg")
    table = capfd.readouterr().out
    assert all(row["case"] in table and row["name"] in table for row in rows)
    assert "of best peer" in table


def test_exit_code_is_the_benchmarks(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "overhead", "--no-such-argument"]) == 2
    assert "--no-such-argument" in capfd.readouterr().err


def test_no_benchmarks_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("codeshell.environment.benchmarks_folder", lambda: None)
    assert main(["bench", "rotary"]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("codeshell: error: bench rotary: the benchmarks are not here; they come with a checkout")


def test_a_wheel_carries_the_benchmarks_and_their_results(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="setuptools builds the wheel")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    installed = tmp_path / "codeshell" / "benchmarks"
    code = "from codeshell.environment import benchmarks_folder; print(benchmarks_folder())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == installed
    names = {path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert {path.name for path in (installed / "results").glob("*.json")} == names
