"""The whole ablation in its order: check, shared stages, then every training, and the page after each of them.

Trainings are done seed by seed. So an ablation that is stopped has compared all arms with fewer seeds, and its page
says how many. Run again, it continues where it was: the shared stages by their keys (`codeshell.pipeline`), a training
by its last checkpoint, an evaluation by the tasks that are done.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from codeshell.ablate import plan, pool, selection, training
from codeshell.ablate.evaluation import Evaluation
from codeshell.ablate.summary import summarise
from codeshell.engine import LocalEngine
from codeshell.engine.arrow import leave_out_pandas
from codeshell.engine.files import lock, make_directory, read_json, write_json, write_text
from codeshell.environment import environment
from codeshell.errors import UserError, say
from codeshell.recipe import Recipe, changed, describe, flatten, load, to_toml, to_tree
from codeshell.report import ablation as page
from codeshell.tokenizer import Tokenizer
from codeshell.train.launch import refuse_several

SHARED = ("seed", "collect", "score", "rules", "near_dedup", "split", "tokenizer")
"""Sections of the recipe that the shared stages read."""

FORMAT = 1
"""Version of `ablation.json`."""


def run(recipe: Recipe, directory: Path, *, workers: int = 0) -> None:
    """Do what is not done yet of an ablation, and write `ablation.json`, `.svg` and `.html` below `directory`.

    Args:
        recipe: with a section `[ablate]`.
        directory: its own; made if it is not there.
        workers: processes of the shared stages; 0 means every core.

    Raises:
        UserError: bad settings or input, other settings than those of the trainings that are there, a directory in use.
    """
    refuse_several("codeshell ablate")
    plan.check(recipe)
    selection.check(recipe)
    named = [*recipe.collect.inputs, *(path for paths in recipe.ablate.held_out.values() for path in paths)]
    if any(os.path.realpath(text) == os.path.realpath(directory) for text in named):
        raise UserError(f"{directory}: both an input and the output; choose another output directory with -o")
    make_directory(directory)
    with lock(directory):
        leave_out_pandas()
        _same_corpus(recipe, directory)
        shared = pool.prepare(recipe, directory, workers)
        todo = plan.trainings(recipe)
        # All of them, before one is done: a setting that changed must not be found after hours.
        done = {one: training.accept(recipe, directory, one, shared) for one in todo}
        write_text(directory / "recipe.toml", to_toml(recipe))
        found = pool.held_out_sets(recipe, directory)
        corpus = selection.Pool.of(directory / "shared")
        evaluation = Evaluation(recipe, found, Tokenizer.load(directory / "shared" / "tokenizer"))
        with LocalEngine(1) as engine:
            for number, one in enumerate(todo, start=1):
                if done[one] is None:
                    say(f"ablate: training {number} of {len(todo)}: {one.arm}, seed {one.seed}")
                    done[one] = training.run(recipe, directory, one, shared, corpus, evaluation, engine)
                    _write(recipe, directory, [result for result in done.values() if result is not None])
        _write(recipe, directory, [result for result in done.values() if result is not None])
    say(f"ablate: {len(todo)} trainings; {directory / 'ablation.html'}")


def _same_corpus(recipe: Recipe, directory: Path) -> None:
    """Refuse another corpus for trainings that are there, before the shared stages are done again for it."""
    recorded = directory / "recipe.toml"
    if not recorded.exists() or not any((directory / "arms").glob("*/*/settings.json")):
        return
    was, now = (flatten(to_tree(one)) for one in (load(recorded), recipe))
    keys = [key for key in changed(was, now) if key.partition(".")[0] in SHARED]
    if keys:
        raise UserError(
            f"{directory}: {describe(keys, was, now)}; its arms were made of another corpus, so choose another output "
            "directory, or delete this one"
        )


def _write(recipe: Recipe, directory: Path, results: list[dict[str, Any]]) -> None:
    """`ablation.json`, `ablation.svg` and `ablation.html` of the trainings that are done."""
    summary = gather(recipe, directory, results)
    write_json(directory / "ablation.json", summary)
    write_text(directory / "ablation.svg", page.figure(summary))
    write_text(directory / "ablation.html", page.render(summary))


def gather(recipe: Recipe, directory: Path, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of `ablation.json`: the setting, the selections, the curves and the differences."""
    shared = directory / "shared"
    tokens = read_json(shared / "tokens" / "stats.json")
    held_out = {
        name: read_json(directory / "held-out" / name / "held-out.json") | {"key": None}
        for name in recipe.ablate.held_out
    }
    if recipe.split.test:
        held_out[plan.UNFILTERED] = read_json(shared / "curated" / "stats.json")["splits"]["test"]
    tree = to_tree(recipe)
    return {
        "format": FORMAT,
        "name": recipe.name,
        "environment": environment(1) | {"command": "codeshell ablate"},
        "settings": {name: tree[name] for name in ("seed", "rules", "model", "train", "evaluate", "ablate")},
        "inputs": tree["collect"]["inputs"],
        "tokens": plan.budget(recipe),
        "trained_tokens": recipe.train.steps * recipe.train.batch_tokens,
        "trainings": {"done": len(results), "planned": len(plan.trainings(recipe))},
        "parameters": results[0]["train"]["parameters"] if results else None,
        "corpus": {name: tokens["train"][name] for name in ("documents", "tokens", "bytes")},
        "held_out": {
            name: {key: value for key, value in one.items() if value is not None} for name, one in held_out.items()
        },
        "baseline": recipe.ablate.baseline,
        "selections": {f"{result['arm']}, seed {result['seed']}": result["selection"] for result in results},
        "not_run": sorted(
            {
                f"{task}: {reason}"
                for result in results
                for point in result["points"]
                for task, reason in point["not_run"].items()
            }
        ),
        **summarise(results, recipe.ablate.baseline, recipe.seed),
    }
