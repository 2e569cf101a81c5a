"""Twenty short functions in Python, written for this package: a functional task that needs no data and no network.

It is there so that a small model, and a new user, see the whole way from prompt to verdict in seconds. Each problem has
one signature with a docstring, and three to five assertions. They are easy for any model that writes code, so the task
tells small models apart and says nothing of large ones. The problems are in `codeshell/evaluate/problems/simple.jsonl`,
in HumanEval's form, with solutions; nothing of any published set is among them.
"""

from __future__ import annotations

from pathlib import Path

from codeshell.evaluate import problem_sets
from codeshell.evaluate.problem_sets import ProblemSet
from codeshell.evaluate.tasks.humaneval import HumanEval

FILE = Path(__file__).parents[1] / "problems" / "simple.jsonl"


class Simple(HumanEval):
    """The task `simple`."""

    name = "simple"
    heading = "Twenty simple functions"
    max_new_tokens = 96
    """Three times the tokens of the longest solution in a vocabulary of 4,096."""

    def load(self, data: str = "") -> ProblemSet:
        """The package's own problems; there is nothing to download, so `data` is not looked at."""
        return problem_sets.own(self.name, FILE)
