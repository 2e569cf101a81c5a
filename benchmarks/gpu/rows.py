"""A row of the plan: one process, what it proves, how long it may take, and what its end means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["first launch", "tests", "sanitizer", "benchmark"]

HUNG = 20.0
"""Seconds. A process that prints nothing for so long has hung: every test and every contender says that it starts."""

ENDED = ("ok", "failed", "broken", "hung", "over its limit")
"""A row with one of these ran to an end and is not run again for the same sources. The others, which are run in the
next call: `absent` (a program that it needs is not installed), `left out` (a kernel that it needs has hung), `waits`
(no time was left), `cut off` (this whole program ended while it ran)."""
STOPPING = ("broken", "hung")
"""After these the kernel is not launched again. Broken is an error that leaves the process without its GPU, such as an
access out of bounds, or the trap of a debug build that waited too long."""


@dataclass(frozen=True)
class Row:
    """One process of the run.

    Attributes:
        name: unique, `kind/what`.
        kind: which part of the plan it belongs to.
        command: arguments of the Python interpreter.
        budget: seconds in which it ends if all is well. The budgets are what the plan adds up, and a row starts only if
            its budget is left.
        limit: seconds after which it is ended; 0 is twice the budget.
        quiet: seconds without output after which it has hung.
        kernels: sources below csrc that it tries; if it hangs, they have.
        uses: other kernels that it launches.
        files: paths from the root; where one changes, the row is run again. Of a folder, all Python files count.
        tests: the file below tests/ whose counts it gives to the result.
        ordered: whether the rows after it wait where it has no time.
        information: whether its failure is a hint and no error.
        environment: variables of its process.
        program: the program under which the interpreter runs, with its arguments; the first is looked for on PATH.
        debug: whether it takes the build with time limits in the kernels, where there is one.
        extra: whether it runs only if it is named.
        why: where the budget comes from.
    """

    name: str
    kind: Kind
    command: tuple[str, ...]
    budget: float
    limit: float = 0.0
    quiet: float = HUNG
    kernels: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    tests: str = ""
    ordered: bool = True
    information: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ()
    debug: bool = False
    extra: bool = False
    why: str = ""

    @property
    def longest(self) -> float:
        return self.limit or 2 * self.budget

    @property
    def launches(self) -> tuple[str, ...]:
        """All kernels that it needs."""
        return (*self.kernels, *self.uses)
