"""MultiPL-E (Cassano et al. 2022): HumanEval in 18 other languages, with tests translated into each.

The prompt, the tests that follow the answer and the stop sequences are the set's own, "reworded" prompts. The licence
forbids to train on the set.
"""

from __future__ import annotations

from typing import Any

from codeshell.evaluate import stops
from codeshell.evaluate.functional import FamilyTask
from codeshell.evaluate.problem_sets import MULTIPL_E
from codeshell.evaluate.programs import Program
from codeshell.evaluate.prompts import Prompt
from codeshell.evaluate.stops import Stops


class MultiplE(FamilyTask):
    """The tasks `multipl-e:LANGUAGE`."""

    family = "multipl-e"
    arguments = tuple(MULTIPL_E)
    style = "multipl-e"

    def __init__(self, argument: str) -> None:
        super().__init__(argument)
        self.language = argument
        self.heading = f"MultiPL-E HumanEval, {MULTIPL_E[argument]}"

    def problem_id(self, row: dict[str, Any]) -> str:
        return str(row["name"])

    def prompt(self, row: dict[str, Any]) -> Prompt:
        return Prompt(row["prompt"])

    def stops(self, row: dict[str, Any]) -> Stops:
        return stops.of_problem(row["stop_tokens"])

    def program(self, row: dict[str, Any], completion: str) -> Program:
        return Program(self.language, row["prompt"] + completion, row["tests"], style=self.style)
