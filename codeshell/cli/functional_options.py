"""What `codeshell eval TASK` and `codeshell eval generate` share: the options of models and of functional tasks."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codeshell.cli import judging_options
from codeshell.cli.weights import add_weights_option

if TYPE_CHECKING:
    from codeshell.evaluate.corpus import Corpus
    from codeshell.evaluate.execution import Execution
    from codeshell.evaluate.subject import Subject
    from codeshell.evaluate.task import Task
    from codeshell.recipe import Evaluate, Recipe


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN or --model, and how the model is asked."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="directory of a run")
    parser.add_argument(
        "-m",
        "--model",
        metavar="MODEL",
        help="a saved model with its tokenizer; for functional tasks also a model of transformers, or OWNER/NAME of "
        "the hub",
    )
    parser.add_argument("--tokenizer", metavar="PATH", help="a tokenizer other than that of the model directory")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a window (default: n_positions)")
    parser.add_argument(
        "--after-eot",
        action="store_true",
        help="put <|endoftext|> before every document, for models trained on documents that see one another",
    )
    add_weights_option(parser)
    parser.add_argument("--seed", type=int, metavar="N", help="chooses the samples (default: the run's seed, or 0)")


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """What a functional task asks, and how often."""
    group = parser.add_argument_group("functional tasks")
    group.add_argument("-n", "--samples", type=int, metavar="N", help="completions of each problem (default: 1)")
    group.add_argument(
        "--temperature", type=float, metavar="T", help="default: 0 (the most likely token) for one sample, else 0.2"
    )
    group.add_argument("--top-p", type=float, metavar="P", help="default: 0.95 where the temperature is above 0")
    group.add_argument("--limit", type=int, metavar="N", help="the first N problems only")
    group.add_argument(
        "--data",
        default="",
        metavar="PATH",
        help="the problem set, or the folder that holds it (default: $CODESHELL_PROBLEMS, then the hub)",
    )


def execution(args: argparse.Namespace) -> Execution:
    """The settings of functional tasks. What the options leave open is the recipe's of the run, then the task's."""
    from codeshell.errors import UserError
    from codeshell.evaluate.execution import Execution

    if args.samples is not None and args.samples < 1:
        raise UserError(f"-n {args.samples}: give 1 completion of each problem or more")
    # `codeshell.model` says the same, and takes seconds to import.
    if args.temperature is not None and not 0 <= args.temperature < math.inf:
        raise UserError(f"--temperature {args.temperature}: give 0 (the most likely token) or more, for example 0.2")
    if args.top_p is not None and not 0 < args.top_p <= 1:
        raise UserError(f"--top-p {args.top_p}: give more than 0 and at most 1 (all tokens)")
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: give 1 problem or more")
    journal = getattr(args, "journal", None)
    given = Execution(
        args.samples,
        args.temperature,
        args.top_p,
        args.limit,
        args.data,
        level=getattr(args, "level", None),
        unsafe=getattr(args, "unsafe", False),
        workers=getattr(args, "workers", None),
        toolchains=judging_options.toolchains(args) if hasattr(args, "toolchain") else {},
        journal=Path(journal) if journal else None,
    )
    return given.over(_settings(_recipe(_run(args)).evaluate, getattr(args, "set", [])))


def subject(args: argparse.Namespace, tasks: Sequence[Task]) -> Subject:
    """Find model, tokenizer, documents and settings, from a run, from the options, or from both.

    Documents are looked for only where a task asks about them.
    """
    from codeshell.engine import hub
    from codeshell.engine.downloads import check_model_directory
    from codeshell.errors import UserError
    from codeshell.evaluate import models

    # What the arguments name is looked at before anything heavy is imported or read.
    documents = any(task.needs_documents for task in tasks)
    run = _run(args)
    if run is None and not (args.model and (getattr(args, "corpus", None) or not documents)):
        more = " and --corpus FILES" if documents else ""
        raise UserError(f"eval: nothing to evaluate; give a run directory, or -m MODEL{more}")
    where = args.model or str(Path(str(run)) / "model")
    if documents or not hub.on_hub(where):
        check_model_directory(where)
    if args.context is not None and args.context < 1:
        raise UserError(f"--context {args.context}: give 1 token or more")
    recipe = _recipe(run)
    seed = recipe.seed if args.seed is None else args.seed
    held_out, train = _corpora(args, run, seed, documents)
    settings = _settings(recipe.evaluate, getattr(args, "set", []))
    how = execution(args)

    from codeshell.evaluate.subject import Subject, longest_context, phase_ends, start_of
    from codeshell.model.infill import order_of

    loaded = models.load(where, args.tokenizer, ours=documents, weights=args.weights)
    if args.context is not None and args.context > loaded.context:
        raise UserError(f"--context {args.context}: the model has {loaded.context} positions; give that or fewer")
    trained = loaded.context if run is None else min(loaded.context, longest_context(recipe.train))
    return Subject(
        loaded.model,
        loaded.tokenizer,
        held_out,
        train,
        settings,
        seed=seed,
        context=args.context or trained,
        start="eot" if args.after_eot else "none" if run is None else start_of(recipe.train),
        order="psm" if run is None else order_of(recipe.train),
        phase_ends=[] if run is None or args.model else phase_ends(recipe.train, run),
        before=loaded.before,
        execution=how,
        origin=loaded.origin,
        weights=args.weights,
    )


def _run(args: argparse.Namespace) -> Path | None:
    """The directory of the run, if there is one."""
    from codeshell.engine import hub
    from codeshell.errors import UserError

    if not args.run:
        return None
    if not Path(args.run).is_dir():
        hint = f"; a model is given by -m {args.run}" if hub.on_hub(args.run) else ""
        raise UserError(f"{args.run}: no such run directory; give one that `codeshell run` has made{hint}")
    return Path(args.run)


def _corpora(args: argparse.Namespace, run: Path | None, seed: int, documents: bool) -> tuple[Corpus, Corpus | None]:
    """The held-out documents, and those that the baselines learn from."""
    from codeshell.errors import UserError
    from codeshell.evaluate.corpus import Corpus, find_parquet, split_paths

    if not documents:
        return Corpus([]), None
    # Documents of the command line replace the run's; the run's training split is no baseline for them.
    held_out = Corpus(find_parquet(args.corpus) if args.corpus else split_paths(Path(str(run)), "test", seed=seed))
    if not len(held_out):
        where = ", ".join(args.corpus) if args.corpus else f"{run}/curated"
        raise UserError(f"{where}: no held-out documents; give some with --corpus")
    if args.train:
        return held_out, Corpus(find_parquet(args.train))
    if run is not None and not args.corpus:
        return held_out, Corpus(split_paths(run, "train", seed=seed))
    return held_out, None


def _recipe(run: Path | None) -> Recipe:
    from codeshell import recipe
    from codeshell.errors import UserError

    if run is None:
        return recipe.Recipe()
    path = run / "recipe.toml"
    if not path.is_file():
        raise UserError(f"{path}: not there, so the run's settings are unknown; give -m and --corpus instead")
    return recipe.load(path)


def _settings(settings: Evaluate, changes: list[str]) -> Evaluate:
    """Apply `--set key=value` to the section, through the recipe's own checks."""
    import tomllib

    from codeshell import recipe
    from codeshell.errors import UserError

    tree = recipe.to_tree(settings)
    for change in changes:
        key, equals, text = change.partition("=")
        try:
            tree[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            equals = ""
        if not equals:
            raise UserError(f"--set {change}: write key=value, for example max_bytes=500000")
    return recipe.from_tree({"evaluate": tree}, "--set").evaluate
