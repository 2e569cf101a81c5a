"""`codeshell eval`: the evaluation tasks, the package's or one's own, on any saved model and any documents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codeshell.evaluate.subject import Subject
    from codeshell.recipe import Evaluate, Recipe

HELP = "measure a model on held-out documents: bits per byte, infilling, functions, or a task of your own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from codeshell.evaluate.tasks import ALIASES, TASKS

    short = {name: alias for alias, name in ALIASES.items()}
    parser.epilog = (
        f"tasks: {', '.join(f'{name} ({short[name]})' if name in short else name for name in TASKS)}\n"
        "  all does each of them that needs no more than a model and documents.\n"
        "  FILE.py:NAME is a task of your own; examples/own_task.py is one.\n"
        "examples:\n"
        "  codeshell eval all runs/demo\n"
        "  codeshell eval bpb -m runs/demo/model --corpus documents.parquet --json bpb.json\n"
        "  codeshell eval examples/own_task.py:Imports runs/demo\n"
        "A run directory gives the model, its held-out and training documents and the recipe's settings. With\n"
        "--corpus any Parquet with a text column is read; --train adds the baselines that need training text.\n"
        "Sample sizes: --set max_bytes=500000, infill_lines, functions, max_new_tokens."
    )
    parser.add_argument("task", metavar="TASK", help="what to measure: the name of a task, all, or FILE.py:NAME")
    parser.add_argument("run", nargs="?", metavar="RUN", help="directory of a run")
    parser.add_argument("-m", "--model", metavar="DIR", help="a saved model; its tokenizer lies beside it")
    parser.add_argument("--tokenizer", metavar="PATH", help="a tokenizer other than that of the model directory")
    parser.add_argument("--corpus", nargs="+", metavar="PATH", help="held-out documents: Parquet files or directories")
    parser.add_argument("--train", nargs="+", metavar="PATH", help="training documents, for the baselines")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a window (default: n_positions)")
    parser.add_argument(
        "--after-eot",
        action="store_true",
        help="put <|endoftext|> before every document, for models trained on documents that see one another",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="chooses the samples (default: the run's seed, or 0)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of [evaluate]")
    parser.add_argument("--json", metavar="FILE", help="write the statistics here; - is standard output")


def main(args: argparse.Namespace) -> int:
    import json
    import sys

    from codeshell.engine.files import write_json
    from codeshell.errors import UserError
    from codeshell.evaluate.measure import measure
    from codeshell.evaluate.tasks import TASKS, get_task

    if args.task == "all":
        tasks = [task for task in map(get_task, TASKS) if not task.needs_run]
    else:
        tasks = [get_task(args.task)]
    outcome = measure(tasks, _subject(args))
    stats = outcome.statistics()
    if args.json == "-":
        json.dump(stats, sys.stdout, indent=2, sort_keys=True, allow_nan=False)
        print()
    else:
        for claim in stats["claims"]:
            print(claim)
        if args.json:
            write_json(args.json, stats)
    if outcome.not_finite:
        raise UserError(f"eval: {outcome.not_finite}; evaluate a model that is finite")
    return 0


def _subject(args: argparse.Namespace) -> Subject:
    """Find model, tokenizer, documents and settings, from a run, from the options, or from both."""
    from codeshell.engine.downloads import check_model_directory
    from codeshell.errors import UserError
    from codeshell.evaluate.corpus import Corpus, find_parquet, split_paths

    # What the arguments name is looked at before anything heavy is imported or read.
    run = Path(args.run) if args.run else None
    if run is not None and not run.is_dir():
        raise UserError(f"{args.run}: no such run directory; give one that `codeshell run` has made")
    if run is None and not (args.model and args.corpus):
        raise UserError("eval: nothing to evaluate; give a run directory, or -m MODEL and --corpus FILES")
    model_directory = Path(args.model) if args.model else Path(str(run)) / "model"
    check_model_directory(model_directory)
    if args.context is not None and args.context < 1:
        raise UserError(f"--context {args.context}: give 1 token or more")
    recipe = _recipe(run)
    seed = recipe.seed if args.seed is None else args.seed
    # Documents of the command line replace the run's; the run's training split is no baseline for them.
    held_out = Corpus(find_parquet(args.corpus) if args.corpus else split_paths(Path(str(run)), "test", seed=seed))
    if not len(held_out):
        where = ", ".join(args.corpus) if args.corpus else f"{run}/curated"
        raise UserError(f"{where}: no held-out documents; give some with --corpus")
    train = None
    if args.train:
        train = Corpus(find_parquet(args.train))
    elif run is not None and not args.corpus:
        train = Corpus(split_paths(run, "train", seed=seed))

    from codeshell.evaluate.subject import Subject, load_model, longest_context, phase_ends, start_of
    from codeshell.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(args.tokenizer or model_directory)
    model = load_model(model_directory)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{args.tokenizer or model_directory}: a tokenizer of {tokenizer.vocab_size} tokens, but the model has "
            f"{model.config.vocab_size} rows; give the model's own tokenizer"
        )
    if args.context is not None and args.context > model.config.n_positions:
        raise UserError(
            f"--context {args.context}: the model has {model.config.n_positions} positions; give that or fewer"
        )
    trained = model.config.n_positions if run is None else longest_context(recipe.train)
    return Subject(
        model,
        tokenizer,
        held_out,
        train,
        _settings(recipe.evaluate, args.set),
        seed=seed,
        context=args.context or trained,
        start="eot" if args.after_eot else "none" if run is None else start_of(recipe.train),
        phase_ends=[] if run is None or args.model else phase_ends(recipe.train, run),
    )


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
