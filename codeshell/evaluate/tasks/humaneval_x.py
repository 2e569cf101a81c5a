"""HumanEval-X (Zheng et al. 2023): HumanEval written by hand in C++, Go, Java, JavaScript, Python and Rust.

The answer ends where its braces close. In Rust the docstring stands before a declaration of its own, and four prompts
begin a helper, not the function that is tested: their answers hold both functions, so no brace ends them.
"""

from __future__ import annotations

import re
from typing import Any

from codeshell.evaluate import stops
from codeshell.evaluate.functional import FamilyTask
from codeshell.evaluate.problem_sets import HUMANEVAL_X
from codeshell.evaluate.programs import Program
from codeshell.evaluate.prompts import Prompt
from codeshell.evaluate.stops import Stops

SECOND_FUNCTION = frozenset({"Rust/10", "Rust/32", "Rust/38", "Rust/50"})

_CALL = re.compile(r"\n*check\((\w+)\)\s*\Z")


class HumanEvalX(FamilyTask):
    """The tasks `humaneval-x:LANGUAGE`."""

    family = "humaneval-x"
    arguments = HUMANEVAL_X

    def __init__(self, argument: str) -> None:
        super().__init__(argument)
        self.language = argument
        self.style = "humaneval" if argument == "python" else "humaneval-x"
        self.heading = f"HumanEval-X, {argument}"

    def prompt(self, row: dict[str, Any]) -> Prompt:
        return Prompt(row["prompt"] + (row["declaration"] if self.language == "rust" else ""))

    def stops(self, row: dict[str, Any]) -> Stops:
        return stops.RUST_FILE if row["task_id"] in SECOND_FUNCTION else stops.humaneval_x(self.language)

    def program(self, row: dict[str, Any], completion: str) -> Program:
        prompt = self.prompt(row).before
        if self.language == "python":
            return python_program(prompt + completion, row["test"], prompt)
        setup = row["test_setup"] if self.language == "go" else ""
        return Program(self.language, prompt + completion, row["test"], style=self.style, setup=setup)


def python_program(code: str, test: str, helpers: str) -> Program:
    """The program of a test that ends by calling its own `check` with the function that it tests.

    The judge makes that call itself, because the function is in another process.
    """
    call = _CALL.search(test)
    entry_point = call[1] if call else ""
    return Program(
        "python",
        code,
        test[: call.start()] + "\n" if call else test,
        entry_point,
        style="humaneval" if call else "mbpp",
        helpers=helpers,
    )
