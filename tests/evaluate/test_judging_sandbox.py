"""Judging with the real judges at the best level of this machine: verdicts, order, a kill, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from codeshell.errors import UserError
from codeshell.evaluate import judging
from codeshell.evaluate.judging import judge_programs
from codeshell.evaluate.prompts import NotRunError
from codeshell.evaluate.sandbox import levels
from codeshell.evaluate.sandbox.levels import Proof
from codeshell.evaluate.tasks.simple import FILE, Simple
from codeshell.evaluate.verdicts import Verdict

PROBLEMS = [json.loads(line) for line in FILE.read_text().splitlines()]


@pytest.fixture(scope="module")
def proof() -> Proof:
    found = levels.best()
    if isinstance(found, UserError):
        pytest.skip(f"no isolation here, so nothing that is judged may run: {found}")
    return found


def test_the_problems_of_the_package(proof: Proof) -> None:
    """Solutions pass and answers that do nothing fail, in the order of the programs, whatever the workers do."""
    task = Simple()
    programs = [
        task.program(row, text) for row in PROBLEMS for text in (row["canonical_solution"], "    return 'no'\n")
    ]
    judged = judge_programs(programs, level=proof, workers=2)
    assert [one.verdict for one in judged] == [Verdict.PASS, Verdict.WRONG] * 20, [one.why for one in judged]
    assert {one.level for one in judged} == {int(proof.level)}
    # The failing test is named for a person.
    assert judged[1].why.startswith("assert candidate(2, 3) == 5")
    assert len({one.toolchain for one in judged}) == 1 and judged[0].toolchain.startswith("CPython 3.")


def test_ready_says_what_is_there(proof: Proof) -> None:
    assert judging.ready("python").level is proof.level
    with pytest.raises(UserError, match="known: python"):
        judging.ready("cobol")
    # Some language is not installed on most machines; then it is named with its package.
    for language in ("scala", "swift", "jl"):
        try:
            judging.ready(language)
        except NotRunError as reason:
            assert "install " in str(reason)


def completions(path: Path, last: str) -> list[dict[str, Any]]:
    rows = [{"task_id": row["task_id"], "completion": row["canonical_solution"]} for row in PROBLEMS[:3]]
    rows.append({"task_id": "simple/3", "completion": last})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def command(folder: Path) -> list[str]:
    files = [str(folder / "c.jsonl"), "--problems", str(FILE), "-o", str(folder / "r.jsonl")]
    return [sys.executable, "-m", "codeshell", "eval", "judge", *files, "--workers", "1"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_resumes(proof: Proof, tmp_path: Path, number: signal.Signals) -> None:
    completions(tmp_path / "c.jsonl", "    import time\n    time.sleep(1000)\n")
    journal = tmp_path / "r.jsonl.journal"
    child = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, text=True)
    # Its first line and three verdicts; the fourth program sleeps.
    until = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") == 4):
        assert child.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == (-number if number == signal.SIGKILL else 130), said
    assert not (tmp_path / "r.jsonl").exists() and "Traceback" not in said
    completions(tmp_path / "c.jsonl", PROBLEMS[3]["canonical_solution"])
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, check=True)
    assert "3 of 4 verdicts are known" in done.stderr and "4 pass" in done.stdout
    assert not journal.exists()
