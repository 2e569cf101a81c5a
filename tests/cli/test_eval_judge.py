"""`codeshell eval judge`: one command from another tool's completions to a pass@1; bad input is one line and exit 2.

The programs are the tests' own and are judged in this process; tests/evaluate/sandbox has those that are not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.functional_sets import judge

from codeshell.cli import main
from codeshell.errors import UserError
from codeshell.evaluate import judging
from codeshell.evaluate.judging import Runtime
from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.sandbox import launch, levels
from codeshell.evaluate.tasks.simple import FILE
from codeshell.evaluate.verdicts import Judged, Verdict

PROBLEMS = [json.loads(line) for line in FILE.read_text().splitlines()]


class _Level(int):
    name = "NAMESPACES"


PROOF = SimpleNamespace(level=_Level(3), covers=("files",), does_not_cover=("the kernel",), line=lambda: "isolation: 3")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Judges without a sandbox; the programs that they were given."""
    programs: list[Program] = []

    class Judge:
        def judge(self, program: Program) -> Judged:
            programs.append(program)
            if "broken toolchain" in program.code:
                raise UserError("CPython: it crashed; install it again")
            return judge(program)

        def close(self) -> None:
            pass

    def runtimes(level: Any, folders: Any, style: str = "") -> Any:
        def find(language: str) -> Runtime:
            if language == "swift":
                return Runtime("", lambda limits: Judge(), missing="install swiftlang")
            return Runtime("CPython 3", lambda limits: Judge())

        return find

    def require(level: int | None = None, unsafe: bool = False) -> Any:
        if level == 4:
            raise UserError("level 4 cannot be had here; ask for --level 3")
        return PROOF

    monkeypatch.setattr(judging, "_Runtimes", runtimes)
    monkeypatch.setattr(levels, "require", require)
    monkeypatch.setattr(launch, "stop_all", lambda: None)
    return programs


def lines(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def completions(path: Path, solved: int, total: int = 20) -> str:
    rows = [
        {"task_id": row["task_id"], "completion": row["canonical_solution"] if at < solved else "    return 1 / 0\n"}
        for at, row in enumerate(PROBLEMS[:total])
    ]
    return lines(path, rows)


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_completions_to_pass_at_1(tmp_path: Path, ran: list[Program], capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results.jsonl"
    command = ["eval", "judge", completions(tmp_path / "c.jsonl", 5), "--problems", str(FILE), "-o", str(output)]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "pass@1 is 25.0 % (95 % interval " in said.out and "20 problems" in said.out
    assert "5 pass, 15 exception" in said.out and "level 3" in said.out and "isolation: 3" in said.err
    rows = results(output)
    assert [row["task_id"] for row in rows] == [row["task_id"] for row in PROBLEMS]
    assert [row["verdict"] for row in rows] == ["pass"] * 5 + ["exception"] * 15
    assert set(rows[0]) == {"task_id", "sample", "verdict", "why", "output", "seconds", "level", "toolchain"}
    assert "ZeroDivisionError" in rows[-1]["why"]
    # What resumes a killed evaluation is not left beside whole results.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "results.jsonl"]
    # Whole programs of another tool give the same, but for nothing.
    whole = [[row["prompt"] + row["canonical_solution"]] for row in PROBLEMS[:5]]
    whole += [[row["prompt"] + "    return 1 / 0\n"] for row in PROBLEMS[5:]]
    (tmp_path / "g.json").write_text(json.dumps(whole))
    again = tmp_path / "again.jsonl"
    assert main(["eval", "judge", str(tmp_path / "g.json"), "--problems", str(FILE), "-o", str(again)]) == 0
    assert again.read_bytes() == output.read_bytes()
    assert "lists without ids are taken for the first problems" in capsys.readouterr().err


def test_the_statistics_as_json(tmp_path: Path, ran: list[Program], capsys: pytest.CaptureFixture[str]) -> None:
    path = completions(tmp_path / "c.jsonl", 20)
    options = ["--problems", str(FILE), "-o", str(tmp_path / "r.jsonl")]
    assert main(["eval", "judge", path, *options, "--json", str(tmp_path / "stats.json")]) == 0
    capsys.readouterr()
    assert main(["eval", "judge", path, *options, "--json", "-"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats == json.loads((tmp_path / "stats.json").read_text())
    assert stats["pass_at"]["1"]["value"] == 1.0 and stats["isolation"]["level"] == 3
    assert stats["without_completion"] == 0


def test_problems_without_a_completion_are_said(
    tmp_path: Path, ran: list[Program], capsys: pytest.CaptureFixture[str]
) -> None:
    """pass@1 is over those that were asked, and the other reading stands beside it: neither is silent."""
    path = completions(tmp_path / "c.jsonl", 5, total=10)
    assert main(["eval", "judge", path, "--problems", str(FILE), "-o", str(tmp_path / "r.jsonl")]) == 0
    said = capsys.readouterr()
    assert "10 of 20 problems have no completion" in said.err
    assert "pass@1 is 50.0 %" in said.out and "counted as failed, it is 25.0 %" in said.out


def test_several_completions_of_a_problem(
    tmp_path: Path, ran: list[Program], capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = PROBLEMS[0]["canonical_solution"], "    return None\n"
    rows = [{"task_id": "simple/0", "completion": text} for text in [good] * 3 + [bad] * 7]
    rows += [{"task_id": "simple/1", "completion": bad}] * 10
    assert main(["eval", "judge", lines(tmp_path / "c", rows), "--problems", str(FILE), "-o", str(tmp_path / "r")]) == 0
    said = capsys.readouterr().out
    assert "pass@1 is 15.0 %" in said and "pass@10 is 50.0 %" in said
    # Equal programs ran once.
    assert len(ran) == 3
    assert [row["sample"] for row in results(tmp_path / "r")] == [*range(10), *range(10)]


def test_a_killed_evaluation_resumes(tmp_path: Path, ran: list[Program], capsys: pytest.CaptureFixture[str]) -> None:
    """A toolchain that breaks in the middle: one line, exit 2, and the verdicts until then are kept."""
    path = tmp_path / "c.jsonl"
    completions(path, 20)
    rows = results(path)
    rows[7]["completion"] = "    broken toolchain"
    options = ["--problems", str(FILE), "-o", str(tmp_path / "r.jsonl"), "--workers", "1"]
    assert main(["eval", "judge", lines(path, rows), *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "codeshell: error: CPython: it crashed; install it again"
    assert not (tmp_path / "r.jsonl").exists() and (tmp_path / "r.jsonl.journal").exists()
    ran.clear()
    completions(path, 20)
    assert main(["eval", "judge", str(path), *options]) == 0
    assert len(ran) == 13 and "7 of 20 verdicts are known" in capsys.readouterr().err
    # With a journal of its own it stays, and another command knows all of it.
    journal = ["--journal", str(tmp_path / "j")]
    assert main(["eval", "judge", str(path), *options, *journal]) == 0
    ran.clear()
    assert main(["eval", "judge", str(path), *options, *journal]) == 0
    assert not ran and (tmp_path / "j").exists()


def test_limits_reach_the_programs(tmp_path: Path, ran: list[Program]) -> None:
    limits = ["--cpu-seconds", "2.5", "--wall-seconds", "9", "--memory", "512MiB"]
    path = completions(tmp_path / "c.jsonl", 1, total=1)
    assert main(["eval", "judge", path, "--problems", str(FILE), "-o", str(tmp_path / "r.jsonl"), *limits]) == 0
    assert ran[0].limits == Limits(cpu_seconds=2.5, wall_seconds=9, memory=512 << 20)


def test_an_absent_toolchain_is_not_run_and_never_zero(
    tmp_path: Path, ran: list[Program], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"name": "H_0", "language": "swift", "prompt": "p", "tests": "t", "stop_tokens": []}
    problems = lines(tmp_path / "p.jsonl", [row])
    path = lines(tmp_path / "c.jsonl", [{"task_id": "H_0", "completion": "x"}])
    assert main(["eval", "judge", path, "--problems", problems, "-o", str(tmp_path / "r.jsonl")]) == 2
    said = capsys.readouterr()
    assert "not run: install swiftlang" in said.err and "pass@" not in said.out and "0.0 %" not in said.out
    assert results(tmp_path / "r.jsonl")[0]["verdict"] == Verdict.NOT_RUN and not ran


def test_completions_of_ours_name_their_task(
    tmp_path: Path, ran: list[Program], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"task_id": row["task_id"], "completion": row["canonical_solution"], "sample": 0, "by": {"task": "simple"}}
        for row in PROBLEMS
    ]
    assert main(["eval", "judge", lines(tmp_path / "c", rows), "-o", str(tmp_path / "r")]) == 0
    assert "Twenty simple functions: pass@1 is 100.0 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--problems", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--level", "4"], "level 4 cannot be had here"),
        (["--workers", "0"], "--workers 0"),
        (["--cpu-seconds", "0"], "--cpu-seconds 0"),
        (["--wall-seconds", "nan"], "--wall-seconds nan"),
        (["--memory", "lots"], "--memory"),
        (["--toolchain", "swift"], "write LANG=DIR"),
        (["--toolchain", "swift=/nowhere/at/all"], "no such folder"),
        (["-o", "nowhere/r.jsonl"], "-o"),
        (["-o", "."], "-o"),
        (["--journal", "nowhere/j"], "its folder is not there"),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path,
    ran: list[Program],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = completions(tmp_path / "c.jsonl", 1)
    assert main(["eval", "judge", path, "--problems", str(FILE), "-o", "r.jsonl", *change]) == 2
    said = capsys.readouterr()
    assert said.err.count("codeshell: error:") == 1 and words in said.err.splitlines()[-1] and said.out == ""
    assert not ran and not (tmp_path / "r.jsonl").exists()


def test_a_file_that_does_not_say_its_problems(
    tmp_path: Path, ran: list[Program], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "judge", completions(tmp_path / "c.jsonl", 1), "-o", str(tmp_path / "r.jsonl")]) == 2
    assert "give --problems FILE" in capsys.readouterr().err


def test_eval_keeps_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    """`eval TASK RUN` is as it was; `judge` and `generate` stand in the place of TASK."""
    for words, found in (
        (["eval", "--help"], "TASK [RUN]"),
        (["eval", "judge", "--help"], "COMPLETIONS"),
        (["eval", "generate", "--help"], "completions"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0 and found in " ".join(capsys.readouterr().out.split())
    assert main(["eval", "infill", "judge"]) == 2
    assert "judge: no such run directory" in capsys.readouterr().err
