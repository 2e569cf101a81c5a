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

__all__ = ["run"]


def run(recipe: Recipe, directory: Path, engine: Engine, tasks: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate the model of the run in `directory`; see the module's text for what is written and returned.

    Args:
        tasks: names, or places of tasks of one's own (`FILE.py:NAME`); None does all tasks of the package.
    """
    from codeshell.evaluate.evaluate_run import run as run_stage
    from codeshell.evaluate.tasks import TASKS

    return run_stage(recipe, directory, engine, tuple(TASKS) if tasks is None else tasks)
