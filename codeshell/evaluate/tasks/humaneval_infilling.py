"""HumanEval-Infilling (Bavarian et al. 2022): a line, lines, or a random span of HumanEval's solutions is masked.

The prompt is prefix-suffix-middle. An answer ends where the model ends it: what it writes beyond the gap stands before
the rest of the function, and spoils it. The parts are `single` (1,033 lines), `multi` (5,815), `random` (1,640 spans)
and `random-light` (164 of them).
"""

from __future__ import annotations

from typing import Any

from codeshell.evaluate.functional import FamilyTask
from codeshell.evaluate.problem_sets import INFILLING
from codeshell.evaluate.programs import Program
from codeshell.evaluate.prompts import Prompt


class HumanEvalInfilling(FamilyTask):
    """The tasks `humaneval-infilling:PART`."""

    family = "humaneval-infilling"
    arguments = tuple(INFILLING)
    what = "part"

    def __init__(self, argument: str) -> None:
        super().__init__(argument)
        self.heading = f"HumanEval-Infilling, {INFILLING[argument].replace('-', ' ')}"

    def prompt(self, row: dict[str, Any]) -> Prompt:
        return Prompt(row["prompt"], row["suffix"])

    def program(self, row: dict[str, Any], completion: str) -> Program:
        return Program(
            "python",
            row["prompt"] + completion + row["suffix"],
            row["test"],
            row["entry_point"],
            style="humaneval",
            # The prompt ends inside the function, so what tests may need of it is the whole solution.
            helpers=row["prompt"] + row["canonical_solution"] + row["suffix"],
        )
