"""`codeshell train`: the training stage alone, on a run's tokens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell.recipe import Recipe

HELP = "train on the tokens of a run, or resume where training stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell run recipes/demo.toml -o runs/demo --until tokens\n"
        "  codeshell train recipes/demo.toml -o runs/demo --set train.steps=200\n"
        "  torchrun --standalone --nproc-per-node 8 -m codeshell train recipes/codeshell-small.toml -o runs/small\n"
        "  codeshell train recipes/codeshell-7b.toml --plan --gpus 8 --memory 80GB\n"
        "SIGUSR1 saves a checkpoint after the current step. Ctrl-C and SIGTERM save one and end, with exit codes\n"
        "130 and 143; a second Ctrl-C ends at once. A model that is not finite is not written; the exit code is 2.\n"
        "Run the same command again to resume from the newest checkpoint."
    )
    parser.add_argument("recipe", metavar="RECIPE.toml", help="the recipe; its model, train and seed are used")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="the run's directory, with tokenizer/ and tokens/ (default: runs/NAME-OF-THE-RECIPE)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. train.steps=100"
    )
    parser.add_argument(
        "--plan", action="store_true", help="print the memory that each GPU needs, and train nothing; 2 if too little"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="with --plan: so many GPUs (default: this machine's)")
    parser.add_argument(
        "--memory", metavar="SIZE", help="with --plan: memory of a GPU, as 80GB (default: this machine's)"
    )


def main(args: argparse.Namespace) -> int:
    from codeshell import pipeline, recipe
    from codeshell.cli.run import output_directory
    from codeshell.errors import UserError
    from codeshell.train.launch import place

    directory = output_directory(args)
    if args.plan:
        from codeshell.cli.train_plan import show

        return show(recipe.load(args.recipe, args.set), directory, args.gpus, args.memory)
    if args.gpus is not None or args.memory is not None:
        raise UserError("--gpus and --memory go with --plan; torchrun says on how many GPUs to train")
    if place().world == 1:
        pipeline.train(_settings(args, directory), directory)
        return 0
    from codeshell.train.session import session

    # The ranks meet first: then the error of one is that of all, and none waits for one that never came.
    with session(directory) as group:
        settings = group.agree(lambda: _settings(args, directory))
        group.same(_facts(settings))
        group.arrange(settings.train.replicate)
        pipeline.train(settings, directory, group)
    return 0


def _settings(args: argparse.Namespace, directory: Path) -> Recipe:
    """The recipe, for a directory that has tokens."""
    from codeshell import recipe
    from codeshell.errors import UserError

    settings = recipe.load(args.recipe, args.set)
    if not (directory / "tokens").is_dir():
        raise UserError(
            f"{directory / 'tokens'}: no such directory, so there is nothing to train on; "
            f"`codeshell run {args.recipe} -o {directory} --until tokens` makes it"
        )
    return settings


def _facts(settings: Recipe) -> dict[str, Any]:
    """What every rank must have alike before they do anything together."""
    import torch

    import codeshell
    from codeshell.recipe import flatten, to_tree

    tree = to_tree(settings)
    train = flatten({"seed": tree["seed"], "model": tree["model"], "train": tree["train"]})
    return {"codeshell": codeshell.__version__, "torch": torch.__version__} | train
