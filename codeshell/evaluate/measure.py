"""The one loop over tasks: measure each, keep what is done, and put the statistics together."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codeshell.engine.files import read_json, write_json
from codeshell.errors import say
from codeshell.evaluate.prompts import NotFiniteError
from codeshell.evaluate.task import Measured, NotRunError, Task

if TYPE_CHECKING:
    from codeshell.evaluate.subject import Subject


@dataclass
class Outcome:
    """What came of some tasks, by their names."""

    tasks: Sequence[Task]
    measured: dict[str, Measured] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    """Why a task has not run; such a task has no statistics, never a zero."""
    not_finite: str = ""
    """The first task that has not run because the model gives NaN or infinity, with the reason."""

    def statistics(self) -> dict[str, Any]:
        """`{not_run, task: statistics or null, claims}`, as `codeshell.evaluate` documents it."""
        # Every task has a key, null if it has not run, so that a reader never takes "absent" for 0.
        results: dict[str, Any] = dict.fromkeys(task.name for task in self.tasks)
        claims: list[str] = []
        for task in self.tasks:
            if task.name in self.measured:
                results[task.name] = task.brief(self.measured[task.name].result)
                claims += task.claims(results[task.name])
        # What has not run is said last, after all that can be claimed.
        claims += [f"Not run: {name.replace('_', ' ')} ({reason})." for name, reason in self.not_run.items()]
        return {"not_run": self.not_run, **results, "claims": claims}


def measure(
    tasks: Sequence[Task], subject: Subject, kept: Path | None = None, codes: Sequence[str] | None = None
) -> Outcome:
    """Do every task once.

    Args:
        tasks: in the order in which they are done.
        subject: the model under test.
        kept: a directory that holds `part-NAME.json` of each task that is done, so that a killed evaluation resumes;
            None keeps nothing.
        codes: a text for each task that changes with its code (see `tasks.code_of`), so that what another code did is
            done again; by default none does.
    """
    outcome = Outcome(tasks)
    for task, code in zip(tasks, codes or [""] * len(tasks), strict=True):
        path = None if kept is None else kept / f"part-{task.name}.json"
        # Done by an earlier start of the same evaluation, by the same code.
        if path is not None and path.exists() and (part := read_json(path)).get("code", "") == code:
            outcome.measured[task.name] = Measured(part["result"], part["samples"])
            continue
        began = time.monotonic()
        try:
            measured = task.measure(subject)
        except NotRunError as reason:
            # No file is written for it: a later start tries again, with what is there then.
            outcome.not_run[task.name] = str(reason)
            if isinstance(reason, NotFiniteError) and not outcome.not_finite:
                outcome.not_finite = f"{task.name}: {reason}"
            continue
        measured = Measured(_plain(measured.result), _plain(measured.samples))
        if path is not None:
            stamp = {"code": code} if code else {}
            write_json(path, {"result": measured.result, "samples": measured.samples} | stamp)
            say(f"evaluate: {task.name} took {time.monotonic() - began:.1f} s")
            # From here on the numbers are those of the file, as after a resume.
            part = read_json(path)
            measured = Measured(part["result"], part["samples"])
        outcome.measured[task.name] = measured
    return outcome


def _plain(value: Any) -> Any:
    """The value as JSON has it: null for a NaN or an infinity, plain numbers for numpy's."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
