"""MBPP (Austin et al. 2021): the 500 test problems, ids 11 to 510, asked with three solved ones before them.

The prompt is that of the paper, with the problems 2, 3 and 4 as examples, as lm-eval has it. The set's own line ends
(CR LF in nearly all solutions) are made newlines, so that the examples look like other code. A program is the
completion, then the problem's setup, then its three tests: two setups use a class that the solution defines.
"""

from __future__ import annotations

from typing import Any

from codeshell.errors import UserError
from codeshell.evaluate.functional import FunctionalTask
from codeshell.evaluate.problem_sets import ProblemSet
from codeshell.evaluate.programs import Program
from codeshell.evaluate.prompts import Prompt
from codeshell.evaluate.stops import MBPP, Stops

SHOTS = (2, 3, 4)
FIRST, LAST = 11, 510

_QUESTION = (
    "You are an expert Python programmer, and here is your task: {text} "
    "Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
)


class Mbpp(FunctionalTask):
    """The task `mbpp`. Each row gets the field `shots`: the solved problems before its question."""

    name = "mbpp"
    heading = "MBPP"
    style = "mbpp"

    def load(self, data: str = "") -> ProblemSet:
        found = super().load(data)
        by_id = {row["task_id"]: row for row in found.rows}
        missing = [number for number in SHOTS if number not in by_id]
        if missing:
            raise UserError(
                f"{found.source}: no problem with task_id {missing[0]}; the prompt shows problems 2, 3 and 4, so give "
                "the whole set"
            )
        shots = "".join(f"{question(by_id[number])}{_lines(by_id[number]['code'])}\n[DONE]\n\n" for number in SHOTS)
        rows = [row | {"shots": shots} for row in found.rows if FIRST <= row["task_id"] <= LAST]
        if not rows:
            raise UserError(f"{found.source}: no problem with a task_id of {FIRST} to {LAST}; give the whole set")
        return ProblemSet(found.name, rows, found.sha256, found.source, found.licence)

    def problem_id(self, row: dict[str, Any]) -> str:
        return f"MBPP/{row['task_id']}"

    def prompt(self, row: dict[str, Any]) -> Prompt:
        return Prompt(row["shots"] + question(row))

    def stops(self, row: dict[str, Any]) -> Stops:
        return MBPP

    def program(self, row: dict[str, Any], completion: str) -> Program:
        return Program(
            "python", completion, "\n".join(row["test_list"]), style=self.style, setup=row["test_setup_code"]
        )

    def reference(self, row: dict[str, Any]) -> str:
        return str(row["code"])


def question(row: dict[str, Any]) -> str:
    """What is asked about one problem, up to where the answer begins."""
    return _QUESTION.format(text=row["text"], tests=_lines("\n".join(row["test_list"])))


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")
