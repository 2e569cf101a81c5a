"""Small programs that try to pass without solving their problem, and honest ones beside them, each with its verdict.

`benchmarks/evaluate.py` gives the same programs to other judges.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.sandbox.python_judge import PythonJudge

HERE = Path(__file__).parent

TESTS = """
def check(candidate):
    assert candidate([1, 2, 3, 4]) == 20
    assert candidate([]) == 0
    assert candidate([7, 9]) == 0
    assert candidate([-2, 6, 5]) == 40
"""
"""The problem: the sum of the squares of the even numbers."""

TRICKS = tomllib.loads((HERE / "tricks" / "expected.toml").read_text())
CONTROLS = tomllib.loads((HERE / "controls" / "expected.toml").read_text())


def source(folder: str, name: str) -> str:
    """One of the programs. What does not parse is no `.py` file, so that the tools for Python pass it over."""
    path = HERE / folder / f"{name}.py"
    return (path if path.exists() else path.with_suffix(".txt")).read_text()


@pytest.mark.parametrize(("name", "expected"), [row for group in TRICKS.values() for row in group.items()])
def test_no_trick_passes(name: str, expected: str, judge: PythonJudge) -> None:
    judged = judge.judge(Program("python", source("tricks", name), TESTS, "solve", limits=Limits(wall_seconds=20)))
    assert judged.verdict == expected, judged


@pytest.mark.parametrize(("name", "expected"), CONTROLS.items())
def test_honest_programs_get_their_verdict(name: str, expected: str, judge: PythonJudge) -> None:
    judged = judge.judge(Program("python", source("controls", name), TESTS, "solve"))
    assert judged.verdict == expected, judged


def test_every_program_is_in_the_table() -> None:
    for folder, table in (("tricks", [name for group in TRICKS.values() for name in group]), ("controls", CONTROLS)):
        files = {path.stem for path in (HERE / folder).iterdir() if path.suffix in (".py", ".txt")}
        assert files == set(table)
    assert sum(map(len, TRICKS.values())) >= 28
