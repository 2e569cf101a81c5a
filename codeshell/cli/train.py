"""`codeshell train`: the training stage alone, on a run's tokens."""

from __future__ import annotations

import argparse

HELP = "train on the tokens of a run, or resume where training stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell run recipes/demo.toml -o runs/demo --until tokens\n"
        "  codeshell train recipes/demo.toml -o runs/demo --set train.steps=200\n"
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

    settings = recipe.load(args.recipe, args.set)
    directory = output_directory(args)
    if args.plan:
        from codeshell.cli.train_plan import show

        return show(settings, directory, args.gpus, args.memory)
    if args.gpus is not None or args.memory is not None:
        raise UserError("--gpus and --memory go with --plan; torchrun says on how many GPUs to train")
    if not (directory / "tokens").is_dir():
        raise UserError(
            f"{directory / 'tokens'}: no such directory, so there is nothing to train on; "
            f"`codeshell run {args.recipe} -o {directory} --until tokens` makes it"
        )
    pipeline.train(settings, directory)
    return 0
