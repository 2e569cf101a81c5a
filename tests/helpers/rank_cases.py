"""What the ranks of tests do: trainings one after the other in one process group, and accidents at a chosen step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from codeshell.errors import UserError, hush
from codeshell.recipe import from_tree
from codeshell.train.parallel import Group


def trainings(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Train each `{"recipe": tree, "directory": path}`; returns the statistics of each.

    With `"eager": true`, torch.compile traces, but generates no code, which would take minutes.
    """
    import torch

    from codeshell.train.train_run import run

    compiled = torch.compile
    group = Group.join(None)
    hush(not group.leader)
    results = []
    for job in jobs:
        recipe = from_tree(job["recipe"], "test")
        group.mesh = None
        group.arrange(recipe.train.replicate)
        torch.compile = partial(compiled, backend="eager") if job.get("eager") else compiled
        results.append(run(recipe, Path(job["directory"]), None, group))  # type: ignore[arg-type]
    group.close()
    return results


def facts() -> dict[str, Any]:
    """What a group says, on each rank."""
    group = Group.join(1)
    told: dict[str, Any] = {"rank": group.rank, "world": group.world, "leader": group.leader}
    told["sum"] = group.sum([0.1, float(group.rank), float("nan")])[:2]
    told["rows"] = group.exchange([1.5 * group.rank])
    told["gather"] = group.gather({"from": group.rank, "text": "é" * (group.rank + 1)})
    told["share"] = list(group.share(6))
    told["lead"] = group.lead(lambda: ["done by", group.rank])

    def fail() -> None:
        if group.rank == 1:
            raise UserError("the disk is full; free some space")

    errors: list[Any] = [
        lambda: group.share(7),
        lambda: group.arrange(3),
        lambda: group.agree(fail),
        lambda: group.same({"train.lr": 0.1, "seed": group.rank}),
    ]
    told["errors"] = []
    for error in errors:
        try:
            error()
        except UserError as caught:
            told["errors"].append(str(caught))
    group.close()
    return told


def accident(kind: str, rank: int, step: int, **_: Any) -> None:
    """Let something happen to one rank when it begins a step.

    Args:
        kind: `kill`, `term` (a SIGTERM), `fault` (an exception of ours), `disk` (a UserError), `hang`, or `nan` (a
            loss that is not finite).
        rank, step: where and when.
    """
    if int(os.environ["RANK"]) != rank:
        return
    from codeshell.train.loop import Trainer

    gradient = Trainer._gradient

    def happens(self: Trainer, *arguments: Any) -> float:
        if self.state.step + 1 == step:
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            elif kind == "fault":
                raise ZeroDivisionError("a fault of ours")
            elif kind == "disk":
                raise UserError("log.jsonl: the disk is full; free some space")
            elif kind == "nan":
                return gradient(self, *arguments) * float("nan")
            else:
                time.sleep(1000)
        return gradient(self, *arguments)

    Trainer._gradient = happens  # type: ignore[method-assign]


def other_recipe(rank: int, setting: str) -> None:
    """Let one rank read another recipe, as if its machine had a file of its own."""
    if int(os.environ["RANK"]) == rank:
        from codeshell import recipe

        load = recipe.load
        recipe.load = lambda path, overrides: load(path, [*overrides, setting])
