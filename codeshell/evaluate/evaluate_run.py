"""The evaluation stage of a run: every task once, each kept when it is done, so that a killed run resumes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from codeshell.engine import Engine, hub
from codeshell.engine.files import make_directory, write_json
from codeshell.errors import UserError
from codeshell.evaluate import functional
from codeshell.evaluate.corpus import Corpus, split_paths
from codeshell.evaluate.execution import Execution
from codeshell.evaluate.functional import FunctionalTask
from codeshell.evaluate.measure import Outcome, measure
from codeshell.evaluate.models import fingerprint, is_codeshell, load_any
from codeshell.evaluate.prompts import NotRunError
from codeshell.evaluate.subject import Subject, longest_context, phase_ends, start_of
from codeshell.evaluate.task import Task
from codeshell.evaluate.tasks import code_of, get_task, in_package
from codeshell.model.infill import order_of
from codeshell.recipe import Evaluate, Recipe, to_tree

SPLIT = "test"


def run(recipe: Recipe, directory: Path, engine: Engine, names: Sequence[str]) -> dict[str, Any]:
    """Evaluate the run in `directory`; see `codeshell.evaluate` for what is written and returned.

    The engine is not used: one model on one device does the work, and its threads are the recipe's `train.threads`,
    so the worker count cannot change a number.

    Raises:
        UserError: the run has no model or no tokenizer yet, a name is that of no task, or two tasks have one name.
    """
    # Names are checked before anything heavy is loaded.
    codes = [code_of(name) for name in names]
    tasks = [get_task(name) for name in names]
    # A name is the key of the statistics and of what is kept, so a second task would be given the first one's numbers.
    for name, count in Counter(task.name for task in tasks).items():
        if count > 1:
            raise UserError(f"task {name}: {count} tasks have this name; give each class a `name` of its own")
    output = make_directory(directory / "evaluate")
    for needed in ("model", "tokenizer"):
        if not (directory / needed).is_dir():
            raise UserError(f"{directory / needed}: not there; run the stages before evaluate first")
    held_out = Corpus(split_paths(directory, SPLIT, seed=recipe.seed))
    # What cannot run here is known before a model is loaded; if nothing else is left, none is.
    execution = _execution(recipe.evaluate, output)
    lacking = {task.name: why for task in tasks if (why := _lacks(task, held_out, execution))}
    able = [(task, code) for task, code in zip(tasks, codes, strict=True) if task.name not in lacking]
    outcome = Outcome(tasks)
    if able:
        # The number of threads decides the rounding on a CPU, so it is the recipe's; afterwards it is as it was.
        before = torch.get_num_threads()
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        try:
            subject = _subject(recipe, directory, held_out, execution)
            # What was done with other settings is done again; that a task is named or not changes no other one.
            settings = _settings(recipe)
            outcome = measure([task for task, _ in able], subject, output, [code + settings for _, code in able])
            outcome.tasks = tasks
        finally:
            torch.set_num_threads(before)
    # In the order of the tasks, whoever found that one cannot run.
    lacking |= outcome.not_run
    outcome.not_run = {task.name: lacking[task.name] for task in tasks if task.name in lacking}
    _write(outcome, output)
    facts = {
        "split": SPLIT,
        "shards": len(held_out.paths),
        "documents": len(held_out),
        "bytes": held_out.total_bytes,
    }
    failure = {"failure": outcome.not_finite} if outcome.not_finite else {}
    return {"held_out": facts, **outcome.statistics(), **_sections(outcome), **failure}


def _settings(recipe: Recipe) -> str:
    """A text that changes with what the tasks read of the recipe."""
    own = {key: value for key, value in to_tree(recipe.evaluate).items() if key != "tasks"}
    text = json.dumps([recipe.seed, own], sort_keys=True)
    return f" settings {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _execution(settings: Evaluate, output: Path) -> Execution:
    """How the functional tasks of a run do their work; verdicts are kept with its other files."""
    return Execution(journal=output).over(settings)


def _lacks(task: Task, held_out: Corpus, execution: Execution) -> str:
    """Why a task cannot run here: no documents, no problems, no isolation, no toolchain. Empty if it can."""
    if task.needs_documents:
        return "" if len(held_out) else "no held-out files: the test split is empty"
    if not isinstance(task, FunctionalTask):
        return ""
    try:
        task.settings(execution)
        task.load(execution.data)
        functional.require_judge(execution, task.language, task.style)
    except (UserError, NotRunError) as reason:
        return str(reason)
    return ""


def _subject(recipe: Recipe, directory: Path, held_out: Corpus, execution: Execution) -> Subject:
    from codeshell.tokenizer import Tokenizer

    # A run of documents that were all held out has no training split, and then no baselines that learn from it.
    train = Corpus(split_paths(directory, "train", seed=recipe.seed))
    tuned = recipe.finetune
    # The checkpoints of LoRA and of other architectures are no models of codeshell, which alone are read.
    base = hub.model_directory(tuned.base) if tuned.base else None
    whole = base is None or (tuned.method == "full" and is_codeshell(directory / "model"))
    return Subject(
        load_any(directory / "model"),
        Tokenizer.load(directory / "tokenizer"),
        held_out,
        train if len(train) else None,
        recipe.evaluate,
        seed=recipe.seed,
        context=longest_context(recipe.train),
        start=start_of(recipe.train),
        order=order_of(recipe.train),
        phase_ends=phase_ends(recipe.train, directory) if whole and not tuned.epochs else [],
        base=base,
        execution=execution,
        origin={"name": recipe.name, "hash": fingerprint(directory / "model")},
    )


def _write(outcome: Outcome, output: Path) -> None:
    """Samples of all tasks in one file, and long statistics in one file for each task that has them."""
    samples: dict[str, Any] = {}
    for task in outcome.tasks:
        # The files exist for a task that has not run too: null and an empty list say so.
        measured = outcome.measured.get(task.name)
        if task.keeps_details:
            write_json(output / f"{task.name}.json", None if measured is None else measured.result)
        if task.keeps_samples:
            kept = (measured and measured.samples) or []
            samples[task.name] = kept if _of_the_package(task) else _shown(task, kept)
    write_json(output / "samples.json", samples)


def _sections(outcome: Outcome) -> dict[str, Any]:
    """The report's sections of tasks that are not the package's: the page is drawn without their code."""
    # The package's tasks draw theirs anew from the statistics, so that an old run gains what a new version shows.
    own = {
        task.name: msgspec.to_builtins(task.section(outcome.measured[task.name].result))
        for task in outcome.tasks
        if task.name in outcome.measured and not _of_the_package(task)
    }
    return {"sections": own} if own else {}


def _shown(task: Task, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(task.show(sample)) for sample in samples]


def _of_the_package(task: Task) -> bool:
    return in_package(task.name)
