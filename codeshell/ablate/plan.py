"""What an ablation compares: its arms and seeds, what cannot be compared, and what each training is made of."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from codeshell.engine.stages import STAGES
from codeshell.errors import UserError
from codeshell.evaluate.tasks import get_task
from codeshell.pipeline import stage_settings
from codeshell.recipe import Recipe, Select, arms, flatten, to_tree

UNFILTERED = "unfiltered"
"""The held-out set that is the corpus' own test split."""

TOGETHER = {
    "budget": "ablate.tokens is the budget of every arm",
    "language_weights": "every arm has the languages in the proportions of the corpus",
    "library_cap": "the cap looks at all documents of a corpus, and an arm takes only some",
}
"""Keys of `[select]` that an arm does not take, each with the reason."""


@dataclass(frozen=True)
class Training:
    """One arm with one seed."""

    arm: str
    seed: int

    @property
    def home(self) -> Path:
        """Its directory below that of the ablation."""
        return Path("arms") / self.arm / f"seed-{self.seed}"


def trainings(recipe: Recipe) -> list[Training]:
    """All trainings in the order in which they are done: seed by seed, so that what is done early can be compared."""
    first = recipe.seed + 1
    return [Training(arm, seed) for seed in range(first, first + recipe.ablate.seeds) for arm in recipe.ablate.arms]


def points(recipe: Recipe) -> list[int]:
    """The steps after which a model is evaluated, ascending; the last is that of the end."""
    each = recipe.train.steps // recipe.ablate.points
    return [each * number for number in range(1, recipe.ablate.points + 1)]


def budget(recipe: Recipe) -> int:
    """Different tokens of each arm."""
    return recipe.ablate.tokens or recipe.train.steps * recipe.train.batch_tokens


def shared_recipe(recipe: Recipe) -> Recipe:
    """The settings of the stages that all arms share: no document goes by its scores, none is for validation."""
    split = msgspec.structs.replace(recipe.split, valid=0.0)
    return msgspec.structs.replace(recipe, select=Select(), split=split, name=f"{recipe.name}, shared")


def arm_recipe(recipe: Recipe, arm: str) -> Recipe:
    """The recipe with one arm's selection in place of its own."""
    return msgspec.structs.replace(recipe, select=arms(recipe)[arm])


def training_recipe(recipe: Recipe, training: Training) -> Recipe:
    """The settings of one training. Every checkpoint stays until the points are evaluated: one that an interruption
    makes must not push out that of a point."""
    train = msgspec.structs.replace(
        recipe.train,
        checkpoint_every=points(recipe)[0],
        keep_checkpoints=recipe.train.steps,
        valid_every=0,
        tensorboard=False,
    )
    name = f"{recipe.name}, {training.arm}, seed {training.seed}"
    return msgspec.structs.replace(arm_recipe(recipe, training.arm), seed=training.seed, train=train, name=name)


def record(recipe: Recipe, training: Training, shared: dict[str, str]) -> dict[str, Any]:
    """What decides a training's result, as `{setting: value}`.

    Args:
        shared: keys of what all trainings read: the tokens and the held-out sets.
    """
    tree = to_tree(arm_recipe(recipe, training.arm))
    sections = {name: tree[name] for name in ("select", "model", "train", "evaluate")}
    settings = {**flatten(sections), "seed": training.seed, "evaluation's seed": recipe.seed}
    # Rules and tasks of one's own count with their code; scorers do in the shared stages.
    select = next(stage for stage in STAGES if stage.name == "select")
    evaluate = next(stage for stage in STAGES if stage.name == "evaluate")
    for stage in (select, evaluate):
        own = stage_settings(arm_recipe(recipe, training.arm), stage)
        settings |= {key: value for key, value in own.items() if key.startswith("code of ")}
    settings |= {"ablate.tokens": budget(recipe), "ablate.points": recipe.ablate.points}
    settings["ablate.generate_every"] = recipe.ablate.generate_every
    return settings | {f"shared {name}": key for name, key in shared.items()}


def differing(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings in which two records differ, sorted. One that an earlier version did not know has its default.

    Every setting counts, also those that a run resumes with: arms must be alike.
    """
    defaults = flatten(to_tree(Recipe()))
    return sorted(key for key in was | now if was.get(key, defaults.get(key)) != now.get(key, defaults.get(key)))


def digest(value: Any) -> str:
    """A hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check(recipe: Recipe) -> None:
    """Find what cannot be compared before anything is done.

    Raises:
        UserError: no arms, a baseline that is none of them, a name that is no folder's, a key of `[select]` that arms
            do not take, steps that the points do not divide, a task that needs a whole run, no held-out set.
    """
    ablate, found = recipe.ablate, arms(recipe)
    if len(found) < 2:
        raise UserError(
            f"ablate.arms: {len(found)} arms, and a comparison needs two; name them as recipes/ablation.toml does, "
            "[ablate.arms.random] and [ablate.arms.NAME]"
        )
    if ablate.baseline not in found:
        raise UserError(f"ablate.baseline: no arm {ablate.baseline!r}; there are {', '.join(found)}")
    for kind, names in (("arms", list(found)), ("held_out", list(ablate.held_out))):
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name, re.ASCII):
                raise UserError(f"ablate.{kind}: the name {name!r} makes no folder; use letters, digits, _ and -")
    if UNFILTERED in ablate.held_out:
        raise UserError(f"ablate.held_out: {UNFILTERED!r} is the corpus' own test split; choose another name")
    for name, inputs in ablate.held_out.items():
        if not inputs or "" in inputs:
            raise UserError(f"ablate.held_out.{name}: names nothing to read; give paths, or leave it out")
    if not ablate.held_out and not recipe.split.test:
        raise UserError("split.test is 0 and ablate.held_out is empty, so nothing is held out; set one of them")
    for name, select in found.items():
        for key, reason in TOGETHER.items():
            if getattr(select, key):
                raise UserError(f"ablate.arms.{name}.{key}: {reason}; leave it out")
    if recipe.select != Select():
        raise UserError("select: each arm has a selection of its own; move its keys to [ablate.arms.NAME]")
    if recipe.train.steps % ablate.points:
        raise UserError(
            f"train.steps {recipe.train.steps} is not a multiple of ablate.points {ablate.points}, the evaluations "
            "that lie evenly over them; change one"
        )
    if not recipe.evaluate.tasks:
        raise UserError("evaluate.tasks: empty, so nothing would be compared; name tasks")
    for task in recipe.evaluate.tasks:
        if get_task(task).needs_run:
            raise UserError(f"evaluate.tasks: {task} is about one whole run; leave it out of an ablation")
