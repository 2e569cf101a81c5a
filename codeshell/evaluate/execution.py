"""How functional tasks run: how many samples, which problems, from where, and how the programs are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codeshell.recipe import Evaluate


@dataclass(frozen=True)
class Execution:
    """Settings of functional tasks. None (or "") is the task's own choice, or the machine's."""

    samples: int | None = None
    """Completions of each problem."""
    temperature: float | None = None
    top_p: float | None = None
    limit: int | None = None
    """The first problems of the set only."""
    data: str = ""
    """File of the problem set, or folder that holds it (see `problem_sets`)."""
    level: int | None = None
    """Level of isolation that is asked for; None takes the best of the machine."""
    unsafe: bool = False
    """Level 1, without isolation, is accepted."""
    workers: int | None = None
    """Programs at a time; None is one per core."""
    toolchains: Mapping[str, str] = field(default_factory=dict)
    """Language to the folder of its toolchain."""
    journal: Path | None = None
    """Folder in which verdicts are kept, one journal a task, so that a killed evaluation resumes; None keeps none."""

    def over(self, settings: Evaluate) -> Execution:
        """These settings, and those of a recipe where they are open."""
        theirs: dict[str, Any] = {
            "samples": settings.samples or None,
            "temperature": None if settings.temperature == "task" else settings.temperature,
            "top_p": None if settings.top_p == "task" else settings.top_p,
            "limit": settings.problems or None,
            "data": settings.data,
        }
        return replace(self, **{name: value for name, value in theirs.items() if getattr(self, name) in (None, "")})
