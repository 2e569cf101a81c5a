"""`codeshell train`: the training stage alone, on a run's tokens."""

from __future__ import annotations

import argparse

HELP = "train on the tokens of a run, or resume where training stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell run recipes/demo.toml -o runs/demo --until tokens\n"
        "  codeshell train recipes/demo.toml -o runs/demo --set train.steps=200\n"
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


def main(args: argparse.Namespace) -> int:
    from codeshell import pipeline, recipe
    from codeshell.cli.run import output_directory
    from codeshell.errors import UserError

    settings = recipe.load(args.recipe, args.set)
    directory = output_directory(args)
    if not (directory / "tokens").is_dir():
        raise UserError(
            f"{directory / 'tokens'}: no such directory, so there is nothing to train on; "
            f"`codeshell run {args.recipe} -o {directory} --until tokens` makes it"
        )
    pipeline.train(settings, directory)
    return 0
