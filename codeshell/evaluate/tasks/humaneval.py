"""HumanEval (Chen et al. 2021): 164 functions in Python, each begun by its signature and docstring.

The prompt is the set's, as it is: bigcode's harness strips it, which changes the tokens at its end.
"""

from __future__ import annotations

from typing import Any

from codeshell.evaluate.functional import FunctionalTask
from codeshell.evaluate.programs import Program
from codeshell.evaluate.prompts import Prompt
from codeshell.evaluate.stops import HUMANEVAL, Stops


class HumanEval(FunctionalTask):
    """The task `humaneval`."""

    name = "humaneval"
    heading = "HumanEval"

    def prompt(self, row: dict[str, Any]) -> Prompt:
        return Prompt(row["prompt"])

    def stops(self, row: dict[str, Any]) -> Stops:
        return HUMANEVAL

    def program(self, row: dict[str, Any], completion: str) -> Program:
        # Some tests call functions that the prompt defines.
        return Program(
            "python",
            row["prompt"] + completion,
            row["test"],
            row["entry_point"],
            style="humaneval",
            helpers=row["prompt"],
        )
