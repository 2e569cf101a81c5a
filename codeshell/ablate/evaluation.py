"""The evaluation of one checkpoint: the recipe's tasks on every held-out set, the same questions for every training.

The questions, and what is drawn to answer them, are hashed from the recipe's seed and not from that of the training.
Bits per byte are kept file by file, so that the difference of two arms can be resampled over files. The baselines of
the evaluation of a run (byte model, untrained model, xz) are left out: arms are compared with one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codeshell.engine.files import make_directory
from codeshell.errors import UserError
from codeshell.evaluate.corpus import Corpus
from codeshell.evaluate.execution import Execution
from codeshell.evaluate.measure import measure
from codeshell.evaluate.models import fingerprint, load_model
from codeshell.evaluate.subject import Subject, longest_context, start_of
from codeshell.evaluate.task import Measured, NotRunError, Task
from codeshell.evaluate.tasks import code_of, get_task
from codeshell.recipe import Recipe
from codeshell.tokenizer import Tokenizer

OWN = "own"
"""Where the results of tasks stand that bring their own problems, in place of a held-out set's name."""


class Bits(Task):
    """Bits per byte, file by file: `{"bits": [float], "bytes": [int], "tokens": int}` of the files that the tokenizer
    gives back unchanged. The sample and the windows are those of the package's task `bits_per_byte`."""

    name = "bits_per_byte"
    keeps_samples = False

    def measure(self, subject: Subject) -> Measured:
        chosen = subject.held_out.choose(subject.seed, "bits per byte", max_bytes=subject.settings.max_bytes)
        ids = subject.tokenizer.encode_batch([document.text for document in chosen])
        kept = [
            (document.data, tokens)
            for document, tokens in zip(chosen, ids, strict=True)
            if subject.tokenizer.decode_bytes(tokens) == document.data
        ]
        if not kept:
            raise NotRunError("no held-out file that fits max_bytes and survives the tokenizer")
        stride = max(1, subject.context * 3 // 4)
        nats = subject.score([tokens for _, tokens in kept], stride=stride, title="evaluate: bits per byte")
        return Measured(
            {
                # The last entry of a file is its end of text, which is no byte.
                "bits": [round(float(values[:-1].sum()) / math.log(2), 3) for values in nats],
                "bytes": [len(data) for data, _ in kept],
                "tokens": sum(len(tokens) for _, tokens in kept),
            }
        )


@dataclass(frozen=True)
class Checkpoint(Subject):
    """The model of one checkpoint, without a twin before training."""

    @property
    def untrained(self) -> None:
        """None: arms are compared with one another."""
        return None


class Evaluation:
    """What every checkpoint is asked; the held-out documents are indexed once.

    Args:
        recipe: that of the ablation: its `seed` and `evaluate`.
        held_out: the files of each held-out set by name.
        tokenizer: that of all arms.
    """

    def __init__(self, recipe: Recipe, held_out: dict[str, list[Path]], tokenizer: Tokenizer) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.sets = {name: Corpus(paths) for name, paths in held_out.items()}
        for name, corpus in self.sets.items():
            if not len(corpus):
                raise UserError(f"held-out set {name}: no documents; raise split.test, or name other inputs")
        self.tasks = [
            (Bits() if name == "bits_per_byte" else get_task(name), code_of(name)) for name in recipe.evaluate.tasks
        ]

    def measure(self, checkpoint: Path, kept: Path, name: str, *, generate: bool) -> dict[str, Any]:
        """The statistics of one checkpoint: `{"sets": {set: {task: statistics}}, "not_run": {task: reason}}`.

        Args:
            checkpoint: a directory with a model.
            kept: where each task's results are kept as soon as it is done.
            name: of the model, for the records of programs that were run.
            generate: do the tasks that ask the model to write, too.
        """
        recipe = self.recipe
        before = torch.get_num_threads()
        if recipe.train.threads:
            torch.set_num_threads(recipe.train.threads)
        try:
            model = load_model(checkpoint)
            origin = {"name": name, "hash": fingerprint(checkpoint)}

            def subject(corpus: Corpus, home: Path) -> Checkpoint:
                return Checkpoint(
                    model=model,
                    tokenizer=self.tokenizer,
                    held_out=corpus,
                    train=None,
                    settings=recipe.evaluate,
                    seed=recipe.seed,
                    context=longest_context(recipe.train),
                    start=start_of(recipe.train),
                    execution=Execution(journal=home).over(recipe.evaluate),
                    origin=origin,
                )

            sets: dict[str, dict[str, Any]] = {}
            not_run: dict[str, str] = {}
            about = [(set_name, corpus, True) for set_name, corpus in self.sets.items()]
            for set_name, corpus, documents in [*about, (OWN, Corpus([]), False)]:
                tasks = [
                    (task, code)
                    for task, code in self.tasks
                    if task.needs_documents == documents and (generate or isinstance(task, Bits))
                ]
                if not tasks:
                    continue
                home = make_directory(kept / set_name)
                outcome = measure([task for task, _ in tasks], subject(corpus, home), home, [code for _, code in tasks])
                sets[set_name] = {task: measured.result for task, measured in outcome.measured.items()}
                not_run |= {f"{task} on {set_name}": reason for task, reason in outcome.not_run.items()}
            return {"sets": sets, "not_run": not_run}
        finally:
            torch.set_num_threads(before)


def _bits(result: dict[str, Any]) -> float | None:
    size = sum(result["bytes"])
    return sum(result["bits"]) / size if size else None


def _at(*keys: str) -> Callable[[dict[str, Any]], float | None]:
    """The reader of one number of a task's statistics; None where there is none."""

    def read(result: dict[str, Any]) -> float | None:
        node: Any = result
        for key in keys:
            if not isinstance(node, dict) or node.get(key) is None:
                return None
            node = node[key]
        return float(node)

    return read


@dataclass(frozen=True)
class Metric:
    """One number of a task's statistics."""

    task: str
    name: str
    title: str
    read: Callable[[dict[str, Any]], float | None]
    share: bool = True
    """A share of problems, of which more is better; else bits, of which fewer are."""


METRICS = (
    Metric("bits_per_byte", "bits_per_byte", "Bits per byte", _bits, share=False),
    Metric("infill", "infill", "Masked lines filled in exactly", _at("groups", "all", "exact_match", "share")),
    Metric(
        *("infill", "infill_first_line", "Masked lines, first line of the answer exact"),
        _at("groups", "all", "exact_match_first_line", "share"),
    ),
    Metric("functions", "functions", "Functions that parse", _at("systems", "model", "parses", "share")),
)
"""What is read of the package's tasks; of every other task its share of the problems that are solved."""


def metrics_of(task: str) -> Sequence[Metric]:
    """The numbers that are read of a task."""
    known = [metric for metric in METRICS if metric.task == task]
    if known:
        return known

    def solved(result: dict[str, Any]) -> float | None:
        # A functional task has pass@1, and a task of one's own the default statistics of `Task.summary`.
        found = _at("pass_at", "1", "value")(result)
        return found if found is not None else _at("systems", "model", "share")(result)

    return [Metric(task, task, f"{task}: problems solved", solved)]


def numbers(measured: dict[str, Any]) -> dict[str, float]:
    """What `Evaluation.measure` gave, as `{"SET/METRIC": value}`."""
    found = {}
    for set_name, tasks in measured["sets"].items():
        for task, result in tasks.items():
            for metric in metrics_of(task):
                value = metric.read(result)
                if value is not None:
                    found[f"{set_name}/{metric.name}"] = round(value, 6)
    return found
