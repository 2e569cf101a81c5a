"""Evaluation of a trained model on held-out files, each number with its interval and its baselines.

A task is one object (`codeshell.evaluate.task`): its problems, prompts, judge, summary, claims and section of the
report. The tasks of the package are listed in `codeshell.evaluate.tasks`; `subject.py` is the model under test.

`run(recipe, directory, engine)` is the stage. It reads `model/`, `tokenizer/`, `curated/` and `train/checkpoints/`,
writes below `evaluate/`, and returns the statistics:

    {
      "held_out": {"split": "test", "shards", "documents", "bytes"},     # what the samples were chosen from
      "not_run": {task: reason},            # a task that could not run; null below, never a zero
      task: {…},                            # its statistics; its file in evaluate/tasks/ says what they are
      "claims": [str],                      # plain sentences made of these numbers; what the report may say
      "sections": {task: {…}},              # of tasks that are not the package's: their sections of the report
      "failure": str                        # only where the model gave NaN or infinity; `run` then exits with 2
    }

`evaluate/samples.json` is `{task: [sample]}`, `evaluate/part-TASK.json` the statistics and samples of a task that is
done, and `evaluate/TASK.json` the whole statistics of a task of which `stats.json` holds a part (`positions`).

Importing this module does not import torch; `run` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell.engine import Engine
    from codeshell.recipe import Recipe

__all__ = ["CODE", "check", "run"]


def run(recipe: Recipe, directory: Path, engine: Engine, tasks: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate the model of the run in `directory`; see the module's text for what is written and returned.

    Args:
        tasks: names, or places of tasks of one's own (`FILE.py:NAME`); None does those of the recipe.
    """
    from codeshell.evaluate.evaluate_run import run as run_stage

    return run_stage(recipe, directory, engine, recipe.evaluate.tasks if tasks is None else tasks)


class _Code:
    """What `codeshell.pipeline` asks about the code that `evaluate.tasks` names."""

    def fingerprint(self, name: str) -> str:
        """The text of `tasks.code_of`: empty for the package's tasks."""
        from codeshell.evaluate.tasks import code_of

        return code_of(name)


CODE = _Code()


def check(recipe: Recipe) -> None:
    """Find names of tasks that there are not, before hours of training.

    Raises:
        UserError: a name is that of no task, or there twice.
    """
    from codeshell.errors import UserError
    from codeshell.evaluate.tasks import TASKS, get_task

    names = recipe.evaluate.tasks
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"evaluate.tasks: {name} is there {names.count(name)} times; name each task once")
        # The classes of these are not loaded yet: they need what the data stages do without.
        if name not in TASKS:
            get_task(name)
