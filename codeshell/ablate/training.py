"""One arm with one seed: its documents, its training, its evaluations, its result. What is done is not done again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from codeshell import pipeline
from codeshell.ablate import plan
from codeshell.ablate.evaluation import Evaluation, numbers
from codeshell.ablate.plan import Training
from codeshell.ablate.selection import Pool, select
from codeshell.engine import Engine
from codeshell.engine.files import make_directory, read_json, write_json
from codeshell.errors import UserError, say
from codeshell.recipe import Recipe, describe
from codeshell.train.manifest import step_directory


def accept(recipe: Recipe, directory: Path, training: Training, shared: dict[str, str]) -> dict[str, Any] | None:
    """The result of a training that is done with these settings; None where it is still to be done.

    Raises:
        UserError: it was begun with other settings.
    """
    home = directory / training.home
    record = plan.record(recipe, training, shared)
    if (home / "settings.json").exists():
        was = read_json(home / "settings.json")
        differ = plan.differing(was, record)
        if differ:
            raise UserError(
                f"{home}: made with other settings ({describe(differ[:3], was, record)}); delete "
                f"{directory / 'arms'} to train again, or choose another output directory"
            )
    if not (home / "result.json").exists():
        return None
    found: dict[str, Any] = read_json(home / "result.json")
    return found


def run(
    recipe: Recipe,
    directory: Path,
    training: Training,
    shared: dict[str, str],
    pool: Pool,
    evaluation: Evaluation,
    engine: Engine,
) -> dict[str, Any]:
    """Select, train and evaluate; a killed training resumes from its last checkpoint.

    Returns:
        What `result.json` holds: `arm`, `seed`, `selection`, `train` (statistics), `points`: `[{step, tokens, values
        {"SET/METRIC": value}, not_run}]`.
    """
    home = make_directory(directory / training.home)
    write_json(home / "settings.json", plan.record(recipe, training, shared))
    selection = select(recipe, training, pool, home, engine)
    # The stage reads a run's directory; the one tokenizer is linked, so that a moved ablation stays whole.
    link = home / "tokenizer"
    if not link.is_symlink():
        link.symlink_to(Path("../../../shared/tokenizer"), target_is_directory=True)
    settings = plan.training_recipe(recipe, training)
    if not (home / "train" / "stats.json").exists():
        before = torch.get_num_threads()
        try:
            pipeline.train(settings, home)
        finally:
            torch.set_num_threads(before)
    stats = read_json(home / "train" / "stats.json")
    found = []
    steps = plan.points(recipe)
    for number, step in enumerate(steps):
        checkpoint = step_directory(home / "train" / "checkpoints", step)
        if not checkpoint.is_dir():
            raise UserError(f"{checkpoint}: no such checkpoint to evaluate; delete {home} and run again")
        kept = home / "points" / f"step-{step}"
        name = f"{training.arm}, seed {training.seed}, step {step}"
        generate = (len(steps) - 1 - number) % recipe.ablate.generate_every == 0
        measured = evaluation.measure(checkpoint, kept, name, generate=generate)
        values = numbers(measured)
        found.append(
            {
                "step": step,
                "tokens": step * recipe.train.batch_tokens,
                "values": values,
                "not_run": measured["not_run"],
                "files": {
                    held_out: {key: tasks["bits_per_byte"][key] for key in ("bits", "bytes")}
                    for held_out, tasks in measured["sets"].items()
                    if "bits_per_byte" in tasks
                },
            }
        )
        say(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in values.items()))
    result = {"arm": training.arm, "seed": training.seed, "selection": selection, "train": stats, "points": found}
    write_json(home / "result.json", result)
    # What only resuming needs; the model of the end stays in model/.
    shutil.rmtree(home / "train" / "checkpoints", ignore_errors=True)
    return result
